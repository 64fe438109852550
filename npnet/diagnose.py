"""The third lecture's diagnostics: is every tanh alive, does the gradient reach it, do the weights
move at a good pace?

    tanhs = observe(model, x, y)
    print(*activation_lines(tanhs), *gradient_lines(tanhs), *weight_lines(model), sep="\\n")

For networks that are a plain chain of layers, such as the mlps of the lectures and wavenet. Layers
are numbered as the lecture lists them: Linear, BatchNorm1d, Tanh, ..., without those that only look
up or reshape. All standard deviations are unbiased.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npnet import train
from npnet.checkpoint import make_folder
from npnet.layers import BatchNorm, Linear, Residual, Tanh
from npnet.model import Model
from npnet.plot import colors, figure_class, record, save
from npnet.presets import ENDLESS, PRESETS, Lecture, Preset

SATURATED = 0.97
MOST_POINTS = 2000
GRADIENT = "gradient (nats per unit)"


@dataclass(frozen=True)
class Observed:
    """A layer's number in the lecture's list, its name, its output and that output's gradient."""

    number: int
    name: str
    out: np.ndarray
    grad: np.ndarray


def require_chain(model: Model) -> None:
    """ValueError, unless the network is a plain chain of layers with a tanh in it."""
    layers = [layer for _, layer in model.network.walk()]
    branches = any(isinstance(layer, Residual) for layer in layers)
    if branches or not any(isinstance(layer, Tanh) for layer in layers):
        raise ValueError(
            "the diagnostics need a plain chain of layers with tanh among them; "
            f"{model.kind} is none"
        )


def observe(model: Model, x: np.ndarray, y: np.ndarray) -> list[Observed]:
    """The output of every tanh on one minibatch, and its gradient, in order; every gradient is left
    in model.grad, see npnet.plot.record."""
    require_chain(model)
    seen: dict[str, Any] = record(model, x, y)
    counted = [
        (prefix.rstrip("."), layer)
        for prefix, layer in model.network.walk()
        if isinstance(layer, (Linear, BatchNorm, Tanh))
    ]
    return [
        Observed(number, "Tanh", *seen[name])
        for number, (name, layer) in enumerate(counted)
        if isinstance(layer, Tanh)
    ]


def activation_lines(tanhs: list[Observed]) -> Iterator[str]:
    """Mean, standard deviation and the percentage of saturated activations, |a| > 0.97."""
    for t in tanhs:
        saturated = np.mean(np.abs(t.out) > SATURATED)
        summary = f"mean {_mean(t.out):+.2f}, std {_std(t.out):.2f}, saturated: {saturated:.2%}"
        yield f"layer {t.number} ({t.name:>10}): {summary}"


def gradient_lines(tanhs: list[Observed]) -> Iterator[str]:
    """Mean and standard deviation of the activations' gradients."""
    for t in tanhs:
        yield f"layer {t.number} ({t.name:>10}): mean {_mean(t.grad):+f}, std {_std(t.grad):e}"


def weight_lines(model: Model) -> Iterator[str]:
    """For every matrix: mean and standard deviation of its gradient, and the ratio of the latter to
    the standard deviation of its values."""
    for data, grad in matrices(model).values():
        mean, std, ratio = _mean(grad), _std(grad), _std(grad) / _std(data)
        summary = f"mean {mean:+f} | std {std:e} | grad:data ratio {ratio:e}"
        yield f"weight {data.shape!s:>10} | {summary}"


def update_sizes(model: Model, lr: float) -> list[float]:
    """For every matrix log10 of std(lr grad) / std(data): about -3 is a good pace for plain SGD."""
    with np.errstate(divide="ignore"):
        return [
            float(np.log10(lr * _std(grad) / _std(data))) for data, grad in matrices(model).values()
        ]


def matrices(model: Model) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (data, grad) of every parameter with two axes; gains and biases have one."""
    gradients = model.gradients()
    return {
        name: (data, gradients[name]) for name, data in model.parameters().items() if data.ndim == 2
    }


def diagnose(
    preset: Preset,
    words: list[str],
    plot_dir: str | Path | None = None,
    stage: Callable[[str], Callable[[int, int], None] | None] = lambda what: None,
) -> None:
    """Train by the preset and print the three tables for its last step; with plot_dir also draw
    them and the updates.

    Activations and gradients are those of the last step's minibatch; the ratios divide by the
    weights as it left them. stage(what) announces what takes its time, as for a npnet.runs.Run.
    """
    if not isinstance(preset, Lecture):
        known = ", ".join(name for name, other in PRESETS.items() if isinstance(other, Lecture))
        raise ValueError(
            f"diagnose takes the networks of the lectures ({known}), not {preset.name}"
        )
    if not 1 <= preset.last < ENDLESS:
        raise ValueError(f"--max-steps must be at least 1 here, got {preset.stop}")
    if plot_dir:
        figure_class()
        make_folder(Path(plot_dir))
    run = preset.prepare(words)
    require_chain(run.model)
    last = preset.last - 1
    stride = -(-preset.last // MOST_POINTS)
    sizes = {}
    batches, watch = run.batches(0), stage("step")
    for step, loss in train.loop(run.model, batches, run.optimizer, run.schedule, last):
        run.report(step, loss, 0.0)
        if watch:
            watch(step + 1, last)
        if plot_dir and step % stride == 0:
            sizes[step] = update_sizes(run.model, run.schedule(step))
    tanhs = observe(run.model, *next(batches))
    run.optimizer.step(run.schedule(last))
    sizes[last] = update_sizes(run.model, run.schedule(last))

    for title, lines in (
        ("activations", activation_lines(tanhs)),
        ("gradients of the activations", gradient_lines(tanhs)),
        ("gradients of the weights", weight_lines(run.model)),
    ):
        print(f"\n{title}, step {last}", *lines, sep="\n")
    if plot_dir:
        stage("drawing the pictures")
        print()
        for name, figure in figures(run.model, tanhs, sizes, last).items():
            save(figure, Path(plot_dir) / f"{name}.png")


def figures(
    model: Model, tanhs: list[Observed], sizes: dict[int, list[float]], step: int
) -> dict[str, Any]:
    """File name -> figure: the lecture's three histograms, and the curves of the update sizes,
    which `sizes` has for each step."""
    outs = {f"layer {t.number} ({t.name})": t.out for t in tanhs}
    grads = {f"layer {t.number} ({t.name})": t.grad for t in tanhs}
    weights = {f"{name} {data.shape}": grad for name, (data, grad) in matrices(model).items()}
    drawn = {}
    for name, title, label, arrays in (
        ("activations", "Activations", "activation", outs),
        ("gradients", "Gradients of the activations", GRADIENT, grads),
        ("weight-gradients", "Gradients of the weights", GRADIENT, weights),
    ):
        drawn[name] = _histograms(arrays)
        drawn[name].axes[0].set(title=f"{title}, step {step}", xlabel=label, ylabel="density")
    drawn["updates"] = _curves(list(weights), sizes)
    for figure in drawn.values():
        figure.axes[0].spines[["top", "right"]].set_visible(False)
        figure.axes[0].grid(alpha=0.25, linewidth=0.6)
    return drawn


def _histograms(arrays: dict[str, np.ndarray]) -> Any:
    figure = figure_class()(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    for (label, values), color in zip(arrays.items(), colors(len(arrays)), strict=True):
        density, edges = np.histogram(values, bins=100, density=True)
        axes.plot((edges[:-1] + edges[1:]) / 2, density, label=label, color=color, linewidth=1.3)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return figure


def _curves(labels: list[str], sizes: dict[int, list[float]]) -> Any:
    figure = figure_class()(figsize=(11, 5), layout="constrained")
    axes = figure.subplots()
    steps, curves = list(sizes), np.array(list(sizes.values())).T
    style = {"linewidth": 0.8, "marker": "." if len(steps) == 1 else ""}
    for label, curve, color in zip(labels, curves, colors(len(labels)), strict=True):
        axes.plot(steps, curve, label=label, color=color, **style)
    axes.axhline(-3, color="black", linewidth=1.2)
    axes.annotate("a good pace", (0, -3), (4, 4), textcoords="offset points", fontsize=9)
    axes.set(
        title="Size of the updates",
        xlabel="step",
        ylabel="log10 of std(lr * gradient) / std(weight)",
    )
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _mean(values: np.ndarray) -> float:
    return values.mean(dtype=np.float64)


def _std(values: np.ndarray) -> float:
    return values.std(ddof=1, dtype=np.float64)
