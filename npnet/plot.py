"""Pictures of a run: its losses, its embedding, and what flows through it for a few words.

Every function takes what it draws and returns a matplotlib Figure; matplotlib is imported when the
first is made.
"""

import logging
import math
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from npnet import ops
from npnet.checkpoint import write_whole
from npnet.data import LARGEST_FILE, Vocabulary, build_dataset, build_sequences, open_regular
from npnet.folder import COLUMNS
from npnet.layers import CausalAttention, Embedding
from npnet.model import Model

BLUE, ORANGE, GREEN, GREY = "#2266aa", "#d95f02", "#1b8a5a", "#9aa5b1"
Data = list[str] | np.ndarray  # words, or a text as ids
ROWS = 32  # examples in the map of dlogits, as in the lecture
LARGEST_CELL = 1e40  # of a history; no float32 is larger


def figure_class() -> Any:
    """matplotlib's Figure; a ValueError says how to install it. What it logs below errors, such as
    that it looks for fonts, is not heard."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError('pictures need matplotlib: pip install "npnet-trainer[plot]"') from error
    return Figure


def save(figure: Any, path: str | Path) -> None:
    """The figure as a file of the kind that its name ends in, and a line that says so."""
    path = Path(path)
    with warnings.catch_warnings():  # a character that the font lacks is drawn as a box
        warnings.simplefilter("ignore", UserWarning)
        write_whole(path, lambda file: figure.savefig(file, format=path.suffix[1:], dpi=150))
    print(f"saved to {path}")


def colors(n: int) -> np.ndarray:
    """n colours in order, from blue over green to red."""
    from matplotlib import colormaps

    return colormaps["turbo"](np.linspace(0.05, 0.95, n))


def apart(n: int) -> np.ndarray:
    """n colours that can be told apart, for what has no order."""
    from matplotlib import colormaps

    return colormaps["tab10"](range(n)) if n <= 10 else colors(n)


def read_history(path: str | Path) -> dict[str, np.ndarray]:
    """history.csv as column -> array, NaN where a cell is empty; a run that has just begun has no
    lines."""
    names = COLUMNS.split(",")
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_size > LARGEST_FILE:
                raise ValueError(f"more than {LARGEST_FILE:,} bytes")
            cells = np.fromiter(_cells(file, names), float).reshape(-1, len(names))
        columns = dict(zip(names, cells.T, strict=True))
        if not np.isfinite(columns["step"]).all() or (np.abs(cells) > LARGEST_CELL).any():
            raise ValueError("a number that no run writes")
    except ValueError as error:
        raise ValueError(f"{path}: not the history of a run: {error}") from error
    return columns


def _cells(file, names):
    if file.readline().rstrip(b"\r\n") != COLUMNS.encode():
        raise ValueError(f"expected {COLUMNS} in line 1")
    for number, line in enumerate(file, start=2):
        cells = line.rstrip(b"\r\n").split(b",")
        if len(cells) != len(names):
            raise ValueError(f"expected {COLUMNS} in line {number}")
        yield from (float(cell or b"nan") for cell in cells)


def smoothed(losses: np.ndarray) -> np.ndarray:
    """A running mean of about a thirtieth of the curve, without the bias of its start."""
    decay = 1 - 1 / max(1.0, len(losses) / 30)
    mean, weight, out = 0.0, 0.0, []
    for loss in losses:
        mean, weight = decay * mean + (1 - decay) * loss, decay * weight + (1 - decay)
        out.append(mean / weight)
    return np.array(out)


def loss_curves(history: dict[str, np.ndarray]) -> Any:
    """The losses of minibatches, their running mean, and every evaluation."""
    figure, axes = _loss_axes()
    step, loss = history["step"], history["batch_loss"]
    seen = np.isfinite(loss)
    if seen.any():
        axes.plot(step[seen], loss[seen], color=GREY, linewidth=0.5, alpha=0.6, label="minibatch")
        axes.plot(step[seen], smoothed(loss[seen]), color=BLUE, label="minibatch, running mean")
    for name, color in (("train", BLUE), ("val", ORANGE), ("test", GREEN)):
        evaluated = history[f"{name}_loss"]
        there = np.isfinite(evaluated)
        if there.any():
            axes.plot(
                step[there], evaluated[there], color=color, marker="o", markersize=4,
                linestyle="--", linewidth=1, label=f"{name} set",
            )  # fmt: skip
    axes.legend(frameon=False)
    return figure


def comparison(histories: dict[str, dict[str, np.ndarray]]) -> Any:
    """Name -> history: the running mean of the minibatches' loss, and where there is one the loss
    on what was held out."""
    figure, axes = _loss_axes()
    for (name, history), color in zip(histories.items(), apart(len(histories)), strict=True):
        seen = np.isfinite(history["batch_loss"])
        held_out = np.where(
            np.isfinite(history["val_loss"]), history["val_loss"], history["test_loss"]
        )
        there = np.isfinite(held_out)
        axes.plot(
            history["step"][seen], smoothed(history["batch_loss"][seen]),
            color=color, linewidth=1.2, label=name,
        )  # fmt: skip
        axes.plot(history["step"][there], held_out[there], "o--", color=color, markersize=4)
    axes.plot([], [], color="black", label="minibatches, running mean")
    axes.plot([], [], "o--", color="black", markersize=4, label="held out")
    axes.legend(frameon=False)
    return figure


def embedding(model: Model, vocabulary: Vocabulary) -> Any:
    """Each character at its vector; more than two channels are projected on the two directions in
    which they vary most."""
    layers = [layer for _, layer in model.network.walk() if isinstance(layer, Embedding)]
    vectors = layers[0].weight.data[: len(vocabulary)].astype(np.float64)
    vectors = vectors - vectors.mean(axis=0)
    labels = ["channel 0", "channel 1"]
    if vectors.shape[1] != 2:
        left, size, _ = np.linalg.svd(vectors, full_matrices=False)
        share = size**2 / max((size**2).sum(), np.finfo(float).tiny)
        places = np.zeros((len(vectors), 2))
        places[:, : min(2, len(size))] = (left * size)[:, :2]
        labels = [
            f"principal component {k + 1} ({share[k]:.0%} of the variance)"
            if k < len(share)
            else "nothing more"
            for k in range(2)
        ]
        vectors = places
    figure, axes = _axes(7.5, 7, f"Embedding of the {len(vocabulary)} characters", *labels)
    vowels = [label in "aeiouy" for label in _labels(vocabulary)]
    axes.scatter(*vectors.T, s=260, c=np.where(vowels, ORANGE, BLUE), alpha=0.25, linewidths=0)
    for label, place in zip(_labels(vocabulary), vectors, strict=True):
        axes.text(*place, label, ha="center", va="center", fontsize=11, parse_math=False)
    if any(vowels):
        axes.scatter([], [], s=80, c=ORANGE, alpha=0.4, linewidths=0, label="a e i o u y")
        axes.legend(frameon=False)
    return figure


def dlogits(model: Model, vocabulary: Vocabulary, data: Data) -> Any:
    """The lecture's map: the gradient of the loss with respect to the logits of a few examples. A
    step against it pulls up the character that comes next and pushes down every other one in
    proportion to its probability."""
    x, y = _examples(model, vocabulary, data)
    V = len(vocabulary)
    logits = model.logits(x).reshape(-1, V)
    targets, contexts = y.reshape(-1), _contexts(model, x)
    counted = np.flatnonzero(targets != -1)[:ROWS]
    _, cache = ops.cross_entropy(logits[counted], targets[counted])
    gradient = ops.cross_entropy_backward(1.0, cache) * len(counted)
    figure, axes = _axes(
        min(30.0, max(6.0, 0.26 * V + 2.5)), 0.2 * len(counted) + 2,
        "Gradient of the logits", "logit of the character", "context and what follows",
    )  # fmt: skip
    labels = _labels(vocabulary)
    rows = [
        f"{''.join(labels[c] for c in contexts[i])} {labels[targets[i]]}" for i in counted.tolist()
    ]
    image = axes.imshow(gradient, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
    axes.set_xticks(range(V), labels, parse_math=False, fontsize=9 if V < 60 else 5)
    axes.set_yticks(range(len(rows)), rows, parse_math=False, fontsize=8, family="monospace")
    axes.grid(False)
    figure.colorbar(image, label="gradient (nats per unit), times the examples")
    return figure


def layers(model: Model, vocabulary: Vocabulary, data: Data) -> Any:
    """How the activations of every layer, and their gradients, are spread."""
    x, y = _examples(model, vocabulary, data, most=1000)
    seen = {name: s for name, s in record(model, x, y).items() if s[0].dtype.kind == "f"}
    names = list(seen)
    height = max(2.6, 0.32 * len(names) + 1.8)
    figure = figure_class()(figsize=(11, height), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for row, (out, gradient) in enumerate(seen.values()):
        _spread(left, row, out, BLUE)
        sizes = np.zeros(0) if gradient is None else np.abs(gradient[gradient != 0])
        _spread(right, row, sizes, ORANGE)
    left.set(title="Activations", xlabel="value: median, middle half, 1 % to 99 %")
    right.set(
        title="Their gradients, without those that are 0", xscale="log",
        xlabel="size (nats per unit): median, middle half, 1 % to 99 %",
    )  # fmt: skip
    for axes in (left, right):
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_yticks(range(len(names)), names, fontsize=8)
    right.tick_params(which="minor", labelsize=6)  # labelled where they span less than a decade
    left.set(ylabel="layer, input first", ylim=(len(names) - 0.5, -0.5))
    return figure


def _spread(axes, row, values, color):
    if values.size:
        low, first, middle, third, high = np.percentile(values, [1, 25, 50, 75, 99])
        axes.plot([low, high], [row, row], color=color, linewidth=1)
        axes.plot([first, third], [row, row], color=color, linewidth=5, alpha=0.5)
        axes.plot([middle], [row], "o", color=color, markersize=4)


def record(
    model: Model, x: np.ndarray, y: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Name of each layer -> (its output, the output's gradient or None), in order, of one training
    pass. Every gradient is left in model.grad."""
    found: dict[str, tuple[np.ndarray, np.ndarray | None]] = {}
    innermost = [
        (prefix.rstrip("."), layer)
        for prefix, layer in model.network.walk()
        if not layer.children()
    ]

    def watched(name, layer):
        forward, backward = layer.forward, layer.backward

        def watch_forward(x, *more):
            out, cache = forward(x, *more)
            found[name] = (out, None)
            return out, cache

        def watch_backward(dy, cache):
            found[name] = (found[name][0], dy)
            return backward(dy, cache)

        layer.forward, layer.backward = watch_forward, watch_backward

    for name, layer in innermost:
        watched(name, layer)
    try:
        model.loss_and_grad(x, y, apart=True)  # every sequence counts
    finally:
        for _, layer in innermost:
            del layer.forward, layer.backward
    return found


def attention(model: Model, vocabulary: Vocabulary, word: str) -> Any:
    """For each layer and head how much each position of the word looks at those before it."""
    heads = attention_layers(model)
    if not heads:
        raise ValueError(f"a {model.kind} has no attention to draw")
    ids = vocabulary.encode(vocabulary.boundary + word)[: model.config.block_size]
    if not len(ids):
        raise ValueError("an empty text has no attention to draw")
    inputs = []

    def watched(layer):
        forward = layer.forward

        def watch(x, *more):
            inputs.append(x)
            return forward(x, *more)

        layer.forward = watch

    for layer in heads:
        watched(layer)
    try:
        model.logits(ids[None])
    finally:
        for layer in heads:
            del layer.forward
    labels = [_labels(vocabulary)[i] for i in ids]
    T, n_head = len(ids), heads[0].n_head
    side = max(1.6, 0.22 * T + 0.6)
    figure = figure_class()(
        figsize=(side * n_head + 1.6, side * len(heads) + 1.2), layout="constrained"
    )
    grid = figure.subplots(len(heads), n_head, squeeze=False, sharex=True, sharey=True)
    for depth, (layer, qkv, row) in enumerate(zip(heads, inputs, grid, strict=True)):
        for head, (p, axes) in enumerate(zip(_attention(qkv, layer), row, strict=True)):
            seen = np.where(np.tri(T) != 0, p, np.nan)
            image = axes.imshow(seen, cmap="viridis", vmin=0, vmax=1)
            axes.set_title(f"layer {depth}, head {head}", fontsize=9)
            axes.set_xticks(range(T), labels, parse_math=False, fontsize=8)
            axes.set_yticks(range(T), labels, parse_math=False, fontsize=8)
    figure.suptitle(f"Attention in {''.join(labels)}", parse_math=False)
    figure.supxlabel("character that is looked at")
    figure.supylabel("character at the position")
    figure.colorbar(image, ax=grid, label="weight", shrink=0.6)
    return figure


def attention_layers(model: Model) -> list[CausalAttention]:
    return [layer for _, layer in model.network.walk() if isinstance(layer, CausalAttention)]


def _attention(qkv, layer):
    """(T, 3C) -> (n_head, T, T), each row the weights of one position."""
    (T, C3), n_head = qkv.shape, layer.n_head
    q, k, _ = qkv.reshape(T, 3, n_head, C3 // (3 * n_head)).transpose(1, 2, 0, 3)
    scale = 1 / math.sqrt(q.shape[-1]) if layer.scale is None else layer.scale
    scores = q @ k.swapaxes(-1, -2) * scale
    return ops.softmax(np.where(np.tri(T) != 0, scores, -np.inf).astype(qkv.dtype))[0]


def _examples(model, vocabulary, data, most=ROWS):
    """About `most` examples of the model's kind, from the first words or the beginning of a
    text."""
    if isinstance(data, np.ndarray):
        return _examples_of_text(model, data, most)
    words = data[:most]
    if model.windowed:
        x, y = build_dataset(words, vocabulary, model.config.block_size)
        return x[:most], y[:most]
    x, y = build_sequences(words, vocabulary, model.config.block_size)
    rows = max(2, most // 4)
    return x[:rows], y[:rows]


def _examples_of_text(model, ids, most):
    T = model.config.block_size
    if model.windowed:
        windows = sliding_window_view(ids, T + 1)[:most].astype(np.int64)
        return windows[:, :-1], windows[:, -1]
    T = min(T, max(1, most // 2))
    windows = sliding_window_view(ids, T + 1)[::T][: max(2, most // T)].astype(np.int64)
    return windows[:, :-1], windows[:, 1:]


def _contexts(model, x):
    """What the model has seen at each place of x, its last eight ids at most."""
    if model.windowed:
        return [row[-8:] for row in x.tolist()]
    return [row[max(0, t - 7) : t + 1] for row in x.tolist() for t in range(len(row))]


def _labels(vocabulary):
    """A short printable label for each number."""
    return [
        c if c.isprintable() and c != " " else c.encode("unicode_escape").decode().replace(" ", "␣")
        for c in vocabulary.itos.values()
    ]


def _loss_axes():
    figure, axes = _axes(8, 4.8, "Loss while training", "step", "loss (nats per character)")
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    return figure, axes


def _axes(width, height, title, xlabel, ylabel):
    figure = figure_class()(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    return figure, axes
