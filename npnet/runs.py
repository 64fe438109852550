"""A run in progress, one class for each family of presets.

A Run holds the data, the model, the optimiser and the random streams, drawn from in the original's
order. `steps` trains; `report` prints what the original prints along the way; `settle` gives the
model what it still needs after its last step; `finish` prints what the original prints at the end.
"""

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from npnet import train
from npnet.data import LONGEST_WORD, Vocabulary, build_dataset, build_sequences
from npnet.models import build
from npnet.optim import SGD, AdamW, constant, linear_decay, step_decay
from npnet.random import Among, TorchGenerator
from npnet.ranks import ALONE, Alone
from npnet.sample import chooser, draw, draw_in_turn, mark_words, sort_by_novelty

LOOK = 50_000


class Run:
    """`generators` and the optimiser's state, with the model, are all that a resumed run needs.

    max_norm clips the gradients of a step, which is the mean of `accumulate` batches.
    best is the lowest test loss so far, where the original keeps the best model; improved says that
    the last report lowered it. evaluation is what the last report or `finish` found, split -> loss.
    stage(what) announces something that takes its time and may return a function (done, total).
    ranks are the processes that share the work.
    """

    model: Any
    vocabulary: Vocabulary
    schedule: Any = None
    optimizer: Any = None
    max_norm: float | None = None
    accumulate = 1
    best: float | None = None
    improved = False
    ranks: Alone = ALONE

    def __init__(self, preset):
        self.preset = preset
        self.generators: dict[str, Any] = {}
        self.evaluation: dict[str, float] = {}
        self.stage = lambda what: None

    def steps(self, start=0):
        """Train from step `start` to the last: yields (step, loss) after each."""
        return train.loop(
            self.model,
            self.batches(start),
            self.optimizer,
            self.schedule,
            self.preset.last,
            start,
            self.max_norm,
            self.accumulate,
            self.ranks,
        )

    def mean_loss(self, x, y, watch=None):
        """On examples, in nats."""
        return train.evaluate(self.model, x, y, watch=watch, ranks=self.ranks)

    def batches(self, start):
        """The minibatches from step `start` on."""
        raise NotImplementedError

    def report(self, step, loss, seconds):
        """After step `step`, which took so many seconds."""

    def settle(self):
        """After the last step, before the model is kept."""

    def finish(self):
        """After that, when nothing changes any longer."""


class LectureRun(Run):
    def __init__(self, preset, words):
        super().__init__(preset)
        if preset.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2 for BatchNorm, got {preset.batch_size}"
            )
        self.vocabulary = Vocabulary(words)
        self.data = {
            name: build_dataset(part, self.vocabulary, preset.block_size)
            for name, part in preset.parts(words).items()
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

    def settle(self):
        self._calibrate(self.data["train"][0], self.stage("calibrating"))

    def _calibrate(self, x, watch=None):
        train.calibrate(self.model, x, watch=watch, ranks=self.ranks)

    def finish(self):
        self._print_losses()
        print(*(name + "." for name in self._names(20)), sep="\n")

    def _print_losses(self):
        for name in self.preset.splits:
            watch = self.stage(f"evaluating {name}")
            loss = float(np.float32(self.mean_loss(*self.data[name], watch)))
            require_finite(name, loss)
            self.evaluation[name] = loss
            print(name, loss, flush=True)

    def _names(self, n):
        seed = self.preset.names_seed
        generator = self.generator if seed is None else TorchGenerator(seed)
        return draw_in_turn(self.model, self.vocabulary, chooser(generator, rule="2022"), n)


class NotebookRun(LectureRun):
    """The lecture's run, looked at ten times along the way, by LOOK examples at most. That changes
    nothing in it, but for the statistics of its BatchNorm, which training does not read."""

    def __init__(self, preset, words):
        super().__init__(preset, words)
        self.known = preset.divide(words)
        self.lowest = 0, math.inf  # the step with the lowest validation loss so far, and that loss

    def report(self, step, loss, seconds):
        self.evaluation = {}
        done = step + 1
        if done % max(1, self.preset.steps // 10) == 0 and done < self.preset.last:
            self._calibrate(self.data["train"][0][:LOOK])
            x, y = self.data["val"]
            val = self.evaluation["val"] = self.mean_loss(x[:LOOK], y[:LOOK])
            require_finite("validation", val)
            self.lowest = min(self.lowest, (done, val), key=lambda found: found[1])
            words = ", ".join(
                f"{word} ({mark})" for word, mark in mark_words(self._names(3), *self.known)
            )
            print(f"step {done:,}  val {val:.4f}  {words}", flush=True)

    def finish(self):
        self._print_losses()
        for word, mark in mark_words(self._names(20), *self.known):
            print(f"{word:<20} {mark}")


def require_finite(name, loss):
    if not math.isfinite(loss):
        raise train.Diverged(f"the {name} loss is {loss}")


class BigramRun(Run):
    def __init__(self, preset, words):
        super().__init__(preset)
        self.vocabulary = Vocabulary(words)
        self.data = build_sequences(words, self.vocabulary, max(map(len, words)) + 1)
        config = preset.config(len(self.vocabulary), self.data[0].shape[1])
        self.model = build("bigram", config, TorchGenerator(preset.seed))

    def steps(self, start=0):
        return iter(())

    def settle(self):
        train.count_bigrams(self.model, *self.data)

    def finish(self):
        for rule, title in (("2022", "torch 1.12 and 1.13"), ("current", "torch 2.7 and later")):
            choose = chooser(TorchGenerator(self.preset.seed), rule=rule, replacement=True)
            names = draw_in_turn(self.model, self.vocabulary, choose, 5, LONGEST_WORD)
            print(f"names, as {title} draw them:", *(name + "." for name in names))
        self.evaluation["train"] = self.mean_loss(*self.data)
        print(f"nll {self.evaluation['train']:.6f}")


class MakemoreRun(Run):
    def __init__(self, preset, words):
        super().__init__(preset)
        self.generator = TorchGenerator(preset.seed)
        self.vocabulary = Vocabulary(words)
        self.block_size = max(map(len, words)) + 1
        self.novelty = list(preset.parts(words, self.generator).values())
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
        self.improved, self.evaluation = False, {}
        if step % 10 == 0:
            print(f"step {step} | loss {loss:.4f} | step time {seconds * 1000:.2f}ms", flush=True)
        if step > 0 and step % 500 == 0:
            train_loss, test_loss = self._evaluate(*self.train), self._evaluate(*self.test)
            print(f"step {step} train loss: {train_loss} test loss: {test_loss}", flush=True)
            require_finite("train", train_loss)
            require_finite("test", test_loss)
            self.evaluation = {"train": train_loss, "test": test_loss}
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
        losses = self.ranks.each(lambda part: train.evaluate(self.model, x[part], y[part]), parts)
        return float(np.mean(losses, dtype=np.float32))

    def print_samples(self, n):
        choose = chooser(self.generator, top_k=self.preset.top_k)
        words = draw(self.model, self.vocabulary, choose, n, draw_all=True, ranks=self.ranks)
        print("-" * 80)
        for heap, title in zip(
            sort_by_novelty(words, *self.novelty), ("in train", "in test", "new"), strict=True
        ):
            print(f"{len(heap)} samples that are {title}:", *heap, sep="\n")
        print("-" * 80, flush=True)


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
        choose = chooser(self.generator, temperature=0.5)
        names = draw_in_turn(self.model, self.vocabulary, choose, 20, self.block_size)
        for i, name in enumerate(names, 1):
            print(f"sample {i:2d}: {name}")


class PythonRandom:
    """Python's `random` as a Generator, for microgpt, which numbers the boundary last, not first:
    multinomial turns the categories by one. It draws one sample a row, by a rule of its own."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def uniform(
        self, low: float, high: float, shape: Sequence[int], dtype: Any = np.float32
    ) -> np.ndarray:
        values = [self.random.uniform(low, high) for _ in range(math.prod(shape))]
        return np.array(values, dtype).reshape(shape)

    def normal(
        self, mean: float, std: float, shape: Sequence[int], dtype: Any = np.float32
    ) -> np.ndarray:
        values = [self.random.gauss(mean, std) for _ in range(math.prod(shape))]
        return np.array(values, dtype).reshape(shape)

    def bernoulli(self, p: float, shape: Sequence[int]) -> np.ndarray:
        drawn = [self.random.random() < p for _ in range(math.prod(shape))]
        return np.array(drawn, bool).reshape(shape)

    def multinomial(
        self, probs: np.ndarray, num_samples: int, *, among: Among | None = None, **rule: Any
    ) -> np.ndarray:
        V = probs.shape[-1]
        rows, n = among or (slice(None), len(probs))
        weights = np.ones((n, V))
        weights[rows] = np.roll(probs, -1, axis=-1)
        drawn = np.array([self.random.choices(range(V), row)[0] for row in weights.tolist()])
        return (drawn[rows, None] + 1) % V

    def state(self) -> np.ndarray:
        version, words, gauss = self.random.getstate()
        tail = np.array([0.0 if gauss is None else gauss]).view(np.uint64)
        return np.concatenate([np.array([version, gauss is not None, *words], np.uint64), tail])

    def set_state(self, state: np.ndarray) -> None:
        gauss = float(state[-1:].view(np.float64)[0]) if state[1] else None
        self.random.setstate((int(state[0]), tuple(state[2:-1].tolist()), gauss))
