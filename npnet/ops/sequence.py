"""Operations along time without parameters: x (..., T, C)."""

import numpy as np


def causal_mean(x):
    """y_t = (x_0 + ... + x_t) / (t + 1): makemore's bag of words.

    x (..., T, C) -> y (..., T, C). A product with the lower triangle of ones, each row divided by
    its length.
    """
    a = _averages(x)
    return a @ x, (a,)


def causal_mean_backward(dy, cache):
    """dx_t = sum over s >= t of dy_s / (s + 1).

    y = a @ x with a constant a, so dx = a^T @ dy: what lies before flows into every later mean, by
    its share.
    """
    (a,) = cache
    return a.T @ dy


def flatten_consecutive(x, n):
    """Join every n neighbours in time: (..., T, C) -> (..., T/n, nC), and (..., nC) when T/n is 1.

    A T that n does not divide is a ValueError. The WaveNet of the lectures merges two at a time
    (van den Oord et al., 2016).
    """
    *lead, T, C = x.shape
    if n < 1 or T % n:
        raise ValueError(
            f"flatten_consecutive: n must divide the length, got n = {n} and length {T}"
        )
    joined = (n * C,) if n == T else (T // n, n * C)
    return x.reshape(*lead, *joined).copy(), (x.shape,)


def flatten_consecutive_backward(dy, cache):
    """dx has dy's numbers in x's shape: nothing was computed, so nothing but the places change."""
    (shape,) = cache
    return dy.reshape(shape).copy()


def _averages(x):
    T = x.shape[-2]
    return np.tri(T, dtype=x.dtype) / np.arange(1, T + 1, dtype=x.dtype)[:, None]
