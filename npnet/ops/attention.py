"""Causal multi-head self-attention, from the packed product of one Linear(C, 3C)."""

import math
from typing import Any

import numpy as np

from npnet.ops.activation import kept
from npnet.ops.checks import floating, quietly, upstream
from npnet.ops.constants import NAT, number, ones, power, triangles
from npnet.random import Generator

# The exponentials of scores up to this size, and a sum of many, are far from overflow and underflow
# in float32. The row maximum, the most expensive part of a softmax over short rows, is not needed.
_SAFE_SCORE = 60 * NAT
_LAID_OUT_FROM = 1 << 13


def causal_attention(
    qkv: np.ndarray,
    n_head: int,
    scale: float | None = None,
    dropout: float = 0.0,
    generator: Generator | None = None,
    block: int | None = None,
) -> tuple[np.ndarray, tuple]:
    """Each position averages the values of itself and of the positions before it.

    qkv (..., T, 3C) -> y (..., T, C): queries, keys and values stand side by side, each cut into
    n_head heads of D = C / n_head channels. In each head, with the entries of s above the diagonal
    left out (Vaswani et al., 2017):
        s = scale q @ k^T  (T, T),   p = softmax(s),   y = p @ v,
    and the heads' y stand side by side again. The default scale is 1 / sqrt(D). C must be a
    multiple of n_head >= 1, else ValueError.

    With `dropout` the weights p are dropped out before they meet v, the mask drawn from `generator`
    as `ops.dropout` draws it, for all of (..., n_head, T, T) as torch has it.

    A row of s has no keys beyond its own position. So `block` queries at a time meet the keys up to
    the last of them: for a long sequence nearly half of the T x T scores are never computed or
    kept, and a block of them fits into the processor's cache. It has 32 queries, for more than
    128 positions 64, unless told otherwise: the fastest of several sizes.
    """
    floating("causal_attention", qkv, axes=2)
    *lead, T, C3 = qkv.shape
    if n_head < 1 or C3 % (3 * n_head):
        raise ValueError(
            "causal_attention: the last axis must be a multiple of 3 * n_head, "
            f"got {C3} and n_head = {n_head}"
        )
    if block is None:
        block = 32 if T <= 128 else 64
    if block < 1:
        raise ValueError(f"causal_attention: block must be at least 1, got {block}")
    if dropout and generator is None:
        raise ValueError("causal_attention: dropout draws from a generator, and there is none")
    C = C3 // 3
    scale = 1 / math.sqrt(C // n_head) if scale is None else scale
    x = qkv.reshape(math.prod(lead), T, C3)
    if block >= T:
        x = np.ascontiguousarray(x)  # many small products cost more than a copy that serves them
    q, k, v = _heads(x, n_head)
    k_t = _transposed(k)
    left = None
    if dropout:
        left = kept("causal_attention", (len(x), n_head, T, T), dropout, generator)
        left = left.reshape(*q.shape[:-1], T)
    result = np.empty_like(x, shape=(len(x), T, C))  # in the order of x, time first if x is
    y = _heads(result, n_head, parts=1)
    weights = []
    for start in range(0, T, block):
        now, seen = slice(start, min(start + block, T)), slice(0, min(start + block, T))
        views = q, k, k_t, v, y
        if block < T:  # a view of everything takes as long as one of a part
            keys = k[..., seen, :], k_t[..., seen]
            views = q[..., now, :], *keys, v[..., seen, :], y[..., now, :]
        q_now, k_seen, k_t_seen, v_seen, y_now = views
        p = _softmax(q_now, k_t_seen, scale, start)
        mask = None if left is None else left[..., now, seen] / p.dtype.type(1 - dropout)
        np.matmul(p if mask is None else p * mask, v_seen, out=y_now)
        weights.append((now, seen, q_now, k_seen, p, mask))
    return result.reshape(*lead, T, C), (x, v, n_head, weights, scale, qkv.shape)


def causal_attention_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dy (..., T, C) -> dqkv (..., T, 3C).

    Read the forward upwards, head by head, m being the mask over 1 - dropout, or 1:
        y = (p m) @ v       dv = (p m)^T @ dy,  dp = (dy @ v^T) m
        p = softmax(s)      ds = p (dp - sum(dp p)), softmax's backward; above the diagonal p is 0,
                            and so is ds
        s = scale q @ k^T   dq = scale ds @ k,  dk = scale ds^T @ q
    The three are written straight into their places in dqkv. Each block of queries has a dq of its
    own, but keys and values are shared by all later blocks, so their gradients add up: the last
    block, which sees all of them, writes dk and dv, and those before it add to them.
    """
    x, v, n_head, weights, scale, shape = cache
    B, T, C3 = x.shape
    dy = upstream("causal_attention", dy, (*shape[:-1], C3 // 3), x.dtype)
    dy = dy.reshape(B, T, C3 // 3)
    if len(weights) == 1:
        dy = np.ascontiguousarray(dy)
    dqkv = np.empty_like(dy, shape=x.shape)
    dy = _heads(dy, n_head, parts=1)
    dq, dk, dv = _heads(dqkv, n_head)
    v_t = _transposed(v)
    for now, seen, q, k, p, mask in reversed(weights):
        dy_now, dq_now = (dy[..., now, :], dq[..., now, :]) if len(weights) > 1 else (dy, dq)
        pm = p if mask is None else p * mask
        ds = dy_now @ (v_t[..., seen] if len(weights) > 1 else v_t)
        if mask is not None:
            ds *= mask  # dp
        ds -= _row_sums(ds * p)
        ds *= p
        ds *= number(scale, ds.dtype)
        np.matmul(ds, k, out=dq_now)
        if seen.stop == T:
            np.matmul(ds.mT, q, out=dk)
            np.matmul(pm.mT, dy_now, out=dv)
        else:
            dk[..., seen, :] += ds.mT @ q
            dv[..., seen, :] += pm.mT @ dy_now
    return dqkv.reshape(shape)


def _softmax(q: np.ndarray, k_t: np.ndarray, scale: float, start: int) -> np.ndarray:
    """The weights of the queries from position `start` on over the keys up to the last of them.
    The scores are in units of 1 / NAT, so that `power` takes them."""
    p = quietly(_scores, q, k_t, scale * NAT)
    if p.size and max(p.item(p.argmax()), -p.item(p.argmin())) <= _SAFE_SCORE:
        power(p, out=p)
        among_themselves = p[..., start:] if start else p
        among_themselves *= triangles(*q.shape[-3:-1], p.dtype)
    else:
        p = _large_scores(p, q, k_t, scale, start)
    p /= _row_sums(p)
    return p


def _scores(q: np.ndarray, k_t: np.ndarray, scale: float) -> np.ndarray:
    s = q @ k_t
    s *= number(scale, s.dtype)
    return s


def _transposed(a: np.ndarray) -> np.ndarray:
    """a (..., T, D) -> a^T (..., D, T), laid out anew if it is large: OpenBLAS multiplies small
    matrices by a transposed one at half the speed."""
    return a.mT.copy() if a.size >= _LAID_OUT_FROM else a.mT


def _row_sums(a: np.ndarray) -> np.ndarray:
    """The sum of each row, (..., n, m) -> (..., n, 1), in one product: one for each pair of a
    sequence and a head costs twice as much, and vecdot three times for rows of 16."""
    *lead, m = a.shape
    return a.reshape(-1, m).dot(ones(m, a.dtype)).reshape(*lead, 1)


def _large_scores(
    scores: np.ndarray, q: np.ndarray, k_t: np.ndarray, scale: float, start: int
) -> np.ndarray:
    """exp(score - a shift of each row) where it is seen, else 0. Row by row: a later position must
    not change how an earlier one is rounded."""
    n, m = scores.shape[-2:]
    seen = np.tri(n, m, start, dtype=bool)
    with np.errstate(over="ignore", invalid="ignore"):
        s = np.where(seen, scores, -np.inf)
        shift = s.max(axis=-1, keepdims=True, initial=-np.inf)
        low = np.where(seen, s, np.inf).min(axis=-1, keepdims=True, initial=np.inf)
        overflowed = ~np.isfinite(shift - low)[..., 0]
        shift[np.maximum(shift, -low) <= _SAFE_SCORE] = 0
        s -= shift
        p = power(s, out=s)
        if overflowed.any():  # a product of two numbers was too large for the dtype
            s = q.astype(np.float64) @ k_t.astype(np.float64)
            s = np.where(seen, s * scale, -np.inf)
            p[overflowed] = np.exp(s - s.max(axis=-1, keepdims=True))[overflowed]
    return p


def _heads(x: np.ndarray, n_head: int, parts: int = 3) -> Any:
    """Views of (B, T, parts C): for each part (B, n_head, T, D), and (n_head, T, D) of a batch of
    one, because a loop over one axis less is faster."""
    B, T, C = x.shape
    heads = x.reshape(B, T, parts, n_head, C // (parts * n_head)).transpose(2, 0, 3, 1, 4)
    if B == 1:
        heads = heads[:, 0]
    if parts == 1:
        return heads[0]
    return heads[0], heads[1], heads[2]  # to unpack the array itself takes twice as long
