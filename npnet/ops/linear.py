"""Embedding and linear, the two operations that hold most of a network's parameters, and both
together.

All end in a sum over every row of the batch. It is written as a matrix product, which NumPy hands
to BLAS: `dy.sum(0)` and `np.add.at` give the same numbers several times slower at these sizes.
dot takes half a microsecond less than matmul, but cannot write into a transposed array.
"""

from collections.abc import Sequence

import numpy as np

from npnet.ops.checks import as_rows, fitted, floating, floating_rows, outside, upstream, within
from npnet.ops.constants import one_hot, sum_rows

# A one-hot product beats np.add.at up to about this many rows of the table.
_ONE_HOT_ROWS = 512


def embedding(ids: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Look up rows: y[..., :] = table[ids[...], :].

    ids (...,) integers in [0, V), table (V, C) -> y (..., C). An id outside is a ValueError: NumPy
    alone would count a negative one from the end.
    """
    floating("embedding", table, axes=2)
    try:  # take itself finds what is too large, but counts negative ids from the end
        y = table.take(ids, 0)
    except (IndexError, TypeError):
        raise outside("embedding", ids, len(table)) from None
    if ids.dtype.kind not in "iu" or (ids.size and ids.item(ids.argmin()) < 0):
        raise outside("embedding", ids, len(table))
    return y, (ids, table.shape, table.dtype)


def embedding_backward(dy: np.ndarray, cache: tuple, out: np.ndarray | None = None) -> np.ndarray:
    """dy (..., C) -> dtable (V, C).

    y[n] = table[ids[n]], so table[v] reaches the loss through every n with ids[n] == v, and its
    gradients add up: dtable[v] = sum_n [ids[n] == v] dy[n], which is onehot^T @ dy. A row that no
    id names gets exactly zero. `dtable[ids] += dy` would keep only one of the repeated rows.
    """
    ids, (V, C), dtype = cache
    dy = upstream("embedding", dy, (*ids.shape, C), dtype)
    ids, dy = ids.ravel(), as_rows(dy)
    if V <= _ONE_HOT_ROWS:
        return _transposed_product(one_hot(ids, V, dy.dtype), dy, out)
    dtable = np.empty((V, C), dy.dtype) if out is None else out
    dtable.fill(0)
    np.add.at(dtable, ids, dy)
    return dtable


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> tuple[np.ndarray, tuple]:
    """y = x @ w + b.

    x (..., I), w (I, O), b (O,) or None -> y (..., O). Leading axes are flattened into one, so that
    any of them costs a single matrix product. The weight is (fan_in, fan_out), the transpose of
    torch.nn.Linear's.
    """
    rows = floating_rows("linear", x)
    if w.ndim != 2 or len(w) != rows.shape[1] or w.dtype is not x.dtype:
        _, w = fitted("linear", x, w=(w, (x.shape[-1], w.shape[-1] if w.ndim else 0)))
    y = rows.dot(w)
    if b is not None:
        if b.shape != y.shape[1:] or b.dtype is not x.dtype:
            _, b = fitted("linear", x, b=(b, y.shape[1:]))
        y += b
    if rows is not x:
        y = y.reshape(*x.shape[:-1], y.shape[1])
    return y, (rows, w, x.shape, b is not None, y.shape)


def linear_backward(
    dy: np.ndarray, cache: tuple, out: Sequence[np.ndarray | None] = (None, None)
) -> tuple[np.ndarray, ...]:
    """dy (..., O) -> dx (..., I), dw (I, O) and, with a bias, db (O,). `out` places (dw, db), or
    (dw,) without a bias.

    Element by element y[n, o] = sum_i x[n, i] w[i, o] + b[o]. Each factor's gradient is dy times
    the other factor, summed over the index that the factor does not have:
        dx[n, i] = sum_o dy[n, o] w[i, o]      = dy @ w^T
        dw[i, o] = sum_n x[n, i] dy[n, o]      = x^T @ dy
        db[o]    = sum_n dy[n, o]              = ones @ dy
    There is one way for the shapes to fit, which is the quick check of all three.
    """
    x, w, shape, with_bias, y_shape = cache
    dy = as_rows(upstream("linear", dy, y_shape, x.dtype))
    dx = _product_with_transposed(dy, w)
    if len(shape) != 2:
        dx = dx.reshape(shape)
    dw = _transposed_product(x, dy, out[0])
    if not with_bias:
        return dx, dw
    db = sum_rows(dy, out[1])
    return dx, dw, db


def embedding_linear(
    ids: np.ndarray, table: np.ndarray, w: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, tuple]:
    """Rows of a table side by side, then a linear layer: y = [table[ids[0]], ...] @ w + b.

    ids (..., K) integers in [0, V), table (V, C), w (K C, H), b (H,) -> y (..., H). Where the table
    has few rows the product comes before the look-up: w is K blocks w_k (C, H), one above the
    other, so y = sum_k (table @ w_k)[ids[k]] + b, and each row of the table meets each block once,
    however often it is looked up. ids as in `embedding`.
    """
    floating("embedding_linear", table, axes=2)
    if ids.ndim == 0 or ids.shape[-1] == 0:
        raise ValueError(
            f"embedding_linear: ids must have a last axis of at least one row, got {ids.shape}"
        )
    (V, C), K, H = table.shape, ids.shape[-1], w.shape[-1] if w.ndim else 0
    table, w, b = fitted("embedding_linear", table, w=(w, (K * C, H)), b=(b, (H,)))
    if min(ids.size // K, C, _ONE_HOT_ROWS) < V:
        x, looked_up = embedding(ids, table)
        y, multiplied = linear(x.reshape(*ids.shape[:-1], K * C), w, b)
        return y, (None, looked_up, multiplied)
    if not within(ids, V):
        raise outside("embedding", ids, V)
    rows = table.dot(w)[None] if K == 1 else table @ w.reshape(K, C, H)
    rows[0] += b
    columns = ids.reshape(-1, K).T.copy()
    y = rows[0].take(columns[0], axis=0)
    for k in range(1, K):
        y += rows[k].take(columns[k], axis=0)
    return y.reshape(*ids.shape[:-1], H), (ids, table, w)


def embedding_linear_backward(
    dy: np.ndarray, cache: tuple, out: Sequence[np.ndarray | None] = (None, None, None)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dy (..., H) -> dtable (V, C), dw (K C, H), db (H,), which `out` places.

    The backward passes of the two in the opposite order. Where the forward looked up last, that of
    the look-up comes first: with r_k = table @ w_k it adds up dr_k[v] = sum_n [ids[n, k] == v]
    dy[n], and all that follows has V rows, not N:
        dw_k = table^T @ dr_k,   dtable = sum_k (w_k @ dr_k^T)^T,   db = sum_v dr_0[v].
    """
    ids, table, w = cache
    if ids is None:
        looked_up, multiplied = table, w
        dx, dw, db = linear_backward(dy, multiplied, out[1:])
        ids, (_, C), _ = looked_up
        return embedding_backward(dx.reshape(*ids.shape, C), looked_up, out[0]), dw, db
    (V, C), H = table.shape, w.shape[1]
    dy = as_rows(upstream("embedding_linear", dy, (*ids.shape[:-1], H), w.dtype))
    K = ids.shape[-1]
    onehot = one_hot(ids, V, dy.dtype).reshape(-1, K * V)
    dr = onehot.T.dot(dy).reshape(K, V, H)
    if K == 1:
        dw = _transposed_product(table, dr[0], out[1])
        dtable = np.matmul(dr[0], w.T.copy(), out=out[0])
    else:  # of dr_k @ w_k^T dr_k is the smaller to lay out anew
        dw = np.empty_like(w) if out[1] is None else out[1]
        np.matmul(table.T, dr, out=dw.reshape(K, C, H))
        transposed = w.reshape(K, C, H) @ dr.swapaxes(1, 2).copy()
        dtable = np.add.reduce(transposed.swapaxes(1, 2), axis=0, out=out[0])
    return dtable, dw, sum_rows(dr[0], out[2])


def _transposed_product(x: np.ndarray, dy: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """x (N, I), dy (N, O) -> x^T @ dy (I, O)."""
    if out is None or out.flags.c_contiguous:
        return x.T.dot(dy, out)
    return np.matmul(x.T, dy, out=out)


def _product_with_transposed(dy: np.ndarray, w: np.ndarray) -> np.ndarray:
    """dy (N, O), w (I, O) -> dy @ w^T (N, I). For up to a million multiplications OpenBLAS has
    kernels of their own, a fifth slower where the second factor is transposed; with enough rows it
    is better laid out anew."""
    small = len(dy) >= 64 and dy.size * len(w) <= 1_000_000
    return dy.dot(w.T.copy() if small else w.T)
