"""The functions that torch's normals and uniforms are made of, rounded as torch rounds them: the
fused multiply-add of its AVX2 code, its logarithm, sine and cosine in float32, and the C library's
functions, which it calls in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np

# Cephes (Moshier 1992): logf, and sinf with cosf after Pommier's SSE version (2007).
_LOG = np.array(
    [7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
     -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1], np.float32
)  # fmt: skip
_COS = np.array([2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2], np.float32)
_SIN = np.array([-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1], np.float32)
# They add up to pi / 4.
_PI_4 = np.array([0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8], np.float32)


def libm(function: Callable[[float], float], x: np.ndarray) -> np.ndarray:
    """The C library's function, as torch calls it for doubles: NumPy's own may round otherwise."""
    return np.fromiter(map(function, x.reshape(-1).tolist()), np.float64, x.size).reshape(x.shape)


def fma(x: np.ndarray, y: Any, z: Any) -> np.ndarray:
    """x * y + z rounded once; y and z are scalars of x's dtype.

    float32: the product is exact in float64. float64: it is split in two by Dekker's product
    (1971), and all but the last addition are without error (between 1e-290 and 1e290; near the ends
    of the range the last bit may differ). What is rounded before the last rounding is rounded to
    odd, which leaves no trace (Boldo and Melquiond 2008).
    """
    if x.dtype == np.float32:
        return _odd_sum(x.astype(np.float64) * y, np.float64(z)).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        product = x * y
        (xh, xl), (yh, yl) = _halves(x), _halves(np.float64(y))
        high, low = _two_sum(z, ((xh * yh - product) + xh * yl + xl * yh) + xl * yl)
        total, error = _two_sum(product, high)
        fused = total + _odd_sum(low, error)
        return np.where(np.isfinite(fused), fused, product + z)


def _halves(x: Any) -> tuple[Any, Any]:
    big = x * 134217729.0  # 2^27 + 1
    high = big - (big - x)
    return high, x - high


def _two_sum(a: Any, b: Any) -> tuple[np.ndarray, np.ndarray]:
    """a + b and its rounding error (Knuth 1969)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def _odd_sum(a: Any, b: Any) -> np.ndarray:
    """a + b; if that is not exact, the neighbour of the exact sum whose last bit is 1."""
    total, error = _two_sum(a, b)
    inexact = (np.abs(error) > 0) & (total.view(np.int64) & 1 == 0)
    return np.nextafter(total, np.copysign(np.inf, error), out=total, where=inexact)


def _fma32(x: np.ndarray, y: Any, z: Any) -> np.ndarray:
    """float32 with one rounding too many, which changes none of the 2^24 logarithms, sines and
    cosines below."""
    return (x.astype(np.float64) * y + z).astype(np.float32)


def _horner(x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    wide, y = x.astype(np.float64), coefficients[:1]
    for c in coefficients[1:]:
        y = (wide * y + c).astype(np.float32)
    return y


def log32(u: np.ndarray) -> np.ndarray:
    """ln u for float32 u in (0, 1]: u = m 2^e, a polynomial in m - 1, then e ln 2 in two parts."""
    m, e = np.frexp(u)
    small = m < 0.707106781186547524
    x = np.where(small, 2 * m, m) - 1
    exponent = (e - small).astype(np.float32)
    z = x * x
    y = _fma32(_horner(x, _LOG) * x, z, exponent * -2.12194440e-4)
    return _fma32(exponent, 0.693359375, x + _fma32(z, -0.5, y))


def sincos32(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sin t and cos t for float32 t >= 0.

    Multiples of pi/4 are taken off; the octant says which of two polynomials is which.
    """
    octant = ((t * 1.27323954473516).astype(np.int32) + 1) & ~1
    multiple = octant.astype(np.float32)
    for part in _PI_4:
        t = _fma32(multiple, -part, t)
    z = t * t
    cos = _fma32(_horner(z, _COS) * z, z, z * -0.5) + 1
    sin = _fma32(_horner(z, _SIN) * z, t, t)
    swap = (octant & 2) != 0
    sin, cos = np.where(swap, cos, sin), np.where(swap, sin, cos)
    np.negative(sin, out=sin, where=(octant & 4) != 0)
    np.negative(cos, out=cos, where=(~(octant - 2) & 4) != 0)
    return sin, cos
