"""The proof for a backward pass of your own: in a test, in a notebook, in three lines.

    def torch_linear(x, w, b):
        return x @ w + b

    oracle.check_backward(my_linear, my_linear_backward, torch_linear, "(n,i),(i,o),(o)->(n,o)")

hypothesis draws sizes and a seed, and for each the property has to hold: values, shapes and dtypes,
nothing of the caller's modified or shared, the same bits twice, linear in the upstream gradient.

With a torch expression `oracle.compare.compare` decides, with a measured M, and an error below a
TOLERANCE passes too, as a right formula may be rounded otherwise than torch's: relative to the
value, plus relative to the largest number. Without an expression the complex step is the reference
and the tolerance the only rule, in float32 ten times wider, because nothing is known then of how
the steps between may round. Left out on purpose: random forwards.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import torch

from oracle.cases import arrays_in
from oracle.compare import Mismatch, Result, compare, rounding_scale
from oracle.complex_step import compare_with_differences, complex_step
from oracle.proof.mistakes import likely_mistake
from oracle.signature import extent, letters, parse

TOLERANCE = {np.dtype(np.float64): (1e-9, 1e-10), np.dtype(np.float32): (1e-5, 1e-5)}
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Summary:
    """What was proven: on how many examples, and the error at worst, q where `limit` is allowed."""

    examples: int
    q: float
    limit: float


def check_backward(
    forward: Callable,
    backward: Callable,
    reference: Callable | None = None,
    signature: str = "",
    *,
    ids: Mapping[str | int, Any] | None = None,
    positive: Sequence[str | int] = (),
    sizes: Mapping[str, tuple[int, int]] | None = None,
    options: Mapping[str, Any] | None = None,
    max_examples: int = 100,
    seed: int | None = None,
    dtype: Any = np.float64,
    magnitude: float = 1.0,
    example: dict[str, Any] | None = None,
) -> Summary:
    """Prove that `backward` gives the gradients of `forward`, or raise an AssertionError that says
    what is wrong.

    forward    (inputs..., **options) -> (y, cache), and backward(dy, cache) -> the gradients; or ->
               y alone, and then backward(dy, inputs..., **options). One gradient for each floating
               input, in order; a tuple if several
    reference  the same expression on torch tensors; without it the complex step differentiates the
               forward in NumPy
    signature  the shapes, "(n,i),(i,o),(o)->(n,o)": a letter is a size to be drawn, a number is
               itself, () a scalar, and 3c or c+h a size made of others
    ids        {input: high} or {input: (low, high)} for integer inputs from low to high - 1, each a
               number or a letter; an input goes by its name in the forward or its place from 0
    positive   inputs whose values are to be positive
    sizes      {letter: (low, high)} where 1 to 6 will not do
    options    {name: hypothesis strategy, or a value} for the forward's keyword arguments
    dtype      float64 proves the formula, float32 that it can be computed so; or several
    magnitude  of the largest values
    example    check this one only, as a failure prints it
    """
    if not (max_examples >= 1 and 0 < magnitude < np.inf):
        raise ValueError(
            f"max_examples and magnitude must be positive, got {max_examples} and {magnitude}"
        )
    proof = Proof(forward, backward, reference, signature, ids or {}, positive, sizes or {}, dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # at these sizes a second one only waits
    try:
        if example is None:
            return proof.fuzz(options or {}, max_examples, seed, magnitude)
        return proof.summary(proof.check(example))
    except Failure as failure:
        raise proof.explained(failure) from None
    finally:
        torch.set_num_threads(threads)


class Failure(Mismatch):
    """Before it is explained: with its example and the mistake that may fit."""

    def __init__(self, message: str, result: Result | None, example: dict[str, Any], hint: str):
        super().__init__(message, result)
        self.example, self.hint, self.remark = example, hint, ""


class Proof:
    """The arguments of `check_backward`, put in order, and the property for one example."""

    def __init__(self, forward, backward, reference, signature, ids, positive, sizes, dtype):
        self.forward, self.backward, self.reference, self.signature = (
            forward,
            backward,
            reference,
            signature,
        )
        self.inputs, self.output = parse(signature)
        parameters = [*inspect.signature(forward).parameters][: len(self.inputs)]
        self.names = (
            parameters
            if len(parameters) == len(self.inputs)
            else [f"x{i}" for i in range(len(self.inputs))]
        )
        self.ids = {
            self.name_of(key): high if isinstance(high, tuple) else (0, high)
            for key, high in ids.items()
        }
        self.positive = [self.name_of(key) for key in positive]
        self.floating = [name for name in self.names if name not in self.ids]
        self.dtypes = [
            np.dtype(d) for d in (dtype if isinstance(dtype, tuple | list) else (dtype,))
        ]
        if not self.dtypes or any(d not in TOLERANCE for d in self.dtypes):
            raise ValueError(f"dtype must be float32, float64 or both, got {dtype!r}")
        self.sizes, self.letters = sizes, letters(*self.inputs)
        ends = [end for limits in self.ids.values() for end in limits if isinstance(end, str)]
        for letter in (*letters(self.output), *sizes, *ends):
            if letter not in self.letters:
                raise ValueError(
                    f"{letter!r} is not a size of an input in the signature {signature!r}"
                )
        self.complex_safe, self.checked = False, 0

    def name_of(self, key: str | int) -> str:
        if isinstance(key, int) and 0 <= key < len(self.names):
            return self.names[key]
        if key not in self.names:
            raise ValueError(f"there is no input {key!r}; there are {', '.join(self.names)}")
        return str(key)

    def fuzz(
        self, options: Mapping[str, Any], max_examples: int, seed: int | None, magnitude: float
    ) -> Summary:
        import hypothesis
        from hypothesis import strategies as st

        drawn = {letter: st.integers(*self.sizes.get(letter, (1, 6))) for letter in self.letters}
        given = {
            n: o if isinstance(o, st.SearchStrategy) else st.just(o) for n, o in options.items()
        }
        scales = st.sampled_from([magnitude, magnitude, 0.1 * magnitude, 0.01 * magnitude])
        results: list[Result] = []
        failures: list[Failure] = []

        @hypothesis.settings(
            max_examples=max_examples,
            database=None,
            deadline=None,
            derandomize=False,
            report_multiple_bugs=False,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(
            st.fixed_dictionaries(drawn),
            st.fixed_dictionaries(given),
            st.integers(0, 2**32 - 1),
            scales,
        )
        def prove(sizes, options, seed, scale):
            try:
                results.extend(
                    self.check({"sizes": sizes, "options": options, "seed": seed, "scale": scale})
                )
            except Failure as failure:
                failures.append(failure)
                raise

        try:
            (prove if seed is None else hypothesis.seed(seed)(prove))()
        except hypothesis.errors.Flaky:
            if not failures:
                raise
            failures[-1].remark = " It does not fail every time: something is kept between calls."
            raise failures[-1] from None
        return self.summary(results)

    def check(self, example: dict[str, Any]) -> list[Result]:
        results = Trial(self, example).check()
        self.checked += 1
        return results

    def summary(self, results: list[Result]) -> Summary:
        worst = max(results, key=lambda result: result.q / result.limit)
        return Summary(self.checked, worst.q, worst.limit)

    def explained(self, failure: Failure) -> Mismatch:
        """The smallest failure, with the mistake that fits where the sizes cannot be confused."""
        primes = iter((5, 3, 7, 11, 13, 17, 19))
        example, hint = failure.example, failure.hint
        sizes = {
            name: self.sizes[name][1] if name in self.sizes else next(primes, 6)
            for name in example["sizes"]
        }
        try:
            self.check(example | {"sizes": sizes})
        except Failure as clearer:
            if clearer.result and failure.result and clearer.result.name == failure.result.name:
                hint = clearer.hint or hint
        except Exception:  # these sizes and options may not go together
            pass
        functions = (
            title(f) if f else "None" for f in (self.forward, self.backward, self.reference)
        )
        arguments = ", ".join([*functions, repr(self.signature)])
        arguments += f", ids={self.ids}" * bool(self.ids) + f", positive={self.positive}" * bool(
            self.positive
        )
        arguments += f", dtype={[str(d) for d in self.dtypes]}" * (self.dtypes != [np.float64])
        likely = f" Likely mistake: {hint}." if hint else ""
        line = f"oracle.check_backward({arguments}, example={example})"
        return Mismatch(f"{failure}{failure.remark}{likely}\nReproduce: {line}", failure.result)


class Trial:
    """One example: its inputs, what is expected, and the calls of the two functions."""

    def __init__(self, proof: Proof, example: dict[str, Any]):
        self.proof, self.example, self.options = proof, example, example["options"]
        rng, sizes, scale = (
            np.random.default_rng(example["seed"]),
            example["sizes"],
            example["scale"],
        )
        narrow = min(proof.dtypes, key=lambda d: d.itemsize)  # numbers that every dtype has
        self.inputs: Arrays = {}
        for name, shape in zip(proof.names, proof.inputs, strict=True):
            if name in proof.ids:  # few of them, so that they repeat
                low, high = (sizes[end] if isinstance(end, str) else end for end in proof.ids[name])
                self.inputs[name] = np.asarray(
                    rng.choice(rng.integers(low, high, 4), extent(shape, sizes))
                )
            else:
                values = rng.standard_normal(extent(shape, sizes))
                values = np.abs(values) + 0.1 if name in proof.positive else values
                self.inputs[name] = np.asarray(values * scale, narrow).astype(np.float64)
        self.dy = np.asarray(rng.standard_normal(extent(proof.output, sizes)), narrow).astype(
            np.float64
        )
        read_only(self.inputs | {"dy": self.dy})
        self.expected: Arrays = {}
        self.ones: Arrays = {}
        self.scale: Arrays = {}

    def value(self, inputs: Arrays) -> Any:
        return self.run(inputs)[0]

    def differentiate(self) -> None:
        """Find the expected y and gradients."""
        proof, y = self.proof, self.value(self.inputs)
        if np.shape(y) != self.dy.shape:
            says = f"but {proof.signature!r} says {self.dy.shape} for {self.example['sizes']}"
            raise ValueError(f"{title(proof.forward)} returns shape {np.shape(y)}, {says}")
        if proof.reference is None:
            self.expected, self.ones = complex_step(self.value, self.inputs, self.dy)
            if not proof.complex_safe:
                compare_with_differences(self.value, self.inputs, self.dy, self.expected)
            proof.complex_safe = True
            return

        def function(*tensors):
            tensors, upstream = tensors[:-1], tensors[-1]
            leaves = [t.requires_grad_() for t in tensors if t.is_floating_point()]
            y = proof.reference(*tensors, **self.options)
            if y.shape != upstream.shape:
                raise ValueError(
                    f"the reference returns shape {tuple(y.shape)}, not {tuple(upstream.shape)}"
                )
            return [y, *torch.autograd.grad(y, leaves, upstream)]

        values, scales = rounding_scale(function, [*self.inputs.values(), self.dy])
        ones, _ = rounding_scale(function, [*self.inputs.values(), np.ones_like(self.dy)], runs=0)
        names = ["y", *proof.floating]
        self.expected, self.scale, self.ones = (
            dict(zip(names, a, strict=True)) for a in (values, scales, ones)
        )

    def call(self, function: Callable, *arguments: Any, **options: Any) -> Any:
        try:
            with np.errstate(all="ignore"):
                return function(*arguments, **options)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            self.fail(
                f"{title(function)} writes into an array that was given to it ({error})",
                cause=error,
            )

    def run(self, inputs: Arrays) -> tuple[Any, Callable[[Any], Arrays], list[np.ndarray]]:
        """Forward -> y, the backward as a function of dy, the arrays of the cache."""
        found = self.call(self.proof.forward, *inputs.values(), **self.options)
        cached = isinstance(found, tuple) and len(found) == 2
        y, cache = found if cached else (found, ())

        def gradients(dy: Any) -> Arrays:
            names, backward = self.proof.floating, self.proof.backward
            what = (cache,) if cached else inputs.values()
            result = self.call(backward, dy, *what, **({} if cached else self.options))
            result = result if isinstance(result, tuple | list) else (result,)
            if len(result) != len(names):
                wanted = ", ".join("d" + name for name in names)
                raise ValueError(
                    f"{title(backward)} returns {len(result)} gradients, but {wanted} are wanted"
                )
            return dict(zip(names, result, strict=True))

        return y, gradients, list(arrays_in(cache))

    def check(self) -> list[Result]:
        self.differentiate()
        return [result for dtype in self.proof.dtypes for result in self.check_dtype(dtype)]

    def check_dtype(self, dtype: np.dtype) -> list[Result]:
        floating = self.proof.floating
        inputs = {n: a.astype(dtype if n in floating else a.dtype) for n, a in self.inputs.items()}
        dy = self.dy.astype(dtype)
        y, backward, cached = self.run(read_only(inputs))
        owners = {f"the input {n}": a for n, a in inputs.items()} | {"dy": dy}
        owners |= {f"array {i} of the cache": a for i, a in enumerate(cached)}
        read_only(owners)
        gradients = backward(dy)
        results = self.close({"y": y} if "y" in self.expected else {}, dtype) + self.close(
            gradients, dtype
        )
        for name, gradient in gradients.items():
            for what, array in owners.items():
                if np.shares_memory(gradient, array):
                    self.fail(f"d{name} shares memory with {what}: return a copy")
            owners[f"d{name}"] = gradient
        before = {name: gradient.tobytes() for name, gradient in gradients.items()}

        other = {n: np.asarray(1.5 * a, dtype) if n in floating else a for n, a in inputs.items()}
        self.run(other)[1](np.asarray(1.5 * dy, dtype))
        for name, gradient in gradients.items():
            if gradient.tobytes() != before[name]:
                self.fail(f"d{name} is changed by a later call: return a fresh array")
        for name, again in backward(dy).items():
            if np.asarray(again).tobytes() != before[name]:
                self.fail(f"d{name} has other bits the second time")
        for name, zero in backward(np.zeros_like(dy)).items():
            if np.any(zero):
                self.fail(f"d{name} is not zero for an upstream gradient of zeros")
        part = dy * (np.random.default_rng(self.example["seed"]).random(dy.shape) < 0.5)
        first, second = (backward(np.asarray(a, dtype)) for a in (-2 * part, dy - part))
        total = {name: first[name] * dtype.type(-0.5) + second[name] for name in first}
        return results + self.close(total, dtype, " as a sum over two parts of dy")

    def close(self, found: Arrays, dtype: np.dtype, when: str = "") -> list[Result]:
        expected = {f"d{n}": self.expected[n] for n in self.proof.floating}
        largest = max(float(np.abs(a).max(initial=0)) for a in (self.dy, *expected.values()))
        terms = max(a.size for a in self.inputs.values())
        results = []
        for name, got in found.items():
            shown = name if name == "y" else f"d{name}"
            result = decide(
                got, self.expected[name], self.scale.get(name), terms, dtype, largest, shown + when
            )
            if not result.ok:
                known = {
                    "sizes": self.example["sizes"],
                    "inputs": self.inputs,
                    "dy": self.dy,
                    "ones": self.ones[name],
                }
                hint = likely_mistake(shown, got, expected, **known) if shown in expected else ""
                self.fail(result.message.rstrip("."), result, hint)
            results.append(result)
        return results

    def fail(
        self, sentence: str, result: Result | None = None, hint: str = "", cause: Any = None
    ) -> NoReturn:
        if self.proof.reference is None and self.expected:  # it may be the reference that is wrong
            compare_with_differences(self.value, self.inputs, self.dy, self.expected)
        drawn = {**self.example["sizes"], **self.options, "seed": self.example["seed"]}
        at = ", ".join(f"{k} = {v!r}" for k, v in drawn.items())
        raise Failure(
            f"{title(self.proof.backward)}: {sentence} [{at}].", result, self.example, hint
        ) from cause


def decide(
    got: Any,
    expected: np.ndarray,
    scale: Any,
    terms: int,
    dtype: np.dtype,
    largest: float,
    name: str,
) -> Result:
    """`compare` with M = scale where there is one; where that fails, or without it, whether
    TOLERANCE is kept."""
    details: dict[str, Any] = {"upstream": largest, "dtype": dtype, "name": name}
    strict = None if scale is None else compare(got, expected, scale, terms, **details)
    if strict is not None and strict.ok:
        return strict
    relative, absolute = TOLERANCE[dtype]
    bound = (relative * np.abs(expected) + absolute * largest) * (
        1 if dtype == np.float64 or strict else 10
    )
    tolerant = compare(got, expected, bound / (8 * np.finfo(dtype).eps), **details)
    return tolerant if strict is None or tolerant.ok else strict


def read_only(arrays: Arrays) -> Arrays:
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def title(function: Any) -> str:
    return getattr(function, "__qualname__", repr(function)).split(".")[-1]
