"""The table: every operation of npnet with how to draw an example of it, and the one property that
each has to satisfy.

An example is a flat dictionary of plain values, seed and sizes and options, from which `Case.draw`
makes the arrays; so a printed example reproduces a failure. `check(case, example)` is the whole
property. The tests, `certify` and the registry of wrong backward passes all call it, the last with
a backward of its own.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from npnet import ops
from npnet.random import TorchGenerator
from oracle import ops as reference
from oracle.compare import Mismatch, Result, compare, rounding_scale

# What every example has. Choices stand as often as they are to be drawn; the first is the plainest.
COMMON: dict[str, tuple] = {
    "values": ("normal", "normal", "normal", "ties", "constant", "extreme", "wide"),
    "scale": (1.0, 1.0, 1.0, 1e-4, 1e-2, 1e1, 1e2, 1e4),
    "upstream": (1.0, 1.0, 1e-4, 1e4),
    "layout": ("C", "C", "F", "reversed", "strided", "zero stride"),
}
Arrays = dict[str, np.ndarray]
# Mostly small, so that an example is quick; the large ones are for what goes wrong from some size
# on. Where M is measured, hundreds of equal terms with errors in common would need more runs; there
# the large sizes are edges.
SMALL = (3, 1, 2, 4, 5, 7)
SIZE = (*SMALL, 33)
LEAD = ((4,), (), (1,), (2,), (3,), (7,), (2, 3), (3, 1), (1, 4), (2, 1, 3), (70,))
EPS = (None, 1e-5, 1e-3, 0.5)  # None: the default of the operation


class Draw:
    """Random arrays for one example. The kind of values shapes the data, `x`; parameters are always
    normal."""

    def __init__(self, seed: int, values: str, scale: float):
        self.rng = np.random.default_rng(seed)
        self.values = values
        self.scale = scale

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape) * self.scale

    def x(self, *shape: int) -> np.ndarray:
        x = self.normal(*shape)
        if self.values == "ties":
            x = self.rng.integers(-2, 3, shape) * self.scale
        elif self.values == "constant":  # a constant column and a constant row
            x[..., 0] = x[(0,) * (x.ndim - 1)] = x.flat[0]
        elif self.values == "extreme":
            x = np.copysign(1e3, x)
        elif self.values == "wide":  # of every magnitude
            x *= 10.0 ** self.rng.integers(-12, 1, shape)
        return x

    def indices(self, n: int, shape: tuple[int, ...]) -> np.ndarray:
        """From at most four distinct ones, so that they repeat; all the same where values are
        constant."""
        few = self.rng.integers(0, n, 1 if self.values == "constant" else 4)
        return self.rng.choice(few, shape)


@dataclass(frozen=True)
class Case:
    """One operation: `draw(draws, **choices)` gives its inputs by name, in argument order, and its
    options.

    batched    the inputs with a batch axis in front, and "y" if the result has one; empty: the
               batch has an order (a backward's `out` is for the gradients of all the others)
    separable  whether the gradients of two halves of a batch add up to those of the whole
    """

    name: str
    draw: Callable[..., tuple[dict[str, np.ndarray], dict[str, Any]]]
    choices: dict[str, tuple]
    batched: tuple[str, ...] = ("x", "y")
    separable: bool = True
    forward: Callable = field(default=None, repr=False)  # type: ignore[assignment]
    backward: Callable = field(default=None, repr=False)  # type: ignore[assignment]
    oracle: Callable = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self):
        for role, module, name in (
            ("forward", ops, ""),
            ("backward", ops, "_backward"),
            ("oracle", reference, ""),
        ):
            if getattr(self, role) is None:
                object.__setattr__(self, role, getattr(module, self.name + name))

    @functools.cached_property
    def all_choices(self) -> dict[str, tuple]:
        return self.choices | {
            name: options for name, options in COMMON.items() if name not in self.choices
        }

    def example(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random example."""
        drawn = {
            name: options[rng.integers(len(options))] for name, options in self.all_choices.items()
        }
        return {"seed": int(rng.integers(2**32)), **drawn}

    def plain(self, **chosen: Any) -> dict[str, Any]:
        """The plainest example but for what is chosen: how an edge is written down."""
        return {
            "seed": 0,
            **{name: options[0] for name, options in self.all_choices.items()},
            **chosen,
        }

    def strategy(self):
        """hypothesis' way to draw an example."""
        from hypothesis import strategies as st

        drawn = {name: st.sampled_from(options) for name, options in self.all_choices.items()}
        return st.fixed_dictionaries({"seed": st.integers(0, 2**32 - 1), **drawn})


class Trial:
    """One operation on one example in one dtype: read-only inputs, laid out in memory, and the
    oracle's answers."""

    def __init__(
        self,
        case: Case,
        example: dict[str, Any],
        dtype: type,
        forward: Callable,
        backward: Callable,
    ):
        self.case, self.example, self.dtype = case, example, np.dtype(dtype)
        self.forward, self.backward = forward, backward
        draws = Draw(example["seed"], example["values"], example["scale"])
        arrays, self.options = case.draw(
            draws, **{k: v for k, v in example.items() if k not in COMMON and k != "seed"}
        )
        self.inputs = {name: self.lay_out(a, name in case.batched) for name, a in arrays.items()}
        self.names = [name for name, a in self.inputs.items() if a.dtype.kind == "f"]
        self.rng = draws.rng
        self.wide = {
            name: np.array(a, np.float64 if name in self.names else None, order="C")
            for name, a in self.inputs.items()
        }
        y = case.oracle(*(torch.from_numpy(a.copy()) for a in self.wide.values()), **self.options)
        self.dy = self.lay_out(self.rng.standard_normal(tuple(y.shape)) * example["upstream"], True)
        self.expected, self.scale = self.reference(self.wide, self.dy.astype(np.float64))
        self.terms = max(a.size for a in self.inputs.values())

    def lay_out(self, values: np.ndarray, data: bool) -> np.ndarray:
        """The same values in another order of memory (but for zero stride, which repeats the first
        of the batch)."""
        a = np.array(values, self.dtype if values.dtype.kind == "f" else None)
        layout = self.example["layout"] if a.ndim else "C"
        if layout == "F":
            a = np.asfortranarray(a)
        elif layout == "reversed":
            a = np.flip(np.flip(a).copy())
        elif layout == "strided":
            wider = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
            wider[..., ::2] = a
            a = wider[..., ::2]
        elif layout == "zero stride" and data and a.dtype.kind == "f":
            a = np.broadcast_to(a[:1], a.shape)
        a.flags.writeable = False
        return a

    def reference(self, inputs: Arrays, dy: np.ndarray) -> tuple[Arrays, Arrays]:
        """y and each d<name> in float64, and their M: the formula's where there is one, else
        measured."""
        case, options = self.case, self.options
        formula = getattr(reference, f"{case.name}_scale", None)

        def values_and_gradients(*tensors: torch.Tensor) -> list[torch.Tensor]:
            *tensors, upstream = tensors  # type: ignore[assignment]
            leaves = [t.requires_grad_() for t in tensors if t.is_floating_point()]
            y = case.oracle(*tensors, **options)
            return [y, *torch.autograd.grad(y, leaves, upstream)]

        values, scales = rounding_scale(
            values_and_gradients, [*inputs.values(), dy], runs=0 if formula else 8
        )
        if formula:
            tensors = [torch.from_numpy(a) for a in inputs.values()]
            scales = [m.numpy() for m in formula(torch.as_tensor(dy), *tensors, **options)]
        names = ["y", *("d" + name for name in self.names)]
        return dict(zip(names, values, strict=True)), dict(zip(names, scales, strict=True))

    # How it calls, and what it says when something is wrong.

    def fail(
        self, sentence: str, result: Result | None = None, cause: BaseException | None = None
    ) -> None:
        at = ", ".join(f"{name} = {value!r}" for name, value in self.example.items())
        line = (
            f"python -c \"from oracle.cases import *; check('{self.case.name}', {self.example})\""
        )
        raise Mismatch(
            f"{self.case.name} ({self.dtype}): {sentence} [{at}]\nReproduce: {line}", result
        ) from cause

    def call(self, function: Callable, *arguments: Any, **options: Any) -> Any:
        try:
            with np.errstate(over="raise", divide="raise", invalid="raise"):
                return function(*arguments, **options)
        except Exception as error:
            name = getattr(getattr(function, "func", function), "__name__", function)
            self.fail(f"{name} raised {type(error).__name__}: {error}.", cause=error)

    def gradients(self, dy: Any, cache: Any, **options: Any) -> dict[str, np.ndarray]:
        found = self.call(self.backward, dy, cache, **options)
        found = (found,) if len(self.names) == 1 and isinstance(found, np.ndarray) else found
        if not isinstance(found, tuple) or len(found) != len(self.names):
            self.fail(
                f"the backward has to return {', '.join('d' + n for n in self.names)}, but returned {found!r}."
            )
        return {"d" + name: gradient for name, gradient in zip(self.names, found, strict=True)}

    def run(self, inputs: dict[str, np.ndarray], dy: Any) -> dict[str, np.ndarray]:
        y, cache = self.call(self.forward, *inputs.values(), **self.options)
        return {"y": y, **self.gradients(dy, cache)}

    def close(
        self,
        found: Arrays,
        when: str = "",
        expected: Arrays | None = None,
        scale: Arrays | None = None,
    ) -> list[Result]:
        expected, scale = expected or self.expected, scale or self.scale
        how: dict[str, Any] = {"upstream": float(np.abs(self.dy).max()), "dtype": self.dtype}
        results = []
        for name, got in found.items():
            result = compare(got, expected[name], scale[name], self.terms, name=name, **how)
            if not result.ok:
                self.fail(f"{when}{result.message}", result)
            results.append(result)
        return results

    # The property.

    def values(self) -> list[Result]:
        """Values, shapes, dtypes; nothing of the caller's modified or shared; the same bits after
        another call."""
        y, cache = self.call(self.forward, *self.inputs.values(), **self.options)
        cached = list(arrays_in(cache))
        for array in arrays_in((y, cache)):
            array.flags.writeable = False
        given = {
            **{f"the input {n}": a for n, a in self.inputs.items()},
            "dy": self.dy,
            "the result y": y,
        }
        given |= {f"array {i} of the cache": a for i, a in enumerate(cached)}
        before = {what: a.tobytes() for what, a in given.items()}
        gradients = self.gradients(self.dy, cache)
        self.unmodified(given, before)
        results = self.close({"y": y, **gradients})

        for name, a in self.inputs.items():
            if np.shares_memory(y, a):
                self.fail(f"the result y shares memory with the input {name}.")
        owners = dict(given)
        for name, gradient in gradients.items():
            for what, a in owners.items():
                if np.shares_memory(gradient, a):
                    self.fail(f"{name} shares memory with {what}.")
            owners[name] = gradient
            before[name] = gradient.tobytes()

        self.run(
            {n: 1.5 * a if n in self.names else a for n, a in self.inputs.items()}, 1.5 * self.dy
        )
        again, _ = self.call(self.forward, *self.inputs.values(), **self.options)
        again = {"y": again, **self.gradients(self.dy, cache)}
        for name, value in {"y": y, **gradients}.items():
            if again[name].tobytes() != value.tobytes():
                self.fail(f"{name} has other bits the second time.")
        self.unmodified(owners, before)
        return results

    def unmodified(self, arrays: dict[str, np.ndarray], before: dict[str, bytes]) -> None:
        for what, array in arrays.items():
            if array.tobytes() != before[what]:
                self.fail(f"{what} was modified.")

    def cotangent(self) -> None:
        """The backward is linear: zero gives exact zeros, and the gradients of two parts of dy add
        up."""
        _, cache = self.call(self.forward, *self.inputs.values(), **self.options)
        for name, gradient in self.gradients(0 * self.dy, cache).items():
            if np.any(gradient != 0):
                self.fail(f"{name} is not zero for a zero cotangent.")
        part = self.dy * (self.rng.random(self.dy.shape) < 0.5).astype(self.dtype)
        first, second = self.gradients(-2 * part, cache), self.gradients(self.dy - part, cache)
        total = {name: first[name] * self.dtype.type(-0.5) + second[name] for name in first}
        try:
            self.close(total)
        except (
            Mismatch
        ):  # what cancels in the whole need not cancel in a part, whose errors are then larger
            scales = [
                self.reference(self.wide, d.astype(np.float64))[1] for d in (part, self.dy - part)
            ]
            scale = {name: scales[0][name] + scales[1][name] for name in total}
            self.close(total, "as the sum over two parts of dy, ", scale=scale)
        if self.dy.ndim == 0:
            self.close(self.gradients(float(self.dy), cache), "for a Python float, ")

    def batch(self) -> None:
        """A permuted batch gives permuted results, two halves of a batch give the whole."""
        data = [name for name in self.inputs if name in self.case.batched]
        size = self.example["lead"][0] if data and self.example["lead"] else 0
        if size < 2:
            return
        in_batch = {*("d" + name for name in data), *self.case.batched}

        def select(rows: Any) -> dict[str, np.ndarray]:
            dy = self.dy[rows] if "y" in in_batch else self.dy
            return self.run({n: a[rows] if n in data else a for n, a in self.inputs.items()}, dy)

        order = self.rng.permutation(size)
        expected, scale = (
            {n: a[order] if n in in_batch else a for n, a in part.items()}
            for part in (self.expected, self.scale)
        )
        self.close(select(order), "for a permuted batch, ", expected, scale)
        if self.case.separable:
            first, second = select(slice(0, size // 2)), select(slice(size // 2, size))
            joined = {
                n: np.concatenate([first[n], second[n]]) if n in in_batch else first[n] + second[n]
                for n in first
            }
            self.close(joined, "from two halves of the batch, ")

    def placed(self) -> None:
        """Where the backward takes `out`, the parameters' gradients appear there, whatever stood
        there before."""
        if "out" not in inspect.signature(self.backward).parameters:
            return
        _, cache = self.call(self.forward, *self.inputs.values(), **self.options)
        names = ["d" + n for n in self.names if n not in self.case.batched]
        for order in ("C", "F"):
            out = tuple(np.empty(self.expected[n].shape, self.dtype, order) for n in names)
            for array in out:
                array.fill(np.nan)
            returned = self.gradients(
                self.dy, cache, out=out[0] if names and len(self.names) == 1 else out
            )
            self.close(returned, "with `out`, ")
            for name, array in zip(names, out, strict=True):
                if not np.array_equal(array, returned[name]) or not np.shares_memory(
                    array, returned[name]
                ):
                    self.fail(f"{name} is not what stands in `out`.")


def arrays_in(cache: Any) -> Iterator[np.ndarray]:
    if isinstance(cache, np.ndarray):
        yield cache
    elif isinstance(cache, dict):
        yield from arrays_in(tuple(cache.values()))
    elif isinstance(cache, tuple | list):
        for entry in cache:
            yield from arrays_in(entry)


def check(
    case: Case | str,
    example: dict[str, Any],
    forward: Callable | None = None,
    backward: Callable | None = None,
) -> list[Result]:
    """The whole property of one operation on one example, in float64 and in float32; raises
    `Mismatch` with a sentence.

    Another `forward` or `backward` may take the place of npnet's. Returns the comparisons with the
    oracle.
    """
    case = find(case) if isinstance(case, str) else case
    results = []
    for dtype in (np.float64, np.float32):
        trial = Trial(case, example, dtype, forward or case.forward, backward or case.backward)
        results += trial.values()
        trial.cotangent()
        trial.batch()
        trial.placed()
    return results


def find(name: str) -> Case:
    """The case of an operation, or of a model as `models.KIND`."""
    if name.startswith("models."):
        from oracle.model_cases import MODEL_CASES

        return MODEL_CASES[name]
    return CASES[name]


# The table. A draw gives the inputs, in argument order, and the options.


def given(**options: Any) -> dict[str, Any]:
    """Options that are not left to their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def draw_embedding(d: Draw, lead, V, C):
    return {"ids": d.indices(V, lead), "table": d.normal(V, C)}, {}


def draw_linear(d: Draw, lead, C, H, bias):
    inputs = {"x": d.x(*lead, C), "w": d.normal(C, H)}
    return inputs | ({"b": d.normal(H)} if bias else {}), {}


def draw_x(d: Draw, lead, C, **options):
    return {"x": d.x(*lead, C)}, given(**options)


def draw_dropout(d: Draw, lead, C, p):
    return {"x": d.x(*lead, C)}, {"p": p, "seed": int(d.rng.integers(2**32))}


def draw_cross_entropy(d: Draw, lead, V, ignored, ignore_index):
    ignore_index = None if ignore_index == 0 and V == 1 else ignore_index
    ignore = -1 if ignore_index is None else ignore_index
    targets = np.asarray(d.indices(V, lead)).reshape(-1)
    if ignored != "none":
        targets[d.rng.random(targets.shape) < (0.5 if ignored == "some" else 1)] = ignore
    if np.all(targets == ignore):
        targets[d.rng.integers(targets.size)] = V - 1
    return {"logits": d.x(*lead, V), "targets": targets.reshape(lead)}, given(
        ignore_index=ignore_index
    )


def draw_norm(d: Draw, lead, C, **options):
    return {"x": d.x(*lead, C), "gain": d.normal(C), "bias": d.normal(C)}, given(**options)


def draw_batch_norm_inference(d: Draw, lead, C, eps):
    inputs, options = draw_norm(d, lead, C, eps=eps)
    return inputs | {"mean": d.normal(C), "var": d.normal(C) ** 2}, options


def draw_rms_norm(d: Draw, lead, C, gain, eps):
    return {"x": d.x(*lead, C)} | ({"gain": d.normal(C)} if gain else {}), given(eps=eps)


def draw_attention(d: Draw, lead, T, n_head, D):
    return {"qkv": d.x(*lead, T, 3 * n_head * D)}, {"n_head": n_head}


def draw_recurrent(d: Draw, lead, T, C, H, gates, states):
    initial = {name: d.normal(H) for name in states}
    return {
        "x": d.x(*lead, T, C),
        **initial,
        "w": d.normal(C + H, gates * H),
        "b": d.normal(gates * H),
    }, {}


def draw_sequence(d: Draw, lead, T, C, n=None):
    return {"x": d.x(*lead, T * (n or 1), C)}, given(n=n)


def recurrent(name: str, gates: int, states: tuple[str, ...] = ("h0",)) -> Case:
    draw = functools.partial(draw_recurrent, gates=gates, states=states)
    return Case(name, draw, {"lead": SEQUENCES, "T": (3, 1, 2, 4), "C": SMALL, "H": SMALL})


ROWS = {"lead": LEAD, "C": SIZE}
BATCHES = ((4,), (2,), (3,), (7,), (2, 3), (3, 1, 2), (1, 4), (70,))  # at least two rows
SEQUENCES = ((3,), (), (1,), (4,), (2, 3))

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "embedding",
            draw_embedding,
            {"lead": LEAD, "V": (3, 1, 2, 5, 7, 600), "C": SIZE},
            batched=("ids", "y"),
        ),
        Case(
            "linear", draw_linear, {"lead": LEAD, "C": SIZE, "H": SIZE, "bias": (True, True, False)}
        ),
        Case("tanh", draw_x, ROWS),
        Case("relu", draw_x, ROWS),
        Case("sigmoid", draw_x, ROWS),
        Case("gelu", draw_x, ROWS | {"approximate": (None, "tanh", "none")}),
        Case("softmax", draw_x, ROWS),
        Case(
            "dropout",
            draw_dropout,
            ROWS | {"p": (0.5, 0.0, 0.1, 0.9)},
            batched=(),
            forward=lambda x, p, seed: ops.dropout(x, p, TorchGenerator(seed)),
            oracle=lambda x, p, seed: reference.dropout(x, p, torch.Generator().manual_seed(seed)),
        ),
        Case(
            "cross_entropy",
            draw_cross_entropy,
            {
                "lead": LEAD,
                "V": SIZE,
                "ignored": ("none", "some", "all but one"),
                "ignore_index": (None, -100, 0),
            },
            batched=("logits", "targets"),
            separable=False,
        ),
        Case(
            "batch_norm",
            draw_norm,
            {"lead": BATCHES, "C": SIZE, "eps": EPS, "unbiased": (None, True, False)},
            separable=False,
        ),
        Case("batch_norm_inference", draw_batch_norm_inference, ROWS | {"eps": EPS}),
        Case("layer_norm", draw_norm, ROWS | {"eps": EPS}),
        Case("rms_norm", draw_rms_norm, ROWS | {"gain": (True, False), "eps": EPS}),
        Case(
            "causal_attention",
            draw_attention,
            {"lead": SEQUENCES, "T": SMALL, "n_head": (2, 1, 3), "D": (3, 1, 2, 4)},
            batched=("qkv", "y"),
        ),
        recurrent("rnn", 1),
        recurrent("gru", 3),
        recurrent("lstm", 4, ("h0", "c0")),
        Case("causal_mean", draw_sequence, {"lead": SEQUENCES, "T": SIZE, "C": SIZE}),
        Case(
            "flatten_consecutive",
            draw_sequence,
            {"lead": SEQUENCES, "T": SIZE, "C": SIZE, "n": (2, 1, 3)},
        ),
    )
}

# What hypothesis may not draw often enough: the same property at the places where backward passes
# break.
EDGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("embedding", "one index fills the batch", {"values": "constant", "lead": (7,), "V": 5}),
    ("embedding", "a vocabulary of one", {"lead": (2, 3), "V": 1}),
    ("embedding", "a large table, a small batch", {"lead": (3,), "V": 600}),
    ("linear", "one row", {"lead": (1,)}),
    ("linear", "an outer product of one", {"lead": (3,), "C": 1, "H": 1}),
    ("tanh", "saturated", {"values": "extreme", "upstream": 1e4}),
    ("tanh", "nearly saturated", {"scale": 1e1}),
    ("relu", "ties at zero", {"values": "ties", "lead": (7,), "C": 7}),
    ("sigmoid", "saturated", {"values": "extreme", "upstream": 1e4}),
    ("sigmoid", "nearly saturated", {"scale": 1e2}),
    ("gelu", "saturated", {"values": "extreme"}),
    ("gelu", "saturated, exact", {"values": "extreme", "approximate": "none"}),
    ("softmax", "ties at the maximum", {"values": "ties", "lead": (7,), "C": 5}),
    ("softmax", "logits of +-1e3", {"values": "extreme", "C": 5}),
    ("softmax", "one class", {"C": 1}),
    ("cross_entropy", "ties at the maximum", {"values": "ties", "lead": (7,), "V": 5}),
    ("cross_entropy", "logits of +-1e3", {"values": "extreme", "lead": (7,), "V": 5}),
    ("cross_entropy", "one class", {"V": 1}),
    ("cross_entropy", "one target that counts", {"lead": (2, 3), "V": 5, "ignored": "all but one"}),
    ("cross_entropy", "one position", {"lead": (1,), "V": 5}),
    ("batch_norm", "two rows", {"lead": (2,)}),
    ("batch_norm", "two rows with ties", {"lead": (2,), "values": "ties", "C": 7}),
    ("batch_norm", "a constant column", {"values": "constant", "lead": (7,)}),
    ("batch_norm", "a large constant column", {"values": "constant", "lead": (3,), "scale": 1e4}),
    ("batch_norm", "small values, where eps counts", {"scale": 1e-2, "unbiased": False}),
    ("batch_norm_inference", "small values, where eps counts", {"scale": 1e-2}),
    ("layer_norm", "a constant row", {"values": "constant", "lead": (7,), "C": 5}),
    ("layer_norm", "one channel", {"C": 1}),
    ("layer_norm", "small values, where eps counts", {"scale": 1e-2}),
    ("rms_norm", "a constant row", {"values": "constant", "C": 5}),
    ("rms_norm", "one channel", {"C": 1, "values": "ties"}),
    ("rms_norm", "small values, where eps counts", {"scale": 1e-2}),
    ("causal_attention", "one position", {"T": 1}),
    ("causal_attention", "one channel a head", {"D": 1, "n_head": 3, "T": 5}),
    ("causal_attention", "ties", {"values": "ties", "T": 7}),
    ("causal_attention", "scores beyond exp", {"scale": 1e2, "T": 5}),
    ("causal_attention", "scores beyond exp in float32 alone", {"scale": 1e1, "T": 5}),
    ("causal_attention", "long, with wide heads", {"lead": (2,), "T": 33, "D": 17}),
    ("rnn", "one step", {"T": 1}),
    ("rnn", "long and wide", {"lead": (20,), "T": 19, "C": 33, "H": 20, "scale": 0.1}),
    ("rnn", "saturated", {"values": "extreme"}),
    ("gru", "one step", {"T": 1}),
    ("gru", "long and wide", {"lead": (20,), "T": 19, "C": 33, "H": 20, "scale": 0.1}),
    ("gru", "saturated", {"values": "extreme"}),
    ("lstm", "one step", {"T": 1}),
    ("lstm", "long and wide", {"lead": (20,), "T": 19, "C": 33, "H": 20, "scale": 0.1}),
    ("lstm", "saturated", {"values": "extreme"}),
    ("causal_mean", "one position", {"T": 1}),
    ("flatten_consecutive", "all of the time at once", {"T": 1, "n": 3}),
)
