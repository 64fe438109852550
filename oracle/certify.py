"""`python -m oracle certify`: the whole property of every operation and model on fresh random
examples."""

import math
import sys
import time

import numpy as np
import torch

from oracle.cases import CASES, prove
from oracle.model_cases import MODEL_CASES
from oracle.proof.compare import Mismatch

HEADING = (
    f"{'operation':24}{'examples':>10}  {'worst q / limit':>16}  "
    f"{'worst error':>12}  {'seconds':>8}"
)


def certify(names: list[str], examples: int) -> bool:
    """Fuzz the named cases (all where there are none) with `examples` random examples each, print a
    row a case; whether all are right.

    q is the error in units of rounding, see `oracle.proof.compare`; shown is the q that came
    closest to its limit, and the largest absolute error in float32 at any scale. A failure prints
    the sentence that says what is wrong and how to reproduce it, and ends its row.
    """
    cases = CASES | MODEL_CASES
    unknown = [name for name in names if name not in cases]
    if unknown:
        raise ValueError(f"there is no operation {unknown[0]!r}; there are {', '.join(cases)}")
    torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives
    print(HEADING)
    right = True
    for name in names or cases:
        case, rng = cases[name], np.random.default_rng()
        began = time.perf_counter()
        q, limit, error, shown = 0.0, 16.0, 0.0, began
        failure = None
        for done in range(1, examples + 1):
            try:
                results = prove(case, case.example(rng))
            except Mismatch as mismatch:
                failure = str(mismatch)
                break
            worst = max(results, key=lambda result: result.fraction)
            if worst.fraction > q / limit:
                q, limit = worst.q, worst.limit
            error = max(error, *(result.error for result in results if math.isfinite(result.error)))
            if sys.stderr.isatty() and time.perf_counter() - shown > 0.2:
                shown = time.perf_counter()
                print(
                    f"\r{name:24}{done:>10} of {examples}",
                    end="\x1b[K\r",
                    file=sys.stderr,
                    flush=True,
                )
        verdict = "WRONG" if failure else f"{q:.2f} / {limit:.0f}"
        seconds = time.perf_counter() - began
        print(
            f"{name:24}{done:>10}  {verdict:>16}  {error:>12.2e}  {seconds:>8.1f}",
            flush=True,
        )
        if failure:
            right = False
            print(failure, flush=True)
    return right
