"""Operations along time without parameters: x (..., T, C)."""

import numpy as np

from npnet.ops.checks import floating, upstream


def causal_mean(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """y_t = (x_0 + ... + x_t) / (t + 1): makemore's bag of words.

    x (..., T, C) -> y (..., T, C). A product with the lower triangle of ones, each row divided by
    its length.
    """
    floating("causal_mean", x, axes=2)
    a = _averages(x)
    return a @ x, (a, x.shape)


def causal_mean_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx_t = sum over s >= t of dy_s / (s + 1).

    y = a @ x with a constant a, so dx = a^T @ dy: each x_t is in its own and every later mean, with
    the weight that it has there.
    """
    a, shape = cache
    dy = upstream("causal_mean", dy, shape, a.dtype)
    return a.T @ dy


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


def _averages(x: np.ndarray) -> np.ndarray:
    T = x.shape[-2]
    return np.tri(T, dtype=x.dtype) / np.arange(1, T + 1, dtype=x.dtype)[:, None]
