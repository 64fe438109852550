"""A training step: minibatch drawn, loss, every gradient, update of the optimiser."""

from functools import partial
from itertools import islice

from benchmarks.apart import Apart
from benchmarks.measure import Peer, Progress, agree, installed, interleave, summary, table
from benchmarks.rows import ROWS, TEXT_ROWS, Task, TextTask
from npnet.train import loop

COLUMNS = {
    "torch": "torch.nn, autograd, the fused optimiser",
    "torch trimmed": "the same with each batch cut to its longest word",
    "torch packed": "a PackedSequence, or the scored positions alone after what looks along time",
    "torch original": "the lecture's or nanoGPT's own code, with its own optimiser",
    "torch by hand": "the notebook's own backward, under no_grad",
    "torch compile": "torch.compile of model and loss (--compile)",
    "jax": "one jitted step with donated buffers, waiting for each loss",
    "jax no wait": "the same, waiting once in many steps",
    "jax scan": "50 steps a call by lax.scan",
    "C": "the same step in C with NumPy's OpenBLAS",
    "microgpt-efficiency": "github.com/chanjoongx/microgpt-efficiency (--peer DIR)",
    "products": "a step's matrix products alone",
}


def npnet_peer(task):
    optimizer = task.optimizer()
    how = {"max_norm": task.max_norm}
    steps = loop(task.model, task.batches(), optimizer, task.schedule(), 1 << 62, **how)

    def train(n):
        for _ in islice(steps, n):
            pass

    def check(x, y):
        two = loop(task.model, iter([(x, y)] * 2), optimizer, task.schedule(), 2, **how)
        return [float(loss) for _, loss in two]

    return Peer(train, check)


def numpy_peers(task, folder=None):
    """name -> a function that makes the Peer, for what computes with NumPy or its OpenBLAS."""
    from benchmarks.peers import products

    made = {"npnet": partial(npnet_peer, task), "products": partial(products.peer, task)}
    if task.name == "mlp":
        from benchmarks.peers import c_mlp

        made["C"] = partial(c_mlp.peer, task)
    if folder and task.row.kind == "microgpt":
        from benchmarks.peers import numpy_microgpt

        made["microgpt-efficiency"] = partial(numpy_microgpt.peer, task, folder)
    return made


def library_peers(task, compiled=False):
    """The same for the other libraries that can be had here."""
    made = {}
    if isinstance(task, TextTask):
        if installed("torch"):
            from benchmarks.peers import torch_text

            made["torch original"] = partial(torch_text.peer, task)
        return made
    if installed("torch"):
        from benchmarks.peers import torch_steps

        made |= torch_steps.peers(task, compiled)
    if installed("jax"):
        from benchmarks.peers import jax_steps

        made |= jax_steps.peers(task)
    return made


def timed(task, progress, apart, seconds, only, compiled, folder):
    """name -> seconds a step and npnet's share of it, and the peers that could not be made."""
    peers, absent = {}, {}
    makers = numpy_peers(task, folder) | apart.makers(library_peers, task, compiled)
    for name, make in makers.items():
        if only and name not in ("npnet", *only):
            continue
        progress.say(f"{task.name}, building {name}")
        try:
            peers[name] = make()
        except OSError as error:
            absent[name] = str(error)
    progress.say(f"{task.name}, comparing losses")
    agree(task, peers)
    progress.say(f"{task.name}, timing {len(peers)} peers in turn")
    return summary(interleave(peers, seconds)), absent


def measure(words, names=None, seconds=0.6, only=None, compiled=False, folder=None):
    """row -> name -> {"seconds", "ratio"}."""
    names = names or [*ROWS, *TEXT_ROWS]
    progress, results, absent = Progress("step", len(names)), {}, {}
    with Apart() as apart:
        for name in names:
            task = TextTask(name) if name in TEXT_ROWS else Task(name, ROWS[name], words)
            found, missing = timed(task, progress, apart, seconds, only, compiled, folder)
            results[name], absent = found, absent | missing
            progress.advance()
    return {"rows": results, "absent": absent}


def show(found):
    rows, absent = found["rows"], found["absent"]
    columns = [
        name for name in COLUMNS if any(name in row for row in rows.values()) or name in absent
    ]
    lines = []
    for name, row in rows.items():
        ratios = [f"{row[column]['ratio']:.2f}" if column in row else None for column in columns]
        lines.append([name, f"{row['npnet']['seconds'] * 1e6:.0f}", *ratios])
    print(table(["npnet / peer", "npnet us", *columns], lines))
    print()
    for column in columns:
        print(f"{column}: {absent.get(column, COLUMNS[column])}")
    for name in rows:
        if name in ROWS and ROWS[name].other:
            print(f"{name}: {ROWS[name].other}; losses are not compared")
