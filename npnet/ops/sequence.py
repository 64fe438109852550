"""Operations along time without parameters.

A batch of sequences of different lengths is packed, as torch's PackedSequence has it: N rows, first
those of step 0 for every sequence, longest sequence first, then those of step 1 for the sequences
that have one, and so on. sizes[t] sequences are alive at step t, and their rows at t - 1 are simply
the first sizes[t] of that step.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from npnet.ops.checks import floating, upstream


def causal_mean(x: np.ndarray, sizes: Sequence[int]) -> tuple[np.ndarray, tuple]:
    """y_t = (x_0 + ... + x_t) / (t + 1): makemore's bag of words.

    x (N, C), packed -> y (N, C). A running sum, divided by its length.
    """
    packed("causal_mean", x, sizes)
    y, pairs, count = x.copy(), steps(sizes), _counts(sizes, x.dtype)
    for before, now in pairs:
        y[now] += y[before]
    y /= count
    return y, (pairs, count, x.shape)


def causal_mean_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx_t = sum over s >= t of dy_s / (s + 1).

    Each x_t is in its own and every later mean, with the weight that it has there: a running sum
    again, from the end.
    """
    pairs, count, shape = cache
    dx = upstream("causal_mean", dy, shape, count.dtype) / count
    for before, now in reversed(pairs):
        dx[before] += dx[now]
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


def steps(sizes: Sequence[int]) -> list[tuple[slice, slice]]:
    """For each step but the first the rows before it of the sequences that are still alive, and its
    own."""
    found, before = [], 0
    for last, size in pairwise(sizes):
        now = before + last
        found.append((slice(before, before + size), slice(now, now + size)))
        before = now
    return found


def packed(op: str, x: np.ndarray, sizes: Sequence[int]) -> None:
    """ValueError, unless x holds the (N, C) floating numbers of a packed batch with these sizes."""
    floating(op, x, axes=2)
    falling = all(1 <= size <= last for last, size in pairwise([*sizes[:1], *sizes]))
    if x.ndim != 2 or len(x) != sum(sizes) or not falling:
        raise ValueError(
            f"{op}: expected a packed batch with sizes that never grow and add up to the rows, "
            f"got {x.shape} and {list(sizes)}"
        )


def _counts(sizes: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """How many positions there are up to each row, (N, 1)."""
    return np.repeat(np.arange(1, len(sizes) + 1, dtype=dtype), sizes)[:, None]
