"""Where the tables of cases do not reach: empty batches, a state for each sequence, chance equal to
p, long words."""

import numpy as np
import pytest
from configs import config_for

from npnet import ops
from npnet.layers import Dropout
from npnet.models import BUILDERS, Config, build
from npnet.random import TorchGenerator
from npnet.train import count_bigrams


def test_no_ids_are_looked_up_and_have_no_gradient():
    table = np.ones((5, 3))
    y, cache = ops.embedding(np.zeros((0, 2), np.int64), table)
    assert y.shape == (0, 2, 3)
    assert not ops.embedding_backward(y, cache).any()


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_a_state_for_each_sequence_is_each_sequence_alone(name):
    """Initial states (B, H) have gradients (B, H), and those of what the sequences share add up."""
    rng = np.random.default_rng(0)
    T, C, H, gates = 4, 3, 5, {"rnn": 1, "gru": 3, "lstm": 4}[name]
    states = [rng.standard_normal((2, H)) for _ in range(2 if name == "lstm" else 1)]
    x, w, b = (
        rng.standard_normal((2, T, C)),
        rng.standard_normal((C + H, gates * H)),
        rng.standard_normal(gates * H),
    )
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    y, cache = forward(x, *states, w, b)
    dy = rng.standard_normal(y.shape)
    dx, *dstates, dw, db = backward(dy, cache)

    alone = []
    for k in range(2):
        y_k, cache_k = forward(x[k], *(s[k] for s in states), w, b)
        np.testing.assert_allclose(y[k], y_k, rtol=1e-10, atol=1e-12)
        alone.append(backward(dy[k], cache_k))
    apart = [list(parts) for parts in zip(*alone, strict=True)]
    expected = [*(np.stack(parts) for parts in apart[:-2]), *(sum(parts) for parts in apart[-2:])]
    for got, value in zip([dx, *dstates, dw, db], expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=1e-10, atol=1e-12, strict=True)


def test_dropout_keeps_a_number_that_is_just_p():
    class Drawn:
        def rand(self, *shape):
            return np.array([0.0, 0.25, 0.5, 0.75], np.float32).reshape(shape)

    assert ops.dropout(np.ones((2, 2)), 0.5, Drawn())[0].tolist() == [[0, 0], [2, 2]]
    assert ops.dropout(np.ones((2, 2)), 0.0, Drawn())[0].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_evaluation_drops_nothing_and_draws_nothing(p):
    generator = TorchGenerator(0)
    x = np.arange(1.0, 13).reshape(3, 4)
    assert (Dropout(p, generator).forward(x)[0] == x).all()
    assert (generator.state() == TorchGenerator(0).state()).all()


@pytest.mark.parametrize(
    "kind", [kind for kind, function in BUILDERS.items() if not function.windowed]
)
def test_long_generation_with_a_cache_equals_the_whole_at_once(kind):
    model = build(
        kind,
        config_for(kind, 5, 40, n_layer=2, n_embd=4, n_embd2=3, n_head=2, dtype="float64"),
        TorchGenerator(0),
    )
    rng = np.random.default_rng(0)
    model.data[...] = rng.standard_normal(model.data.size)
    ids = rng.integers(0, 5, (2, 40))
    state = model.start(2)
    steps = np.stack([model.step(ids[:, t].copy(), state) for t in range(40)], axis=1)
    np.testing.assert_allclose(steps, model.logits(ids), rtol=1e-9, atol=1e-10, strict=True)


FIRST_VALUES = {
    "bigram": (729, 0, 0),
    "bow": (803, 16.67570, 305.7732),
    "mlp": (1731, 16.56549, 396.8812),
    "mlp_running": (1731, 16.45255, 361.8950),
    "mlp_deep": (2046, 17.42334, 452.2139),
    "mlp_makemore": (1723, 15.53647, 305.7670),
    "rnn": (1091, 15.03883, 274.6258),
    "gru": (1891, 15.38805, 354.3562),
    "lstm": (2307, 15.55705, 393.3665),
    "wavenet": (2051, 17.51416, 425.8291),
    "transformer": (3128, 20.03626, 682.1203),
    "microgpt": (2800, 4.20821, 177.9757),
}


@pytest.mark.parametrize("kind", FIRST_VALUES)
def test_first_values_stay_what_they_are(kind):
    """The number of parameters, their length and their absolute sum: a changed scale of any of them
    shows."""
    config = config_for(kind, 27, 8, n_layer=3, n_embd=8, n_embd2=16, n_head=2)
    data = build(kind, config, TorchGenerator(42)).data.astype(np.float64)
    assert (data.size, np.linalg.norm(data), np.abs(data).sum()) == pytest.approx(
        FIRST_VALUES[kind], rel=1e-6
    )


def test_every_pair_that_is_not_masked_is_counted_once():
    model = build("bigram", Config(3, 2), TorchGenerator(0))
    count_bigrams(model, np.array([[0, 1], [0, 2], [1, 1]]), np.array([[1, 2], [1, -1], [-1, 0]]))
    counts = np.array([[1, 3, 1], [2, 1, 2], [1, 1, 1]])
    np.testing.assert_allclose(
        np.exp(model.parameters()["logits.weight"]),
        counts / counts.sum(1, keepdims=True),
        rtol=1e-6,
    )
