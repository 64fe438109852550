"""Layers: a layer holds parameters and knows its operation; Sequential and Residual compose.

    y, cache = layer.forward(x, training, packing)      training matters to BatchNorm and Dropout,
                                               the packing of x (N, C) or (N,) to AlongTime layers
    dx = layer.backward(dy, cache)             and overwrites the layer's parameter gradients
    state = layer.start(batch, length)         for generation: before the first position
    y = layer.step(x, state)                   one position, x (B, C) or ids (B,); updates the state
    state = keep(state, rows)                  the state of these rows of the batch alone

A layer keeps nothing between calls but its parameters (and BatchNorm its running statistics): the
cache and the state are the caller's. Layers are made from arrays that are already drawn, so the
order of the draws is seen where a network is written down. A parameter's name is the path of
attributes to it, as in torch: "blocks.0.attention.qkv.weight".
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from npnet import ops
from npnet.ops.checks import outside, within
from npnet.random import Generator

Pass = tuple[np.ndarray, Any]  # y, cache


class Parameter:
    """An array and its gradient. Model turns both into views of its two flat vectors."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.grad = np.zeros_like(data)


class Layer:
    """The defaults: no children, x passes through, and one position is like any other."""

    once: bool = True  # whether rows that are alike may be computed once, in training too
    stepwise: bool = False  # whether it reads the rows of one step after those of another

    def children(self) -> "dict[str, Layer]":
        """Name -> layer, in order."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Layer)}

    def walk(self, prefix: str = "") -> "Iterator[tuple[str, Layer]]":
        """(prefix, layer) for this layer and all below it, in order; "" or "a.b." as prefix."""
        yield prefix, self
        for name, child in self.children().items():
            yield from child.walk(f"{prefix}{name}.")

    def parameters(self) -> dict[str, Parameter]:
        """Full name -> Parameter, in order; one that is used twice under its first name."""
        names: dict[Parameter, str] = {}
        for prefix, layer in self.walk():
            for name, value in vars(layer).items():
                if isinstance(value, Parameter):
                    names.setdefault(value, prefix + name)
        return {name: value for value, name in names.items()}

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return x, None

    def backward(self, dy: np.ndarray, cache: Any) -> Any:
        return dy

    def start(self, batch: int, length: int) -> Any:
        return None

    def step(self, x: np.ndarray, state: Any) -> np.ndarray:
        return self.forward(x)[0]


class Slab:
    """The keys and values of many positions, (2, N, C), one row after the other."""

    def __init__(self) -> None:
        self.rows, self.used = np.empty((2, 0, 0)), 0

    def append(self, kv: np.ndarray, room: int) -> np.ndarray:
        """Add the rows of kv (2, B, C) -> their numbers (B,). A new slab gets room for so many."""
        start, self.used = self.used, self.used + kv.shape[1]
        if self.used > self.rows.shape[1]:
            grown = np.empty((2, start + room, kv.shape[2]), kv.dtype)
            if start:
                grown[:, :start] = self.rows[:, :start]
            self.rows = grown
        self.rows[:, start : self.used] = kv
        return np.arange(start, self.used)


class KeysValues:
    """The keys and values of the positions so far, at most `length`: their row in the slab for each
    position and sequence, (T, B). Sequences that begin alike have rows in common, so none is copied
    when they part."""

    def __init__(self, length: int, slab: Slab, numbers: np.ndarray) -> None:
        self.length, self.slab, self.numbers = length, slab, numbers

    def append(self, kv: np.ndarray) -> np.ndarray:
        """Those of one position more, (2, B, C) -> those of all positions, (2, T, B, C), fresh."""
        left = self.length - len(self.numbers)
        if not left:
            raise ValueError(f"the state has room for {self.length} positions, got one more")
        numbers = self.slab.append(kv, left * kv.shape[1])
        self.numbers = np.concatenate([self.numbers, numbers[None]])
        return self.slab.rows.take(self.numbers, axis=1)

    def take(self, sequences: np.ndarray) -> "KeysValues":
        return KeysValues(self.length, self.slab, self.numbers.take(sequences, axis=1))


def keep(state: Any, rows: np.ndarray) -> Any:
    """A state of some rows of the batch, which is the last axis but one of every array in it. A row
    may be taken more than once."""
    if isinstance(state, np.ndarray):
        return state.take(rows, axis=-2)
    if isinstance(state, KeysValues):
        return state.take(rows)
    if isinstance(state, list):
        return [keep(part, rows) for part in state]
    if isinstance(state, dict):
        return {name: keep(part, rows) for name, part in state.items()}
    return state


class AlongTime(Layer):
    """A layer that does not treat each position alone: its forward reads the packing of x."""


class Sequential(AlongTime):
    """One layer after the other, named by keyword, or by number where given by position."""

    def __init__(self, *layers: Layer, **named: Layer) -> None:
        self.layers: dict[str, Layer] = {
            **{str(i): layer for i, layer in enumerate(layers)},
            **named,
        }

    def children(self) -> dict[str, Layer]:
        return self.layers

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        caches = []
        for layer in self.layers.values():
            x, cache = layer.forward(x, training, packing)
            caches.append((layer, cache))
        return x, caches

    def backward(self, dy: np.ndarray, cache: Any) -> Any:
        for layer, layer_cache in reversed(cache):
            dy = layer.backward(dy, layer_cache)
        return dy

    def start(self, batch: int, length: int) -> Any:
        return [layer.start(batch, length) for layer in self.layers.values()]

    def step(self, x: np.ndarray, state: Any) -> np.ndarray:
        for layer, layer_state in zip(self.layers.values(), state, strict=True):
            x = layer.step(x, layer_state)
        return x


class Residual(Sequential):
    """y = x + f(x), f the layers in sequence (He et al., 2015).

    x is used twice: dx = dy + what f hands back.
    """

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        y, cache = super().forward(x, training, packing)
        return x + y, cache  # not in place: y may be in the cache of the last layer

    def backward(self, dy: np.ndarray, cache: Any) -> Any:
        return super().backward(dy, cache) + dy

    def step(self, x: np.ndarray, state: Any) -> np.ndarray:
        return x + super().step(x, state)


class Embedding(Layer):
    """ids (...) -> rows of weight (V, C); nothing lies below, so backward returns None.

    For `tied` see TiedLinear.
    """

    def __init__(self, weight: np.ndarray, tied: bool = False) -> None:
        self.weight, self.tied = Parameter(weight), tied

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.embedding(x, self.weight.data)

    def backward(self, dy: np.ndarray, cache: Any) -> None:
        if self.tied:
            self.weight.grad += ops.embedding_backward(dy, cache)
        else:
            ops.embedding_backward(dy, cache, out=self.weight.grad)


class Table(Embedding):
    """An Embedding whose rows the layer above looks up itself: ids pass through."""

    forward, backward = Layer.forward, Layer.backward


class PositionalEmbedding(AlongTime):
    """ids (N,) -> token[id] + position[step], both tables learned.

    More steps than positions are a ValueError.
    """

    def __init__(self, token: np.ndarray, position: np.ndarray, tied: bool = False) -> None:
        self.token = Embedding(token, tied)
        self.position = Parameter(position)

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        y, token = self.token.forward(x)
        self._within(len(packing.sizes))
        position = packing.add_by_step(self.position.data, y)
        return y, (token, packing, position)

    def backward(self, dy: np.ndarray, cache: Any) -> None:
        token, packing, position = cache
        packing.add_by_step_backward(dy, position, self.position.grad)
        self.token.backward(dy, token)

    def start(self, batch: int, length: int) -> Any:
        return {"t": 0}

    def step(self, x: np.ndarray, state: Any) -> np.ndarray:
        state["t"] = self._within(state["t"] + 1)
        return self.token.forward(x)[0] + self.position.data[state["t"] - 1]

    def _within(self, T: int) -> int:
        if len(self.position.data) < T:
            limit = len(self.position.data)
            raise ValueError(f"the model has {limit} positions, got a sequence of {T} tokens")
        return T


class Window(AlongTime):
    """ids (N,) -> (N, length): at each position the id there, one before, two before, ...

    Before the first token stands `blank`, which is above all ids: one that is not below it is a
    ValueError.
    """

    def __init__(self, length: int, blank: int) -> None:
        self.length, self.blank = length, blank

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        if not within(x, self.blank):
            raise outside("window", x, self.blank)
        if not len(x):
            return np.empty((0, self.length), x.dtype), None
        (B, T), before = packing.shape, self.length - 1
        padded = np.full((B, before + T), self.blank, x.dtype)
        padded[:, before:] = packing.spread(x)
        first = packing.pack(np.arange(padded.size).reshape(padded.shape))
        return padded.take(first[:, None] + np.arange(before, -1, -1)), None

    def start(self, batch: int, length: int) -> Any:
        return np.full((batch, self.length), self.blank)

    def step(self, x: np.ndarray, state: Any) -> np.ndarray:
        state[:, 1:] = state[:, :-1].copy()
        state[:, 0] = x
        return state


class Flatten(Layer):
    """Join the last two axes: (..., T, C) -> (..., TC)."""

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        *lead, T, C = x.shape
        return x.reshape(*lead, T * C), x.shape

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return dy.reshape(cache)


class FlattenConsecutive(Layer):
    """ops.flatten_consecutive: join every n neighbours in time."""

    def __init__(self, n: int) -> None:
        self.n = n

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.flatten_consecutive(x, self.n)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return ops.flatten_consecutive_backward(dy, cache)


class Linear(Layer):
    """y = x @ weight + bias: weight (I, O), bias (O,) or None."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
        self.weight = Parameter(weight)
        self.bias = None if bias is None else Parameter(bias)

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.linear(x, self.weight.data, None if self.bias is None else self.bias.data)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        out = (self.weight.grad,) if self.bias is None else (self.weight.grad, self.bias.grad)
        return ops.linear_backward(dy, cache, out)[0]


class EmbeddingLinear(Layer):
    """ops.embedding_linear: ids (..., K) -> rows of a Table below side by side, @ weight + bias."""

    def __init__(self, table: Parameter, weight: np.ndarray, bias: np.ndarray) -> None:
        self.table, self.weight, self.bias = table, Parameter(weight), Parameter(bias)

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.embedding_linear(x, self.table.data, self.weight.data, self.bias.data)

    def backward(self, dy: np.ndarray, cache: Any) -> None:
        out = self.table.grad, self.weight.grad, self.bias.grad
        ops.embedding_linear_backward(dy, cache, out)


class TiedLinear(Layer):
    """logits = x @ weight^T, weight (V, C) being an Embedding's Parameter (Press and Wolf, 2017).

    The table is used twice, so its gradient is the sum of both uses. Backward comes here first and
    writes this one; the embedding, made with tied=True, adds its own.
    """

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.linear(x, self.weight.data.T)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return ops.linear_backward(dy, cache, out=(self.weight.grad.T,))[0]


class BatchNorm(Layer):
    """ops.batch_norm in training, the running statistics otherwise; `gain` is torch's weight.

    running says where these come from. "variance": after each training forward the mean and the
    variance become (1 - m) running + m batch, m being the momentum. "std": the same with the
    standard deviation instead of the variance, as in the third lecture. "calibrated": training
    leaves them alone, and train.calibrate sets them afterwards. total is batch_norm's, for a layer
    that sees a share of each batch.
    """

    once = False  # every row counts in the statistics

    def __init__(
        self,
        weight: np.ndarray,
        bias: np.ndarray,
        momentum: float = 0.1,
        eps: float = 1e-5,
        unbiased: bool = True,
        running: str = "variance",
    ) -> None:
        if running not in ("variance", "std", "calibrated"):
            raise ValueError(f'running must be "variance", "std" or "calibrated", got {running!r}')
        self.weight, self.bias = Parameter(weight), Parameter(bias)
        self.momentum, self.eps = momentum, eps
        self.unbiased, self.running = unbiased, running
        self.total: Callable | None = None
        self.running_mean = np.zeros_like(weight)
        self.running_var = np.ones_like(weight)

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        weight, bias = self.weight.data, self.bias.data
        if not training:
            y, cache = ops.batch_norm_inference(
                x, weight, bias, self.running_mean, self.running_var, self.eps
            )
            return y, (False, cache)
        y, cache = ops.batch_norm(x, weight, bias, self.eps, self.unbiased, self.total)
        if self.running != "calibrated":
            keep = 1 - self.momentum
            self.running_mean *= keep
            self.running_mean += self.momentum * cache.mean
            if self.running == "std":
                std = keep * np.sqrt(self.running_var) + self.momentum * np.sqrt(cache.var)
                np.multiply(std, std, out=self.running_var)
            else:
                self.running_var *= keep
                self.running_var += self.momentum * cache.var
        return y, (True, cache)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        training, cache = cache
        if training:
            return ops.batch_norm_backward(dy, cache, out=(self.weight.grad, self.bias.grad))[0]
        dx, self.weight.grad[...], self.bias.grad[...], _, _ = ops.batch_norm_inference_backward(
            dy, cache
        )
        return dx


class LayerNorm(Layer):
    """ops.layer_norm with a learned gain (torch's weight) and bias, both (C,); bias may be None."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None, eps: float = 1e-5) -> None:
        self.weight, self.eps = Parameter(weight), eps
        self.bias = None if bias is None else Parameter(bias)

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        bias = None if self.bias is None else self.bias.data
        return ops.layer_norm(x, self.weight.data, bias, self.eps)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        out = (self.weight.grad,) if self.bias is None else (self.weight.grad, self.bias.grad)
        return ops.layer_norm_backward(dy, cache, out)[0]


class RMSNorm(Layer):
    """ops.rms_norm without a gain."""

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.rms_norm(x)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return ops.rms_norm_backward(dy, cache)


class Tanh(Layer):
    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.tanh(x)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return ops.tanh_backward(dy, cache)


class ReLU(Layer):
    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.relu(x)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return ops.relu_backward(dy, cache)


class GELU(Layer):
    """ops.gelu in its tanh form, or with approximate="none" the exact one."""

    def __init__(self, approximate: str = "tanh") -> None:
        self.approximate = approximate

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.gelu(x, self.approximate)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return ops.gelu_backward(dy, cache)


class Dropout(AlongTime):
    """ops.dropout in training, nothing otherwise. The masks of packed rows are drawn in the order
    (B, T, C) of the batch, as torch draws them."""

    def __init__(self, p: float, generator: Generator) -> None:
        self.p, self.generator, self.once = p, generator, p == 0

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        if not training or self.p == 0:
            return x, None
        y, cache = ops.dropout(packing.spread(x), self.p, self.generator)
        return packing.pack(y), (cache, packing)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        if cache is None:
            return dy
        cache, packing = cache
        return packing.spread_backward(ops.dropout_backward(packing.pack_backward(dy), cache))


class CausalMean(AlongTime):
    """ops.causal_mean; one position at a time it keeps the running sum."""

    stepwise = True

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return ops.causal_mean(x, packing.sizes)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        return ops.causal_mean_backward(dy, cache)

    def start(self, batch: int, length: int) -> Any:
        return {"sum": 0, "t": 0}

    def step(self, x: np.ndarray, state: Any) -> np.ndarray:
        state["sum"] = state["sum"] + x
        state["t"] += 1
        return state["sum"] / state["t"]


class CausalAttention(AlongTime):
    """ops.causal_attention on queries, keys and values side by side, with its default scale where
    scale is None. Weights are dropped out in training only.

    One position at a time it keeps the keys and values; `length` positions have room.
    """

    def __init__(
        self,
        n_head: int,
        scale: float | None = None,
        dropout: float = 0.0,
        generator: Generator | None = None,
    ) -> None:
        self.n_head, self.scale, self.dropout, self.generator = n_head, scale, dropout, generator
        self.once = dropout == 0

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        """A sequence that has ended has zeros from there on, which no position before looks at."""
        dropout = self.dropout if training else 0.0
        y, cache = ops.causal_attention(
            packing.spread(x), self.n_head, self.scale, dropout, self.generator
        )
        return packing.pack(y), (cache, packing)

    def backward(self, dy: np.ndarray, cache: Any) -> np.ndarray:
        cache, packing = cache
        dqkv = ops.causal_attention_backward(packing.pack_backward(dy), cache)
        return packing.spread_backward(dqkv)

    def start(self, batch: int, length: int) -> Any:
        return KeysValues(length, Slab(), np.empty((0, batch), np.int64))

    def step(self, x: np.ndarray, state: Any) -> np.ndarray:
        """One query a word, so that there are no matrices to multiply: with the positions in front,
        every pass runs along all words at once."""
        B, C = len(x), x.shape[1] // 3
        H, D = self.n_head, C // self.n_head
        q, kv = x[:, :C], x[:, C:].reshape(B, 2, C).swapaxes(0, 1)
        keys, values = state.append(kv)  # (T, B, C) each
        T = len(keys)
        scale = D**-0.5 if self.scale is None else self.scale
        keys *= q
        p = keys.reshape(-1, D) @ np.full(D, scale, x.dtype)
        p = p.reshape(T, B, H)
        p -= p.max(0)
        np.exp(p, out=p)
        p /= p.sum(0)
        return np.einsum("tbh,tbhd->bhd", p, values.reshape(T, B, H, D)).reshape(B, C)


class Recurrent(AlongTime):
    """A cell over the rows of a Table below, ids (N,) -> h (N, H). Its weight multiplies
    [x_t, h_{t-1}] side by side: the first C rows read the input, the last H rows the state."""

    stepwise = True
    states: tuple[str, ...] = ("initial",)
    op: Callable
    op_backward: Callable
    weight: Parameter
    bias: Parameter

    def __init__(self, table: Parameter, *arrays: np.ndarray) -> None:
        self.table = table
        for name, array in zip((*self.states, "weight", "bias"), arrays, strict=True):
            setattr(self, name, Parameter(array))

    def forward(self, x: np.ndarray, training: bool = False, packing: Any = None) -> Pass:
        return self._run(x, [getattr(self, name).data for name in self.states], packing.sizes)

    def backward(self, dy: np.ndarray, cache: Any) -> None:
        below, cache = cache
        da, *dstates, dw = self.op_backward(dy, cache)
        for name, gradient in zip(self.states, dstates, strict=True):
            getattr(self, name).grad[...] = gradient
        C = self.table.data.shape[1]
        self.weight.grad[C:] = dw
        out = self.table.grad, self.weight.grad[:C], self.bias.grad
        ops.embedding_linear_backward(da, below, out)

    def _run(self, x: np.ndarray, states: list[np.ndarray], sizes: list[int]) -> Any:
        C, w = self.table.data.shape[1], self.weight.data
        a, below = ops.embedding_linear(x[:, None], self.table.data, w[:C], self.bias.data)
        h, cache = self.op(a, *states, w[C:], sizes)
        return h, (below, cache)

    def start(self, batch: int, length: int) -> Any:
        return [np.tile(getattr(self, name).data, (batch, 1)) for name in self.states]

    def step(self, x: np.ndarray, state: Any) -> np.ndarray:
        h, (_, cache) = self._run(x, state, [len(x)])
        state[0] = h
        if len(state) == 2:
            state[1] = cache.cell
        return h


class RNN(Recurrent):
    """ops.rnn: initial (H,), weight (C + H, H), bias (H,)."""

    op, op_backward = staticmethod(ops.rnn), staticmethod(ops.rnn_backward)


class GRU(Recurrent):
    """ops.gru: initial (H,), weight (C + H, 3H), bias (3H,)."""

    op, op_backward = staticmethod(ops.gru), staticmethod(ops.gru_backward)


class LSTM(Recurrent):
    """ops.lstm: initial (H,), initial_cell (H,), weight (C + H, 4H), bias (4H,)."""

    states = ("initial", "initial_cell")
    op, op_backward = staticmethod(ops.lstm), staticmethod(ops.lstm_backward)
