"""The operations where the table of cases does not reach: empty batches, a state for each sequence, equality with p."""

import numpy as np
import pytest

from npnet import ops


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
    x, w, b = rng.standard_normal((2, T, C)), rng.standard_normal((C + H, gates * H)), rng.standard_normal(gates * H)
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    y, cache = forward(x, *states, w, b)
    dy = rng.standard_normal(y.shape)
    dx, *dstates, dw, db = backward(dy, cache)

    alone = []
    for k in range(2):
        y_k, cache_k = forward(x[k], *(s[k] for s in states), w, b)
        np.testing.assert_allclose(y[k], y_k, rtol=1e-12, atol=1e-14)
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
