"""How well a model knows some words: its loss and perplexity, and how likely each word is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from npnet.data import Vocabulary, build_dataset, build_sequences
from npnet.models import Model
from npnet.train import rows_at_once

SHOWN = 10  # words at either end of the list


@dataclass(frozen=True)
class Evaluation:
    """Some words and -log of the probability of each, in nats, its end included."""

    words: list[str]
    losses: np.ndarray

    @property
    def characters(self) -> int:
        """How many were predicted, the end of each word among them."""
        return sum(map(len, self.words)) + len(self.words)

    @property
    def loss(self) -> float:
        """Nats per character."""
        return float(self.losses.sum()) / self.characters

    @property
    def perplexity(self) -> float:
        """exp(loss): among how many equally likely characters the model seems to choose."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.loss))


def score_words(
    model: Model,
    vocabulary: Vocabulary,
    words: list[str],
    watch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """The Evaluation of the words. watch(done, total) is told how far it is.

    A character that the model does not know, or a word longer than its block, is a DataError.
    """
    block_size = model.config.block_size
    build = build_dataset if model.windowed else build_sequences
    x, y = build(words, vocabulary, block_size)
    losses = np.empty(y.shape)
    chunk = rows_at_once(x)
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        losses[part] = _losses(model.logits(x[part]), y[part])
        if watch:
            watch(start, len(x))
    if model.windowed:
        lengths = np.array([len(word) + 1 for word in words])
        return Evaluation(words, np.add.reduceat(losses, np.cumsum(lengths) - lengths))
    return Evaluation(words, losses.sum(axis=1))


def _losses(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-log softmax(logits)[target] at each place, in float64, and 0 where the target is -1."""
    z = logits.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(z, np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return np.where(targets == -1, 0.0, np.log(np.exp(z).sum(axis=-1)) - chosen)


def table(evaluations: dict[str, Evaluation]) -> Iterator[str]:
    """The lines of a table of name -> Evaluation."""
    yield f"{'':<8} {'words':>9} {'characters':>10} {'loss':>8} {'perplexity':>10}"
    for name, e in evaluations.items():
        counts = f"{len(e.words):>9,} {e.characters:>10,}"
        yield f"{name:<8} {counts} {e.loss:>8.4f} {e.perplexity:>10.4f}"


def extremes(evaluations: dict[str, Evaluation]) -> Iterator[str]:
    """The lines with the likeliest and the unlikeliest words, by the probability of the word."""
    ranked = sorted(
        (
            (loss, word, name)
            for name, e in evaluations.items()
            for loss, word in zip(e.losses.tolist(), e.words, strict=True)
        ),
        key=lambda row: row[0],
    )
    n = min(SHOWN, len(ranked))
    for title, rows in (("likeliest", ranked[:n]), ("unlikeliest", ranked[-n:][::-1])):
        yield f"\n{title + ' words':<24} {'':<8} {'nats':>8} {'per character':>13}"
        for loss, word, name in rows:
            yield f"{word:<24} {name:<8} {loss:>8.3f} {loss / (len(word) + 1):>13.3f}"
