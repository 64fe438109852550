"""The plugin for pytest: an item for each gradient, a short report, and hypothesis as its users set
it up."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle

pytest_plugins = ["pytester"]
LINEAR = "(n,i),(i,o),(o)->(n,o)"
LAYERS = """
import numpy as np
import oracle

def linear(x, w, b):
    return x @ w + b

def right(dy, x, w, b):
    return dy @ w.T, x.T @ dy, dy.sum(0)

def wrong(dy, x, w, b):
    return dy @ w.T, x.T @ dy / len(dy), dy.sum(0)

def broken(dy, x, w, b):
    raise KeyError("mine")
"""


def linear(x, w, b):
    return x @ w + b


def linear_backward(dy, x, w, b):
    return dy @ w.T, x.T @ dy, dy.sum(0)


test_each_gradient_is_an_item = oracle.each_gradient(
    linear, linear_backward, None, LINEAR, max_examples=20
)


def run(pytester, code, *options):
    pytester.makepyfile(LAYERS + code)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *options)


def test_a_wrong_gradient_fails_its_own_item_in_a_few_lines(pytester):
    code = f"test_it = oracle.each_gradient(linear, wrong, None, '{LINEAR}')"
    done = run(pytester, code, "-v")
    done.assert_outcomes(passed=2, failed=1)
    text = done.stdout.str()
    assert re.search(r"test_it\[dx\] PASSED", text) and re.search(r"test_it\[dw\] FAILED", text)
    report = text.partition("FAILURES")[2].partition("short test summary")[0]
    assert len(report.strip().splitlines()) <= 6
    assert "dw (float64) at [0, 0]" in report and "divided by n" in report
    line = re.search(r"^Reproduce: (.*)$", report, re.M)[1]
    scope: dict = {}
    exec(LAYERS, scope)
    with pytest.raises(AssertionError, match="dw"):
        eval(line, scope)


def test_a_check_in_the_body_of_a_test_has_the_same_report(pytester):
    code = f"""
def test_it():
    oracle.check_backward(linear, wrong, None, '{LINEAR}')
"""
    done = run(pytester, code)
    done.assert_outcomes(failed=1)
    report = done.stdout.str().partition("FAILURES")[2].partition("short test summary")[0]
    assert len(report.strip().splitlines()) <= 6 and "Reproduce: oracle.check_backward" in report


def test_an_exception_fails_every_item(pytester):
    done = run(pytester, f"test_it = oracle.each_gradient(linear, broken, None, '{LINEAR}')")
    done.assert_outcomes(failed=3)
    assert "broken raised KeyError: 'mine'" in done.stdout.str()


def test_the_examples_are_those_of_hypothesis_settings():
    def count(**details):
        return oracle.check_backward(linear, linear_backward, None, LINEAR, **details).examples

    before = settings.get_current_profile_name()
    settings.register_profile("seven", max_examples=7, derandomize=True)
    settings.load_profile("seven")
    try:
        assert count() == 7
        assert count(max_examples=3) == 3
    finally:
        settings.load_profile(before)


def test_derandomized_settings_draw_the_same_examples_again():
    def drawn():
        seen = []

        def forward(x):
            seen.append(x.tobytes())
            return 2 * x

        oracle.check_backward(forward, lambda dy, x: 2 * dy, None, "(n)->(n)")
        return seen

    before = settings.get_current_profile_name()
    settings.register_profile("same", max_examples=5, derandomize=True)
    settings.load_profile("same")
    try:
        assert drawn() == drawn()
    finally:
        settings.load_profile(before)


@given(st.integers(1, 4))
@settings(max_examples=5)
def test_it_may_stand_inside_a_test_that_hypothesis_draws(exponent):
    def power(x):
        return x**exponent

    def backward(dy, x):
        return dy * exponent * x ** (exponent - 1)

    oracle.check_backward(power, backward, None, "(n)->(n)")
    with pytest.raises(AssertionError):
        oracle.check_backward(power, lambda dy, x: 1.5 * backward(dy, x), None, "(n)->(n)")


@given(oracle.inputs("(n,i),(i),(n)", ids={2: "i"}, sizes={"n": (2, 4)}))
def test_the_inputs_are_a_strategy(arrays):
    x, w, ids = arrays
    assert 2 <= len(x) <= 4 and x.shape == (len(ids), len(w))
    assert ids.dtype.kind == "i" and (ids < len(w)).all()
    assert x.dtype == np.float64 and not x.flags.writeable
