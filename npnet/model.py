"""A model: its sizes, and the network with its parameters in one vector and its gradients in a
second. npnet.models builds the networks."""

import reprlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from npnet import ops
from npnet.layers import GELU, AlongTime, BatchNorm, Layer, PositionalEmbedding, ReLU, Sequential
from npnet.ops.checks import within
from npnet.packing import Packing, full, scored_lengths

LARGEST_MODEL = 100_000_000  # parameters
LARGEST_SIZES = {"block_size": 100_000, "n_layer": 1000}


class Style(NamedTuple):
    """How the published Transformers differ. The defaults are makemore's.

    activation      the layer between the two products of an MLP
    *_bias          whether queries, keys and values, the other products of a block, the norms, the
                    head have a bias
    heads_apart     each head's key, query and value are drawn in turn, as matrices of their own,
                    and later its masks of dropout
    drop_embedding  whether dropout comes after the embedding, too
    scale_by_width  attention is scaled by 1 / sqrt(C), not 1 / sqrt(D) of the head's width
    small           GPT-2's first values: after torch's, every weight is drawn again, N(0, 0.02)
    shrunk          and then the last weight of each branch once more, N(0, 0.02 / sqrt(2 n_layer))
    """

    activation: Callable[[], Layer] = GELU
    qkv_bias: bool = True
    bias: bool = True
    norm_bias: bool = True
    head_bias: bool = False
    heads_apart: bool = False
    drop_embedding: bool = True
    scale_by_width: bool = False
    small: bool = False
    shrunk: bool = False


_LECTURE = Style(ReLU, qkv_bias=False, head_bias=True, heads_apart=True, drop_embedding=False)
STYLES = {
    "makemore": Style(),
    "lecture": _LECTURE._replace(scale_by_width=True),
    "lecture-file": _LECTURE._replace(small=True),
    "nanogpt": Style(
        partial(GELU, "none"), qkv_bias=False, bias=False, norm_bias=False, small=True, shrunk=True
    ),
}


@dataclass(frozen=True)
class Config:
    """The sizes of a model, named as makemore.py names them. n_embd2 is the hidden width, style one
    of STYLES, dropout the share that training drops, and dtype "float32" or "float64". A size that
    is not a whole number from 1 to LARGEST_SIZES is a ValueError."""

    vocab_size: int
    block_size: int
    n_layer: int = 4
    n_embd: int = 64
    n_embd2: int = 64
    n_head: int = 4
    tie_weights: bool = False
    style: str = "makemore"
    dropout: float = 0.0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if name in ("tie_weights", "style", "dropout", "dtype"):
                continue
            most = LARGEST_SIZES.get(name, LARGEST_MODEL)
            if type(value) is not int or not 1 <= value <= most:
                got = reprlib.repr(value)
                raise ValueError(f"{name} must be a whole number from 1 to {most:,}, got {got}")
        if type(self.tie_weights) is not bool:
            raise ValueError(f"tie_weights must be a bool, got {reprlib.repr(self.tie_weights)}")
        if self.style not in STYLES:
            known, got = ", ".join(STYLES), reprlib.repr(self.style)
            raise ValueError(f"style must be one of {known}, got {got}")
        if type(self.dropout) is not float or not 0 <= self.dropout < 1:
            got = reprlib.repr(self.dropout)
            raise ValueError(
                f"dropout must be a number from 0 up to but not including 1, got {got}"
            )
        if self.dtype not in ("float32", "float64"):
            got = reprlib.repr(self.dtype)
            raise ValueError(f'dtype must be "float32" or "float64", got {got}')


class Model:
    """A network whose parameters are views of one vector, `data`, and whose gradients are views of
    a second, `grad`. `grad` is all but the end of `row`: the last two numbers are for the ranks,
    which add up rows. Those that share a memory have a row of `sums` each."""

    def __init__(self, network: Sequential, config: Config, kind: str, windowed: bool) -> None:
        """windowed: it reads a window of the last block_size tokens and has one output for it."""
        self.network, self.config, self.kind, self.windowed = network, config, kind, windowed
        self._along_time = any(
            isinstance(layer, AlongTime) and not isinstance(layer, Sequential)
            for _, layer in network.walk()
        )
        self._once = all(layer.once for _, layer in network.walk())
        self._stepwise = any(layer.stepwise for _, layer in network.walk())
        slots = network.parameters()
        self.data: np.ndarray = np.concatenate([slot.data.ravel() for slot in slots.values()])
        self.move(self.data, np.zeros((1, self.data.size + 2), self.data.dtype))

    def move(self, data: np.ndarray, sums: np.ndarray, row: int = 0) -> None:
        """Keep the parameters in `data`, (number of parameters,), and the gradients in that row of
        `sums`, (rows, number of parameters + 2), from now on."""
        data[...] = self.data
        self.data, self.sums, self.row = data, sums, sums[row]
        self.grad = self.row[:-2]
        start = 0
        for slot in self.network.parameters().values():
            stop = start + slot.data.size
            shape = slot.data.shape
            slot.data = self.data[start:stop].reshape(shape)
            slot.grad = self.grad[start:stop].reshape(shape)
            start = stop

    def parameters(self) -> dict[str, np.ndarray]:
        """Name -> array, a view of `data`."""
        return {name: slot.data for name, slot in self.network.parameters().items()}

    def matrices(self) -> list[slice]:
        """The parts of `data` that are parameters of two or more axes: no bias, no gain."""
        parts: list[slice] = []
        stop = 0
        for array in self.parameters().values():
            start, stop = stop, stop + array.size
            if array.ndim < 2:
                continue
            if parts and parts[-1].stop == start:
                start = parts.pop().start
            parts.append(slice(start, stop))
        return parts

    def gradients(self) -> dict[str, np.ndarray]:
        """Name -> array, a view of `grad`: what loss_and_grad wrote last."""
        return {name: slot.grad for name, slot in self.network.parameters().items()}

    def buffers(self) -> dict[str, np.ndarray]:
        """Name -> array: the running statistics, which are part of the model but not trained."""
        return {
            prefix + name: getattr(layer, name)
            for prefix, layer in self.network.walk()
            if isinstance(layer, BatchNorm)
            for name in ("running_mean", "running_var")
        }

    def logits(self, x: np.ndarray) -> np.ndarray:
        """ids (B, T) -> logits (B, V) or (B, T, V), with running statistics."""
        x = np.asarray(x)
        if self.windowed:
            return self.network.forward(x)[0]
        if x.ndim != 2:
            raise ValueError(f"ids must be (B, T), got {x.shape}")
        packing = full(*x.shape, stepwise=self._stepwise)
        return packing.spread(self.network.forward(packing.pack(x), False, packing)[0])

    def loss(self, x: np.ndarray, y: np.ndarray) -> np.floating:
        """Mean cross-entropy in nats over the targets that are not -1, with running statistics."""
        return self._forward(x, y, training=False)[0]

    def loss_and_grad(
        self,
        x: np.ndarray,
        y: np.ndarray,
        dloss: float = 1.0,
        n: int | None = None,
        apart: bool = False,
    ) -> np.floating:
        """The loss in training mode; every gradient, times dloss, is written into `grad`. n is
        given where (x, y) is a share of a batch with n targets that count (see cross_entropy);
        apart is that of `packed`."""
        loss, cache, caches = self._forward(x, y, training=True, n=n, apart=apart)
        self.network.backward(ops.cross_entropy_backward(dloss, cache), caches)
        return loss

    def _forward(
        self,
        x: np.ndarray,
        y: np.ndarray,
        training: bool,
        n: int | None = None,
        apart: bool = False,
    ) -> tuple[Any, ...]:
        """The loss with its cache, and the layers' caches."""
        x, y, rows, packing = self.packed(x, y, apart)
        logits, caches = self.network.forward(x, training, packing)
        return *ops.cross_entropy(logits, y, n=n, rows=rows), caches

    def packed(
        self, x: np.ndarray, y: np.ndarray, apart: bool = False
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, Packing | None]:
        """ids as the network reads them, the targets, and the row of the logits that each is scored
        in, or None where it is its own. Of a sequence nothing is computed beyond its last target
        that counts, and where no layer looks along time, at those targets alone. What is alike is
        computed once, unless it is to be kept apart: the first step, where all begin with the same
        id, and where no layer looks along time, an id."""
        x, y = np.asarray(x), np.asarray(y)
        if self.windowed:
            return x, y, None, None
        if x.shape != y.shape or x.ndim != 2:
            raise ValueError(f"ids and targets must be (B, T) alike, got {x.shape}, {y.shape}")
        once = self._once and not apart
        if not self._along_time:
            counts = y != -1
            ids, targets, V = x[counts], y[counts], self.config.vocab_size
            if once and len(ids) > V and within(ids, V):
                return np.arange(V), targets, ids, None
            return ids, targets, None, None
        alike = once and len(x) > 1 and _constant(x[:, 0].tolist())
        if y.size and y.item(-1) >= 0 and y.item(y.argmin()) >= 0:
            packing = full(*y.shape, alike, self._stepwise)
        else:
            packing = Packing(scored_lengths(y != -1), alike)
        return packing.pack(x), *packing.targets(y), packing

    @property
    def positional(self) -> bool:
        """Whether it numbers the positions of a sequence, and so reads block_size tokens at
        most."""
        return any(isinstance(layer, PositionalEmbedding) for _, layer in self.network.walk())

    def start(self, batch: int, length: int | None = None) -> Any:
        """The state before the first token of `batch` sequences of up to `length` tokens.

        The default length is block_size.
        """
        block_size = self.config.block_size
        if self.windowed:
            return np.zeros((batch, block_size), np.int64)
        return self.network.start(batch, length or block_size)

    def step(self, ids: np.ndarray, state: Any) -> np.ndarray:
        """The next token of every sequence, ids (B,) -> logits (B, V) for the one after it.

        The state is updated.
        """
        if self.windowed:
            state[:, :-1] = state[:, 1:].copy()
            state[:, -1] = ids
            return self.logits(state)
        return self.network.step(ids, state)


def _constant(values: list[int]) -> bool:
    return values == values[:1] * len(values)
