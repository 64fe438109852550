"""Which habit of testing a gradient catches which mistake: prints the table of docs/proof.md, in
Markdown.

    python -m benchmarks.habits [EXAMPLES]

Every wrong backward pass of tests/wrong_backwards.py is tested with every habit, on the same number
of random examples. The first columns each change one thing in a comparison that has none of these
habits. A test that rejects correct code is useless, so a tolerance that has to be chosen is the
smallest power of ten that every correct pass satisfies.
"""

import collections
import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from npnet.models import build
from npnet.random import TorchGenerator
from oracle import ops as torch_ops
from oracle.cases import Case
from oracle.proof.compare import compare
from oracle.proof.draw import COMMON, Arrays, Draw
from oracle.proof.reference import Torch
from oracle.prove import ALL_CASES

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
registry = importlib.import_module("wrong_backwards")

FIXED = {
    "lead": (4,),
    "T": 4,
    "C": 3,
    "H": 5,
    "V": 7,
    "D": 2,
    "n": 2,
    "n_head": 2,
    "n_layer": 2,
    "block_size": 4,
}


@dataclass(frozen=True)
class Habit:
    """How a test compares; the defaults are what the rest of the table is measured against.

    ones       dy is ones, as `y.sum().backward()` has it, and a loss is the last value
    library    gain 1, bias and first state 0, a model's parameters as they are first drawn
    fixed      one set of sizes
    single     float32 against float32 instead of float64 against float64
    tolerance  of np.allclose, absolute and relative; 0: the smallest power of ten that will do;
               None: the bound of oracle.proof.compare
    """

    name: str
    ones: bool = False
    library: bool = False
    fixed: bool = False
    single: bool = False
    tolerance: float | None = None


HABITS = (
    Habit("`dy` all ones", ones=True),
    Habit("library initialisation", library=True),
    Habit("one size", fixed=True),
    Habit("float32 against float32", single=True, tolerance=0.0),
    Habit("`np.allclose`", tolerance=1e-8),
    Habit("all five", ones=True, library=True, fixed=True, single=True, tolerance=0.0),
    Habit("none of them"),
)


@dataclass
class Drawn:
    """Inputs and a cotangent, and what torch says of them."""

    inputs: list[np.ndarray]
    options: dict[str, Any]
    dy: np.ndarray
    expected: list[np.ndarray]
    scales: list[np.ndarray]
    terms: int


def prepare(case: Case, habit: Habit, rng: np.random.Generator) -> Drawn:
    """A random example as the habit draws it; of unit scale where a tolerance is fixed, or no
    tolerance would do."""
    example = case.example(rng)
    if habit.fixed:
        example |= {name: size for name, size in FIXED.items() if name in example}
    if habit.tolerance is not None:
        example |= {"values": "normal", "scale": 1.0, "upstream": 1.0}
    draws = Draw(example["seed"], example["values"], example["scale"])
    inputs, options = case.draw(
        draws, **{name: example[name] for name in example.keys() - {"seed", *COMMON}}
    )
    if habit.library:
        inputs |= first_values(case, inputs, options, example["seed"])
    dtype = np.float32 if habit.single else np.float64
    inputs = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in inputs.items()}

    wanted = [name for name, a in inputs.items() if a.dtype.kind == "f"]
    reference = Torch(case.oracle, getattr(torch_ops, f"{case.name}_scale", None))
    (shape,) = reference.shapes(inputs, options)
    dy = draws.rng.standard_normal(shape) * example["upstream"]
    dy = np.ones(shape, dtype) if habit.ones else np.asarray(dy, dtype)
    if habit.single:
        expected, scales = in_float32(case, inputs, options, dy), []
    else:
        right = reference.expect(inputs, (dy,), options, wanted)
        expected = [*(right.outputs or ()), *right.gradients.values()]
        outputs, gradients = right.scale() if right.scale and habit.tolerance is None else ([], {})
        scales = [*outputs, *gradients.values()]
    return Drawn(
        list(inputs.values()), options, dy, expected, scales, max(a.size for a in inputs.values())
    )


def in_float32(case: Case, inputs: Arrays, options: dict[str, Any], dy: np.ndarray) -> list:
    """y and the gradients as torch has them in float32."""
    tensors = [torch.from_numpy(np.array(a)) for a in inputs.values()]
    leaves = [t.requires_grad_() for t in tensors if t.is_floating_point()]
    y = case.oracle(*tensors, **options)
    found = [y, *torch.autograd.grad(y, leaves, torch.from_numpy(dy))]
    return [value.detach().numpy() for value in found]


def first_values(
    case: Case, inputs: dict[str, Any], options: dict[str, Any], seed: int
) -> dict[str, np.ndarray]:
    """What a library starts from."""
    if case.name.startswith("models."):
        kind = case.forward.keywords["kind"]
        model = build(kind, options["config"], TorchGenerator(seed))
        return {name: array.copy() for name, array in model.parameters().items()}
    start = {"gain": 1.0, "bias": 0.0, "b": 0.0, "h0": 0.0, "c0": 0.0, "mean": 0.0, "var": 1.0}
    return {
        name: np.full_like(inputs[name], value) for name, value in start.items() if name in inputs
    }


def found(case: Case, one: Drawn) -> list[Any]:
    """y and the gradients as npnet has them, from arrays of its own."""
    with np.errstate(all="ignore"):
        y, cache = case.forward(*(a.copy() for a in one.inputs), **one.options)
        gradients = case.backward(one.dy.copy(), cache)
    return [y, *(gradients if isinstance(gradients, tuple) else (gradients,))]


def accepts(habit: Habit, tolerance: float, case: Case, one: Drawn) -> bool:
    try:
        got = found(case, one)
        if habit.tolerance is not None:
            rtol = max(tolerance, 1e-5)
            return all(
                np.allclose(g, e, rtol=rtol, atol=tolerance)
                for g, e in zip(got, one.expected, strict=True)
            )
        upstream = float(np.abs(one.dy).max())
        triples = zip(got, one.expected, one.scales, strict=True)
        # An M that is measured at a library's first values is now and then a few times too small.
        results = [compare(g, e, 4 * m, one.terms, upstream=upstream) for g, e, m in triples]
        return all(result.ok for result in results)
    except Exception:  # a wrong pass may raise anything
        return False


def chosen_tolerance(habit: Habit, drawn: dict[str, list[Drawn]]) -> float:
    """The habit's own, or the smallest power of ten with which every correct pass is accepted."""
    pairs = [(ALL_CASES[name], one) for name, some in drawn.items() for one in some]
    for tolerance in [habit.tolerance or 0.0] if habit.tolerance != 0 else 10.0 ** np.arange(-8, 3):
        if all(accepts(habit, tolerance, case, one) for case, one in pairs):
            return tolerance
    raise SystemExit(f"{habit.name}: correct passes are rejected")


def main(examples: int) -> None:
    torch.set_num_threads(1)
    caught: dict[str, collections.Counter] = {}
    for habit in HABITS:
        drawn = {}
        for name, case in ALL_CASES.items():
            rng = np.random.default_rng(0)
            drawn[name] = [prepare(case, habit, rng) for _ in range(examples)]
        tolerance = chosen_tolerance(habit, drawn)
        chosen = "" if habit.tolerance is None else f"a tolerance of {tolerance:g}"
        print(f"{habit.name}: {chosen}", file=sys.stderr, flush=True)
        caught[habit.name] = collections.Counter()
        for wrong in registry.WRONG:
            case = ALL_CASES[wrong.case]
            with registry.planted(wrong):
                accepted = all(accepts(habit, tolerance, case, one) for one in drawn[wrong.case])
            caught[habit.name][wrong.kind] += not accepted
    rejected = (wrong for wrong in registry.WRONG if registry.rejection(wrong, examples)[0])
    caught["the whole property"] = collections.Counter(wrong.kind for wrong in rejected)

    all_of = collections.Counter(wrong.kind for wrong in registry.WRONG)
    print(f"| mistake | passes | {' | '.join(caught)} |")
    print(f"|---|{'---:|' * (1 + len(caught))}")
    for kind, count in all_of.items():
        print(
            f"| {kind} | {count} | {' | '.join(str(column[kind]) for column in caught.values())} |"
        )
    totals = " | ".join(f"**{column.total()}**" for column in caught.values())
    print(f"| **caught** | **{all_of.total()}** | {totals} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
