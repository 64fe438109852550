"""Weights from makemore.py and back."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from configs import config_for
from hypothesis import given, settings
from hypothesis import strategies as st
from makemore_models import MAKEMORE

from npnet import makemore
from npnet.makemore import KINDS, from_makemore
from npnet.models import Config, build
from npnet.optim import AdamW, constant
from npnet.random import TorchGenerator
from npnet.train import loop, minibatches


def as_read(type, config):
    """The same sizes without those that our model does not read."""
    return config_for(KINDS[type], **asdict(config))


CONFIG = Config(7, 5, n_layer=2, n_embd=6, n_embd2=8, n_head=3)
sizes = st.builds(
    lambda V, T, layers, head, n_head, H: Config(V, T, layers, head * n_head, H, n_head),
    *(st.integers(1, n) for n in (9, 6, 3, 4, 3, 7)),
)
few = settings(max_examples=max(1, settings().max_examples // 5))


def trained(type, config, seed=0):
    """makemore's model with every parameter random."""
    torch.manual_seed(seed)
    model = MAKEMORE[type](config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def same_logits(ours, theirs, config, seed=0):
    x = np.random.default_rng(seed).integers(0, config.vocab_size, (3, config.block_size))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(ours.logits(x), expected, rtol=1e-3, atol=1e-4, strict=True)


def to_makemore(model):
    """As a user of torch takes it."""
    return {name: torch.from_numpy(a) for name, a in makemore.to_makemore(model).items()}


@pytest.mark.parametrize("type", KINDS)
@few
@given(config=sizes, seed=st.integers(0, 2**32 - 1))
def test_the_weights_of_makemore_give_its_logits_and_come_back_with_the_same_bits(
    type, config, seed
):
    theirs = trained(type, config, seed)
    state = theirs.state_dict()
    ours = from_makemore(state, type, n_head=config.n_head, block_size=config.block_size)
    assert ours.data.dtype == np.float32
    same_logits(ours, theirs, config, seed)
    back = to_makemore(ours)
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor) and back[name].is_contiguous()


@pytest.mark.parametrize("type", KINDS)
def test_our_weights_load_into_makemore(type):
    ours = build(KINDS[type], as_read(type, CONFIG), TorchGenerator(1))
    ours.data[...] = np.random.default_rng(0).standard_normal(ours.data.size) * 0.5
    theirs = MAKEMORE[type](CONFIG)
    theirs.load_state_dict(to_makemore(ours), strict=True)
    same_logits(ours, theirs, CONFIG)
    with torch.no_grad():
        next(theirs.parameters()).zero_()
    assert ours.data.any()


def test_first_values_are_those_of_makemore():
    """The same seed and the same order of draws, so a run may start on either side."""
    for type, module in MAKEMORE.items():
        config = Config(7, 5, n_layer=1, n_embd=6, n_embd2=8, n_head=3)
        torch.manual_seed(3407)
        for name, tensor in module(config).state_dict().items():
            found = to_makemore(build(KINDS[type], as_read(type, config), TorchGenerator(3407)))[
                name
            ]
            np.testing.assert_allclose(
                found.numpy(), tensor.numpy(), rtol=1e-6, atol=1e-7, err_msg=f"{type} {name}"
            )


@pytest.mark.parametrize("type", KINDS)
def test_a_run_from_the_same_seed_is_makemore_s(type):
    """First values, batches, losses and the parameters after twenty steps of AdamW, each side by
    its own means."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 7, (40, 5)), rng.integers(-1, 7, (40, 5))
    torch.manual_seed(3407)
    theirs = MAKEMORE[type](CONFIG)
    rule = torch.optim.AdamW(theirs.parameters(), lr=5e-3, betas=(0.9, 0.99), weight_decay=0.01)
    expected = []
    for _ in range(20):
        ix = torch.randint(0, 40, (8,)).numpy()
        z, targets = theirs(torch.from_numpy(x[ix])), torch.from_numpy(y[ix])
        loss = torch.nn.functional.cross_entropy(z.view(-1, 7), targets.view(-1), ignore_index=-1)
        rule.zero_grad()
        loss.backward()
        rule.step()
        expected.append(loss.item())
    generator = TorchGenerator(3407)
    ours = build(KINDS[type], as_read(type, CONFIG), generator)
    optimizer = AdamW(ours.data, ours.grad, betas=(0.9, 0.99), weight_decay=0.01)
    losses = [
        loss
        for _, loss in loop(ours, minibatches(x, y, 8, generator), optimizer, constant(5e-3), 20)
    ]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    found = to_makemore(ours)
    for name, tensor in theirs.state_dict().items():
        if not name.endswith(
            "c_attn.bias"
        ):  # softmax does not see the keys' bias: Adam scales up what rounding leaves
            np.testing.assert_allclose(
                found[name].numpy(), tensor.numpy(), rtol=1e-3, atol=1e-3, err_msg=name
            )


def test_double_precision_and_arrays_are_kept():
    state = {
        name: tensor.double().numpy()
        for name, tensor in trained("gru", CONFIG).state_dict().items()
    }
    ours = from_makemore(state, "gru")
    assert ours.data.dtype == np.float64 and ours.config.block_size == 16
    for name, tensor in to_makemore(ours).items():
        np.testing.assert_array_equal(tensor.numpy(), state[name], strict=True)


def test_the_masks_may_be_missing():
    state = trained("transformer", CONFIG).state_dict()
    bare = {name: tensor for name, tensor in state.items() if not name.endswith(".attn.bias")}
    assert (
        from_makemore(bare, "transformer", n_head=3).data.tobytes()
        == from_makemore(state, "transformer", n_head=3).data.tobytes()
    )


def test_tied_weights_are_written_twice():
    tied = build(
        "transformer",
        Config(7, 5, n_layer=1, n_embd=6, n_head=3, tie_weights=True),
        TorchGenerator(0),
    )
    state = to_makemore(tied)
    assert torch.equal(state["lm_head.weight"], state["transformer.wte.weight"])
    x = np.array([[1, 2, 0]])
    np.testing.assert_allclose(
        from_makemore(state, "transformer", n_head=3).logits(x),
        tied.logits(x),
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("type", KINDS)
def test_what_is_wrong_is_named(type):
    masks = (".attn.bias", ".cbow.bias")
    state = {
        name: tensor
        for name, tensor in trained(type, CONFIG).state_dict().items()
        if not name.endswith(masks)
    }
    for name, tensor in state.items():
        for wrong, message in (
            (None, f"{name} is missing"),
            (torch.cat([tensor, tensor[..., :1]], -1), "has shape|n_head must"),
            (tensor[..., :0], "has shape"),
            (tensor[None], "has shape"),
            (tensor[0], "has shape"),
            (torch.full_like(tensor, torch.nan), "not finite"),
            ("weights", "not an array"),
        ):
            changed = state | {name: wrong}
            if wrong is None:
                del changed[name]
            with pytest.raises(ValueError, match=message) as caught:
                from_makemore(changed, type, n_head=3)
            assert name in str(caught.value)
    with pytest.raises(ValueError, match=r"unknown entry 'lm_head\.scale'"):
        from_makemore(state | {"lm_head.scale": torch.ones(1)}, type, n_head=3)


def test_what_does_not_fit_is_an_error():
    state = trained("transformer", CONFIG).state_dict()
    for n_head in (0, 4):
        with pytest.raises(ValueError, match="n_head must divide the 6 channels"):
            from_makemore(state, "transformer", n_head=n_head)
    with pytest.raises(ValueError, match="unknown type 'lstm'; makemore has bigram"):
        from_makemore(state, "lstm")
    with pytest.raises(ValueError, match="makemore has no wavenet"):
        to_makemore(build("wavenet", Config(7, 4), TorchGenerator(0)))
    with pytest.raises(ValueError, match="no Transformer in the style of lecture"):
        to_makemore(build("transformer", Config(7, 4, style="lecture"), TorchGenerator(0)))
    with pytest.raises(ValueError, match="is missing"):
        from_makemore({}, "rnn")
