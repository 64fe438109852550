"""The logits after a full block of running text, for the Transformer.

Once the context slides, every token has a new position at each step, and all T of them are computed
again. `LastLogits` computes what `Model.logits` does, to rounding, in half the time: no cache is
kept, and what is constant is multiplied beforehand.

- LayerNorm takes the mean off x. Whatever is added to x may have its mean taken off before, which
  for y @ w + b is that of each row of w, and of b. Then the mean of x is 0 throughout, and
      xhat = (x - mean) / sqrt(var + eps) = sqrt(C) x / std,   std = sqrt(x . x + C eps).
- Its gain and bias go into the product that follows:
      (gain xhat + bias) @ w + b = (x / std) @ (sqrt(C) gain[:, None] w) + (bias @ w + b).
- The scale of the scores goes into the queries' columns of that w and b.
- Of the last block only keys and values are needed of all positions. The query, and all that
  follows, is the last position's alone.
- No row's largest score is subtracted before exp. Should a sum of exponentials leave the middle of
  the numbers' range, `Model.logits` answers.
"""

from typing import Any

import numpy as np

from npnet.layers import TiedLinear
from npnet.models import Model
from npnet.ops.constants import ones, triangle

# No square of an activation overflows while the parameters are smaller than the first. What a sum
# of exponentials between the others loses to underflow is far below its rounding.
_LARGEST_PARAMETER, _SMALLEST_SUM, _LARGEST_SUM = 1e3, 1e-20, 1e30


class LastLogits:
    """ids (T,) -> logits (V,) after them, T being the Transformer's block_size. The parameters are
    those that the model has when this is made."""

    def __init__(self, model: Model) -> None:
        layers: Any = model.network.layers
        T, C = model.config.block_size, model.config.n_embd
        self.model, self.small = model, bool(np.abs(model.data).max() < _LARGEST_PARAMETER)
        embedding, norm, blocks = (layers[name] for name in ("embedding", "norm", "blocks"))
        self.token = _centred(embedding.token.weight.data)
        self.position = _centred(embedding.position.data)
        self.eps = C * norm.eps
        with np.errstate(over="ignore", invalid="ignore"):  # then they are not small
            self.blocks = [_Block(block.layers, T) for block in blocks.layers.values()]
            self.head = _after_norm(norm, layers["head"], 1)

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        if self.small:
            with np.errstate(all="ignore"):
                logits, sums = self._read(ids)
                if sums.min() > _SMALLEST_SUM and sums.max() < _LARGEST_SUM:
                    return logits
        return self.model.logits(ids[None])[0, -1]

    def _read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """logits, and the sums of exponentials that weights were divided by."""
        x = self.token.take(ids, axis=0)
        x += self.position
        T, C = x.shape
        one, below = ones(T, x.dtype), triangle(T, x.dtype)
        sums = np.ones((len(self.blocks), self.blocks[0].n_head, T), x.dtype)
        for block, total in zip(self.blocks, sums, strict=True):
            qkv = self._product(x, block.qkv)
            q, k, v = qkv.reshape(T, 3, block.n_head, -1).transpose(1, 2, 0, 3)  # (n_head, T, D)
            rows = slice(T - 1 if block is self.blocks[-1] else 0, T)
            x, total = x[rows], total[:, rows]
            p = q[:, rows] @ k.swapaxes(1, 2)
            np.exp(p, out=p)
            p *= below[rows]
            np.matmul(p, one, out=total)
            y = np.empty((len(x), block.n_head, C // block.n_head), x.dtype)
            np.divide(p @ v, total[..., None], out=y.swapaxes(0, 1))
            w, b = block.projection
            x += y.reshape(x.shape) @ w
            x += b[rows]
            h, _ = block.activation.forward(self._product(x, block.up))
            w, b = block.down
            x += h @ w
            x += b[rows]
        return self._product(x, self.head)[0], sums

    def _product(self, x: np.ndarray, linear: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """The norm of x and the product after it."""
        w, b = linear
        y = x / np.sqrt(np.vecdot(x, x) + self.eps)[:, None] @ w
        y += b[: len(y)]
        return y


class _Block:
    """What a block multiplies by and adds, as (w, b) with b once for each of T rows: equal shapes
    are added faster."""

    def __init__(self, layers: Any, T: int) -> None:
        attention, mlp = layers["attention"].layers, layers["mlp"].layers
        self.n_head, scale = attention["heads"].n_head, attention["heads"].scale
        self.qkv = _after_norm(attention["norm"], attention["qkv"], T)
        C = len(self.qkv[0])
        for array in self.qkv:
            array[:, :C] *= (C // self.n_head) ** -0.5 if scale is None else scale
        self.projection = _before_norm(attention["projection"], T)
        self.up = _after_norm(mlp["norm"], mlp["up"], T)
        self.down = _before_norm(mlp["down"], T)
        self.activation = mlp["activation"]


def _after_norm(norm: Any, linear: Any, T: int) -> tuple[np.ndarray, np.ndarray]:
    w, b = _parameters(linear)
    if norm.bias is not None:
        b = norm.bias.data @ w + b
    return len(w) ** 0.5 * norm.weight.data[:, None] * w, np.tile(b, (T, 1))


def _before_norm(linear: Any, T: int) -> tuple[np.ndarray, np.ndarray]:
    w, b = _parameters(linear)
    return _centred(w), np.tile(_centred(b), (T, 1))


def _parameters(linear: Any) -> tuple[np.ndarray, np.ndarray]:
    """w (I, O) and b (O,), zeros where there is none."""
    w = linear.weight.data.T if isinstance(linear, TiedLinear) else linear.weight.data
    bias = getattr(linear, "bias", None)
    return w, np.zeros(w.shape[1], w.dtype) if bias is None else bias.data


def _centred(a: np.ndarray) -> np.ndarray:
    return a - a.mean(-1, keepdims=True)
