"""Derivatives without torch: exact where they can be, else with a bound that holds."""

import itertools
import math
import warnings

import numpy as np
import pytest

from oracle.proof.numeric import (
    NotComplexSafe,
    complex_step,
    confirm,
    derivative,
    differences,
    rounding_of,
    sensitivity,
)
from oracle.proof.rounded import SIZE, rounded

WAYS = {"complex step": complex_step, "central differences": differences}


def of(way, f, dy=None, **inputs):
    """The Derivative of f(*inputs.values()) with respect to all that is floating."""
    inputs = {name: np.asarray(a) for name, a in inputs.items()}

    def outputs(given):
        with np.errstate(all="ignore"):
            y = f(*given.values())
        return y if isinstance(y, tuple) else (y,)

    dys = dy or [np.ones(np.shape(y)) for y in outputs(inputs)]
    return way(outputs, inputs, dys, [n for n, a in inputs.items() if a.dtype.kind == "f"])


def assert_holds(found, name, expected, width):
    """The expected gradient is accepted, and little else is."""
    low, high, expected = found.low[name], found.high[name], np.asarray(expected)
    assert found.judged[name].all()
    assert np.all((low <= expected) & (expected <= high)), (low - expected, expected - high)
    assert np.all(high - low <= width * np.maximum(1e-2, np.abs(expected))), high - low
    np.testing.assert_array_equal((low <= found.value[name]) & (found.value[name] <= high), True)


def test_the_complex_step_is_exact_where_differences_are_not():
    x, dy = np.array([1.5, -0.3]), np.array([1.0, 2.0])
    found = of(complex_step, lambda x: np.exp(x) / x, [dy], x=x)
    slope = np.exp(x) * (x - 1) / x**2
    np.testing.assert_allclose(found.value["x"], slope * [1, 2], rtol=4e-15)
    np.testing.assert_allclose(found.ones["x"], slope, rtol=4e-15)
    np.testing.assert_array_equal(found.low["x"], found.value["x"])
    np.testing.assert_array_equal(found.high["x"], found.value["x"])


@pytest.mark.parametrize("way", [complex_step, differences, derivative])
def test_several_outputs_and_inputs(way):
    rng = np.random.default_rng(0)
    x, w, dy, dz = (rng.standard_normal(s) for s in ((3, 4), (4, 2), (3, 2), ()))
    ids = np.array([0, 0, 1])

    def f(x, w, ids):
        return np.tanh(x[ids] @ w), (x * x).sum()

    found = of(way, f, [dy, dz], x=x, w=w, ids=ids)
    inner = dy * (1 - np.tanh(x[ids] @ w) ** 2)
    dx = 2 * x * dz
    np.add.at(dx, ids, inner @ w.T)
    assert found.method == "complex step" or way is differences
    assert not found.kinked["x"].any() and not found.kinked["w"].any()
    for name, expected in (("x", dx), ("w", x[ids].T @ inner)):
        np.testing.assert_allclose(found.value[name], expected, rtol=1e-11, atol=1e-12)
    assert found.value.keys() == {"x", "w"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "f, x, left, right",
    [
        (lambda x: np.maximum(x, 0), [-1.0, 0.0, 2.0, 1e-3], [0, 0, 1, 1], [0, 1, 1, 1]),
        (lambda x: np.where(x > 0, x, 0.1 * x), [0.0, -3.0], [0.1, 0.1], [1, 0.1]),
        (lambda x: x.max(), [1.0, 3.0, 3.0], [0, 0, 0], [0, 1, 1]),
        (lambda x: np.minimum(x, x[::-1])[:1], [2.0, 2.0], [0, 0], [1, 1]),
        (lambda x: np.clip(x, -1, 1), [1.0, -1.0, 0.5, 3.0], [0, 0, 1, 0], [1, 1, 1, 0]),
        (lambda x: np.sort(x)[-1:] * 2, [5.0, 5.0, 1.0], [0, 0, 0], [2, 2, 0]),
    ],
)
def test_between_the_one_sided_derivatives_everything_is_accepted(way, f, x, left, right):
    found = of(WAYS[way], f, x=x)
    np.testing.assert_allclose(found.low["x"], np.minimum(left, right), atol=1e-10)
    np.testing.assert_allclose(found.high["x"], np.maximum(left, right), atol=1e-10)
    np.testing.assert_array_equal(found.kinked["x"], np.not_equal(left, right))
    assert found.judged["x"].all()


@pytest.mark.parametrize("way", WAYS)
def test_each_of_two_kinks_has_a_subgradient_of_its_own(way):
    found = of(
        WAYS[way],
        lambda x: np.stack([np.maximum(x, 0), np.maximum(-x, 0)]),
        [np.array([1.0, -1.0])],
        x=0.0,
    )
    np.testing.assert_allclose([found.low["x"], found.high["x"]], [0, 2], atol=1e-9)


@pytest.mark.parametrize(
    "f",
    [np.linalg.norm, lambda x: np.sqrt((x * x).sum()), lambda x: np.abs(x).sum()],
)
def test_a_norm_at_zero(f):
    found = of(derivative, f, x=np.zeros(2))
    np.testing.assert_allclose(found.low["x"], [-1, -1], atol=1e-9)
    np.testing.assert_allclose(found.high["x"], [1, 1], atol=1e-9)
    assert found.kinked["x"].all()


@pytest.mark.parametrize("distance", [1e-2, 1e-4, 1e-6])
def test_a_kink_nearby_is_no_kink(distance):
    found = of(differences, np.abs, x=[1.0 + distance, distance, -distance])
    assert_holds(found, "x", [1, 1, -1], 1e-6)
    found = of(differences, lambda x: np.abs(x - 1), x=[1.0 + distance])
    assert_holds(found, "x", [1], 1e-6)
    assert not found.kinked["x"].any()


NO_DERIVATIVE = {
    "sqrt": (np.sqrt, [0.0, 1.0, 4.0]),
    "one sqrt": (np.sqrt, [0.0, 0.0]),
    "cbrt": (np.cbrt, [0.0, 1.0, 8.0]),
    "arcsin": (np.arcsin, [1.0, 0.5]),
    "sign": (np.sign, [0.0, 1.5]),
    "floor": (np.floor, [2.0, 1.5]),
    "log": (np.log, [0.0, 1.5]),
}


@pytest.mark.parametrize("name", NO_DERIVATIVE)
def test_where_there_is_no_derivative_nothing_is_judged(name):
    f, x = NO_DERIVATIVE[name]
    with np.errstate(divide="ignore"):
        found = of(derivative, f, x=x)
    assert found.judged["x"].tolist() == [False, *[name != "one sqrt"] * (len(x) - 1)]
    assert np.isfinite(found.value["x"]).all()


@pytest.mark.parametrize(
    "f, slope, x",
    [
        (np.log, lambda x: 1 / x, [1e-12, 1e-3, 1.5, 1e3]),
        (np.sqrt, lambda x: 0.5 / np.sqrt(x), [1e-12, 1e-3, 1.5, 1e3]),
        (np.arcsin, lambda x: 1 / np.sqrt(1 - x * x), [1 - 1e-6, -0.99, 0.0, 0.5]),
        (np.reciprocal, lambda x: -1 / x**2, [1e-12, -1e-3, 1.5, 1e3]),
        (np.abs, np.sign, [1e-12, -1e-6, 1e3]),
        (lambda x: x**1.5, lambda x: 1.5 * np.sqrt(x), [0.0, 1.0]),
        (np.vectorize(math.erf), lambda x: 2 / np.sqrt(np.pi) * np.exp(-x * x), [0.0, -1.0, 3.0]),
    ],
)
def test_borders_poles_and_magnitudes(f, slope, x):
    x = np.array(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said about what lies outside of the domain
        found = of(differences, f, x=x)
    assert_holds(found, "x", slope(x), 1e-4)
    smooth = np.abs(slope(x)) > 0
    np.testing.assert_allclose(found.value["x"][smooth], slope(x)[smooth], rtol=1e-8)


def buffered(x):
    y = np.zeros(x.shape)
    for i in range(len(x)):
        y[i] = np.tanh(x[i])
    return y


def half(x):
    return np.tanh(x.astype(np.float32)).astype(np.float64)


NOT_COMPLEX_SAFE = {
    "a float buffer": (buffered, "ComplexWarning"),
    "float32": (half, "ComplexWarning"),
    "a float": (lambda x: np.array([float(v) ** 2 for v in x]), "ComplexWarning"),
    "math": (lambda x: np.vectorize(math.tanh)(x), "ComplexWarning"),
    "floor": (lambda x: x - np.floor(x), "TypeError"),
    "other values": (lambda x: x * (np.iscomplexobj(x) + 1), "other values"),
    "overflow": (lambda x: 1 / (1 + np.exp(1e6 * x) + np.exp(-1e6 * x)), "overflows"),
    "sqrt at 0": (lambda x: np.sqrt(x - 0.3), "infinite"),
}


@pytest.mark.parametrize("name", NOT_COMPLEX_SAFE)
def test_the_complex_step_notices_what_it_cannot_differentiate(name):
    f, reason = NOT_COMPLEX_SAFE[name]
    with pytest.raises(NotComplexSafe, match=reason):
        of(complex_step, f, x=[0.3, 1.0, 2.0])


LOST = {
    "abs": (lambda x: x * np.abs(x), lambda x: 2 * np.abs(x)),
    "var": (np.var, lambda x: 2 * (x - x.mean()) / x.size),
    "norm": (np.linalg.norm, lambda x: x / np.sqrt((x * x).sum())),
    "vecdot": (lambda x: np.vecdot(x, x), lambda x: 2 * x),
    "conj": (lambda x: x.conj() * x, lambda x: 2 * x),
    "real": (lambda x: x.real * x, lambda x: 2 * x),
    "a float buffer": (buffered, lambda x: 1 - np.tanh(x) ** 2),
}


@pytest.mark.parametrize("name", LOST)
def test_a_lost_derivative_is_found_by_differences(name):
    f, gradient = LOST[name]
    x = np.array([0.3, -1.0, 2.0])
    found = of(derivative, f, x=x)
    assert found.method == "central differences"
    assert_holds(found, "x", gradient(x), 1e-9)


def test_what_the_complex_step_can_do_it_does():
    assert of(derivative, lambda x: np.exp(x) / x, x=[1.0, 2.0]).method == "complex step"


def test_float32_inside_has_a_wide_bound_and_is_no_false_alarm():
    x = np.random.default_rng(0).standard_normal(30)
    found = of(derivative, half, x=x)
    assert_holds(found, "x", 1 - np.tanh(x) ** 2, 0.1)
    assert np.median(found.high["x"] - found.low["x"]) > 1e-8


@pytest.mark.parametrize("shape", [(), (1,), (0,), (2, 0)])
def test_sizes(shape):
    x = np.full(shape, 0.5)
    for way in (derivative, differences):
        found = of(way, lambda x: x * x, x=x)
        assert found.value["x"].shape == shape
        np.testing.assert_allclose(found.value["x"], 2 * x, rtol=1e-12)


def test_the_inputs_stay_and_a_forward_may_write_into_its_own():
    def centred(x):
        x -= x.mean()
        x *= x
        return x

    x = np.random.default_rng(0).standard_normal(4)
    before, dy = x.copy(), np.arange(4.0)
    x.flags.writeable = False
    gradient = 2 * (dy * (x - x.mean()) - (dy * (x - x.mean())).mean())
    for way in (complex_step, differences):
        assert_holds(of(way, centred, [dy], x=x), "x", gradient, 1e-9)
    np.testing.assert_array_equal(x, before)


def test_what_the_forward_raises_at_the_point_is_raised():
    def refuses(x):
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        of(derivative, refuses, [np.ones(1)], x=[1.0])


def test_beside_the_point_it_may_raise_or_change_its_shape():
    found = of(derivative, lambda x: np.array([math.log(v) for v in x]), x=[1e-6, 1.0])
    assert_holds(found, "x", [1e6, 1], 1e-9)
    found = of(differences, lambda x: x[x < 1.001], [np.ones(1)], x=[1.0, 2.0])
    assert_holds(found, "x", [1, 0], 1e-9)


def test_the_differences_decide_about_a_reference_in_doubt():
    f, x, dy = (lambda x: (x["x"] * np.abs(x["x"]),)), {"x": np.array([1.0, -2.0])}, [np.ones(2)]
    wrong = complex_step(f, x, dy, ["x"])
    decided = confirm(f, x, dy, ["x"], wrong)
    assert decided.method == "central differences"
    assert_holds(decided, "x", [2, 4], 1e-9)

    right = complex_step(lambda x: (x["x"] ** 3,), x, dy, ["x"])
    again = confirm(lambda x: (x["x"] ** 3,), x, dy, ["x"], right)
    assert again.method == "complex step" and not again.kinked["x"].any()
    np.testing.assert_array_equal([again.low["x"], again.high["x"]], [right.value["x"]] * 2)
    kinked = complex_step(lambda x: (np.maximum(x["x"] - 1, 0),), x, dy, ["x"])
    assert kinked.kinked["x"].sum() == 1
    again = confirm(lambda x: (np.maximum(x["x"] - 1, 0),), x, dy, ["x"], kinked)
    assert again.method == "complex step" and again.kinked["x"].sum() == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "f",
    [np.sort, lambda x: np.sort(x)[1], lambda x: np.median(x[:3]) + 0 * x],
)
def test_among_several_equal_numbers_any_order_is_accepted(f, way):
    """The one-sided derivatives of the middle one of three equal numbers are both 0."""
    x, dy = np.array([2.0, 2.0, 2.0, 5.0]), np.array([1.0, 10.0, 2.0, 3.0])
    given, dys = {"x": x}, [dy[: np.size(f(x))].reshape(np.shape(f(x)))]
    outputs = lambda given: (f(given["x"]),)
    found = WAYS[way](outputs, given, dys, ["x"])
    decided = confirm(outputs, given, dys, ["x"], found)
    parted = np.array([2.0, 2.001, 2.002, 5.0])
    for order in ([0, 1, 2, 3], [2, 1, 0, 3], [1, 0, 2, 3]):
        gradient = differences(outputs, {"x": parted[order]}, dys, ["x"]).value["x"]
        assert np.all(decided.low["x"] - 1e-6 <= gradient)
        assert np.all(gradient <= decided.high["x"] + 1e-6)


@pytest.mark.parametrize(
    "f, gradient, x",
    [
        (lambda x: np.floor(x), lambda x: 0 * x, np.linspace(-1000, 1000, 16) + 0.3),
        (lambda x: np.sin((x + 1e6) - 1e6), np.cos, np.linspace(-1, 1, 16) + 0.011),
        (half, lambda x: 1 - np.tanh(x) ** 2, np.linspace(-1e-3, 1e-3, 16)),
        (half, lambda x: 1 - np.tanh(x) ** 2, np.linspace(9.1, 12, 16)),
    ],
    ids=["floor", "cancellation", "float32", "saturated float32"],
)
def test_steps_do_not_fall_into_step_with_a_staircase(f, gradient, x):
    assert_holds(of(differences, f, x=x), "x", gradient(x), 0.1)


def test_a_stair_at_zero_is_no_slope_of_zero():
    """x - x' in float32 is 0 and stands still for a step that float32 does not see."""
    found = of(differences, lambda x: (x[:1] - x[1:]).astype(np.float32) * x[0], x=[50.0, 50.0])
    assert_holds(found, "x", [50, -50], 1e-4)

    def f(x):
        short = x.astype(np.float32)
        return np.stack([3.0 * short[0] - 3.0 * short[1], short[0] + 0.5])

    found = of(differences, f, [np.ones(2)], x=[50.0, 50.0])
    assert_holds(found, "x", [4, -3], 1e-4)
    assert not found.kinked["x"].any()


def test_a_slope_among_the_stairs_is_not_taken_for_zero():
    """Ten stairs of float32 in the first step, none in the second."""
    slight = lambda x: np.float32(-0.0093) + np.float32(7e-5) * x.astype(np.float32)
    found = of(differences, slight, x=0.0124)
    assert found.low["x"] <= 7e-5 <= found.high["x"] and found.high["x"] < 1e-2
    assert not found.kinked["x"].any()


def test_random_functions_keep_their_bounds():
    """The error of central differences beside their bound, where the complex step is exact."""
    rng, worst = np.random.default_rng(0), 0.0
    for _ in range(300):
        m, n = rng.integers(1, 4, 2)
        scale = 10.0 ** rng.uniform(-3, 3)
        x, w = scale * rng.standard_normal((m, n)), rng.standard_normal((n, 3)) / scale

        g = (np.tanh, np.exp, np.sin, np.square, lambda z: z / (2 + z * z))[rng.integers(5)]
        f = lambda given, g=g: (g(given["x"] @ given["w"]),)

        inputs, dy = {"x": x, "w": w}, [rng.standard_normal((m, 3))]
        exact = complex_step(f, inputs, dy, ["x", "w"]).value
        found = differences(f, inputs, dy, ["x", "w"])
        for name, value in exact.items():
            bound = (found.high[name] - found.low[name]) / 2
            size = np.abs(value).max() + np.abs(dy).max()
            worst = max(worst, np.max(np.abs(found.value[name] - value) / bound))
            assert found.judged[name].all() and np.all(bound <= 1e-8 * size)
    assert worst <= 1


@pytest.mark.parametrize("way", WAYS)
def test_sensitivity_sees_a_cancellation(way):
    """d/dx (x - c)^2 = 2 (x - c) of numbers near 1000: a rounding of x moves it by 2000 units."""
    f = lambda given: ((given["x"] - 999.0) ** 2, np.maximum(given["x"] - 1000, 0))
    x, dy = {"x": np.array([1000.0, 999.5])}, [np.ones(2), np.ones(2)]
    found = WAYS[way](f, x, dy, ["x"])
    m = sensitivity(f, x, dy, ["x"], found, runs=16)["x"]
    assert found.kinked["x"].sum() == 1 and 2 <= m[0] <= 4  # a jump is not a rounding
    assert 500 < m[1] < 5000


def test_a_term_that_y_absorbs_does_not_cost_the_complex_step_its_trust():
    """1 + x w stands still where x w is below its rounding, and so do the differences."""
    inputs = {"x": np.array([[1e-7, 1e-12]]), "w": np.array([[1e-3], [1e-12]])}

    def f(given):
        return (1 + given["x"] @ given["w"],)

    dys = (np.array([[1.0]]),)
    found = derivative(f, inputs, dys, ["x", "w"])
    assert found.method == "complex step"
    assert confirm(f, inputs, dys, ["x", "w"], found).method == "complex step"


def test_what_is_absorbed_inside_is_not_taken_from_the_complex_step():
    """log(1 + exp(-50)) is 0, as exp(-50) is absorbed, though its slope is not."""
    inputs, dys = {"x": np.array([1.5, -50.0])}, (np.array([0.0, 1.0]),)

    def f(given):
        return (np.log(1 + np.exp(given["x"])),)

    found = complex_step(f, inputs, dys, ["x"])
    assert confirm(f, inputs, dys, ["x"], found).method == "complex step"


def test_differences_overrule_a_slope_that_no_rounding_hides():
    """A derivative of 1e-10 of the largest that the complex step makes up is not believed."""
    inputs, dys = {"x": np.array([1.0]), "w": np.array([1.0])}, (np.ones(1),)

    def f(given):
        return (given["x"] + 1e-10 * np.conjugate(given["w"]),)

    wrong = of(complex_step, lambda x, w: x + 1e-10 * np.conjugate(w), [dys[0]], **inputs)
    assert wrong.value["w"] == -1e-10
    sure = confirm(f, inputs, dys, ["x", "w"], wrong)
    assert sure.method == "central differences" and sure.value["w"] == pytest.approx(1e-10, 1e-3)


NORMS = {
    "sqrt": lambda x: np.sqrt((x * x).sum(-1, keepdims=True)),
    "norm": lambda x: np.linalg.norm(x, axis=-1, keepdims=True),
}


@pytest.mark.parametrize(
    "way, norm", [*itertools.product([differences], NORMS), (complex_step, "sqrt")]
)
def test_sensitivity_sees_a_cancellation_between_operations(way, norm):
    """x / |x| hardly moves with its largest element, as two terms of |dy| / |x| cancel."""
    x, dy = {"x": np.array([[1e-4, 1.0]])}, [np.array([[0.0, 2.0]])]
    f = lambda given: (given["x"] / NORMS[norm](given["x"]),)
    found = way(f, x, dy, ["x"])
    m = sensitivity(f, x, dy, ["x"], found, runs=16)["x"]
    assert abs(found.value["x"][0, 1]) < 1e-6 and 0.5 < m[0, 1] < 8


def test_rounded_arithmetic_keeps_what_is_exact():
    x = np.array([[3.0, 3.0, -1.0], [2.0, 0.0, 1.0]])

    def ties(given):
        x = given["x"]
        return x == x.max(1, keepdims=True), x - x.max(), np.maximum(x, 0), -np.abs(x[::-1]).T

    for got, expected in zip(rounded(ties, 0)({"x": x}), ties({"x": x}), strict=True):
        np.testing.assert_array_equal(got == 0, expected == 0)
    np.testing.assert_array_equal(rounded(ties, 0)({"x": x})[2], np.maximum(x, 0))
    unit = rounding_of(lambda given: (np.exp(given["x"]), given["x"].sum()), {"x": x})
    assert np.all(unit > 1.05 * np.abs([*np.exp(x).flat, x.sum()]))
    assert np.all(unit < 4 * np.abs([*np.exp(x).flat, x.sum()]))


def test_rounded_arithmetic_rounds_into_what_is_given_and_the_two_parts_apart():
    def f(given):
        y = np.empty_like(given["x"])
        np.multiply(given["x"], 3.0, out=y)
        y += 1
        return y, np.einsum("i,i", y, y), np.float64(2) * y.sum() / 3

    once, twice = (rounded(f, 1)({"x": np.array([1 + 1j, 2 + 2j])}) for _ in range(2))
    for a, b, exact in zip(once, twice, f({"x": np.array([1 + 1j, 2 + 2j])}), strict=True):
        np.testing.assert_array_equal(a.real, b.real)
        assert np.all(a.imag != exact.imag) and np.all(a.real != exact.real)
        np.testing.assert_allclose(a, exact, rtol=30 * SIZE)


def test_an_input_too_small_to_move_anything_has_a_slope_that_may_be_hidden():
    """1 + x w with both of 1e-7 stands still to the last bit, though its slope is w."""
    inputs = {"x": np.array([1e-7]), "w": np.array([1e-7])}
    found = differences(lambda g: (1 + g["x"] * g["w"],), inputs, (np.ones(1),), ["x"])
    assert found.judged["x"].all()
    assert found.low["x"] <= 1e-7 <= found.high["x"]
    assert found.high["x"] - found.low["x"] < 1e-3
