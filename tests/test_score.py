"""Losses word by word: they add up to the loss of the whole, and are what the model says."""

import math

import numpy as np
import pytest
from configs import config_for

from npnet.data import DataError, Vocabulary, build_dataset, build_sequences, read_words
from npnet.models import BUILDERS, build
from npnet.random import TorchGenerator
from npnet.score import extremes, score_words, table
from npnet.train import evaluate

WORDS = read_words()[:300]
VOCABULARY = Vocabulary(WORDS)
LONGEST = max(map(len, WORDS)) + 1


def make(kind):
    block_size = 4 if BUILDERS[kind].windowed else LONGEST
    config = config_for(
        kind, len(VOCABULARY), block_size, n_layer=2, n_embd=6, n_embd2=5, n_head=2, dtype="float64"
    )
    model = build(kind, config, TorchGenerator(0))
    rng = np.random.default_rng(0)
    model.data[...] = rng.standard_normal(model.data.size)
    return model


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_words_losses_add_up_to_that_of_the_whole(kind):
    model = make(kind)
    build = build_dataset if model.windowed else build_sequences
    found = score_words(model, VOCABULARY, WORDS)
    expected = evaluate(model, *build(WORDS, VOCABULARY, model.config.block_size))
    assert found.loss == pytest.approx(expected, rel=1e-12)
    assert found.perplexity == pytest.approx(math.exp(expected), rel=1e-12)
    assert found.characters == sum(len(word) + 1 for word in WORDS)
    for k in (0, 7, 299):
        alone = score_words(model, VOCABULARY, [WORDS[k]])
        assert alone.losses == pytest.approx([found.losses[k]], rel=1e-10)


@pytest.mark.parametrize("kind", ["mlp", "rnn"])
def test_the_probabilities_of_all_words_add_up_to_one(kind):
    """Of all words over two letters, to which the rest of the probability leaves less and less."""
    vocabulary = Vocabulary("ab")
    config = config_for(kind, 3, 4 if kind == "mlp" else 9, n_embd=3, n_embd2=4)
    model = build(kind, config, TorchGenerator(1))
    words, total = [""], 0.0
    for _ in range(9):
        total += np.exp(-score_words(model, vocabulary, words).losses).sum()
        words = [word + letter for word in words for letter in "ab"][:256]
    assert 0.8 < total <= 1


def test_lines_for_people():
    evaluations = {"train": score_words(make("bigram"), VOCABULARY, WORDS[:20])}
    header, line = table(evaluations)
    assert header.split() == ["words", "characters", "loss", "perplexity"]
    e = evaluations["train"]
    assert line.split() == [
        "train",
        "20",
        f"{e.characters}",
        f"{e.loss:.4f}",
        f"{e.perplexity:.4f}",
    ]
    lines = list(extremes(evaluations))
    order = np.argsort(e.losses)
    assert [line.split()[0] for line in lines[1:11]] == [WORDS[i] for i in order[:10]]
    assert [line.split()[0] for line in lines[12:]] == [WORDS[i] for i in order[::-1][:10]]


def test_what_the_model_cannot_read():
    for words, message in (
        (["emma", "jürgen"], "'ü' in 'jürgen'"),
        (["a" * 40], "need a block of 41"),
    ):
        with pytest.raises(DataError, match=message):
            score_words(make("transformer"), VOCABULARY, words)
