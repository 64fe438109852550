"""Training: minibatches, the loop, evaluation over whole splits, and BatchNorm's calibration.

The loop is a generator, so that its caller decides what to print, when to evaluate and when to
stop:

    for step, loss in loop(model, minibatches(x, y, 32, generator), optimizer, schedule, steps): ...
"""

import math
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from typing import Any

import numpy as np

from npnet.data import Examples
from npnet.layers import BatchNorm, Layer, Sequential
from npnet.model import Config, Model
from npnet.optim import SGD, Optimizer, Schedule, clip_grad_norm, step_decay
from npnet.random import TorchGenerator
from npnet.ranks import ALONE, Alone, add_up, connect, share_loss_and_grad, share_update

Batches = Iterator[tuple[np.ndarray, np.ndarray]]
Watch = Callable[[int, int], object]
Moments = tuple[int, np.ndarray, np.ndarray]


class Diverged(FloatingPointError):
    """A loss or a parameter that is no longer finite."""


def minibatches(x: Examples, y: Examples, batch_size: int, generator: TorchGenerator) -> Batches:
    """Endless minibatches with replacement, each of batch_size indices that generator.randint draws
    when the batch is asked for. Examples of up to a million numbers become an array once."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    x, y = (np.asarray(a) if math.prod(a.shape) <= 1 << 20 else a for a in (x, y))
    while True:
        ix = generator.randint(0, len(x), (batch_size,))
        yield x.take(ix, 0), y.take(ix, 0)


def loop(
    model: Model,
    batches: Batches,
    optimizer: Optimizer,
    schedule: Schedule,
    steps: int,
    start: int = 0,
    max_norm: float | None = None,
    accumulate: int = 1,
    ranks: Alone = ALONE,
) -> Iterator[tuple[int, np.floating]]:
    """Steps start .. steps - 1: loss and gradients of the next batch, shared among the ranks, then
    one update at the learning rate schedule(step).

    With max_norm the gradients are scaled down to at most that norm first. With accumulate a step
    takes the mean over that many batches, of the loss and of the gradients.

    Yields (step, loss) after each update; the loss is the one before it. A loss that is not finite
    is Diverged, before the update.
    """
    connect(model, ranks)
    share_update(model, optimizer, ranks)

    def update(step: int) -> np.floating:
        rate = schedule(step)
        loss = _loss_and_grad(model, batches, accumulate, ranks)
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {step}, learning rate {rate:g}")
        if max_norm is not None:
            clip_grad_norm(optimizer.grad, max_norm, optimizer.total)
        optimizer.step(rate)
        ranks.meet()
        return loss

    # NumPy's error state is part of a context, and entering that costs nothing beside np.errstate.
    quiet = copy_context()
    quiet.run(np.seterr, all="ignore")
    for step in range(start, steps):
        yield step, quiet.run(update, step)


def _loss_and_grad(model: Model, batches: Batches, n: int, ranks: Alone) -> np.floating:
    """Mean loss of the next n batches, whose mean gradient is left in model.grad; the ranks add up
    once."""
    if n == 1:
        return add_up(model, share_loss_and_grad(model, *next(batches), ranks), ranks)
    loss: Any = 0
    grad: Any = 0
    for _ in range(n):
        loss = loss + share_loss_and_grad(model, *next(batches), ranks, dloss=1 / n) / n
        grad = grad + model.grad
    model.grad[...] = grad
    return add_up(model, loss, ranks)


def fit(
    model: Model,
    x: Examples,
    y: Examples,
    generator: TorchGenerator,
    steps: int,
    batch_size: int = 32,
    lr: float = 0.1,
) -> np.ndarray:
    """Train by SGD as the notebook does -> the loss of each step.

    The learning rate is lr for the first half of the steps and a tenth of it for the rest;
    `calibrate` follows.
    """
    batches = minibatches(x, y, batch_size, generator)
    optimizer, schedule = SGD(model.data, model.grad), step_decay(lr, steps // 2)
    losses = [loss for _, loss in loop(model, batches, optimizer, schedule, steps)]
    calibrate(model, x)
    return np.array(losses)


def evaluate(
    model: Model,
    x: Examples,
    y: Examples,
    chunk: int = 4096,
    watch: Watch | None = None,
    ranks: Alone = ALONE,
) -> float:
    """Mean loss in nats over every target of (x, y) that is not -1, with running statistics; chunk
    rows at a time, the ranks taking turns. watch(done, total) is told how far it is."""
    chunk = rows_at_once(x, model.config, chunk)

    def part(start: int) -> tuple[int, float]:
        targets = y[start : start + chunk]
        n = int(np.count_nonzero(targets != -1))
        total = n * float(model.loss(x[start : start + chunk], targets)) if n else 0.0
        if watch:
            watch(start, len(x))
        return n, total

    parts = ranks.each(part, range(0, len(x), chunk))
    total, count = 0.0, 0
    for n, part_total in parts:
        total += part_total
        count += n
    if count == 0:
        raise ValueError("evaluate: there is no target to average over")
    return total / count


def calibrate(
    model: Model, x: Examples, chunk: int = 4096, watch: Watch | None = None, ranks: Alone = ALONE
) -> None:
    """Set the statistics of each BatchNorm that is to be calibrated from all of x, (N, block_size),
    first layer first.

    Memory stays bounded: chunk rows at a time go through the layers below, the ranks taking turns.
    watch(done, total) is told how far each layer is.
    """

    def input_at(start: int) -> np.ndarray:
        if watch:
            watch(start, len(x))
        return x[start : start + chunk]

    _calibrate(model.network, input_at, range(0, len(x), chunk), ranks)


def _calibrate(
    layer: Layer, input_at: Callable[[int], np.ndarray], starts: range, ranks: Alone
) -> None:
    """The same for one layer and what it is made of; input_at(start) gives a chunk of its input."""
    if isinstance(layer, BatchNorm) and layer.running == "calibrated":
        parts = ranks.each(lambda start: _moments(input_at(start)), starts)
        layer.running_mean[...], layer.running_var[...] = _joined(parts)
    elif isinstance(layer, Sequential):
        for child in layer.layers.values():
            _calibrate(child, input_at, starts, ranks)
            input_at = partial(_output_at, child, input_at)


def _output_at(layer: Layer, input_at: Callable[[int], np.ndarray], start: int) -> np.ndarray:
    return layer.forward(input_at(start))[0]


def _moments(x: np.ndarray) -> Moments:
    """How many rows, their mean, and the sum of the squared distances from it, in float64."""
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    mean = rows.mean(0)
    return len(rows), mean, ((rows - mean) ** 2).sum(0)


def _joined(parts: list[Moments]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance of all rows, the chunks joined as in Chan et al. (1979)."""
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for n, chunk_mean, chunk_squares in parts:
        delta = chunk_mean - mean
        squares = squares + chunk_squares
        squares += delta**2 * (count * n / (count + n))
        mean = mean + delta * (n / (count + n))
        count += n
    if count < 2:
        raise ValueError(f"calibrate: {count} rows have no variance; at least 2 are needed")
    return mean, squares / (count - 1)


def count_bigrams(model: Model, x: Examples, y: Examples) -> None:
    """Fill a bigram model by counting: with N[a, b] how often b follows a, the table becomes the
    log of (N + 1) / (row sum of N + 1).

    That is the best table for the smoothed counts, which the gradient would only approach. x and y
    are what a model is trained on.
    """
    table = model.parameters()["logits.weight"]
    counts = np.ones(table.shape)
    chunk = rows_at_once(x, model.config)
    for start in range(0, len(x), chunk):
        tokens, targets = x[start : start + chunk], y[start : start + chunk]
        kept = targets != -1
        np.add.at(counts, (tokens[kept], targets[kept]), 1)
    table[...] = np.log(counts / counts.sum(1, keepdims=True))


def rows_at_once(x: Examples, config: Config, chunk: int = 4096) -> int:
    """How many rows of x, (N, T) or a window for each, are evaluated together: chunk, or fewer
    where T x T scores of each, or T rows of the widest layer, would take too much memory."""
    T, widest = x.shape[1], max(config.vocab_size, config.n_embd2, 4 * config.n_embd)
    return max(1, min(chunk, (1 << 22) // T**2, (1 << 26) // (T * widest)))
