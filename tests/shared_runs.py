"""What the tests of ranks train: small models on examples of every length.

`python tests/shared_runs.py`, started by mpiexec, trains each, with memory in common and without,
and compares it with the run of one process; rank 0 prints a line a model.
"""

import sys
import time
from unittest.mock import patch

import numpy as np
from configs import config_for

from npnet.models import BUILDERS, build
from npnet.optim import SGD, AdamW, constant
from npnet.random import TorchGenerator
from npnet.ranks import ALONE, Alone, join
from npnet.train import calibrate, evaluate, loop

V, T = 5, 8
DROPOUT = {"dropout": "makemore", "dropout_by_head": "lecture"}  # the style of each
KINDS = [*BUILDERS, *DROPOUT]


def small(kind, dtype="float64", seed=1):
    """The model of that name; those of DROPOUT are Transformers that have it."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 4, "n_embd2": 6}
    if kind in DROPOUT:
        sizes |= {"dropout": 0.3, "style": DROPOUT[kind]}
        kind = "transformer"
    return build(kind, config_for(kind, V, T, dtype, **sizes), TorchGenerator(seed))


def batch(model, B, rng):
    """ids and targets; of sequences some targets do not count, behind the end and within."""
    x = rng.integers(0, V, (B, T))
    if model.windowed:
        return x, rng.integers(0, V, B)
    y = rng.integers(0, V, (B, T))
    y[np.arange(T) >= rng.integers(0, T + 1, B)[:, None]] = -1
    y[rng.random((B, T)) < 0.1] = -1
    y[rng.integers(B), rng.integers(T)] = 1  # at least one counts
    return x, y


def batches(model, sizes, seed=3):
    rng = np.random.default_rng(seed)
    for B in sizes:
        yield batch(model, B, rng)


class Uneven(Alone):
    """The ranks of others, who come late to each sum."""

    def __init__(self, ranks):
        self.rank, self.size, self.gather = ranks.rank, ranks.size, ranks.gather
        self.memory, self.add, self.meet = ranks.memory, self.late(ranks.add), self.late(ranks.meet)
        self.rng = np.random.default_rng(ranks.rank)

    def late(self, together):
        def call(*arguments):
            time.sleep(self.rng.random() * 1e-3)
            return together(*arguments)

        return call


def trained(kind, ranks, steps=50, dtype="float64"):
    """Losses, parameters and running statistics after so many steps on batches of 1 to 7 rows."""
    model = small(kind, dtype)
    least = 2 if model.windowed else 1
    sizes = np.random.default_rng(2).integers(least, 8, steps)
    rule, lr = (SGD, 0.05) if model.windowed else (AdamW, 0.01)
    optimizer = rule(model.data, model.grad)
    drawn = batches(model, sizes)
    steps_taken = loop(model, drawn, optimizer, constant(lr), steps, max_norm=1.0, ranks=ranks)
    losses = [loss for _, loss in steps_taken]
    x, y = batch(model, 50, np.random.default_rng(4))
    if model.windowed:
        calibrate(model, x, chunk=7, ranks=ranks)
    losses.append(evaluate(model, x, y, chunk=7, ranks=ranks))
    return np.array([*losses]), model.data, np.concatenate([[], *model.buffers().values()])


def distance(found, expected):
    """The largest difference, relative to the largest number of each part."""
    return max(
        np.abs(a - b).max(initial=0) / np.abs(b).max(initial=1e-300)
        for a, b in zip(found, expected, strict=True)
    )


def same(found, others):
    return all(np.array_equal(a, b) for a, b in zip(found, others, strict=True))


def main():
    ranks = join()
    for kind in sys.argv[1:] or KINDS:
        found, again = trained(kind, ranks), trained(kind, Uneven(ranks))
        alike = all(same(found, other) for other in ranks.gather(found))
        with patch("npnet.ranks._room", return_value=0):  # no memory in common
            apart = trained(kind, ranks)
        if ranks.rank == 0:
            alone = trained(kind, ALONE)
            error = max(distance(run, alone) for run in (found, apart))
            print(kind, ranks.size, error, same(found, again), alike, flush=True)


if __name__ == "__main__":
    main()
