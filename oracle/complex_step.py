"""Derivatives of a NumPy function, without torch and without a difference.

f(x + ih) = f(x) + ih f'(x) + O(h^2): with h = 1e-30 the last term is gone and nothing is
subtracted, so imag(f(x + ih)) / h is f'(x) to the last digits, where a central difference keeps
about ten. The function has to be holomorphic as it is written: sums, products, exp, tanh, max and
the like are, abs, var and conj are not.
"""

import warnings
from collections.abc import Callable

import numpy as np

STEP = 1e-30
Arrays = dict[str, np.ndarray]


class NotComplexSafe(ValueError):
    def __init__(self, reason: str):
        super().__init__(
            f"the forward is not complex-safe ({reason}), so the complex step cannot differentiate it: give a torch "
            "expression as the reference, or write it with sums, products and functions that take complex numbers"
        )


def complex_step(
    f: Callable[[Arrays], np.ndarray], inputs: Arrays, dy: np.ndarray
) -> tuple[Arrays, Arrays]:
    """The gradients of sum(dy f) and those of sum(f) for every floating input, one call of f an
    element."""
    gradients, ones = (
        {n: np.zeros(a.shape) for n, a in inputs.items() if a.dtype.kind == "f"} for _ in range(2)
    )
    wide = {name: a.astype(complex) if name in gradients else a for name, a in inputs.items()}
    for name in gradients:
        for index in np.ndindex(wide[name].shape):
            moved = wide[name].copy()
            moved[index] += STEP * 1j
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", np.exceptions.ComplexWarning)
                    slope = np.imag(f(wide | {name: moved})) / STEP
            except Exception as error:
                raise NotComplexSafe(f"{type(error).__name__}: {error}") from None
            if not np.isfinite(slope).all():
                raise NotComplexSafe(
                    "it overflows in complex numbers, where a smaller magnitude may not"
                )
            gradients[name][index], ones[name][index] = (slope * dy).sum(), slope.sum()
    return gradients, ones


def compare_with_differences(
    f: Callable[[Arrays], np.ndarray], inputs: Arrays, dy: np.ndarray, gradients: Arrays
) -> None:
    """Raise NotComplexSafe where a central difference in a random direction says otherwise.

    It is inexact, but it sees what the complex step does not: a derivative that abs or conj lost.
    """
    direction = {
        name: np.random.default_rng(1).standard_normal(a.shape) for name, a in gradients.items()
    }
    terms = [gradients[name] * v for name, v in direction.items()]
    slope, size = sum(t.sum() for t in terms), sum(np.abs(t).sum() for t in terms)
    unit = min(np.abs(inputs[name]).max(initial=0) for name in gradients) or 1.0
    for step in (
        1e-5 * unit,
        1e-6 * unit,
        1e-7 * unit,
    ):  # a smaller one, in case there is a kink in between
        up, down = (
            dy * f(inputs | {n: inputs[n] + s * v for n, v in direction.items()})
            for s in (step, -step)
        )
        rounding = 1e-14 * (np.abs(up).sum() + np.abs(down).sum()) / step
        if abs((up - down).sum() / (2 * step) - slope) <= 1e-4 * size + rounding:
            return
    raise NotComplexSafe("it loses a derivative, as abs, var, std, np.linalg.norm and np.vecdot do")
