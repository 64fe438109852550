"""Softmax and cross-entropy fused: together both passes are simpler, and safer, than apart."""

import math

import numpy as np

from npnet.ops.checks import as_rows, floating, within
from npnet.ops.constants import one_hot, ones, starts

# A sum of exponentials from e^-16 to e^16 has a logarithm that is as exact as the loss has to be:
# float32 rounds it by 5e-7 at most.
_SAFE_LOG_SUM = 16


def cross_entropy(
    logits: np.ndarray,
    targets: np.ndarray,
    ignore_index: int = -1,
    n: int | None = None,
    rows: np.ndarray | None = None,
) -> tuple[np.floating, tuple]:
    """Mean negative log-likelihood in nats:
        loss = mean over n of (log sum_v exp(z[n, v]) - z[n, targets[n]]).

    logits z (..., V), targets (...) integers in [0, V), or `ignore_index` where a position does not
    count -> loss, a scalar of the logits' dtype. The mean is over the positions that count; if
    there is none, or a target is out of range, ValueError. The row maximum is subtracted before
    exp, which changes nothing in exact arithmetic and cannot overflow.

    n is given where the positions are a share of a batch in which n count: the losses of all shares
    then add up to the mean, and so do their gradients. A share may have none that counts.

    rows is given where positions have logits in common: logits (R, V), targets (N,) and rows (N,),
    integers in [0, R), with z[rows[n]] in place of z[n].
    """
    floating("cross_entropy", logits, axes=1)
    shape = logits.shape
    scored = shape[:-1] if rows is None else rows.shape
    if targets.shape != scored or (rows is not None and (len(shape), rows.ndim) != (2, 1)):
        raise ValueError(
            f"cross_entropy: logits {shape} need targets {scored}, got {targets.shape}"
        )
    z, V = as_rows(logits), shape[-1]
    if rows is not None and not within(rows, len(z)):
        raise ValueError(f"cross_entropy: rows must be integers from 0 to {len(z) - 1}")
    targets = targets.ravel()
    if 0 <= ignore_index < V or not within(targets, V):
        counted = (targets != ignore_index).nonzero()[0]
        targets = targets[counted]
        rows = counted if rows is None else rows[counted]
        if not within(targets, V):
            raise ValueError(
                f"cross_entropy: targets must be integers from 0 to {V - 1}, "
                f"or {ignore_index} to be ignored"
            )
    n = len(targets) if n is None else n
    if n == 0:
        raise ValueError(
            f"cross_entropy: every target is {ignore_index}, so there is nothing to average"
        )
    row = starts(len(z), V)
    z, e, total = _exponentials(z, row, rows)
    nll = np.log(total)
    if rows is None:
        places = row + targets
    else:
        places = row.take(rows) + targets
        nll = nll.take(rows)
    nll -= z.take(places)
    loss = np.add.reduce(nll) / n
    if loss.dtype.kind == "f" and loss < 0:  # rounded from nearly 0
        loss = loss.dtype.type(0)
    return loss, (e, total, targets, None if rows is None else places, n, shape)


def cross_entropy_backward(dloss: float, cache: tuple) -> np.ndarray:
    """dlogits (..., V) = dloss / n (p - onehot(targets)), and 0 at ignored positions; dloss is a
    number.

    For one position loss = log sum_v exp(z_v) - z_t. The first term's slope in z_v is
    exp(z_v) / sum exp = p_v, the second's is -1 at v = t: what the model believed minus what was
    true. Each row adds up to 0. A row that c positions have in common gets the sum over them,
    c p - (how often v is the target); one of no position, c = 0, has no gradient.
    """
    e, total, targets, places, n, shape = cache
    scale = np.array(dloss / n, e.dtype)
    if scale.ndim:
        raise ValueError(f"cross_entropy_backward: dloss must be a number, got {np.shape(dloss)}")
    V = e.shape[1]
    if places is None:
        dlogits = e / total[:, None]  # p
        dlogits -= one_hot(targets, V, e.dtype)
    else:
        count = np.bincount(places, minlength=e.size).astype(e.dtype).reshape(e.shape)
        share = count.dot(ones(V, e.dtype))
        share /= total
        dlogits = e * share[:, None]  # c p
        dlogits -= count
    dlogits *= scale
    return dlogits if len(shape) == 2 else dlogits.reshape(shape)


def _exponentials(
    z: np.ndarray, row: np.ndarray, counted: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """z (N, V), shifted where it has to be, its exponentials and their sums (N,). The shift by the
    row maximum is the most expensive part, and moderate logits need none. Only the rows `counted`
    are asked for, or all: of the others, which may hold infinity or NaN, the results are finite."""
    sum_columns = ones(z.shape[1], z.dtype)
    wide = z.itemsize > 2  # exponentials of float16 are far from safe
    if wide and z.size and z.real.item(z.argmax()) <= _SAFE_LOG_SUM:
        e = np.exp(z)
        total = e.dot(sum_columns)
        if total.real.item(total.argmin()) >= math.exp(-_SAFE_LOG_SUM):
            return z, e, total
    # In rows as short as these the largest is found sooner by argmax than by max.
    largest = z.take(row + z.argmax(axis=1))
    if counted is not None and not np.isfinite(largest).all():
        others = np.delete(np.arange(len(z)), counted)
        z = z.copy()
        z[others] = largest[others] = 0
    z = z - largest[:, None]
    e = np.exp(z)
    return z, e, e.dot(sum_columns)
