"""The property by which every backward pass is judged, for one example.

Values, shapes and dtypes of every gradient; nothing of the caller's modified or shared; the same
bits twice, whatever was called in between; zero for a zero upstream gradient, and linear in it; a
permuted batch permutes, two halves add up; `out` is filled whatever stood there before. What fails
is a `Finding`, and the examination goes on, so that each gradient is judged whatever the others do.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from oracle.proof.calls import Calls, Retry, Stop
from oracle.proof.draw import Arrays, frozen
from oracle.proof.finding import (
    ALIASING,
    RANDOM,
    STATE,
    WRITES,
    WRONG_FORWARD,
    WRONG_VALUE,
    Finding,
)
from oracle.proof.reference import NotJudged
from oracle.proof.subject import FIRST_DRAW, Pass, arrays_in, same_bits, same_draws


class Examination(Calls):
    """The property for one subject and one problem."""

    def probe(self) -> bool:
        """Whether the forward returns finite results of the right shapes; there is a finding where
        a shape is wrong or it raises, NotJudged where the point lies outside of its domain."""
        try:
            with same_draws():
                outputs = self.forward(self.problem.inputs).outputs
                self.subject.seeded |= np.random.random() != FIRST_DRAW
        except Retry:
            self.locked = False
            return self.probe()
        except Stop:
            return False
        for name, y, dy in zip(self.outputs, outputs, self.problem.dys, strict=True):
            if np.shape(y) != dy.shape:
                said = f"{name} has shape {np.shape(y)} where the signature says {dy.shape}"
                self.note(name, WRONG_FORWARD, said)
            elif not np.isfinite(y).all():
                raise NotJudged
        return not any(kind == WRONG_FORWARD for _, kind in self.findings)

    def run(self) -> list[Finding]:
        if not self.ready:
            return list(self.findings.values())
        try:
            self.values()
            if not self.problem.strict or not self.findings:
                self.cotangent()
                self.batch()
                self.placed()
        except Retry:
            self.locked = False
            return self.run()
        except Stop:
            pass
        if not self.findings:  # right with writable arrays alone: no need to try again
            self.subject.takes_read_only &= self.locked
        return list(self.findings.values())

    def values(self) -> None:
        """Values, shapes, dtypes; nothing of the caller's modified or shared; the same bits after
        another call."""
        problem = self.problem
        forward = self.forward(problem.inputs)
        if self.locked:
            lock(forward)
        given = {f"the input {n}": a for n, a in problem.inputs.items()}
        given["the upstream gradient"] = problem.dys[0]
        if len(problem.dys) > 1:
            named = zip(self.outputs, problem.dys, strict=True)
            given |= {f"the upstream gradient d{name}": dy for name, dy in named}
        returned = zip(self.outputs, forward.outputs, strict=True)
        results = {f"the result {name}": y for name, y in returned}
        kept = {f"array {i} of the cache": a for i, a in enumerate(forward.cache)}
        before = {what: np.asarray(a).tobytes() for what, a in (given | results | kept).items()}
        found = self.backward(forward, problem.dys)
        self.unmodified(given | results | kept, before)
        if self.expected.outputs is not None:
            self.judge_outputs(forward.outputs)
        self.close(found)

        if self.locked:
            first = {name: np.array(gradient) for name, gradient in found.items()}
            self.memory(found, given, results, kept)
            self.repeated(forward, found, first)
            self.unmodified(given | results | kept, before)

    def memory(self, found: dict[str, Any], given: Arrays, results: Arrays, kept: Arrays) -> None:
        """No result is a view of what was given, and no gradient of anything else."""
        for what, a in results.items():
            for source, array in given.items():
                if np.shares_memory(a, array):
                    said = f"{what} shares memory with {source}"
                    self.note(what.removeprefix("the result "), ALIASING, said)
        owners = given | results | kept
        for name, gradient in found.items():
            for what, array in owners.items():
                if np.shares_memory(np.asarray(gradient), np.asarray(array)):
                    said = f"d{name} shares memory with {what}: return a copy"
                    self.note(f"d{name}", ALIASING, said)
                    break
            owners = owners | {f"d{name}": np.asarray(gradient)}

    def repeated(self, forward: Pass, found: dict[str, Any], first: Arrays) -> None:
        """The same bits again, whatever was called in between."""
        problem, factor = self.problem, self.problem.dtype.type(1.5)
        floating = {n for n, a in problem.inputs.items() if a.dtype.kind == "f"}
        other = {n: frozen(factor * a) if n in floating else a for n, a in problem.inputs.items()}
        self.both(other, tuple(frozen(np.asarray(factor * dy)) for dy in problem.dys))
        for name, gradient in found.items():
            if not same_bits(gradient, first[name]):
                said = f"d{name} is changed by a later call: return a fresh array"
                self.note(f"d{name}", ALIASING, said)
        for name, gradient in self.backward(forward, problem.dys).items():
            if not same_bits(gradient, first[name]):
                self.changed(name, gradient, first[name])
        y_again = self.forward(problem.inputs).outputs
        for name, y, y_first in zip(self.outputs, y_again, forward.outputs, strict=True):
            if not same_bits(y, y_first):
                self.note(name, RANDOM, f"{name} has other bits the second time")

    def changed(self, name: str, again: Any, first: np.ndarray) -> None:
        """A second backward of the same forward has returned another gradient."""
        twice = np.shape(again) == first.shape and np.any(first)
        if twice and np.allclose(again, 2 * first, rtol=1e-6, atol=0):
            if self.subject.accumulates:
                self.remarks.append(f"d{name} accumulates between calls, as torch's .grad does")
                return
            said = f"d{name} has other bits the second time: it accumulates between calls"
        else:
            said = f"d{name} has other bits the second time"
        self.note(f"d{name}", STATE, said, got=again)

    def judge_outputs(self, outputs: tuple) -> None:
        for k, (name, got) in enumerate(zip(self.outputs, outputs, strict=True)):
            value = self.expected.outputs[k]  # type: ignore[index]
            scale = None if self.expected.scale is None else partial(self.scale_of_output, k)
            if type(got) is float:
                got = self.problem.dtype.type(got)
            self.compare(name, got, value, scale)

    def unmodified(self, arrays: dict[str, np.ndarray], before: dict[str, bytes]) -> None:
        for what, array in arrays.items():
            if np.asarray(array).tobytes() != before[what]:
                title = self.subject.title
                self.note(title, WRITES, f"{what} was modified", culprit=title)

    def cotangent(self) -> None:
        """The backward is linear: zero gives exact zeros, and the gradients of two parts of dy add
        up."""
        problem = self.problem
        if not self.subject.upstream:
            return
        forward = self.forward(problem.inputs)
        zeros = tuple(frozen(0 * np.abs(dy)) for dy in problem.dys)
        for name, gradient in self.backward(forward, zeros).items():
            if self.wrong(f"d{name}"):
                continue
            wrong = np.asarray(gradient) != 0
            if name in self.expected.judged:
                wrong &= self.decided(name, np.asarray(gradient))
            if wrong.any():
                said = f"d{name} is not zero for an upstream gradient of zeros"
                self.note(f"d{name}", WRONG_VALUE, said, got=gradient)
        half = problem.dtype.type(-0.5)
        masks = [problem.rng.random(dy.shape) < 0.5 for dy in problem.dys]
        part = tuple(
            np.asarray(dy * m.astype(dy.dtype)) for dy, m in zip(problem.dys, masks, strict=True)
        )
        rest = tuple(frozen(dy - p) for dy, p in zip(problem.dys, part, strict=True))
        first = self.backward(self.forward(problem.inputs), tuple(frozen(-2 * p) for p in part))
        second = self.backward(self.forward(problem.inputs), rest)
        total = {
            n: first[n] * half + second[n]
            for n in first
            if not self.wrong(f"d{n}") and np.shape(first[n]) == self.expected.gradients[n].shape
        }
        before, count = dict(self.findings), len(self.results)
        self.close(total, "as the sum over two parts of dy, ")
        if self.findings.keys() != before.keys() and self.expected.scale is not None:
            # What cancels in the whole need not cancel in a part, whose errors are then larger.
            self.findings = before
            del self.results[count:]
            scales = [self.expect(dys).scale()[1] for dys in (part, rest)]  # type: ignore[misc]
            scale = {n: scales[0][n] + scales[1][n] for n in total}
            self.close(total, "as the sum over two parts of dy, ", scale)
        if all(dy.ndim == 0 for dy in problem.dys) and self.problem.strict:
            number = tuple(float(dy) for dy in problem.dys)
            self.close(self.backward(forward, number), "for a Python float, ")

    def batch(self) -> None:
        """A permuted batch gives permuted results, two halves of a batch give the whole."""
        problem = self.problem
        data = [name for name in problem.inputs if name in problem.batched]
        size = problem.batch if data else 0
        if size < 2:
            return
        outputs, scales = self.expected.outputs, self.scales()
        assert outputs is not None
        expected = {"y": outputs[0], **{"d" + n: a for n, a in self.expected.gradients.items()}}
        scale = {"y": scales[0][0], **{"d" + n: a for n, a in scales[1].items()}}
        in_batch = {*("d" + name for name in data), *problem.batched}

        def select(rows: Any) -> dict[str, np.ndarray]:
            dys = tuple(dy[rows] for dy in problem.dys) if "y" in in_batch else problem.dys
            y, found = self.both(
                {n: a[rows] if n in data else a for n, a in problem.inputs.items()}, dys
            )
            return {"y": y[0], **{"d" + n: a for n, a in found.items()}}

        def close(found: Arrays, when: str, rows: Any = ...) -> None:
            for n, got in found.items():
                value, m = ((a[rows] if n in in_batch else a) for a in (expected[n], scale[n]))
                if not self.wrong(n):
                    self.compare(n, got, value, partial(np.asarray, m), when)

        order = problem.rng.permutation(size)
        close(select(order), "for a permuted batch, ", order)
        if problem.separable:
            first, second = select(slice(0, size // 2)), select(slice(size // 2, size))
            joined = {
                n: np.concatenate([first[n], second[n]]) if n in in_batch else first[n] + second[n]
                for n in first
                if not self.wrong(n)
            }
            close(joined, "from two halves of the batch, ")

    def placed(self) -> None:
        """Where the backward takes `out`, the parameters' gradients appear there, whatever stood
        there before."""
        pullback = getattr(self.subject, "pullback", None)
        if not self.problem.batched or not pullback or not takes_out(pullback):
            return
        forward = self.forward(self.problem.inputs)
        names = [n for n in self.wanted if n not in self.problem.batched]
        for order in ("C", "F"):
            out = tuple(
                np.full(self.expected.gradients[n].shape, np.nan, self.problem.dtype, order)
                for n in names
            )
            one = bool(names) and len(self.wanted) == 1
            returned = self.backward(forward, self.problem.dys, out=out[0] if one else out)
            self.close(returned, "with `out`, ")
            for name, array in zip(names, out, strict=True):
                same = np.array_equal(array, returned[name])
                if not same or not np.shares_memory(array, returned[name]):
                    self.note(f"d{name}", WRONG_VALUE, f"d{name} is not what stands in `out`")


def takes_out(function: Callable) -> bool:
    try:
        return "out" in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def lock(forward: Pass) -> None:
    for array in arrays_in((forward.outputs, forward.cache)):
        array.flags.writeable = False
