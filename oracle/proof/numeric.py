"""The derivative of a forward written in NumPy, without torch: which of the two ways of
`oracle.proof.slopes` is to be trusted."""

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

import numpy as np

from oracle.proof.rounded import SIZE, rounded
from oracle.proof.slopes import (
    Arrays,
    Derivative,
    Function,
    NotComplexSafe,
    complex_step,
    differences,
    flat,
    hidden,
    largest,
    quiet,
)

MOST = 48  # elements of an input that central differences take, each dozens of calls


def derivative(
    f: Function,
    inputs: Arrays,
    dys: Sequence[np.ndarray],
    wrt: Sequence[str],
    analytic: bool = True,
) -> Derivative:
    """By the complex step where f is analytic and that can be trusted, else by central differences,
    for at most MOST neighbours of each input, at a random place."""
    rng = np.random.default_rng(zlib.crc32(b"".join(np.asarray(dy).tobytes() for dy in dys)))
    windows = {}
    for name in wrt:
        if inputs[name].size > MOST:
            first = int(rng.integers(inputs[name].size - MOST + 1))
            windows[name] = slice(first, first + MOST)
    try:
        if analytic:
            found = complex_step(f, inputs, dys, wrt)
            if agrees(f, inputs, dys, found):
                return found
    except NotComplexSafe:
        pass
    return differences(f, inputs, dys, wrt, windows)


def confirm(
    f: Function, inputs: Arrays, dys: Sequence[np.ndarray], wrt: Sequence[str], found: Derivative
) -> Derivative:
    """`found` checked again, with more effort, because a gradient contradicts it.

    Central differences in every element decide whether they or `found` stand. And where the
    gradient jumps right beside the point, as among three equal numbers to be sorted, what it is
    there is accepted too.
    """
    if found.method == "complex step":
        exact = differences(f, inputs, dys, wrt)
        size = float(np.abs(flat(dys)) @ rounding_of(f, inputs))
        for name, value in found.value.items():
            slack = hidden(size, inputs[name])  # y may stand still where it absorbs a term
            inside = (exact.low[name] - slack <= value) & (value <= exact.high[name] + slack)
            same = inside & (exact.kinked[name] <= found.kinked[name])
            if not np.all(same | ~exact.judged[name]):
                found = exact
                break
    return beside(f, inputs, dys, wrt, found)


def beside(
    f: Function, inputs: Arrays, dys: Sequence[np.ndarray], wrt: Sequence[str], found: Derivative
) -> Derivative:
    """`found` with what is accepted widened to the gradients at a few points nearby, where those
    are others. The first two part equal numbers in their order, as argsort and argmax do."""
    rng = np.random.default_rng(0)
    low, high, kinked = (
        {n: a.copy() for n, a in d.items()} for d in (found.low, found.high, found.kinked)
    )
    complex_safe = found.method == "complex step"
    runs, distance = (8, 2.0**-20) if complex_safe else (4, 2.0**-14)
    for run in range(runs):
        near = dict(inputs)
        for name in wrt:
            x = inputs[name]
            order = np.linspace(-1, 1, x.size).reshape(x.shape)
            away = (order, -order)[run] if run < 2 else rng.uniform(-1, 1, x.shape)
            least = np.abs(x).min(where=x != 0, initial=largest(x))
            near[name] = x + distance * np.where(x == 0, least, np.abs(x)) * away
        try:
            other = again(found)(f, near, dys, wrt)
        except Exception:  # outside of the domain, perhaps
            continue
        for name in wrt:
            value = other.value[name]
            size = max(np.abs(value).max(initial=0), np.abs(found.value[name]).max(initial=0))
            jump = np.abs(value - found.value[name]) > 100 * distance * size
            jump &= other.judged[name] & found.judged[name]
            low[name] = np.where(jump, np.minimum(low[name], value), low[name])
            high[name] = np.where(jump, np.maximum(high[name], value), high[name])
            kinked[name] |= jump
    return replace(found, low=low, high=high, kinked=kinked)


def again(found: Derivative) -> Callable[..., Derivative]:
    """The way in which `found` was found, for the same elements."""
    if found.method == "complex step":
        return complex_step
    windows = {}
    for name, judged in found.judged.items():
        places = np.flatnonzero(judged)
        windows[name] = slice(places[0], places[-1] + 1) if places.size else slice(0)
    return partial(differences, windows=windows)


def sensitivity(
    f: Function,
    inputs: Arrays,
    dys: Sequence[np.ndarray],
    wrt: Sequence[str],
    found: Derivative,
    runs: int = 4,
    seed: int = 0,
) -> Arrays:
    """M = |g| + the mean of |g' - g| in units of the noise, with g' the gradient where all floating
    inputs and dys are multiplied by 1 + 2^-26 N(0, 1): what one rounding of each does to g.

    And where f can be differentiated by the complex step in `rounded` arithmetic, M is no smaller
    than what one rounding of each operation's result does: the inputs do not show how that cancels.
    At a kink, where g jumps, M is the larger of the one-sided derivatives.
    """
    rng = np.random.default_rng(seed)
    runs = runs if found.method == "complex step" else min(runs, 2)

    def perturbed(a: np.ndarray) -> np.ndarray:
        if a.dtype.kind != "f":
            return a
        return a * (1 + 2.0**-26 * rng.standard_normal(a.shape))

    def nearby() -> Derivative:
        near = {name: perturbed(a) for name, a in inputs.items()}
        upstream = [perturbed(np.asarray(dy)) for dy in dys]
        try:
            return again(found)(f, near, upstream, wrt)
        except NotComplexSafe:
            return differences(f, near, upstream, wrt)

    def moves(other: Derivative, size: float) -> Arrays:
        """|g' - g| in units of the noise, 0 where g is no number to be compared with."""
        smooth = {n: other.judged[n] & found.judged[n] & ~found.kinked[n] for n in wrt}
        by = {n: np.abs(other.value[n] - found.value[n]) for n in wrt}
        return {n: np.where(smooth[n], by[n], 0) / size for n in wrt}

    near = [moves(nearby(), 2.0**-26) for _ in range(runs)]
    inside = []
    for run in range(runs):
        with suppress(Exception):  # f may not take such arrays, or be analytic
            by = moves(complex_step(rounded(f, seed + run), inputs, dys, wrt), SIZE)
            if all(by[n].max(initial=0) * SIZE <= 2.0**-10 * largest(found.value[n]) for n in wrt):
                inside.append(by)  # and else it went another way
    return {
        n: np.maximum(np.abs(found.low[n]), np.abs(found.high[n]))
        + np.maximum(mean(near, n), mean(inside, n))
        for n in wrt
    }


def mean(each: list[Arrays], name: str) -> np.ndarray | float:
    return np.mean([a[name] for a in each], axis=0) if each else 0.0


def rounding_of(f: Function, inputs: Arrays, runs: int = 4) -> np.ndarray:
    """M of the outputs, in one row: |y| + the mean of |y' - y| in units of the noise."""
    with quiet():
        y = flat(f(inputs))
        moved = np.zeros(y.shape)
        for run in range(runs):
            with suppress(Exception):
                moved += np.abs(flat(rounded(f, run)(inputs)) - y)
    return np.abs(y) + np.where(np.isfinite(moved), moved, 0) / (runs * SIZE)


def agrees(f: Function, inputs: Arrays, dys: Sequence[np.ndarray], found: Derivative) -> bool:
    """Whether a central difference in one random direction says the same.

    It is inexact, but it sees a derivative that the complex step lost. What lies at a kink stays.
    """
    rng = np.random.default_rng(1)
    away, expected, size = {}, 0.0, 0.0
    for name, value in found.value.items():
        x = inputs[name]
        scale = np.where(x == 0, largest(x), np.abs(x))
        away[name] = np.where(found.kinked[name], 0, scale) * rng.standard_normal(x.shape)
        expected += float((value * away[name]).sum())
        size += float(np.abs(value * away[name]).sum())

    def at(step: float) -> np.ndarray:
        near = {n: a + step * away[n] if n in away else a.copy() for n, a in inputs.items()}
        return flat(dys) * flat(f(near))

    with quiet():
        for step in (1e-5, 1e-6, 1e-7):  # a smaller one, in case there is a kink in between
            try:
                up, down = at(step), at(-step)
            except Exception:
                continue
            known = np.isfinite(up) & np.isfinite(down)
            slope = float((up - down)[known].sum()) / (2 * step)
            rounding = 1e-14 * float((np.abs(up) + np.abs(down))[known].sum()) / step
            if abs(slope - expected) <= 1e-6 * size + rounding:
                return True
    return False
