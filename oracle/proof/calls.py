"""How one subject is called on one problem, and what is noted of what it returns.

What fails is a `Finding`, and the calls go on; `Stop` and `Retry` say where they cannot.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, Self

import numpy as np

from oracle.proof.compare import Result, compare, decide, within
from oracle.proof.draw import Arrays
from oracle.proof.finding import (
    CRASH,
    DTYPE,
    FORMULA,
    OVERFLOW,
    PRECISION,
    WRITES,
    WRONG_FORWARD,
    WRONG_SHAPE,
    WRONG_VALUE,
    Finding,
    Problem,
)
from oracle.proof.reference import Expected, NotJudged, Scales
from oracle.proof.subject import Misuse, Pass, Subject, as_array


class Stop(Exception):
    """The examination cannot go on: there is a finding that says why."""


class Retry(Exception):
    """With writable copies of what was read-only, to know what of it is written into."""


class Calls:
    """Those of one subject on one problem; `findings` is what was found."""

    def __init__(
        self,
        subject: Subject,
        problem: Problem,
        wanted: list[str],
        tolerant: bool,
    ):
        self.subject, self.problem, self.wanted = subject, problem, wanted
        self.tolerant = tolerant
        self.terms = max((a.size for a in problem.inputs.values()), default=1)
        k = len(problem.dys)
        self.outputs = ["y"] if k == 1 else [f"y{i}" for i in range(k)]
        self.findings: dict[tuple[str, str], Finding] = {}
        self.absent: set[str] = set()
        self.remarks: list[str] = []
        self.locked = subject.takes_read_only
        self.ready = False

    def against(self, expected: Expected, expect: Callable[[tuple], Expected]) -> Self:
        """With what is right for its dys, and `expect` for others; a new start."""
        self.expected, self.expect = expected, expect
        self.measured: Scales | None = None
        self.results: list[Result] = []
        self.findings = {}
        values = [*self.problem.dys, *expected.gradients.values()]
        self.largest = max((float(np.abs(a).max(initial=0)) for a in values), default=0.0)
        self.ready = True
        return self

    def note(
        self, name: str, kind: str, sentence: str, result: Result | None = None, **details: Any
    ) -> None:
        forward = kind == WRONG_FORWARD or name in self.outputs
        culprit = details.pop("culprit", None)
        culprit = culprit or (self.subject.forward_title if forward else self.subject.title)
        finding = Finding(name, kind, sentence.rstrip("."), culprit, result, **details)
        self.findings.setdefault(finding.key, finding)

    def wrong(self, name: str) -> bool:
        return any(key[0] == name and key[1] in FORMULA | {WRONG_FORWARD} for key in self.findings)

    def call(self, culprit: str, function: Callable, *arguments: Any, **options: Any) -> Any:
        # An invalid operation leaves a NaN; BLAS now and then sets the flag without one.
        how: Literal["raise", "ignore"] = "raise" if self.problem.strict else "ignore"
        try:
            with np.errstate(over=how, divide=how, invalid="ignore", under="ignore"):
                return function(*arguments, **options)
        except Misuse:
            raise
        except Exception as error:
            if type(error).__module__.startswith("hypothesis"):  # assume() and the like
                raise
            if self.locked and "read-only" in str(error):
                said = f"{culprit} writes into an array that was given to it ({error})"
                self.note(culprit, WRITES, said, culprit=culprit)
                raise Retry from None
            if isinstance(error, np.linalg.LinAlgError) and function == self.subject.forward:
                raise NotJudged from None
            kind = OVERFLOW if isinstance(error, FloatingPointError) else CRASH
            if self.locked and kind == CRASH:
                raise Retry from None  # compiled code may take no read-only array, and not say so
            said = f"{culprit} raised {type(error).__name__}: {error}"
            self.note(culprit, kind, said, culprit=culprit)
            raise Stop from error

    def forward(self, inputs: Arrays) -> Pass:
        given = inputs if self.locked else {n: np.array(a) for n, a in inputs.items()}
        culprit = self.subject.forward_title
        found: Pass = self.call(culprit, self.subject.forward, given, self.problem.options)
        for name in inputs:
            self.unwritten(culprit, f"the input {name}", given[name], inputs[name])
        found.outputs = tuple(map(as_array, found.outputs))
        if len(found.outputs) != len(self.problem.dys):
            k = len(self.problem.dys)
            raise Misuse(
                f"{self.subject.forward_title} returns {len(found.outputs)} results where the "
                f"signature has {k}"
            )
        return found

    def backward(self, forward: Pass, dys: tuple, **out: Any) -> dict[str, Any]:
        given = dys if self.locked else tuple(np.array(dy) for dy in dys)
        try:
            found = self.call(self.subject.title, forward.backward, given, **out)
            if found and all(gradient is None for gradient in found.values()):
                raise Misuse(f"{self.subject.title} returns None for every gradient")
        except Misuse as misuse:
            if not self.problem.strict and not self.results:
                raise
            # It did return gradients before, for another dy.
            self.note(self.subject.title if self.results else "", WRONG_SHAPE, str(misuse))
            raise Stop from None
        for own, dy in zip(given, dys, strict=True):
            self.unwritten(self.subject.title, "the upstream gradient", own, dy)
        self.absent |= {name for name, gradient in found.items() if gradient is None}
        return {n: as_array(g) for n, g in found.items() if g is not None}

    def unwritten(self, culprit: str, what: str, given: Any, before: Any) -> None:
        if given is not before and given.tobytes() != np.asarray(before).tobytes():
            self.note(culprit, WRITES, f"{culprit} writes into {what}", culprit=culprit)

    def both(self, inputs: Arrays, dys: tuple) -> tuple[tuple, dict[str, Any]]:
        forward = self.forward(inputs)
        return forward.outputs, self.backward(forward, dys)

    def close(
        self,
        found: Mapping[str, Any],
        when: str = "",
        scale: Arrays | None = None,
    ) -> None:
        """Note which gradients are not what is expected."""
        for name, got in found.items():
            if not self.wrong(f"d{name}"):
                value = self.expected.gradients[name]
                measured = partial(scale.__getitem__, name) if scale else self.scale_of(name)
                self.compare(f"d{name}", got, value, measured, when, name)

    def scale_of_output(self, k: int) -> np.ndarray:
        return self.scales()[0][k]

    def scale_of(self, name: str) -> Callable[[], np.ndarray] | None:
        if self.expected.scale is None:
            return None
        return lambda: self.scales()[1][name]

    def scales(self) -> tuple[list[np.ndarray], Arrays]:
        if self.measured is None:
            self.measured = self.expected.scale()  # type: ignore[misc]
        return self.measured

    def compare(
        self,
        name: str,
        got: Any,
        value: np.ndarray,
        scale: Callable[[], np.ndarray] | None,
        when: str = "",
        interval: str = "",
    ) -> None:
        """Note whether one array has the shape, the dtype and the values that it should have."""
        dtype, shown = self.problem.dtype, f"{when}{name}"
        shape = within(got, value, np.inf, name=shown)
        if not isinstance(got, np.ndarray | np.floating) or np.shape(got) != value.shape:
            self.note(name, WRONG_SHAPE, shape.message, shape, got=got)
            return
        got = np.asarray(got)
        if got.dtype != dtype:
            wanted = f"{shown} has dtype {got.dtype} where {dtype} was expected"
            self.note(name, DTYPE, wanted, got=got)
            if got.dtype.kind not in "fiub":
                return
            got = got.astype(dtype)
        if interval in self.expected.low:
            low, high = self.expected.low[interval], self.expected.high[interval]
            value = np.where(np.isfinite(got), np.clip(got, low, high), value)
            got = np.where(self.decided(interval, got), got, value).astype(dtype)
        if not self.tolerant:
            rounding: dict[str, Any] = {"upstream": self.largest, "dtype": dtype, "name": shown}
            result = compare(got, value, scale() if scale else 0.0, self.terms, **rounding)
        else:
            # Without a reference in torch it is not known how the steps between may round.
            loose = 10 if self.expected.outputs is None and dtype == np.float32 else 1
            result = decide(got, value, scale, self.terms, self.largest, shown, loose)
        self.results.append(result)
        if not result.ok:
            self.note(name, self.kind_of(name, result, got), result.message, result, got=got)

    def decided(self, name: str, got: np.ndarray) -> np.ndarray:
        """Where the forward has a derivative that a gradient can be compared with. At a kink a
        formula may divide 0 by 0: that is no derivative, and none exists."""
        kinked = self.expected.kinked[name]
        return np.asarray(self.expected.judged[name] & (np.isfinite(got) | ~kinked))

    def kind_of(self, name: str, result: Result, got: np.ndarray) -> str:
        if name in self.outputs:
            return WRONG_FORWARD
        largest = max(
            (float(np.abs(a).max(initial=0)) for a in self.problem.inputs.values()), default=0
        )
        if not np.isfinite(result.got) and (largest >= 50 or np.isinf(result.got)):
            return OVERFLOW
        small = 1e-2 if self.problem.dtype == np.float32 else 1e-6
        if result.error <= small * max(abs(result.expected), 1e-300):
            return PRECISION
        return WRONG_VALUE
