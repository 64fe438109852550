"""Every operation satisfies the whole property, and the property rejects what is wrong."""

import importlib
import inspect
import math
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given

import oracle.ops
from npnet import ops
from npnet.packing import Packing
from npnet.random import TorchGenerator
from oracle.cases import CASES, EDGES
from oracle.proof.autograd import rounding_scale
from oracle.proof.compare import Mismatch, compare
from oracle.prove import examine, prove


@pytest.mark.parametrize("name", CASES)
def test_property(name):
    case = CASES[name]

    @given(case.strategy())
    def holds(example):
        prove(case, example)

    holds()


@pytest.mark.parametrize(
    ("name", "title", "chosen"), EDGES, ids=[f"{name}: {title}" for name, title, _ in EDGES]
)
def test_edge(name, title, chosen):
    for seed in range(5):
        prove(name, CASES[name].plain(seed=seed, **chosen))


def test_every_backward_is_in_the_table():
    found = set()
    for module in pkgutil.walk_packages(ops.__path__, "npnet.ops."):
        functions = inspect.getmembers(importlib.import_module(module.name), inspect.isfunction)
        found |= {
            name.removesuffix("_backward") for name, _ in functions if name.endswith("_backward")
        }
    assert found == CASES.keys() - {"causal_attention_dropout", "cross_entropy_rows"}
    assert {name for name in ops.__all__ if not name.endswith("_backward")} == found
    assert {name for name, _, _ in EDGES} | {"dropout"} == CASES.keys()


def test_rows_that_no_index_names_get_exactly_zero():
    for V in (5, 600):
        _, cache = ops.embedding(np.array([1, 1, 3]), np.ones((V, 2)))
        dtable = ops.embedding_backward(np.full((3, 2), 1e300), cache)
        assert np.flatnonzero(dtable.any(axis=1)).tolist() == [1, 3]
        assert dtable[1].tolist() == [2e300, 2e300]


def test_no_ids_are_looked_up_and_have_no_gradient():
    table = np.ones((5, 3))
    y, cache = ops.embedding(np.zeros((0, 2), np.int64), table)
    assert y.shape == (0, 2, 3)
    assert not ops.embedding_backward(y, cache).any()


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_a_state_for_each_sequence_is_each_sequence_alone(name):
    """Initial states (B, H) have gradients (B, H), and those of the weight that the sequences share
    add up."""
    rng = np.random.default_rng(0)
    packing = Packing(np.array([4, 1, 3, 3]))
    B, N, H, gates = 4, 11, 5, {"rnn": 1, "gru": 3, "lstm": 4}[name]
    states = [rng.standard_normal((B, H)) for _ in range(2 if name == "lstm" else 1)]
    a, w, dy = (rng.standard_normal(s) for s in ((N, gates * H), (H, gates * H), (N, H)))
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    y, cache = forward(a, *states, w, packing.sizes)
    da, *dstates, dw = backward(dy, cache)

    dw_apart = np.zeros_like(w)
    a, y, dy, da = (packing.spread(rows) for rows in (a, y, dy, da))
    for word, (length, place) in enumerate([(4, 0), (1, 3), (3, 1), (3, 2)]):
        own = [s[place] for s in states]
        y_alone, cache = forward(a[word, :length], *own, w, [1] * length)
        np.testing.assert_allclose(y[word, :length], y_alone, rtol=1e-10, atol=1e-12)
        da_alone, *dstates_alone, dw_alone = backward(dy[word, :length], cache)
        dw_apart += dw_alone
        found = [da[word, :length], *(d[place] for d in dstates)]
        for got, value in zip(found, [da_alone, *dstates_alone], strict=True):
            np.testing.assert_allclose(got, value, rtol=1e-10, atol=1e-12, strict=True)
    np.testing.assert_allclose(dw, dw_apart, rtol=1e-10, atol=1e-12, strict=True)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_a_sequence_of_no_steps_leaves_the_initial_state_without_a_gradient(name):
    H, gates = 5, {"rnn": 1, "gru": 3, "lstm": 4}[name]
    states = [np.ones(H)] * (2 if name == "lstm" else 1)
    inputs = (np.ones((0, gates * H)), *states, np.ones((H, gates * H)))
    h, cache = getattr(ops, name)(*inputs, [])
    assert h.shape == (0, H)
    for gradient, x in zip(getattr(ops, f"{name}_backward")(h, cache), inputs, strict=True):
        assert gradient.shape == x.shape and not gradient.any()


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm"])
def test_a_state_without_channels_stays_without(name):
    states = [np.zeros(0)] * (2 if name == "lstm" else 1)
    h, cache = getattr(ops, name)(np.zeros((3, 0)), *states, np.zeros((0, 0)), [2, 1])
    assert h.shape == (3, 0)
    dh = getattr(ops, f"{name}_backward")(h, cache)
    assert dh[0].shape == (3, 0)


@pytest.mark.parametrize("n", [0, 3])
def test_rows_without_channels_have_gradients_without(n):
    x, none = np.zeros((n, 0)), np.zeros(0)
    _, cache = ops.batch_norm_inference(x, none, none, none, none)
    gradients = ops.batch_norm_inference_backward(x, cache)
    assert [d.shape for d in gradients] == [(n, 0), (0,), (0,), (0,), (0,)]

    ids, table, w = np.zeros((n, 2), np.int64), np.ones((1, 4)), np.zeros((8, 0))
    y, cache = ops.embedding_linear(ids, table, w, none)
    dtable, dw, db = ops.embedding_linear_backward(y, cache)
    assert (y.shape, dw.shape, db.shape) == ((n, 0), (8, 0), (0,))
    assert dtable.tolist() == [[0, 0, 0, 0]]


def test_gru_takes_over_a_candidate_that_is_tiny_beside_the_state():
    """p + z (c - p) would lose it in the rounding of p."""
    a = np.array([[100, 0, 1e-4]], np.float32)
    h, _ = ops.gru(a, np.full(1, -3e3, np.float32), np.zeros((1, 3), np.float32), [1])
    assert h == np.tanh(a[:, 2:])


@pytest.mark.parametrize("name", ["sigmoid", "gru", "lstm"])
def test_a_gate_that_is_almost_shut_is_as_small_as_the_dtype_has_it(name):
    """exp(-x) would overflow in float32 from -89 down, and the sigmoid be 0."""
    x = np.concatenate([np.linspace(-103, -85, 200), [-10, 0, 17, 80, 1000]]).astype(np.float32)
    shut, full = np.full_like(x, -1e4), np.full_like(x, 20)  # a gate of 0, of 1; a candidate of 1
    nothing = np.zeros(1, np.float32)
    if name == "sigmoid":
        y = ops.sigmoid(x)[0]
    elif name == "gru":
        a = np.stack([x, shut, full], 1)
        y = ops.gru(a, nothing, np.zeros((1, 3), np.float32), [len(x)])[0][:, 0]
    else:
        a = np.stack([x, shut, full, full], 1)
        y = ops.lstm(a, nothing, nothing, np.zeros((1, 4), np.float32), [len(x)])[1].cell[:, 0]
    exact = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert (np.abs(y - exact) <= 2**-22 * exact + 2.0**-149).all()


@pytest.mark.parametrize(
    "found",
    [
        {"seed": 1920, "lead": (3,), "T": 1, "H": 5, "values": "ties"},
        {"seed": 272064898, "lead": (4,), "T": 2, "H": 7, "values": "wide"},
    ],
)
def test_a_large_state_makes_a_gradient_out_of_a_gate_that_is_almost_shut(found):
    """In float32 the first, in float64 the second: both gates are denormal numbers."""
    prove("gru", {"lengths": "any", "scale": 100.0, "upstream": 1.0, "layout": "C", **found})


def test_the_reference_of_the_lstm_is_torchs():
    torch.manual_seed(0)
    B, H, sizes = 3, 4, [3, 2, 2]
    a, h0, c0, w = (
        torch.randn(*n, dtype=torch.float64) for n in ((7, 4 * H), (H,), (H,), (H, 4 * H))
    )
    states = [s.expand(1, B, H).contiguous() for s in (h0, c0)]
    weights = [torch.eye(4 * H, dtype=a.dtype), w.t().contiguous()]
    options = False, 1, 0.0, False, False
    expected = torch.lstm(a, torch.tensor(sizes), states, weights, *options)[0]
    torch.testing.assert_close(oracle.ops.lstm(a, h0, c0, w, sizes=sizes), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tanh", {}),
        ("relu", {}),
        ("sigmoid", {}),
        ("gelu", {}),
        ("gelu", {"approximate": "none"}),
    ],
)
def test_a_number_is_an_array_without_axes(name, options, dtype):
    forward, backward = getattr(ops, name), getattr(ops, f"{name}_backward")
    x, dy = np.array(0.7, dtype), np.array(-1.3, dtype)
    y, cache = forward(x, **options)
    dx = backward(dy, cache)
    row, cache = forward(x[None], **options)
    for alone, among in ((y, row), (dx, backward(dy[None], cache))):
        assert alone.shape == () and alone.dtype == dtype
        assert alone == among[0]


def on_intel():
    return "GenuineIntel" in Path("/proc/cpuinfo").read_text()


@pytest.mark.skipif(on_intel(), reason="torch draws its masks by MKL on Intel's processors")
@pytest.mark.parametrize("p", [0.0, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1,), (7,), (1000,), (3, 2, 5, 5)])
def test_dropout_is_that_of_torch_and_leaves_the_stream_where_it_does(p, shape):
    generator = TorchGenerator(3)
    torch.manual_seed(3)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    expected = torch.nn.functional.dropout(torch.from_numpy(x), p).numpy()
    if p:  # with 0 torch draws nothing, and neither does the layer
        np.testing.assert_array_equal(ops.dropout(x, p, generator)[0], expected, strict=True)
    assert generator.rand(3).tolist() == torch.rand(3).tolist()


def test_dropout_drops_what_is_just_1_minus_p():
    class Drawn:
        def bernoulli(self, p, shape):
            return (np.array([0.0, 0.25, 0.5, 0.75]) < p).reshape(shape)

    assert ops.dropout(np.ones((2, 2)), 0.5, Drawn())[0].tolist() == [[2, 2], [0, 0]]
    assert ops.dropout(np.ones((2, 2)), 0.0, Drawn())[0].tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize(("dtype", "unit"), [(np.float64, 2.0**-53), (np.float32, 2.0**-24)])
def test_the_exact_gelu_is_that_of_the_c_library(dtype, unit):
    """On the left x s has no digits to lose to x, so it is held against its own size there, as far
    as the share is no denormal number."""
    x = np.concatenate([np.linspace(-38, 38, 40001), np.linspace(-6, 6, 40001)]).astype(dtype)
    wide = x.astype(np.float64)
    exact = wide * [0.5 * math.erfc(v) for v in wide * -math.sqrt(0.5)]
    error = np.abs(ops.gelu(x, approximate="none")[0] - exact)
    assert (error <= 5 * unit * np.abs(x)).all()
    normal = x > (-37 if dtype == np.float64 else -12)
    assert (error <= 5 * unit * (2 + x * x / 2) * np.abs(exact))[normal].all()


def test_cross_entropy_is_never_below_zero():
    """Without a row maximum the logarithm of one exponential may be rounded below its logit."""
    logits = np.linspace(-15, 15, 200, dtype=np.float32)
    losses = np.array([ops.cross_entropy(z[None, None], np.array([0]))[0] for z in logits])
    assert losses.max() < 2e-6 and not np.signbit(losses).any()


@pytest.mark.parametrize("shift", [-13, 12])
def test_cross_entropy_does_not_overflow_in_float16(shift):
    loss, cache = ops.cross_entropy(np.full((2, 3), shift, np.float16), np.array([0, -1]))
    assert loss == pytest.approx(math.log(3), rel=1e-3)
    found = ops.cross_entropy_backward(1.0, cache)
    assert found == pytest.approx(np.array([[-2, 1, 1], [0, 0, 0]]) / 3, abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [None, np.array([0, 2, 1])])
def test_logits_whose_target_is_ignored_may_be_anything(rows, value, dtype):
    logits, targets = np.array([[1, 2], [0, 0], [2, 1]], dtype), np.array([1, 0, -1])
    sound = ops.cross_entropy(logits, targets, rows=rows)
    logits[2 if rows is None else 1] = value
    loss, cache = ops.cross_entropy(logits, targets, rows=rows)
    assert loss == pytest.approx(sound[0], rel=1e-3)
    expected = ops.cross_entropy_backward(1.0, sound[1])
    assert ops.cross_entropy_backward(1.0, cache) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_half_of_the_exact_gelu_passes_at_0(dtype):
    y, cache = ops.gelu(np.zeros(3, dtype), approximate="none")
    assert not y.any() and (ops.gelu_backward(np.ones(3, dtype), cache) == 0.5).all()


def test_the_exact_gelu_refuses_complex_numbers():
    with pytest.raises(ValueError, match="gelu: the exact form does not take complex numbers"):
        ops.gelu(np.zeros(3, complex), approximate="none")


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_of_what_is_very_large(approximate):
    y = ops.gelu(np.array([np.inf, 1e300, -1e300]), approximate)[0]
    assert y.tolist() == [np.inf, 1e300, 0]


def test_a_norm_of_rows_whose_squares_overflow_is_silent_and_right():
    x = np.array([[3, -1, 1, 1]], np.float32)
    one = np.ones(4, np.float32)
    for norm in (lambda x: ops.layer_norm(x, one), lambda x: ops.rms_norm(x, one)):
        np.testing.assert_allclose(norm(x * np.float32(1e30))[0], norm(x)[0], rtol=1e-5)


@given(CASES["batch_norm"].strategy())
def test_batch_norm_leaves_the_statistics_of_the_batch_in_its_cache(example):
    """Mean and unbiased variance, as torch's running statistics have them with a momentum of 1."""
    rng = np.random.default_rng(example["seed"])
    x = rng.standard_normal((*example["lead"], example["C"])) * example["scale"]
    unbiased = {} if example["unbiased"] is None else {"unbiased": example["unbiased"]}

    def statistics(x):
        mean, var = torch.zeros(x.shape[-1], dtype=x.dtype), torch.ones(x.shape[-1], dtype=x.dtype)
        torch.nn.functional.batch_norm(
            x.reshape(-1, x.shape[-1]), mean, var, training=True, momentum=1.0
        )
        return mean, var

    for dtype in (np.float64, np.float32):
        expected, _ = rounding_scale(statistics, [x.astype(dtype)], runs=0)
        rows = np.abs(x.reshape(-1, x.shape[-1]))
        mean = rows.mean(axis=0)
        scales = [mean, 2 * ((rows + mean) ** 2).sum(axis=0) / (len(rows) - 1)]
        gain, bias = np.ones((2, x.shape[-1]), dtype)
        _, cache = ops.batch_norm(x.astype(dtype), gain, bias, **unbiased)
        for got, value, scale in zip((cache.mean, cache.var), expected, scales, strict=True):
            result = compare(got, value, scale, x.size, dtype=dtype)
            assert result.ok, result.message


def test_the_loss_of_many_rows_is_the_mean_of_their_own():
    """Where rows begin is kept for the first 4,096."""
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((5000, 3)), rng.integers(0, 3, 5000)
    each = [ops.cross_entropy(z, t)[0] for z, t in zip(logits, targets, strict=True)]
    np.testing.assert_allclose(ops.cross_entropy(logits, targets)[0], np.mean(each), rtol=1e-12)


ONES = np.ones((2, 3))
REFUSED = {
    "a batch of one": (lambda: ops.batch_norm(ONES[:1], ONES[0], ONES[0]), "batch of 1"),
    "a batch of one without axes": (
        lambda: ops.batch_norm(ONES[0], ONES[0], ONES[0]),
        "batch of 1",
    ),
    "all ignored": (lambda: ops.cross_entropy(ONES, np.array([-1, -1])), "every target is -1"),
    "all ignored by another number": (
        lambda: ops.cross_entropy(ONES, np.array([2, 2]), ignore_index=2),
        "every target is 2",
    ),
    "a target too large": (lambda: ops.cross_entropy(ONES, np.array([0, 3])), "from 0 to 2"),
    "a negative target": (lambda: ops.cross_entropy(ONES, np.array([0, -2])), "from 0 to 2"),
    "a target that is not an integer": (
        lambda: ops.cross_entropy(ONES, np.array([0.0, 1.0])),
        "integers",
    ),
    "an id too large": (
        lambda: ops.embedding(np.array([0, 2]), ONES),
        "from 0 to 1, got values from 0 to 2",
    ),
    "a negative id": (
        lambda: ops.embedding(np.array([-1, 1]), ONES),
        "from 0 to 1, got values from -1 to 1",
    ),
    "an id that is not an integer": (
        lambda: ops.embedding(np.array([0.0, 1.0]), ONES),
        "dtype float64",
    ),
    "a mask for ids": (lambda: ops.embedding(np.array([True, False]), ONES), "dtype bool"),
    "a mask for targets": (
        lambda: ops.cross_entropy(ONES, np.array([True, False]), ignore_index=0),
        "integers",
    ),
    "heads that do not fit": (
        lambda: ops.causal_attention(np.ones((4, 12)), 3),
        "multiple of 3 \\* n_head, got 12 and n_head = 3",
    ),
    "a weight for other rows": (
        lambda: ops.embedding_linear(np.array([[0]]), ONES, np.ones((4, 2)), np.ones(2)),
        r"w must be floating numbers \(3, 2\)",
    ),
    "an unknown form of gelu": (lambda: ops.gelu(ONES, approximate="erf"), "'erf'"),
    "dropping everything": (lambda: ops.dropout(ONES, 1.0, TorchGenerator(0)), "got 1.0"),
    "dropping less than nothing": (lambda: ops.dropout(ONES, -0.1, TorchGenerator(0)), "got -0.1"),
    "a length that n does not divide": (
        lambda: ops.flatten_consecutive(np.ones((5, 2)), 2),
        "n = 2 and length 5",
    ),
    "joining none": (lambda: ops.flatten_consecutive(np.ones((5, 2)), 0), "n = 0 and length 5"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    call, message = REFUSED[what]
    with pytest.raises(ValueError, match=message):
        call()


def rejection(name, examples=30, **pair):
    """The sentence with which the property rejects a pair within a few examples."""
    rng = np.random.default_rng(0)
    with pytest.raises(Mismatch) as caught:
        for _ in range(examples):
            prove(name, CASES[name].example(rng), **pair)
    return str(caught.value)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_gradient_wrong_by_one_part_in_2000_is_rejected(name, dtype):
    case = CASES[name]
    names = examine(case, case.plain(), np.float64).wanted
    for wrong in range(len(names)):

        def backward(dy, cache, wrong=wrong):
            gradients = case.backward(dy, cache)
            alone = isinstance(gradients, np.ndarray)
            parts = [gradients] if alone else list(gradients)
            if np.asarray(dy).dtype == dtype and wrong < len(parts):
                parts[wrong] *= parts[wrong].dtype.type(1 + 1 / 2000)
            return parts[0] if alone else tuple(parts)

        assert rejection(name, backward=backward).startswith(f"{name} ({dtype}): d{names[wrong]} ")


# Everything else that is part of "right", on the plainest operation.


def aliased(dy, cache):
    dy *= 1  # raises where dy is read-only
    return dy


def test_the_rest_of_the_property_rejects():
    right, state = ops.tanh_backward, []

    def mask(dy, kept):
        return kept if np.array_equal(kept * dy, kept) else kept * dy

    def promoted(dy, cache):
        return right(dy, cache).astype(np.float64)

    def writes_into_the_cache(dy, cache):
        base = cache[0]
        base.flags.writeable = True
        base *= 2
        return right(dy, (base / 2,))

    def remembers(dy, cache):
        state.append(cache)
        return right(dy, state[0] if state[0][0].shape == dy.shape else cache)

    def not_a_number(dy, cache):
        return right(dy, cache) * np.nan

    def keeps_an_axis(dy, cache):
        return right(dy, cache)[None]

    def a_list(dy, cache):
        return right(dy, cache).tolist()

    def below_every_bound(dy, cache):
        return right(dy, cache) + np.finfo(dy.dtype).smallest_subnormal

    def shared_with_the_input(x, n):
        y, cache = ops.flatten_consecutive(x, n)
        return x.reshape(y.shape), cache

    def clipped(dy, cache):
        return np.clip(right(dy, cache), -10, 10)

    def memory_order(dy, cache):
        return right(np.array(dy).ravel(order="K").reshape(dy.shape), cache)

    def across_the_batch(dy, cache):
        return right(dy, cache) * (dy.dtype.type(0.5) if dy.ndim > 1 and len(dy) == 3 else 1)

    assert "read-only" in rejection("tanh", backward=aliased)
    assert "dx has dtype float64 where float32" in rejection("tanh", backward=promoted)
    assert "modified" in rejection("tanh", backward=writes_into_the_cache)
    assert "shares memory with the upstream" in rejection(
        "flatten_consecutive", backward=lambda dy, cache: dy.reshape(cache[0])
    )
    assert "shares memory with array 0 of the cache" in rejection(
        "dropout", backward=lambda dy, cache: mask(dy, cache[0])
    )
    assert "was expected" in rejection("tanh", backward=remembers)
    assert "is nan where" in rejection("tanh", backward=not_a_number)
    assert "has shape" in rejection("tanh", backward=keeps_an_axis)
    assert "has to return dx" in rejection("tanh", backward=a_list)
    assert "upstream gradient of zeros" in rejection("tanh", backward=below_every_bound)
    assert "shares memory with the input x" in rejection(
        "flatten_consecutive", forward=shared_with_the_input
    )
    assert "was expected" in rejection("tanh", backward=clipped)
    assert "was expected" in rejection("tanh", backward=memory_order)
    assert "was expected" in rejection("tanh", backward=across_the_batch)
    assert "raised ZeroDivisionError" in rejection("tanh", backward=lambda dy, cache: 1 / 0)


def test_a_forward_that_overflows_is_rejected():
    """Without the subtracted maximum exp overflows; the result may still be right where numbers are
    small."""

    def softmax(x):
        y = np.exp(x)
        return y / y.sum(axis=-1, keepdims=True), (y / y.sum(axis=-1, keepdims=True),)

    assert "FloatingPointError: overflow" in rejection("softmax", forward=softmax)
