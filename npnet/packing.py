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
from itertools import accumulate
from typing import Any

import numpy as np

from npnet.ops.constants import starts, sum_rows
from npnet.ops.linear import embedding, embedding_backward


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
        _, *ends = np.bincount(lengths, minlength=1).tolist()  # how many have 1, 2, ... positions
        self.sizes = list(accumulate(reversed(ends)))[::-1]
        self.shape = B, T = len(lengths), len(ends)
        self._alike = alike
        self._places: np.ndarray | None = None
        if self.sizes[-1:] in ([], [B]) and not self._alike:
            return
        order = (-lengths).argsort(kind="stable")
        step = starts(T, 1)[:, None]
        alive = lengths[order] > step  # (T, B)
        # The place of each row in the batch, whose (B, T) are counted row by row; None where all
        # sequences are equally long, so that it is enough to exchange the two axes.
        self._places = self._positions = (order * T + step)[alive]
        if self._alike:
            self.sizes[0] = 1
            self._places = self._positions[B - 1 :]

    @cached_property
    def steps(self) -> np.ndarray:
        """(N,): at which step each row is."""
        return np.arange(len(self.sizes)).repeat(self.sizes)

    def pack(self, x: np.ndarray) -> np.ndarray:
        """(B, T or more, ...) -> (N, ...)."""
        B, T = self.shape
        x, rest = x[:, :T], x.shape[2:]
        if self._places is None:
            return x.swapaxes(0, 1).reshape(B * T, *rest)
        return x.reshape(B * T, *rest).take(self._places, axis=0)

    def pack_backward(self, dy: np.ndarray) -> np.ndarray:
        """(N, ...) -> (B, T, ...), zeros where nothing was taken from."""
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
            sum_rows(dx[:, 0], drows[0])
        return drows

    def add_by_step(self, table: np.ndarray, rows: np.ndarray) -> Any:
        """Add to each of the rows (N, C) that of its step in the table (T or more, C) -> cache."""
        of_steps, cache = embedding(self.steps, table)
        rows += of_steps
        return cache

    def add_by_step_backward(self, drows: np.ndarray, cache: Any, out: np.ndarray) -> None:
        """The table's gradient, written into `out`."""
        embedding_backward(drows, cache, out)

    def targets(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """(B, T or more) -> the targets of all positions of all sequences, and the row of each, or
        None where every position has a row of its own."""
        if not self._alike:
            return self.pack(y), None
        B, T = self.shape
        rows = np.arange(1 - B, sum(self.sizes))
        rows[:B] = 0
        return y[:, :T].reshape(B * T).take(self._positions), rows


class Rectangle(Packing):
    """Sequences of the same length, one after the other, for layers that do not read the rows step
    by step: the rows are the batch itself, and nothing is moved."""

    def __init__(self, B: int, T: int) -> None:
        self.shape, self.sizes, self._alike = (B, T), [B] * T, False

    @cached_property
    def steps(self) -> np.ndarray:
        B, T = self.shape
        return np.tile(np.arange(T), B)

    def pack(self, x: np.ndarray) -> np.ndarray:
        B, T = self.shape
        return x[0, :T] if B == 1 else x[:, :T].reshape(B * T, *x.shape[2:])

    def pack_backward(self, dy: np.ndarray) -> np.ndarray:
        return dy[None] if self.shape[0] == 1 else dy.reshape(*self.shape, *dy.shape[1:])

    def add_by_step(self, table: np.ndarray, rows: np.ndarray) -> Any:
        x = rows.reshape(*self.shape, rows.shape[1])
        x += table[: self.shape[1]]

    def add_by_step_backward(self, drows: np.ndarray, cache: Any, out: np.ndarray) -> None:
        B, T = self.shape
        sum_rows(drows.reshape(B, T * drows.shape[1]), out[:T].reshape(-1))
        out[T:] = 0


@lru_cache(maxsize=64)
def full(B: int, T: int, alike: bool = False, stepwise: bool = True) -> Packing:
    """That of B sequences of the same length T, kept: with running text every batch has it.
    stepwise: a layer reads the rows step by step."""
    if stepwise or alike:
        return Packing(np.full(B, T), alike)
    return Rectangle(B, T)
