"""Recurrent cells unrolled over time, with the gradient through time and into the learned initial
state.

The batch is packed, as npnet.ops.sequence has it: at step t the sequences that are still alive are
the first sizes[t] of those at step t - 1, and so are their states.

a (N, G H) -> h (N, H) for G gates: a is the input's part of the gates, x_t @ w_x + b for all steps
in one product, which is `linear`'s business; w (H, G H) reads the state. The initial state is (H,),
shared by every sequence, or (B, H), one for each of the B = sizes[0].

All backward passes run the loop from the last step to the first. dh_t has two sources: the output
at t, and what step t + 1 handed down to the sequences that it had. The loop multiplies by w_back,
w^T laid out anew, because products of few rows are up to twice as fast on it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from npnet.ops.activation import sigmoid_in_place
from npnet.ops.checks import fitted, upstream
from npnet.ops.constants import sum_rows
from npnet.ops.sequence import steps_of


class LSTMCache(NamedTuple):
    gates: np.ndarray
    h: np.ndarray
    cell: np.ndarray
    tanh_cell: np.ndarray
    w: np.ndarray
    first: tuple[np.ndarray, np.ndarray]
    steps: list[slice]
    ndims: tuple[int, int]


def rnn(
    a: np.ndarray, h0: np.ndarray, w: np.ndarray, sizes: Sequence[int]
) -> tuple[np.ndarray, tuple]:
    """h_t = tanh(a_t + h_{t-1} @ w) (Elman, 1990; makemore's RNN).

    a (N, H), h0 (H,), w (H, H) -> h (N, H).
    """
    a, first, w, steps = _begin("rnn", a, w, 1, sizes, h0=h0)
    h, p = np.empty_like(a), first
    for now in steps:
        h_t = h[now]
        np.matmul(p[: len(h_t)], w, out=h_t)
        h_t += a[now]
        p = np.tanh(h_t, out=h_t)
    return h, (h, w, first, steps, h0.ndim)


def rnn_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (N, H) -> da (N, H), dh0 (H,), dw (H, H).

    At each t: dh = dy_t + (what step t + 1 hands down), da = dh (1 - h_t^2) through the tanh, and
    da @ w^T is handed down. w is used at every step, so dw is a sum over all of them:
    dw = sum_t h_{t-1}^T @ da_t, one product of all rows.
    """
    h, w, first, steps, ndim = cache
    dh, w_back = upstream("rnn", dy, h.shape, h.dtype).copy(), w.T.copy()
    da = h * h
    np.subtract(1, da, out=da)  # ∂h/∂a
    dp = dh[:0]
    for now in reversed(steps):
        dh_t, da_t = dh[now], da[now]
        dh_t[: len(dp)] += dp
        da_t *= dh_t
        dp = da_t @ w_back  # handed down
    return da, _state_gradient(dp, ndim), _previous(h, first, steps).T @ da


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
    gates, w_gates = _apart(a, len(w)), _apart(w, len(w))
    h, rp, p = np.empty_like(gates[0]), np.empty_like(gates[0]), first  # rp = r h_{t-1}
    with np.errstate(over="ignore"):  # sigmoid's
        for now in steps:
            h_t, rp_t, zr, c = h[now], rp[now], gates[:2, now], gates[2, now]
            p = p[: len(h_t)]
            zr += p @ w_gates[:2]
            sigmoid_in_place(zr)
            z, r = zr
            np.multiply(r, p, out=rp_t)
            c += rp_t @ w_gates[2]
            np.tanh(c, out=c)
            np.subtract(c, p, out=h_t)  # h_t = h_{t-1} + z (c - h_{t-1})
            h_t *= z
            h_t += p
            p = h_t
    return h, (gates, h, rp, w, first, steps, h0.ndim)


def gru_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (N, H) -> da (N, 3H), dh0 (H,), dw (H, 3H).

    With p = h_{t-1} and h_t = (1 - z) p + z c, each step is read upwards:
        dz = dh (c - p),  dc = dh z,  dp = dh (1 - z)
        da_c = dc (1 - c^2);   d(r p) = da_c @ w_c^T;   dr = d(r p) p;   dp += d(r p) r
        da_z = dz z (1 - z);   da_r = dr r (1 - r);     dp += [da_z, da_r] @ [w_z, w_r]^T
    p is used in four places, so four terms add up. w_c met r p, the other weights p. What does not
    depend on dh is known for all steps beforehand: the slopes times c - p, p and z.
    """
    gates, h, rp, w, first, steps, ndim = cache
    dh = upstream("gru", dy, h.shape, h.dtype).copy()
    H = len(w)
    w_back = _apart(w, H).swapaxes(1, 2).copy()
    p, (z, r, c) = _previous(h, first, steps), gates
    da_z, da_r, da_c = da = _slopes(gates)  # each part is multiplied by what comes from above
    da_z *= c - p
    da_r *= p
    da_c *= z
    keep = 1 - z
    dp = dh[:0]
    for now in reversed(steps):
        dh_t, da_t = dh[now], da[:, now]
        dh_t[: len(dp)] += dp
        da_t[::2] *= dh_t  # z and c
        dp = da_t[2] @ w_back[2]  # d(r p)
        da_t[1] *= dp
        dp *= r[now]
        dh_t *= keep[now]
        dp += dh_t
        dp += np.add.reduce(da_t[:2] @ w_back[:2], axis=0)
    da = _beside(da)
    dw = np.concatenate([p.T @ da[:, : 2 * H], rp.T @ da[:, 2 * H :]], axis=1)
    return da, _state_gradient(dp, ndim), dw


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
    gates, w_gates = _apart(a, len(w)), _apart(w, len(w))
    h, cell, u = (np.empty_like(gates[0]) for _ in range(3))  # u = tanh(c_t)
    p, before = first
    with np.errstate(over="ignore"):  # sigmoid's
        for now in steps:
            gates_t, h_t, cell_t, u_t = gates[:, now], h[now], cell[now], u[now]
            gates_t += p[: len(h_t)] @ w_gates
            candidate = np.tanh(gates_t[2])
            sigmoid_in_place(gates_t)  # of the candidate too: one call for all is faster
            gates_t[2] = candidate
            i, f, g, o = gates_t
            np.multiply(f, before[: len(h_t)], out=cell_t)
            cell_t += i * g
            np.tanh(cell_t, out=u_t)
            np.multiply(o, u_t, out=h_t)
            p, before = h_t, cell_t
    return h, LSTMCache(gates, h, cell, u, w, tuple(first), steps, (h0.ndim, c0.ndim))


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
    gates, h, cell, u, w, (h_first, c_first), steps, (h_ndim, c_ndim) = cache
    dh = upstream("lstm", dy, h.shape, h.dtype).copy()
    i, f, g, o = gates
    w_back = _apart(w, len(w)).swapaxes(1, 2).copy()
    da_i, da_f, da_g, da_o = da = _slopes(gates)  # each part meets what comes from above
    da_i *= g
    da_f *= _previous(cell, c_first, steps)
    da_g *= i
    da_o *= u
    dc = o * (1 - u * u)  # ∂h/∂c, and then times dh_t
    dp = dbefore = dh[:0]
    for now in reversed(steps):
        dh_t, dc_t, da_t = dh[now], dc[now], da[:, now]
        dh_t[: len(dp)] += dp
        dc_t *= dh_t
        dc_t[: len(dp)] += dbefore
        da_t[:3] *= dc_t
        da_t[3] *= dh_t
        dbefore = dc_t * f[now]
        dp = np.add.reduce(da_t @ w_back, axis=0)
    da = _beside(da)
    dstates = _state_gradient(dp, h_ndim), _state_gradient(dbefore, c_ndim)
    return da, *dstates, _previous(h, h_first, steps).T @ da


def _begin(
    op: str, a: np.ndarray, w: np.ndarray, n_gate: int, sizes: Sequence[int], **states: np.ndarray
) -> tuple:
    """a, the initial states with a row for each sequence, w and the rows of each step; ValueError
    if one does not have the shape of the docstring of a cell with so many gates."""
    steps = steps_of(op, a, sizes)
    H, rest = divmod(a.shape[1], n_gate)
    if rest:
        raise ValueError(f"{op}: a needs columns for {n_gate} gates, got {a.shape[1]}")
    each = (sizes[0] if steps else 0, H)
    others = {name: (s, each if s.shape == each else (H,)) for name, s in states.items()}
    a, *first, w = fitted(op, a, **others, w=(w, (H, n_gate * H)))
    return a, *(np.broadcast_to(s, each).copy() for s in first), w, steps


def _previous(states: np.ndarray, first: np.ndarray, steps: list[slice]) -> np.ndarray:
    """(N, H): for each row of the packed batch the state before it."""
    before = (states[last][: now.stop - now.start] for last, now in pairwise(steps))
    return np.concatenate([first, *before])


def _state_gradient(d: np.ndarray, ndim: int) -> np.ndarray:
    """d (B, H) for one state each; a state (H,) that all shared gets the sum."""
    return sum_rows(d) if ndim == 1 else d


def _apart(a: np.ndarray, H: int) -> np.ndarray:
    """(N, G H) -> (G, N, H): each gate in a block of memory, where a pass over it is several times
    as fast as over its columns."""
    return a.reshape(len(a), a.shape[1] // H, H).swapaxes(0, 1).copy()


def _beside(gates: np.ndarray) -> np.ndarray:
    """(G, N, H) -> (N, G H), the way back."""
    G, N, H = gates.shape
    return gates.swapaxes(0, 1).reshape(N, G * H)


def _slopes(gates: np.ndarray) -> np.ndarray:
    """The slope of every gate at every step, from its value y: y (1 - y) for a sigmoid, and
    1 - y^2 for the candidate, a tanh, which comes third in both cells."""
    slope = 1 - gates
    slope *= gates
    slope[2] = 1 - gates[2] * gates[2]
    return slope
