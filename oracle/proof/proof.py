"""What is to be proven about one backward pass, and what was found: examples in, verdicts out."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.proof.compare import TOLERANCE
from oracle.proof.draw import COMMON, Arrays, Draw, lay_out
from oracle.proof.examine import Examination
from oracle.proof.finding import (
    ALIASING,
    CRASH,
    FORMULA,
    KINDS,
    PRECISION,
    RANDOM,
    STATE,
    WRITES,
    WRONG_FORWARD,
    WRONG_VALUE,
    Finding,
    Problem,
)
from oracle.proof.mistakes import likely_mistake
from oracle.proof.reference import Expected, Forward, NotJudged, Torch
from oracle.proof.report import NOT_JUDGED, Report, Verdict
from oracle.proof.signature import extent, letters, parse, sized
from oracle.proof.styles import recognised
from oracle.proof.subject import Pair, Subject, as_array, input_names, own_name

ALLOWED = {"view": ALIASING, "write": WRITES} | {k: k for k in KINDS}
SIZES = (1, 6)
CLEAR = (5, 3, 7, 11, 13, 17, 19)  # sizes that cannot be confused


class ImpossibleSizes(ValueError):
    """A size made of others, such as h-k+1, is not positive."""


@dataclass
class Failure:
    """A finding, the example that has it, and what may explain it."""

    finding: Finding
    dtype: np.dtype
    example: dict[str, Any]
    hint: str = ""
    remark: str = ""

    @property
    def key(self) -> tuple[str, str]:
        return self.finding.key


class Proof:
    """The arguments of `oracle.judge`, put in order, and what was found so far."""

    def __init__(
        self,
        forward: Callable | Subject,
        backward: Callable | None = None,
        reference: Callable | None = None,
        signature: str = "",
        *,
        ids: Mapping[str | int, Any] | None = None,
        positive: Sequence[str | int] = (),
        between: Mapping[str | int, tuple[float, float]] | None = None,
        wrt: Sequence[str | int] | None = None,
        sizes: Mapping[str, tuple[int, int]] | None = None,
        options: Mapping[str, Any] | None = None,
        draw: Mapping[str, Sequence] | None = None,
        allow: Iterable[str] = (),
        dtype: Any = np.float64,
        magnitude: float = 1.0,
    ):
        ids, sizes, draw = ids or {}, sizes or {}, draw or {}
        self.signature = signature
        self.inputs, self.outputs = parse(signature)
        forward = recognised(forward)
        if isinstance(forward, Subject):
            self.subject: Subject = forward
            forward.bind(len(self.inputs), len(self.outputs))
        else:
            names = input_names(forward, 0, len(self.inputs))
            self.subject = Pair(forward, backward, names, (), len(self.outputs))
        self.names = self.subject.names
        self.options = {**self.subject.options, **(options or {})}
        self.ids = {
            self.name_of(key): high if isinstance(high, tuple) else (0, high)
            for key, high in ids.items()
        }
        self.positive = [self.name_of(key) for key in positive]
        self.between = {self.name_of(key): limits for key, limits in (between or {}).items()}
        for name, (low, high) in self.between.items():
            if not -np.inf < low < high < np.inf:
                raise ValueError(f"between: {name} needs low < high, got ({low}, {high})")
        floating = [name for name in self.names if name not in self.ids]
        self.wanted = floating if wrt is None else [self.name_of(key) for key in wrt]
        if integers := [name for name in self.wanted if name in self.ids]:
            raise ValueError(f"{integers[0]} holds integers and has no gradient")
        self.subject.wanted = self.wanted

        self.sizes = dict.fromkeys(letters(*self.inputs), SIZES) | dict(sizes)
        ends = [end for limits in self.ids.values() for end in limits if isinstance(end, str)]
        for letter in (*letters(*self.outputs), *ends):
            if letter not in self.sizes:
                raise ValueError(
                    f"{letter!r} is not a size of an input in the signature {signature!r}, and "
                    "sizes= does not have it"
                )
        self.dtypes = [np.dtype(d) for d in (dtype if isinstance(dtype, tuple | list) else [dtype])]
        if not self.dtypes or any(d not in TOLERANCE for d in self.dtypes):
            raise ValueError(f"dtype must be float32, float64 or both, got {dtype!r}")
        self.dtypes.sort(key=lambda d: -d.itemsize)
        if not 0 < magnitude < np.inf:
            raise ValueError(f"magnitude must be positive, got {magnitude}")
        for name in draw:
            if name not in COMMON:
                raise ValueError(f"there is no {name!r} to draw; there are {', '.join(COMMON)}")
        self.choices = COMMON | {"scale": tuple(magnitude * s for s in (1.0, 1.0, 0.1, 0.01))}
        self.choices["values"] = (*COMMON["values"], "ties")  # so that a hundred meet a zero
        self.choices |= {name: tuple(values) for name, values in draw.items()}
        if unknown := [name for name in allow if name not in ALLOWED]:
            raise ValueError(f"{unknown[0]!r} cannot be allowed; there are {', '.join(ALLOWED)}")
        self.allowed = {ALLOWED[name] for name in allow}

        self.torch = reference is not None
        self.reference: Torch | Forward = (
            Torch(reference, tolerant=True) if reference else Forward(self.subject.value)
        )
        self.found: dict[tuple[str, str], Failure] = {}
        self.given: set[str] = set()
        self.remarks: dict[str, None] = {}
        self.errors: dict[str, float] = {}
        self.examples = self.judged = self.kinks = 0
        beside = own_name(reference)
        self.calls = [*self.subject.calls, beside, repr(signature)]
        self.pasted = bool(self.subject.calls and beside)
        self.digest = hashlib.sha256(repr([self.subject.title, *self.calls]).encode()).digest()

    def name_of(self, key: str | int) -> str:
        if isinstance(key, int) and 0 <= key < len(self.names):
            return self.names[key]
        if key not in self.names:
            raise ValueError(f"there is no input {key!r}; there are {', '.join(self.names)}")
        return str(key)

    # One example.

    def failures(self, example: dict[str, Any]) -> list[Failure]:
        """What is wrong in one example and is not known yet, in float64 first."""
        found: dict[tuple[str, str], Failure] = {}
        self.examples += 1
        for dtype in self.dtypes:
            for finding in self.findings(example, dtype):
                found.setdefault(finding.key, Failure(finding, dtype, example))
        return [failure for key, failure in found.items() if not self.known(*key)]

    def known(self, name: str, kind: str) -> bool:
        """Whether it is found already, or less than what is."""
        found = self.found.keys()
        return (name, kind) in found or (kind == PRECISION and (name, WRONG_VALUE) in found)

    def findings(self, example: dict[str, Any], dtype: np.dtype) -> list[Finding]:
        try:
            examination = self.examination(example, dtype)
            found = examination.run()
        except NotJudged:
            return []
        if not examination.ready:
            return found
        if any(f.kind in FORMULA and f.key not in self.found for f in found):
            other = self.reference.confirmed(examination.expected)
            if other is not examination.expected:
                found = examination.against(other, examination.expect).run()
        self.judged += 1
        self.remarks |= dict.fromkeys(examination.remarks)
        self.kinks += sum(int(mask.sum()) for mask in examination.expected.kinked.values())
        self.given |= set(self.wanted) - examination.absent
        for result in examination.results:
            if dtype == self.dtypes[0] and result.largest > 0 and np.isfinite(result.error):
                relative = result.error / max(result.largest, examination.largest)
                self.errors[result.name] = max(relative, self.errors.get(result.name, 0.0))
        return found

    def examination(self, example: dict[str, Any], dtype: np.dtype) -> Examination:
        problem = self.problem(example, dtype)
        wide = widened(problem.inputs)
        own = self.subject.options if self.torch else {}  # of a constructor, say
        options = {name: value for name, value in problem.options.items() if name not in own}
        examination = Examination(self.subject, problem, self.wanted, tolerant=True)
        if not examination.probe():
            return examination

        def expect(dys: tuple) -> Expected:
            upstream = tuple(map(widened_one, dys))
            return self.reference.expect(wide, upstream, options, self.wanted)

        expected = expect(problem.dys)
        limit = float(np.finfo(dtype).max) / 16
        if any(np.abs(g).max(initial=0) > limit for g in expected.gradients.values()):
            raise NotJudged
        return examination.against(expected, expect)

    def problem(self, example: dict[str, Any], dtype: np.dtype) -> Problem:
        """The example as arrays."""
        sizes, layout = example["sizes"], example["layout"]
        options = {name: sized(value, sizes) for name, value in example["options"].items()}
        least = 0 if 0 in sizes.values() else 1
        shapes = [extent(shape, sizes) for shape in (*self.inputs, *self.outputs)]
        if min((n for shape in shapes for n in shape), default=1) < least:
            raise ImpossibleSizes(
                f"the signature {self.signature!r} has a size below 1 for {sizes}"
            )
        # Where the forward is its own reference, exp must not overflow in complex numbers.
        extreme = 1e3 if self.torch else 50.0
        draws = Draw(example["seed"], example["values"], example["scale"], extreme)
        inputs: Arrays = {}
        shaped = False  # whether the kind of values has shaped an input yet
        for name, shape in zip(self.names, shapes, strict=False):
            if name in self.ids:
                low, high = (sizes[end] if isinstance(end, str) else end for end in self.ids[name])
                values = draws.indices(high, shape, low)
            else:
                kind = not shaped or draws.rng.random() < 0.5
                values = np.asarray(draws.x(*shape) if kind else draws.normal(*shape))
                shaped = True
                if name in self.positive:
                    values = np.abs(values) + 0.1 * example["scale"]
                elif name in self.between:  # ties stay ties, and the bounds are never met
                    low, high = self.between[name]
                    values = low + (high - low) * (0.5 + 0.49 * values / (1 + np.abs(values)))
            inputs[name] = lay_out(values, layout, dtype, bool(shape) and shape[0] > 0)
        upstream = example["upstream"] if self.subject.upstream else 0.0
        dys = tuple(
            lay_out(
                np.asarray(draws.rng.standard_normal(shape) * upstream + (upstream == 0)),
                layout,
                dtype,
                bool(shape) and shape[0] > 0,
            )
            for shape in shapes[len(self.names) :]
        )
        return Problem(inputs, dys, options, dtype, draws.rng)

    # What is said of it.

    def keep(self, failure: Failure) -> None:
        """Set a failure aside, with what may explain it."""
        failure.hint = self.hint(failure)
        self.found[failure.key] = failure
        if failure.finding.kind == WRONG_VALUE:
            self.found.pop((failure.finding.name, PRECISION), None)

    def hint(self, failure: Failure) -> str:
        """The mistake that fits, best where sizes cannot be confused and values are tame."""
        finding = failure.finding
        if finding.kind == RANDOM:
            return likely_mistake(finding.name, None, {}, sizes={}, random=True)
        if finding.kind not in FORMULA | {STATE}:
            return ""
        primes = iter(CLEAR)
        clear = {
            letter: next(primes, 6) if limits == SIZES else limits[1]
            for letter, limits in self.sizes.items()
        }
        plain = {
            "values": "normal",
            "layout": "C",
            "upstream": 1.0,
            "scale": self.choices["scale"][0],
        }
        for example in (failure.example | {"sizes": clear} | plain, failure.example):
            try:
                examination = self.examination(example, failure.dtype)
                found = [
                    f for f in examination.run() if f.name == finding.name and f.got is not None
                ]
            except Exception:  # these sizes and options may not go together
                continue
            if found and (hint := self.hint_for(found[0], examination, example)):
                return hint
        return ""

    def hint_for(self, finding: Finding, examination: Examination, example: dict[str, Any]) -> str:
        name, problem, expected = finding.name, examination.problem, examination.expected
        if not name.startswith("d") or name[1:] not in expected.gradients:
            return ""
        inputs, dys = widened(problem.inputs), tuple(map(widened_one, problem.dys))

        def elsewhere(which: str | None, values: np.ndarray) -> tuple[Any, np.ndarray] | None:
            """The gradient and the right one where an input, or dy, has other values."""
            other = inputs | {which: values} if which else inputs
            upstream = dys if which else (values, *dys[1:])
            try:
                right = self.reference.expect(other, upstream, problem.options, self.wanted)
                got = self.subject.forward(other, problem.options).backward(upstream)
                return as_array(got[name[1:]]), right.gradients[name[1:]]
            except Exception:
                return None

        plain = elsewhere(None, dys[0])  # the same numbers in float64 and C order
        by_values = plain is not None and alike(plain[0], finding.got)
        first = {f"d{n}": g for n, g in expected.gradients.items()}
        state = finding.kind == STATE
        return likely_mistake(
            name,
            expected.gradients[name[1:]] if state else finding.got,
            first,
            sizes=example["sizes"],
            inputs=inputs,
            dy=dys[0],
            ones=expected.ones.get(name[1:]),
            again=finding.got if state else None,
            elsewhere=elsewhere if by_values and not state else None,
        )

    def report(self) -> Report:
        """The verdicts on what was found; a ValueError where nothing could be judged."""
        if not self.found and not self.judged:
            whose = "the reference" if self.torch else self.subject.forward_title
            raise ValueError(f"{whose} is not finite, or has no derivative, in any example")
        verdicts, remarks = [], list(self.remarks)
        rest = dict(self.found)
        for name in [*(["y"] if self.torch else []), *(f"d{name}" for name in self.wanted)]:
            own = [rest.pop(key) for key in list(rest) if key[0] == name]
            wrong = [self.verdict(f) for f in own if f.finding.kind not in self.allowed]
            remarks += [
                f"allowed: {f.finding.sentence}" for f in own if f.finding.kind in self.allowed
            ]
            if not any(v.kind in FORMULA | {WRONG_FORWARD} for v in wrong) and not any(
                key[1] == CRASH for key in self.found
            ):
                absent = name[1:] not in self.given and name != "y"
                kind: dict[str, Any] = {"kind": NOT_JUDGED, "sentence": "never returned"}
                kind = kind if absent else {}
                verdicts.append(Verdict(name, error=self.errors.get(name, np.nan), **kind))
            verdicts += wrong
        for failure in rest.values():
            if failure.finding.kind in self.allowed:
                remarks.append(f"allowed: {failure.finding.sentence}")
            else:
                verdicts.append(self.verdict(failure))
        if self.kinks:
            remarks.append(
                f"{self.kinks} elements lie at a kink, where anything between the one-sided "
                "derivatives is right"
            )
        verdicts.sort(key=lambda verdict: verdict.ok)
        reference = self.reference.method
        return Report(self.subject.title, tuple(verdicts), self.examples, reference, tuple(remarks))

    def verdict(self, failure: Failure) -> Verdict:
        finding, example = failure.finding, failure.example
        drawn = dict(sorted(example["sizes"].items()))
        drawn |= {
            name: value
            for name, value in example["options"].items()
            if sized(value, example["sizes"]) == value
        }
        drawn["seed"] = example["seed"]
        drawn |= {n: example[n] for n in COMMON if example[n] != self.choices[n][0]}
        at = ", ".join(f"{name} = {value!r}" for name, value in drawn.items())
        said = finding.sentence
        if not said.startswith(f"{finding.culprit} "):
            said = f"{finding.culprit}: {said}"
        return Verdict(
            finding.name,
            finding.kind,
            f"{said} [{at}]{failure.remark}",
            example,
            failure.hint,
            self.reproduce(example),
            result=finding.result,
        )

    def reproduce(self, example: dict[str, Any]) -> str:
        """A line to be pasted where every function in it has a name."""
        if not self.pasted:
            return f"the same call with example={example}"
        arguments = ", ".join(self.calls)
        arguments += f", ids={self.ids}" * bool(self.ids)
        arguments += f", positive={self.positive}" * bool(self.positive)
        arguments += f", between={self.between}" * bool(self.between)
        floating = [name for name in self.names if name not in self.ids]
        arguments += f", wrt={self.wanted}" * (self.wanted != floating)
        more = {a: self.sizes[a] for a in self.sizes.keys() - set(letters(*self.inputs))}
        arguments += f", sizes={more}" * bool(more)
        dtypes = [str(d) for d in self.dtypes]
        arguments += f", dtype={dtypes}" * (dtypes != ["float64"])
        return f"oracle.check_backward({arguments}, example={example})"


def widened(inputs: Arrays) -> Arrays:
    return {name: widened_one(a) for name, a in inputs.items()}


def widened_one(a: np.ndarray) -> np.ndarray:
    return np.array(a, np.float64 if a.dtype.kind == "f" else None, order="C")


def alike(a: Any, b: Any) -> bool:
    """Equal but for rounding, even to float32."""
    return np.shape(a) == np.shape(b) and np.allclose(a, b, rtol=1e-3, equal_nan=True)
