"""`likely_mistake`: a wrong backward of a real operation gets the hint that is true of it, and at
sizes that can be confused that hint, a count of what is right, or none."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from wrong_gradients import SIZES, TABLE, draw, right_gradients

from oracle.proof.mistakes import likely_mistake

SEEDS = 10  # of the sizes and numbers for each row


def hint(operation, name, wrong, rng, sizes, dtype=np.float64):
    """What is said of wrong(e), where e has the inputs by name, dy, d (the right gradients by
    name) and g (the one in question)."""

    def both(inputs, dy):
        d = right_gradients(operation, inputs, dy)
        e = SimpleNamespace(**inputs, dy=dy, d=d, g=d[name])
        return np.asarray(wrong(e)), d

    def elsewhere(which, values):
        changed = inputs if which is None else inputs | {which: values}
        got, d = both(changed, values if which is None else dy)
        return got, d[name]

    inputs, dy, known = draw(operation, rng, sizes)
    got, expected = both(inputs, dy)
    ones = right_gradients(operation, inputs, np.ones_like(dy))[name]
    details = {"sizes": known, "inputs": inputs, "dy": dy, "ones": ones, "elsewhere": elsewhere}
    return likely_mistake(name, got.astype(dtype), expected, **details)


IDS = [f"{row[0]} {row[1]}: {row[2]}" for row in TABLE]


@pytest.mark.parametrize("operation, name, says, wrong", TABLE, ids=IDS)
def test_a_mistake_is_named(operation, name, says, wrong):
    for seed in range(10):
        found = hint(operation, name, wrong, np.random.default_rng(seed), SIZES)
        assert says in found, (seed, found)


# What is true of a gradient whatever the mistake, and what else is true at small sizes: two rows
# in another order are in reversed order.
FACTS = re.compile(
    r"\d+ of its \d+ elements are (right|0 and should not be)|it is right (where|for) |"
    r"(the sign is wrong, and )?all elements are the right ones times|it is all zeros|"
    r"all its numbers are right but for the sign of|the numbers are right, but their shape|"
    r"(the first|the last|only the first) along axis|about \d+ digits are right|"
    r"the shape .* only broadcasts|it is wrong only where|its shape is that of the transpose"
)
ALSO = {
    "divided by (n o): the mean": "it is divided by|, or it is divided by",
    "another order along axis 1": "reversed order|shifted by one",
    "a reshape stands": "it is transposed",
    "its signs are lost": "the sign is wrong",
    "shifted by one along axis 0": "reversed order",
    "shifted by one along axis 1": "reversed order",
    "the mean square over axis 1": "or a term through its norm",
    "sign(x) is missing": "dy unchanged|the sign is wrong|its signs are lost",
    "it is right for gain = 1": "a factor gain is too many",
}


def is_wrong(found, says):
    true = found == "" or says in found or FACTS.match(found)
    return not true and not (says in ALSO and re.search(ALSO[says], found))


def any_sizes(rng):
    return {letter: int(rng.integers(1 + (letter == "m"), 7)) for letter in SIZES}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("operation, name, says, wrong", TABLE, ids=IDS)
def test_a_hint_is_true_at_any_sizes(operation, name, says, wrong, dtype):
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        found = hint(operation, name, wrong, rng, any_sizes(rng), dtype)
        assert not is_wrong(found, says), (seed, found)


def replaced(e, share):
    noise = np.random.default_rng(e.g.size)
    return np.where(noise.random(e.g.shape) < share, noise.normal(size=e.g.shape), e.g)


def noise(e):
    return np.random.default_rng(e.g.size + 1).normal(size=e.g.shape)


# Wrong in ways that no mistake explains.
UNEXPLAINED = {
    "noise": noise,
    "added noise": lambda e: e.g + noise(e),
    "times noise": lambda e: e.g * noise(e),
    "sine": lambda e: np.sin(2.7 * e.g),
    "square": lambda e: e.g**2 + 0.1 * e.g,
    "running sum": lambda e: np.cumsum(e.g).reshape(e.g.shape) + 0.3,
    "added number": lambda e: e.g + 0.37,
    "half replaced": lambda e: replaced(e, 0.5),
    "few replaced": lambda e: replaced(e, 0.1),
    "added input": lambda e: e.g + np.cos(e.g),
}
NAMES = [(operation, name) for operation, name in dict.fromkeys(row[:2] for row in TABLE)]


@pytest.mark.parametrize("wrong", UNEXPLAINED)
def test_what_no_mistake_explains_gets_no_hint(wrong):
    for operation, name in NAMES:
        for seed in range(SEEDS // 2):
            rng = np.random.default_rng(seed)
            found = hint(operation, name, UNEXPLAINED[wrong], rng, any_sizes(rng))
            assert found == "" or FACTS.match(found), (operation, name, seed, found)


def test_a_right_gradient_has_no_likely_mistake():
    a = np.random.default_rng(0).normal(size=(5, 3))
    for got in (a, a * (1 + 1e-12), None, [1.0], a.astype(int), np.zeros((0, 3))):
        expected = a if np.shape(got) != (0, 3) else np.zeros((0, 3))
        assert likely_mistake("dx", got, {"dx": expected}, sizes={"n": 5}) == ""


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_element_proves_nothing(shape):
    want = np.full(shape, 0.7)
    for got in (2 * want, -want, want / 5, 2.66193 * want, want + 1, 0 * want, want * 0.11):
        details = {"dy": want, "ones": 2 * want, "inputs": {"x": want, "a": want / 5}}
        expected = {"dx": want, "da": -want}
        assert likely_mistake("dx", got, expected, sizes={"n": 5}, **details) == ""


def test_accumulation_between_calls():
    want = np.random.default_rng(0).normal(size=(4, 3))
    expected = {"dw": want}
    for got, again in ((want, 2 * want), (3 * want, 4 * want), (want + 0.5, 2 * want + 0.5)):
        found = likely_mistake("dw", got, expected, sizes={}, again=again)
        assert "it accumulates between calls" in found
    found = likely_mistake("dw", want, expected, sizes={}, again=want**2)
    assert "something is kept, or random" in found
    assert likely_mistake("dw", want, expected, sizes={}, again=want.copy()) == ""


def test_a_random_forward():
    want = np.ones((4, 3))
    assert "random" in likely_mistake("dx", 2 * want, {"dx": want}, sizes={"n": 4}, random=True)


def test_a_path_that_is_missing():
    one, other = np.random.default_rng(0).normal(size=(2, 4, 3))
    found = likely_mistake("dh", one, {"dh": one + other}, sizes={}, without={"dlogits": one})
    assert found == "what comes through dlogits is missing"


def test_lost_duplicates_where_dy_is_not_known():
    ids = np.array([0, 2, 2, 4, 4, 4])
    dy = np.random.default_rng(0).normal(size=(6, 3))
    want, got = np.zeros((2, 6, 3))
    np.add.at(want, ids, dy)
    got[ids] += dy
    found = likely_mistake("dtable", got, {"dtable": want}, sizes={}, inputs={"ids": ids})
    assert "duplicates are lost" in found


def test_masked_targets_count():
    want = np.random.default_rng(0).normal(size=(7, 5))
    ids = np.array([0, -1, 2, 3, -1, 1, -1])
    inputs = {"x": want, "ids": ids}
    found = likely_mistake("dx", want * 4 / 7, {"dx": want}, sizes={"n": 7, "v": 5}, inputs=inputs)
    assert found == "it is divided by 7, where 4 targets are not masked"


X = np.array([[0.5, 0.0, -2.0], [1.0, 3.0, 0.0]])
NOT_FINITE = [
    ("where that is 0", X, lambda x: np.prod(x) / x),
    ("row is all zeros", X * [[1], [0]], lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)),
    ("row is constant", X * [[1], [0]] + 1, lambda x: x / x.std(1, keepdims=True)),
    ("input is large, from 800", 400 * X - 400, lambda x: np.tanh(x) + np.exp(np.abs(x)) * 0),
    ("positive and large, from 800", 400 * X - 400, lambda x: np.exp(x) * 0),
    ("negative and large, from 800", 400 - 400 * X, lambda x: np.exp(-x) * 0),
    ("", X, lambda x: np.where(x == 3, np.nan, x)),
]


@pytest.mark.parametrize("says, x, wrong", NOT_FINITE, ids=[row[0] for row in NOT_FINITE])
def test_why_it_is_not_finite(says, x, wrong):
    with np.errstate(all="ignore"):
        got = wrong(x)
    assert not np.isfinite(got).all()
    found = likely_mistake("dx", got, {"dx": np.ones_like(x)}, sizes={}, inputs={"x": x})
    assert says in found and bool(found) == bool(says)


def test_places():
    want = np.random.default_rng(0).normal(size=(4, 4))
    for got, says in (
        (want * np.eye(4), "only its diagonal is right"),
        (want + np.eye(4), "only its diagonal is wrong"),
        (np.tril(want) + np.triu(np.ones((4, 4)), 1), "right only on the diagonal and below it"),
        (want * (want > -0.5), "elements are 0 and should not be"),
        (want + (want > 0.5), "of its 16 elements are right"),
    ):
        assert says in likely_mistake("dx", got, {"dx": want}, sizes={})
    x = want * (np.abs(want) > 0.5)
    found = likely_mistake("dx", want + (x == 0), {"dx": want}, sizes={}, inputs={"x": x})
    assert found == "it is wrong only where the input is 0"
