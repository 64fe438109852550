"""`python -m oracle certify`: the whole property of every operation and model on fresh random
examples."""

import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

import numpy as np
import torch

from oracle.proof.compare import Mismatch
from oracle.prove import ALL_CASES, prove

CHUNK = 25  # examples between two looks at the progress
PAUSE = 10  # seconds between two lines of it where stderr is no terminal


@dataclass
class Row:
    """What is known of one case; fractions are errors over what is allowed."""

    name: str
    examples: int = 0
    q: float = 0.0
    limit: float = 16.0
    error: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def add(self, other: "Row") -> None:
        self.examples += other.examples
        self.seconds += other.seconds
        self.error = max(self.error, other.error)
        self.failures += other.failures
        if other.q / other.limit > self.q / self.limit:
            self.q, self.limit = other.q, other.limit

    def __str__(self) -> str:
        verdict = "WRONG" if self.failures else f"{self.q:.2f} / {self.limit:.0f}"
        figures = f"{self.examples:>10}  {verdict:>16}  {self.error:>12.2e}  {self.seconds:>8.1f}"
        return "\n".join([f"{self.name:24}{figures}", *self.failures[:1]])


HEADING = f"{'case':24}{'examples':>10}  {'worst q / limit':>16}  {'worst error':>12}  "
HEADING += f"{'seconds':>8}"


def certify(names: list[str], examples: int, jobs: int = 1) -> bool:
    """Fuzz the named cases (all, if none is named) with `examples` random examples each, in `jobs`
    processes, and print a row for each case -> whether all are right.

    q is the error in units of rounding, see `oracle.proof.compare`; shown is the q that came
    closest to its limit, and the largest absolute error in float32 at any scale. A failure prints
    the sentence that says what is wrong and how to reproduce it, and ends its row.
    """
    unknown = [name for name in names if name not in ALL_CASES]
    if unknown:
        raise ValueError(f"there is no case {unknown[0]!r}; there are {', '.join(ALL_CASES)}")
    chosen = list(dict.fromkeys(names)) or list(ALL_CASES)
    # The first chunk of every case first, as that shows what the others will cost.
    starts = range(0, examples, CHUNK)
    chunks = [(name, min(CHUNK, examples - start)) for start in starts for name in chosen]
    rows = {name: Row(name) for name in chosen}
    progress = Progress(rows, examples, jobs)
    print(HEADING, flush=True)
    shown = 0
    for row in outcomes(chunks, rows, jobs):
        rows[row.name].add(row)
        progress.show()
        for name in chosen[shown:]:
            if rows[name].examples < examples and not rows[name].failures:
                break
            progress.clear()
            print(rows[name], flush=True)
            shown += 1
    progress.clear()
    return not any(row.failures for row in rows.values())


def outcomes(chunks: list[tuple[str, int]], rows: dict[str, Row], jobs: int) -> Iterator[Row]:
    """The chunks as they finish; a case that has failed gets no further ones."""
    seeds = np.random.SeedSequence().spawn(len(chunks))
    if jobs == 1:
        for (name, count), seed in zip(chunks, seeds, strict=True):
            if not rows[name].failures:
                yield examine_some(name, count, seed)
        return
    with ProcessPoolExecutor(jobs) as pool:
        try:
            work = zip(chunks, seeds, strict=True)
            pending = [pool.submit(examine_some, *chunk, seed) for chunk, seed in work]
            for done in as_completed(pending):
                if not rows[done.result().name].failures:
                    yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def examine_some(name: str, examples: int, seed: np.random.SeedSequence) -> Row:
    """So many random examples of one case, up to the first that fails."""
    torch.set_num_threads(1)  # at these sizes a second thread costs more than it gives
    case, rng, row = ALL_CASES[name], np.random.default_rng(seed), Row(name)
    began = time.perf_counter()
    for _ in range(examples):
        row.examples += 1
        try:
            results = prove(case, case.example(rng))
        except Mismatch as mismatch:
            row.failures.append(str(mismatch))
            break
        worst = max(results, key=lambda result: result.fraction)
        if worst.fraction > row.q / row.limit:
            row.q, row.limit = worst.q, worst.limit
        errors = (result.error for result in results if math.isfinite(result.error))
        row.error = max(row.error, *errors)
    row.seconds = time.perf_counter() - began
    return row


class Progress:
    """One line on stderr: what it is at and the time left, from what the chunks so far took."""

    def __init__(self, rows: dict[str, Row], examples: int, jobs: int):
        self.rows, self.examples, self.jobs = rows, examples, jobs
        self.terminal = sys.stderr.isatty()
        self.pause = 0.2 if self.terminal else PAUSE
        self.due = time.perf_counter() + self.pause

    def show(self) -> None:
        now = time.perf_counter()
        if now < self.due:
            return
        self.due = now + self.pause
        done = sum(row.examples for row in self.rows.values())
        seen = [row for row in self.rows.values() if row.examples]
        mean = sum(row.seconds for row in seen) / max(1, sum(row.examples for row in seen))
        left = sum(
            (self.examples - row.examples) * (row.seconds / row.examples if row.examples else mean)
            for row in self.rows.values()
            if not row.failures
        )
        text = f"{done:,} of {self.examples * len(self.rows):,} examples, "
        text += f"about {left / self.jobs:,.0f} s left"
        ending = "\x1b[K\r" if self.terminal else "\n"
        print(text, end=ending, file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self.terminal:
            print(end="\x1b[K", file=sys.stderr, flush=True)
