"""The one comparison: is an array equal to its float64 reference up to rounding?

An error is measured against the terms that were summed, not against the sum, which may have
cancelled: `q = |error| / (u * M)`, where u is half the machine epsilon of the checked dtype, M the
elementwise sum of |terms| and K their number. Accepted is

    |error| <= 16 * u * M * max(1, sqrt(K) / 4)  +  K * tiny * max(1, max|dy|)

Shape, dtype and finiteness come before values, and nothing broadcasts. For many operations M is a
formula (`oracle.ops`); where there is none, `rounding_scale` measures it by Monte Carlo arithmetic.
Left out on purpose: relative and absolute tolerances chosen by hand.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

HEADINGS = {
    "en": ("exact", "approximate", "largest difference"),
    "ko": ("실제값", "추정값", "최대차이값"),
}


@dataclass(frozen=True)
class Result:
    """What `compare` found: `q` and `limit` at the worst element, the largest `error`, a sentence
    if not `ok`."""

    name: str
    shape: tuple[int, ...]
    ok: bool
    exact: bool = False
    q: float = np.inf
    limit: float = 16.0
    error: float = np.nan
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
    reproduce: str = "",
) -> Result:
    """Decide whether `got` is the float64 array `expected` up to the rounding errors of its own
    dtype.

    scale     M, the elementwise sum of |terms|; anything that broadcasts to expected
    terms     K, the number of terms in the longest sum
    upstream  max|dy|, which bounds what an underflow can have grown to
    dtype     the dtype `got` must have; without it, any floating one
    """
    expected = np.asarray(expected, np.float64)
    ending = (f" {context}." if context else "") + (
        f"\nReproduce: {reproduce}" if reproduce else ""
    )

    def wrong(sentence: str, **figures: Any) -> Result:
        return Result(name, expected.shape, False, message=f"{name} {sentence}.{ending}", **figures)

    if not isinstance(got, np.ndarray | np.floating):
        return wrong(f"is a {type(got).__name__}, not a floating NumPy array")
    got = np.asarray(got)
    if got.shape != expected.shape:
        return wrong(f"has shape {got.shape} where {expected.shape} was expected")
    if got.dtype.kind != "f" or (dtype is not None and got.dtype != dtype):
        return wrong(
            f"has dtype {got.dtype} where {np.dtype(dtype) if dtype else 'a floating dtype'} was expected"
        )
    if not np.isfinite(expected).all():
        return wrong("has a reference that is not finite")
    if not np.isfinite(got).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(got))[0])
        at = {"index": index, "got": float(got[index]), "expected": float(expected[index])}
        place = f"at {list(index)} " if index else ""
        return wrong(f"{place}is {got[index]} where {expected[index]:.9g} was expected", **at)
    if got.size == 0:
        return Result(name, got.shape, True, True, 0.0, error=0.0)

    info = np.finfo(got.dtype)
    unit = float(info.eps) / 2 * np.broadcast_to(np.asarray(scale, np.float64), got.shape)
    limit = 16 * np.maximum(1, np.sqrt(terms) / 4)
    underflow = np.asarray(terms) * float(info.tiny) * max(1.0, float(upstream))
    error = np.abs(got.astype(np.float64) - expected)
    excess = np.maximum(error - underflow, 0)
    q = np.divide(excess, unit, out=np.where(excess > 0, np.inf, 0.0), where=unit > 0)
    fraction = q / limit
    index = tuple(int(i) for i in np.unravel_index(np.argmax(fraction), got.shape))
    figures: dict[str, Any] = {
        "exact": bool(np.all(got == expected.astype(got.dtype))),
        "q": float(q[index]),
        "limit": float(np.broadcast_to(limit, got.shape)[index]),
        "error": float(error.max()),
        "index": index,
        "got": float(got[index]),
        "expected": float(expected[index]),
    }
    if np.all(error <= limit * unit + underflow):
        return Result(name, got.shape, True, **figures)
    place = f" at {list(index)}" if index else ""
    return wrong(
        f"({got.dtype}){place} is {got[index]:.9g} where {expected[index]:.9g} was expected: an error of "
        f"{error[index]:.3g}, q = {figures['q']:.3g} units of rounding where {figures['limit']:.3g} are allowed",
        **figures,
    )


def assert_close(
    got: Any, expected: np.ndarray, scale: Any, terms: Any = 1, **details: Any
) -> Result:
    """`compare`, raising `Mismatch` with its sentence when the answer is no."""
    result = compare(got, expected, scale, terms, **details)
    if not result.ok:
        raise Mismatch(result.message, result)
    return result


def heading(language: str = "en", width: int = 24) -> str:
    """The line above a table of `row`s."""
    exact, approximate, difference = HEADINGS[language]
    return f"{'':{width}} {'':>14}  {exact} | {approximate} | {difference} | q / limit"


def row(result: Result, language: str = "en", width: int = 24) -> str:
    """One line: name, shape, exactly and approximately equal, largest difference, units of rounding
    / allowed."""
    exact, approximate, difference = HEADINGS[language]
    return (
        f"{result.name:{width}} {result.shape!s:>14}  {exact}: {result.exact!s:5} | {approximate}: {result.ok!s:5} | "
        f"{difference}: {result.error:.2e} | {result.q:.2f} / {result.limit:.0f}"
    )


# What only moves data rounds nothing. (Views are recognised by their schema.)
MOVES = {
    "_to_copy",
    "_unsafe_view",
    "cat",
    "clone",
    "copy",
    "copy_",
    "embedding",
    "fill_",
    "gather",
    "index",
}
MOVES |= {
    "index_select",
    "masked_fill",
    "neg",
    "select_backward",
    "slice_backward",
    "stack",
    "where",
    "zero_",
}


class Rounding(TorchDispatchMode):
    """Monte Carlo arithmetic: each floating result of a primitive, forward and backward, times 1 +
    size * N(0, 1)."""

    def __init__(self, size: float, seed: int):
        super().__init__()
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)

    def perturb(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(self.perturb, value))
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            return value
        noise = torch.empty_like(value, dtype=torch.float64).normal_(generator=self.generator)
        return value * noise.mul_(self.size).add_(1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        aliases = [out.alias_info for out in func._schema.returns if out.alias_info is not None]
        if func.overloadpacket.__name__ in MOVES or any(not alias.is_write for alias in aliases):
            return result
        return result.copy_(self.perturb(result)) if aliases else self.perturb(result)


def rounding_scale(
    function: Callable[..., Sequence[torch.Tensor]],
    arrays: Sequence[Any],
    runs: int = 8,
    seed: int = 0,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The values of a float64 torch function and, measured for each, the M of `compare`: ([value,
    ...], [M, ...]).

    The rule where no formula is known (Monte Carlo arithmetic, Parker 1997): run the function,
    autograd and all, again with every input and every result of a primitive multiplied by 1 + 2^-26
    N(0, 1). What the result moves by, in units of 2^-26, is what rounding can do to it,
    cancellation inside the forward and the backward included: M = |value| + 2^26 * mean |value of a
    run - value|.

    function  takes the arrays as tensors, calls `requires_grad_` and `torch.autograd.grad` itself
              and returns tensors
    """
    size = 2.0**-26
    kinds = [np.float64 if np.asarray(a).dtype.kind == "f" else None for a in arrays]
    tensors = [
        torch.from_numpy(np.array(a, kind, order="C"))
        for a, kind in zip(arrays, kinds, strict=True)
    ]
    values = [v.detach().numpy() for v in function(*(t.clone() for t in tensors))]
    moved = [np.zeros(v.shape) for v in values]
    for run in range(runs):
        rounding = Rounding(size, seed + run)
        inputs = [rounding.perturb(t).clone() for t in tensors]
        with rounding:
            result = function(*inputs)
        for total, value, perturbed in zip(moved, values, result, strict=True):
            total += np.abs(perturbed.detach().numpy() - value)
    return values, [
        np.abs(v) + m / (max(runs, 1) * size) for v, m in zip(values, moved, strict=True)
    ]
