"""The published runs as declarations: a model, its sizes, a seed, a learning-rate rule and the
original's way to report.

`preset.prepare(words)` makes a Run: the data, the model, the optimiser and the generators, drawn
from in the original's order. npnet.train.loop drives it; `report` prints what the original prints
along the way, `finish` what it prints in the end.

Sources: the notebooks of Karpathy's "Neural Networks: Zero to Hero" (2022), makemore.py (2022),
microgpt (2026).
"""

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from npnet import train
from npnet.data import LONGEST_WORD, DataError, Vocabulary, build_dataset, build_sequences, split
from npnet.models import Config, build
from npnet.optim import SGD, AdamW, constant, linear_decay, step_decay
from npnet.random import TorchGenerator
from npnet.sample import generate, sort_by_novelty

LECTURE_SEED = 2147483647


class Run:
    """A run in progress. `generators` and the optimiser's state, with the model, are all that a
    resumed run needs.

    best is the lowest test loss so far, where the original keeps the best model; improved says that
    the last report lowered it.
    """

    model: Any
    vocabulary: Vocabulary
    optimizer: Any
    schedule: Any
    generators: dict[str, Any]
    best: float | None = None
    improved = False

    def __init__(self, preset):
        self.preset = preset

    def batches(self, start):
        """The minibatches from step `start` on."""
        raise NotImplementedError

    def report(self, step, loss, seconds):
        """After step `step`, which took so many seconds."""

    def finish(self):
        """After the last step."""


@dataclass(frozen=True)
class Preset:
    """What all families declare. The original has `steps`; `stop`, if given, is this run's (below
    0: no end)."""

    name: str
    about: str
    kind: str
    seed: int
    steps: int
    learning_rate: float
    stop: int | None = None
    batch_size: int = 32
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 64
    n_embd2: int = 64

    def prepare(self, words) -> Run:
        raise NotImplementedError

    def divide(self, words):
        """(training words, other known words), to tell the new ones among those drawn."""
        return words, []

    def config(self, vocab_size, block_size, **others):
        return Config(
            vocab_size, block_size, self.n_layer, self.n_embd, self.n_embd2, self.n_head, **others
        )

    @property
    def last(self):
        """One past the last step."""
        stop = self.steps if self.stop is None else self.stop
        return stop if stop >= 0 else 1 << 62


@dataclass(frozen=True)
class Lecture(Preset):
    """Windows of block_size characters, plain SGD, lr a tenth from step drop_at on, one generator
    for everything.

    names_seed starts a generator of its own for the twenty names; None goes on with the run's.
    calibrated: BatchNorm's statistics are taken over the training set in the end.
    """

    block_size: int = 3
    drop_at: int | None = None
    log_every: int = 10000
    names_seed: int | None = LECTURE_SEED + 10
    calibrated: bool = False
    splits: tuple[str, ...] = ("train", "val")

    def prepare(self, words):
        return LectureRun(self, words)

    def divide(self, words):
        first, val, test = split(words)
        return first, val + test


class LectureRun(Run):
    def __init__(self, preset, words):
        super().__init__(preset)
        if preset.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2 for BatchNorm, got {preset.batch_size}"
            )
        self.vocabulary = Vocabulary(words)
        parts = zip(("train", "val", "test"), split(words), strict=True)
        self.data = {
            name: build_dataset(part, self.vocabulary, preset.block_size) for name, part in parts
        }
        self.generator = TorchGenerator(preset.seed)
        self.generators = {"generator": self.generator}
        self.model = build(
            preset.kind, preset.config(len(self.vocabulary), preset.block_size), self.generator
        )
        self.optimizer = SGD(self.model.data, self.model.grad)
        self.schedule = step_decay(
            preset.learning_rate, preset.steps if preset.drop_at is None else preset.drop_at
        )

    def batches(self, start):
        return train.minibatches(*self.data["train"], self.preset.batch_size, self.generator)

    def report(self, step, loss, seconds):
        if step % self.preset.log_every == 0:
            print(f"{step:7d}/{self.preset.steps:7d}: {loss:.4f}", flush=True)

    def finish(self):
        if self.preset.calibrated:
            train.calibrate(self.model, self.data["train"][0])
        for name in self.preset.splits:
            print(name, float(np.float32(train.evaluate(self.model, *self.data[name]))), flush=True)
        seed = self.preset.names_seed
        generator = self.generator if seed is None else TorchGenerator(seed)
        for name in generate(self.model, self.vocabulary, generator, 20, rule="2022", batch_size=1):
            print(name + ".")


@dataclass(frozen=True)
class Bigram(Preset):
    """The first lecture: a table of counts, five names by either rule of torch.multinomial, and the
    average loss."""

    def prepare(self, words):
        return BigramRun(self, words)


class BigramRun(Run):
    def __init__(self, preset, words):
        super().__init__(preset)
        self.vocabulary = Vocabulary(words)
        self.data = build_sequences(words, self.vocabulary, max(map(len, words)) + 1)
        self.generators = {}
        config = preset.config(len(self.vocabulary), self.data[0].shape[1])
        self.model = build("bigram", config, TorchGenerator(preset.seed))
        self.optimizer, self.schedule = SGD(self.model.data, self.model.grad), constant(0.0)

    def batches(self, start):
        return iter(())

    def finish(self):
        train.count_bigrams(self.model, *self.data)
        for rule, title in (("2022", "torch 1.12 and 1.13"), ("current", "torch 2.7 and later")):
            generator = TorchGenerator(self.preset.seed)
            how = {"rule": rule, "replacement": True, "max_length": LONGEST_WORD, "batch_size": 1}
            names = generate(self.model, self.vocabulary, generator, 5, **how)
            print(f"names, as {title} draw them:", *(name + "." for name in names))
        print(f"nll {train.evaluate(self.model, *self.data):.6f}")


@dataclass(frozen=True)
class Makemore(Preset):
    """makemore.py: whole words, masked targets, AdamW; log every 10 steps, samples every 200,
    evaluation every 500."""

    weight_decay: float = 0.01
    top_k: int | None = None

    def prepare(self, words):
        return MakemoreRun(self, words)

    def divide(self, words, generator=None):
        """Training and test words; the run's own generator makes the permutation, its first
        draw."""
        n_test = min(1000, int(len(words) * 0.1))
        if n_test == 0:
            raise DataError(
                f"{len(words)} words leave no test set; makemore's split needs at least 10"
            )
        order = (generator or TorchGenerator(self.seed)).randperm(len(words))
        return [words[i] for i in order[:-n_test]], [words[i] for i in order[-n_test:]]


class MakemoreRun(Run):
    def __init__(self, preset, words):
        super().__init__(preset)
        self.generator = TorchGenerator(preset.seed)
        self.vocabulary = Vocabulary(words)
        self.block_size = max(map(len, words)) + 1
        self.novelty = preset.divide(words, self.generator)
        self.train, self.test = (
            build_sequences(part, self.vocabulary, self.block_size) for part in self.novelty
        )
        self.model = build(
            preset.kind, preset.config(len(self.vocabulary), self.block_size), self.generator
        )
        self.optimizer = AdamW(
            self.model.data, self.model.grad, betas=(0.9, 0.99), weight_decay=preset.weight_decay
        )
        self.schedule = constant(preset.learning_rate)
        self.sampler = self._loader()
        self.generators = {"generator": self.generator, "sampler": self.sampler}

    def _loader(self):
        """A torch DataLoader draws a base seed, which nothing here uses, then the seed of its
        sampler's generator."""
        self.generator.random_int64()
        return TorchGenerator(self.generator.random_int64())

    def batches(self, start):
        return train.minibatches(*self.train, self.preset.batch_size, self.sampler)

    def report(self, step, loss, seconds):
        self.improved = False
        if step % 10 == 0:
            print(f"step {step} | loss {loss:.4f} | step time {seconds * 1000:.2f}ms", flush=True)
        if step > 0 and step % 500 == 0:
            train_loss, test_loss = self._evaluate(*self.train), self._evaluate(*self.test)
            print(f"step {step} train loss: {train_loss} test loss: {test_loss}", flush=True)
            self.improved = self.best is None or test_loss < self.best
            if self.improved:
                self.best = test_loss
        if step > 0 and step % 200 == 0:
            self.print_samples(10)

    def _evaluate(self, x, y, batch_size=100, most=11):
        """The mean of the means of at most eleven shuffled batches, in float32 as the original
        takes it."""
        order = self._loader().randperm(len(x))
        starts = range(0, len(x), batch_size)[:most]
        parts = (order[start : start + batch_size] for start in starts)
        return float(
            np.mean([self.model.loss(x[part], y[part]) for part in parts], dtype=np.float32)
        )

    def print_samples(self, n):
        words = generate(
            self.model, self.vocabulary, self.generator, n, top_k=self.preset.top_k, draw_all=True
        )
        print("-" * 80)
        for heap, title in zip(
            sort_by_novelty(words, *self.novelty), ("in train", "in test", "new"), strict=True
        ):
            print(f"{len(heap)} samples that are {title}:", *heap, sep="\n")
        print("-" * 80, flush=True)


@dataclass(frozen=True)
class Microgpt(Preset):
    """microgpt: one word a step, Adam with a falling rate, 20 samples at temperature 0.5, Python's
    random."""

    def prepare(self, words):
        return MicrogptRun(self, words)


class MicrogptRun(Run):
    block_size = 16

    def __init__(self, preset, words):
        super().__init__(preset)
        self.words = list(words)
        self.vocabulary = Vocabulary(words)
        self.generator = PythonRandom(preset.seed)
        self.generators = {"generator": self.generator}
        self.generator.random.shuffle(self.words)
        config = preset.config(len(self.vocabulary), self.block_size, dtype="float64")
        self.model = build(preset.kind, config, self.generator)
        self.optimizer = AdamW(self.model.data, self.model.grad, betas=(0.85, 0.99), weight_decay=0)
        self.schedule = linear_decay(preset.learning_rate, preset.steps)

    def batches(self, start):
        step = start
        while True:
            tokens = self.vocabulary.encode("." + self.words[step % len(self.words)] + ".")[
                : self.block_size + 1
            ]
            yield tokens[None, :-1], tokens[None, 1:]
            step += 1

    def report(self, step, loss, seconds):
        print(f"step {step + 1:4d} / {self.preset.steps:4d} | loss {loss:.4f}", flush=True)

    def finish(self):
        how = {"temperature": 0.5, "max_length": self.block_size, "batch_size": 1}
        for i, name in enumerate(generate(self.model, self.vocabulary, self.generator, 20, **how)):
            print(f"sample {i + 1:2d}: {name}")


class PythonRandom:
    """Python's `random` in the place of a TorchGenerator, for microgpt, which numbers the boundary
    last, not first."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def normal(self, mean, std, shape, dtype):
        return np.array(
            [self.random.gauss(mean, std) for _ in range(int(np.prod(shape)))], dtype
        ).reshape(shape)

    def multinomial(self, probs, num_samples, replacement=False, rule=""):
        V = probs.shape[-1]
        drawn = [
            self.random.choices(range(V), weights=np.roll(row, -1).tolist())[0] for row in probs
        ]
        return (np.array(drawn)[:, None] + 1) % V

    def state(self):
        version, words, gauss = self.random.getstate()
        tail = np.array([0.0 if gauss is None else gauss]).view(np.uint64)
        return np.concatenate([np.array([version, gauss is not None, *words], np.uint64), tail])

    def set_state(self, state):
        gauss = float(state[-1:].view(np.float64)[0]) if state[1] else None
        self.random.setstate((int(state[0]), tuple(state[2:-1].tolist()), gauss))


def _makemore(kind, about, name=None):
    return Makemore(
        f"makemore-{name or kind}",
        f"makemore.py --type {name or kind}: {about}",
        kind,
        3407,
        -1,
        5e-4,
    )


_PRESETS = (
    Bigram("part1", "lecture 1: bigrams by counting", "bigram", LECTURE_SEED, 0, 0.0),
    Lecture(
        "part3", "lecture 3: the MLP with BatchNorm, running mean and standard deviation",
        "mlp_running", LECTURE_SEED, 200000, 0.1, n_embd=10, n_embd2=200, drop_at=100000,
    ),
    Lecture(
        "part3-deep", "lecture 3: six linear layers with BatchNorm, stopped after step 1000",
        "mlp_deep", LECTURE_SEED, 200000, 0.1, stop=1001,
        n_layer=6, n_embd=10, n_embd2=100, drop_at=150000,
    ),
    Lecture(
        "part4",
        "lecture 4: gradients by hand; gain and bias drawn by the same generator (there: unseeded)",
        "mlp", LECTURE_SEED, 200000, 0.1, n_embd=10, n_embd2=200, drop_at=100000, calibrated=True,
    ),
    Lecture(
        "part5", "lecture 5: the WaveNet-like network",
        "wavenet", 42, 200000, 0.1,
        n_embd=24, n_embd2=128, block_size=8, drop_at=150000, names_seed=None,
    ),
    _makemore("bigram", "a table"),
    _makemore("mlp_makemore", "an MLP at each position", "mlp"),
    _makemore("bow", "a causal bag of words"),
    _makemore("rnn", "a recurrent network"),
    _makemore("gru", "a gated recurrent network"),
    _makemore("lstm", "long short-term memory, which makemore's README names and its code lacks"),
    _makemore("transformer", "a GPT"),
    Microgpt(
        "microgpt", "microgpt: a GPT in plain Python",
        "microgpt", 42, 1000, 0.01, batch_size=1, n_layer=1, n_embd=16,
    ),
)  # fmt: skip
PRESETS = {preset.name: preset for preset in _PRESETS}


def notebook(steps):
    """The main job: the notebook's MLP for `steps` steps, the rate a tenth from their half on."""
    part4 = PRESETS["part4"]
    return replace(
        part4, name="notebook", steps=steps, drop_at=steps // 2, splits=("train", "val", "test")
    )
