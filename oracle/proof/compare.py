"""The one comparison: is an array equal to its float64 reference up to rounding?

An error is measured against the terms that were summed, not against the sum, which may have
cancelled: `q = |error| / (u * M)`, where u is half the machine epsilon of the checked dtype, M the
elementwise sum of |terms| and K their number. Accepted is

    |error| <= 16 * u * M * max(1, sqrt(K) / 4)  +  K * tiny * max(1, max|dy|)

Shape, dtype and finiteness come before values, and nothing broadcasts. For many operations M is a
formula (`oracle.ops`); where there is none, `oracle.proof.autograd` measures it. `within` is the
same with a bound of the caller's, `decide` accepts an error below a small tolerance, too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

# Relative to the value, and relative to the largest number: a right formula may be rounded
# otherwise than the reference.
TOLERANCE = {np.dtype(np.float64): (1e-9, 1e-10), np.dtype(np.float32): (1e-5, 1e-5)}


@dataclass(frozen=True)
class Result:
    """What was found: the largest `error`, and the `largest` number expected; at the worst element
    `fraction`, the error over what is allowed, and `q` where M is known; a sentence if not `ok`."""

    name: str
    shape: tuple[int, ...]
    ok: bool
    exact: bool = False
    fraction: float = np.inf
    q: float = np.nan
    limit: float = np.nan
    error: float = np.nan
    largest: float = np.nan
    index: tuple[int, ...] = ()
    got: float = np.nan
    expected: float = np.nan
    message: str = ""


class Mismatch(AssertionError):
    """A comparison that failed; `result` holds its figures where there are any."""

    def __init__(self, message: str, result: Result | None = None):
        super().__init__(message)
        self.result = result


def compare(
    got: Any,
    expected: np.ndarray,
    scale: Any,
    terms: Any = 1,
    *,
    upstream: float = 1.0,
    dtype: Any = None,
    name: str = "value",
    context: str = "",
) -> Result:
    """Decide whether `got` is the float64 array `expected` up to the rounding errors of its own
    dtype.

    scale     M, the elementwise sum of |terms|; anything that broadcasts to expected
    terms     K, the number of terms in the longest sum
    upstream  max|dy|, which bounds what an underflow can have grown to
    dtype     the dtype `got` must have; without it, any floating one
    """
    info = np.finfo(got.dtype) if getattr(got, "dtype", np.dtype("i")).kind == "f" else None
    limit = 16 * np.maximum(1, np.sqrt(terms) / 4)
    unit = float(info.eps) / 2 * np.asarray(scale, np.float64) if info else 1.0
    underflow = np.asarray(terms) * float(info.tiny) * max(1.0, float(upstream)) if info else 0.0
    found = within(got, expected, limit * unit, underflow=underflow, dtype=dtype, name=name)
    if found.index or (found.error >= 0 and np.size(got)):
        limit = float(np.broadcast_to(limit, found.shape)[found.index])
        found = replace(found, q=found.fraction * limit, limit=limit)
    if found.ok:
        return found
    message = found.message
    if np.isfinite(found.error):
        message += f", q = {found.q:.3g} units of rounding where {limit:.3g} are allowed"
    return replace(found, message=f"{message}." + (f" {context}." if context else ""))


def within(
    got: Any,
    expected: np.ndarray,
    bound: Any,
    *,
    underflow: Any = 0.0,
    dtype: Any = None,
    name: str = "value",
) -> Result:
    """Decide whether `got` is `expected` up to `bound`, plus `underflow`, which does not count in
    the fraction; the message has no full stop."""
    expected = np.asarray(expected, np.float64)

    def wrong(sentence: str, **figures: Any) -> Result:
        return Result(name, expected.shape, False, message=f"{name} {sentence}", **figures)

    if not isinstance(got, np.ndarray | np.floating):
        return wrong(f"is a {type(got).__name__}, not a floating NumPy array")
    got = np.asarray(got)
    if got.shape != expected.shape:
        return wrong(f"has shape {got.shape} where {expected.shape} was expected")
    if got.dtype.kind != "f" or (dtype is not None and got.dtype != dtype):
        wanted = np.dtype(dtype) if dtype else "a floating dtype"
        return wrong(f"has dtype {got.dtype} where {wanted} was expected")
    if not np.isfinite(expected).all():
        return wrong("has a reference that is not finite")
    if not np.isfinite(got).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(got))[0])
        at = {"index": index, "got": float(got[index]), "expected": float(expected[index])}
        place = f"at {list(index)} " if index else ""
        return wrong(f"{place}is {got[index]} where {expected[index]:.9g} was expected", **at)
    if got.size == 0:
        return Result(name, got.shape, True, True, 0.0, 0.0, error=0.0)

    bound = np.broadcast_to(np.asarray(bound, np.float64), got.shape)
    error = np.abs(got.astype(np.float64) - expected)
    excess = np.maximum(error - underflow, 0)
    beyond = np.where(excess > 0, np.inf, 0.0)
    fraction = np.divide(excess, bound, out=beyond, where=bound > 0)
    index = tuple(int(i) for i in np.unravel_index(np.argmax(fraction), got.shape))
    figures: dict[str, Any] = {
        "exact": bool(np.all(got == expected.astype(got.dtype))),
        "fraction": float(fraction[index]),
        "error": float(error.max()),
        "largest": float(np.abs(expected).max()),
        "index": index,
        "got": float(got[index]),
        "expected": float(expected[index]),
    }
    if np.all(error <= bound + underflow):
        return Result(name, got.shape, True, **figures)
    place = f" at {list(index)}" if index else ""
    found = f"({got.dtype}){place} is {got[index]:.9g} where {expected[index]:.9g} was expected"
    return wrong(f"{found}: an error of {error[index]:.3g}", **figures)


def decide(
    got: np.ndarray,
    value: np.ndarray,
    scale: Callable[[], np.ndarray] | None,
    terms: int,
    largest: float,
    name: str,
    loose: float = 1,
) -> Result:
    """Whether an error is below the TOLERANCE, or within rounding where `scale` finds M.

    largest   the largest number around, to which the absolute part is relative
    """
    relative, absolute = TOLERANCE[got.dtype]
    bound = loose * (relative * np.abs(value) + absolute * largest)
    result = within(got, value, bound, name=name)
    gross = got.dtype == np.float64 and not result.error <= 1e-3 * largest
    if result.ok or scale is None or gross:
        return result
    sure = compare(got, value, scale(), terms, upstream=largest, name=name)
    return sure if sure.ok else result
