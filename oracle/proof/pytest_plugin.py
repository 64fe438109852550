"""For pytest, which loads this by itself where oracle is installed: a test with an item for each
gradient, and a short report of what is wrong.

    test_linear = oracle.each_gradient(linear, linear_backward, signature="(n,i),(i,o)->(n,o)")
"""

import functools
from collections.abc import Callable, Generator
from typing import Any

import pytest

from oracle.proof.report import Failure, Report


def each_gradient(*arguments: Any, **details: Any) -> Callable:
    """A test function with one item for each gradient, from the arguments of `oracle.judge`.

    The examples are drawn once, when the first item runs. What is wrong with the functions as a
    whole, an exception or a write into an input, fails every item.
    """
    from oracle.proof.check import judge
    from oracle.proof.proof import Proof

    about = {k: v for k, v in details.items() if k not in ("max_examples", "seed", "example")}
    gradients = [f"d{name}" for name in Proof(*arguments, **about).wanted]

    @functools.cache
    def report() -> Report:
        return judge(*arguments, **details)

    @pytest.mark.parametrize("gradient", gradients)
    def test_gradient(gradient: str) -> None:
        __tracebackhide__ = True
        report().raise_if_wrong(gradient)

    return test_gradient


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the sentence and the line that reproduces it instead of the frames in between."""
    report = yield
    if call.excinfo is not None and isinstance(call.excinfo.value, Failure):
        path, line, _ = item.location
        report.longrepr = f"{path}:{(line or 0) + 1}: {call.excinfo.value}"
    return report
