"""The derivative of a forward written in NumPy, without torch.

A function f takes its inputs by name and returns a tuple of arrays y; wanted is the gradient of
sum_k dy_k * y_k, where k runs over the elements of all outputs. There are two ways to it:

complex step         f(x + ih) = f(x) + ih f'(x) + O(h^2): with h = 1e-30 the last term is gone and
                     nothing is subtracted, so imag(f(x + ih)) / h is f'(x) to the last digits. Only
                     for what is computed in complex numbers from end to end; abs, var and norm are
                     not (Squire & Trapp 1998).
central differences  the slope of a polynomial through f(x + th) and f(x - th) for eight t, with a
                     bound on its error that is measured by what the fit leaves over.

At a kink, where the derivatives from the left and from the right differ, both ways find the two,
and everything between them is accepted.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

STEP = 1e-30
UNIT = 2.0**-53  # the rounding of one operation in float64
# No multiples of one number, lest they fall into step with floor or with the rounding to float32.
POINTS = (np.arange(1, 9) - np.arange(1, 9) * 0.618034 % 1 / 2) / 8
Arrays = dict[str, np.ndarray]
Outputs = tuple[np.ndarray, ...]
Function = Callable[[Arrays], Outputs]


class NotComplexSafe(ValueError):
    """The complex step cannot differentiate this function."""


@dataclass(frozen=True)
class Derivative:
    """A gradient by name, and what is known about it.

    value      the gradient of sum(dy * y); the middle at a kink
    low, high  what is accepted: value -+ its bound, at a kink from one one-sided derivative to the
               other
    judged     False where there is no finite derivative, as at sqrt(0)
    kinked     True where the one-sided derivatives differ
    ones       the gradient of sum(y)
    method     "complex step" or "central differences"
    """

    value: Arrays
    low: Arrays
    high: Arrays
    judged: Arrays
    kinked: Arrays
    ones: Arrays
    method: str


def complex_step(
    f: Function, inputs: Arrays, dys: Sequence[np.ndarray], wrt: Sequence[str]
) -> Derivative:
    """Two calls of f an element: +ih gives the derivative from the right and -ih that from the
    left, because NumPy orders complex numbers by their real parts first.

    Raises NotComplexSafe where f raises or gives other values in complex numbers, or a slope is too
    large for a derivative. It cannot notice a derivative that abs or conj lost; `derivative` does.
    """
    found = nothing(inputs, wrt, "complex step")
    with quiet():
        y, dy = flat(f(copies(inputs))), flat(dys)
        finite = np.isfinite(y)
        near = 1e-8 * np.abs(y) + 1e-12 * np.abs(y[finite]).max(initial=0)
        wide = {n: a.astype(complex) if n in wrt else a for n, a in inputs.items()}
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        for name in wrt:
            for part in blocks(0, inputs[name].size, 2 * y.size):
                try:
                    rows = np.array(
                        [
                            moved(f, wide, name, i, step)
                            for i in range(part.start, part.stop)
                            for step in (STEP * 1j, -STEP * 1j)
                        ]
                    )
                    same = np.abs(rows.real - y) <= near
                except Exception as error:
                    raise NotComplexSafe(f"{type(error).__name__}: {error}") from None
                slopes = rows.imag / STEP
                slopes[1::2] *= -1
                if not np.all((np.abs(slopes) < 1e12) | ~finite):
                    raise NotComplexSafe(
                        "it overflows in complex numbers, or the slope is infinite"
                    )
                if not np.all(same | ~finite):
                    raise NotComplexSafe("it gives other values in complex numbers")
                add(found, name, part, dy, slopes[0::2], slopes[1::2])
    return found


@dataclass(frozen=True)
class Fit:
    """The least-squares polynomial t, t^2, .. through zero at the places t."""

    slope: np.ndarray  # @ values: the coefficient of t
    rest: np.ndarray  # @ values: what is left over, its squares summing to the variance
    gain: float  # the error of the slope for a rest of 1, with a margin
    total: float  # the error of the slope where every value is wrong by 1

    @classmethod
    def through(cls, t: np.ndarray, degree: int, margin: float) -> "Fit":
        powers = t[:, None] ** np.arange(1, degree + 1)
        inverse = np.linalg.pinv(powers)
        rest = (np.eye(t.size) - powers @ inverse) / np.sqrt(t.size - degree)
        slope = inverse[0]
        return cls(slope, rest, margin * float(np.linalg.norm(slope)), float(np.abs(slope).sum()))

    def __call__(self, values: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray]:
        """values (elements, places, outputs) -> the slopes and their bounds, (elements, outputs);
        inf where a value is no number."""
        slope = np.einsum("t,etk->ek", self.slope, values) / h
        rest = np.linalg.norm(np.einsum("st,etk->esk", self.rest, values), axis=1)
        bound = self.gain * rest / h
        return slope, np.where(np.isfinite(bound), bound, np.inf)


# What is left over underestimates the error of the slope by up to 4 times for smooth functions, 11
# times where a kink is near, 22 times at a kink like x sqrt(x); the margins are above.
BOTH = Fit.through(np.concatenate([POINTS, -POINTS]), 8, 20)
SIDE = Fit.through(POINTS, 5, 60)


def differences(
    f: Function,
    inputs: Arrays,
    dys: Sequence[np.ndarray],
    wrt: Sequence[str],
    windows: Mapping[str, slice] | None = None,
) -> Derivative:
    """Sixteen calls of f an element where it is smooth, and as many again for each 32 times smaller
    step where the bound is still too wide: for a kink, a pole or the border of a domain nearby.

    Where f raises, or is NaN, beside the point, that side is not used. `windows` has the only
    elements of an input to be differentiated; the rest is not judged.
    """
    found = nothing(inputs, wrt, "central differences")
    with quiet():
        y, dy = flat(f(copies(inputs))), flat(dys)
        for name in wrt:
            size, bound = np.zeros(inputs[name].size), np.zeros(inputs[name].size)
            window = (windows or {}).get(name, slice(0, inputs[name].size))
            for part in blocks(window.start or 0, window.stop, 2 * POINTS.size * y.size):
                right, left, bounds = one_sided(f, inputs, name, part, y, dy)
                bound[part] = bounds
                size[part] = add(found, name, part, dy, right, left, bounds)
            known = bound <= 0.1 * size
            enough = 0.1 * np.maximum(size, size[known].max(initial=0))
            sharp = bound <= np.maximum(enough, 1e-3 * np.abs(dy).max(initial=0))
            found.judged[name] &= sharp.reshape(inputs[name].shape)
    return found


def one_sided(
    f: Function, inputs: Arrays, name: str, part: slice, y: np.ndarray, dy: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The derivatives of y from the right and from the left by the elements of `part`, (elements,
    outputs) and equal where y is smooth, and a bound on the error of their sum with dy.

    The narrowest interval of all steps is taken. What is left over by a fit falls with the step,
    unless it is rounding: then smaller steps are no longer asked, as they would see the stairs of
    an f in float32.
    """
    x, weight = inputs[name].reshape(-1)[part], np.abs(dy)
    largest_step = h = first_step(inputs[name])
    own = np.where(x == 0, np.inf, np.abs(x))
    smallest = np.where(x == 0, h * 2.0**-36, own * 2.0**-32)
    best = np.full((5, x.size, y.size), np.inf)
    best[:2] = np.nan
    before, noisy = np.full(best[0].shape, np.inf), np.zeros(best[0].shape, bool)
    went, size_of_y = np.zeros(best[0].shape), 0.0

    def sums(which: np.ndarray) -> tuple[np.ndarray, ...]:
        right, left, error, unit, _ = np.where(dy == 0, 0, weight * best[:, which])
        size = np.maximum(np.abs(left), np.abs(right)).sum(1)
        curable = np.where(noisy[which], 0, error).sum(1)
        return error.sum(1) + np.linalg.norm(unit, axis=1), curable, size, (right != left).any(1)

    open_ = np.arange(x.size)
    while open_.size:
        values = np.array(
            [
                [beside(f, inputs, name, part.start + i, h * t, y) for t in (*POINTS, *-POINTS)]
                for i in open_
            ]
        )
        still = values == y
        size_of_y = max(size_of_y, np.abs(values).max(initial=0, where=np.isfinite(values)))
        left, right, error, rest = interval(np.where(still, 0, values - y), h)
        noisy[open_] |= (rest > before[open_] / 4) & (rest < 1e-6 * np.abs(y))
        # What stands still now, and before had a slope or moved by no more than float32 rounds, is
        # on a stair.
        low, high = np.sort(best[:2, open_], 0) + best[2:4, open_].sum(0) * [[[-1]], [[1]]]
        little = (went[open_] > 0) & (went[open_] < 1e-5 * size_of_y)
        noisy[open_] |= still.all(1) & (little | (low > 0) | (high < 0))
        went[open_] = np.fmax.reduce(np.abs(values - y), 1)
        before[open_] = rest
        unit = UNIT * (np.fmax.reduce(np.abs(values), 1) + np.abs(x[open_, None] * right))
        unit = np.where(still.all(1) & (h == largest_step), 0, BOTH.total * unit / h)
        new = np.array([right, left, error, unit, np.abs(right - left) + 2 * (error + unit)])
        better = (new[-1] < best[-1, open_]) & ~noisy[open_]
        best[:, open_] = np.where(better, new, best[:, open_])
        _, curable, size, kinked = sums(open_)
        sharp = curable <= 1e-10 * size + 1e-12 * weight.max(initial=0)
        sharp &= ~kinked | (h <= own[open_])
        h /= 32
        open_ = open_[~sharp & (h > smallest[open_])]
    relative = (before / np.abs(y))[noisy & (before > 0) & (y != 0)]
    unit = float(np.median(relative)) if relative.size else 0.0
    if fits_float32(y) and not fits_float32(x):
        unit = max(unit, 2.0**-24)
    still = best[3] == 0
    if not unit > 2.0**-40:  # else it may compute in float32, so that y stands still though x moves
        unit, still = UNIT, still & still.all(1, keepdims=True)  # and here when all of it does
    hides = BOTH.total * unit * np.abs(y) / largest_step
    best[3] = np.where(still & np.isfinite(hides), hides, best[3])
    return best[0], best[1], sums(np.arange(x.size))[0]


def interval(moves: np.ndarray, h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """f(x + th) - f(x) for t in POINTS and -POINTS, (elements, 16, outputs) -> the derivatives from
    the left and from the right, equal where they do not differ by more than their errors; the
    bound on both; and what a single polynomial leaves over; (elements, outputs)."""
    n = POINTS.size
    middle, error = BOTH(moves, h)
    right, right_error = SIDE(moves[:, :n], h)
    left, left_error = SIDE(moves[:, n:], h)
    left = -left
    rest = error * h / BOTH.gain
    gap = np.abs(right - left)
    smooth = (gap <= right_error + left_error) | (error < 0.1 * gap)
    smooth &= np.isfinite(error)
    right_is_out, left_is_out = ~np.isfinite(right_error), ~np.isfinite(left_error)
    right = np.where(right_is_out, left, right)
    left = np.where(left_is_out, right, left)
    sides = np.where(
        right_is_out | left_is_out,
        np.minimum(right_error, left_error),
        np.maximum(right_error, left_error),
    )
    return (
        np.where(smooth, middle, left),
        np.where(smooth, middle, right),
        np.where(smooth, error, sides),
        rest,
    )


def nothing(inputs: Arrays, wrt: Sequence[str], method: str) -> Derivative:
    """A Derivative to be filled."""

    def new(dtype: type) -> Arrays:
        return {name: np.zeros(inputs[name].shape, dtype) for name in wrt}

    return Derivative(new(float), new(float), new(float), new(bool), new(bool), new(float), method)


def add(
    found: Derivative,
    name: str,
    part: slice,
    dy: np.ndarray,
    right: np.ndarray,
    left: np.ndarray,
    bound: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Sum the derivatives of every output with dy, and return the sums of the terms' sizes.

    Each output has its own interval: a subgradient may be chosen for each of two kinks.
    """
    found.ones[name].reshape(-1)[part] = (right + left).sum(1) / 2
    ends = np.where(dy == 0, 0, dy * np.array([left, right]))
    low, high = ends.min(0).sum(1), ends.max(0).sum(1)
    finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(bound)
    gap = np.abs(ends[1] - ends[0]) > 1e-9 * np.abs(ends).max(0)
    found.value[name].reshape(-1)[part] = np.where(finite, ends.sum((0, 2)) / 2, 0)
    found.low[name].reshape(-1)[part] = np.where(finite, low - bound, -np.inf)
    found.high[name].reshape(-1)[part] = np.where(finite, high + bound, np.inf)
    found.judged[name].reshape(-1)[part] = finite
    found.kinked[name].reshape(-1)[part] = finite & gap.any(1)
    return np.where(finite, np.abs(ends).max(0).sum(1), 0)


def hidden(size: float, x: np.ndarray) -> float:
    """What slope by x may hide in the rounding of values of that size, at the largest step."""
    return BOTH.total * UNIT * size / first_step(x)


def first_step(x: np.ndarray) -> float:
    return largest(x) / (30 * np.pi)


def flat(outputs: Sequence[np.ndarray]) -> np.ndarray:
    if len(outputs) == 1:
        return np.asarray(outputs[0]).flatten()
    return np.concatenate([np.asarray(y).reshape(-1) for y in outputs])


def copies(inputs: Arrays) -> Arrays:
    return {name: a.copy() for name, a in inputs.items()}


def moved(f: Function, inputs: Arrays, name: str, i: int, step: complex) -> np.ndarray:
    """All outputs with `step` added to element i of an input. The arrays are copies, as f may write
    into them."""
    given = copies(inputs)
    given[name].reshape(-1)[i] += step
    return flat(f(given))


def beside(
    f: Function, inputs: Arrays, name: str, i: int, step: float, y: np.ndarray
) -> np.ndarray:
    """`moved`, NaN where there is no such value."""
    try:
        values = moved(f, inputs, name, i, step)
    except Exception:
        return np.full(y.shape, np.nan)
    return values if values.shape == y.shape else np.full(y.shape, np.nan)


def fits_float32(x: np.ndarray) -> bool:
    return bool(np.all(x == x.astype(np.float32)))


def largest(x: np.ndarray) -> float:
    """The largest magnitude, 1 where there is none."""
    size = float(np.abs(x).max(initial=0))
    return size if 0 < size < np.inf else 1.0


def blocks(first: int, last: int, numbers: int) -> Iterator[slice]:
    """Parts of the elements, with `numbers` of float64 each, that fit in the cache."""
    many = max(1, 2**18 // max(1, numbers))
    return (slice(i, min(i + many, last)) for i in range(first, last, many))


@contextmanager
def quiet() -> Iterator[None]:
    """What is computed beside the point may leave the domain without a word."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
