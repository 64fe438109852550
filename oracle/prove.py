"""npnet's operations and models before the judge: one case, one example, the whole property.

The tests, `certify` and the registry of wrong backward passes all call `prove`, the last with a
backward of its own.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from oracle import ops as torch_ops
from oracle.cases import CASES, Case
from oracle.model_cases import MODEL_CASES
from oracle.proof.compare import Mismatch, Result
from oracle.proof.draw import COMMON, Draw, lay_out
from oracle.proof.examine import Examination
from oracle.proof.finding import Problem
from oracle.proof.reference import Expected, Torch
from oracle.proof.subject import Pair

ALL_CASES: dict[str, Case] = CASES | MODEL_CASES


def prove(
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
    case = ALL_CASES[case] if isinstance(case, str) else case
    results: list[Result] = []
    for dtype in (np.float64, np.float32):
        examination = examine(case, example, dtype, forward, backward)
        for finding in examination.run():
            at = ", ".join(f"{name} = {value!r}" for name, value in example.items())
            line = f"python -c \"from oracle.prove import *; prove('{case.name}', {example})\""
            sentence = f"{case.name} ({np.dtype(dtype)}): {finding.sentence}. [{at}]"
            raise Mismatch(f"{sentence}\nReproduce: {line}", finding.result)
        results += examination.results
    return results


def examine(
    case: Case,
    example: dict[str, Any],
    dtype: Any,
    forward: Callable | None = None,
    backward: Callable | None = None,
) -> Examination:
    """The judge's property for one example in one dtype, ready to run."""
    draws = Draw(example["seed"], example["values"], example["scale"])
    chosen = {k: v for k, v in example.items() if k not in COMMON and k != "seed"}
    arrays, options = case.draw(draws, **chosen)
    layout = example["layout"]
    inputs = {n: lay_out(a, layout, dtype, n in case.batched) for n, a in arrays.items()}
    wide = {n: np.array(lay_out(a, "C", np.float64, False)) for n, a in inputs.items()}
    wanted = [name for name, a in inputs.items() if a.dtype.kind == "f"]
    reference = Torch(case.oracle, getattr(torch_ops, f"{case.name}_scale", None))
    shapes = reference.shapes(wide, options)
    dys = tuple(
        lay_out(draws.rng.standard_normal(shape) * example["upstream"], layout, dtype, True)
        for shape in shapes
    )

    def expect(dys: tuple) -> Expected:
        return reference.expect(wide, tuple(dy.astype(np.float64) for dy in dys), options, wanted)

    batch = (example["lead"] or (0,))[0]
    how: dict[str, Any] = {"batched": case.batched, "batch": batch, "separable": case.separable}
    problem = Problem(inputs, dys, options, np.dtype(dtype), draws.rng, strict=True, **how)
    pair = Pair(forward or case.forward, backward or case.backward, list(inputs), wanted)
    return Examination(pair, problem, wanted, tolerant=False).against(expect(dys), expect)
