"""Elementwise functions, softmax over the last axis, and dropout. Every shape is free:
x (...) -> y (...)."""

import math
from typing import Any

import numpy as np

from npnet.ops.checks import floating, quietly, upstream
from npnet.ops.constants import NAT, number, power
from npnet.random import Generator

_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_SQRT_1_OVER_2PI = math.sqrt(1 / (2 * math.pi))
_GELU_CUBIC = 0.044715
_GELU_FLAT = 1e3  # from this x^2 on the tanh has no slope, but 0 times infinity would be no number

_BLOCK = 1 << 16  # numbers of which the exact gelu finds everything in the processor's cache
# See _normal: the scale of u and f's coefficients, highest power first, for float64 and for less.
_TAIL64 = (
    3.5, 0.0024957383486608460, -0.027924159138170134, 0.14149573283499170,
    -0.42403903923747698, 0.81657504155708043, -1.0042206637989733, 0.66213307331570838,
    0.089338115244247106, -0.70899730634532970, 0.83963389341188214, -0.62533796564185194,
    0.35269704496373424, -0.14218777130811525, 0.039970117447965634, -0.024726275730146293,
    -0.0056963480669308340, 0.0072688182433798169, 0.032377622082770249, 0.060429116920770388,
    0.086069478307157666, 0.10467871884277883, 0.11398350906455022, 0.11398350868131680,
)  # fmt: skip
_TAIL32 = (
    3.0, -0.0253475979, 0.141754314, -0.295475841, 0.245450288, -0.0707600415, 0.126889527,
    0.110756718, 0.133789122, 0.132943511,
)  # fmt: skip


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
    np.subtract(number(1, dx.dtype), dx, out=dx)
    dx *= dy
    return dx


def relu(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """y = max(x, 0)."""
    floating("relu", x)
    y = x.clip(number(0, x.dtype), number(np.inf, x.dtype))  # three times as fast as maximum
    return y, (y,)


def relu_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = dy where x > 0, else 0.

    The slope is 1 on the right and 0 on the left. At the tie x = 0 any slope between would do; 0 is
    PyTorch's choice.
    """
    (y,) = cache
    dy = upstream("relu", dy, y.shape, y.dtype)
    return dy * (y > number(0, y.dtype))


def sigmoid(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """y = 1 / (1 + exp(-x)), as e / (1 + e) with e = exp(x).

    So small values are kept as far as the dtype has them: from x = -89 down exp(-x) overflows in
    float32 and would leave 0, while y is 2e-39 there. In turn e must not overflow. x is cut at 80,
    from where on y is 1 in every dtype.
    """
    floating("sigmoid", x)
    if not x.size or not x.real.item(x.argmax()) <= 80:  # that is found sooner than it is cut
        x = np.minimum(x, number(80, x.dtype))
    y = np.asarray(np.exp(x))
    y /= y + number(1, y.dtype)
    return y, (y,)


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
    approximate="none": s exact to rounding, as in nanoGPT.
    """
    floating("gelu", x)
    if approximate == "none":
        if x.dtype.kind == "c":
            raise ValueError("gelu: the exact form does not take complex numbers")
        y, slope = _exact_gelu(x)
        return y, (None, None, slope)
    if approximate != "tanh":
        raise ValueError(f'gelu: approximate must be "tanh" or "none", got {approximate!r}')
    s = quietly(_gelu_argument, x)  # the tanh of infinity is 1, as it should be
    np.tanh(s, out=s)
    s += number(1, s.dtype)
    s *= number(0.5, s.dtype)
    return x * s, (x, s, None)


def gelu_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = dy (s + x ∂s/∂x), the product rule on x s(x).

    The tanh form (1 + tanh(u))/2 is sigmoid(2u), so ∂s/∂u = 2 s (1 - s), and
        ∂s/∂x = 2 s (1 - s) sqrt(2/pi) (1 + 3 * 0.044715 x^2).
    The exact form's ∂s/∂x is the normal density, exp(-x^2/2) / sqrt(2 pi), which the forward needs
    for s. It has computed the whole slope s + x ∂s/∂x, see _exact_gelu.
    """
    x, s, slope = cache
    if slope is not None:
        return upstream("gelu", dy, slope.shape, slope.dtype) * slope
    dy = upstream("gelu", dy, x.shape, x.dtype)
    slope = np.asarray(quietly(np.multiply, x, x))
    if slope.size and slope.item(slope.argmax()) > _GELU_FLAT:
        slope.clip(0, _GELU_FLAT, out=slope)  # minimum takes three times as long
    slope *= number(3 * _GELU_CUBIC * 2 * _SQRT_2_OVER_PI, slope.dtype)
    slope += number(2 * _SQRT_2_OVER_PI, slope.dtype)  # 2 ∂u/∂x
    tail = number(1, s.dtype) - s
    tail *= s
    slope *= tail  # ∂s/∂x
    slope *= x
    slope += s
    slope *= dy
    return slope


def _gelu_argument(x: np.ndarray) -> np.ndarray:
    """u = sqrt(2/pi) (x + 0.044715 x^3)."""
    u = np.asarray(x * x)
    u *= number(_GELU_CUBIC * _SQRT_2_OVER_PI, u.dtype)
    u += number(_SQRT_2_OVER_PI, u.dtype)
    u *= x
    return u


def _exact_gelu(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """y = x s(x) and its slope s + x ∂s/∂x, x (...), a block at a time: the many passes over a
    block find it in the processor's cache, and of all that they compute two arrays are kept."""
    flat = x.reshape(-1)
    y, slope = np.empty_like(flat), np.empty_like(flat)
    for start in range(0, len(flat), _BLOCK):
        block = slice(start, start + _BLOCK)
        x_now, y_now, slope_now = flat[block], y[block], slope[block]
        _normal(x_now, y_now, slope_now)
        with np.errstate(invalid="ignore"):  # at infinity, which has no slope here
            slope_now *= x_now
        slope_now += y_now
        y_now *= x_now
    return y.reshape(x.shape), slope.reshape(x.shape)


def _normal(x: np.ndarray, s: np.ndarray, density: np.ndarray) -> None:
    """The normal distribution function s of x, and its density there, written into arrays (n,).

    NumPy has no erf. With a = |x| the share of the distribution below -a is
        tail = exp(-a^2 / 2) u f(u),   u = scale / (scale + a),
    with an f so smooth that a polynomial will do, since u maps every a into (0, 1] (as Shepherd and
    Laframboise, 1981, do for erfc). Where the dtype has a tail, which is up to a = 39, that is f's
    Chebyshev series, computed with 60 digits, with a relative error of 2e-16 at most. For float32,
    up to 14.5, it is the nine terms whose error is least beside that of a^2: 7e-9 where a < 1, 4e-8
    up to 6, 3e-7 at the end. With a = 0 both give 1/2 exactly. The error has to be relative: a
    gradient far out in the tail may be the whole of its weight's. So s is the tail itself on the
    left, and 1 - tail on the right.
    """
    table = _TAIL64 if x.dtype == np.float64 else _TAIL32
    scale, highest, *others = [number(a, x.dtype) for a in table]
    with np.errstate(over="ignore"):  # exp(-infinity) is the 0 that it should be
        np.multiply(x, x, out=density)
    density *= number(-0.5 * NAT, x.dtype)
    power(density, out=density)
    u = np.abs(x)
    u += scale
    np.divide(scale, u, out=u)
    tail = np.multiply(u, highest, out=s)
    for coefficient in others:
        tail += coefficient
        tail *= u
    tail *= density
    density *= number(_SQRT_1_OVER_2PI, x.dtype)
    np.subtract(x > 0, tail, out=s)
    np.abs(s, out=s)


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


def dropout(x: np.ndarray, p: float, generator: Generator) -> tuple[np.ndarray, tuple]:
    """Inverted dropout (Srivastava et al., 2014): y = x m / (1 - p), where each m is 1 with
    probability 1 - p, else 0.

    The masks are those of torch.nn.functional.dropout from the same stream, see `kept`. Dividing by
    1 - p here keeps the mean, so that evaluation needs no scaling. A p outside [0, 1) is a
    ValueError.
    """
    floating("dropout", x)
    mask = kept("dropout", x.shape, p, generator) / x.dtype.type(1 - p)
    return x * mask, (mask,)


def dropout_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dx = dy m / (1 - p): y is x times a constant that was drawn, so the gradient passes through
    the same constant."""
    (mask,) = cache
    dy = upstream("dropout", dy, mask.shape, mask.dtype)
    return dy * mask


def kept(op: str, shape: tuple[int, ...], p: float, generator: Any) -> np.ndarray:
    """What dropout leaves, as booleans: `generator.bernoulli(1 - p, shape)`, which torch draws on
    every processor but Intel's, where it has MKL draw another stream."""
    if not 0 <= p < 1:
        raise ValueError(f"{op}: the share to drop must be in [0, 1), got {p}")
    return generator.bernoulli(1 - p, shape)
