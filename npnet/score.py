"""How well a model knows some words or a text: its loss and perplexity, and how likely each word or
line is."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from npnet.data import DataError, Vocabulary, build_dataset, build_sequences
from npnet.model import Model
from npnet.ranks import ALONE, Alone
from npnet.text import TextVocabulary, visible
from npnet.train import rows_at_once

Watch = Callable[[int, int], None]
SHOWN = 10  # words or lines at either end of the list
AT_ONCE = 1 << 14  # characters of a text, fewer where the vocabulary is large
LARGEST_LOGITS = 1 << 24  # numbers
LONGEST_LINE = 60  # characters shown of a line


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
        return _exp(self.loss)


def _exp(loss):
    with np.errstate(over="ignore"):
        return float(np.exp(loss))


def score_words(
    model: Model,
    vocabulary: Vocabulary,
    words: list[str],
    watch: Watch | None = None,
    ranks: Alone = ALONE,
) -> Evaluation:
    """The Evaluation of the words, on which the ranks take turns. watch(done, total) is told how
    far it is.

    A character that the model does not know, or a word longer than its block, is a DataError.
    """
    block_size = model.config.block_size
    build = build_dataset if model.windowed else build_sequences
    x, y = build(words, vocabulary, block_size)
    chunk = rows_at_once(x, model.config)

    def part(start: int) -> np.ndarray:
        if watch:
            watch(start, len(x))
        rows = slice(start, start + chunk)
        return _losses(model.logits(x[rows]), y[rows])

    losses = np.concatenate(ranks.each(part, range(0, len(x), chunk)))
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


@dataclass
class TextEvaluation:
    """-log of the probability of a text, in nats, and of how many characters that is.

    likeliest and unlikeliest have some of its lines: line -> (nats per character, nats), where a
    line that stands there more than once counts where it is likeliest or unlikeliest.
    """

    characters: int = 0
    nats: float = 0.0
    likeliest: dict[str, tuple[float, float]] = field(default_factory=dict)
    unlikeliest: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Nats per character."""
        return self.nats / self.characters

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return _exp(self.loss)

    def add_line(self, line: str, nats: float, n: int) -> None:
        """A line of n characters, its end included."""
        found = nats / n, nats
        if found < self.likeliest.get(line, (math.inf, 0.0)):
            self.likeliest[line] = found
        if found > self.unlikeliest.get(line, (-math.inf, 0.0)):
            self.unlikeliest[line] = found
        if len(self.likeliest) > 100 * SHOWN:
            self.likeliest = _first(self.likeliest)
        if len(self.unlikeliest) > 100 * SHOWN:
            self.unlikeliest = _first(self.unlikeliest, reverse=True)


def _first(lines, reverse=False):
    return dict(sorted(lines.items(), key=lambda item: item[1], reverse=reverse)[:SHOWN])


def score_text(
    model: Model,
    vocabulary: TextVocabulary,
    ids: np.ndarray,
    watch: Watch | None = None,
    ranks: Alone = ALONE,
    lines: bool = False,
) -> TextEvaluation:
    """The TextEvaluation of a text, ids (n,) of the vocabulary, in blocks of block_size characters
    as in training: each character but the first follows those before it in its block. A model that
    reads windows is asked about every character after the first block_size ones. The ranks take
    turns.

    lines looks for the likeliest and the unlikeliest lines, too. A text too short for anything to
    be predicted is a DataError.
    """
    found = TextEvaluation()
    line_end = vocabulary.stoi.get("\n") if lines else None
    skipped = model.config.block_size if model.windowed else 1
    if len(ids) <= skipped:
        raise DataError(f"the text has {len(ids)} characters; at least {skipped + 1} are needed")
    line, n, line_nats = [], 0, math.nan  # the first line has a beginning that nothing predicts
    for start, losses in _text_losses(model, ids, ranks):
        found.nats += float(losses.sum())
        found.characters += len(losses)
        if line_end is not None:
            for number, nats in zip(
                ids[start : start + len(losses)].tolist(), losses.tolist(), strict=True
            ):
                n, line_nats = n + 1, line_nats + nats
                if number != line_end:
                    if n <= LONGEST_LINE:
                        line.append(number)
                    continue
                if line and not math.isnan(line_nats):
                    found.add_line(vocabulary.decode(line), line_nats, n)
                line, n, line_nats = [], 0, 0.0
        if watch:
            watch(start + len(losses), len(ids))
    return found


def _text_losses(model: Model, ids: np.ndarray, ranks: Alone) -> Iterator[tuple[int, np.ndarray]]:
    """(place of the first of some characters, -log of the probability of each), in order."""
    T, n = model.config.block_size, len(ids) - 1
    at_once = max(1, min(AT_ONCE, LARGEST_LOGITS // model.config.vocab_size))
    if model.windowed:
        pieces = [(start, min(start + at_once, n)) for start in range(T - 1, n, at_once)]
    else:
        whole, step = n // T * T, max(1, at_once // T) * T
        pieces = [(start, min(start + step, whole)) for start in range(0, whole, step)]
        if whole < n:
            pieces.append((whole, n))  # the rest, shorter than a block

    def losses(piece: tuple[int, int]) -> np.ndarray:
        start, stop = piece
        if model.windowed:
            rows = sliding_window_view(ids[start + 1 - T : stop + 1], T + 1).astype(np.int64)
            x, y = rows[:, :-1], rows[:, -1]
        else:
            x, y = (
                part.reshape(-1, min(T, stop - start)).astype(np.int64)
                for part in (ids[start:stop], ids[start + 1 : stop + 1])
            )
        return _losses(model.logits(x), y).ravel()

    for i in range(0, len(pieces), ranks.size):
        turn = pieces[i : i + ranks.size]
        for (start, _), found in zip(turn, ranks.each(losses, turn), strict=True):
            yield start + 1, found


def table(evaluations: Mapping[str, Evaluation | TextEvaluation]) -> Iterator[str]:
    """The lines of a table of name -> Evaluation, or TextEvaluation, where no words are counted."""
    counted = any(isinstance(e, Evaluation) for e in evaluations.values())
    words = f" {'words':>9}" if counted else ""
    yield f"{'':<8}{words} {'characters':>10} {'loss':>8} {'perplexity':>10}"
    for name, e in evaluations.items():
        words = f" {len(e.words):>9,}" if isinstance(e, Evaluation) else ""
        yield f"{name:<8}{words} {e.characters:>10,} {e.loss:>8.4f} {e.perplexity:>10.4f}"


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


def line_extremes(evaluations: dict[str, TextEvaluation]) -> Iterator[str]:
    """The same for the lines of texts, by the probability of one of their characters."""
    for title in ("likeliest", "unlikeliest"):
        ranked = sorted(
            (
                (rate, nats, line, name)
                for name, e in evaluations.items()
                for line, (rate, nats) in getattr(e, title).items()
            ),
            reverse=title == "unlikeliest",
        )
        yield f"\n{title + ' lines':<{LONGEST_LINE}} {'':<8} {'nats':>8} {'per character':>13}"
        for rate, nats, line, name in ranked[:SHOWN]:
            shown = visible(line, also="")
            yield f"{shown:<{LONGEST_LINE}} {name:<8} {nats:>8.3f} {rate:>13.3f}"
