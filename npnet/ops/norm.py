"""Normalisations: batch norm over everything but the channels, layer norm and rms norm over the
channels.

x (..., C), gain (C,), bias (C,) -> y (..., C). Sums are products with a vector of ones, because
BLAS is faster than `sum`.

The three backward passes whose statistics come from x have one shape. With xhat = (x - mean) inv
and g = dy * gain, the gradient of xhat, x reaches the loss directly, through the mean and through
the variance:
    dx = inv (g  -  mean(g)  -  xhat mean(g xhat)).
The second term is there because the mean moves with every x, the third because the scale does;
without a subtracted mean (rms norm) the second goes, and with the unbiased variance the last mean
divides by n - 1. With given statistics (batch_norm_inference) only the first is left.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from npnet.ops.checks import as_rows, fitted, floating, floating_rows, quietly, upstream
from npnet.ops.constants import number, ones, sum_rows


class BatchNormCache(NamedTuple):
    """centred (N, C) is x - mean, std the root of var + eps, slope gain / std; mean and squares,
    the sum of the squared distances from it, both (C,), are those of the batch's n rows. n and
    divisor are (), total is batch_norm's."""

    centred: np.ndarray
    std: np.ndarray
    slope: np.ndarray
    divisor: np.ndarray
    mean: np.ndarray
    squares: np.ndarray
    shape: tuple[int, ...]
    n: np.ndarray
    total: Callable | None

    @property
    def var(self) -> np.ndarray:
        """The unbiased variance, for running statistics."""
        return self.squares / (self.n - 1)


def batch_norm(
    x: np.ndarray,
    gain: np.ndarray,
    bias: np.ndarray,
    eps: float = 1e-5,
    unbiased: bool = True,
    total: Callable | None = None,
) -> tuple[np.ndarray, BatchNormCache]:
    """y = gain (x - mean) / sqrt(var + eps) + bias, mean and var over the n rows (Ioffe and
    Szegedy, 2015).

    x (..., C), gain (C,), bias (C,) -> y (..., C). unbiased=True divides the squares by n - 1
    (Bessel), as in the notebook; False divides by n, as torch.nn.BatchNorm1d normalises. n = 1 has
    no variance: ValueError.

    Where x is a share of a batch, total(sums) adds up an array over all shares, in place; every
    share then calls both passes, one without rows too.
    """
    x, gain, bias = _with_parameters("batch_norm", x, gain, bias)
    rows = as_rows(x)
    count = len(rows)
    mean = sum_rows(rows)
    if total is not None:
        sums = total(np.append(mean, mean.dtype.type(count)))
        mean, count = sums[:-1], int(sums[-1])
    if count < 2:
        raise ValueError(
            f"batch_norm: a batch of {count} has no variance; training needs at least 2 rows"
        )
    n, divisor = number(count, x.dtype), number(count - 1 if unbiased else count, x.dtype)
    mean /= n
    centred = rows - mean
    squares = sum_rows(centred * centred)
    if total is not None:
        total(squares)
    std = squares / divisor
    std += number(eps, x.dtype)
    np.sqrt(std, out=std)
    if not std.dot(std) < np.inf:
        std = _root_of_large(centred.T, eps, divisor, total)
    slope = gain / std
    y = centred * slope
    y += bias
    cache = BatchNormCache(centred, std, slope, divisor, mean, squares, x.shape, n, total)
    return (y if rows is x else y.reshape(x.shape)), cache


def batch_norm_backward(
    dy: np.ndarray, cache: BatchNormCache, out: Sequence[np.ndarray | None] = (None, None)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dy (..., C) -> dx (..., C), dgain (C,), dbias (C,). `out` places (dgain, dbias).

    y = gain xhat + bias gives dbias = sum dy, dgain = sum dy xhat and g = dxhat = dy gain. Then
    xhat = (x - mean) inv:
        dinv = sum g (x - mean),  dvar = -inv^3 / 2 dinv    since inv = (var + eps)^(-1/2)
        dvar reaches x[i] as 2 (x[i] - mean) / divisor      since var = sum (x - mean)^2 / divisor
        the mean reaches it as -sum(g) inv / n              (not through var: sum (x - mean) = 0)
    so  dx = inv (g - sum(g)/n - xhat sum(g xhat)/divisor)
           = gain inv (dy - dbias/n - xhat dgain/divisor).
    Neither pass needs xhat itself: with std = 1 / inv and slope = gain inv, both one number a
    channel, y = (x - mean) slope + bias and xhat dgain = (x - mean) (dgain / std).

    Of a share dgain and dbias are its own part of them, while dx needs those of the batch.
    """
    centred, std, slope, divisor, _, _, shape, n, total = cache
    dy = as_rows(upstream("batch_norm", dy, shape, centred.dtype))
    dgain = sum_rows(dy * centred, out[0])
    dgain /= std
    dbias = sum_rows(dy, out[1])
    own = dgain, dbias
    if total is not None:
        dgain, dbias = total(np.stack(own))
    dx = dy - centred * (dgain / (divisor * std))  # directly and through the variance
    dx -= dbias / n  # through the mean
    dx *= slope
    dgain, dbias = own
    return (dx if len(shape) == 2 else dx.reshape(shape)), dgain, dbias


def batch_norm_inference(
    x: np.ndarray,
    gain: np.ndarray,
    bias: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    eps: float = 1e-5,
) -> tuple[np.ndarray, tuple]:
    """y = gain (x - mean) / sqrt(var + eps) + bias with given statistics, not the batch's.

    x (..., C), gain, bias, mean and var (C,) -> y (..., C).
    """
    x, gain, bias = _with_parameters("batch_norm_inference", x, gain, bias)
    x, mean, var = _with_parameters("batch_norm_inference", x, mean, var, ("mean", "var"))
    inv = var + eps
    np.sqrt(inv, out=inv)
    np.reciprocal(inv, out=inv)
    xhat = x - mean
    xhat *= inv
    y = xhat * gain
    y += bias
    return y, (xhat, gain, inv)


def batch_norm_inference_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (..., C) -> dx (..., C), dgain (C,), dbias (C,), dmean (C,), dvar (C,).

    With fixed statistics y is a line in x of slope gain inv, so dx = dy gain inv. The mean enters
    with the opposite sign and is shared by every row: dmean = -sum(dy) gain inv. And
    inv = (var + eps)^(-1/2) has ∂inv/∂var = -inv^3 / 2, so with (x - mean) inv = xhat
        dvar = sum(dy gain (x - mean)) (-inv^3 / 2) = -dgain gain inv^2 / 2.
    """
    xhat, gain, inv = cache
    dy = upstream("batch_norm_inference", dy, xhat.shape, xhat.dtype)
    flat = as_rows(dy)
    dgain = sum_rows(flat * as_rows(xhat))
    dbias = sum_rows(flat)
    slope = gain * inv
    return dy * slope, dgain, dbias, -dbias * slope, dgain * slope * inv * -0.5


def layer_norm(
    x: np.ndarray, gain: np.ndarray, bias: np.ndarray | None = None, eps: float = 1e-5
) -> tuple[np.ndarray, tuple]:
    """y = gain (x - mean) / sqrt(var + eps) + bias, mean and biased var over each row's channels
    (Ba et al., 2016).

    x (..., C), gain (C,), bias (C,) or None -> y (..., C).
    """
    if bias is None:
        x, gain, _ = _with_parameters("layer_norm", x, gain, gain)
    else:
        x, gain, bias = _with_parameters("layer_norm", x, gain, bias)
    rows = as_rows(x)
    C = rows.shape[1]
    mean = rows.dot(ones(C, x.dtype))
    mean /= number(C, x.dtype)
    xhat = rows - mean[:, None]
    inv = _inverse_rms(xhat, eps)
    xhat *= inv
    y = xhat * gain
    if bias is not None:
        y += bias
    cache = xhat, gain, inv, bias is not None, x.shape
    return (y if rows is x else y.reshape(x.shape)), cache


def layer_norm_backward(
    dy: np.ndarray, cache: tuple, out: Sequence[np.ndarray | None] = (None, None)
) -> tuple[np.ndarray, ...]:
    """dy (..., C) -> dx (..., C), dgain (C,) and, with a bias, dbias (C,). `out` places (dgain,
    dbias), or (dgain,) without a bias.

    dgain = sum dy xhat and dbias = sum dy over the rows, which share them. Within a row g = dy gain
    is the gradient of xhat, and dx = inv (g - mean(g) - xhat mean(g xhat)): batch norm's derivation
    with the channels of one row in place of the batch. inv is one number for the row, so it can
    come first: with d = inv g, dx = d - mean(d) - xhat mean(d xhat). inv gain is laid out as a
    product, because NumPy multiplies arrays of equal shapes faster.
    """
    xhat, gain, inv, with_bias, shape = cache
    dy = as_rows(upstream("layer_norm", dy, shape, xhat.dtype))
    C = number(len(gain), dy.dtype)
    dgain = sum_rows(dy * xhat, out[0])
    dx = inv.dot(gain[None])
    dx *= dy
    mean = dx.dot(ones(len(gain), dy.dtype))
    mean /= C
    projection = np.vecdot(dx, xhat)
    projection /= C
    dx -= mean[:, None]  # through the mean
    dx -= xhat * projection[:, None]  # through the variance
    if len(shape) != 2:
        dx = dx.reshape(shape)
    return (dx, dgain, sum_rows(dy, out[1])) if with_bias else (dx, dgain)


def rms_norm(
    x: np.ndarray, gain: np.ndarray | None = None, eps: float = 1e-5
) -> tuple[np.ndarray, tuple]:
    """y = gain x / sqrt(mean(x^2) + eps), the mean over the channels of each row (Zhang and
    Sennrich, 2019).

    x (..., C), gain (C,) or None -> y (..., C). Nothing is subtracted and there is no bias.
    """
    rows = floating_rows("rms_norm", x)
    if gain is not None and (gain.shape != x.shape[-1:] or gain.dtype is not x.dtype):
        _, gain = fitted("rms_norm", x, gain=(gain, x.shape[-1:]))
    inv = _inverse_rms(rows, eps)
    xhat = rows * inv
    y = xhat if gain is None else xhat * gain
    return (y if rows is x else y.reshape(x.shape)), (xhat, gain, inv, x.shape)


def rms_norm_backward(
    dy: np.ndarray, cache: tuple, out: Sequence[np.ndarray | None] = (None,)
) -> Any:
    """dy (..., C) -> dx (..., C), and dgain (C,) if there is a gain. `out` places (dgain,).

    xhat = x inv with inv = (mean(x^2) + eps)^(-1/2). x acts directly, with slope inv, and through
    inv: dinv = sum g x, and ∂inv/∂x[i] = -inv^3 x[i] / C. Together
        dx = inv g - inv^3 x sum(g x)/C = inv (g - xhat mean(g xhat)).
    """
    xhat, gain, inv, shape = cache
    dy = as_rows(upstream("rms_norm", dy, shape, xhat.dtype))
    g = dy if gain is None else dy * gain
    projection = np.vecdot(g, xhat)
    projection /= number(dy.shape[1], dy.dtype)
    dx = g - xhat * projection[:, None]
    dx *= inv
    if len(shape) != 2:
        dx = dx.reshape(shape)
    if gain is None:
        return dx
    return dx, sum_rows(dy * xhat, out[0])


def _inverse_rms(rows: np.ndarray, eps: float) -> np.ndarray:
    """(mean(rows^2) + eps)^(-1/2) of each row: (N, C) -> (N, 1)."""
    inv = quietly(np.vecdot, rows, rows)
    inv /= number(rows.shape[1], inv.dtype)
    inv += number(eps, inv.dtype)
    np.sqrt(inv, out=inv)
    if not inv.dot(inv) < np.inf:
        inv = _root_of_large(rows, eps, rows.shape[1])
    np.reciprocal(inv, out=inv)
    return inv[:, None]


def _root_of_large(
    rows: np.ndarray, eps: float, divisor: Any, total: Callable | None = None
) -> np.ndarray:
    """sqrt(sum(rows^2) / divisor + eps) of each row, (N, C) -> (N,), where a square may be too
    large for the dtype: the largest number is taken out first, of shares the sum of the largest."""
    largest = np.abs(rows).max(axis=1, initial=0)
    if total is not None:
        total(largest)
    largest = np.maximum(largest, 1)
    scaled = rows / largest[:, None]
    squares = np.vecdot(scaled, scaled)
    if total is not None:
        total(squares)
    return largest * np.sqrt(squares / divisor + eps / largest / largest)


def _with_parameters(
    op: str, x: np.ndarray, a: np.ndarray, b: np.ndarray, names: tuple[str, str] = ("gain", "bias")
) -> list[np.ndarray]:
    """x, a and b in the dtype of x; ValueError unless a and b have a number for each channel."""
    C = x.shape[-1:]
    floating(op, x, axes=1)
    if a.shape == b.shape == C and a.dtype is b.dtype is x.dtype:
        return [x, a, b]
    return fitted(op, x, **{names[0]: (a, C), names[1]: (b, C)})
