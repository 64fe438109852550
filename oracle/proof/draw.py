"""Examples: from plain values, seed and sizes and options, to arrays.

An example is a flat dictionary of plain values, so a printed one reproduces a failure. The same
kinds of values are drawn for everything that is judged: ties and zeros, constant rows and columns,
saturation, every magnitude, and every layout in memory.
"""

from typing import Any

import numpy as np

# Choices stand as often as they are to be drawn; the first is the plainest.
COMMON: dict[str, tuple] = {
    "values": ("normal", "normal", "normal", "ties", "constant", "extreme", "wide"),
    "scale": (1.0, 1.0, 1.0, 1e-4, 1e-2, 1e1, 1e2, 1e4),
    "upstream": (1.0, 1.0, 1e-4, 1e4),
    "layout": ("C", "C", "F", "reversed", "strided", "zero stride"),
}
Arrays = dict[str, np.ndarray]


class Draw:
    """Random arrays for one example. The kind of values shapes the data, `x`; parameters are
    always normal."""

    def __init__(self, seed: int, values: str, scale: float, extreme: float = 1e3):
        self.rng = np.random.default_rng(seed)
        self.values = values
        self.scale = scale
        self.extreme = extreme

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.standard_normal(shape) * self.scale

    def x(self, *shape: int) -> np.ndarray:
        x = self.normal(*shape)
        if self.values == "ties":
            x = self.rng.integers(-2, 3, shape) * self.scale
        elif self.values == "constant":  # a constant column and a constant row
            if x.size and x.ndim:
                x[..., 0] = x[(0,) * (x.ndim - 1)] = x.flat[0]
        elif self.values == "extreme":
            x = np.copysign(self.extreme, x)
        elif self.values == "wide":  # of every magnitude
            x *= 10.0 ** self.rng.integers(-12, 1, shape)
        return np.asarray(x)

    def indices(self, n: int, shape: tuple[int, ...], low: int = 0) -> np.ndarray:
        """From at most four distinct ones, so that they repeat; all the same where values are
        constant."""
        few = self.rng.integers(low, n, 1 if self.values == "constant" else 4)
        return np.asarray(self.rng.choice(few, shape))


def lay_out(values: np.ndarray, layout: str, dtype: Any, batched: bool) -> np.ndarray:
    """A read-only copy in another order of memory and, where it is floating, of that dtype.

    "zero stride", for what has a batch axis, repeats the first of the batch: other values.
    """
    a = np.array(values, dtype if values.dtype.kind == "f" else None, order="C")
    layout = layout if a.ndim else "C"
    if layout == "F":
        a = np.asfortranarray(a)
    elif layout == "reversed":
        a = np.flip(np.flip(a).copy())
    elif layout == "strided":
        wider = np.zeros((*a.shape[:-1], 2 * a.shape[-1]), a.dtype)
        wider[..., ::2] = a
        a = wider[..., ::2]
    elif layout == "zero stride" and batched and a.dtype.kind == "f":
        a = np.broadcast_to(a[:1], a.shape)
    return frozen(a)


def frozen(a: Any) -> np.ndarray:
    """Read-only from here on."""
    a = np.asarray(a)
    a.flags.writeable = False
    return a
