"""Operations along time without parameters.

A batch of sequences of different lengths is packed, as torch's PackedSequence has it: N rows, first
those of step 0 for every sequence, longest sequence first, then those of step 1 for the sequences
that have one, and so on. sizes[t] sequences are alive at step t, the first sizes[t] of those at
t - 1.

Sequences that begin alike may have one row in common at step 0: sizes[0] is 1 then, and each of the
sizes[1] rows that follow continues it.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from npnet.ops.checks import floating, upstream
from npnet.ops.constants import sum_rows


def causal_mean(x: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, tuple]:
    """y_t = (x_0 + ... + x_t) / (t + 1): makemore's bag of words.

    x (N, C), packed -> y (N, C). A running sum, divided by its length.
    """
    steps = steps_of("causal_mean", x, sizes)
    count = np.repeat(np.arange(1, len(sizes) + 1, dtype=x.dtype), sizes)[:, None]
    y = x.copy()
    for last, now in pairwise([y[step] for step in steps]):
        now += continued(last, len(now))
    y /= count
    return y, (steps, count, x.shape)


def causal_mean_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx_t = sum over s >= t of dy_s / (s + 1).

    Each x_t is in its own and every later mean, with the weight that it has there: a running sum
    again, from the end.
    """
    steps, count, shape = cache
    dx = upstream("causal_mean", dy, shape, count.dtype) / count
    for now, last in pairwise([dx[step] for step in reversed(steps)]):
        hand_down(now, last)
    return dx


def flatten_consecutive(x: np.ndarray, n: int) -> tuple[np.ndarray, tuple]:
    """Join every n neighbours in time: (..., T, C) -> (..., T/n, nC), and (..., nC) when T/n is 1.

    A T that n does not divide is a ValueError. The WaveNet of the lectures merges two at a time
    (van den Oord et al., 2016).
    """
    floating("flatten_consecutive", x, axes=2)
    *lead, T, C = x.shape
    if n < 1 or T % n:
        raise ValueError(
            f"flatten_consecutive: n must divide the length, got n = {n} and length {T}"
        )
    joined = (n * C,) if n == T else (T // n, n * C)
    y = x.reshape(*lead, *joined).copy()
    return y, (x.shape, y.shape, x.dtype)


def flatten_consecutive_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx has dy's numbers in x's shape: nothing was computed, so nothing but the places change."""
    shape, y_shape, dtype = cache
    dy = upstream("flatten_consecutive", dy, y_shape, dtype)
    return dy.reshape(shape).copy()


def steps_of(op: str, x: np.ndarray, sizes: Sequence[int]) -> list[slice]:
    """The rows of each step; ValueError, unless x holds the (N, C) floating numbers of a packed
    batch with these sizes."""
    floating(op, x, axes=2)
    sizes, ends = list(sizes), list(accumulate(sizes))
    after = sizes[1:] if sizes[:1] == [1] else sizes
    falling = after == sorted(after, reverse=True) and (not after or after[-1] >= 1)
    if x.ndim != 2 or len(x) != sum(sizes) or not falling:
        raise ValueError(
            f"{op}: expected a packed batch with sizes that never grow, but after a first of 1, "
            f"and add up to the rows, got {x.shape} and {sizes}"
        )
    return list(map(slice, [0, *ends], ends))


def continued(before: np.ndarray, n: int) -> np.ndarray:
    """What each of n rows continues of the step before: its first n rows, or its only one."""
    return before[:n] if n <= len(before) else before.repeat(n, axis=0)


def hand_down(d: np.ndarray, dbefore: np.ndarray) -> None:
    """Add the gradient d of what `continued` gave to dbefore."""
    if len(d) > len(dbefore):
        dbefore += sum_rows(d)
    else:
        goes_on = dbefore[: len(d)]
        goes_on += d
