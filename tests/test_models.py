"""Every model against torch: loss and every gradient, causality, generation, tied weights, training
on both sides."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from configs import config_for
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle.models
import oracle.optim
from npnet import ops, optim
from npnet.data import Vocabulary
from npnet.layers import Embedding, Sequential
from npnet.models import BUILDERS, STYLES, Config, build, builder, parameter_count
from npnet.random import TorchGenerator
from npnet.runs import PythonRandom
from npnet.sample import generate
from oracle.model_cases import DROPOUT, MODEL_CASES, backward
from oracle.proof.compare import Mismatch
from oracle.prove import prove

WINDOWED = [kind for kind, known in BUILDERS.items() if known.windowed]
SEQUENCES = [kind for kind in BUILDERS if kind not in WINDOWED]
WITH_POSITIONS = ["bow", "transformer", "microgpt"]
few = settings(max_examples=max(1, settings().max_examples // 8))
seeds = st.integers(0, 2**32 - 1)


def make(kind, seed=0, scale=0.5, dtype="float64", **sizes):
    """A small model, every parameter and running statistic of it random."""
    sizes = {
        "vocab_size": 6,
        "block_size": 4,
        "n_layer": 2,
        "n_embd": 6,
        "n_embd2": 5,
        "n_head": 2,
    } | sizes
    model = build(kind, config_for(kind, **sizes, dtype=dtype), TorchGenerator(seed))
    rng = np.random.default_rng(seed)
    model.data[...] = rng.standard_normal(model.data.size) * scale
    for name, buffer in model.buffers().items():
        buffer[...] = (
            rng.random(buffer.shape) + 0.1
            if name.endswith("var")
            else rng.standard_normal(buffer.shape)
        )
    return model


def batch(model, size=3, seed=0):
    rng = np.random.default_rng(seed)
    V, T = model.config.vocab_size, model.config.block_size
    x = rng.integers(0, V, (size, T))
    if model.windowed:
        x[:2, 0] = 0, 1
        return x, rng.integers(0, V, size)
    y = rng.integers(0, V, (size, T))
    y[0, 1:] = -1
    return x, y


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_every_model_has_an_oracle_and_a_case():
    assert oracle.models.MODELS.keys() == BUILDERS.keys()
    assert {f"models.{kind}" for kind in BUILDERS} | {DROPOUT.name} == MODEL_CASES.keys()


@pytest.mark.parametrize("name", MODEL_CASES)
def test_property(name):
    case = MODEL_CASES[name]

    @few
    @given(case.strategy())
    def holds(example):
        prove(case, example)

    holds()


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("lead", [(1,), (2,)])
def test_property_for_one_position(kind, lead):
    case = MODEL_CASES[f"models.{kind}"]
    prove(case, case.plain(lead=lead, T=1))
    prove(case, case.plain(lead=lead, T=1, block_size=1, V=1))


@pytest.mark.parametrize("kind", WINDOWED)
def test_property_for_the_smallest_window(kind):
    case = MODEL_CASES[f"models.{kind}"]
    prove(case, case.plain(lead=(2,), block_size=min(case.choices["block_size"])))


@pytest.mark.parametrize("name", MODEL_CASES)
def test_the_property_rejects_an_error_in_any_one_gradient(name):
    case = MODEL_CASES[name]
    example = case.plain(seed=1, lead=(3,))
    inputs, _ = case.draw(
        _draws(example), **{k: example[k] for k in case.choices if k not in ("values", "scale")}
    )
    for wrong in list(inputs)[2:]:

        def planted(dloss, cache, wrong=wrong):
            backward(dloss, cache)
            cache[0].gradients()[wrong][...] *= 1 + 1e-6
            return tuple(gradient.copy() for gradient in cache[0].gradients().values())

        with pytest.raises(Mismatch, match=f"d{wrong}"):
            prove(case, example, backward=planted)


def _draws(example):
    from oracle.proof.draw import Draw

    return Draw(example["seed"], example["values"], example["scale"])


@pytest.mark.parametrize("kind", BUILDERS)
@few
@given(seed=seeds)
def test_logits_and_loss_take_running_statistics(kind, seed):
    model = make(kind, seed)
    x, y = batch(model, seed=seed)
    expected = oracle.models.logits(
        kind,
        model.config,
        tensors(model.parameters()),
        torch.from_numpy(x),
        tensors(model.buffers()),
    )
    np.testing.assert_allclose(
        model.logits(x), expected.numpy(), rtol=1e-9, atol=1e-10, strict=True
    )
    loss = oracle.models.cross_entropy(expected, torch.from_numpy(y))
    np.testing.assert_allclose(model.loss(x, y), loss.item(), rtol=1e-9)


@pytest.mark.parametrize("kind", BUILDERS)
def test_only_training_writes_and_the_same_call_gives_the_same_bits(kind):
    model = make(kind, dtype="float32")
    x, y = batch(model)
    data = model.data.copy()
    loss, gradient = model.loss_and_grad(x, y), model.grad.copy()
    buffers = {name: b.copy() for name, b in model.buffers().items()}
    model.logits(x)
    model.loss(x, y)
    assert model.grad.tobytes() == gradient.tobytes()
    for name, b in model.buffers().items():
        assert b.tobytes() == buffers[name].tobytes()
    model.grad.fill(np.nan)
    assert model.loss_and_grad(x, y) == loss
    assert model.grad.tobytes() == gradient.tobytes()
    assert model.data.tobytes() == data.tobytes()
    assert loss.dtype == model.grad.dtype == np.float32


# Sequences


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@few
@given(seed=seeds, t=st.integers(0, 7), scale=st.sampled_from([0.3, 1.0, 5.0]))
def test_a_changed_token_leaves_every_output_before_it_bit_equal(kind, dtype, seed, t, scale):
    model = make(kind, seed, scale, dtype, block_size=8)
    x = batch(model, seed=seed)[0]
    changed = x.copy()
    changed[:, t] = (x[:, t] + 1) % 6
    before, after = model.logits(x), model.logits(changed)
    assert before[:, :t].tobytes() == after[:, :t].tobytes()
    assert scale > 1 or (before[:, t] != after[:, t]).any()  # a large one may saturate every tanh


def test_attention_is_causal_to_the_bit_for_scores_of_any_size():
    """Large scores take another path through the softmax, which must not depend on what is later or
    beside."""
    rng = np.random.default_rng(0)
    for scale in np.repeat([1, 3, 5, 8, 30], 40):
        qkv = (rng.standard_normal((2, 5, 24)) * scale).astype(np.float32)
        changed = qkv.copy()
        changed[1] *= 20
        changed[0, 3:] *= 20
        before, after = ops.causal_attention(qkv, 2)[0], ops.causal_attention(changed, 2)[0]
        assert before[0, :3].tobytes() == after[0, :3].tobytes()


@pytest.mark.parametrize("kind", BUILDERS)
@few
@given(seed=seeds)
def test_cached_generation_equals_uncached(kind, seed):
    model = make(kind, seed, block_size=4)
    ids = np.random.default_rng(seed).integers(0, 6, (3, 4))
    state = model.start(3)
    steps = np.stack([model.step(ids[:, t].copy(), state) for t in range(4)], axis=1)
    if model.windowed:
        padded = np.pad(ids, ((0, 0), (3, 0)))
        whole = np.stack([model.logits(padded[:, t : t + 4]) for t in range(4)], axis=1)
    else:
        whole = model.logits(ids)
    np.testing.assert_allclose(steps, whole, rtol=1e-9, atol=1e-10, strict=True)


@pytest.mark.parametrize("kind", SEQUENCES)
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


@pytest.mark.parametrize("kind", SEQUENCES)
def test_a_shorter_sequence_is_the_beginning_of_a_longer(kind):
    model = make(kind)
    x = batch(model)[0]
    np.testing.assert_allclose(
        model.logits(x[:, :2]), model.logits(x)[:, :2], rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("kind", WITH_POSITIONS)
def test_more_tokens_than_positions_are_an_error(kind):
    model = make(kind)
    with pytest.raises(ValueError, match="4 positions, got a sequence of 5"):
        model.logits(np.zeros((1, 5), np.int64))
    state = model.start(1, 10)
    with pytest.raises(ValueError, match="4 positions"):
        for _ in range(5):
            model.step(np.zeros(1, np.int64), state)


@pytest.mark.parametrize("kind", BUILDERS)
def test_ids_outside_of_the_vocabulary_are_an_error(kind):
    model = make(kind)
    for wrong in (-1, model.config.vocab_size):
        with pytest.raises(ValueError, match="ids must be integers"):
            model.logits(np.full((2, 4), wrong))
        if not model.windowed:
            with pytest.raises(ValueError, match="ids must be integers"):
                model.loss(np.full((2, 4), wrong), np.zeros((2, 4), np.int64))


def test_sequences_have_two_axes():
    for kind in BUILDERS:
        model = make(kind)
        for shape in ((3,), (2, 3, 1)):
            if not model.windowed:
                with pytest.raises(ValueError, match=r"^ids must be \(B, T\), got \("):
                    model.logits(np.zeros(shape, np.int64))


def test_a_batch_of_one_has_no_statistics():
    for kind in ("mlp", "mlp_running", "mlp_deep", "wavenet"):
        model = make(kind)
        with pytest.raises(ValueError, match="at least 2"):
            model.loss_and_grad(np.zeros((1, 4), np.int64), np.zeros(1, np.int64))


# Parameters


@pytest.mark.parametrize("kind", BUILDERS)
def test_parameters_and_gradients_are_views_of_two_vectors(kind):
    model = make(kind)
    for vector, views in ((model.data, model.parameters()), (model.grad, model.gradients())):
        assert vector.ndim == 1 and vector.flags.c_contiguous
        vector[...] = np.arange(vector.size)
        np.testing.assert_array_equal(np.concatenate([v.ravel() for v in views.values()]), vector)
        next(iter(views.values()))[...] = -1
        assert (vector == -1).any()
    assert model.parameters().keys() == model.gradients().keys()


@pytest.mark.parametrize(
    ("kind", "sizes", "count"),
    [
        ("bigram", {"vocab_size": 27, "block_size": 16}, 729),
        ("mlp", {"vocab_size": 27, "block_size": 3, "n_embd": 10, "n_embd2": 64}, 4073),
        ("mlp", {"vocab_size": 27, "block_size": 3, "n_embd": 10, "n_embd2": 200}, 12097),
        ("wavenet", {"vocab_size": 27, "block_size": 8, "n_embd": 24, "n_embd2": 128}, 76579),
        ("transformer", {"vocab_size": 27, "block_size": 16}, 204544),
        ("transformer", {"vocab_size": 65, "block_size": 32, "style": "lecture"}, 209729),
        (
            "transformer",  # of which nanoGPT counts 0.80 million, without the positions
            {
                "vocab_size": 65,
                "block_size": 64,
                "n_embd": 128,
                "style": "nanogpt",
                "tie_weights": True,
            },
            804096,
        ),
        ("microgpt", {"vocab_size": 27, "block_size": 16, "n_layer": 1, "n_embd": 16}, 4192),
    ],
)
def test_the_number_of_parameters_is_the_published_one(kind, sizes, count):
    assert build(kind, Config(**sizes), TorchGenerator(0)).data.size == count


def sized(kind, vocab_size, block_size, **sizes):
    read = {name: sizes[name] for name in BUILDERS[kind].reads if name in sizes}
    return Config(vocab_size, block_size, **read)


@given(
    kind=st.sampled_from(list(BUILDERS)),
    sizes=st.tuples(*[st.integers(1, 5)] * 5),
    n_head=st.integers(1, 3),
    stages=st.integers(1, 3),
    tied=st.booleans(),
    style=st.sampled_from(list(STYLES)),
)
def test_the_number_of_parameters_is_known_before_they_are_drawn(
    kind, sizes, n_head, stages, tied, style
):
    V, T, n_layer, C, H = sizes
    rest = {"n_layer": n_layer, "n_embd": C * n_head, "n_embd2": H, "n_head": n_head}
    config = sized(
        kind, V, 2**stages if kind == "wavenet" else T, **rest, tie_weights=tied, style=style
    )
    assert parameter_count(kind, config) == build(kind, config, TorchGenerator(0)).data.size


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_model_beyond_all_measure_is_refused_before_anything_is_drawn(kind):
    most = 10**8
    rest = {"n_layer": 1000, "n_embd": most, "n_embd2": most, "n_head": 1, "tie_weights": False}
    with pytest.raises(ValueError, match=rf"^{kind}: [\d,]+ parameters; 100,000,000 are the most$"):
        build(kind, sized(kind, most, 65536, **rest), generator=None)


def test_names_are_those_that_a_torch_user_expects():
    names = make("transformer", n_layer=1).parameters()
    assert {
        "embedding.token.weight",
        "embedding.position",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.norm.bias",
        "norm.weight",
        "head.weight",
    } < names.keys()
    assert names["blocks.0.mlp.up.weight"].shape == (6, 24)


def test_matrices_are_all_but_gains_and_biases():
    model = make("transformer")
    model.data[...] = 0
    for part in model.matrices():
        model.data[part] = 1
    for name, array in model.parameters().items():
        assert (array == (array.ndim > 1)).all(), name
    assert make("mlp_makemore").matrices()[0].start == 0


def test_the_gradient_of_tied_weights_is_the_sum_of_both_uses():
    tied, untied = make("transformer", tie_weights=True), make("transformer")
    assert "head.weight" not in tied.parameters()
    for name, array in tied.parameters().items():
        untied.parameters()[name][...] = array
    untied.parameters()["head.weight"][...] = tied.parameters()["embedding.token.weight"].T
    x, y = batch(tied)
    assert tied.loss_and_grad(x, y) == pytest.approx(untied.loss_and_grad(x, y), rel=1e-12)
    found, apart = tied.gradients(), untied.gradients()
    total = apart["embedding.token.weight"] + apart.pop("head.weight").T
    np.testing.assert_allclose(found["embedding.token.weight"], total, rtol=1e-12, atol=1e-14)
    for name in apart.keys() - {"embedding.token.weight"}:
        np.testing.assert_allclose(found[name], apart[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", BUILDERS)
def test_any_generator_will_do(kind):
    config = config_for(kind, 6, 4, n_layer=1, n_embd=4, n_embd2=5, n_head=2)
    model = build(kind, config, PythonRandom(1))
    assert np.isfinite(model.loss_and_grad(*batch(model)))
    words = generate(model, Vocabulary(["abcde"]), PythonRandom(1), 3, max_length=3)
    assert len(words) == 3


def test_first_values_come_from_the_generator_alone():
    for kind in BUILDERS:
        config = config_for(kind, 6, 4, n_layer=2, n_embd=4, n_embd2=5, n_head=2)
        first, again, other = (build(kind, config, TorchGenerator(seed)) for seed in (1, 1, 2))
        assert first.data.dtype == np.float32
        assert first.data.tobytes() == again.data.tobytes()
        assert kind == "bigram" or first.data.tobytes() != other.data.tobytes()


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


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"style": "gpt-4"}, "style must be one of makemore, lecture, lecture-file, nanogpt, got"),
        ({"dropout": 1.0}, "dropout must be a number from 0 up to but not including 1, got 1.0"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"block_size": 2.5}, "block_size"),
        ({"n_layer": -1}, "n_layer"),
        ({"n_layer": True}, "n_layer"),
        ({"n_layer": 1001}, "n_layer must be a whole number from 1 to 1,000, got 1001"),
        ({"block_size": 10**9}, "block_size must be .* to 100,000"),
        ({"n_embd": 10**9}, "n_embd must be .* to 100,000,000"),
        ({"n_embd": "1" * 1000}, r"got '1{1,20}\.\.\.1{1,20}'$"),
        ({"dtype": "float16"}, "dtype"),
        ({"tie_weights": 1}, "tie_weights must be a bool, got 1"),
    ],
)
def test_impossible_sizes_are_an_error(sizes, message):
    with pytest.raises(ValueError, match=message):
        Config(**{"vocab_size": 6, "block_size": 4} | sizes)


def test_impossible_models_are_an_error():
    with pytest.raises(ValueError, match="unknown model 'mpl'; there are bigram"):
        build("mpl", Config(6, 4), TorchGenerator(0))
    for block_size in (1, 3, 6):
        with pytest.raises(ValueError, match="power of two"):
            build("wavenet", Config(6, block_size), TorchGenerator(0))


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_builder_reads_the_sizes_that_it_declares_and_no_other(kind):
    read = set()

    class Reader(Config):
        def __getattribute__(self, name):
            if name in default:
                read.add(name)
            return super().__getattribute__(name)

    default = {field.name: field.default for field in fields(Config)}
    config = Reader(6, 4)
    read.clear()
    BUILDERS[kind].network(config, TorchGenerator(0))
    declared = set(BUILDERS[kind].reads)
    assert read - {"vocab_size", "block_size", "dtype"} == declared
    for name in set(default) - declared - {"vocab_size", "block_size", "dtype"}:
        others = {"tie_weights": True, "style": "nanogpt", "dropout": 0.5}
        other = others.get(name) or default[name] + 4
        with pytest.raises(ValueError, match=f"{name} has no meaning in {kind}, which reads"):
            build(kind, Config(6, 4, **{name: other}), TorchGenerator(0))
        build(kind, Config(6, 4, **{name: default[name]}), TorchGenerator(0))


def test_another_model_touches_one_place():
    @builder(lambda c: c.vocab_size**2)
    def unigram(c, generator):
        return Sequential(
            logits=Embedding(generator.randn(c.vocab_size, c.vocab_size, dtype=c.dtype))
        )

    try:
        model = build("unigram", Config(6, 4), TorchGenerator(0))
        assert model.loss_and_grad(*batch(model)) > 0 and not model.windowed
    finally:
        del BUILDERS["unigram"]


# Training


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize(
    ("rule", "options", "lr"),
    [
        ("SGD", {"momentum": 0.9, "nesterov": True}, 0.02),
        ("AdamW", {"betas": (0.9, 0.99), "weight_decay": 0.1}, 0.01),
    ],
)
def test_ten_training_steps_on_both_sides(kind, rule, options, lr):
    ours, theirs = make(kind, scale=0.3), make(kind, scale=0.3)
    step = getattr(optim, rule)(ours.data, ours.grad, **options).step
    reference_step = getattr(oracle.optim, rule)(theirs.data, theirs.grad, **options).step
    for k in range(10):
        x, y = batch(ours, size=5, seed=k)
        loss = ours.loss_and_grad(x, y)
        params = tensors(theirs.parameters())
        expected, gradients = oracle.models.loss_and_grad(
            kind, theirs.config, params, torch.from_numpy(x), torch.from_numpy(y)
        )
        for name, gradient in theirs.gradients().items():
            gradient[...] = gradients[name].numpy()
        assert loss == pytest.approx(expected.item(), rel=1e-7)
        step(lr)
        reference_step(lr)
    for name, array in theirs.parameters().items():
        np.testing.assert_allclose(
            ours.parameters()[name], array, rtol=1e-6, atol=1e-7, err_msg=name
        )


@pytest.mark.parametrize("kind", SEQUENCES)
@few
@given(seed=seeds)
def test_a_common_start_is_computed_once_and_changes_nothing(kind, seed):
    model = make(kind, seed)
    x, y = batch(model, seed=seed)
    x[:, 0] = x[0, 0]
    loss = model.loss_and_grad(x, y)
    h, targets, rows, packing = model.packed(x, y, apart=True)
    assert rows is None
    logits, caches = model.network.forward(h, True, packing)
    expected, cache = ops.cross_entropy(logits, targets)
    found = model.grad.copy()
    model.network.backward(ops.cross_entropy_backward(1.0, cache), caches)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(found, model.grad, rtol=1e-9, atol=1e-12)
    once, again = model.packed(x, y)[3], packing
    if again is not None and len(x) > 1:
        assert once.sizes == [1, *again.sizes[1:]]


def test_where_rows_are_not_to_be_taken_for_one_another_every_start_is_computed():
    config = Config(5, 4, n_layer=1, n_embd=4, n_head=2, dropout=0.1)
    x = np.zeros((3, 4), np.int64)
    for dropout, first in ((0.1, 3), (0.0, 1)):
        model = build("transformer", replace(config, dropout=dropout), TorchGenerator(0))
        assert model.packed(x, x)[3].sizes[0] == first
    x[1, 0] = 1
    assert model.packed(x, x)[3].sizes[0] == 3


def test_where_nothing_looks_along_time_an_id_is_computed_once():
    model = build("bigram", Config(5, 4), TorchGenerator(0))
    x = np.array([[0, 1, 2, 1], [0, 1, 4, 4]])
    y = np.array([[1, 2, 1, -1], [1, 4, 4, 0]])
    ids, targets, rows, _ = model.packed(x, y)
    assert ids.tolist() == [0, 1, 2, 3, 4]
    assert (rows.tolist(), targets.tolist()) == ([0, 1, 2, 0, 1, 4, 4], [1, 2, 1, 1, 4, 4, 0])
    few = model.packed(x[:1], y[:1])
    assert (few[0].tolist(), few[2]) == ([0, 1, 2], None)
