"""Packing: torch's layout, and the way back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npnet.packing import Packing


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8))
def test_rows_and_sizes_are_those_of_torch(lengths):
    x = np.random.default_rng(0).standard_normal((len(lengths), max(lengths), 3))
    packing = Packing(np.array(lengths))
    order = np.argsort(-np.array(lengths), kind="stable")  # torch's own sort is not stable
    expected = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(x[order]), torch.tensor(lengths)[order], batch_first=True
    )
    assert packing.sizes == expected.batch_sizes.tolist()
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
