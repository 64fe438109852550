"""The last position's logits, arranged for a context that slides, beside those of the model."""

import numpy as np
import pytest

from npnet.models import STYLES, Config, build
from npnet.random import TorchGenerator
from npnet.sliding import LARGEST_TABLE, LastLogits


def made(style="makemore", block_size=6, scale=0.5, **sizes):
    sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "dtype": "float64"} | sizes
    model = build("transformer", Config(7, block_size, style=style, **sizes), TorchGenerator(0))
    model.data[...] = np.random.default_rng(1).standard_normal(model.data.size) * scale
    return model


def differences(model):
    """For contexts of every length, relative to the largest logit; the model itself must not be
    asked."""
    read, logits, found = LastLogits(model), model.logits, []
    for T in range(model.config.block_size, 0, -1):
        ids = np.random.default_rng(T).integers(0, 7, T)
        expected = logits(ids[None])[0, -1]
        model.logits = None
        found.append(np.abs(read(ids) - expected).max() / np.abs(expected).max())
        model.logits = logits
        assert read(ids).dtype == expected.dtype and read(ids).shape == expected.shape
    return found


@pytest.mark.parametrize("table", [0, LARGEST_TABLE])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_every_style_gives_the_models_logits(style, tied, table, monkeypatch):
    monkeypatch.setattr("npnet.sliding.LARGEST_TABLE", table)
    assert (LastLogits(made(style)).table is None) == (table == 0)
    assert max(differences(made(style, tie_weights=tied))) < 1e-12
    assert max(differences(made(style, tie_weights=tied, dtype="float32"))) < 1e-4


@pytest.mark.parametrize(
    "sizes",
    [{"block_size": 1}, {"n_layer": 1}, {"n_layer": 3}, {"n_head": 1}, {"n_head": 8},
     {"dropout": 0.5}, {"n_embd": 2}],
)  # fmt: skip
def test_every_size_gives_the_models_logits(sizes):
    assert max(differences(made(**sizes))) < 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [5, 30, 1e3, 1e5])
def test_what_exp_or_a_square_cannot_hold_is_left_to_the_model(scale, dtype):
    """Scores of hundreds and more, and parameters that make large squares."""
    model = made(scale=scale, dtype=dtype)
    read = LastLogits(model)
    for seed in range(5):
        ids = np.random.default_rng(seed).integers(0, 7, 6)
        np.testing.assert_array_equal(read(ids), model.logits(ids[None])[0, -1])


def test_a_parameter_that_is_no_number_shows():
    model = made()
    model.data[3] = np.nan
    with np.errstate(all="ignore"):
        assert np.isnan(LastLogits(model)(np.zeros(6, np.int64))).all()
