"""Sequences of different lengths as the rows of one array, so that nothing is computed for padding.

A batch of names is mostly padding: makemore's longest has 15 characters, the average 6. The N rows
have the layout of torch's PackedSequence: first those of step 0 for every sequence, the longest
sequence first, then those of step 1 for the sequences that have one, and so on. A layer that treats
each position alone does not notice; one that looks along time needs the Packing.
"""

import numpy as np


def scored_lengths(counts: np.ndarray) -> np.ndarray:
    """(B, T), whether a target counts -> (B,), how many positions of each sequence are computed: up
    to the last that does, or all where none does."""
    return counts.shape[1] - counts[:, ::-1].argmax(axis=1)


class Packing:
    """Which rows these are.

    sizes   how many sequences are alive at each step, never more than before: a list of T numbers
    shape   (B, T), the batch and its longest sequence
    """

    def __init__(self, lengths: np.ndarray) -> None:
        """lengths (B,): of each sequence, in the order of the batch; 0 leaves it out."""
        counts = lengths.tolist()
        self.shape = B, T = len(counts), max(counts, default=0)
        self._places: np.ndarray | None = None
        if min(counts, default=T) == T:
            self.sizes = [B] * T
            return
        order = (-lengths).argsort(kind="stable")
        step = np.arange(T)[:, None]
        alive = lengths[order] > step  # (T, B)
        self.sizes = np.add.reduce(alive, axis=1).tolist()
        # The place of each row in the batch, whose (B, T) are counted row by row; None where all
        # sequences are equally long, so that it is enough to exchange the two axes.
        self._places = (order * T + step)[alive]

    def pack(self, x: np.ndarray) -> np.ndarray:
        """(B, T or more, ...) -> (N, ...)."""
        B, T = self.shape
        x, rest = x[:, :T], x.shape[2:]
        if self._places is None:
            return x.swapaxes(0, 1).reshape(B * T, *rest)
        return x.reshape(B * T, *rest).take(self._places, axis=0)

    def spread(self, rows: np.ndarray) -> np.ndarray:
        """(N, ...) -> (B, T, ...), with zeros where a sequence has ended."""
        (B, T), rest = self.shape, rows.shape[1:]
        if self._places is None:
            return rows.reshape(T, B, *rest).swapaxes(0, 1)
        x = np.zeros((B * T, *rest), rows.dtype)
        x[self._places] = rows
        return x.reshape(B, T, *rest)
