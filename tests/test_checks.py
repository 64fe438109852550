"""What an operation is given: shapes that only broadcast, numbers that are no floating ones, two
dtypes at once, nothing at all, and numbers whose squares are too large for float32."""

import itertools

import numpy as np
import pytest

from npnet import ops

B, T, C, H, V = 2, 3, 4, 5, 6
SIZES = [2, 2, 1]  # of a packed batch of two sequences
RECURRENT = {
    name: ([(5, gates * H), *[(H,)] * states, (H, gates * H)], {"sizes": SIZES})
    for name, gates, states in (("rnn", 1, 1), ("gru", 3, 1), ("lstm", 4, 2))
}
SHAPES = {
    **{name: ([(B, T, C)], {}) for name in ("tanh", "relu", "sigmoid", "gelu", "softmax")},
    "linear": ([(B, T, C), (C, H), (H,)], {}),
    "batch_norm": ([(B, T, C), (C,), (C,)], {}),
    "batch_norm_inference": ([(B, T, C), (C,), (C,), (C,), (C,)], {}),
    "layer_norm": ([(B, T, C), (C,), (C,)], {}),
    "rms_norm": ([(B, T, C), (C,)], {}),
    "causal_attention": ([(B, T, 6 * C)], {"n_head": 2}),
    "causal_mean": ([(5, C)], {"sizes": SIZES}),
    "flatten_consecutive": ([(B, 2 * T, C)], {"n": 2}),
    **RECURRENT,
}
AXES = {"softmax": 1, "linear": 1, "layer_norm": 1, "rms_norm": 1, "batch_norm_inference": 1} | {
    name: 2 for name in ("causal_attention", "causal_mean", "flatten_consecutive", *RECURRENT)
}
BY_ITSELF = [name for name in SHAPES if name != "batch_norm"]
PACKED = [name for name in SHAPES if "sizes" in SHAPES[name][1]]


def inputs(name, dtype=np.float64, lead=None):
    first, *rest = SHAPES[name][0]
    rng = np.random.default_rng(0)
    shapes = [first if lead is None else (*lead, *first[1:]), *rest]
    return [(0.5 + rng.random(shape)).astype(dtype) for shape in shapes]


def passes(name, arrays, dy=None, **options):
    """y and the gradients, as a list."""
    y, cache = getattr(ops, name)(*arrays, **SHAPES[name][1], **options)
    gradients = getattr(ops, f"{name}_backward")(np.ones_like(y) if dy is None else dy, cache)
    return [y, *(gradients if isinstance(gradients, tuple) else [gradients])]


def only_broadcast(shape):
    """Shapes that NumPy would stretch to this one, or take for it after a reshape."""
    wrong = {(), (1,), (1, *shape), (2, *shape), (int(np.prod(shape)),)}
    wrong |= {(*shape[:k], 1, *shape[k + 1 :]) for k in range(len(shape))}
    return wrong - {shape}


@pytest.mark.parametrize("name", SHAPES)
def test_a_parameter_that_would_only_broadcast_is_refused(name):
    arrays = inputs(name)
    for k, array in enumerate(arrays[1:], start=1):
        for shape in only_broadcast(array.shape):
            if name in RECURRENT and array.ndim == 1 and shape == (B, *array.shape) and k < 3:
                continue  # a state for each sequence
            changed = [*arrays[:k], np.ones(shape), *arrays[k + 1 :]]
            with pytest.raises(ValueError, match=f"^{name}"):
                passes(name, changed)


@pytest.mark.parametrize("name", SHAPES)
def test_an_upstream_gradient_that_would_only_broadcast_is_refused(name):
    y = passes(name, inputs(name))[0]
    for shape in only_broadcast(y.shape):
        with pytest.raises(ValueError, match=rf"^{name}_backward: dy must be .*as the output is"):
            passes(name, inputs(name), np.ones(shape))


def test_embedding_and_cross_entropy_take_their_shapes_alone():
    ids, table = np.array([[0, 1, 2], [3, 4, 5]]), np.ones((V, C))
    _, cache = ops.embedding(ids, table)
    for shape in only_broadcast((2, 3, C)):
        with pytest.raises(ValueError, match=r"^embedding_backward: dy must be"):
            ops.embedding_backward(np.ones(shape), cache)
    logits = np.ones((2, 3, V))
    for shape in [*only_broadcast((2, 3)), (6,), (3, 2)]:
        with pytest.raises(ValueError, match=r"^cross_entropy: .* need targets"):
            ops.cross_entropy(logits, np.ones(shape, np.int64))
    _, cache = ops.cross_entropy(logits, ids)
    for shape in ((1,), (3,), (2, 3)):
        with pytest.raises(ValueError, match="dloss must be a number"):
            ops.cross_entropy_backward(np.ones(shape), cache)


@pytest.mark.parametrize(
    "ids, w",
    [
        (np.array(1), np.ones((C, H))),
        (np.zeros((B, 0), int), np.ones((0, H))),
        (np.zeros((B, 1), int), np.array(1.0)),
    ],
)
def test_embedding_linear_needs_rows_and_a_matrix(ids, w):
    with pytest.raises(ValueError, match=r"^embedding_linear: .* got"):
        ops.embedding_linear(ids, np.ones((V, C)), w, np.ones(H))


@pytest.mark.parametrize("options, named", [({"dropout": 0.5}, "generator"), ({"block": 0}, "0")])
def test_attention_that_cannot_draw_or_advance_is_refused(options, named):
    with pytest.raises(ValueError, match=f"^causal_attention: .*{named}"):
        ops.causal_attention(*inputs("causal_attention"), n_head=2, **options)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("kind", [complex, bool, int])
def test_what_is_no_floating_number_is_refused_by_name(name, kind):
    """A forward takes complex numbers, for the complex step; a backward does not."""
    arrays = inputs(name)
    for k in range(len(arrays) if kind is not complex else 0):
        changed = [array.astype(kind) if j == k else array for j, array in enumerate(arrays)]
        with pytest.raises(ValueError, match=f"^{name}: .*{np.dtype(kind).name}"):
            passes(name, changed)
    y = passes(name, arrays)[0]
    with pytest.raises(ValueError, match=f"^{name}_backward: .*{np.dtype(kind).name}"):
        passes(name, arrays, y.astype(kind))


@pytest.mark.parametrize("kind", [bool, int])
def test_tables_and_logits_are_floating_numbers(kind):
    with pytest.raises(ValueError, match=f"^embedding: .*{np.dtype(kind).name}"):
        ops.embedding(np.array([0]), np.ones((V, C), kind))
    with pytest.raises(ValueError, match=f"^cross_entropy: .*{np.dtype(kind).name}"):
        ops.cross_entropy(np.ones((1, V), kind), np.array([0]))


@pytest.mark.parametrize("name", SHAPES)
def test_two_dtypes_give_that_of_the_first_input(name):
    arrays = inputs(name)
    y = passes(name, arrays)[0]
    single = passes(name, inputs(name, np.float32))
    for dtypes in itertools.product((np.float32, np.float64), repeat=len(arrays) + 1):
        mixed = [array.astype(dtype) for array, dtype in zip(arrays, dtypes, strict=False)]
        results = passes(name, mixed, np.ones(y.shape, dtypes[-1]))
        assert {result.dtype for result in results} == {np.dtype(dtypes[0])}
        for result, expected in zip(results, single, strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BY_ITSELF)
@pytest.mark.parametrize("axes", [0, 1])
def test_too_few_axes_are_refused(name, axes):
    arrays = inputs(name)
    shape = arrays[0].shape[arrays[0].ndim - axes :]
    changed = [np.ones(shape), *arrays[1:]]
    if axes < AXES.get(name, 0):
        with pytest.raises(ValueError, match=f"^{name}: "):
            passes(name, changed)
        with pytest.raises(ValueError, match=f"^{name}: "):
            passes(name, [np.ones(())] * len(arrays))
    else:
        assert passes(name, changed)[1].shape == shape


@pytest.mark.parametrize("name", [name for name in BY_ITSELF if name not in PACKED])
@pytest.mark.parametrize("lead", [(0,), (2, 0), (0, 2)])
def test_a_batch_of_nothing_has_no_output_and_no_gradient(name, lead):
    arrays = inputs(name, lead=lead)
    y, *gradients = passes(name, arrays)
    assert y.size == 0
    for gradient, array in zip(gradients, arrays, strict=True):
        assert gradient.shape == array.shape and not gradient.any()
    with pytest.raises(ValueError, match="a batch of 0 has no variance"):
        passes("batch_norm", inputs("batch_norm", lead=lead))


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("sizes", [[2, 3], [2, 2], [3, 3], [5, 0], [], [5, -1, 1]])
def test_sizes_that_are_not_those_of_a_packed_batch_are_refused(name, sizes):
    forward, arrays = getattr(ops, name), inputs(name)
    with pytest.raises(ValueError, match=f"^{name}: .*sizes that never grow"):
        forward(*arrays, sizes)


@pytest.mark.parametrize("name", ["causal_attention", "flatten_consecutive"])
def test_a_sequence_of_nothing_has_no_output_and_no_gradient(name):
    arrays = inputs(name)
    arrays[0] = arrays[0][:, :0]
    y, *gradients = passes(name, arrays)
    assert y.size == 0
    for gradient, array in zip(gradients, arrays, strict=True):
        assert gradient.shape == array.shape and not gradient.any()


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("scale", [1e10, 1e20, 1e30])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in ("tanh", "sigmoid", "softmax", "gelu")),
        ("gelu", {"approximate": "none"}),
        *((name, {}) for name in ("layer_norm", "rms_norm", "batch_norm", "causal_attention")),
    ],
)
def test_squares_beyond_float32_do_no_harm(name, options, scale):
    rng = np.random.default_rng(0)
    for _ in range(20):
        arrays = inputs(name)
        arrays[0] = rng.standard_normal(arrays[0].shape) * scale
        if name == "causal_attention":
            arrays[0][..., 16:] /= scale  # the values; y and the gradients stay within float32
        arrays = [array.astype(np.float32) for array in arrays]
        wide = [array.astype(np.float64) for array in arrays]
        dy = rng.standard_normal(passes(name, wide, **options)[0].shape).astype(np.float32)
        found = passes(name, arrays, dy, **options)
        for result, expected in zip(
            found, passes(name, wide, dy.astype(np.float64), **options), strict=True
        ):
            largest = np.abs(expected).max()
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5 * largest)
