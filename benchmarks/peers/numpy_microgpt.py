"""The NumPy backend of a copy of github.com/chanjoongx/microgpt-efficiency, which is not part of
this repository.

Its model has microgpt's sizes but squares its relu and ties its head to the table of tokens, so its
losses are its own. It takes lists of tokens, the boundary last.
"""

import importlib.util
from itertools import cycle
from pathlib import Path

from benchmarks.measure import Peer


def source(folder):
    return Path(folder) / "backends" / "numpy_backend.py"


def peer(task, folder):
    spec = importlib.util.spec_from_file_location("numpy_backend", source(folder))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    c = task.config
    model = module.MicroGPTNumpy(c.vocab_size, c.n_embd, c.n_layer, c.n_head, c.block_size)
    parts = zip(task.x, task.y, task.lengths, strict=True)
    words = cycle([[*x[:n].tolist(), int(y[n - 1])] for x, y, n in parts])

    def train(n):
        for _ in range(n):
            model.train_step(next(words), task.rule.lr)

    return Peer(train)
