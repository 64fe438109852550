"""Which of the mistakes that people make with gradients fits a wrong one: a sentence, or nothing
where none fits.

Best asked at sizes that are all different, and not 1 or 2: there a factor of n is not one of 2, and
a sum over one axis not one over another.
"""

import itertools
import math
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def likely_mistake(
    name: str,
    got: Any,
    expected: Arrays,
    *,
    sizes: dict[str, int],
    inputs: Arrays | None = None,
    dy: np.ndarray | None = None,
    ones: np.ndarray | None = None,
    without: Arrays | None = None,
) -> str:
    """What fits the gradient `got`, whose right value is expected[name]; "" if it is right or
    nothing fits.

    expected  the right value of every gradient, to see whether two are swapped
    sizes     by the names that the sentence should use
    inputs    of the forward; integer ones are taken for indices of rows
    ones      what the gradient would be if dy were all ones
    without   and what without one of its paths to the loss, by the path's name
    """
    want = expected[name]
    if not isinstance(got, np.ndarray | np.floating):
        return ""
    got = np.asarray(got)
    if got.dtype.kind != "f" or not np.isfinite(got).all() or got.size == 0 or close(got, want):
        return ""
    for other, value in expected.items():
        if other != name and close(got, value):
            return f"this is {other}: two gradients are swapped"
    if got.shape != want.shape:
        return wrong_shape(got, want)
    if not got.any():
        return "it is all zeros"
    if ones is not None and close(got, ones):
        return f"the upstream gradient is ignored: this is {name} for an upstream of all ones"
    for path, part in (without or {}).items():
        if close(got, part):
            return f"what comes through {path} is missing"
    if got.ndim == 2 and close(got.T, want):
        return "it is transposed"
    inputs = inputs or {}
    return (
        factor(got, want, sizes)
        or lost_duplicates(got, want, [a for a in inputs.values() if a.dtype.kind in "iu"])
        or missing_term(got, want, inputs.get(name.removeprefix("d")), dy, inputs)
        or some_right(got, want)
    )


def close(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in shape and, up to far more than rounding and far less than a mistake, in numbers."""
    tolerance = 1e-3 if np.float32 in (a.dtype, b.dtype) else 1e-7
    return a.shape == b.shape and bool(
        np.abs(a - b).max(initial=0) <= tolerance * np.abs(b).max(initial=0)
    )


def wrong_shape(got: np.ndarray, want: np.ndarray) -> str:
    if got.ndim == 2 and close(got.T, want):
        return "it is transposed"
    for axes in subsets(got.ndim):
        if got.size > want.size and close_as(got.sum(axes), want):
            return f"the sum over {spoken(axes)} is missing, along which the forward repeated the value"
        if got.size > want.size and close_as(got.mean(axes), want):
            return f"the mean over {spoken(axes)} is missing"
    for axes in subsets(want.ndim):
        if got.size < want.size and close_as(want.sum(axes), got):
            return f"it is summed over {spoken(axes)}, along which the forward did not repeat the value"
    if close_as(got, want):
        return f"the numbers are right, but their shape only broadcasts: keepdims=True, or a reshape to {want.shape}"
    try:
        if np.broadcast_shapes(got.shape, want.shape) == want.shape:
            return f"the shape {got.shape} only broadcasts to {want.shape}"
    except ValueError:
        pass
    return "its shape is that of the transpose" if got.shape == want.shape[::-1] else ""


def close_as(a: np.ndarray, want: np.ndarray) -> bool:
    return a.size == want.size and close(np.reshape(a, want.shape), want)


def subsets(ndim: int) -> list[tuple[int, ...]]:
    """The sets of one or more axes."""
    return [
        axes for count in range(1, ndim + 1) for axes in itertools.combinations(range(ndim), count)
    ]


def spoken(axes: tuple[int, ...]) -> str:
    return ("axis " if len(axes) == 1 else "axes ") + " and ".join(map(str, axes))


def factor(got: np.ndarray, want: np.ndarray, sizes: dict[str, int]) -> str:
    r = float(np.vdot(got, want) / np.vdot(want, want)) if np.any(want) else 0.0
    if r == 0 or not close(got, r * want):
        return ""
    if math.isclose(r, -1, rel_tol=1e-3):
        return "the sign is wrong"
    tolerance = 1e-3 if got.dtype == np.float32 else 1e-6
    sign = "the sign is wrong, and " if r < 0 else ""
    for meaning, value in meanings(sizes):
        if value != 1 and math.isclose(abs(r), value, rel_tol=tolerance):
            return sign + meaning
    return f"{sign}it is the right gradient times a factor of {abs(r):.6g}"


def meanings(sizes: dict[str, int]) -> list[tuple[str, float]]:
    """What a factor can mean. A size whose name is a number is one that may have been written for
    another."""
    found: list[tuple[str, float]] = [
        (f"it is the right gradient times {value}", value) for value in (2, 0.5, 4, 0.25)
    ]
    for a, b in itertools.permutations(sizes, 2):
        if a.isdigit() != b.isdigit():
            digits, letter = (a, b) if a.isdigit() else (b, a)
            found.append((f"{digits} stands for {letter}", sizes[a] / sizes[b]))
            if min(sizes[a], sizes[b]) > 1:
                found.append(
                    (f"{int(digits) - 1} stands for {letter} - 1", (sizes[a] - 1) / (sizes[b] - 1))
                )
    for name, n in sizes.items():
        if n > 1:
            found.append(
                (
                    f"a factor {name}/({name} - 1) is missing: {name} stands for {name} - 1",
                    (n - 1) / n,
                )
            )
            found.append(
                (
                    f"a factor {name}/({name} - 1) is too many: {name} - 1 stands for {name}",
                    n / (n - 1),
                )
            )
    for count in (1, 2):
        for names in itertools.combinations(sizes, count):
            over, n = " ".join(names), math.prod(sizes[name] for name in names)
            inverse = f"1/{over}" if count == 1 else f"1/({over})"
            found.append((f"the mean over {over} stands for the sum: a factor of {inverse}", 1 / n))
            found.append((f"the sum over {over} stands for the mean: a factor of {over}", n))
    found += [(f"a factor 1/sqrt({name}) too many", n**-0.5) for name, n in sizes.items()]
    found += [(f"a factor 1/sqrt({name}) is missing", n**0.5) for name, n in sizes.items()]
    return found


def lost_duplicates(got: np.ndarray, want: np.ndarray, indices: list[np.ndarray]) -> str:
    for ids in indices:
        if got.ndim == 0 or ids.size == 0 or ids.min() < 0 or ids.max() >= len(got):
            continue
        repeated = np.bincount(ids.ravel(), minlength=len(got)) > 1
        wrong = ~np.isclose(got, want, rtol=1e-3 if got.dtype == np.float32 else 1e-7, atol=1e-12)
        wrong_rows = wrong.reshape(len(got), -1).any(1)
        if wrong_rows[repeated].any() and not wrong_rows[~repeated].any():
            return "duplicates are lost: only rows whose index is repeated are wrong; use np.add.at, not d[ids] += dy"
    return ""


def missing_term(
    got: np.ndarray, want: np.ndarray, x: np.ndarray | None, dy: np.ndarray | None, inputs: Arrays
) -> str:
    """A normalisation's gradient is a multiple of the centred g, less a multiple of the centred x,
    along an axis."""
    error = got.astype(np.float64) - want
    for axis in range(got.ndim):
        n = got.shape[axis]
        if n < 3:
            continue
        if along(error, np.ones_like(error), axis):
            return f"the term through the mean over axis {axis} is missing or wrong: the error is constant along it"
        if x is None or x.shape != got.shape or not along(error, centred(x, axis), axis):
            continue
        where = f"in the term through the variance over axis {axis}"
        gains = [a for a in inputs.values() if a.dtype.kind == "f" and a.shape == (got.shape[-1],)]
        for g in (
            [dy * a for a in (1.0, *gains)] if dy is not None and dy.shape == got.shape else []
        ):
            if along(got, centred(g, axis), axis):
                return f"the term through the variance over axis {axis} is missing"
            if along(want + n * error, centred(g, axis), axis):
                return f"a factor n/(n - 1) is missing {where}: n = {n} stands for n - 1"
            if along(want - (n - 1) * error, centred(g, axis), axis):
                return f"a factor n/(n - 1) is too many {where}: n - 1 stands for n = {n}"
        return f"something is wrong {where}: the error is proportional to the centred x"
    return ""


def centred(x: np.ndarray, axis: int) -> np.ndarray:
    return x - x.mean(axis, keepdims=True)


def along(a: np.ndarray, b: np.ndarray, axis: int) -> bool:
    """Whether a is a multiple of b in every line along the axis, and not 0."""
    scale = (a * b).sum(axis, keepdims=True) / np.maximum((b * b).sum(axis, keepdims=True), 1e-300)
    return bool(np.any(a)) and bool(np.abs(a - scale * b).max() <= 1e-4 * np.abs(a).max())


def some_right(got: np.ndarray, want: np.ndarray) -> str:
    right = int(
        np.isclose(got, want, rtol=1e-3 if got.dtype == np.float32 else 1e-7, atol=1e-12).sum()
    )
    return f"{right} of its {got.size} elements are right" if 0 < right < got.size else ""
