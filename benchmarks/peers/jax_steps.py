"""A training step in JAX, one jitted function with its buffers donated: waiting for each step's
loss, waiting at the end of a turn alone, and many steps as one lax.scan.

The examples stay on the device as int32; the indices of a minibatch are drawn there, ORDER steps at
a time.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, nn
from jax.tree import map as tree_map

from benchmarks.measure import Peer

ORDER = 1024
SCAN = 50


def peers(task):
    """name -> a function that makes the Peer."""
    return {
        "jax": lambda: one_by_one(task, wait=True),
        "jax no wait": lambda: one_by_one(task, wait=False),
        "jax scan": lambda: scanned(task),
    }


def one_by_one(task, wait):
    begin = Setup(task)
    draw = begin.draw()

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(p, state, i, order, x, y):
        ix = order[i % ORDER]
        return begin.update(p, state, x[ix], y[ix], i + 1)

    held, count = [*begin.state(), jnp.zeros((), jnp.int32)], 0
    order = None

    def train(n):
        nonlocal order, count
        for _ in range(n):
            if count % ORDER == 0:
                order = draw(count // ORDER)
            count += 1
            *held[:], loss = step(*held, order, begin.x, begin.y)
            if wait:
                loss.block_until_ready()
        loss.block_until_ready()

    return Peer(train, begin.check)


def scanned(task):
    begin = Setup(task)
    draw = begin.draw(SCAN)

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def steps(p, state, i, order, x, y):
        def body(held, ix):
            p, state, i = held
            *held, loss = begin.update(p, state, x[ix], y[ix], i + 1)
            return tuple(held), loss

        return lax.scan(body, (p, state, i), order)

    held, count = (*begin.state(), jnp.zeros((), jnp.int32)), 0

    def train(n):
        nonlocal held, count
        for _ in range(n // SCAN):
            held, losses = steps(*held, draw(count), begin.x, begin.y)
            count += 1
        losses.block_until_ready()

    return Peer(train, begin.check, chunk=SCAN)


class Setup:
    """What all three share: examples on the device, first state, one update."""

    def __init__(self, task):
        # microgpt's numbers are float64; every other array says that it is 32 bits wide
        jax.config.update("jax_enable_x64", task.config.dtype == "float64")
        self.task, self.rule = task, task.rule
        self.x, self.y = jnp.array(task.x, jnp.int32), jnp.array(task.y, jnp.int32)
        self.logits = partial(network, task.row.kind, task.config)

    def state(self):
        p = {name: jnp.array(array) for name, array in self.task.parameters.items()}
        zeros = lambda: tree_map(jnp.zeros_like, p)
        return p, None if self.rule.betas is None else (zeros(), zeros())

    def draw(self, rows=ORDER):
        """A function of a count -> the indices (rows, B) of as many minibatches."""
        N, B = len(self.x), self.task.batch_size
        if B == 1:
            return lambda count: jnp.arange(count * rows, (count + 1) * rows)[:, None] % N
        key = jax.random.key(1)

        @jax.jit
        def indices(count):
            return jax.random.randint(jax.random.fold_in(key, count), (rows, B), 0, N, jnp.int32)

        return indices

    def loss(self, p, x, y):
        logp = nn.log_softmax(self.logits(p, x))
        nll = -jnp.take_along_axis(logp, jnp.maximum(y, 0)[..., None], -1)[..., 0]
        return jnp.where(y == -1, 0, nll).sum() / (y != -1).sum(dtype=nll.dtype)

    def update(self, p, state, x, y, t):
        """One step of the optimiser -> parameters, state, t, loss."""
        loss, g = jax.value_and_grad(self.loss)(p, x, y)
        rule = self.rule
        if rule.betas is None:
            return tree_map(lambda p, g: p - rule.lr * g, p, g), None, t, loss
        (beta1, beta2), (m, v) = rule.betas, state
        m = tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, m, g)
        v = tree_map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, g)
        power = t.astype(loss.dtype)
        scale1, scale2 = 1 / (1 - beta1**power), 1 / (1 - beta2**power)
        keep = 1 - rule.lr * rule.weight_decay

        def moved(p, m, v):
            return keep * p - rule.lr * (m * scale1) / (jnp.sqrt(v * scale2) + 1e-8)

        return tree_map(moved, p, m, v), (m, v), t, loss

    def check(self, x, y):
        p, state = self.state()
        update = jax.jit(self.update)
        losses = []
        for t in (1, 2):
            x, y = jnp.array(x, jnp.int32), jnp.array(y, jnp.int32)
            p, state, _, loss = update(p, state, x, y, jnp.array(t, jnp.int32))
            losses.append(float(loss))
        return losses


def network(kind, c, p, x):
    """npnet's models from its parameters by name -> logits."""
    T, H = x.shape[-1], c.n_embd2

    def linear(name, x):
        return x @ p[f"{name}.weight"] + p.get(f"{name}.bias", 0)

    def norm(name, x, axis=-1, ddof=0):
        mean = x.mean(axis, keepdims=True)
        var = x.var(axis, keepdims=True, ddof=ddof)
        return (x - mean) * lax.rsqrt(var + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def rms_norm(name, x):
        return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)

    def positions():
        return p["embedding.token.weight"][x] + p["embedding.position"][:T]

    def block(name, x, norm, activation):
        h = linear(f"{name}.attention.qkv", norm(f"{name}.attention.norm", x))
        q, k, v = jnp.moveaxis(h.reshape(*x.shape[:-1], 3, c.n_head, -1), -3, 0)
        h = nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape)
        x = x + linear(f"{name}.attention.projection", h)
        h = activation(linear(f"{name}.mlp.up", norm(f"{name}.mlp.norm", x)))
        return x + linear(f"{name}.mlp.down", h)

    if kind == "bigram":
        return p["logits.weight"][x]
    if kind == "bow":
        h = positions()
        average = np.tri(T, dtype=c.dtype) / np.arange(1, T + 1, dtype=c.dtype)[:, None]
        h += average @ h
        return linear("head", h + linear("mlp.down", jnp.tanh(linear("mlp.up", h))))
    if kind == "transformer":
        h = positions()
        for i in range(c.n_layer):
            h = block(f"blocks.{i}", h, norm, nn.gelu)
        return linear("head", norm("norm", h))
    if kind == "microgpt":
        h = rms_norm("", positions())
        for i in range(c.n_layer):
            h = block(f"blocks.{i}", h, rms_norm, nn.relu)
        return linear("head", h)
    if kind == "mlp_makemore":
        x = jnp.pad(x, ((0, 0), (T - 1, 0)), constant_values=c.vocab_size)
        x = x[:, T - 1 + np.arange(T)[:, None] - np.arange(T)]
    h = p["embedding.weight"][x]
    if kind in CELLS:
        w, C = p["cell.weight"], c.n_embd
        a = (h @ w[:C] + p["cell.bias"]).swapaxes(0, 1)
        names = ("cell.initial", "cell.initial_cell")
        start = tuple(jnp.tile(p[name], (len(x), 1)) for name in names if name in p)
        step = partial(CELLS[kind], w[C:], H)
        return linear("head", lax.scan(step, start, a)[1].swapaxes(0, 1))
    if kind == "wavenet":
        for stage in (f"stages.{i}" for i in range(T.bit_length() - 1)):
            h = linear(f"{stage}.linear", h.reshape(len(h), h.shape[1] // 2, -1))
            h = jnp.tanh(norm(f"{stage}.norm", h, (0, 1), ddof=1))
        return linear("head", h[:, 0])
    h = linear("hidden", h.reshape(*h.shape[:-2], -1))
    return linear("head", jnp.tanh(h if kind == "mlp_makemore" else norm("norm", h, 0, ddof=1)))


def rnn(w, H, state, a):
    h = jnp.tanh(a + state[0] @ w)
    return (h,), h


def gru(w, H, state, a):
    (h,) = state
    z, r = jnp.split(nn.sigmoid(a[:, : 2 * H] + h @ w[:, : 2 * H]), 2, -1)
    h = h + z * (jnp.tanh(a[:, 2 * H :] + (r * h) @ w[:, 2 * H :]) - h)
    return (h,), h


def lstm(w, H, state, a):
    h, cell = state
    i, f, g, o = jnp.split(a + h @ w, 4, -1)
    cell = nn.sigmoid(f) * cell + nn.sigmoid(i) * jnp.tanh(g)
    h = nn.sigmoid(o) * jnp.tanh(cell)
    return (h, cell), h


CELLS = {"rnn": rnn, "gru": gru, "lstm": lstm}
