"""What is right for one example: by torch's autograd, or by differentiating the forward itself."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oracle.proof import numeric

Arrays = dict[str, np.ndarray]
Scales = tuple[list[np.ndarray], Arrays]


class ReferenceFailure(ValueError):
    """The reference raised, or has another shape than the signature says."""


class NotJudged(Exception):
    """There is nothing to compare this example with: a value or a derivative is not finite."""


@dataclass
class Expected:
    """The right values in float64 for one example.

    outputs    None where the reference is the judged forward itself
    source, asked   the numeric.Derivative and its arguments, where the forward was differentiated
    scale      finds M of `oracle.proof.compare` for outputs and gradients; None where there is none
    low, high  by name, where the forward was differentiated: what a gradient may be, at a kink
               anything between the one-sided derivatives
    judged     by name, False where the forward has no finite derivative
    kinked     by name, True at a kink
    ones       the gradients for an upstream gradient of ones
    """

    outputs: list[np.ndarray] | None
    gradients: Arrays
    scale: Callable[[], Scales] | None = None
    low: Arrays = field(default_factory=dict)
    high: Arrays = field(default_factory=dict)
    judged: Arrays = field(default_factory=dict)
    kinked: Arrays = field(default_factory=dict)
    ones: Arrays = field(default_factory=dict)
    source: Any = None
    asked: tuple = ()


class Torch:
    """`function(tensors..., **options)` in torch -> y or a tuple of results; autograd finds the
    gradients.

    formula   (dys..., tensors..., **options) -> M of the results and of each gradient; without it M
              is measured
    tolerant  whether an error below the tolerance passes, too; M is then measured only where an
              error is above it
    """

    method = "torch's autograd"

    def __init__(self, function: Callable, formula: Callable | None = None, tolerant: bool = False):
        self.function, self.formula, self.tolerant = function, formula, tolerant

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """With one thread: at these sizes a second one only waits."""
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    def confirmed(self, found: Expected) -> Expected:
        """`found`: torch is not doubted."""
        return found

    def shapes(self, inputs: Arrays, options: Mapping[str, Any]) -> list[tuple[int, ...]]:
        from oracle.proof import autograd

        y = self.function(*map(autograd.tensor, inputs.values()), **options)
        return [tuple(part.shape) for part in (y if isinstance(y, tuple) else (y,))]

    def expect(
        self, inputs: Arrays, dys: tuple, options: Mapping[str, Any], wanted: list[str]
    ) -> Expected:
        import torch

        from oracle.proof import autograd

        def function(*tensors):
            given = dict(zip(inputs, tensors, strict=False))
            upstream = tensors[len(inputs) :]
            leaves = [given[name].requires_grad_() for name in wanted]
            y = self.function(*given.values(), **options)
            y = y if isinstance(y, tuple) else (y,)
            for part, dy in zip(y, upstream, strict=True):
                if part.shape != dy.shape:
                    wrong = f"the reference returns shape {tuple(part.shape)}"
                    raise ReferenceFailure(f"{wrong}, not {tuple(dy.shape)}")
            if not leaves:
                return [*y]
            unused = {} if not self.tolerant else {"allow_unused": True, "materialize_grads": True}
            return [*y, *torch.autograd.grad(y, leaves, upstream, **unused)]

        arrays = [*inputs.values(), *dys]
        try:
            values, _ = autograd.rounding_scale(function, arrays, runs=0)
            ones = [*inputs.values(), *(np.ones_like(dy) for dy in dys)]
            at_ones = (
                autograd.rounding_scale(function, ones, runs=0)[0] if self.tolerant else values
            )
        except ReferenceFailure:
            raise
        except Exception as error:
            raise ReferenceFailure(
                f"the reference raised {type(error).__name__}: {error}"
            ) from error

        def scale() -> Scales:
            if self.formula is None:
                found = autograd.rounding_scale(function, arrays)[1]
            else:
                tensors = map(autograd.tensor, (*dys, *inputs.values()))
                found = [m.numpy() for m in self.formula(*tensors, **options)]
            return found[: len(dys)], dict(zip(wanted, found[len(dys) :], strict=True))

        k = len(dys)
        gradients = dict(zip(wanted, values[k:], strict=True))
        if not all(np.isfinite(value).all() for value in values) and self.tolerant:
            raise NotJudged
        by_name = dict(zip(wanted, at_ones[k:], strict=True))
        return Expected(values[:k], gradients, scale, ones=by_name)


class Forward:
    """The judged forward itself, differentiated by the complex step or, where that cannot be, by
    central differences: whether the backward belongs to the forward, and nothing of the forward.

    `function` takes inputs by name, and options, and returns the results.
    """

    tolerant = True

    def __init__(self, function: Callable):
        self.function = function
        self.analytic = True
        self.method = "complex step"

    def at_work(self) -> AbstractContextManager:
        return nullcontext()

    def expect(
        self, inputs: Arrays, dys: tuple, options: Mapping[str, Any], wanted: list[str]
    ) -> Expected:
        def f(inputs: Arrays) -> tuple[np.ndarray, ...]:
            return self.function(inputs, options)

        found = numeric.derivative(f, inputs, dys, wanted, self.analytic)
        return self.expected(found, f, inputs, dys, wanted)

    def confirmed(self, found: Expected) -> Expected:
        """`found` where central differences agree with it, else what they say, and from then on;
        and what is right beside a kink: asked where a gradient contradicts it."""
        f, inputs, dys, wanted = found.asked
        sure = numeric.confirm(f, inputs, dys, wanted, found.source)
        self.analytic &= sure.method == "complex step"
        return self.expected(sure, f, inputs, dys, wanted)

    def expected(self, found: numeric.Derivative, *asked: Any) -> Expected:
        self.method = found.method if self.method != "central differences" else self.method
        gradients = {n: np.where(found.judged[n], g, 0.0) for n, g in found.value.items()}

        def scale() -> Scales:
            return [], numeric.sensitivity(*asked, found)  # type: ignore[call-arg]

        return Expected(
            None, gradients, scale, found.low, found.high, found.judged, found.kinked, found.ones,
            found, asked,
        )  # fmt: skip
