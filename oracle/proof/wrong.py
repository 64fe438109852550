"""A wrong gradient, and the one comparison that every hint is made of."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Wrong:
    """A gradient, what is right, both in float64, and the example in which it was found.

    x is the input that it is the gradient of, if it is known; tolerance, relative, is far above
    the rounding of the gradient's own dtype and far below a mistake.
    """

    got: np.ndarray
    want: np.ndarray
    sizes: dict[str, int]
    inputs: Arrays
    x: np.ndarray | None
    dy: np.ndarray | None
    tolerance: float

    def is_(self, value: Any) -> bool:
        """Whether the gradient is this."""
        return same(self.got, value, self.tolerance)

    def would_be_right(self, value: Any) -> bool:
        return same(np.asarray(value), self.want, self.tolerance)

    @property
    def elementwise(self) -> tuple[np.ndarray, np.ndarray] | None:
        """x and dy, where each element of the gradient has one of both."""
        if self.x is None or self.dy is None or not self.got.shape == self.x.shape == self.dy.shape:
            return None
        return self.x, self.dy

    def right(self) -> np.ndarray:
        """Which elements are right."""
        return near(self.got, self.want, self.tolerance)


def near(a: np.ndarray, b: np.ndarray, tolerance: float) -> np.ndarray:
    largest = np.abs(b).max(initial=0)
    return np.asarray(np.abs(a - b) <= tolerance * (np.abs(b) + 0.01 * largest))


def same(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Equal in shape and numbers, and in more than one number: a single one fits too much."""
    return a.shape == b.shape and evidence(b) > 1 and bool(near(a, b, tolerance).all())


def evidence(a: np.ndarray) -> int:
    """How many elements are not negligible."""
    size = np.abs(a)
    return int(np.count_nonzero(size > 0.01 * size.max(initial=0)))


def distinct(a: np.ndarray) -> int:
    """How many magnitudes there are that are not negligible."""
    size = np.abs(a).ravel()
    size = np.sort(size[size > 0.01 * size.max(initial=0)])
    return int(size.size and 1 + np.count_nonzero(np.diff(size) > 1e-6 * size[1:]))
