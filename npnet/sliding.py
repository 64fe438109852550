"""The logits after a context of running text, for the Transformer.

Once the context slides, every token has a new position at each step, and all T of them are computed
again. `LastLogits` computes what `Model.logits` does, to rounding, in half the time: no cache is
kept, and what is constant is multiplied beforehand.

- LayerNorm takes the mean off x. Whatever is added to x may have its mean taken off before, which
  for y @ w + b is that of each row of w, and of b. Then the mean of x is 0 throughout, and
      xhat = (x - mean) / sqrt(var + eps) = sqrt(C) r,   r = x / sqrt(x . x + C eps).
- Its gain and bias go into the product that follows:
      (gain xhat + bias) @ w + b = r @ (sqrt(C) gain[:, None] w) + (bias @ w + b).
- The scale of the scores, in units of `power`, goes into the queries' columns of that w and b.
- The first block's queries, keys and values depend on token and position alone. Where a table of
  all of them is small it is made, and they are looked up.
- Of the last block the last position alone is needed, so that its one query q meets all r[t]:
      q . k[t] = q . (r[t] @ wk + bk) = (q @ wk^T) . r[t] + q . bk.
  What is added to all scores alike does not change their softmax, and its weights p add up to 1:
      (sum_t p[t] v[t]) @ w + b = (sum_t p[t] r[t]) @ (wv @ w) + (bv @ w + b).
  With wq @ wk^T and wv @ w of each head multiplied beforehand, no key and no value is computed.
- relu(h + b) = max(h, -b) + b, and that last b goes on, through the product, into the next bias.
- No row's largest score is subtracted before exp. Should a sum of exponentials leave the middle of
  the numbers' range, `Model.logits` answers.
"""

from typing import Any

import numpy as np

from npnet.layers import ReLU, TiedLinear
from npnet.model import Model
from npnet.ops.checks import quietly
from npnet.ops.constants import NAT, number, ones, power, triangles

_LARGEST_PARAMETER = 1e3  # with smaller ones no square of an activation overflows
# Between these sums of exponentials no weighted sum of values overflows, and what underflows is far
# below the rounding.
_SMALLEST_SUM, _LARGEST_SUM = 1e-20, 1e20
LARGEST_TABLE = 1 << 21  # numbers


class LastLogits:
    """ids (T,) -> logits (V,) after them, T up to the Transformer's block_size. The parameters are
    those that the model has when this is made."""

    def __init__(self, model: Model) -> None:
        layers: Any = model.network.layers
        T, C = model.config.block_size, model.config.n_embd
        self.model, self.small = model, bool(np.abs(model.data).max() < _LARGEST_PARAMETER)
        embedding, norm = layers["embedding"], layers["norm"]
        self.token = _centred(embedding.token.weight.data)
        self.position = _centred(embedding.position.data)
        self.eps = number(C * norm.eps, model.data.dtype)
        *blocks, last = [block.layers for block in layers["blocks"].layers.values()]
        with np.errstate(over="ignore", invalid="ignore"):  # then they are not small
            self.blocks = [(_Attention(b["attention"], T), _MLP(b["mlp"], T)) for b in blocks]
            self.last = _LastAttention(last["attention"]), _MLP(last["mlp"], 1)
            self.head = _after_norm(norm, layers["head"])
            self.table = None
            if self.blocks and 3 * T * self.token.size <= LARGEST_TABLE:
                w, b = self.blocks[0][0].qkv
                x = self.position[:, None] + self.token
                self.table = self._normed(x.reshape(-1, C)) @ w + b[0]
        self.first = np.arange(T) * len(self.token)  # row of the table for each position

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        if self.small:
            logits, sums = quietly(self._read, ids)
            smallest, largest = sums.item(sums.argmin()), sums.item(sums.argmax())
            if smallest > _SMALLEST_SUM and largest < _LARGEST_SUM:
                return logits
        return self.model.logits(ids[None])[0, -1]

    def _read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """logits, and the sums of exponentials that weights were divided by."""
        attention, mlp = self.last
        sums = np.empty((len(self.blocks) + 1, attention.n_head, len(ids)), self.token.dtype)
        sums[-1] = 1
        x = self.token.take(ids, axis=0)
        x += self.position[: len(ids)]
        for i, (before, after) in enumerate(self.blocks):
            if i == 0 and self.table is not None:
                qkv = self.table.take(self.first[: len(ids)] + ids, axis=0)
            else:
                w, b = before.qkv
                qkv = self._normed(x).dot(w)
                qkv += b[: len(ids)]
            before(x, qkv, sums[i])
            after(x, self._normed(x))
        x = attention(x, self._normed(x), sums[-1, :, -1])
        mlp(x, self._normed(x))
        w, b = self.head
        return self._normed(x)[0].dot(w) + b, sums

    def _normed(self, x: np.ndarray) -> np.ndarray:
        """r of x, see above."""
        std = np.vecdot(x, x)
        std += self.eps
        np.sqrt(std, out=std)
        return x / std[:, None]


class _Attention:
    """Biases stand once for each of T rows: equal shapes are added faster."""

    def __init__(self, branch: Any, T: int) -> None:
        self.n_head, (w, b), projection = _heads(branch)
        self.qkv = w, np.tile(b, (T, 1))
        self.projection = _before_norm(projection, T)
        self.below = triangles(self.n_head, T, w.dtype)

    def __call__(self, x: np.ndarray, qkv: np.ndarray, sums: np.ndarray) -> None:
        """x (T, C) += what the branch makes of its queries, keys and values (T, 3C); sums
        (n_head, T)."""
        (T, C), H = x.shape, self.n_head
        q, k, v = qkv.reshape(T, 3, H, C // H).transpose(1, 2, 0, 3)
        p = q @ k.swapaxes(1, 2)
        power(p, out=p)
        p *= self.below[:, :T, :T]
        p.reshape(H * T, T).dot(ones(T, x.dtype), sums.reshape(H * T))
        y = np.empty((T, H, C // H), x.dtype)
        np.matmul(p, v, out=y.swapaxes(0, 1))
        y /= sums.T[..., None]
        w, b = self.projection
        x += y.reshape(T, C).dot(w)
        x += b[:T]


class _LastAttention:
    """That of the last position alone."""

    def __init__(self, branch: Any) -> None:
        self.n_head, (w, b), projection = _heads(branch)
        C, H = len(w), self.n_head
        wq, wk, wv = w.reshape(C, 3, H, C // H).transpose(1, 2, 0, 3)  # (H, C, D)
        bq, _, bv = b.reshape(3, H, 1, C // H)
        w, b = _before_norm(projection, 1)
        self.query = np.concatenate(wq @ wk.swapaxes(1, 2), axis=1)
        self.query_bias = (bq @ wk.swapaxes(1, 2)).reshape(1, H * C)
        self.value = (wv @ w.reshape(H, C // H, C)).reshape(H * C, C)
        self.value_bias = bv.reshape(1, C) @ w + b

    def __call__(self, x: np.ndarray, r: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """x and r (T, C) -> the last row, (1, C), with what the branch adds; sums (n_head,)."""
        T, C = x.shape
        q = r[-1:].dot(self.query)
        q += self.query_bias
        p = q.reshape(self.n_head, C).dot(r.T)
        power(p, out=p)
        np.matmul(p, ones(T, x.dtype), out=sums)
        p /= sums[:, None]
        y = p.dot(r).reshape(1, -1).dot(self.value)
        y += self.value_bias
        y += x[-1:]
        return y


class _MLP:
    def __init__(self, branch: Any, rows: int) -> None:
        layers = branch.layers
        self.up, b = _after_norm(layers["norm"], layers["up"])
        self.down, c = _before_norm(layers["down"], rows)
        self.activation = layers["activation"]
        self.relu = isinstance(self.activation, ReLU)
        self.bias = np.tile(-b if self.relu else b, (rows, 1))
        self.down_bias = c + b @ self.down if self.relu else c

    def __call__(self, x: np.ndarray, r: np.ndarray) -> None:
        """x (T, C) += what the branch makes of r."""
        h = r.dot(self.up)
        if self.relu:
            np.maximum(h, self.bias[: len(h)], out=h)
        else:
            h += self.bias[: len(h)]
            h, _ = self.activation.forward(h)
        x += h.dot(self.down)
        x += self.down_bias[: len(x)]


def _heads(branch: Any) -> tuple[int, tuple[np.ndarray, np.ndarray], Any]:
    """An attention's n_head, w and b of its queries, keys and values, and its projection."""
    layers = branch.layers
    n_head, scale = layers["heads"].n_head, layers["heads"].scale
    w, b = _after_norm(layers["norm"], layers["qkv"])
    C = len(w)
    for array in (w, b):
        array[..., :C] *= NAT * ((C // n_head) ** -0.5 if scale is None else scale)
    return n_head, (w, b), layers["projection"]


def _after_norm(norm: Any, linear: Any) -> tuple[np.ndarray, np.ndarray]:
    w, b = _parameters(linear)
    b = b.copy() if norm.bias is None else norm.bias.data @ w + b
    return len(w) ** 0.5 * norm.weight.data[:, None] * w, b


def _before_norm(linear: Any, rows: int) -> tuple[np.ndarray, np.ndarray]:
    w, b = _parameters(linear)
    return _centred(w), np.tile(_centred(b), (rows, 1))


def _parameters(linear: Any) -> tuple[np.ndarray, np.ndarray]:
    """w (I, O) and b (O,), zeros where there is none."""
    w = linear.weight.data.T if isinstance(linear, TiedLinear) else linear.weight.data
    bias = getattr(linear, "bias", None)
    return w, np.zeros(w.shape[1], w.dtype) if bias is None else bias.data


def _centred(a: np.ndarray) -> np.ndarray:
    return a - a.mean(-1, keepdims=True)
