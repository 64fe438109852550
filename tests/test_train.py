"""The loop, evaluation, calibration and counting; and that training finds what there is to find."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from configs import config_for
from hypothesis import given
from hypothesis import strategies as st

from npnet.data import NAMES, Vocabulary, build_dataset, build_sequences, read_words
from npnet.layers import BatchNorm, Linear, Residual, Sequential, Tanh
from npnet.models import Config, build
from npnet.optim import SGD, AdamW, constant
from npnet.random import TorchGenerator
from npnet.train import calibrate, count_bigrams, evaluate, fit, loop, minibatches, rows_at_once

WORDS = read_words(NAMES)[:20]
VOCABULARY = Vocabulary(WORDS)
X, Y = build_dataset(WORDS, VOCABULARY)


def mlp(seed=0, dtype="float64", **sizes):
    sizes = {"vocab_size": len(VOCABULARY), "block_size": 3, "n_embd": 6, "n_embd2": 30} | sizes
    return build("mlp", Config(**sizes, dtype=dtype), TorchGenerator(seed))


def floor(contexts, targets):
    """The least mean loss in nats, given the contexts: the conditional entropy of the targets."""
    seen = defaultdict(Counter)
    for context, target in zip(contexts, targets, strict=True):
        seen[context][target] += 1
    n = sum(map(Counter.total, seen.values()))
    return -sum(k * np.log(k / c.total()) for c in seen.values() for k in c.values()) / n


def test_minibatches_are_those_of_torch():
    batches, generator = minibatches(X, Y, 5, TorchGenerator(7)), torch.Generator().manual_seed(7)
    for _ in range(20):
        ix = torch.randint(0, len(X), (5,), generator=generator).numpy()
        x, y = next(batches)
        np.testing.assert_array_equal(x, X[ix])
        np.testing.assert_array_equal(y, Y[ix])


def test_a_minibatch_is_drawn_when_it_is_asked_for():
    generator = TorchGenerator(7)
    batches = minibatches(X, Y, 5, generator)
    before = generator.state()
    np.testing.assert_array_equal(generator.state(), before)
    next(batches)
    assert (generator.state() != before).any()
    with pytest.raises(ValueError, match="batch_size"):
        next(minibatches(X, Y, 0, generator))


def test_the_loop_yields_the_loss_before_each_update():
    model, other = mlp(), mlp()
    batches, optimizer = minibatches(X, Y, 8, TorchGenerator(1)), SGD(model.data, model.grad)
    expected = minibatches(X, Y, 8, TorchGenerator(1))
    rates = [0.1, 0.2, 0.05]
    for k, (step, loss) in enumerate(loop(model, batches, optimizer, rates.__getitem__, 3)):
        assert step == k
        assert loss == other.loss_and_grad(*next(expected))
        other.data -= rates[k] * other.grad
        assert model.data.tobytes() == other.data.tobytes()
    assert list(loop(model, batches, optimizer, constant(0.1), 3, start=3)) == []


def test_fit_is_the_same_run_for_the_same_seed():
    first, second = mlp(), mlp()
    losses = fit(first, X, Y, TorchGenerator(3), 50)
    np.testing.assert_array_equal(losses, fit(second, X, Y, TorchGenerator(3), 50))
    assert first.data.tobytes() == second.data.tobytes()
    assert losses.shape == (50,)


# Evaluation and calibration


@given(chunk=st.integers(1, 200))
def test_evaluation_in_chunks_equals_evaluation_at_once(chunk):
    model = mlp()
    calibrate(model, X)
    before = model.data.copy(), model.grad.copy(), *(b.copy() for b in model.buffers().values())
    assert evaluate(model, X, Y, chunk) == pytest.approx(model.loss(X, Y), rel=1e-12)
    for kept, now in zip(before, (model.data, model.grad, *model.buffers().values()), strict=True):
        assert kept.tobytes() == now.tobytes()


@given(chunk=st.integers(1, 25))
def test_evaluation_counts_every_target_once(chunk):
    x, y = map(np.array, build_sequences(WORDS, VOCABULARY, 16))
    y[3:6] = -1  # rows, and for a small chunk a chunk, without a target
    model = build(
        "rnn", Config(len(VOCABULARY), 16, n_embd=5, n_embd2=4, dtype="float64"), TorchGenerator(0)
    )
    assert evaluate(model, x, y, chunk) == pytest.approx(model.loss(x, y), rel=1e-12)


@pytest.mark.parametrize(
    ("T", "sizes", "rows"),
    [
        (16, {}, 4096),
        (512, {}, 16),  # 2^22 scores
        (32, {"vocab_size": 1 << 14}, 128),  # 2^26 logits
        (16, {"n_embd2": 1 << 20}, 4),
        (16, {"n_embd": 1 << 16}, 16),  # of a Transformer's MLP, four times as wide
        (1000, {"vocab_size": 1 << 20}, 1),
    ],
)
def test_fewer_rows_of_a_long_or_wide_model_are_evaluated_together(T, sizes, rows):
    config = Config(**({"vocab_size": 27, "block_size": T} | sizes))
    assert rows_at_once(np.zeros((2, T)), config) == rows


def test_evaluation_of_nothing_is_an_error():
    for x, y in ((X[:0], Y[:0]), (X, np.full_like(Y, -1))):
        with pytest.raises(ValueError, match="no target"):
            evaluate(mlp(), x, y)


@given(chunk=st.integers(1, 200), seed=st.integers(0, 1000))
def test_calibration_finds_mean_and_variance_of_the_whole_set(chunk, seed):
    model = mlp(seed)
    before = model.data.copy()
    calibrate(model, X, chunk)
    assert model.data.tobytes() == before.tobytes()
    p = model.parameters()
    h = p["embedding.weight"][X].reshape(len(X), -1) @ p["hidden.weight"]
    np.testing.assert_allclose(
        model.buffers()["norm.running_mean"], h.mean(0), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(model.buffers()["norm.running_var"], h.var(0, ddof=1), rtol=1e-10)


def test_calibration_of_float32_far_from_zero_is_accurate():
    """The squares are summed about the mean, in float64."""
    model = mlp(dtype="float32")
    model.parameters()["embedding.weight"][...] += 1000
    calibrate(model, X, 7)
    p = model.parameters()
    h = (p["embedding.weight"][X].reshape(len(X), -1) @ p["hidden.weight"]).astype(np.float64)
    np.testing.assert_allclose(model.buffers()["norm.running_var"], h.var(0, ddof=1), rtol=5e-3)


def test_calibration_needs_two_rows_and_leaves_running_statistics_alone():
    for x in (X[:0], X[:1]):
        with pytest.raises(ValueError, match="at least 2"):
            calibrate(mlp(), x)
    model = build("mlp_running", Config(len(VOCABULARY), 3, n_embd=4, n_embd2=5), TorchGenerator(0))
    calibrate(model, X)
    assert not model.buffers()["norm.running_mean"].any()


def test_every_pair_that_is_not_masked_is_counted_once():
    model = build("bigram", Config(3, 2), TorchGenerator(0))
    count_bigrams(model, np.array([[0, 1], [0, 2], [1, 1]]), np.array([[1, 2], [1, -1], [-1, 0]]))
    counts = np.array([[1, 3, 1], [2, 1, 2], [1, 1, 1]])
    np.testing.assert_allclose(
        np.exp(model.parameters()["logits.weight"]),
        counts / counts.sum(1, keepdims=True),
        rtol=1e-6,
    )


def test_calibration_reaches_every_depth():
    """Chunk by chunk in a residual branch, and after a layer that is calibrated itself."""

    rng = np.random.default_rng(0)

    class Nested:
        network = Sequential(
            Residual(
                Linear(rng.standard_normal((4, 4))),
                BatchNorm(np.full(4, 2.0), np.ones(4), running="calibrated"),
            ),
            Sequential(Tanh(), BatchNorm(np.ones(4), np.zeros(4), running="calibrated")),
        )

    x = rng.standard_normal((50, 4))
    calibrate(Nested, x, chunk=7)
    (linear, inner), (_, outer) = (part.layers.values() for part in Nested.network.layers.values())
    h = linear.forward(x)[0]
    y = x + 2 * (h - h.mean(0)) / np.sqrt(h.var(0, ddof=1) + inner.eps) + 1
    for norm, seen in ((inner, h), (outer, np.tanh(y))):
        np.testing.assert_allclose(norm.running_mean, seen.mean(0), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(norm.running_var, seen.var(0, ddof=1), rtol=1e-10)


# What training finds


def test_twenty_names_are_learnt_by_heart():
    model = mlp(dtype="float32", n_embd=10, n_embd2=100)
    fit(model, X, Y, TorchGenerator(0), 4000)
    best = floor(map(bytes, X), Y)
    assert best < evaluate(model, X, Y) < best + 0.05


@pytest.mark.parametrize("kind", ["mlp_makemore", "rnn", "gru", "lstm", "transformer", "microgpt"])
def test_twenty_names_are_learnt_by_heart_as_sequences(kind):
    x, y = build_sequences(WORDS, VOCABULARY, max(map(len, WORDS)) + 1)
    config = config_for(kind, len(VOCABULARY), x.shape[1], n_layer=1, n_embd=32, n_embd2=64)
    model = build(kind, config, TorchGenerator(0))
    optimizer = AdamW(model.data, model.grad)
    for _ in range(400):
        model.loss_and_grad(x, y)
        optimizer.step(0.01)
    rows, places = np.nonzero(y != -1)
    best = floor([bytes(x[i, : t + 1]) for i, t in zip(rows, places, strict=True)], y[rows, places])
    assert best - 1e-6 < evaluate(model, x, y) < best + 0.02


def test_counting_is_what_the_gradient_approaches():
    """On the data with every pair once more, which is what smoothing by one means."""
    x, y = build_sequences(WORDS, VOCABULARY, 16)
    V = len(VOCABULARY)
    counted, trained = (
        build("bigram", Config(V, 16, dtype="float64"), TorchGenerator(0)) for _ in range(2)
    )
    count_bigrams(counted, x, y)
    kept = y != -1
    pairs = np.indices((V, V)).reshape(2, -1)
    x, y = (np.concatenate([a[kept], b])[:, None] for a, b in zip((x, y), pairs, strict=True))
    best = counted.loss_and_grad(x, y)
    np.testing.assert_allclose(counted.grad, 0, atol=1e-15)
    np.testing.assert_allclose(np.exp(counted.parameters()["logits.weight"]).sum(1), 1)
    losses = []
    for _ in range(300):
        losses.append(trained.loss_and_grad(x, y))
        trained.data -= 50 * trained.grad
    assert losses[0] == pytest.approx(np.log(V))
    assert np.all(np.diff(losses) < 1e-15)
    assert losses[10] > best
    assert losses[-1] == pytest.approx(best, abs=1e-9)
