"""The matrix products of a step and nothing else, each into an array that is there already: the
floor of any NumPy implementation.

Sequences count their scored positions alone, sorted by length, in one fixed batch, and the first,
which is the boundary in all of them, once. The product with an embedding is taken over the
vocabulary where that has fewer rows.
"""

import numpy as np

from benchmarks.measure import Peer

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def peer(task):
    calls = [ready(shape, task.config.dtype) for shape in shapes(task)]

    def train(n):
        for _ in range(n):
            for a, b, out in calls:
                np.matmul(a, b, out=out)

    return Peer(train)


def ready(shape, dtype):
    """Two arrays of the shape (..., m, k, n) and one for their product; transposed operands are
    views, as they are in a backward pass."""
    *lead, m, k, n, which = shape
    rng = np.random.default_rng(0)
    normal = lambda *sizes: rng.standard_normal((*lead, *sizes)).astype(dtype)
    a = normal(k, m).swapaxes(-1, -2) if which == "dw" else normal(m, k)
    b = normal(n, k).swapaxes(-1, -2) if which == "dx" else normal(k, n)
    return a, b, np.empty((*lead, m, n), dtype)


def linear(rows, fan_in, fan_out, lead=()):
    """y = x w, dx = dy w^T and dw = x^T dy."""
    return [
        (*lead, rows, fan_in, fan_out, "y"),
        (*lead, rows, fan_out, fan_in, "dx"),
        (*lead, fan_in, rows, fan_out, "dw"),
    ]


def shapes(task):
    """(m, k, n) of every product of a step, with what it is for."""
    c, kind = task.config, task.row.kind
    V, T, C, H = c.vocab_size, c.block_size, c.n_embd, c.n_embd2
    x, y = next(task.batches())
    B, N = len(x), int((y != -1).sum())
    looked_up = min(V, N)
    if kind == "mlp":
        return linear(B, T * C, H) + linear(B, H, V)
    if kind == "wavenet":
        rows = [B * T >> i for i in range(1, T.bit_length())]
        widths = [2 * C] + [2 * H] * (len(rows) - 1)
        stages = [s for n, width in zip(rows, widths, strict=True) for s in linear(n, width, H)]
        return stages + linear(B, H, V)
    if kind == "bigram":
        return [(V, N, V, "dw")]
    sizes = (y != -1).sum(0)
    if (x[:, 0] == x[0, 0]).all():
        sizes[0] = 1
    N = int(sizes.sum())
    if kind == "bow":
        mean = [(B, T, T, C, "y"), (B, T, T, C, "dw")]
        return mean + linear(N, C, H) + linear(N, H, C) + linear(N, C, V)
    if kind == "mlp_makemore":
        return linear(looked_up, C, T * H) + linear(N, H, V)
    if kind in GATES:
        gates = GATES[kind] * H
        steps = [s for n in sizes[sizes > 0] for s in linear(int(n), H, gates)[:2]]
        return linear(looked_up, C, gates) + steps + [(H, N, gates, "dw")] + linear(N, H, V)
    D, longest = C // c.n_head, int((y != -1).sum(1).max())
    lead = B, c.n_head
    attention = linear(longest, D, longest, lead) + linear(longest, longest, D, lead)
    block = (
        linear(N, C, 3 * C)
        + attention
        + linear(N, C, C)
        + linear(N, C, 4 * C)
        + linear(N, 4 * C, C)
    )
    return c.n_layer * block + linear(N, C, V)
