"""The third lecture's diagnostics against the lecture's own cells run in torch, and the figures it
published."""

import os
import re
import resource
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import ENVIRONMENT, bad, good, start
from configs import config_for

from npnet import diagnose
from npnet.data import Vocabulary, build_dataset, read_words, split
from npnet.models import BUILDERS, build
from npnet.presets import PRESETS
from npnet.random import TorchGenerator

CHAINS = ("mlp", "mlp_running", "mlp_deep", "mlp_makemore", "wavenet")
NAMES = read_words()


class Linear:
    def __init__(self, fan_in, fan_out, generator):
        self.weight = torch.randn((fan_in, fan_out), generator=generator) / fan_in**0.5

    def __call__(self, x):
        self.out = x @ self.weight
        return self.out

    def parameters(self):
        return [self.weight]


class BatchNorm1d:
    def __init__(self, dim):
        self.gamma, self.beta = torch.ones(dim), torch.zeros(dim)

    def __call__(self, x):
        xhat = (x - x.mean(0, keepdim=True)) / torch.sqrt(x.var(0, keepdim=True) + 1e-5)
        self.out = self.gamma * xhat + self.beta
        return self.out

    def parameters(self):
        return [self.gamma, self.beta]


class Tanh:
    def __call__(self, x):
        self.out = torch.tanh(x)
        return self.out

    def parameters(self):
        return []


def deep_network(words, steps):
    """The lecture's deeper network, trained for so many steps by its loop -> layers, parameters,
    update sizes."""
    vocabulary = Vocabulary(words)
    x, y = (torch.from_numpy(np.asarray(a)) for a in build_dataset(split(words)[0], vocabulary, 3))
    V, g = len(vocabulary), torch.Generator().manual_seed(2147483647)
    C = torch.randn((V, 10), generator=g)
    layers = []
    widths = [30, 100, 100, 100, 100, 100, V]
    for fan_in, fan_out in pairwise(widths):
        layers += [Linear(fan_in, fan_out, g), BatchNorm1d(fan_out), Tanh()]
    layers.pop()
    layers[-1].gamma *= 0.1
    parameters = [C] + [p for layer in layers for p in layer.parameters()]
    for p in parameters:
        p.requires_grad = True
    sizes = []
    for _ in range(steps):
        ix = torch.randint(0, len(x), (32,), generator=g)
        h = C[x[ix]].view(32, -1)
        for layer in layers:
            h = layer(h)
        loss = F.cross_entropy(h, y[ix])
        for layer in layers:
            layer.out.retain_grad()
        for p in parameters:
            p.grad = None
        loss.backward()
        with torch.no_grad():
            for p in parameters:
                p += -0.1 * p.grad
            sizes.append(
                [((0.1 * p.grad).std() / p.std()).log10().item() for p in parameters if p.ndim == 2]
            )
    return layers, parameters, sizes


@torch.no_grad()
def lecture_lines(layers, parameters):
    """What the lecture's three cells print, in the lecture's formats."""
    tanhs = [
        (i, layer.__class__.__name__, layer.out)
        for i, layer in enumerate(layers)
        if isinstance(layer, Tanh)
    ]
    for i, name, t in tanhs:
        saturated = (t.abs() > 0.97).float().mean() * 100
        values = (i, name, t.mean(), t.std(), saturated)
        yield "layer %d (%10s): mean %+.2f, std %.2f, saturated: %.2f%%" % values  # noqa: UP031
    for i, name, t in tanhs:
        yield "layer %d (%10s): mean %+f, std %e" % (i, name, t.grad.mean(), t.grad.std())  # noqa: UP031
    for p in parameters:
        if p.ndim == 2:
            values = (tuple(p.shape), p.grad.mean(), p.grad.std(), p.grad.std() / p.std())
            yield "weight %10s | mean %+f | std %e | grad:data ratio %e" % values  # noqa: UP031


NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]\d+)?")


def same_lines(ours, theirs, rtol):
    """The same text, and every number within rtol, or one in the last printed digit where it has no
    exponent."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        blanks = [NUMBER.sub(lambda m: "#" * len(m.group()), line) for line in (a, b)]
        assert blanks[0] == blanks[1], (a, b)
        for p, q in zip(NUMBER.findall(a), NUMBER.findall(b), strict=True):
            atol = 0 if "e" in q else 1.001 * 10.0 ** -len(q.partition(".")[2])
            assert abs(float(p) - float(q)) <= atol + rtol * abs(float(q)), (a, b)


def table(text):
    return [line for line in text.splitlines() if line.startswith(("layer ", "weight "))]


def test_the_tables_are_the_lectures_cells(capsys):
    preset = replace(PRESETS["part3-deep"], stop=40)
    diagnose.diagnose(preset, NAMES)
    layers, parameters, _ = deep_network(NAMES, 40)
    theirs = list(lecture_lines(layers, parameters))
    assert [line.split()[1] for line in theirs[:5]] == ["2", "5", "8", "11", "14"]
    same_lines(table(capsys.readouterr().out), theirs, 1e-4)


def test_the_published_tables(makemore_names, capsys):
    diagnose.diagnose(PRESETS["part3-deep"], read_words(makemore_names))
    same_lines(table(capsys.readouterr().out), PUBLISHED.strip().splitlines(), 1e-5)


PUBLISHED = """
layer 2 (      Tanh): mean -0.00, std 0.63, saturated: 2.78%
layer 5 (      Tanh): mean +0.00, std 0.64, saturated: 2.56%
layer 8 (      Tanh): mean -0.00, std 0.65, saturated: 2.25%
layer 11 (      Tanh): mean +0.00, std 0.65, saturated: 1.69%
layer 14 (      Tanh): mean +0.00, std 0.65, saturated: 1.88%
layer 2 (      Tanh): mean +0.000000, std 2.640702e-03
layer 5 (      Tanh): mean +0.000000, std 2.245584e-03
layer 8 (      Tanh): mean -0.000000, std 2.045742e-03
layer 11 (      Tanh): mean +0.000000, std 1.983134e-03
layer 14 (      Tanh): mean -0.000000, std 1.952382e-03
weight   (27, 10) | mean -0.000000 | std 8.020534e-03 | grad:data ratio 8.012630e-03
weight  (30, 100) | mean +0.000246 | std 9.241077e-03 | grad:data ratio 4.881091e-02
weight (100, 100) | mean +0.000113 | std 7.132879e-03 | grad:data ratio 6.964619e-02
weight (100, 100) | mean -0.000086 | std 6.234305e-03 | grad:data ratio 6.073741e-02
weight (100, 100) | mean +0.000052 | std 5.742187e-03 | grad:data ratio 5.631483e-02
weight (100, 100) | mean +0.000032 | std 5.672205e-03 | grad:data ratio 5.570125e-02
weight  (100, 27) | mean -0.000082 | std 1.209416e-02 | grad:data ratio 1.160106e-01
"""


def test_the_update_sizes_are_the_lectures():
    preset = replace(PRESETS["part3-deep"], stop=5)
    run = preset.prepare(NAMES)
    batches = run.batches(0)
    ours = []
    for _ in range(5):
        diagnose.observe(run.model, *next(batches))
        run.optimizer.step(0.1)
        ours.append(diagnose.update_sizes(run.model, 0.1))
    np.testing.assert_allclose(ours, deep_network(NAMES, 5)[2], atol=1e-4)


@pytest.mark.parametrize("kind", CHAINS)
def test_observing_is_the_same_two_passes(kind):
    config = config_for(kind, 7, 4, n_layer=3, n_embd=3, n_embd2=5)
    plain, observed = (build(kind, config, TorchGenerator(1)) for _ in range(2))
    rng = np.random.default_rng(2)
    x = rng.integers(0, 7, (6, 4))
    y = rng.integers(0, 7, 6 if plain.windowed else (6, 4))
    plain.loss_and_grad(x, y)
    tanhs = diagnose.observe(observed, x, y)
    assert np.array_equal(plain.grad, observed.grad)
    for a, b in zip(plain.buffers().values(), observed.buffers().values(), strict=True):
        assert np.array_equal(a, b)
    assert all(t.out.shape == t.grad.shape and t.out.shape[-1] == 5 for t in tanhs)
    # Moving one activation moves the loss by its gradient: the last tanh is followed by the head
    # alone.
    head = observed.network.layers.get("head")
    if head is not None:
        last = tanhs[-1]
        picked = observed.packed(x, y, apart=True)[1]
        rows = last.out.reshape(-1, 5).astype(np.float64)
        step = np.zeros_like(rows)
        step[1, 2] = 1e-6

        def loss(h):
            z = torch.from_numpy(h @ head.weight.data.astype(np.float64) + head.bias.data)
            return F.cross_entropy(z, torch.from_numpy(picked)).item()

        slope = (loss(rows + step) - loss(rows - step)) / 2e-6
        assert slope == pytest.approx(last.grad.reshape(-1, 5)[1, 2], rel=1e-3, abs=1e-7)


@pytest.mark.parametrize(
    ("preset", "numbers"), [("part3", [2]), ("part4", [2]), ("part5", [2, 5, 8])]
)
def test_numbers_count_linear_batchnorm_and_tanh(preset, numbers):
    run = PRESETS[preset].prepare(NAMES[:200])
    tanhs = diagnose.observe(run.model, *next(run.batches(0)))
    assert [t.number for t in tanhs] == numbers


@pytest.mark.parametrize("kind", sorted(set(BUILDERS) - set(CHAINS)))
def test_other_networks_are_refused(kind):
    model = build(kind, config_for(kind, 5, 4, n_embd=8, n_embd2=8), TorchGenerator(1))
    with pytest.raises(ValueError, match=f"plain chain .* {kind} is none"):
        diagnose.observe(model, np.zeros((2, 4), np.int64), np.zeros((2, 4), np.int64))


@pytest.mark.parametrize("name", ["part1", "makemore-mlp", "microgpt"])
def test_other_presets_are_refused(name):
    with pytest.raises(ValueError, match=f"lectures .*part3-deep.* not {name}"):
        diagnose.diagnose(PRESETS[name], NAMES)


@pytest.mark.parametrize("stop", [0, -1])
def test_there_must_be_a_last_step(stop):
    with pytest.raises(ValueError, match="at least 1"):
        diagnose.diagnose(replace(PRESETS["part3"], stop=stop), NAMES)


def test_the_command_draws(tmp_path):
    matplotlib = pytest.importorskip("matplotlib.image")
    done = good("diagnose", "-q", "--max-steps", 30, "--plot", tmp_path / "plots")
    assert done.stderr == ""
    assert len(table(done.stdout)) == 5 + 5 + 7
    files = {path.name for path in (tmp_path / "plots").iterdir()}
    assert files == {"activations.png", "gradients.png", "weight-gradients.png", "updates.png"}
    for name in files:
        image = matplotlib.imread(tmp_path / "plots" / name)
        assert image.shape[0] > 400 and image.shape[1] > 1000 and image[..., :3].std() > 0.05


def test_a_picture_without_room_is_named_and_leaves_nothing(tmp_path):
    pytest.importorskip("matplotlib")
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))}
    flags = ["diagnose", "-q", "--max-steps", 2, "--plot", tmp_path]
    with start(*flags, **limit) as process:
        said = process.stderr.read()
    assert process.returncode == 2
    assert said == f"npnet: {tmp_path / 'activations.png'}: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_a_curve_of_one_step_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    diagnose.diagnose(replace(PRESETS["part5"], stop=1), NAMES[:200], tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_long_curve_is_thinned(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(diagnose, "MOST_POINTS", 10)
    monkeypatch.setattr(
        diagnose, "figures", lambda model, tanhs, sizes, step: drawn.append(sizes) or {}
    )
    diagnose.diagnose(replace(PRESETS["part3"], stop=35), NAMES[:200], tmp_path)
    assert list(drawn[0]) == [*range(0, 35, 4), 34]


def test_without_matplotlib_it_says_what_to_install(tmp_path):
    (tmp_path / "matplotlib.py").write_text("raise ImportError('blocked')")
    plots = tmp_path / "plots"
    first = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ENVIRONMENT['PYTHONPATH']}"}
    said = bad("diagnose", "--plot", plots, **first)
    assert said == 'npnet: pictures need matplotlib: pip install "npnet-trainer[plot]"\n'
    assert not plots.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "part9"], "unknown preset 'part9'"),
        (["--preset", "makemore-rnn"], "not makemore-rnn"),
        (["--max-steps", "0"], "at least 1"),
        (["-i", "nowhere.txt"], "nowhere.txt"),
        (["--plot", "/dev/null"], "/dev/null"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    bad("diagnose", *arguments, says=message)
