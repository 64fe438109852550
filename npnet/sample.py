"""Drawing words and running text from a model, one position at a time: each layer keeps what it
needs of the positions before."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

import numpy as np

from npnet import ops
from npnet.data import LONGEST_WORD, Vocabulary
from npnet.layers import keep
from npnet.model import Model
from npnet.random import Among, Generator
from npnet.ranks import ALONE, Alone
from npnet.sliding import LastLogits
from npnet.text import TextVocabulary

Chooser = Callable[..., np.ndarray]
Watch = Callable[[int], object]
COLDEST = 1e-6  # below this temperature float32 leaves a probability to the likeliest alone
FEW = 20_000_000  # products that take less time than a step's calls


def generate(
    model: Model,
    vocabulary: Vocabulary,
    generator: Generator,
    n: int = 20,
    *,
    prompt: str = "",
    temperature: float = 1.0,
    top_k: int | None = None,
    max_length: int | None = None,
    watch: Watch | None = None,
    ranks: Alone = ALONE,
) -> list[str]:
    """n words as a list of strings, drawn side by side, each beginning with `prompt`.

    temperature and top_k are those of `chooser`. max_length counts the characters; by default it is
    block_size - 1 for the models that read sequences. watch(done) is told how many words have
    ended.
    """
    choose = chooser(generator, temperature, top_k)
    return draw(
        model, vocabulary, choose, n, prompt=prompt, max_length=max_length, watch=watch, ranks=ranks
    )


def generate_text(
    model: Model,
    vocabulary: TextVocabulary,
    generator: Generator,
    n: int = 500,
    *,
    prompt: str = "",
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Iterator[str]:
    """The n characters of running text that follow the prompt, or vocabulary.start, each as soon as
    it is drawn. temperature and top_k are those of `chooser`."""
    context = vocabulary.encode(prompt) if prompt else np.array([vocabulary.start])
    choose = chooser(generator, temperature, top_k)
    return (vocabulary.itos[number] for number in continued(model, choose, context, n))


def chooser(
    generator: Generator,
    temperature: float = 1.0,
    top_k: int | None = None,
    rule: str = "current",
    replacement: bool = False,
) -> Chooser:
    """How the next character is chosen: a function logits (B, V) -> ids (B,), or with
    among=(rows, n) those of these rows of n.

    temperature divides the logits; below COLDEST the likeliest character is taken and nothing is
    drawn. top_k keeps the k likeliest. rule, replacement and among are those of
    npnet.random.TorchGenerator.multinomial. Probabilities that are not finite are a
    FloatingPointError.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature must be at least 0, got {temperature}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")

    def choose(logits: np.ndarray, among: Among | None = None) -> np.ndarray:
        if temperature < COLDEST:
            return _finite(logits).argmax(-1)
        if temperature != 1:
            logits = logits / temperature
        if top_k is not None and top_k < logits.shape[-1]:
            kth = np.partition(logits, -top_k, axis=-1)[:, -top_k, None]
            logits = np.where(logits < kth, -np.inf, logits)
        probs, _ = ops.softmax(logits)
        drawn = generator.multinomial(
            _finite(probs), 1, replacement=replacement, rule=rule, among=among
        )
        return drawn[:, 0]

    return choose


def _finite(values: np.ndarray) -> np.ndarray:
    # argmin and argmax stop at a NaN, so the two show whatever is not finite.
    ends = (values.item(values.argmin()), values.item(values.argmax())) if values.size else ()
    if not all(map(math.isfinite, ends)):
        raise FloatingPointError("nothing can be drawn: the probabilities are no finite numbers")
    return values


def draw(
    model: Model,
    vocabulary: Vocabulary,
    choose: Chooser,
    n: int,
    *,
    prompt: str = "",
    max_length: int | None = None,
    draw_all: bool = False,
    watch: Watch | None = None,
    ranks: Alone = ALONE,
) -> list[str]:
    """n words, character by character side by side; `choose` is a chooser. Each rank reads its
    share of the words, and all draw alike.

    The drawing ends when every word has ended or, with draw_all, as in makemore, after max_length
    characters. watch(done) is told how many words have ended.
    """
    if not vocabulary.boundary:
        raise ValueError("no word ends in running text: generate_text draws that")
    if max_length is None:
        max_length = LONGEST_WORD if model.windowed else model.config.block_size - 1
    prompt_ids = vocabulary.encode(prompt)
    if "." in prompt:
        raise ValueError(f"the prompt {prompt!r} holds '.', which ends a word")
    if len(prompt_ids) > max_length:
        raise ValueError(
            f"the prompt {prompt!r} is longer than {max_length}, the most characters of a word"
        )
    V = len(vocabulary)
    drawn, alive = np.zeros((max_length, n), np.int64), np.ones(n, bool)
    # Words that have begun alike are one row of the model until they part, and one that has ended
    # is none. The random stream goes on for every word, so that they are what they would be if all
    # were read and drawn to the end.
    read = np.arange(ranks.rank, n, ranks.size)
    row = np.zeros(len(read), np.int64)  # of each word that is read on
    last, state = np.zeros(1, np.int64), model.start(1, max_length + 1)
    length = 0
    while length < max_length and (draw_all or alive.any()):
        ids = drawn[length]
        logits = np.empty((0, V), model.data.dtype)
        if read.size:
            logits = model.step(last, state)[row]
        if length < len(prompt_ids):
            ids[read] = prompt_ids[length]
        else:
            ids[read] = choose(logits, (read, n))
        ranks.add(ids)
        alive &= ids != 0
        row, read = row[alive[read]], read[alive[read]]
        beginnings, row = np.unique(row * V + ids[read], return_inverse=True)
        rows, last = np.divmod(beginnings, V)
        state = keep(state, rows)
        length += 1
        if watch:
            watch(n - int(np.count_nonzero(alive)))
    letters = drawn.T != 0
    text = vocabulary.decode(drawn.T[letters])
    ends = letters.sum(1).cumsum().tolist()
    return [text[start:end] for start, end in pairwise([0, *ends])]


def draw_in_turn(
    model: Model, vocabulary: Vocabulary, choose: Chooser, n: int, max_length: int | None = None
) -> list[str]:
    """n words, one after the other, as the lectures draw them."""
    words = (draw(model, vocabulary, choose, 1, max_length=max_length) for _ in range(n))
    return [word for (word,) in words]


def continued(model: Model, choose: Chooser, context: np.ndarray, n: int) -> Iterator[int]:
    """The n ids that follow the ids of `context`, at least one, each as soon as it is drawn.

    A model with positions is asked about the last block_size ids, numbered from the first of them
    as in training. While they fit, its layers keep what they need; from then on every id has a new
    number at each step, and all of them are computed again (npnet.sliding), in a small model from
    the beginning. The other models have no such bound: a recurrent one has seen everything that
    came before, one that reads a window sees the window.
    """
    limit, positional = model.config.block_size, model.positional
    ids = context[-limit:].astype(np.int64)
    transformer = model.kind == "transformer"
    read = LastLogits(model) if transformer and limit * model.data.size < FEW else None
    if read:
        logits = read(ids)[None]
    else:
        state = model.start(1, limit)
        for number in ids if positional else context:
            logits = model.step(np.array([number]), state)
    for left in range(n, 0, -1):
        chosen = choose(logits)
        yield int(chosen[0])
        if left == 1:
            return
        full = positional and len(ids) == limit
        ids = np.concatenate([ids, chosen])[-limit:]
        if full and transformer:
            read = read or LastLogits(model)
        if read:
            logits = read(ids)[None]
        elif full:
            logits = model.logits(ids[None])[:, -1]
        else:
            logits = model.step(chosen, state)


def sort_by_novelty(
    words: Iterable[str], train: Iterable[str], test: Iterable[str]
) -> tuple[list[str], list[str], list[str]]:
    """makemore's three heaps: (in train, in test, new), each in the order of `words`."""
    train, test = set(train), set(test)
    return (
        [w for w in words if w in train],
        [w for w in words if w in test and w not in train],
        [w for w in words if w not in train and w not in test],
    )


def mark_words(
    words: Iterable[str], train: Iterable[str], test: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """(word, "in train", "in test" or "new") for each of the words."""
    train, test = set(train), set(test)
    for word in words:
        yield word, "in train" if word in train else "in test" if word in test else "new"
