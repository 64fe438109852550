"""What every operation asks of its arrays: exactly the shapes of its docstring, nothing broadcast,
and floating numbers. The dtype of the first is the dtype of everything.

A forward takes complex numbers as well: that is how the complex step differentiates it without a
backward. A backward refuses them.
"""

import math
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import numpy as np

# NumPy's error state is part of a context.
_QUIET = copy_context()
_QUIET.run(np.seterr, all="ignore")


def floating(op: str, x: np.ndarray, axes: int = 0) -> None:
    """ValueError, unless x is an array of floating numbers with at least so many axes."""
    if x.dtype.kind not in "fc" or x.ndim < axes:
        raise ValueError(
            f"{op}: expected floating numbers with at least {axes} axes, got {_described(x)}"
        )


def fitted(
    op: str, x: np.ndarray, **others: tuple[np.ndarray, tuple[int, ...]]
) -> list[np.ndarray]:
    """x and the others, name=(array, shape), in the dtype of x; ValueError if one does not have
    exactly its shape or is not floating."""
    arrays = [x]
    for name, (array, shape) in others.items():
        if array.shape != shape or array.dtype.kind not in "fc":
            raise ValueError(
                f"{op}: with {_described(x)} as input, {name} must be floating numbers {shape}, "
                f"got {_described(array)}"
            )
        if array.dtype is not x.dtype and array.dtype.kind == x.dtype.kind:
            array = array.astype(x.dtype, copy=False)
        arrays.append(array)
    return arrays


def upstream(op: str, dy: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """dy in the dtype of the output; ValueError if it does not have exactly the output's shape."""
    if dy.shape == shape and dy.dtype is dtype and dtype.kind == "f":
        return dy
    if dy.shape != shape or dy.dtype.kind != "f":
        raise ValueError(
            f"{op}_backward: dy must be floating numbers {shape}, as the output is, "
            f"got {_described(dy)}"
        )
    return np.asarray(dy, dtype)


def quietly(function: Callable, *arguments: Any) -> Any:
    """What function(*arguments) returns, under np.errstate(all="ignore"), which takes three times
    as long to enter."""
    return _QUIET.copy().run(function, *arguments)


def as_rows(x: np.ndarray) -> np.ndarray:
    """x (..., C) -> (N, C), N all leading axes together."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def floating_rows(op: str, x: np.ndarray) -> np.ndarray:
    """x (..., C) -> (N, C); ValueError as of `floating`."""
    if x.ndim == 2 and x.dtype.kind in "fc":
        return x
    floating(op, x, axes=1)
    return as_rows(x)


def within(ids: np.ndarray, n: int) -> bool:
    """Whether all are integers in [0, n), of a dtype that NumPy takes for indices. argmin is many
    times faster than min on so few."""
    kind = ids.dtype.kind
    if kind != "i" and (kind != "u" or ids.dtype == np.uint64):
        return False
    return not ids.size or (ids.item(ids.argmin()) >= 0 and ids.item(ids.argmax()) < n)


def outside(op: str, ids: np.ndarray, n: int) -> ValueError:
    """What is wrong where ids are not `within` n."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu" or ids.dtype == np.uint64:
        got = f"dtype {ids.dtype}"
    else:
        got = f"values from {ids.min()} to {ids.max()}"
    return ValueError(f"{op}: ids must be integers from 0 to {n - 1}, got {got}")


def _described(x: np.ndarray) -> str:
    return f"{x.dtype} {x.shape}"
