"""Time of a training step (loss, every gradient, optimiser update): npnet against torch and JAX, on
one core.

    python benchmarks/step_time.py [MODEL ...] [-i names.txt] [--compile] [--lean]

All run in one process and take turns, a few steps at a time, on the same batches. A time is the
median of a step, in microseconds of processor time, which other programs disturb least; a ratio is
the median over the turns, below 1 where npnet is faster. Importing torch changes how memory is
allocated, so `lean` is npnet in a process without it.

The torch side is what its user would write: torch.nn, autograd and torch.optim with their defaults.
Where torch.nn has no such module it is written out: gru is makemore's cell, and mlp normalises by n
- 1 as the notebook does, while mlp_module has nn.BatchNorm1d, which divides by n. In JAX the whole
step is one jitted function. Each library chooses its kernels for the processor; OPENBLAS_CORETYPE
in the environment would choose NumPy's, and is named above the table.
"""

import argparse
import os
import subprocess
import sys
from itertools import cycle, islice
from statistics import median
from time import process_time

for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

from npnet import train  # noqa: E402
from npnet.data import NAMES, read_words  # noqa: E402
from npnet.presets import PRESETS  # noqa: E402

# A row of the table -> the preset whose model, optimiser and batches it has
ROWS = {"mlp": "part4", "mlp_module": "part4", "wavenet": "part5", "mlp_makemore": "makemore-mlp"}
ROWS |= {
    name: f"makemore-{name}" for name in ("bigram", "bow", "rnn", "gru", "lstm", "transformer")
}
ROWS |= {"microgpt": "microgpt"}
N_BATCHES = 64


def npnet_step(row, run, batches):
    """npnet's own training loop, a step at a time."""
    steps = train.loop(run.model, cycle(batches), run.optimizer, run.schedule, 1 << 62)
    return lambda: next(steps)


def torch_step(row, run, batches, compiled=False):
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(1)
    c, lr, ours = run.model.config, run.schedule(0), run.optimizer
    V, T, C, H = c.vocab_size, c.block_size, c.n_embd, c.n_embd2

    class Apply(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(x)

    class Residual(nn.Sequential):
        def forward(self, x):
            return x + super().forward(x)

    class Positional(nn.Module):
        def __init__(self):
            super().__init__()
            self.token, self.position = nn.Embedding(V, C), nn.Embedding(T, C)

        def forward(self, x):
            return self.token(x) + self.position(torch.arange(x.shape[-1]))

    class NotebookNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain, self.bias = nn.Parameter(torch.ones(H)), nn.Parameter(torch.zeros(H))

        def forward(self, x):
            var, mean = torch.var_mean(x, 0)
            return self.gain * ((x - mean) * torch.rsqrt(var + 1e-5)) + self.bias

    class NormRows(nn.BatchNorm1d):
        def forward(self, x):
            return super().forward(x.flatten(0, -2)).view(x.shape)

    class Recurrent(nn.Module):
        def __init__(self, cell, n_state):
            super().__init__()
            self.cell, self.start = (
                cell(C, H, batch_first=True),
                nn.Parameter(torch.zeros(n_state, 1, 1, H)),
            )

        def forward(self, x):
            state = self.start.expand(-1, 1, len(x), H).contiguous().unbind()
            return self.cell(x, state if len(state) > 1 else state[0])[0]

    class MakemoreGRU(nn.Module):
        def __init__(self):
            super().__init__()
            self.start = nn.Parameter(torch.zeros(1, H))
            self.gates, self.candidate = nn.Linear(C + H, 2 * H), nn.Linear(C + H, H)

        def forward(self, x):
            h, out = self.start.expand(len(x), H), []
            for xt in x.unbind(1):
                z, r = torch.sigmoid(self.gates(torch.cat([xt, h], 1))).chunk(2, 1)
                h = torch.lerp(h, torch.tanh(self.candidate(torch.cat([xt, r * h], 1))), z)
                out.append(h)
            return torch.stack(out, 1)

    class Attention(nn.Module):
        def __init__(self, bias):
            super().__init__()
            self.qkv, self.projection = nn.Linear(C, 3 * C, bias), nn.Linear(C, C, bias)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, c.n_head, -1)).permute(2, 0, 3, 1, 4)
            return self.projection(
                F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
            )

    def blocks(norm, activation, bias):
        for _ in range(c.n_layer):
            yield Residual(norm(C), Attention(bias))
            yield Residual(
                norm(C), nn.Linear(C, 4 * C, bias), activation, nn.Linear(4 * C, C, bias)
            )

    def network():
        if row == "bigram":
            return [nn.Embedding(V, V)]
        if row.startswith("mlp") and row != "mlp_makemore":
            norm = NotebookNorm() if row == "mlp" else nn.BatchNorm1d(H, track_running_stats=False)
            hidden = nn.Linear(T * C, H, bias=False)
            return [nn.Embedding(V, C), nn.Flatten(), hidden, norm, nn.Tanh(), nn.Linear(H, V)]
        if row == "wavenet":
            widths = [C] + [H] * (T.bit_length() - 2)
            join = Apply(lambda x: x.view(len(x), x.shape[1] // 2, -1))
            stages = [
                nn.Sequential(join, nn.Linear(2 * w, H, bias=False), NormRows(H), nn.Tanh())
                for w in widths
            ]
            return [nn.Embedding(V, C), *stages, nn.Flatten(), nn.Linear(H, V)]
        if row == "mlp_makemore":
            windows = Apply(lambda x: F.pad(x, (T - 1, 0), value=V).unfold(-1, T, 1).flip(-1))
            return [
                windows,
                nn.Embedding(V + 1, C),
                nn.Flatten(2),
                nn.Linear(T * C, H),
                nn.Tanh(),
                nn.Linear(H, V),
            ]
        if row == "bow":
            weight = torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]
            mlp = Residual(nn.Linear(C, H), nn.Tanh(), nn.Linear(H, C))
            return [Positional(), Residual(Apply(lambda x: weight @ x)), mlp, nn.Linear(C, V)]
        if row == "transformer":
            layers = blocks(nn.LayerNorm, nn.GELU("tanh"), True)
            return [Positional(), *layers, nn.LayerNorm(C), nn.Linear(C, V, bias=False)]
        if row == "microgpt":
            norm = lambda width: nn.RMSNorm(width, eps=1e-5, elementwise_affine=False)
            return [
                Positional(),
                norm(C),
                *blocks(norm, nn.ReLU(), False),
                nn.Linear(C, V, bias=False),
            ]
        cells = {
            "rnn": lambda: Recurrent(nn.RNN, 1),
            "lstm": lambda: Recurrent(nn.LSTM, 2),
            "gru": MakemoreGRU,
        }
        return [nn.Embedding(V, C), cells[row](), nn.Linear(H, V)]

    model = nn.Sequential(*network()).to(getattr(torch, c.dtype))
    if hasattr(ours, "betas"):
        optimizer = torch.optim.AdamW(
            model.parameters(), lr, ours.betas, weight_decay=ours.weight_decay
        )
    else:
        optimizer = torch.optim.SGD(model.parameters(), lr)
    forward = torch.compile(model) if compiled else model
    data = cycle([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in batches])

    def step():
        x, y = next(data)
        loss = F.cross_entropy(forward(x).flatten(0, -2), y.flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return step


def jax_step(row, run, batches):
    import jax
    import jax.numpy as jnp
    from jax import lax, nn
    from jax.tree import map as tree_map

    jax.config.update(
        "jax_enable_x64", True
    )  # microgpt's numbers are float64; all others stay what they are
    c, lr, ours = run.model.config, run.schedule(0), run.optimizer
    T, H = c.block_size, c.n_embd2

    def network(p, x):
        def linear(name, x):
            return x @ p[f"{name}.weight"] + p.get(f"{name}.bias", 0)

        def norm(name, x, axes=-1):
            if row == "microgpt":
                return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)
            return nn.standardize(x, axes) * p[f"{name}.weight"] + p[f"{name}.bias"]

        def attention(x):
            q, k, v = jnp.moveaxis(x.reshape(*x.shape[:-1], 3, c.n_head, -1), -3, 0)
            return nn.dot_product_attention(q, k, v, is_causal=True).reshape(*x.shape[:-1], -1)

        def cell(state, x):
            (h, memory), w, b = state, p["cell.weight"], p["cell.bias"]
            xh = jnp.concatenate([x, h], -1)
            if row == "rnn":
                h = jnp.tanh(xh @ w + b)
            elif row == "gru":
                z, r = jnp.split(nn.sigmoid(xh @ w[:, : 2 * H] + b[: 2 * H]), 2, -1)
                h += z * (
                    jnp.tanh(jnp.concatenate([x, r * h], -1) @ w[:, 2 * H :] + b[2 * H :]) - h
                )
            else:
                i, f, g, o = jnp.split(xh @ w + b, 4, -1)
                memory = nn.sigmoid(f) * memory + nn.sigmoid(i) * jnp.tanh(g)
                h = nn.sigmoid(o) * jnp.tanh(memory)
            return (h, memory), h

        if row == "bigram":
            return p["logits.weight"][x]
        if row in ("bow", "transformer", "microgpt"):
            h = p["embedding.token.weight"][x] + p["embedding.position"][: x.shape[-1]]
            if row == "bow":
                h += jnp.tri(T, dtype=h.dtype) / jnp.arange(1, T + 1, dtype=h.dtype)[:, None] @ h
                return linear("head", h + linear("mlp.down", jnp.tanh(linear("mlp.up", h))))
            h, activation = (norm("", h), nn.relu) if row == "microgpt" else (h, nn.gelu)
            for block in (f"blocks.{i}" for i in range(c.n_layer)):
                qkv = linear(f"{block}.attention.qkv", norm(f"{block}.attention.norm", h))
                h += linear(f"{block}.attention.projection", attention(qkv))
                h += linear(
                    f"{block}.mlp.down",
                    activation(linear(f"{block}.mlp.up", norm(f"{block}.mlp.norm", h))),
                )
            return linear("head", h if row == "microgpt" else norm("norm", h))
        if row == "mlp_makemore":
            x = jnp.pad(x, ((0, 0), (T - 1, 0)), constant_values=c.vocab_size)
            x = x[:, T - 1 + jnp.arange(T)[:, None] - jnp.arange(T)]
        h = p["embedding.weight"][x]
        if row in ("rnn", "gru", "lstm"):
            start = [
                jnp.tile(p.get(f"cell.{name}", 0), (len(x), 1))
                for name in ("initial", "initial_cell")
            ]
            return linear("head", lax.scan(cell, tuple(start), h.swapaxes(0, 1))[1].swapaxes(0, 1))
        if row == "wavenet":
            for stage in (f"stages.{i}" for i in range(T.bit_length() - 1)):
                h = linear(f"{stage}.linear", h.reshape(len(h), h.shape[1] // 2, -1))
                h = jnp.tanh(norm(f"{stage}.norm", h, (0, 1)))
            return linear("head", h[:, 0])
        h = linear("hidden", h.reshape(*h.shape[:-2], -1))
        return linear("head", jnp.tanh(h if row == "mlp_makemore" else norm("norm", h, 0)))

    def loss(p, x, y):
        logp = nn.log_softmax(network(p, x))
        nll = -jnp.take_along_axis(logp, jnp.maximum(y, 0)[..., None], -1)[..., 0]
        return jnp.where(y == -1, 0, nll).sum() / (y != -1).sum()

    @jax.jit(donate_argnums=(0, 1))
    def update(p, state, x, y):
        value, g = jax.value_and_grad(loss)(p, x, y)
        if state is None:
            return tree_map(lambda p, g: p - lr * g, p, g), None, value
        (beta1, beta2), (m, v, t) = ours.betas, state
        t += 1
        m = tree_map(lambda m, g: beta1 * m + (1 - beta1) * g, m, g)
        v = tree_map(lambda v, g: beta2 * v + (1 - beta2) * g * g, v, g)
        scale1, scale2, keep = 1 / (1 - beta1**t), 1 / (1 - beta2**t), 1 - lr * ours.weight_decay
        p = tree_map(
            lambda p, m, v: keep * p - lr * (m * scale1) / (jnp.sqrt(v * scale2) + 1e-8), p, m, v
        )
        return p, (m, v, t), value

    p = {name: jnp.array(array) for name, array in run.model.parameters().items()}
    state = (tree_map(jnp.zeros_like, p), tree_map(jnp.zeros_like, p), jnp.zeros((), jnp.float32))
    held = [p, state if hasattr(ours, "betas") else None]
    data = cycle([(jnp.array(x, jnp.int32), jnp.array(y, jnp.int32)) for x, y in batches])

    def step():
        *held[:], value = update(*held, *next(data))
        return value.block_until_ready()

    return step


def take_turns(steps, seconds):
    """Each step in turn for 20 ms or three calls, about `seconds` each in all -> the medians of its
    turns."""
    for step in steps.values():
        for _ in range(N_BATCHES):  # every shape is compiled, every buffer there
            step()
    turns = {name: [] for name in steps}
    for _ in range(max(3, round(seconds / 0.02))):
        for name, step in steps.items():
            times: list[float] = []
            while len(times) < 3 or sum(times) < 0.02:
                before = process_time()
                step()
                times.append(process_time() - before)
            turns[name].append(median(times) * 1e6)
    return turns


def python(*arguments):
    """What a fresh Python process prints, or "" where it fails."""
    return subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout


def import_time(statement, before=""):
    """Median milliseconds of `statement` in fresh processes in which `before` has been run."""
    code = (
        f"from time import perf_counter as now; {before}\n"
        f"start = now(); {statement}; print(now() - start)"
    )
    return median(float(python("-c", code)) for _ in range(5)) * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"some of {', '.join(ROWS)} (default: all)"
    )
    parser.add_argument(
        "-i",
        "--input-file",
        default=NAMES,
        help="words, one a line (default: the names.txt of npnet)",
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="time for each library and model (default: 1)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="torch.compile as well, which is slow to build"
    )
    parser.add_argument(
        "--lean", action="store_true", help="npnet alone, in a process without torch"
    )
    args = parser.parse_args()
    if unknown := set(args.models) - set(ROWS):
        parser.error(f"unknown model {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")

    libraries = {"npnet": npnet_step}
    if not args.lean and python("-c", "import torch; print(1)"):
        libraries["torch"] = torch_step
        if args.compile:
            libraries["compile"] = lambda *prepared: torch_step(*prepared, compiled=True)
    if not args.lean and python("-c", "import jax; print(1)"):
        libraries["jax"] = jax_step
    others = [name for name in libraries if name != "npnet"]
    first = [] if args.lean else ["lean"]
    if kernels := os.environ.get("OPENBLAS_CORETYPE"):
        print(f"OPENBLAS_CORETYPE={kernels} in the environment: NumPy's products use these kernels")
    print(
        f"{'us a step':14}",
        *(f"{name:>10}" for name in (*first, *libraries, *(f"/ {name}" for name in others))),
    )
    words = read_words(args.input_file)
    for row in args.models or ROWS:
        times = []
        if first:
            options = ["--lean", "--seconds", str(args.seconds), "-i", str(args.input_file)]
            times = [float(python(__file__, row, *options).split()[-1])]
        run = PRESETS[ROWS[row]].prepare(words)
        batches = list(islice(run.batches(0), N_BATCHES))
        turns = take_turns(
            {name: make(row, run, batches) for name, make in libraries.items()}, args.seconds
        )
        times += [median(turn) for turn in turns.values()]
        ratios = [
            median(a / b for a, b in zip(turns["npnet"], turns[name], strict=True))
            for name in others
        ]
        print(
            f"{row:14}",
            *(f"{time:10.0f}" for time in times),
            *(f"{ratio:10.2f}" for ratio in ratios),
            flush=True,
        )
    if not args.lean:
        print(f"import numpy {import_time('import numpy'):.0f} ms, and then", end=" ")
        print(f"npnet {import_time('import npnet', 'import numpy'):.1f} ms,", end=" ")
        print(
            f"all its modules {import_time('from npnet import *', 'import numpy'):.0f} ms", end=""
        )
        print(
            f"; import torch {import_time('import torch'):.0f} ms" if "torch" in libraries else ""
        )


if __name__ == "__main__":
    main()
