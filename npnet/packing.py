"""Sequences of different lengths as the rows of one array, so that nothing is computed for padding.

A batch of names is mostly padding: makemore's longest has 15 characters, the average 6. The N rows
have the layout of torch's PackedSequence: first those of step 0 for every sequence, the longest
sequence first, then those of step 1 for the sequences that have one, and so on. A layer that treats
each position alone does not notice; one that looks along time needs the Packing.

Names begin with the same token, the boundary, so at step 0 all sequences of a batch are alike. What
is alike is computed once: step 0 is a single row then, and its gradient the sum of what all
sequences hand back.
"""

from functools import cached_property, lru_cache

import numpy as np

from npnet.ops.constants import sum_rows


def scored_lengths(counts: np.ndarray) -> np.ndarray:
    """(B, T), whether a target counts -> (B,), how many positions of each sequence are computed: up
    to the last that does, or all where none does."""
    return counts.shape[1] - counts[:, ::-1].argmax(axis=1)


class Packing:
    """Which rows these are.

    sizes   the rows of each step: how many sequences are alive, never more than before, but one
            row for all where they begin alike; a list of T numbers
    shape   (B, T), the batch and its longest sequence
    """

    def __init__(self, lengths: np.ndarray, alike: bool = False) -> None:
        """lengths (B,): of each sequence, in the order of the batch; 0 leaves it out. alike: all
        are alike at step 0, and none is left out."""
        counts = lengths.tolist()
        self.shape = B, T = len(counts), max(counts, default=0)
        self._alike = alike
        self._places: np.ndarray | None = None
        if min(counts, default=T) == T and not self._alike:
            self.sizes = [B] * T
            return
        order = (-lengths).argsort(kind="stable")
        step = np.arange(T)[:, None]
        alive = lengths[order] > step  # (T, B)
        if self._alike:
            alive[0, 1:] = False
        self.sizes = np.add.reduce(alive, axis=1).tolist()
        # The place of each row in the batch, whose (B, T) are counted row by row; None where all
        # sequences are equally long, so that it is enough to exchange the two axes.
        self._places = (order * T + step)[alive]

    @cached_property
    def steps(self) -> np.ndarray:
        """(N,): at which step each row is."""
        return np.arange(len(self.sizes)).repeat(self.sizes)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """(B, T or more, ...) -> (N, ...)."""
        B, T = self.shape
        if B == 1:
            return x[0, :T]
        x, rest = x[:, :T], x.shape[2:]
        if self._places is None:
            return x.swapaxes(0, 1).reshape(B * T, *rest)
        return x.reshape(B * T, *rest).take(self._places, axis=0)

    def pack_backward(self, dy: np.ndarray) -> np.ndarray:
        """(N, ...) -> (B, T, ...), zeros where nothing was taken from."""
        if self.shape[0] == 1:
            return dy[None]
        (B, T), rest = self.shape, dy.shape[1:]
        if self._places is None:
            return dy.reshape(T, B, *rest).swapaxes(0, 1)
        dx = np.zeros((B * T, *rest), dy.dtype)
        dx[self._places] = dy
        return dx.reshape(B, T, *rest)

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """(N, ...) -> (B, T, ...), with zeros where a sequence has ended."""
        x = self.pack_backward(rows)
        if self._alike:
            x[:, 0] = rows[0]
        return x

    def spread_backward(self, dx: np.ndarray) -> np.ndarray:
        """(B, T, ...) -> (N, ...)."""
        drows = self.pack(dx)
        if self._alike:
            np.add.reduce(dx[:, 0], out=drows[0])
        return drows

    def each(self, rows: np.ndarray) -> np.ndarray:
        """(N, C) -> one row for each position of each sequence, those of step 0 in the order of the
        batch."""
        if not self._alike:
            return rows
        B = self.shape[0]
        y = np.empty_like(rows, shape=(B - 1 + len(rows), rows.shape[1]))
        y[:B], y[B:] = rows[0], rows[1:]
        return y

    def each_backward(self, dy: np.ndarray) -> np.ndarray:
        """dy is overwritten."""
        if not self._alike:
            return dy
        drows = dy[self.shape[0] - 1 :]
        drows[0] = sum_rows(dy[: self.shape[0]])
        return drows

    def targets(self, y: np.ndarray) -> np.ndarray:
        """(B, T or more) -> those of `each` row."""
        packed = self.pack(y)
        return np.concatenate([y[:, 0], packed[1:]]) if self._alike else packed


@lru_cache(maxsize=64)
def full(B: int, T: int, alike: bool = False) -> Packing:
    """That of B sequences of the same length T, kept: with running text every batch has it."""
    return Packing(np.full(B, T), alike)
