"""Monte Carlo arithmetic in NumPy: what rounding can do to a function that is written in it.

The noise is far above the rounding of float64 and far below all that decides between two branches;
what is exact, such as a maximum, stays exact, so that ties stay ties.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

SIZE = 2.0**-40
EXACT = {np.positive, np.negative, np.absolute, np.fabs, np.sign, np.copysign, np.conjugate}
EXACT |= {np.maximum, np.minimum, np.fmax, np.fmin, np.floor, np.ceil, np.rint, np.trunc}
PRODUCTS = {np.dot, np.einsum, np.inner, np.vdot}  # which are no ufuncs


class Rounded(np.ndarray):
    """Each result of an operation times 1 + SIZE N(0, 1), its imaginary part times another."""

    real_part = imaginary_part = np.random.default_rng(0)

    def __array_ufunc__(
        self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **details: Any
    ) -> Any:
        given = [plain(a) for a in inputs]
        details = {name: plain(a) for name, a in details.items()}
        if out is not None:
            details["out"] = tuple(map(plain, out))
        found = getattr(ufunc, method)(*given, **details)
        if found is not None and ufunc not in EXACT:
            found = perturbed(found)
        return as_rounded(found) if out is None else out[0] if len(out) == 1 else out

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is np.linalg.norm:
            return norm(*args, **kwargs)
        found = super().__array_function__(function, types, args, kwargs)
        return as_rounded(perturbed(found) if function in PRODUCTS else found)


def rounded(f: Callable[[dict[str, Any]], Any], seed: int) -> Callable[[dict[str, Any]], Any]:
    """f in this arithmetic: with the same noise in the real parts at every call, so that its value
    stays, and fresh noise in the imaginary ones."""
    imaginary = np.random.default_rng([seed, 1])

    def f_rounded(inputs: dict[str, Any]) -> Any:
        Rounded.real_part, Rounded.imaginary_part = np.random.default_rng([seed, 0]), imaginary
        return f({name: a.view(Rounded) for name, a in inputs.items()})

    return f_rounded


def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """NumPy's Euclidean norm without conjugates, so that it is analytic."""
    if ord is not None:
        raise NotImplementedError
    return np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))


def perturbed(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(map(perturbed, value))
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "fc":
        return value
    made = np.asarray(value)
    made = made if isinstance(value, np.ndarray) else made.copy()
    made.real *= 1 + SIZE * Rounded.real_part.standard_normal(made.shape)
    if made.dtype.kind == "c":
        made.imag *= 1 + SIZE * Rounded.imaginary_part.standard_normal(made.shape)
    return made


def plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Rounded) else value


def as_rounded(value: Any) -> Any:
    """Arrays, and numbers as arrays without axes, lest they go on without noise."""
    if isinstance(value, tuple | list):
        return type(value)(map(as_rounded, value))
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "fc":
        return np.asarray(value).view(Rounded)
    return value
