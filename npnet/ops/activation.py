"""Elementwise functions, softmax over the last axis, and dropout. Every shape is free:
x (...) -> y (...)."""

import math

import numpy as np

from npnet.ops.checks import floating, upstream
from npnet.random import TorchGenerator

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_SQRT_1_OVER_2PI = math.sqrt(1 / (2 * math.pi))
_GELU_CUBIC = 0.044715
_GELU_FLAT = 1e3  # from this x^2 on the tanh has no slope, but 0 times infinity would be no number


def tanh(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """y = tanh(x)."""
    floating("tanh", x)
    y = np.tanh(x)
    return y, (y,)


def tanh_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = dy (1 - y^2).

    tanh = sinh/cosh, and the quotient rule gives (cosh^2 - sinh^2)/cosh^2 = 1 - tanh^2: the result
    is enough, x is not kept. PyTorch's vectorised kernel rounds 1 - y*y once (a fused
    multiply-add), so the last bit may differ from its gradient.
    """
    (y,) = cache
    dy = upstream("tanh", dy, y.shape, y.dtype)
    dx = np.asarray(y * y)
    np.subtract(1, dx, out=dx)
    dx *= dy
    return dx


def relu(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """y = max(x, 0)."""
    floating("relu", x)
    y = np.maximum(x, 0)
    return y, (y,)


def relu_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = dy where x > 0, else 0.

    The slope is 1 on the right and 0 on the left. At the tie x = 0 any slope between would do; 0 is
    PyTorch's choice.
    """
    (y,) = cache
    dy = upstream("relu", dy, y.shape, y.dtype)
    return dy * (y > 0)


def sigmoid(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """y = 1 / (1 + exp(-x)).

    For x below about -88 in float32 exp overflows to inf, and y to the 0 that it should be.
    """
    floating("sigmoid", x)
    y = np.array(x)
    with np.errstate(over="ignore"):
        sigmoid_in_place(y)
    return y, (y,)


def sigmoid_in_place(y: np.ndarray) -> None:
    """The same into y itself; whoever calls it has told NumPy to ignore the overflow."""
    y *= -1  # np.negative in place is wrong at some strides (NumPy 2.4)
    np.exp(y, out=y)
    y += 1
    np.reciprocal(y, out=y)


def sigmoid_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = dy y (1 - y).

    y = 1/u with u = 1 + exp(-x), so
        ∂y/∂x = (-1/u^2) (-exp(-x)) = y^2 (u - 1) = y^2 (1/y - 1) = y (1 - y).
    """
    (y,) = cache
    dy = upstream("sigmoid", dy, y.shape, y.dtype)
    dx = 1 - y
    dx *= y
    dx *= dy
    return dx


def gelu(x: np.ndarray, approximate: str = "tanh") -> tuple[np.ndarray, tuple]:
    """y = x s(x), where s is the normal distribution function (Hendrycks and Gimpel, 2016).

    approximate="tanh": s = (1 + tanh(u)) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3), as in GPT-2.
    approximate="none": s = erfc(-x / sqrt(2)) / 2, exact; one call of math.erfc an element, so it
    is slow.
    """
    floating("gelu", x)
    if approximate == "tanh":
        with np.errstate(over="ignore"):  # the tanh of infinity is 1, as it should be
            s = np.asarray(x * x)
            s *= _GELU_CUBIC * _SQRT_2_OVER_PI
            s += _SQRT_2_OVER_PI
            s *= x  # u
        np.tanh(s, out=s)
        s += 1
        s *= 0.5
    elif approximate == "none":
        values = [math.erfc(v) for v in (x.astype(np.float64).ravel() * -math.sqrt(0.5)).tolist()]
        s = (np.array(values) * 0.5).reshape(x.shape).astype(x.dtype)
    else:
        raise ValueError(f'gelu: approximate must be "tanh" or "none", got {approximate!r}')
    return x * s, (x, s, approximate)


def gelu_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = dy (s + x ∂s/∂x), the product rule on x s(x).

    The tanh form (1 + tanh(u))/2 is sigmoid(2u), so ∂s/∂u = 2 s (1 - s), and
        ∂s/∂x = 2 s (1 - s) sqrt(2/pi) (1 + 3 * 0.044715 x^2).
    The exact form's ∂s/∂x is the normal density, exp(-x^2/2) / sqrt(2 pi).
    """
    x, s, approximate = cache
    dy = upstream("gelu", dy, x.shape, x.dtype)
    with np.errstate(over="ignore"):
        slope = np.asarray(x * x)
    if approximate == "tanh":
        np.minimum(slope, _GELU_FLAT, out=slope)
        slope *= 3 * _GELU_CUBIC * 2 * _SQRT_2_OVER_PI
        slope += 2 * _SQRT_2_OVER_PI  # 2 ∂u/∂x
        tail = 1 - s
        tail *= s
        slope *= tail  # ∂s/∂x
    else:
        slope *= -0.5
        np.exp(slope, out=slope)
        slope *= _SQRT_1_OVER_2PI  # ∂s/∂x
    slope *= x
    slope += s
    slope *= dy
    return slope


def softmax(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """y = exp(x) / sum(exp(x)), the sum over the last axis.

    The maximum of the row is subtracted first, so that exp cannot overflow.
    """
    floating("softmax", x, axes=1)
    y = x - x.max(axis=-1, keepdims=True)
    np.exp(y, out=y)
    y /= y.sum(axis=-1, keepdims=True)
    return y, (y,)


def softmax_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = y (dy - sum(dy y)), the sum over the last axis.

    ∂y_i/∂x_j = y_i ([i == j] - y_j): raising x_j raises its own numerator and everyone's
    denominator. Weighted by dy and summed:
        dx_j = sum_i dy_i y_i ([i == j] - y_j) = y_j (dy_j - sum_i dy_i y_i).
    Adding a constant to x changes nothing, so each row of dx adds up to 0, and the subtracted
    maximum needs no gradient of its own.
    """
    (y,) = cache
    dy = upstream("softmax", dy, y.shape, y.dtype)
    dx = dy - np.vecdot(dy, y)[..., None]
    dx *= y
    return dx


def dropout(x: np.ndarray, p: float, generator: TorchGenerator) -> tuple[np.ndarray, tuple]:
    """Inverted dropout (Srivastava et al., 2014): y = x m / (1 - p), where each m is 1 with
    probability 1 - p, else 0.

    The mask is drawn from `generator`, one `rand` an element, kept where it is >= p. Dividing by
    1 - p here keeps the mean, so that evaluation needs no scaling. A p outside [0, 1) is a
    ValueError.
    """
    floating("dropout", x)
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p must be in [0, 1), got {p}")
    mask = (generator.rand(*x.shape) >= p).astype(x.dtype)
    mask *= 1 / (1 - p)
    return x * mask, (mask,)


def dropout_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = dy m / (1 - p): y is x times a constant that was drawn, so the gradient passes through
    the same constant."""
    (mask,) = cache
    dy = upstream("dropout", dy, mask.shape, mask.dtype)
    return dy * mask
