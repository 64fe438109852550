"""Layers: caches, gradients that overwrite, running statistics as torch has them, one position at a
time, names."""

import numpy as np
import pytest
import torch

from npnet import layers, ops
from npnet.layers import (
    GELU,
    GRU,
    LSTM,
    RNN,
    AlongTime,
    BatchNorm,
    CausalAttention,
    CausalMean,
    Dropout,
    Embedding,
    EmbeddingLinear,
    Flatten,
    FlattenConsecutive,
    Layer,
    LayerNorm,
    Linear,
    PositionalEmbedding,
    ReLU,
    Residual,
    RMSNorm,
    Sequential,
    Table,
    Tanh,
    TiedLinear,
    Window,
    keep,
)
from npnet.packing import Packing
from npnet.random import TorchGenerator

C, H = 4, 3


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# Name -> a fresh layer from (2, 4, C) to some shape.
FLOATING = {
    "Sequential": lambda: Sequential(Linear(normal(C, H)), Tanh()),
    "Residual": lambda: Residual(LayerNorm(normal(C), normal(C)), Linear(normal(C, C), normal(C))),
    "Residual that ends in its cache": lambda: Residual(Linear(normal(C, C)), Tanh()),
    "Residual of nothing": lambda: Residual(Dropout(0.0, TorchGenerator(0))),
    "Linear": lambda: Linear(normal(C, H), normal(H)),
    "Linear without bias": lambda: Linear(normal(C, H)),
    "TiedLinear": lambda: TiedLinear(layers.Parameter(normal(H, C))),
    "BatchNorm": lambda: BatchNorm(normal(C), normal(C)),
    "LayerNorm": lambda: LayerNorm(normal(C), normal(C)),
    "RMSNorm": RMSNorm,
    "Tanh": Tanh,
    "ReLU": ReLU,
    "GELU": GELU,
    "Dropout": lambda: Dropout(0.5, TorchGenerator(0)),
    "Flatten": Flatten,
    "FlattenConsecutive": lambda: FlattenConsecutive(2),
    "CausalMean": CausalMean,
    "CausalAttention": lambda: Sequential(Linear(normal(C, 3 * C)), CausalAttention(2)),
}
# The same from ids (8,) or (2,), with the table of the layer below.
READING = {
    "EmbeddingLinear": lambda t: EmbeddingLinear(t.weight, normal(3 * C, H), normal(H)),
    "RNN": lambda t: RNN(t.weight, normal(H), normal(C + H, H), normal(H)),
    "GRU": lambda t: GRU(t.weight, normal(H), normal(C + H, 3 * H), normal(3 * H)),
    "LSTM": lambda t: LSTM(
        t.weight, normal(H), normal(H, seed=1), normal(C + H, 4 * H), normal(4 * H)
    ),
}
PACKING = Packing(np.array([4, 3]))
CAUSAL = [
    name
    for name in FLOATING
    if name not in ("BatchNorm", "Dropout", "Flatten", "FlattenConsecutive")
]


def test_every_layer_is_tested():
    found = {
        name
        for name, value in vars(layers).items()
        if isinstance(value, type) and issubclass(value, Layer)
    }
    assert (
        found
        - {
            "Layer",
            "AlongTime",
            "Recurrent",
            "Embedding",
            "Table",
            "PositionalEmbedding",
            "Window",
        }
        <= FLOATING.keys() | READING.keys()
    )


@pytest.mark.parametrize(
    ("name", "training"),
    [(name, training) for name in FLOATING for training in (True, False)],
)
def test_gradients_are_those_of_small_differences_and_overwrite(name, training):
    """The operations are held against torch elsewhere; for their composition a difference quotient
    is enough."""
    layer, more = FLOATING[name](), ()
    shape = (2, 4, C)
    if isinstance(layer, AlongTime):
        shape, more = (7, C), (PACKING,)
    x, direction = normal(*shape, seed=5), normal(*shape, seed=6)
    y, cache = layer.forward(x, training, *more)
    dy = normal(*y.shape, seed=7)
    kept, kept_x, kept_y = dy.copy(), x.copy(), y.copy()
    for parameter in layer.parameters().values():
        parameter.grad[...] = 1e3
    dx = layer.backward(dy, cache)

    def loss(step, parameter=None):
        target = x if parameter is None else parameter.data
        before, change = (
            target.copy(),
            direction if parameter is None else normal(*target.shape, seed=8),
        )
        target += step * change
        if isinstance(layer, Dropout):
            layer.generator.manual_seed(0)
        result = np.sum(layer.forward(x, training, *more)[0] * kept)
        target[...] = before
        return result

    h = 1e-6
    for parameter in (None, *layer.parameters().values()):
        gradient = dx if parameter is None else parameter.grad
        change = direction if parameter is None else normal(*gradient.shape, seed=8)
        slope = (loss(h, parameter) - loss(-h, parameter)) / (2 * h)
        assert slope == pytest.approx(np.sum(gradient * change), rel=1e-6, abs=1e-6)
    np.testing.assert_array_equal(x, kept_x)
    np.testing.assert_array_equal(y, kept_y)


@pytest.mark.parametrize("name", READING)
def test_gradients_of_what_reads_a_table_are_those_of_small_differences_and_overwrite(name):
    table = Table(normal(3, C))
    network = Sequential(table=table, layer=READING[name](table))
    ids = np.array([2, 0, 0, 1, 2, 2, 0])
    if name == "EmbeddingLinear":
        ids = np.stack([ids, ids[::-1], 2 - ids], -1)
    y, caches = network.forward(ids, True, PACKING)
    dy = normal(*y.shape, seed=7)
    for parameter in network.parameters().values():
        parameter.grad[...] = 1e3
    network.backward(dy, caches)

    def loss(parameter, step):
        before = parameter.data.copy()
        parameter.data += step * normal(*before.shape, seed=8)
        result = np.sum(network.forward(ids, True, PACKING)[0] * dy)
        parameter.data[...] = before
        return result

    h = 1e-6
    assert next(iter(network.parameters())) == "table.weight"
    for parameter in network.parameters().values():
        slope = (loss(parameter, h) - loss(parameter, -h)) / (2 * h)
        change = normal(*parameter.grad.shape, seed=8)
        assert slope == pytest.approx(np.sum(parameter.grad * change), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_one_position_at_a_time_gives_what_the_whole_gives(name):
    layer, packing, x = FLOATING[name](), Packing(np.array([4, 4])), normal(2, 4, C, seed=5)
    state = layer.start(2, 4)
    steps = [layer.step(x[:, t].copy(), state) for t in range(4)]
    more = (False, packing) if isinstance(layer, AlongTime) else ()
    whole = layer.forward(packing.pack(x), *more)[0]
    np.testing.assert_allclose(np.concatenate(steps), whole, rtol=1e-12, atol=1e-13)


def test_the_layers_that_read_ids():
    ids = np.array([[1, 0, 2, 2], [3, 3, 1, 0]])
    packing, table = Packing(np.array([4, 4])), Table(normal(4, C))
    for layer in (
        Embedding(normal(4, C)),
        *(READING[name](table) for name in ("RNN", "GRU", "LSTM")),
        PositionalEmbedding(normal(4, C), normal(5, C, seed=1)),
        Window(3, blank=9),
    ):
        more = (False, packing) if isinstance(layer, AlongTime) else ()
        y, cache = layer.forward(packing.pack(ids), *more)
        state = layer.start(2, 4)
        steps = [layer.step(ids[:, t], state).copy() for t in range(4)]
        np.testing.assert_allclose(np.concatenate(steps), y, rtol=1e-12)
        if not isinstance(layer, Window):
            layer.backward(normal(*y.shape), cache)
    np.testing.assert_array_equal(
        packing.spread(y)[0], [[1, 9, 9], [0, 1, 9], [2, 0, 1], [2, 2, 0]]
    )


def test_a_state_is_kept_for_some_rows_of_the_batch():
    """And goes on apart from the whole."""
    table = Table(normal(4, C))
    for layer in (
        Residual(Linear(normal(C, 3 * C)), CausalAttention(2)),
        Residual(CausalMean()),
        *(READING[name](table) for name in ("RNN", "GRU", "LSTM")),
        Window(3, blank=9),
    ):
        reads = isinstance(layer, (RNN, GRU, LSTM, Window))
        x = np.array([[1, 0, 2], [3, 3, 1], [0, 1, 2]]) if reads else normal(3, 3, C, seed=5)
        whole = layer.start(3, 3)
        for t in range(3):
            if t == 1:
                some = keep(whole, np.array([2, 0, 2]))  # a row may be taken twice
            y = layer.step(x[:, t], whole)
            if t:
                rows = [2, 0, 2]
                np.testing.assert_allclose(layer.step(x[rows, t], some), y[rows], rtol=1e-12)


def test_positions_beyond_a_sequence_have_a_zero_gradient():
    layer = PositionalEmbedding(normal(4, C), normal(5, C))
    layer.position.grad[...] = np.nan
    packing, dy = Packing(np.array([3, 1])), normal(4, C)
    layer.backward(dy, layer.forward(np.zeros(4, np.int64), False, packing)[1])
    expected = np.vstack([dy[0] + dy[1], dy[2], dy[3], np.zeros((2, C))])
    np.testing.assert_allclose(layer.position.grad, expected)


@pytest.mark.parametrize("momentum", [0.1, 0.001, 1.0])
def test_running_statistics_are_those_of_torch(momentum):
    ours = BatchNorm(normal(C), normal(C), momentum=momentum, unbiased=False)
    theirs = torch.nn.BatchNorm1d(C, momentum=momentum, dtype=torch.float64)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(ours.weight.data))
        theirs.bias.copy_(torch.from_numpy(ours.bias.data))
    for seed in range(5):
        x = normal(6, C, seed=seed) * 3 + 1
        y = theirs(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(ours.forward(x, training=True)[0], y, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours.running_mean, theirs.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(ours.running_var, theirs.running_var.numpy(), rtol=1e-12)
    expected = theirs.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(ours.forward(x)[0], expected, rtol=1e-10, atol=1e-12)


def test_the_third_lecture_averages_the_deviation():
    layer, x = BatchNorm(normal(C), normal(C), momentum=0.25, running="std"), normal(6, C)
    layer.forward(x, training=True)
    np.testing.assert_allclose(np.sqrt(layer.running_var), 0.75 + 0.25 * x.std(0, ddof=1))
    np.testing.assert_allclose(layer.running_mean, 0.25 * x.mean(0))


def test_training_leaves_statistics_that_are_to_be_calibrated():
    layer = BatchNorm(normal(C), normal(C), running="calibrated")
    layer.forward(normal(6, C), training=True)
    assert layer.running_mean.tolist() == [0] * C and layer.running_var.tolist() == [1] * C
    with pytest.raises(ValueError, match="running must be"):
        BatchNorm(normal(C), normal(C), running="none")


def test_dropout_does_nothing_but_in_training():
    x = normal(7, C)
    layer = Dropout(0.5, TorchGenerator(3))
    np.testing.assert_array_equal(layer.forward(x, packing=PACKING)[0], x)
    drawn = ops.dropout(PACKING.spread(x), 0.5, TorchGenerator(3))[0]
    np.testing.assert_array_equal(layer.forward(x, True, PACKING)[0], PACKING.pack(drawn))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_evaluation_drops_nothing_and_draws_nothing(p):
    generator = TorchGenerator(0)
    x = normal(7, 3 * C)
    assert (Dropout(p, generator).forward(x, packing=PACKING)[0] == x).all()
    y = CausalAttention(2).forward(x, packing=PACKING)[0]
    attention = CausalAttention(2, dropout=p, generator=generator)
    assert (attention.forward(x, packing=PACKING)[0] == y).all()
    assert (generator.state() == TorchGenerator(0).state()).all()


def test_attention_has_no_room_beyond_its_length():
    layer, x = CausalAttention(2), normal(2, 4, 3 * C)
    state = layer.start(2, 3)
    for t in range(3):
        layer.step(x[:, t], state)
    with pytest.raises(ValueError, match="room for 3 positions"):
        layer.step(x[:, 3], state)


def test_names_are_the_path_of_attributes():
    table = Embedding(normal(4, C))
    network = Sequential(
        table=table,
        blocks=Sequential(Linear(normal(C, C)), Residual(norm=LayerNorm(normal(C), normal(C)))),
    )
    network.layers["head"] = TiedLinear(table.weight)
    expected = ["table.weight", "blocks.0.weight", "blocks.1.norm.weight", "blocks.1.norm.bias"]
    assert list(network.parameters()) == expected


def test_a_layer_used_twice_keeps_its_caches_apart():
    layer = Linear(normal(C, C))
    first, second = normal(2, C, seed=1), normal(2, C, seed=2)
    (_, cache), _ = layer.forward(first), layer.forward(second)
    layer.backward(np.ones((2, C)), cache)
    np.testing.assert_allclose(layer.weight.grad, first.T @ np.ones((2, C)))


def test_batch_norm_has_a_backward_in_evaluation_too():
    rng = np.random.default_rng(3)
    layer = BatchNorm(rng.standard_normal(4), rng.standard_normal(4))
    layer.running_mean[...], layer.running_var[...] = rng.standard_normal(4), rng.random(4) + 0.5
    x, dy = rng.standard_normal((5, 4)), rng.standard_normal((5, 4))
    _, cache = layer.forward(x)
    dx = layer.backward(dy, cache)
    leaves = [torch.tensor(a, requires_grad=True) for a in (x, layer.weight.data, layer.bias.data)]
    statistics = torch.tensor(layer.running_mean), torch.tensor(layer.running_var)
    y = torch.nn.functional.batch_norm(leaves[0], *statistics, *leaves[1:])
    for got, want in zip(
        (dx, layer.weight.grad, layer.bias.grad),
        torch.autograd.grad(y, leaves, torch.tensor(dy)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-12, strict=True)


def test_backward_may_be_called_twice_on_one_forward():
    rng = np.random.default_rng(4)
    network = Sequential(
        Residual(Linear(rng.standard_normal((3, 3))), Tanh()), Linear(rng.standard_normal((3, 2)))
    )
    _, cache = network.forward(rng.standard_normal((5, 3)))
    dy = rng.standard_normal((5, 2))
    assert network.backward(dy, cache).tobytes() == network.backward(dy, cache).tobytes()
