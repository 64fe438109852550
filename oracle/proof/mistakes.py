"""Which of the mistakes that people make with gradients fits a wrong one: a sentence, or nothing
where none fits or too few numbers speak for one.

Best asked at sizes that are all different, and not 1 or 2: there a factor of n is not one of 2, and
a sum over one axis not one over another. The most specific mistakes are tried first.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from oracle.proof import factors, places, terms
from oracle.proof.wrong import Arrays, Wrong, same

TOLERANCE = 1e-7, 1e-4  # relative, of a float64 gradient and of a narrower one
Elsewhere = Callable[[str | None, np.ndarray], tuple[Any, np.ndarray] | None]


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
    again: Any = None,
    random: bool = False,
    elsewhere: Elsewhere | None = None,
) -> str:
    """What fits the gradient `got`, whose right value is expected[name]; "" if it is right or
    nothing fits.

    expected   the right value of every gradient, to see whether two are swapped
    sizes      by the names that the sentence should use
    inputs     of the forward; integer ones are taken for indices of rows
    ones       what the gradient would be if dy were all ones
    without    and what without one of its paths to the loss, by the path's name
    again      what a second call with the same arguments returned
    random     whether the forward returns another y each time
    elsewhere  (input, values) -> the gradient and the right one where that input, or for None dy,
               has other values; None where they cannot be found
    """
    if random:
        return "the forward is random: let it draw from a generator that each call makes anew"
    want = np.asarray(expected[name], np.float64)
    if not isinstance(got, np.ndarray | np.floating):
        return ""
    got, dtype = np.asarray(got), got.dtype
    if dtype.kind != "f" or got.size == 0 or not np.isfinite(want).all():
        return ""
    with np.errstate(all="ignore"):
        tolerance = TOLERANCE[dtype != np.float64]
        got = np.asarray(got, np.float64)
        inputs = inputs or {}
        x = inputs.get(name.removeprefix("d"))
        if not np.isfinite(got).all():
            return places.not_finite(got, want, x, dtype) if got.shape == want.shape else ""
        others = {n: a for n, a in expected.items() if n != name and same(got, a, tolerance)}
        if got.shape != want.shape:
            return wrong_shape(got, want, tolerance, min(others, default=""))
        if got.size < 2:
            return ""
        wrong = Wrong(got, want, sizes, inputs, x, dy, tolerance)
        if again is not None and np.shape(again) == got.shape:
            kept = between_calls(wrong, np.asarray(again, np.float64))
            if kept:
                return kept
        if np.abs(want).max() <= 1e-9 * np.abs(got).max():
            return ""
        error, size = np.abs(got - want), np.abs(want)
        if error.max() <= 1e-11 * size.max():
            return ""
        if (error <= 2e-3 * size + 2e-5 * size.max()).all():
            exact = replace(wrong, tolerance=max(1e-3 * error.max() / size.max(), 1e-13))
            found = explained(exact, ones, min(others, default=""), without or {}, elsewhere)
            return found or factors.few_digits(wrong, dtype)
        found = (
            explained(wrong, ones, min(others, default=""), without or {}, elsewhere)
            or terms.normalisation_term(wrong)
            or places.clipped(wrong)
            or factors.scaled_to_norm_1(wrong)
            or factors.plain_factor(wrong)
            or terms.decay(wrong)
            or places.place(wrong)
        )
        where = unseen(wrong, inputs, elsewhere) if elsewhere else ""
        return "; ".join(filter(None, (found, where)))


def explained(
    wrong: Wrong,
    ones: np.ndarray | None,
    other: str,
    without: Arrays,
    elsewhere: Elsewhere | None,
) -> str:
    """The mistakes that give the numbers of the gradient themselves."""
    if not wrong.got.any():
        return "it is all zeros"
    if ones is not None and wrong.is_(ones):
        return "the upstream gradient is ignored: this is the gradient for one of all ones"
    if elsewhere and wrong.dy is not None:
        squared = elsewhere(None, wrong.dy**2)
        if squared and wrong.is_(squared[1]):
            return "the upstream gradient is used twice: this is the right gradient for dy * dy"
    found = factors.input_factor(wrong) or factors.size_factor(wrong)
    if found:
        return found
    if other:
        return f"this is {other}: two gradients are swapped"
    for path, part in without.items():
        if wrong.is_(part):
            return f"what comes through {path} is missing"
    found = (
        places.order(wrong)
        or places.signs(wrong)
        or terms.softmax_term(wrong)
        or terms.cross_entropy_term(wrong)
        or terms.other_slope(wrong)
        or terms.indexed_rows(wrong)
    )
    if not found and wrong.elementwise and wrong.is_(wrong.dy):
        return "it is dy unchanged: the slope of the operation is missing"
    return found


def between_calls(wrong: Wrong, again: np.ndarray) -> str:
    for growth in (again - wrong.got, wrong.got - again):
        if same(growth, wrong.want, wrong.tolerance):
            return "it accumulates between calls: each adds its gradient to the one before"
    if wrong.is_(again):
        return ""
    return "a second call with the same arguments returns others: something is kept, or random"


def unseen(wrong: Wrong, inputs: Arrays, elsewhere: Elsewhere) -> str:
    """At which tame values the gradient is right, as a test that uses them passes."""

    def right(name: str | None, values: np.ndarray) -> bool:
        found = elsewhere(name, values)
        if found is None or np.shape(found[0]) != found[1].shape:
            return False
        got, want = (np.asarray(a, np.float64) for a in found)
        if name is not None and not np.abs(want).max(initial=0) > 0.01 * np.abs(wrong.want).max():
            return False  # all zeros prove nothing
        scale = max(np.abs(want).max(initial=0), np.abs(wrong.want).max())
        return bool((np.abs(got - want) <= wrong.tolerance * scale).all())

    if wrong.dy is not None and right(None, np.ones_like(wrong.dy)):
        if wrong.dy.size == 1:
            return "it is right for dy = 1, which is why a test that starts at the loss passes"
        return "it is right where dy is all ones, which is why a test with y.sum() passes"
    for name, values in list(inputs.items())[1:]:
        if values.dtype.kind == "f" and values.ndim < 2:
            for value in (1, 0):
                if right(name, np.full_like(values, value)):
                    return f"it is right for {name} = {value}, which is why a test there passes"
    return ""


def wrong_shape(got: np.ndarray, want: np.ndarray, tolerance: float, other: str) -> str:
    def fits(a: np.ndarray, value: np.ndarray) -> bool:
        return a.size == value.size and same(np.reshape(a, value.shape), value, tolerance)

    if got.ndim == want.ndim:
        for i, j in itertools.combinations(range(got.ndim), 2):
            if fits(got.swapaxes(i, j), want) and got.swapaxes(i, j).shape == want.shape:
                return "it is transposed" if got.ndim == 2 else f"axes {i} and {j} are swapped"
    if fits(got, want):
        return (
            "the numbers are right, but their shape only broadcasts: keepdims=True, or a reshape "
            f"to {want.shape}"
        )
    for axes in subsets(got):
        if fits(got.sum(axes), want):
            return (
                f"the sum over {spoken(axes)} is missing, along which the forward repeated the "
                "value"
            )
        if fits(got.mean(axes), want):
            return f"the mean over {spoken(axes)} is missing"
    for axes in subsets(want):
        if fits(got, want.sum(axes)):
            return (
                f"it is summed over {spoken(axes)}, along which the forward did not repeat the "
                "value"
            )
    if other:
        return f"this is {other}: two gradients are swapped"
    try:
        if np.broadcast_shapes(got.shape, want.shape) == want.shape:
            return f"the shape {got.shape} only broadcasts to {want.shape}"
    except ValueError:
        pass
    return "its shape is that of the transpose" if got.shape == want.shape[::-1] else ""


def subsets(a: np.ndarray) -> list[tuple[int, ...]]:
    """The sets of axes that are longer than 1."""
    long = [axis for axis in range(a.ndim) if a.shape[axis] > 1]
    return [
        axes for count in range(1, len(long) + 1) for axes in itertools.combinations(long, count)
    ]


def spoken(axes: tuple[int, ...]) -> str:
    return ("axis " if len(axes) == 1 else "axes ") + " and ".join(map(str, axes))
