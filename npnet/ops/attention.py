"""Causal multi-head self-attention, from the packed product of one Linear(C, 3C)."""

import math

import numpy as np

from npnet.ops.checks import floating, upstream
from npnet.ops.constants import ones, triangle

# exp of a score this size, and the sum of many, is far from overflow and underflow in float32; the
# row maximum, the most expensive part of a softmax over short rows, is then not needed.
_SAFE_SCORE = 60


def causal_attention(qkv: np.ndarray, n_head: int) -> tuple[np.ndarray, tuple]:
    """Each position averages the values of itself and of the positions before it.

    qkv (..., T, 3C) -> y (..., T, C): queries, keys and values stand side by side, each cut into
    n_head heads of D = C / n_head channels. In each head, with the entries of s above the diagonal
    left out (Vaswani et al., 2017):
        s = q @ k^T / sqrt(D)  (T, T),   p = softmax(s),   y = p @ v,
    and the heads' y stand side by side again. C must be a multiple of n_head >= 1, else ValueError.
    """
    floating("causal_attention", qkv, axes=2)
    *lead, T, C3 = qkv.shape
    if n_head < 1 or C3 % (3 * n_head):
        raise ValueError(
            "causal_attention: the last axis must be a multiple of 3 * n_head, "
            f"got {C3} and n_head = {n_head}"
        )
    C = C3 // 3
    q, k, v = _heads(qkv.reshape(math.prod(lead), T, C3), n_head)
    with np.errstate(over="ignore", invalid="ignore"):
        p = q @ k.swapaxes(-1, -2)
    p *= 1 / math.sqrt(C // n_head)
    mask = triangle(T, qkv.dtype)
    if p.size and max(p.max(), -p.min()) <= _SAFE_SCORE:
        np.exp(p, out=p)
        p *= mask
    else:
        p = _large_scores(p, q, k, mask != 0)
    p /= (p @ ones(T, qkv.dtype))[..., None]
    y = np.empty((len(q), T, C), qkv.dtype)
    np.matmul(p, v, out=_heads(y, n_head, parts=1)[0])
    return y.reshape(*lead, T, C), (q, k, v, p, qkv.shape)


def causal_attention_backward(dy: np.ndarray, cache: tuple) -> np.ndarray:
    """dy (..., T, C) -> dqkv (..., T, 3C).

    Read the forward upwards, head by head:
        y = p @ v           dv = p^T @ dy,  dp = dy @ v^T
        p = softmax(s)      ds = p (dp - sum(dp p)), softmax's backward; above the diagonal p is 0,
                            and so is ds
        s = q @ k^T a       dq = a ds @ k,  dk = a ds^T @ q,  with a = 1 / sqrt(D)
    The three are written straight into their places in dqkv.
    """
    q, k, v, p, shape = cache
    B, n_head, T, D = q.shape
    dy = upstream("causal_attention", dy, (*shape[:-1], n_head * D), q.dtype)
    (dy,) = _heads(dy.reshape(B, T, n_head * D), n_head, parts=1)
    dqkv = np.empty((len(q), *shape[-2:]), dy.dtype)
    dq, dk, dv = _heads(dqkv, n_head)
    np.matmul(p.swapaxes(-1, -2), dy, out=dv)
    ds = dy @ v.swapaxes(-1, -2)  # dp
    ds -= np.vecdot(ds, p)[..., None]
    ds *= p
    ds *= 1 / math.sqrt(D)  # a ds
    np.matmul(ds, k, out=dq)
    np.matmul(ds.swapaxes(-1, -2), q, out=dk)
    return dqkv.reshape(shape)


def _large_scores(scores: np.ndarray, q: np.ndarray, k: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """exp(score - a shift of each row) where `seen`, else 0. Row by row: a later position must not
    change how an earlier one is rounded."""
    with np.errstate(over="ignore", invalid="ignore"):
        s = np.where(seen, scores, -np.inf)
        shift = s.max(axis=-1, keepdims=True, initial=-np.inf)
        low = np.where(seen, s, np.inf).min(axis=-1, keepdims=True, initial=np.inf)
        overflowed = ~np.isfinite(shift - low)[..., 0]
        shift[np.maximum(shift, -low) <= _SAFE_SCORE] = 0
        s -= shift
        p = np.exp(s, out=s)
        if overflowed.any():  # a product of two numbers was too large for the dtype
            s = q.astype(np.float64) @ k.swapaxes(-1, -2).astype(np.float64)
            s = np.where(seen, s / math.sqrt(q.shape[-1]), -np.inf)
            p[overflowed] = np.exp(s - s.max(axis=-1, keepdims=True))[overflowed]
    return p


def _heads(x: np.ndarray, n_head: int, parts: int = 3) -> np.ndarray:
    """Views of (B, T, parts C): for each part (B, n_head, T, D)."""
    B, T, C = x.shape
    return x.reshape(B, T, parts, n_head, C // (parts * n_head)).transpose(2, 0, 3, 1, 4)
