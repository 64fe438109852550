"""A training step in JAX, one jitted function with its buffers donated: waiting for each step's
loss, waiting at the end of a turn alone, and many steps as one lax.scan.

The examples stay on the device as int32; the indices of a minibatch are drawn there, ORDER steps at
a time.
"""

from functools import cache, partial

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
    setup = cache(lambda: Setup(task))
    return {
        "jax": lambda: one_by_one(setup(), wait=True),
        "jax no wait": lambda: one_by_one(setup(), wait=False),
        "jax scan": lambda: scanned(setup()),
    }


def one_by_one(setup, wait):
    draw = setup.draw(ORDER)
    held, count, order = [*setup.state()], 0, None

    def train(n):
        nonlocal count, order
        for _ in range(n):
            if count % ORDER == 0:
                order = draw(count // ORDER)
            count += 1
            *held[:], loss = setup.step(*held, order, setup.x, setup.y)
            if wait:
                loss.block_until_ready()
        loss.block_until_ready()

    def check(x, y):
        examples, state, losses = setup.batch(ORDER, x, y), setup.state(), []
        for _ in range(2):
            *state, loss = setup.step(*state, *examples)
            losses.append(float(loss))
        return losses

    return Peer(train, check)


def scanned(setup):
    draw = setup.draw(SCAN)

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def steps(p, state, t, order, x, y):
        def body(held, ix):
            *held, loss = setup.update(*held, x[ix], y[ix])
            return tuple(held), loss

        return lax.scan(body, (p, state, t), order)

    held, count = setup.state(), 0

    def train(n):
        nonlocal held, count
        for _ in range(n // SCAN):
            held, losses = steps(*held, draw(count), setup.x, setup.y)
            count += 1
        losses.block_until_ready()

    def check(x, y):
        losses = steps(*setup.state(), *setup.batch(SCAN, x, y))[1]
        return [float(loss) for loss in losses[:2]]

    return Peer(train, check, chunk=SCAN)


class Setup:
    """What all three share: examples on the device, first state, one step."""

    def __init__(self, task):
        # microgpt's numbers are float64; every other array says that it is 32 bits wide
        jax.config.update("jax_enable_x64", task.config.dtype == "float64")
        self.task, self.rule = task, task.rule
        self.x, self.y = jnp.array(task.x, jnp.int32), jnp.array(task.y, jnp.int32)
        self.logits = partial(network, task.row.kind, task.config)

        @partial(jax.jit, donate_argnums=(0, 1, 2))
        def step(p, state, t, order, x, y):
            ix = order[t % ORDER]
            return self.update(p, state, t, x[ix], y[ix])

        self.step = step

    def state(self):
        """Parameters, the optimiser's moments, steps so far."""
        p = {name: jnp.array(array) for name, array in self.task.parameters.items()}
        zeros = lambda: tree_map(jnp.zeros_like, p)
        return p, None if self.rule.betas is None else (zeros(), zeros()), jnp.zeros((), jnp.int32)

    def draw(self, rows):
        """A function of a count -> the indices (rows, B) of as many minibatches."""
        N, B = len(self.x), self.task.batch_size
        if B == 1:
            return jax.jit(lambda count: (count * rows + jnp.arange(rows))[:, None] % N)
        key = jax.random.key(1)

        @jax.jit
        def indices(count):
            return jax.random.randint(jax.random.fold_in(key, count), (rows, B), 0, N, jnp.int32)

        return indices

    def batch(self, rows, x, y):
        """Indices (rows, B) of nothing but this batch, and examples that begin with it."""
        order = jnp.tile(jnp.arange(len(x), dtype=jnp.int32), (rows, 1))
        xs, ys = np.array(self.task.x), np.array(self.task.y)
        xs[: len(x)], ys[: len(y)] = 0, -1
        xs[tuple(map(slice, x.shape))], ys[tuple(map(slice, y.shape))] = x, y
        return order, jnp.array(xs, jnp.int32), jnp.array(ys, jnp.int32)

    def loss(self, p, x, y):
        logp = nn.log_softmax(self.logits(p, x))
        nll = -jnp.take_along_axis(logp, jnp.maximum(y, 0)[..., None], -1)[..., 0]
        return jnp.where(y == -1, 0, nll).sum() / (y != -1).sum(dtype=nll.dtype)

    def update(self, p, state, t, x, y):
        """One step on the batch x, y -> parameters, moments, t + 1, the loss before it."""
        t += 1
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


def network(kind, c, p, x):
    """npnet's models from its parameters by name -> logits."""
    T, H = x.shape[-1], c.n_embd2

    def linear(name, x):
        return x @ p[f"{name}.weight"] + p.get(f"{name}.bias", 0)

    def norm(name, x, axis=-1, ddof=0):
        return standardize(x, axis, ddof) * p[f"{name}.weight"] + p[f"{name}.bias"]

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
        unroll = kind == "rnn"  # which is faster so, while the larger cells are slower
        return linear("head", lax.scan(step, start, a, unroll=unroll)[1].swapaxes(0, 1))
    if kind == "wavenet":
        for stage in (f"stages.{i}" for i in range(T.bit_length() - 1)):
            h = linear(f"{stage}.linear", h.reshape(len(h), h.shape[1] // 2, -1))
            h = jnp.tanh(norm(f"{stage}.norm", h, (0, 1), ddof=1))
        return linear("head", h[:, 0])
    h = linear("hidden", h.reshape(*h.shape[:-2], -1))
    return linear("head", jnp.tanh(h if kind == "mlp_makemore" else norm("norm", h, 0, ddof=1)))


@partial(jax.jit, static_argnums=(1, 2))
def standardize(x, axis, ddof):
    """Jitted by itself, or XLA repeats parts of it inside of what uses it: 1.6 times the
    Transformer's time."""
    mean, square = x.mean(axis, keepdims=True), jnp.square(x).mean(axis, keepdims=True)
    n = x.size // mean.size
    var = (square - mean * mean) * (n / (n - ddof))
    return (x - mean) * lax.rsqrt(var + 1e-5)


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
