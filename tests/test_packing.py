"""Packing: torch's layout, and the way back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npnet.packing import Packing, full


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_rows_and_sizes_are_those_of_torch(lengths):
    x = np.random.default_rng(0).standard_normal((len(lengths), max(lengths), 3))
    packing = Packing(np.array(lengths))
    order = np.argsort(-np.array(lengths), kind="stable")  # torch's own sort is not stable
    expected = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(x[order]), torch.tensor(lengths)[order], batch_first=True
    )
    assert packing.sizes == expected.batch_sizes.tolist()
    assert packing.steps.tolist() == [t for t, n in enumerate(packing.sizes) for _ in range(n)]
    np.testing.assert_array_equal(packing.pack(x), expected.data.numpy())
    np.testing.assert_array_equal(
        packing.spread(packing.pack(x)),
        np.where(np.arange(max(lengths))[:, None] < np.array(lengths)[:, None, None], x, 0),
    )


@pytest.mark.parametrize("lengths", [[2, 0, 3], [0, 0], []])
def test_a_sequence_of_no_positions_is_left_out(lengths):
    packing = Packing(np.array(lengths, np.int64))
    x = np.arange(5.0 * len(lengths)).reshape(len(lengths), 5)
    assert len(packing.pack(x)) == sum(packing.sizes) == sum(lengths)
    assert packing.spread(packing.pack(x)).shape == (len(lengths), max(lengths, default=0))


@given(st.lists(st.integers(1, 6), min_size=2, max_size=8))
def test_what_is_alike_at_the_start_is_one_row(lengths):
    B, T, rng = len(lengths), max(lengths), np.random.default_rng(0)
    x = rng.standard_normal((B, T + 1, 3))
    x[:, 0] = x[0, 0]
    packing, apart = Packing(np.array(lengths), alike=True), Packing(np.array(lengths))
    assert packing.sizes == [1, *apart.sizes[1:]]
    rows = packing.pack(x)
    np.testing.assert_array_equal(rows, apart.pack(x)[B - 1 :])
    np.testing.assert_array_equal(packing.spread(rows), apart.spread(apart.pack(x)))
    y = rng.integers(0, 9, (B, T))
    targets, scored = packing.targets(y)
    np.testing.assert_array_equal(targets, apart.pack(y))
    np.testing.assert_array_equal(rows[scored], apart.pack(x))
    assert apart.targets(y)[1] is None


@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("lengths", [[2, 4, 1], [3, 3], [1, 1], [5]])
def test_each_way_back_is_the_transpose(lengths, alike):
    """sum(dy f(x)) = sum(f_backward(dy) x), f being linear."""
    packing, rng = Packing(np.array(lengths), alike), np.random.default_rng(0)
    (B, T), N = packing.shape, sum(packing.sizes)
    for f, back, shape in (
        (packing.pack, packing.pack_backward, (B, T, 3)),
        (packing.spread, packing.spread_backward, (N, 3)),
    ):
        x = rng.standard_normal(shape)
        y = f(x)
        dy = rng.standard_normal(y.shape)
        dx = back(dy.copy())
        assert dx.shape == x.shape
        np.testing.assert_allclose((dy * y).sum(), (dx * x).sum(), rtol=1e-12)


def test_a_batch_that_nobody_reads_step_by_step_is_left_as_it_is():
    x = np.random.default_rng(0).standard_normal((3, 4, 2))
    batch, steps = full(3, 4, stepwise=False), full(3, 4)
    rows = batch.pack(x)
    np.testing.assert_array_equal(rows, x.reshape(12, 2))
    assert np.shares_memory(rows, x)
    np.testing.assert_array_equal(batch.pack(np.append(x, x, axis=1)), rows)
    assert batch.sizes == steps.sizes
    order = steps.pack(np.arange(12).reshape(3, 4))
    np.testing.assert_array_equal(batch.steps[order], steps.steps)
    for there, back in ((batch.spread, batch.spread_backward), (batch.pack_backward, batch.pack)):
        np.testing.assert_array_equal(there(rows), x)
        np.testing.assert_array_equal(back(x), rows)
    np.testing.assert_array_equal(batch.targets(x[..., 0])[0], rows[:, 0])


@pytest.mark.parametrize("packing", [full(3, 4, stepwise=False), Packing(np.array([2, 4, 1]))])
def test_every_row_of_a_step_has_the_same_row_of_a_table(packing):
    rng = np.random.default_rng(0)
    table, rows = rng.standard_normal((5, 2)), rng.standard_normal((sum(packing.sizes), 2))
    y = rows.copy()
    cache = packing.add_by_step(table, y)
    np.testing.assert_array_equal(y, rows + table[packing.steps])
    dtable, expected = np.full_like(table, np.nan), np.zeros_like(table)
    packing.add_by_step_backward(rows, cache, dtable)
    np.add.at(expected, packing.steps, rows)
    np.testing.assert_allclose(dtable, expected, rtol=1e-12)
