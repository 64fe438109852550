"""What the ratio of a wrong gradient to the right one means: a size, a constant, an input."""

import itertools
import math

import numpy as np

from oracle.proof.wrong import Wrong, distinct, same

CONSTANTS = {
    "sqrt(2/pi)": math.sqrt(2 / math.pi),
    "1/sqrt(2 pi)": 1 / math.sqrt(2 * math.pi),
    "2/sqrt(pi)": 2 / math.sqrt(math.pi),
    "sqrt(pi)": math.sqrt(math.pi),
    "pi": math.pi,
    "e": math.e,
    "ln 2": math.log(2),
    "1/ln 2": 1 / math.log(2),
    "ln 10": math.log(10),
    "log10 e": math.log10(math.e),
    "sqrt(2)": math.sqrt(2),
    "1/sqrt(2)": math.sqrt(0.5),
    "sqrt(3)": math.sqrt(3),
    "1/3": 1 / 3,
    "2/3": 2 / 3,
    "1/6": 1 / 6,
    "SELU's scale": 1.0507009873554805,
    "SELU's alpha": 1.6732632423543772,
}
REPEATED_MEAN = "rows whose index is repeated are divided by how often it is: a mean for a sum"


def ratio(wrong: Wrong) -> float | None:
    """The number that the right gradient is multiplied by, if there is one."""
    got, want = wrong.got, wrong.want
    r = float(np.vdot(got, want) / np.vdot(want, want)) if want.any() else 0.0
    return r if r and wrong.is_(r * want) else None


def size_factor(wrong: Wrong) -> str:
    """A factor that the sizes explain."""
    r = ratio(wrong)
    if r is None:
        return ""
    if math.isclose(r, -1, rel_tol=10 * wrong.tolerance):
        return "the sign is wrong"
    fitting = [
        meaning
        for meaning, value in meanings(wrong)
        if value != 1 and math.isclose(abs(r), value, rel_tol=0.1 * wrong.tolerance)
    ]
    if not fitting:
        return ""
    sign = "the sign is wrong, and " if r < 0 else ""
    if len(fitting) > 2:  # at these sizes it can be anything
        return plain_factor(wrong)
    return sign + ", or ".join(fitting)


def meanings(wrong: Wrong) -> list[tuple[str, float]]:
    """What a factor can mean. A size whose name is a number is one that may have been written for
    another."""
    sizes = wrong.sizes
    found: list[tuple[str, float]] = [
        (f"it is the right gradient times {value}", value) for value in (2, 0.5, 4, 0.25)
    ]
    for a, b in itertools.permutations(sizes, 2):
        if a.isdigit() != b.isdigit():
            digits, letter = (a, b) if a.isdigit() else (b, a)
            found.append((f"{digits} stands for {letter}", sizes[a] / sizes[b]))
            if min(sizes[a], sizes[b]) > 1:
                less = (sizes[a] - 1) / (sizes[b] - 1)
                found.append((f"{int(digits) - 1} stands for {letter} - 1", less))
    letters = {name: n for name, n in sizes.items() if n > 1 and not name.isdigit()}
    for name, n in letters.items():
        found += [
            (f"a factor {name}/({name} - 1) is missing: {name} stands for {name} - 1", (n - 1) / n),
            (
                f"a factor {name}/({name} - 1) is too many: {name} - 1 stands for {name}",
                n / (n - 1),
            ),
            (f"a factor 1/sqrt({name}) too many", n**-0.5),
            (f"a factor 1/sqrt({name}) is missing", n**0.5),
            (f"a factor 1/{name}^2 too many", n**-2.0),
        ]
    for count in (1, 2):
        for names in itertools.combinations(letters, count):
            over, n = " ".join(names), math.prod(letters[name] for name in names)
            by = over if count == 1 else f"({over})"
            found.append((f"it is divided by {by}: the mean over {over} stands for the sum", 1 / n))
            found.append((f"it is not divided by {by}: the sum over {over} stands for the mean", n))
    outputs = 1 if wrong.dy is None else wrong.dy.size
    if not any(math.isclose(value, outputs) for _, value in found):
        whole = f"y.mean() stands for y.sum(): a factor of 1/{outputs}, one over the size of y"
        found.append((whole, 1 / outputs))
    for ids in wrong.inputs.values():
        if ids.dtype.kind not in "iu":
            continue
        times = set(np.unique(ids, return_counts=True)[1].tolist())
        if len(times) == 1:
            found.append((REPEATED_MEAN, 1 / times.pop()))
        if 0 < (ids >= 0).sum() < ids.size:
            counted = int((ids >= 0).sum())
            divided = f"it is divided by {ids.size}, where {counted} targets are not masked"
            found.append((divided, counted / ids.size))
    return found


def input_factor(wrong: Wrong) -> str:
    """A factor that is one of the inputs, or the upstream gradient."""
    got, want, dy = wrong.got, wrong.want, wrong.dy
    if dy is not None and (dy.shape == got.shape or dy.size == 1) and wrong.is_(want * dy):
        return "the upstream gradient is used twice: this is the right gradient times dy"
    for name, factor in wrong.inputs.items():
        if factor.dtype.kind != "f" or factor.size == 0 or not telling(factor):
            continue
        for a in placements(factor, got.shape):
            if wrong.would_be_right(got * a):
                return f"a factor {name} is missing: times {name} it is right"
            if wrong.is_(want * a):
                return f"a factor {name} is too many: divided by {name} it is right"
    return ""


def telling(factor: np.ndarray) -> bool:
    """Whether it can be told from the plain numbers that sizes make."""
    first = float(factor.flat[0])
    return bool(np.any(factor != first)) if factor.size > 1 else first * 12 % 1 != 0


def placements(a: np.ndarray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The ways in which it fits along the axes of the shape."""
    if a.size == 1:
        return [a.reshape(())]
    return [
        a.reshape((1,) * axis + a.shape + (1,) * (len(shape) - axis - a.ndim))
        for axis in range(len(shape) - a.ndim + 1)
        if shape[axis : axis + a.ndim] == a.shape
    ]


def plain_factor(wrong: Wrong) -> str:
    """One factor for all elements, or one along an axis, that nothing explains. Few elements prove
    none: three channels of a layer norm have but one direction for a gradient."""
    got, want = wrong.got, wrong.want
    r = ratio(wrong)
    if r is not None and distinct(want) >= 5:
        sign = "the sign is wrong, and " if r < 0 else ""
        return f"{sign}all elements are the right ones times {abs(r):.6g}: only a factor is wrong"
    for axis in range(got.ndim if got.ndim > 1 else 0):
        others = tuple(i for i in range(got.ndim) if i != axis)
        squares = (want * want).sum(others, keepdims=True)
        if not squares.all() or min(distinct(row) for row in np.moveaxis(want, axis, 0)) < 5:
            continue
        r_each = (got * want).sum(others, keepdims=True) / squares
        off = np.abs(r_each - 1) > 1e-3
        if r_each.all() and off.mean() > 0.5 and wrong.is_(r_each * want):
            return f"only a factor is wrong, another one for each index along axis {axis}"
    return ""


def scaled_to_norm_1(wrong: Wrong) -> str:
    r = ratio(wrong)
    if r is None or r < 0 or distinct(wrong.want) < 3:
        return ""
    if math.isclose(np.linalg.norm(wrong.got), 1, rel_tol=10 * wrong.tolerance):
        return "it is scaled to norm 1: clipping belongs to the optimiser"
    return ""


def few_digits(wrong: Wrong, dtype: np.dtype) -> str:
    """What leaves a gradient right to some digits."""
    got, want = wrong.got, wrong.want
    large = np.abs(want) > 0.01 * np.abs(want).max()
    off = got[large] / want[large] - 1
    typical, worst = float(np.median(np.abs(off))), float(np.abs(off).max())
    if off.size < 3 or typical < (1e-11 if dtype == np.float64 else 1e-6):
        return ""
    digits = max(1, round(-math.log10(typical)))
    if dtype != np.float64:
        return (
            f"about {digits} digits are right: a long sum in {dtype}, a difference of large "
            "numbers, or a constant or eps with too few digits"
        )
    for narrow in (np.float16, np.float32):
        if worst < 8 * np.finfo(narrow).eps and of_dtype(wrong, narrow):
            return f"it is computed in {np.dtype(narrow)}: its numbers are exactly such ones"
    inexact = (
        "with a rounded constant, another eps, an approximation, or a small term that is missing"
    )
    if worst < 2e-6:
        inexact = "where something inside is float32 or a constant has too few digits"
    r = 1 + float(off.mean())
    if np.ptp(off) <= 1e-2 * abs(r - 1) and distinct(want) >= 3:
        named = constant(r)
        if named or distinct(want) >= 5:
            how = f"a factor is right to about {digits} digits: all elements are off by as much, as"
            return named or f"{how} {inexact}"
    return gelu_constant(wrong) or f"about {digits} digits are right in every element, as {inexact}"


def of_dtype(wrong: Wrong, narrow: type) -> bool:
    """Whether the gradient, or the slope that dy was multiplied by, has but the narrow type's
    digits."""
    slopes = [wrong.got]
    if wrong.dy is not None and wrong.dy.shape == wrong.got.shape and wrong.dy.all():
        slopes.append(wrong.got / wrong.dy)
    return any(
        distinct(a) >= 3 and np.all(np.abs(a.astype(narrow) - a) <= 4e-16 * np.abs(a))
        for a in slopes
    )


def shortened(value: float) -> list[tuple[str, float]]:
    """The number cut off or rounded after 2 to 9 digits, as people write it."""
    before = math.floor(math.log10(value)) + 1
    found = {}
    for digits in range(2, 10):
        scale = 10.0 ** (digits - before)
        for short in (math.floor(value * scale) / scale, round(value * scale) / scale):
            found[f"{short:.{digits}g}"] = short
    return [(text, short) for text, short in found.items() if short != value]


def constant(r: float) -> str:
    for name, value in CONSTANTS.items():
        for text, short in shortened(value):
            for factor in (short / value, value / short):
                if abs(r - factor) <= 1e-5 * abs(factor - 1) + 1e-15 and abs(factor - 1) > 1e-10:
                    return f"{text} stands for {name} = {value:.10g}"
    return ""


def gelu_constant(wrong: Wrong) -> str:
    """Whether one of GELU's constants has too few digits."""
    if wrong.elementwise is None:
        return ""
    x, dy = wrong.elementwise
    for slope, constants in (
        (gelu_tanh_slope, {"sqrt(2/pi)": math.sqrt(2 / math.pi), "0.044715": 0.044715}),
        (gelu_slope, {"1/sqrt(2)": math.sqrt(0.5), "1/sqrt(2 pi)": (2 * math.pi) ** -0.5}),
    ):
        if not wrong.would_be_right(dy * slope(x, *constants.values())):
            continue
        for i, (name, value) in enumerate(constants.items()):
            for text, short in shortened(value):
                others = [short if i == j else c for j, c in enumerate(constants.values())]
                error = dy * slope(x, *others) - dy * slope(x, *constants.values())
                if same(wrong.got - wrong.want, error, 1e-3):
                    return f"{text} stands for {name}"
    return ""


def gelu_slope(x: np.ndarray, a: float = 0.5**0.5, b: float = (2 * math.pi) ** -0.5) -> np.ndarray:
    """Of x (1 + erf(a x)) / 2, b being the density's constant."""
    erf = np.reshape([math.erf(a * v) for v in x.ravel().tolist()], x.shape)
    return 0.5 * (1 + erf) + x * b * np.exp(-x * x / 2)


def gelu_tanh_slope(
    x: np.ndarray, a: float = (2 / math.pi) ** 0.5, b: float = 0.044715
) -> np.ndarray:
    """Of x (1 + tanh(a (x + b x**3))) / 2."""
    t = np.tanh(a * (x + b * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * a * (1 + 3 * b * x * x)
