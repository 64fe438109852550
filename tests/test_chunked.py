"""The notebook's exercise against autograd: every value and gradient, any sizes; and wrong lines,
each to be found."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from npnet import chunked, ops
from npnet.data import NAMES
from npnet.random import TorchGenerator
from oracle.table import against_autograd, minibatch

INTERMEDIATES = [
    *(
        "emb",
        "embconcat",
        "hprebn",
        "bnmean",
        "bndiff",
        "bndiff2",
        "bnvar",
        "bnvar_inv",
        "bnraw",
        "hpreact",
        "h",
    ),
    *(
        "logits",
        "logit_maxes",
        "norm_logits",
        "counts",
        "counts_sum",
        "counts_sum_inv",
        "probs",
        "logprobs",
        "loss",
    ),
]


def network(sizes, with_b1=True, dtype=np.float64, seed=0, scale=1.0, spread=0.3):
    """Random read-only parameters, x and y. `scale` is the first layer's; `spread`, the last's,
    keeps exp in range."""
    n, T, E, H, V = sizes
    rng = np.random.default_rng(seed)
    params = {
        "C": rng.normal(size=(V, E)),
        "w1": rng.normal(size=(T * E, H)) * scale,
        "w2": rng.normal(size=(H, V)) * spread,
        "b2": rng.normal(size=V) * spread,
        "bngain": rng.normal(size=(1, H)) + 1,
        "bnbias": rng.normal(size=(1, H)),
    }
    if with_b1:
        params["b1"] = rng.normal(size=H) * scale
    params = {name: p.astype(dtype) for name, p in params.items()}
    x, y = rng.integers(0, V, (n, T)), rng.integers(0, V, n)
    for array in (*params.values(), x, y):
        array.flags.writeable = False
    return params, x, y


networks = st.builds(
    network,
    st.tuples(st.integers(2, 9), *[st.integers(1, 5)] * 2, *[st.integers(1, 9)] * 2),
    st.booleans(),
    st.sampled_from([np.float64, np.float32]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-4, 1e-2, 1.0, 1e2]),
    st.sampled_from([1e-4, 1e-2, 1.0]),
)
upstreams = st.sampled_from([1.0, -0.7, 1e-4, 1e4])


def both_passes(params, x, y, dloss=1.0, backward=chunked.backward):
    values = chunked.forward(params, x, y)
    for value in values.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return values, backward(params, values, dloss)


def problems(params, x, y, values, gradients, dloss=1.0):
    return [
        r.message
        for r in against_autograd(params, x, y, values, gradients, dloss).values()
        if not r.ok
    ]


@given(networks, upstreams)
@example(network((5, 4, 5, 4, 1), False, np.float32, 413, 100.0, 0.01), 1e4)
def test_every_value_and_gradient_is_autograds(net, dloss):
    """All rows of the example are alike, so that its variance is a rounding error's square."""
    values, gradients = both_passes(*net, dloss)
    assert problems(*net, values, gradients, dloss) == []


@given(networks, upstreams)
def test_fused_steps_equal_the_chunked_ones(net, dloss):
    params, x, y = net
    params = {name: p.astype(np.float64) for name, p in params.items()}
    values, gradients = both_passes(params, x, y, dloss)

    def close(fused, chunked, largest_term):
        np.testing.assert_allclose(
            fused, chunked, rtol=1e-9, atol=1e-10 * largest_term, strict=True
        )

    loss, cache = ops.cross_entropy(values["logits"], y)
    close(loss, values["loss"], 1)
    close(ops.cross_entropy_backward(dloss, cache), gradients["dlogits"], abs(dloss))

    hpreact, cache = ops.batch_norm(values["hprebn"], params["bngain"][0], params["bnbias"][0])
    close(hpreact, values["hpreact"], 1)
    dhprebn, dgain, dbias = ops.batch_norm_backward(gradients["dhpreact"], cache)
    close(dhprebn, gradients["dhprebn"], np.abs(gradients["dbnraw"] * values["bnvar_inv"]).max())
    close(dgain[None], gradients["dbngain"], abs(dloss))
    close(dbias[None], gradients["dbnbias"], abs(dloss))


@pytest.mark.parametrize("with_b1", [False, True])
def test_names_are_the_notebooks_and_the_backward_is_the_forward_upwards(with_b1):
    params, x, y = network((5, 2, 3, 4, 6), with_b1)
    values, gradients = both_passes(params, x, y)
    assert list(values) == ["x", "y", *INTERMEDIATES]
    assert set(gradients) == {f"d{name}" for name in [*INTERMEDIATES, *params]} - {"dloss"}
    assert [d[1:] for d in gradients if d[1:] in values] == INTERMEDIATES[-2::-1]


@given(networks)
def test_the_same_bits_again_and_nothing_shared_with_the_parameters(net):
    params, _, _ = net
    values, gradients = both_passes(*net)
    again_values, again_gradients = both_passes(*net)
    for name, array in (values | gradients).items():
        np.testing.assert_array_equal(array, (again_values | again_gradients)[name])
        assert name in ("x", "y") or not any(np.shares_memory(array, p) for p in params.values())


@given(networks)
def test_zero_upstream_gives_zeros(net):
    assert not any(gradient.any() for gradient in both_passes(*net, 0.0)[1].values())


@given(networks)
def test_what_is_zero_in_exact_arithmetic_is_rounding(net):
    params, x, y = net
    _, gradients = both_passes(params | {"b1": np.ones_like(params["bngain"][0])}, x, y)
    eps = np.finfo(params["C"].dtype).eps
    terms = np.abs(gradients["dbndiff"]).sum(0) + np.abs(gradients["dbnmean"][0])
    assert np.all(np.abs(gradients["db1"]) <= 16 * eps * terms)
    n = len(x)
    assert np.all(np.abs(gradients["dlogit_maxes"]) <= 64 * eps / n)


def test_b1_has_no_effect():
    params, x, y = network((5, 2, 3, 4, 6))
    shifted = params | {"b1": params["b1"] + 3}
    assert chunked.forward(shifted, x, y)["loss"] == pytest.approx(
        chunked.forward(params, x, y)["loss"], rel=1e-12
    )


def test_one_example_has_no_variance():
    with pytest.raises(ValueError, match="batch of 1 has no unbiased variance"):
        chunked.forward(*network((1, 2, 3, 4, 6)))


@pytest.mark.parametrize(
    "n_embd2, with_b1, count",
    [(64, False, 4073), (64, True, 4137), (200, False, 12_097), (200, True, 12_297)],
)
def test_parameter_counts(n_embd2, with_b1, count):
    params = chunked.init_params(TorchGenerator(0), n_embd2=n_embd2, with_b1=with_b1)
    assert sum(p.size for p in params.values()) == count
    assert all(p.dtype == np.float32 and p.all() for p in params.values())


@pytest.mark.parametrize("with_b1", [False, True])
def test_initial_parameters_are_the_notebooks_draws(with_b1):
    g = torch.Generator().manual_seed(2147483647)
    expected = {"C": torch.randn((27, 10), generator=g)}
    expected["w1"] = torch.randn((30, 64), generator=g) * (5 / 3) / 30**0.5
    if with_b1:
        expected["b1"] = torch.randn(64, generator=g) * 0.1
    expected["w2"] = torch.randn((64, 27), generator=g) * 0.1
    expected["b2"] = torch.randn(27, generator=g) * 0.1
    expected["bngain"] = torch.randn((1, 64), generator=g) * 0.1 + 1.0
    expected["bnbias"] = torch.randn((1, 64), generator=g) * 0.1
    params = chunked.init_params(TorchGenerator(2147483647), with_b1=with_b1)
    assert list(params) == list(expected)
    for name, p in params.items():
        np.testing.assert_allclose(p, expected[name].numpy(), rtol=1e-6, atol=1e-6, strict=True)


@pytest.mark.parametrize("with_b1", [False, True])
def test_the_notebooks_minibatch_for_many_seeds(with_b1):
    for seed in range(10):
        net = minibatch(NAMES, seed, with_b1=with_b1)
        assert problems(*net, *both_passes(*net)) == []


def test_the_notebooks_minibatch_of_the_original_names(makemore_names):
    net = minibatch(makemore_names)
    values, gradients = both_passes(*net)
    assert net[1].shape == (32, 3)
    assert values["loss"] == pytest.approx(3.3461, abs=5e-5)
    assert problems(*net, values, gradients) == []


# One line of `backward` each, as somebody might write it. All sizes are equal in the second
# network, so that a transposed product has the right shape there; the third is float32.
NETWORKS = [
    network((5, 3, 4, 6, 7)),
    network((6, 2, 3, 6, 6), seed=1),
    network((5, 2, 3, 4, 6), dtype=np.float32, seed=2),
]
UPSTREAM = -0.7
WRONG = [
    ("dlogprobs", "(-float(dloss) / n)", "-float(dloss)", "the sum for the mean"),
    ("dlogprobs", "(-float(dloss) / n)", "(-1.0 / n)", "an ignored upstream"),
    ("dlogprobs", "(-float(dloss) / n)", "(float(dloss) / n)", "a sign"),
    ("dlogprobs", "onehot[y] * (-float", "np.eye(V)[y] * (-float", "a promoted dtype"),
    ("dprobs", "dlogprobs / probs", "dlogprobs * probs", "the slope of the logarithm upside down"),
    (
        "dcounts_sum_inv",
        "(dprobs * counts).sum(1, keepdims=True)",
        "dprobs * counts",
        "no sum over the broadcast",
    ),
    (
        "dcounts_sum_inv",
        "(dprobs * counts).sum(1,",
        "(dprobs * counts).mean(1,",
        "the mean for the sum",
    ),
    ("dcounts_sum_inv", "(dprobs * counts).sum(1,", "(dprobs * counts).sum(0,", "the other axis"),
    ("dcounts_sum", "-(counts_sum**-2) *", "counts_sum**-2 *", "a sign"),
    ("dcounts_sum", "-(counts_sum**-2) *", "-(counts_sum**-1) *", "an exponent"),
    ("dcounts", "dprobs + dcounts_sum", "dprobs", "the second use forgotten"),
    (
        "dcounts",
        "counts_sum_inv * dprobs + dcounts_sum",
        "0 * dprobs + dcounts_sum",
        "the first use overwritten",
    ),
    ("dnorm_logits", "counts * dcounts", "dcounts", "the slope of exp forgotten"),
    ("dnorm_logits", "counts * dcounts", "probs * dcounts", "probabilities for counts"),
    (
        "dlogit_maxes",
        "-dnorm_logits.sum(1, keepdims=True)",
        "-dnorm_logits.sum(1)",
        "keepdims forgotten",
    ),
    (
        "dlogit_maxes",
        "-dnorm_logits.sum(1,",
        "-dnorm_logits.max(1,",
        "the maximum taken for its gradient",
    ),
    (
        "dlogits",
        "dnorm_logits + onehot[logits.argmax(1)]",
        "onehot[logits.argmax(1)]",
        "the first use overwritten",
    ),
    (
        "dlogits",
        "dnorm_logits + onehot[logits.argmax(1)]",
        "probs - onehot[y] + 0",
        "the fused form without its scale",
    ),
    ("dh", "dlogits @ w2.T", "dlogits @ w2", "a transposed weight"),
    ("dh", "dlogits @ w2.T", "dnorm_logits @ (w2.T / n)", "divided by n twice"),
    ("dw2", "h.T @ dlogits", "h @ dlogits", "a transposed input"),
    ("dw2", "h.T @ dlogits", "dlogits.T @ h", "the transpose of the result"),
    ("dw2", "h.T @ dlogits", "h.T @ dlogits / n", "the mean for the sum"),
    ("db2", "dlogits.sum(0)", "dlogits.mean(0)", "the mean for the sum"),
    ("db2", "dlogits.sum(0)", "dlogits.sum(0, keepdims=True)", "a shape that only broadcasts"),
    ("db2", "dlogits.sum(0)", "dlogits.sum(1)", "the other axis"),
    ("dhpreact", "(1.0 - h**2)", "(1.0 - h)", "the square forgotten"),
    ("dhpreact", "(1.0 - h**2)", "(1.0 - np.tanh(h) ** 2)", "tanh taken twice"),
    ("dhpreact", "(1.0 - h**2) * dh", "1.0 - h**2 * dh", "brackets"),
    ("dbngain", "(bnraw * dhpreact)", "(bndiff * dhpreact)", "the value before the scaling"),
    (
        "dbngain",
        "(bnraw * dhpreact).sum(0, keepdims=True)",
        "(bnraw * dhpreact).sum(0)",
        "keepdims forgotten",
    ),
    (
        "dbnbias",
        "dbnbias = dhpreact.sum(0, keepdims=True)",
        "dbnbias = dhpreact.sum(0)",
        "keepdims forgotten",
    ),
    ("dbnbias", "dbnbias = dhpreact.sum(0,", "dbnbias = dhpreact.mean(0,", "the mean for the sum"),
    ("dbnraw", "bngain * dhpreact", "1.0 * dhpreact", "the gain forgotten"),
    ("dbnvar_inv", "(bndiff * dbnraw)", "(bnraw * dbnraw)", "the value after the scaling"),
    (
        "dbnvar_inv",
        "(bndiff * dbnraw).sum(0, keepdims=True)",
        "bndiff * dbnraw",
        "no sum over the broadcast",
    ),
    ("dbnvar", "-0.5 * (bnvar", "0.5 * (bnvar", "a sign"),
    ("dbnvar", "** -1.5", "** -0.5", "an exponent"),
    ("dbnvar", "(bnvar + EPS)", "bnvar", "eps forgotten"),
    ("dbnvar", "(bnvar + EPS)", "(bnvar + 1e-6)", "another eps"),
    ("dbndiff2", "1 / (n - 1)", "1 / n", "n for n - 1"),
    (
        "dbndiff2",
        "1 / (n - 1) * np.ones_like(bndiff2) * dbnvar",
        "1 / (n - 1) * dbnvar",
        "a shape that only broadcasts",
    ),
    ("dbndiff", " + 2.0 * bndiff * dbndiff2", "", "the second use forgotten"),
    ("dbndiff", "bnvar_inv * dbnraw + 2.0", "2.0", "the first use overwritten"),
    ("dbndiff", "2.0 * bndiff * dbndiff2", "bndiff * dbndiff2", "the factor of the square"),
    ("dbnmean", "-dbndiff.sum(0,", "dbndiff.sum(0,", "a sign"),
    ("dbnmean", "-dbndiff.sum(0,", "-dbndiff.mean(0,", "the mean for the sum"),
    ("dhprebn", "dbndiff + 1 / n * dbnmean", "dbndiff", "the mean held fixed"),
    ("dhprebn", "1 / n * dbnmean", "dbnmean", "the factor of the mean"),
    ("dhprebn", "1 / n * dbnmean", "1 / (n - 1) * dbnmean", "n - 1 for n"),
    ("dembconcat", "dhprebn @ w1.T", "dhprebn @ w1", "a transposed weight"),
    ("dembconcat", "dhprebn @ w1.T", "dbndiff @ w1.T", "the step before left out"),
    ("dw1", "embconcat.T @ dhprebn", "embconcat @ dhprebn", "a transposed input"),
    ("dw1", "embconcat.T @ dhprebn", "embconcat.T @ dbndiff", "the step before left out"),
    ("db1", "dhprebn.sum(0)", "dhprebn.sum(1)", "the other axis"),
    ("db1", "dhprebn.sum(0)", "dbndiff.sum(0)", "the step before left out"),
    ("db1", "dhprebn.sum(0)", "dhprebn.sum(0, keepdims=True)", "a shape that only broadcasts"),
    (
        "demb",
        "dembconcat.reshape(emb.shape)",
        "dembconcat.reshape(emb.shape) / emb.shape[1]",
        "the mean for the sum",
    ),
    ("demb", "reshape(emb.shape)", "reshape(emb.shape, order='F')", "the numbers in another order"),
    ("dC", "np.add.at(dC, x, demb)", "dC[x] += demb", "lost duplicates"),
    ("dC", "np.add.at(dC, x, demb)", "dC[x] = demb", "overwritten duplicates"),
    ("dC", "np.add.at(dC, x, demb)", "np.add.at(dC, x[:, ::-1], demb)", "the context reversed"),
    ("dC", "np.zeros_like(C)", "np.zeros(C.shape)", "a promoted dtype"),
    ("dC", "np.zeros_like(C)", "C.copy()", "not starting at zero"),
]
EQUIVALENT = [
    (
        "dlogits",
        " + onehot[logits.argmax(1)] * dlogit_maxes",
        "",
        "what comes through the maximum is 0",
    ),
    (
        "dbnmean",
        "-dbndiff.sum(0,",
        "-(bnvar_inv * dbnraw).sum(0,",
        "differences from a mean add up to 0",
    ),
    ("db1", "dhprebn.sum(0)", "dhprebn.mean(0)", "db1 is 0"),
    ("db1", "dhprebn.sum(0)", "np.zeros_like(params['b1'])", "db1 is 0"),
]


def rewritten(old, new):
    """`chunked.backward` with one piece of its code replaced."""
    source = inspect.getsource(chunked.backward)
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in backward"
    scope = dict(vars(chunked))
    exec(source.replace(old, new), scope)
    return scope["backward"]


def verdicts(old, new):
    """Whether each network accepts the rewritten backward; left out is where it cannot even run."""
    backward = rewritten(old, new)
    for net in NETWORKS:
        try:
            values, gradients = both_passes(*net, UPSTREAM, backward)
        except ValueError:
            continue
        yield problems(*net, values, gradients, UPSTREAM) == []


def label(case):
    return "-".join((case[0], case[3])).replace(" ", "_")


@pytest.mark.parametrize("case", WRONG, ids=label)
def test_a_wrong_line_is_rejected(case):
    assert not all(verdicts(*case[1:3]))


@pytest.mark.parametrize("case", EQUIVALENT, ids=label)
def test_an_equivalent_line_is_accepted(case):
    found = list(verdicts(*case[1:3]))
    assert len(found) == len(NETWORKS) and all(found)


def test_every_gradient_has_a_wrong_line():
    assert {case[0] for case in WRONG} == set(both_passes(*NETWORKS[0])[1])
