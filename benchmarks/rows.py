"""The rows of the tables: for each a model of npnet, its examples and its optimiser, once for all
peers."""

from dataclasses import dataclass, field, replace
from itertools import cycle

import numpy as np

import npnet
from npnet.optim import constant
from npnet.presets import PRESETS
from npnet.text import read_text


@dataclass(frozen=True)
class Rule:
    """The optimiser: SGD, or with betas AdamW."""

    lr: float
    betas: tuple[float, float] | None = None
    weight_decay: float = 0.0


LECTURE = Rule(0.1)
MAKEMORE = Rule(5e-4, (0.9, 0.99), 0.01)
MICROGPT = Rule(0.01, (0.85, 0.99))


@dataclass(frozen=True)
class Row:
    """A model by npnet's name with the sizes of its Config. block_size None is the longest word and
    its end. `other` says what torch's ready-made module computes instead."""

    kind: str
    rule: Rule = MAKEMORE
    block_size: int | None = None
    batch_size: int = 32
    sizes: dict = field(default_factory=dict)
    other: str = ""


_MLP = {"rule": LECTURE, "block_size": 3, "sizes": {"n_embd": 10, "n_embd2": 200}}
ROWS = {
    "mlp": Row("mlp", **_MLP),
    "mlp_module": Row(
        "mlp", **_MLP, other="torch's nn.BatchNorm1d divides by n, the notebook by n - 1"
    ),
    "wavenet": Row("wavenet", LECTURE, 8, sizes={"n_embd": 24, "n_embd2": 128}),
    "bigram": Row("bigram"),
    "bow": Row("bow"),
    "mlp_makemore": Row("mlp_makemore"),
    "rnn": Row("rnn"),
    "gru": Row("gru"),
    "gru_module": Row(
        "gru", other="torch's nn.GRU resets the product with the state, makemore's GRU the state"
    ),
    "lstm": Row("lstm"),
    "transformer": Row("transformer"),
    "microgpt": Row("microgpt", MICROGPT, 16, 1, {"n_layer": 1, "n_embd": 16, "dtype": "float64"}),
}


class Task:
    """A row made concrete.

    model       npnet's, with the parameters that every peer starts from
    parameters  copies of these by npnet's names
    x, y        the examples as arrays: (N, T) and (N,) for windows, (N, T) twice for sequences;
                npnet draws from its own form of them
    lengths     how many positions of each sequence are scored; None for windows
    validation  the examples of the validation words
    batch_size  examples a step, drawn with replacement; 1 takes one after the other
    """

    def __init__(self, name, row, words):
        self.name, self.row, self.rule, self.batch_size = name, row, row.rule, row.batch_size
        vocabulary = npnet.Vocabulary(words)
        block_size = row.block_size or max(map(len, words)) + 1
        config = npnet.Config(len(vocabulary), block_size, **row.sizes)
        self._begin(config)
        make = npnet.build_dataset if self.model.windowed else npnet.build_sequences
        first, second, _ = npnet.split(words)
        self._keep(*make(first, vocabulary, block_size))
        self.validation = [np.asarray(a) for a in make(second, vocabulary, block_size)]

    max_norm = None

    def _begin(self, config):
        """Parameters none of which is zero or one, or a wrong term of a peer could hide."""
        self.model = npnet.build(self.row.kind, config, npnet.TorchGenerator(42))
        noise = np.random.default_rng(0).normal(0, 0.05, self.model.data.shape)
        self.model.data += noise.astype(self.model.data.dtype)
        self.parameters = {name: p.copy() for name, p in self.model.parameters().items()}

    def _keep(self, x, y):
        self._drawn_from = x, y
        self.x, self.y = np.asarray(x), np.asarray(y)
        self.lengths = None if self.model.windowed else (self.y != -1).sum(1)

    @property
    def config(self):
        return self.model.config

    def in_order(self):
        """The examples one after the other, each as long as it is, without end."""
        parts = zip(self.x, self.y, self.lengths, strict=True)
        return cycle([(x[None, :n], y[None, :n]) for x, y, n in parts])

    def batches(self):
        """npnet's way to draw."""
        if self.batch_size == 1:
            return self.in_order()
        return npnet.minibatches(*self._drawn_from, self.batch_size, npnet.TorchGenerator(1))

    def optimizer(self):
        model, rule = self.model, self.rule
        if rule.betas is None:
            return npnet.SGD(model.data, model.grad)
        return npnet.AdamW(model.data, model.grad, betas=rule.betas, weight_decay=rule.weight_decay)

    def schedule(self):
        return constant(self.rule.lr)


class SizedTask(Task):
    """A row of any size with examples that are drawn at random and scored everywhere."""

    def __init__(self, name, row, vocab_size):
        self.name, self.row, self.rule, self.batch_size = name, row, row.rule, row.batch_size
        self._begin(npnet.Config(vocab_size, row.block_size, **row.sizes))
        shape = (4 * row.batch_size, row.block_size)
        rng = np.random.default_rng(0)
        x = rng.integers(0, vocab_size, shape)
        self._keep(x, rng.integers(0, vocab_size, shape[:1] if self.model.windowed else shape))


# Name -> the preset of a published run on running text.
TEXT_ROWS = {"part7": "part7", "nanogpt": "nanogpt-cpu"}


class TextTask:
    """Such a run on npnet's own play, without its evaluations; `ids` is the part to train on."""

    row = Row("transformer")

    def __init__(self, name, batches=1):
        """A step takes so many of the preset's batches."""
        self.name, preset = name, PRESETS[TEXT_ROWS[name]]
        batch_size = batches * preset.batch_size
        self.preset = replace(preset, eval_every=None, stop=-1, batch_size=batch_size)
        self._run = self.preset.prepare(read_text())
        self.model, self.config = self._run.model, self._run.model.config
        self.ids, self.max_norm = self._run.data["train"], self._run.max_norm

    def __getstate__(self):
        """Without the run, for another process: what a peer there reads."""
        return {name: value for name, value in vars(self).items() if name != "_run"}

    def batches(self):
        return self._run.batches(0)

    def optimizer(self):
        return self._run.optimizer

    def schedule(self):
        return self._run.schedule
