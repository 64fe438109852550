"""Recurrent cells unrolled over time, with the gradient through time and into the learned initial
state.

x (..., T, C) -> h (..., T, H); the initial state is (H,), shared by every sequence of the batch, or
(B, H), one for each. A gate's weight multiplies [x_t, h_{t-1}] side by side, so with G gates w is
(C + H, G H): its first C rows read the input, the last H rows the state. The input's part of every
product is one large product before the loop; only the state's part is inside it.

All backward passes run the loop from the last step to the first. dh, the gradient of h_t, has two
sources: the output at t, and everything that came after, handed down as the gradient of the next
step's h_{t-1}.
"""

import math
from typing import NamedTuple

import numpy as np

from npnet.ops.activation import sigmoid
from npnet.ops.checks import fitted, floating, upstream


class LSTMCache(NamedTuple):
    """cell holds c_0 .. c_T, (T + 1, B, H), whose last is what a further step starts from."""

    xt: np.ndarray
    gates: np.ndarray
    h: np.ndarray
    tanh_cell: np.ndarray
    cell: np.ndarray
    w: np.ndarray
    shape: tuple[int, ...]
    h0_ndim: int
    c0_ndim: int


def rnn(x: np.ndarray, h0: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """h_t = tanh([x_t, h_{t-1}] @ w + b) (Elman, 1990; makemore's RNN).

    x (..., T, C), h0 (H,), w (C + H, H), b (H,) -> h (..., T, H).
    """
    x, h0, w, b = _fitted("rnn", x, w, b, 1, h0=h0)
    xt, a, h = _unroll(x, h0, w, b)
    wh = w[x.shape[-1] :]
    for t in range(len(a)):
        a[t] += h[t] @ wh
        np.tanh(a[t], out=h[t + 1])
    return _batch_first(h[1:], x.shape), (xt, h, w, x.shape, h0.ndim)


def rnn_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (..., T, H) -> dx (..., T, C), dh0 (H,), dw (C + H, H), db (H,).

    At each t: dh = dy_t + (what step t + 1 hands down), da = dh (1 - h_t^2) through the tanh, and
    da @ w_h^T is handed down. w, b and h0 are used at every step or by every sequence, so their
    gradients are sums: linear's backward on all steps at once.
    """
    xt, h, w, shape, state_ndim = cache
    dy = _time_first(upstream("rnn", dy, (*shape[:-1], h.shape[-1]), h.dtype))
    wh = w[xt.shape[-1] :]
    da = np.empty_like(dy)
    dh = np.zeros_like(h[0])
    for t in reversed(range(len(dy))):
        dh += dy[t]
        np.multiply(h[t + 1], h[t + 1], out=da[t])
        np.subtract(1, da[t], out=da[t])
        da[t] *= dh
        dh = da[t] @ wh.T  # handed down
    dx, dw, db = _through_input(da, xt, h[:-1], w, shape)
    return dx, _state_gradient(dh, state_ndim), dw, db


def gru(x: np.ndarray, h0: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """Gated recurrent unit (Cho et al., 2014), in the form of makemore.

        z = sigmoid([x_t, h_{t-1}] w_z + b_z)          how much to renew
        r = sigmoid([x_t, h_{t-1}] w_r + b_r)          how much of the old state the candidate sees
        c = tanh([x_t, r h_{t-1}] w_c + b_c)           the candidate
        h_t = (1 - z) h_{t-1} + z c

    x (..., T, C), h0 (H,), w (C + H, 3H) with the columns of z, r, c in this order, b (3H,)
    -> h (..., T, H). torch.nn.GRU differs: it applies r after the product, and its z is our 1 - z.
    """
    x, h0, w, b = _fitted("gru", x, w, b, 3, h0=h0)
    xt, a, h = _unroll(x, h0, w, b)
    H = h.shape[-1]
    wh = w[x.shape[-1] :]
    w_gates, w_candidate = wh[:, : 2 * H], wh[:, 2 * H :]
    rh = np.empty_like(h[1:])  # r h_{t-1}
    for t in range(len(a)):
        gates, c = a[t, :, : 2 * H], a[t, :, 2 * H :]
        gates += h[t] @ w_gates
        gates[...] = sigmoid(gates)[0]
        z, r = gates[:, :H], gates[:, H:]
        np.multiply(r, h[t], out=rh[t])
        c += rh[t] @ w_candidate
        np.tanh(c, out=c)
        np.subtract(c, h[t], out=h[t + 1])  # h_t = h_{t-1} + z (c - h_{t-1})
        h[t + 1] *= z
        h[t + 1] += h[t]
    return _batch_first(h[1:], x.shape), (xt, a, h, rh, w, x.shape, h0.ndim)


def gru_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (..., T, H) -> dx (..., T, C), dh0 (H,), dw (C + H, 3H), db (3H,).

    With p = h_{t-1} and h_t = (1 - z) p + z c, each step is read upwards:
        dz = dh (c - p),  dc = dh z,  dp = dh (1 - z)
        da_c = dc (1 - c^2);   d(r p) = da_c @ w_c^T;   dr = d(r p) p;   dp += d(r p) r
        da_z = dz z (1 - z);   da_r = dr r (1 - r);     dp += [da_z, da_r] @ [w_z, w_r]^T
    p is used in four places, so four terms add up. The state rows of w_c met r p, those of the
    other gates p.
    """
    xt, gates, h, rh, w, shape, state_ndim = cache
    dy = _time_first(upstream("gru", dy, (*shape[:-1], h.shape[-1]), h.dtype))
    H = h.shape[-1]
    wh = w[xt.shape[-1] :]
    w_gates, w_candidate = wh[:, : 2 * H], wh[:, 2 * H :]
    slope = _slopes(gates, candidate=slice(2 * H, 3 * H))
    da = np.empty_like(gates)
    dh = np.zeros_like(h[0])
    for t in reversed(range(len(dy))):
        z, r, c = gates[t, :, :H], gates[t, :, H : 2 * H], gates[t, :, 2 * H :]
        daz, dar, dac = da[t, :, :H], da[t, :, H : 2 * H], da[t, :, 2 * H :]
        dh += dy[t]
        np.multiply(dh, z, out=dac)  # dc
        dac *= slope[t, :, 2 * H :]
        drh = dac @ w_candidate.T
        np.subtract(c, h[t], out=daz)
        daz *= dh  # dz
        np.multiply(drh, h[t], out=dar)  # dr
        da[t, :, : 2 * H] *= slope[t, :, : 2 * H]
        dh *= 1 - z  # from here on dp: through (1 - z) p,
        drh *= r
        dh += drh  # through r p,
        dh += da[t, :, : 2 * H] @ w_gates.T  # and through both gates
    dx, dw, db = _through_input(da, xt, h[:-1], w, shape)
    np.matmul(_rows(rh).T, _rows(da)[:, 2 * H :], out=dw[xt.shape[-1] :, 2 * H :])
    return dx, _state_gradient(dh, state_ndim), dw, db


def lstm(
    x: np.ndarray, h0: np.ndarray, c0: np.ndarray, w: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, LSTMCache]:
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), with the gates of Graves (2014)
    but no peepholes.

        a = [x_t, h_{t-1}] @ w + b
        i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o),  g = tanh(a_g)
        c_t = f c_{t-1} + i g        the cell
        h_t = o tanh(c_t)

    x (..., T, C), h0 (H,), c0 (H,), w (C + H, 4H) with the columns of i, f, g, o in this order,
    which is torch.nn.LSTM's, b (4H,) -> h (..., T, H). torch.nn.LSTM has two biases, whose sum is
    b.
    """
    x, h0, c0, w, b = _fitted("lstm", x, w, b, 4, h0=h0, c0=c0)
    xt, a, h = _unroll(x, h0, w, b)
    H = h.shape[-1]
    wh = w[x.shape[-1] :]
    cell = np.empty_like(h)
    cell[0] = c0
    tanh_cell = np.empty_like(h[1:])
    for t in range(len(a)):
        a[t] += h[t] @ wh
        g = np.tanh(a[t, :, 2 * H : 3 * H])
        a[t] = sigmoid(a[t])[0]  # of g's columns too: one call on the whole row is faster
        a[t, :, 2 * H : 3 * H] = g
        i, f, o = a[t, :, :H], a[t, :, H : 2 * H], a[t, :, 3 * H :]
        np.multiply(f, cell[t], out=cell[t + 1])
        cell[t + 1] += i * g
        np.tanh(cell[t + 1], out=tanh_cell[t])
        np.multiply(o, tanh_cell[t], out=h[t + 1])
    cache = LSTMCache(xt, a, h, tanh_cell, cell, w, x.shape, h0.ndim, c0.ndim)
    return _batch_first(h[1:], x.shape), cache


def lstm_backward(dy: np.ndarray, cache: LSTMCache) -> tuple[np.ndarray, ...]:
    """dy (..., T, H) -> dx (..., T, C), dh0 (H,), dc0 (H,), dw (C + H, 4H), db (4H,).

    Two gradients are handed down, dh and dc. Each step is read upwards, with u = tanh(c_t):
        h_t = o u              do = dh u;   dc += dh o (1 - u^2)
        c_t = f c_{t-1} + i g  df = dc c_{t-1};   di = dc g;   dg = dc i;   f dc is handed down
        the gates              da_i = di i (1 - i), da_f and da_o likewise;   da_g = dg (1 - g^2)
        a = [x, h_{t-1}] w     da @ w_h^T is handed down as dh
    Along c the gradient is only multiplied by f at each step, which is why it need not vanish.
    """
    xt, gates, h, tanh_cell, cell, w, shape, h0_ndim, c0_ndim = cache
    dy = _time_first(upstream("lstm", dy, (*shape[:-1], h.shape[-1]), h.dtype))
    H = h.shape[-1]
    wh = w[xt.shape[-1] :]
    slope = _slopes(gates, candidate=slice(2 * H, 3 * H))
    o = gates[..., 3 * H :]
    slope_cell = o * (1 - tanh_cell * tanh_cell)
    da = np.empty_like(gates)
    dh = np.zeros_like(h[0])
    dc = np.zeros_like(dh)
    for t in reversed(range(len(dy))):
        i, f, g = (gates[t, :, k * H : (k + 1) * H] for k in range(3))
        dai, daf, dag, dao = (da[t, :, k * H : (k + 1) * H] for k in range(4))
        dh += dy[t]
        dc += dh * slope_cell[t]  # through h_t
        np.multiply(dh, tanh_cell[t], out=dao)  # do
        np.multiply(dc, cell[t], out=daf)  # df
        np.multiply(dc, g, out=dai)  # di
        np.multiply(dc, i, out=dag)  # dg
        da[t] *= slope[t]
        dc *= f  # handed down
        dh = da[t] @ wh.T  # handed down
    dx, dw, db = _through_input(da, xt, h[:-1], w, shape)
    return dx, _state_gradient(dh, h0_ndim), _state_gradient(dc, c0_ndim), dw, db


def _fitted(
    op: str, x: np.ndarray, w: np.ndarray, b: np.ndarray, n_gate: int, **states: np.ndarray
) -> list[np.ndarray]:
    """The arguments of a cell with so many gates in their order, if they have the shapes of its
    docstring, else ValueError."""
    floating(op, x, axes=2)
    *lead, _, C = x.shape
    H = b.shape[-1] // n_gate if b.ndim else 0
    each = (math.prod(lead), H)
    others = {name: (s, each if s.shape == each else (H,)) for name, s in states.items()}
    others |= {"w": (w, (C + H, n_gate * H)), "b": (b, (n_gate * H,))}
    return fitted(op, x, **others)


def _time_first(x: np.ndarray) -> np.ndarray:
    """(..., T, C) -> a contiguous (T, B, C), all leading axes in B: each step of the loop reads one
    block of memory."""
    x = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
    return np.ascontiguousarray(x.swapaxes(0, 1))


def _batch_first(h: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(T, B, H) -> a fresh (..., T, H) with the leading axes of `shape`."""
    return h.swapaxes(0, 1).reshape(*shape[:-1], h.shape[-1]).copy()


def _rows(x: np.ndarray) -> np.ndarray:
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _sum_rows(x: np.ndarray) -> np.ndarray:
    return np.ones(len(x), x.dtype) @ x


def _state_gradient(d: np.ndarray, ndim: int) -> np.ndarray:
    """d (B, H) for one state each; a state (H,) that all shared gets the sum."""
    return _sum_rows(d) if ndim == 1 else d


def _slopes(gates: np.ndarray, candidate: slice) -> np.ndarray:
    """The slope of every gate at every step, from its value y: y (1 - y) for a sigmoid, and
    1 - y^2 for the columns of the candidate, a tanh."""
    slope = 1 - gates
    slope *= gates
    c = gates[..., candidate]
    slope[..., candidate] = 1 - c * c
    return slope


def _unroll(
    x: np.ndarray, h0: np.ndarray, w: np.ndarray, b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x time first, a[t] = x_t @ w_x + b for every step, and room for h_0 .. h_T, h_0 filled in."""
    xt = _time_first(x)
    T, B, C = xt.shape
    a = (_rows(xt) @ w[:C]).reshape(T, B, w.shape[1])
    a += b
    h = np.empty((T + 1, B, h0.shape[-1]), x.dtype)
    h[0] = h0
    return xt, a, h


def _through_input(
    da: np.ndarray, xt: np.ndarray, h_before: np.ndarray, w: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """linear's backward for a = [x, h_before] @ w + b at all steps at once -> dx, dw, db.

    The state's gradient is the loop's.
    """
    C = xt.shape[-1]
    rows = _rows(da)
    dw = np.empty_like(w)
    np.matmul(_rows(xt).T, rows, out=dw[:C])
    np.matmul(_rows(h_before).T, rows, out=dw[C:])
    dx = (rows @ w[:C].T).reshape(xt.shape)
    return _batch_first(dx, shape), dw, _sum_rows(rows)
