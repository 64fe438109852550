"""The Transformers of lecture 7 and of nanoGPT beside the originals in torch: first values, losses,
gradients and what they draw."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_ops import on_intel
from text_models import LectureGPT, NanoGPT

from npnet.models import Config, build
from npnet.optim import AdamW, cosine
from npnet.random import TorchGenerator
from npnet.train import loop

SIZES = {"vocab_size": 11, "block_size": 8, "n_layer": 2, "n_head": 2, "n_embd": 16}
MODELS = {
    "lecture": LectureGPT,
    "lecture-file": lambda c: LectureGPT(c, later=True),
    "nanogpt": NanoGPT,
}
needs_torch_masks = pytest.mark.skipif(
    on_intel(), reason="torch draws its masks by MKL on Intel's processors"
)


def pair(style, dropout=0.0, **sizes):
    """npnet's model and torch's, both drawn from seed 1337, and npnet's generator."""
    sizes = SIZES | sizes
    generator = TorchGenerator(1337)
    config = Config(**sizes, style=style, dropout=dropout, tie_weights=style == "nanogpt")
    model = build("transformer", config, generator)
    torch.manual_seed(1337)
    return model, MODELS[style](SimpleNamespace(**sizes, dropout=dropout)), generator


def torch_loss(model, x, y):
    return F.cross_entropy(model(torch.from_numpy(x)).flatten(0, 1), torch.from_numpy(y).flatten())


def batch(size=4, seed=0):
    V, T = SIZES["vocab_size"], SIZES["block_size"]
    return np.random.default_rng(seed).integers(0, V, (2, size, T))


@pytest.mark.parametrize(
    ("style", "dropout"),
    [
        *((style, 0.0) for style in MODELS),
        # The lecture drops out head by head, and not after the embedding.
        pytest.param("nanogpt", 0.2, marks=needs_torch_masks),
    ],
)
def test_first_values_loss_and_gradient_are_those_of_the_original(style, dropout):
    model, original, generator = pair(style, dropout)
    x, y = batch()
    loss = torch_loss(original, x, y)
    loss.backward()
    assert model.loss_and_grad(x, y) == pytest.approx(loss.item(), rel=1e-6)
    assert generator.rand(3).tolist() == torch.rand(3).tolist()
    values = torch.cat([p.flatten() for p in original.parameters()]).double()
    found = model.data.astype(np.float64)
    assert np.sort(found) == pytest.approx(values.detach().sort()[0].numpy(), rel=1e-6)
    slopes = torch.cat([p.grad.flatten() for p in original.parameters()]).double()
    assert np.sort(model.grad) == pytest.approx(slopes.sort()[0].numpy(), rel=1e-3, abs=1e-7)


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.2, marks=needs_torch_masks)])
def test_fifty_steps_are_those_of_nanogpt(dropout):
    """Decay of the matrices alone, clipping, warm-up and cosine, batches and masks from one
    stream."""
    model, original, generator = pair("nanogpt", dropout)
    text = np.random.default_rng(0).integers(0, SIZES["vocab_size"], 500)
    T = SIZES["block_size"]

    def batches(starts):
        while True:
            at = np.asarray(starts())[:, None] + np.arange(T + 1)
            yield text[at[:, :-1]], text[at[:, 1:]]

    drawn = batches(lambda: generator.randint(0, len(text) - T, (4,)))
    optimizer = AdamW(model.data, model.grad, (0.9, 0.99), 1e-8, 0.1, model.matrices())
    schedule = cosine(1e-2, 40, warmup=10, final=1e-3)
    losses = [loss for _, loss in loop(model, drawn, optimizer, schedule, 50, max_norm=1.0)]

    shaped = [[p for p in original.parameters() if (p.ndim > 1) == many] for many in (True, False)]
    groups = [{"params": p, "weight_decay": d} for p, d in zip(shaped, (0.1, 0.0), strict=True)]
    expected = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    drawn = batches(lambda: torch.randint(len(text) - T, (4,)))
    for step, loss in enumerate(losses):
        rate = 1e-2 * (step + 1) / 11
        if step >= 10:
            done = min(1, (step - 10) / 30)
            rate = 1e-3 + 0.5 * (1 + math.cos(math.pi * done)) * 9e-3
        for group in expected.param_groups:
            group["lr"] = rate
        theirs = torch_loss(original, *next(drawn))
        assert loss == pytest.approx(theirs.item(), abs=1e-4), step
        theirs.backward()
        torch.nn.utils.clip_grad_norm_(original.parameters(), 1.0)
        expected.step()
        expected.zero_grad(set_to_none=True)


def test_accumulated_batches_are_one_batch():
    one, _, _ = pair("nanogpt")
    several, _, _ = pair("nanogpt")
    x, y = batch(6)
    parts = [(x[i : i + 2], y[i : i + 2]) for i in (0, 2, 4)]
    losses = []
    for model, batches, n in ((one, [(x, y)], 1), (several, parts, 3)):
        optimizer = AdamW(model.data, model.grad, eps=1e-3)
        [(_, loss)] = loop(model, iter(batches), optimizer, lambda step: 0.1, 1, accumulate=n)
        losses.append(loss)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and losses[1].dtype == np.float32
    np.testing.assert_allclose(several.grad, one.grad, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(several.data, one.data, rtol=1e-3, atol=1e-5)
