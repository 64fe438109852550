"""Runs on running text, as npnet.runs has them for words."""

import numpy as np

from npnet.models import build
from npnet.optim import AdamW, constant, cosine
from npnet.random import TorchGenerator
from npnet.runs import Run, require_finite
from npnet.sample import generate_text
from npnet.text import TextVocabulary, random_windows, visible

SHOWN = 60  # characters


class TextRun(Run):
    """One generator draws everything: the model, the batches, and those of the evaluations."""

    vocabulary: TextVocabulary
    evaluates_last = True  # before the last update, as the lecture does

    def __init__(self, preset, text):
        super().__init__(preset)
        self.vocabulary = text.vocabulary
        self.data = preset.parts(text)
        self.generator = TorchGenerator(preset.seed)
        self.generators = {"generator": self.generator}
        self.model = self._model()
        self.optimizer = self._optimizer()
        self.schedule = self._schedule()
        self.accumulate = preset.accumulate

    def _optimizer(self):
        model = self.model
        return AdamW(model.data, model.grad, weight_decay=self.preset.weight_decay)

    def _schedule(self):
        return constant(self.preset.learning_rate)

    def _model(self):
        preset = self.preset
        config = preset.config(
            len(self.vocabulary),
            preset.block_size,
            tie_weights=preset.tie_weights,
            style=preset.style,
            dropout=preset.dropout,
        )
        return build(preset.kind, config, self.generator)

    def batches(self, start):
        """The evaluation at a step comes before its update, so it is here."""
        for step in range(start, self.preset.last):
            self.evaluation = {}
            if self.preset.batch_first:
                batch = self.batch("train")
                self._look(step)
            else:
                self._look(step)
                batch = self.batch("train")
            yield batch
            for _ in range(self.accumulate - 1):
                yield self.batch("train")

    def batch(self, part):
        """A minibatch of that part, for the model's kind of output."""
        x, y = random_windows(
            self.data[part], self.preset.block_size, self.preset.batch_size, self.generator
        )
        return x, (y[:, -1] if self.model.windowed else y)

    def _look(self, step):
        every, last = self.preset.eval_every, self.preset.steps - 1
        if every is not None and (step % every == 0 or (step == last and self.evaluates_last)):
            self.evaluate(step)

    def evaluate(self, step):
        """The mean loss of eval_batches batches of each part."""
        for part in self.data:
            batches = (self.batch(part) for _ in range(self.preset.eval_batches))
            losses = self.ranks.each(lambda batch: self.model.loss(*batch), batches)
            loss = float(np.mean(losses, dtype=np.float32))
            require_finite(part, loss)
            self.evaluation[part] = loss
        found = ", ".join(f"{name} loss {loss:.4f}" for name, loss in self.evaluation.items())
        print(f"step {step}: {found}", flush=True)

    def report(self, step, loss, seconds):
        every = self.preset.log_every
        if every is not None and step % every == 0:
            print(f"iter {step}: loss {loss:.4f}, time {seconds * 1000:.2f}ms", flush=True)

    def finish(self):
        if self.preset.characters:
            print(self.text(self.preset.characters))

    def text(self, n, generator=None):
        """The vocabulary's start and n characters drawn after it."""
        drawn = generate_text(self.model, self.vocabulary, generator or self.generator, n)
        return "".join([self.vocabulary.itos[self.vocabulary.start], *drawn])


class ShakespeareBigramRun(TextRun):
    """The batch that the lecture looks at first is drawn from the seed on its own, and so is the
    model; training goes on from where the first hundred characters left the generator."""

    def _model(self):
        self.first = self._first_batch()
        model = super()._model()
        table = model.parameters()["logits.weight"]
        table[...] = self.generator.normal(0.0, 1.0, table.shape, table.dtype)
        return model

    def _first_batch(self):
        generator = TorchGenerator(self.preset.seed)
        return random_windows(self.data["train"], self.preset.block_size, 4, generator)

    def batches(self, start):
        if start == 0:
            print(f"loss before training {self.model.loss(*self.first):.4f}")
            print(self.text(100), flush=True)
        yield from super().batches(start)

    def report(self, step, loss, seconds):
        every = self.preset.log_every
        if every is not None and (step + 1) % every == 0:
            print(f"step {step}: loss {float(loss)}", flush=True)


class NanoGPTRun(TextRun):
    """The optimiser, the clipping and the schedule of nanoGPT's train.py, whose last step is the
    one at which the rate is lowest."""

    max_norm = 1.0

    def _optimizer(self):
        model, decay = self.model, self.preset.weight_decay
        return AdamW(
            model.data, model.grad, (0.9, 0.99), weight_decay=decay, decayed=model.matrices()
        )

    def _schedule(self):
        rate = self.preset.learning_rate
        return cosine(rate, self.preset.steps - 1, 100, rate / 10)


class ShownTextRun(TextRun):
    """The same with some text at each evaluation but the first, from a generator of its own, and a
    last evaluation at the end."""

    evaluates_last = False

    def _schedule(self):
        rate, steps = self.preset.learning_rate, self.preset.steps
        return cosine(rate, steps, steps // 20, rate / 20)

    def evaluate(self, step):
        super().evaluate(step)
        if step:
            text = self.text(SHOWN, TorchGenerator(self.preset.seed + 1))[1:]
            print(f"    {visible(text, also='')}", flush=True)

    def finish(self):
        super().evaluate(self.preset.last)
        super().finish()
