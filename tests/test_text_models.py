"""The Transformers of lecture 7 and of nanoGPT beside the originals in torch: first values, losses,
gradients and what they draw."""

import math
import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_ops import on_intel

from benchmarks.peers import torch_text
from benchmarks.peers.torch_text import LectureGPT, NanoGPT
from npnet.layers import GELU, ReLU
from npnet.models import STYLES, Config, build
from npnet.optim import AdamW, cosine
from npnet.presets import PRESETS
from npnet.random import TorchGenerator
from npnet.text import read_text
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
    return torch_text.next_token_loss(model, torch.from_numpy(x), torch.from_numpy(y))


def batch(size=4, seed=0):
    V, T = SIZES["vocab_size"], SIZES["block_size"]
    return np.random.default_rng(seed).integers(0, V, (2, size, T))


@pytest.mark.parametrize(
    ("style", "dropout"),
    [
        *((style, 0.0) for style in MODELS),
        *(pytest.param(style, 0.2, marks=needs_torch_masks) for style in MODELS),
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

    expected = torch_text.nanogpt_optimizer(original)
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


def test_a_resumed_run_goes_on_with_the_same_batches_and_masks():
    sizes = {"n_layer": 1, "n_embd": 16, "n_head": 2, "block_size": 8, "eval_every": 4}
    preset = replace(PRESETS["nanogpt-cpu"], **sizes, dropout=0.3, accumulate=2)
    play = read_text()
    whole = [loss for _, loss in replace(preset, stop=7).prepare(play).steps()]
    begun, resumed = (replace(preset, stop=stop).prepare(play) for stop in (3, 7))
    losses = [loss for _, loss in begun.steps()]
    resumed.model.data[...] = begun.model.data
    for name, array in begun.optimizer.state().items():
        resumed.optimizer.state()[name][...] = array
    resumed.generator.set_state(begun.generator.state())
    assert losses + [loss for _, loss in resumed.steps(3)] == whole


# ---- the published runs


def printed_by(preset, text, capsys, **settings):
    """What the run prints, and its losses."""
    run = replace(PRESETS[preset], **settings).prepare(read_text(text))
    losses = []
    for step, loss in run.steps():
        run.report(step, loss, 0.0)
        losses.append(float(loss))
    run.finish()
    return capsys.readouterr().out, losses


def evaluations(printed):
    """step -> (train, val), as printed."""
    found = re.findall(r"^step (\d+): train loss (\S+), val loss (\S+)$", printed, re.MULTILINE)
    return {int(step): (float(train), float(val)) for step, train, val in found}


# Logs of several people's machines and of torch 2.13: step, lowest and highest train, then val.
LECTURE_LOG = """
    0 4.4116 4.4116 4.4022 4.4022
  100 2.6568 2.6568 2.6670 2.6670
  200 2.5090 2.5091 2.5058 2.5060
  300 2.4195 2.4198 2.4335 2.4340
  400 2.3502 2.3507 2.3565 2.3569
  500 2.2964 2.2970 2.3127 2.3136
  600 2.2410 2.2410 2.2496 2.2506
  700 2.2048 2.2062 2.2183 2.2201
  800 2.1636 2.1640 2.1864 2.1872
  900 2.1232 2.1242 2.1494 2.1504
 1000 2.1020 2.1028 2.1291 2.1301
 1500 1.9706 1.9711 2.0308 2.0315
 2000 1.8825 1.8875 1.9938 1.9996
 2500 1.8149 1.8174 1.9422 1.9455
 3000 1.7953 1.7963 1.9193 1.9242
 4000 1.7146 1.7165 1.8591 1.8665
 4999 1.6555 1.6664 1.8139 1.8275
"""


@pytest.mark.parametrize("stop", [101, pytest.param(5000, marks=pytest.mark.slow)])
def test_part7_is_the_lectures_log(stop, tinyshakespeare, capsys):
    printed, _ = printed_by("part7", tinyshakespeare, capsys, stop=stop, characters=0)
    found = evaluations(printed)
    for line in LECTURE_LOG.split("\n")[1:-1]:
        step, *spans = map(float, line.split())
        if step >= stop:
            continue
        slack = 0 if step <= 100 else 0.003 if step <= 1000 else 0.02
        for loss, low, high in zip(found[step], spans[::2], spans[1::2], strict=True):
            assert low - slack - 1e-9 <= loss <= high + slack + 1e-9, step
    if stop == 5000:
        assert len(found) == 51 and found[4999][1] <= 1.84


NANOGPT_LOSSES = {
    0.0: [4.1828, 4.1373, 4.1347, 4.0995, 4.0387, 3.9758],
    0.2: [4.1757, 4.1742, 4.1436, 4.1264, 4.0649, 4.0318],
}


@pytest.mark.parametrize("dropout", NANOGPT_LOSSES)
def test_nanogpt_begins_as_the_original(dropout, tinyshakespeare, capsys):
    printed, losses = printed_by(
        "nanogpt-cpu", tinyshakespeare, capsys, stop=6, characters=0, dropout=dropout
    )
    assert evaluations(printed) == {0: (4.1676, 4.1649)}
    assert [round(loss, 4) for loss in losses] == NANOGPT_LOSSES[dropout]
    assert "iter 5: loss" in printed


@needs_torch_masks
@pytest.mark.slow
def test_fifty_steps_of_nanogpt_with_dropout_are_those_of_torch(tinyshakespeare, capsys):
    _, losses = printed_by(
        "nanogpt-cpu", tinyshakespeare, capsys, stop=50, characters=0, dropout=0.2
    )
    text = read_text(tinyshakespeare)
    expected = nanogpt_in_torch(text, 50, 0.2)
    assert np.abs(np.subtract(losses, expected)).max() < 1e-4


def nanogpt_in_torch(text, steps, dropout):
    """The losses of the first steps of train.py, the first evaluation's batches drawn too."""
    T, B, n = 64, 12, int(0.9 * len(text))
    ids = torch.tensor(text.ids, dtype=torch.long)
    torch.manual_seed(1337)
    sizes = {"vocab_size": len(text.vocabulary), "block_size": T, "n_layer": 4, "n_head": 4}
    model = NanoGPT(SimpleNamespace(**sizes, n_embd=128, dropout=dropout))
    optimizer = torch_text.nanogpt_optimizer(model)
    batch = torch_text.get_batch(ids[:n], T, B)
    for part in (ids[:n], ids[n:]):
        for _ in range(20):
            torch_text.get_batch(part, T, B)
    losses = []
    for step in range(steps):
        losses.append(torch_text.nanogpt_step(model, optimizer, *batch, step).item())
        batch = torch_text.get_batch(ids[:n], T, B)
    return losses


@pytest.mark.slow
def test_it_is_the_kink_of_relu_that_makes_the_lectures_runs_part(monkeypatch):
    """Rounding decides the sign of an input that is nearly zero; GELU has no kink there."""
    ids = torch.from_numpy(read_text().ids.astype("int64"))

    def largest_difference(steps):
        model, original, _ = pair("lecture", vocab_size=256, block_size=32, n_layer=4, n_embd=64)
        if not isinstance(STYLES["lecture"].activation(), ReLU):
            for block in original.blocks:
                block.ffwd[1] = torch.nn.GELU()
        optimizer = torch_text.lecture_optimizer(original)
        drawn = [torch_text.get_batch(ids, 32, 16) for _ in range(steps)]
        arrays = ((x.numpy(), y.numpy()) for x, y in drawn)
        ours = AdamW(model.data, model.grad)
        return max(
            abs(loss - torch_text.lecture_step(original, optimizer, *drawn[step], step).item())
            for step, loss in loop(model, arrays, ours, lambda step: 1e-3, steps)
        )

    assert largest_difference(250) > 1e-5
    smooth = STYLES["lecture"]._replace(activation=partial(GELU, "none"))
    monkeypatch.setitem(STYLES, "lecture", smooth)
    assert largest_difference(250) < 2e-6


@pytest.mark.slow
def test_nanogpt_ends_as_the_original(tinyshakespeare, capsys):
    printed, _ = printed_by("nanogpt-cpu", tinyshakespeare, capsys, characters=0)
    train, val = evaluations(printed)[2000]
    assert abs(train - 1.7648) < 0.02 and abs(val - 1.8857) < 0.02 and val < 1.92
