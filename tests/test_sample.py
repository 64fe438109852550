"""Drawing words: prompt, temperature, top-k, length, and the same words from the same seed."""

import numpy as np
import pytest
import torch
from configs import config_for

from npnet.data import DataError, Vocabulary
from npnet.models import BUILDERS, build
from npnet.random import TorchGenerator
from npnet.sample import chooser, draw, draw_in_turn, generate, mark_words, sort_by_novelty

VOCABULARY = Vocabulary(["abcde"])
KINDS = ["mlp", "mlp_makemore", "gru", "transformer", "bow"]


def make(kind, seed=0, scale=1.0, block_size=8):
    config = config_for(kind, 6, block_size, n_layer=1, n_embd=8, n_embd2=9, n_head=2)
    model = build(kind, config, TorchGenerator(seed))
    model.data[...] = np.random.default_rng(seed).standard_normal(model.data.size) * scale
    return model


def next_logits(model, word):
    """By the whole word, without a state."""
    ids = np.concatenate([[0], VOCABULARY.encode(word)])
    if model.windowed:
        T = model.config.block_size
        return model.logits(np.pad(ids, (T, 0))[None, -T:])[0]
    return model.logits(ids[None])[0, -1]


class Never:
    """A generator that may not be used."""

    def multinomial(self, *args, **options):
        raise AssertionError("something was drawn")


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_same_seed_gives_the_same_words(kind):
    model = make(kind, scale=0.3)
    first, again, other = (
        generate(model, VOCABULARY, TorchGenerator(s), 20, max_length=7) for s in (1, 1, 2)
    )
    assert first == again != other
    assert len(first) == 20 and all(
        isinstance(word, str) and len(word) <= 7 and "." not in word for word in first
    )


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_words_follow_the_likeliest_character_and_draw_nothing(kind):
    for seed in range(5):
        model = make(kind, seed)
        (word,) = generate(model, VOCABULARY, Never(), 1, temperature=0, max_length=7)
        for t, character in enumerate(word):
            assert VOCABULARY.itos[next_logits(model, word[:t]).argmax()] == character
        assert len(word) == 7 or next_logits(model, word).argmax() == 0
        assert generate(model, VOCABULARY, Never(), 3, temperature=0, max_length=7) == [word] * 3
        assert (
            generate(model, VOCABULARY, TorchGenerator(0), 2, top_k=1, max_length=7) == [word] * 2
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_begins_every_word_and_is_read(kind):
    for seed in range(5):
        model = make(kind, seed)
        for word in generate(model, VOCABULARY, TorchGenerator(0), 5, prompt="dab", max_length=7):
            assert word.startswith("dab")
        (word,) = generate(model, VOCABULARY, Never(), 1, prompt="dab", temperature=0, max_length=4)
        following = next_logits(model, "dab").argmax()
        assert word == "dab" + VOCABULARY.decode([following]).rstrip(".")


@pytest.mark.parametrize("kind", KINDS)
def test_drawing_in_turn_or_side_by_side_does_not_change_what_is_likeliest(kind):
    model, choose = make(kind), chooser(Never(), temperature=0)
    together = draw(model, VOCABULARY, choose, 5, max_length=7)
    assert draw_in_turn(model, VOCABULARY, choose, 5, max_length=7) == together
    assert len(together) == 5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_temperature_too_low_to_divide_by_is_0(scale):
    model = make("gru", scale=scale)
    for temperature in (1e-45, 1e-310, 5e-324, 1e-30):
        words = [
            generate(model, VOCABULARY, Never(), 3, temperature=t, max_length=7)
            for t in (0, temperature)
        ]
        assert words[0] == words[1]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_words_are_those_of_torch(temperature):
    """One after the other and side by side, with torch drawing from the same probabilities."""
    model, top_k = make("gru", scale=0.5), 3
    for batch in (1, 4):
        generator = torch.Generator().manual_seed(5)
        words = [""] * batch
        for _ in range(7):
            z = (
                torch.from_numpy(np.stack([next_logits(model, word) for word in words]))
                / temperature
            )
            z[z < z.topk(top_k).values[:, [-1]]] = -torch.inf
            drawn = torch.multinomial(z.softmax(-1), 1, generator=generator)[:, 0].tolist()
            words = [word + VOCABULARY.itos[i] for word, i in zip(words, drawn, strict=True)]
        choose = chooser(TorchGenerator(5), temperature, top_k)
        found = draw(model, VOCABULARY, choose, batch, max_length=7, draw_all=True)
        assert found == [word.partition(".")[0] for word in words]


def test_top_k_draws_from_the_likeliest():
    model = make("bigram")
    model.parameters()["logits.weight"][...] = [0, 5, 4, 3, 2, 1]
    for k, letters in ((1, "a"), (2, "ab"), (3, "abc")):
        words = generate(model, VOCABULARY, TorchGenerator(0), 50, top_k=k, max_length=7)
        assert set("".join(words)) == set(letters)
    assert generate(model, VOCABULARY, TorchGenerator(0), 9, top_k=100) == generate(
        model, VOCABULARY, TorchGenerator(0), 9
    )


def test_a_word_ends_with_its_end_or_at_its_longest():
    model = make("bigram")
    model.parameters()["logits.weight"][...] = [-1e3, 9, 1, 1, 1, 1]
    assert generate(model, VOCABULARY, TorchGenerator(0), 2, temperature=0) == ["a" * 7] * 2
    assert (
        generate(model, VOCABULARY, TorchGenerator(0), 2, temperature=0, max_length=3)
        == ["aaa"] * 2
    )
    model.parameters()["logits.weight"][1] = [9, 0, 0, 0, 0, 0]
    assert generate(model, VOCABULARY, TorchGenerator(0), 2, temperature=0) == ["a"] * 2
    assert generate(model, VOCABULARY, TorchGenerator(0), 0) == []


def test_drawing_ends_with_the_last_word_unless_all_is_to_be_drawn():
    model = make("bigram")
    model.parameters()["logits.weight"][...] = [9, -1e3, -1e3, -1e3, -1e3, -1e3]
    generators = TorchGenerator(0), TorchGenerator(0), TorchGenerator(0)
    for generator, options in zip(
        generators, ({}, {"draw_all": True}, {"draw_all": True}), strict=True
    ):
        assert draw(model, VOCABULARY, chooser(generator), 3, **options) == [""] * 3
    states = [generator.state() for generator in generators]
    assert (states[0] != states[1]).any()
    np.testing.assert_array_equal(states[1], states[2])


@pytest.mark.parametrize("kind", BUILDERS)
def test_words_that_begin_alike_are_one_row_until_they_part(kind):
    model, rows = make(kind, scale=0.3), []
    step = model.step

    def watched(ids, state):
        rows.append(len(ids))
        return step(ids, state)

    model.step = watched
    words = generate(model, VOCABULARY, TorchGenerator(1), 60, prompt="da", max_length=7)
    for t, n in enumerate(rows):
        assert n == len({word[:t] for word in words if len(word) >= t})
    assert rows[:3] == [1, 1, 1] and max(rows) > 5


def test_nothing_is_drawn_for_a_word_that_has_ended():
    rows = []

    class Watched(TorchGenerator):
        def multinomial(self, probs, *args, **options):
            rows.append(len(probs))
            return super().multinomial(probs, *args, **options)

    words = generate(make("gru", scale=0.3), VOCABULARY, Watched(1), 60, max_length=7)
    assert rows == [sum(len(word) >= t for word in words) for t in range(len(rows))]
    assert rows[0] == 60 > rows[-1]


def test_a_watch_is_told_how_many_words_have_ended():
    told = []
    words = generate(
        make("mlp", scale=0.3), VOCABULARY, TorchGenerator(1), 20, max_length=7, watch=told.append
    )
    assert told == [sum(len(word) <= t for word in words) for t in range(len(told))]
    assert 0 < told[2] < 20 and len(told) > 5


def test_the_longest_word_of_a_model_with_positions_uses_all_of_them():
    model = make("transformer")
    assert all(
        len(word) <= 8 for word in generate(model, VOCABULARY, TorchGenerator(0), 5, max_length=8)
    )
    with pytest.raises(ValueError, match="8 positions"):
        draw(model, VOCABULARY, chooser(TorchGenerator(0)), 50, max_length=9, draw_all=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k"),
        ({"prompt": "aaaaaaaa"}, "longer than 7"),
        ({"prompt": "aa", "max_length": 1}, "longer than 1"),
        ({"prompt": "a.b"}, "ends a word"),
    ],
)
def test_impossible_options_are_an_error(options, message):
    with pytest.raises(ValueError, match=message):
        generate(make("transformer"), VOCABULARY, TorchGenerator(0), **options)


def test_a_prompt_in_other_letters_is_an_error_that_names_them():
    with pytest.raises(DataError, match="'z' in 'az'"):
        generate(make("transformer"), VOCABULARY, TorchGenerator(0), prompt="az")


def test_words_are_sorted_as_makemore_does():
    words = ["anna", "new", "bob", "carl", "anna"]
    assert sort_by_novelty(words, ["anna", "carl"], ["bob", "carl"]) == (
        ["anna", "carl", "anna"],
        ["bob"],
        ["new"],
    )


@pytest.mark.parametrize("temperature", [0, 1, 1e-5])
@pytest.mark.parametrize("damage", [np.nan, np.inf, 1e36])
def test_nothing_is_drawn_from_what_is_no_number(temperature, damage):
    model = make("bigram")
    model.parameters()["logits.weight"][0, 2] = damage
    if damage == 1e36 and temperature != 1e-5:
        generate(model, VOCABULARY, TorchGenerator(0), 2, temperature=temperature)
    else:
        with (
            pytest.raises(FloatingPointError, match="nothing can be drawn"),
            np.errstate(all="ignore"),
        ):
            generate(model, VOCABULARY, TorchGenerator(0), 2, temperature=temperature)


def test_an_unknown_rule_is_an_error():
    with pytest.raises(ValueError, match="rule"):
        draw(make("gru"), VOCABULARY, chooser(TorchGenerator(0), rule="2019"), 1)


def test_words_are_marked_in_their_order():
    marked = mark_words(["anna", "new", "bob", "carl"], ["anna", "carl"], ["bob", "carl"])
    marks = ["in train", "new", "in test", "in train"]
    assert list(marked) == list(zip(["anna", "new", "bob", "carl"], marks, strict=True))
