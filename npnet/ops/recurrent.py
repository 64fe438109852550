"""Recurrent cells unrolled over time, with the gradient through time and into the learned initial
state.

The batch is packed, as npnet.ops.sequence has it: at step t the sequences that are still alive are
the first sizes[t] of those at step t - 1, and so are their states; or all continue the only one.

a (N, G H) -> h (N, H) for G gates: a is the input's part of the gates, x_t @ w_x + b for all steps
in one product, which is `linear`'s business; w (H, G H) reads the state. The initial state is (H,),
shared by every sequence, or (B, H), one for each of the B = sizes[0].

All backward passes run the loop from the last step to the first. dh_t has two sources: the output
at t, and what step t + 1 handed down to the sequences that it had. The loop multiplies by w_back,
w^T laid out anew, because products of few rows are up to twice as fast on it.

A step has few rows, so that a call costs more than its arithmetic. np.dot is half a microsecond
faster than matmul, and an operation between contiguous arrays as much faster than one between
views with gaps. So the gates lie side by side, (N, G H), where they meet a weight, and each in a
block of its own, (G, N, H), where they meet each other; what changes the form changes the layout.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npnet.ops.activation import sigmoid
from npnet.ops.checks import fitted, upstream
from npnet.ops.constants import number, sum_rows
from npnet.ops.sequence import continued, hand_down, steps_of


class LSTMCache(NamedTuple):
    gates: np.ndarray
    h: np.ndarray
    cell: np.ndarray
    tanh_cell: np.ndarray
    w: np.ndarray
    before: tuple[list[np.ndarray], list[np.ndarray]]
    steps: list[slice]
    ndims: tuple[int, int]


def rnn(
    a: np.ndarray, h0: np.ndarray, w: np.ndarray, sizes: Sequence[int]
) -> tuple[np.ndarray, tuple]:
    """h_t = tanh(a_t + h_{t-1} @ w) (Elman, 1990; makemore's RNN).

    a (N, H), h0 (H,), w (H, H) -> h (N, H).
    """
    a, first, w, steps = _begin("rnn", a, w, 1, sizes, h0=h0)
    h, p, before = np.empty_like(a, order="C"), first, []
    for now in steps:
        h_t = h[now]
        p = continued(p, len(h_t))
        before.append(p)
        np.dot(p, w, out=h_t)
        h_t += a[now]
        p = np.tanh(h_t, out=h_t)
    return h, (h, w, before, steps, h0.ndim)


def rnn_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (N, H) -> da (N, H), dh0 (H,), dw (H, H).

    At each t: dh = dy_t + (what step t + 1 hands down), da = dh (1 - h_t^2) through the tanh, and
    da @ w^T is handed down. w is used at every step, so dw is a sum over all of them:
    dw = sum_t h_{t-1}^T @ da_t, one product of all rows.
    """
    h, w, before, steps, ndim = cache
    dh, w_back = upstream("rnn", dy, h.shape, h.dtype).copy(), w.T.copy()
    da = h * h
    np.subtract(1, da, out=da)  # ∂h/∂a
    dp = dh[:0]
    for now in reversed(steps):
        dh_t, da_t = dh[now], da[now]
        hand_down(dp, dh_t)
        da_t *= dh_t
        dp = da_t.dot(w_back)  # handed down
    return da, _state_gradient(dp, ndim), np.concatenate(before).T.dot(da)


def gru(
    a: np.ndarray, h0: np.ndarray, w: np.ndarray, sizes: Sequence[int]
) -> tuple[np.ndarray, tuple]:
    """Gated recurrent unit (Cho et al., 2014), in the form of makemore.

        z = sigmoid(a_z + h_{t-1} w_z)          how much to renew
        r = sigmoid(a_r + h_{t-1} w_r)          how much of the old state the candidate sees
        c = tanh(a_c + (r h_{t-1}) w_c)         the candidate
        h_t = (1 - z) h_{t-1} + z c

    a (N, 3H) and w (H, 3H) with the columns of z, r, c in this order, h0 (H,) -> h (N, H).
    torch.nn.GRU differs: it applies r after the product, and its z is our 1 - z.
    """
    a, first, w, steps = _begin("gru", a, w, 3, sizes, h0=h0)
    H = len(w)
    a_zr, w_zr, w_c = (x.copy() for x in (a[:, : 2 * H], w[:, : 2 * H], w[:, 2 * H :]))
    z, r, c = gates = np.empty_like(a, shape=(3, len(a), H))
    c[...] = a[:, 2 * H :]
    h, rp = np.empty_like(z), np.empty_like(z)  # rp = r h_{t-1}
    p, before = first, []
    for now in steps:
        h_t, rp_t, c_t = h[now], rp[now], c[now]
        p = continued(p, len(h_t))
        before.append(p)
        zr_t = p.dot(w_zr)
        zr_t += a_zr[now]
        _sigmoid(zr_t, gates[:2, now])
        np.multiply(r[now], p, out=rp_t)
        c_t += rp_t.dot(w_c)
        np.tanh(c_t, out=c_t)
        np.subtract(number(1, z.dtype), z[now], out=h_t)
        h_t *= p
        h_t += z[now] * c_t
        p = h_t
    return h, (gates, h, rp, w, before, steps, h0.ndim)


def gru_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (N, H) -> da (N, 3H), dh0 (H,), dw (H, 3H).

    With p = h_{t-1} and h_t = (1 - z) p + z c, each step is read upwards:
        dz = dh (c - p),  dc = dh z,  dp = dh (1 - z)
        da_c = dc (1 - c^2);   d(r p) = da_c @ w_c^T;   dr = d(r p) p;   dp += d(r p) r
        da_z = dz z (1 - z);   da_r = dr r (1 - r);     dp += [da_z, da_r] @ [w_z, w_r]^T
    p is used in four places, so four terms add up. w_c met r p, the other weights p. What does not
    depend on dh is known for all steps beforehand: the slopes times c - p, p and z.
    """
    gates, h, rp, w, before, steps, ndim = cache
    dh = upstream("gru", dy, h.shape, h.dtype).copy()
    H = len(w)
    wzr_back, wc_back = w[:, : 2 * H].T.copy(), w[:, 2 * H :].T.copy()
    p, (z, r, c) = np.concatenate(before), gates
    da_z, da_r, da_c = da_gates = _slopes(gates)  # each is multiplied by what comes from above
    da_z *= c - p
    da_r *= p
    da_c *= z
    keep = 1 - z
    da_zr = np.empty_like(h, shape=(len(h), 2 * H))
    da_zr_gates = _gates(da_zr, 2)
    dp = dh[:0]
    for now in reversed(steps):
        dh_t, da_c_t = dh[now], da_c[now]
        hand_down(dp, dh_t)
        da_c_t *= dh_t
        dp = da_c_t.dot(wc_back)  # d(r p)
        da_z[now] *= dh_t
        da_r[now] *= dp
        da_zr_gates[:, now] = da_gates[:2, now]
        dp *= r[now]
        dh_t *= keep[now]
        dp += dh_t
        dp += da_zr[now].dot(wzr_back)
    dw = np.empty_like(w)
    np.matmul(p.T, da_zr, out=dw[:, : 2 * H])
    np.matmul(rp.T, da_c, out=dw[:, 2 * H :])
    return np.concatenate([da_zr, da_c], axis=1), _state_gradient(dp, ndim), dw


def lstm(
    a: np.ndarray, h0: np.ndarray, c0: np.ndarray, w: np.ndarray, sizes: Sequence[int]
) -> tuple[np.ndarray, LSTMCache]:
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), with the gates of Graves (2014)
    but no peepholes.

        i, f, o = sigmoid(b_i), sigmoid(b_f), sigmoid(b_o),  g = tanh(b_g)  of  b = a + h_{t-1} @ w
        c_t = f c_{t-1} + i g        the cell
        h_t = o tanh(c_t)

    a (N, 4H) and w (H, 4H) with the columns of i, f, g, o in this order, which is torch.nn.LSTM's,
    h0 (H,), c0 (H,) -> h (N, H).
    """
    a, *first, w, steps = _begin("lstm", a, w, 4, sizes, h0=h0, c0=c0)
    H = len(w)
    i, f, g, o = gates = np.empty_like(a, shape=(4, len(a), H))
    h, cell, u = (np.empty_like(o) for _ in range(3))  # u = tanh(c_t)
    (p, c), h_before, c_before = first, [], []
    for now in steps:
        g_t, h_t, cell_t, u_t = g[now], h[now], cell[now], u[now]
        p, c = continued(p, len(h_t)), continued(c, len(h_t))
        h_before.append(p)
        c_before.append(c)
        b = p.dot(w)
        b += a[now]
        _sigmoid(b, gates[:, now])  # of the candidate too: one call for all is faster
        g_t[...] = b[:, 2 * H : 3 * H]
        np.tanh(g_t, out=g_t)
        np.multiply(f[now], c, out=cell_t)
        cell_t += i[now] * g_t
        np.tanh(cell_t, out=u_t)
        np.multiply(o[now], u_t, out=h_t)
        p, c = h_t, cell_t
    before = h_before, c_before
    return h, LSTMCache(gates, h, cell, u, w, before, steps, (h0.ndim, c0.ndim))


def lstm_backward(dy: np.ndarray, cache: LSTMCache) -> tuple[np.ndarray, ...]:
    """dy (N, H) -> da (N, 4H), dh0 (H,), dc0 (H,), dw (H, 4H).

    Two gradients are handed down, dh and dc. Each step is read upwards, with u = tanh(c_t):
        h_t = o u              do = dh u;   dc += dh o (1 - u^2)
        c_t = f c_{t-1} + i g  df = dc c_{t-1};   di = dc g;   dg = dc i;   f dc is handed down
        the gates              da_i = di i (1 - i), da_f and da_o likewise;   da_g = dg (1 - g^2)
        a + h_{t-1} w          da @ w^T is handed down as dh
    Along c the gradient is only multiplied by f at each step, which is why it need not vanish. What
    does not depend on dh and dc is known for all steps beforehand.
    """
    gates, h, _, u, w, (h_before, c_before), steps, (h_ndim, c_ndim) = cache
    dh = upstream("lstm", dy, h.shape, h.dtype).copy()
    i, f, g, o = gates
    w_back = np.empty_like(w, shape=w.shape[::-1])
    # More rows of a power of two numbers would drive one another out of the processor's cache.
    for start in range(0, len(w), 32):
        w_back[:, start : start + 32] = w[start : start + 32].T
    dgates = _slopes(gates)  # and then times what each gate meets in the formulas above
    dgates[0] *= g
    dgates[1] *= np.concatenate(c_before)
    dgates[2] *= i
    dgates[3] *= u
    dc = o * (1 - u * u)  # ∂h/∂c, and then times dh_t
    da = np.empty_like(h, shape=(len(h), 4 * len(w)))
    da_gates = _gates(da, 4)
    dp = dbefore = dh[:0]
    for now in reversed(steps):
        dh_t, dc_t = dh[now], dc[now]
        hand_down(dp, dh_t)
        dc_t *= dh_t
        hand_down(dbefore, dc_t)
        dgates[:3, now] *= dc_t
        dgates[3, now] *= dh_t
        da_gates[:, now] = dgates[:, now]
        dbefore = dc_t * f[now]
        dp = da[now].dot(w_back)
    dstates = _state_gradient(dp, h_ndim), _state_gradient(dbefore, c_ndim)
    return da, *dstates, np.concatenate(h_before).T @ da


def _begin(
    op: str, a: np.ndarray, w: np.ndarray, n_gate: int, sizes: Sequence[int], **states: np.ndarray
) -> tuple:
    """a, the initial states with a row for each sequence, w and the rows of each step; ValueError
    if one does not have the shape of the docstring of a cell with so many gates."""
    steps = steps_of(op, a, sizes)
    H, rest = divmod(a.shape[1], n_gate)
    if rest:
        raise ValueError(f"{op}: a needs columns for {n_gate} gates, got {a.shape[1]}")
    steps = steps or [slice(0, 0)]  # the step without rows of an empty batch
    each = (sizes[0] if len(sizes) else 0, H)
    others = {name: (s, each if s.shape == each else (H,)) for name, s in states.items()}
    a, *first, w = fitted(op, a, **others, w=(w, (H, n_gate * H)))
    return a, *(continued(s[None] if s.ndim == 1 else s, each[0]) for s in first), w, steps


def _state_gradient(d: np.ndarray, ndim: int) -> np.ndarray:
    """d (B, H) for one state each; a state (H,) that all shared gets the sum."""
    return sum_rows(d) if ndim == 1 else d


def _gates(a: np.ndarray, G: int) -> np.ndarray:
    """(n, G H) -> its view (G, n, H)."""
    return a.reshape(len(a), G, a.shape[1] // G).swapaxes(0, 1)


def _sigmoid(b: np.ndarray, out: np.ndarray) -> None:
    """The gates of b (n, G H) into out (G, n, H)."""
    y, _ = sigmoid(b)
    out[...] = _gates(y, len(out))  # dividing into it would take longer


def _slopes(gates: np.ndarray) -> np.ndarray:
    """The slope of every gate at every step, from its value y: y (1 - y) for a sigmoid, and
    1 - y^2 for the candidate, a tanh, which comes third in both cells."""
    slope = 1 - gates
    slope *= gates
    slope[2] = 1 - gates[2] * gates[2]
    return slope
