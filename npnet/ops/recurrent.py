"""Recurrent cells unrolled over time, with the gradient through time and into the learned initial
state.

The batch is packed, as npnet.ops.sequence has it: of N rows sizes[t] belong to step t, and the
states before them are simply the first sizes[t] of step t - 1.

a (N, G H) -> h (N, H) for G gates: a is the input's part of the gates, x_t @ w_x + b for all steps
in one product, which is `linear`'s business; w (H, G H) reads the state. The initial state is (H,),
shared by every sequence, or (B, H), one for each of the B = sizes[0].

All backward passes run the loop from the last step to the first. dh, the gradient of h_t, has two
sources: the output at t, and what the next step hands down to the first sizes[t + 1] sequences. It
begins as dy, and each step adds its part to the rows of the step before.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from npnet.ops.activation import sigmoid_in_place
from npnet.ops.checks import fitted, upstream
from npnet.ops.constants import sum_rows
from npnet.ops.sequence import packed
from npnet.ops.sequence import steps as steps_of

Step = tuple[slice, slice, slice]


class LSTMCache(NamedTuple):
    """h and cell, (B + N, H), begin with the initial states."""

    gates: np.ndarray
    h: np.ndarray
    cell: np.ndarray
    tanh_cell: np.ndarray
    w: np.ndarray
    steps: list[Step]
    h0_ndim: int
    c0_ndim: int


def rnn(
    a: np.ndarray, h0: np.ndarray, w: np.ndarray, sizes: Sequence[int]
) -> tuple[np.ndarray, tuple]:
    """h_t = tanh(a_t + h_{t-1} @ w) (Elman, 1990; makemore's RNN).

    a (N, H), h0 (H,), w (H, H) -> h (N, H).
    """
    a, h0, w = _fitted("rnn", a, w, 1, sizes, h0=h0)
    h, steps = _states(h0, a, sizes), _steps(sizes)
    for rows, before, now in steps:
        h_t = np.matmul(h[before], w, out=h[now])
        h_t += a[rows]
        np.tanh(h_t, out=h_t)
    return h[len(h) - len(a) :], (h, w, steps, h0.ndim)


def rnn_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (N, H) -> da (N, H), dh0 (H,), dw (H, H).

    At each t: dh = dy_t + (what step t + 1 hands down), da = dh (1 - h_t^2) through the tanh, and
    da @ w^T is handed down. w is used at every step, so dw is a sum over all of them:
    dw = sum_t h_{t-1}^T @ da_t, one product of all rows.
    """
    h, w, steps, state_ndim = cache
    dh, B = _upstream("rnn", dy, h, steps)
    da = h[B:] * h[B:]
    np.subtract(1, da, out=da)  # ∂h/∂a
    for rows, before, now in reversed(steps):
        da[rows] *= dh[now]
        dh[before] += da[rows] @ w.T  # handed down
    return da, _state_gradient(dh[:B], state_ndim), _previous(h, steps).T @ da


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
    a, h0, w = _fitted("gru", a, w, 3, sizes, h0=h0)
    h, steps = _states(h0, a, sizes), _steps(sizes)
    gates, w_gates = _apart(a, h), _apart(w, h)
    rp = np.empty_like(gates[0])  # r h_{t-1}
    with np.errstate(over="ignore"):  # sigmoid's
        for rows, before, now in steps:
            p, h_t, zr, c = h[before], h[now], gates[:2, rows], gates[2, rows]
            zr += p @ w_gates[:2]
            sigmoid_in_place(zr)
            z, r = zr
            np.multiply(r, p, out=rp[rows])
            c += rp[rows] @ w_gates[2]
            np.tanh(c, out=c)
            np.subtract(c, p, out=h_t)  # h_t = h_{t-1} + z (c - h_{t-1})
            h_t *= z
            h_t += p
    return h[len(h) - len(a) :], (gates, h, rp, w, steps, h0.ndim)


def gru_backward(dy: np.ndarray, cache: tuple) -> tuple[np.ndarray, ...]:
    """dy (N, H) -> da (N, 3H), dh0 (H,), dw (H, 3H).

    With p = h_{t-1} and h_t = (1 - z) p + z c, each step is read upwards:
        dz = dh (c - p),  dc = dh z,  dp = dh (1 - z)
        da_c = dc (1 - c^2);   d(r p) = da_c @ w_c^T;   dr = d(r p) p;   dp += d(r p) r
        da_z = dz z (1 - z);   da_r = dr r (1 - r);     dp += [da_z, da_r] @ [w_z, w_r]^T
    p is used in four places, so four terms add up. w_c met r p, the other weights p. What does not
    depend on dh is known for all steps beforehand: the slopes times c - p, p and z.
    """
    gates, h, rp, w, steps, state_ndim = cache
    dh, B = _upstream("gru", dy, h, steps)
    w_z, w_r, w_c = _apart(w, h)
    p, (z, r, c) = _previous(h, steps), gates
    da = _slopes(gates, candidate=2)  # each part is multiplied by what comes from above
    da_z, da_r, da_c = da
    da_z *= c - p
    da_r *= p
    da_c *= z
    keep = 1 - z
    for rows, before, now in reversed(steps):
        dh_t = dh[now]
        da_c[rows] *= dh_t
        drp = da_c[rows] @ w_c.T
        da_z[rows] *= dh_t
        da_r[rows] *= drp
        drp *= r[rows]
        drp += dh_t * keep[rows]  # from here on dp: through r p, through (1 - z) p,
        drp += da_z[rows] @ w_z.T  # and through both gates
        drp += da_r[rows] @ w_r.T
        dh[before] += drp
    da = _beside(da)
    H = h.shape[1]
    dw = np.empty_like(w)
    np.matmul(p.T, da[:, : 2 * H], out=dw[:, : 2 * H])
    np.matmul(rp.T, da[:, 2 * H :], out=dw[:, 2 * H :])
    return da, _state_gradient(dh[:B], state_ndim), dw


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
    a, h0, c0, w = _fitted("lstm", a, w, 4, sizes, h0=h0, c0=c0)
    h, cell, steps = _states(h0, a, sizes), _states(c0, a, sizes), _steps(sizes)
    gates, w_gates = _apart(a, h), _apart(w, h)
    tanh_cell = np.empty_like(gates[0])
    with np.errstate(over="ignore"):  # sigmoid's
        for rows, before, now in steps:
            gates_t, cell_t = gates[:, rows], cell[now]
            gates_t += h[before] @ w_gates
            candidate = np.tanh(gates_t[2])
            sigmoid_in_place(gates_t)  # of the candidate too: one call for all is faster
            gates_t[2] = candidate
            i, f, g, o = gates_t
            np.multiply(f, cell[before], out=cell_t)
            cell_t += i * g
            np.tanh(cell_t, out=tanh_cell[rows])
            np.multiply(o, tanh_cell[rows], out=h[now])
    cache = LSTMCache(gates, h, cell, tanh_cell, w, steps, h0.ndim, c0.ndim)
    return h[len(h) - len(a) :], cache


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
    gates, h, cell, u, w, steps, h0_ndim, c0_ndim = cache
    dh, B = _upstream("lstm", dy, h, steps)
    dc = np.zeros_like(dh)
    i, f, g, o = gates
    w_gates = _apart(w, h).swapaxes(1, 2)
    da = _slopes(gates, candidate=2)  # each part is multiplied by what comes from above
    da_i, da_f, da_g, da_o = da
    da_i *= g
    da_f *= _previous(cell, steps)
    da_g *= i
    da_o *= u
    slope_cell = o * (1 - u * u)
    for rows, before, now in reversed(steps):
        dh_t, dc_t = dh[now], dc[now]
        dc_t += dh_t * slope_cell[rows]  # through h_t
        da[:3, rows] *= dc_t
        da_o[rows] *= dh_t
        dc[before] += dc_t * f[rows]  # handed down
        dh[before] += np.add.reduce(da[:, rows] @ w_gates, axis=0)  # handed down
    da = _beside(da)
    dstates = _state_gradient(dh[:B], h0_ndim), _state_gradient(dc[:B], c0_ndim)
    return da, *dstates, _previous(h, steps).T @ da


def _fitted(
    op: str, a: np.ndarray, w: np.ndarray, n_gate: int, sizes: Sequence[int], **states: np.ndarray
) -> list[np.ndarray]:
    """The arrays of a cell with so many gates in their order, if they have the shapes of its
    docstring, else ValueError."""
    packed(op, a, sizes)
    H, rest = divmod(a.shape[1], n_gate)
    if rest:
        raise ValueError(f"{op}: a needs columns for {n_gate} gates, got {a.shape[1]}")
    each = (sizes[0] if sizes else 0, H)
    others = {name: (s, each if s.shape == each else (H,)) for name, s in states.items()}
    return fitted(op, a, **others, w=(w, (H, n_gate * H)))


def _steps(sizes: Sequence[int]) -> list[Step]:
    """For each step its rows in the packed batch, and in the states, which begin with the initial
    ones: those before it of the sequences that are still alive, and its own."""
    B = sizes[0] if sizes else 0
    return [
        (slice(now.start - B, now.stop - B), before, now) for before, now in steps_of([B, *sizes])
    ]


def _states(initial: np.ndarray, a: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """(B + N, H), the initial states and room for those of every step."""
    B = sizes[0] if sizes else 0
    states = np.empty((B + len(a), initial.shape[-1]), a.dtype)
    states[:B] = initial
    return states


def _previous(states: np.ndarray, steps: list[Step]) -> np.ndarray:
    """(N, H): for each row of the packed batch the state before it."""
    return np.concatenate([states[:0], *(states[before] for _, before, _ in steps)])


def _upstream(op: str, dy: np.ndarray, h: np.ndarray, steps: list[Step]) -> tuple[np.ndarray, int]:
    """(B + N, H), zeros for the initial states and then dy, to which the steps add; and B."""
    B = steps[0][1].stop if steps else 0
    dh = np.zeros_like(h)
    dh[B:] = upstream(op, dy, (len(h) - B, h.shape[1]), h.dtype)
    return dh, B


def _state_gradient(d: np.ndarray, ndim: int) -> np.ndarray:
    """d (B, H) for one state each; a state (H,) that all shared gets the sum."""
    return sum_rows(d) if ndim == 1 else d.copy()


def _apart(a: np.ndarray, h: np.ndarray) -> np.ndarray:
    """(N, G H) -> (G, N, H): each gate in a block of memory, where a pass over it is several times
    as fast as over its columns."""
    H = h.shape[1]
    return a.reshape(len(a), a.shape[1] // H, H).swapaxes(0, 1).copy()


def _beside(gates: np.ndarray) -> np.ndarray:
    """(G, N, H) -> (N, G H), the way back."""
    G, N, H = gates.shape
    return gates.swapaxes(0, 1).reshape(N, G * H)


def _slopes(gates: np.ndarray, candidate: int) -> np.ndarray:
    """The slope of every gate at every step, from its value y: y (1 - y) for a sigmoid, and
    1 - y^2 for the candidate, a tanh."""
    slope = 1 - gates
    slope *= gates
    c = gates[candidate]
    slope[candidate] = 1 - c * c
    return slope
