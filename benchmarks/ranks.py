"""What more ranks give: one batch shared among them, or one for each; what a sum over them costs;
and what BLAS threads give instead.

Started by `scale --ranks`; each number of ranks is a job of mpiexec, whose rank 0 prints JSON.
"""

import json
import math
import os
import shutil
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from subprocess import PIPE, run

import numpy as np

from benchmarks.apart import Apart
from benchmarks.measure import Progress, installed, table
from benchmarks.rows import ROWS, SizedTask, Task, TextTask
from benchmarks.scale import transformer
from benchmarks.step import library_peers, npnet_peer
from npnet.data import read_words
from npnet.ranks import ALONE, Alone, add_rows, join
from npnet.train import loop


def _row(name, batch_size, words, batches=1):
    return Task(name, replace(ROWS[name], batch_size=batches * batch_size), words)


TURN = 0.15  # seconds of wall time
# Name -> a function of the words and of how many batches a step takes, which makes a Task
SHARED = {
    "MLP of the notebook, batch 32": partial(_row, "mlp", 32),
    "Transformer of makemore, batch 32": partial(_row, "transformer", 32),
    "Transformer of makemore, batch 256": partial(_row, "transformer", 256),
    "nanoGPT on a CPU (C 128, T 64), batch 12": lambda words, batches=1: TextTask(
        "nanogpt", batches
    ),
}
ADDED = (1, 256, 4096, 65536, 262144, 1 << 20, 1 << 22, 10_700_000)  # numbers in float32
# Seconds of latency and bytes a second of one message between two nodes
NETWORKS = {
    "10 Gbit/s Ethernet": (30e-6, 1.1e9),
    "25 Gbit/s Ethernet": (20e-6, 2.8e9),
    "100 Gbit/s InfiniBand": (2e-6, 11e9),
}
NODES = (2, 4, 8, 16, 32, 64)
# Parameters -> a function that makes a Task, the rows of its batch, and those of a step predicted
PREDICTED = {
    "0.2 M": (SHARED["Transformer of makemore, batch 32"], 32, 32),
    "0.8 M": (SHARED["nanoGPT on a CPU (C 128, T 64), batch 12"], 12, 12),
    "10.7 M": (lambda words: SizedTask("", *transformer(1, 256, 384, 6)), 1, 64),
}


def measure(file, most):
    """Everything for 2, 4, ... up to `most` ranks."""
    counts = [2**i for i in range(1, most.bit_length()) if 2**i <= most] or [most]
    progress = Progress("scale --ranks", len(counts) + len(SHARED) + 1)
    found = {"ranks": {}, "threads": {}, "predicted": {}}
    for n in counts:
        progress.say(f"{n} ranks")
        mpiexec = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
        command = [mpiexec or "mpiexec", "-n", str(n), sys.executable, "-m", __name__, "share"]
        found["ranks"][n] = _json([*command, str(file), str(TURN)], 1)
        progress.advance()
    for name in SHARED:
        progress.say(f"{name}, {most} threads")
        found["threads"][name] = {}
        for library in ("npnet", "torch"):
            if library == "npnet" or installed(library):
                command = [sys.executable, "-m", __name__, "threads", str(file), library, name]
                found["threads"][name][library] = _json(command, most)
        progress.advance()
    progress.say("a step of each size")
    for name, (make, measured, batch) in PREDICTED.items():
        task = make(read_words(file))
        take = stepper(task)
        take(1)
        seconds = median(_timed(take, 1, time.process_time) for _ in range(5)) * batch / measured
        size = task.model.grad.nbytes
        found["predicted"][name] = {"seconds": seconds, "bytes": size, "batch": batch}
    progress.advance()
    return found


def _json(command, threads):
    environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in ("OPENBLAS", "OMP")}
    done = run(
        command, stdout=PIPE, check=True, text=True, env=environment, preexec_fn=_on_every_core
    )
    return json.loads(done.stdout)


def _on_every_core():
    """`python -m benchmarks` has pinned itself to one core. OpenBLAS counts them when it is loaded,
    so a child must be freed before it begins."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def stepper(task, ranks=ALONE):
    """take(n) takes n steps of the task, shared among the ranks."""
    steps = loop(
        task.model,
        task.batches(),
        task.optimizer(),
        task.schedule(),
        10**9,
        max_norm=task.max_norm,
        ranks=ranks,
    )

    def take(n):
        for _ in range(n):
            next(steps)

    return take


def _timed(take, n, clock=time.perf_counter):
    before = clock()
    take(n)
    return (clock() - before) / n


# In a rank


class Clocked(Alone):
    """The ranks of this job, and the processor time that their sums have taken here."""

    def __init__(self):
        self.ranks, self.spent = join(), 0.0
        self.rank, self.size, self.gather = self.ranks.rank, self.ranks.size, self.ranks.gather
        self.memory, self.add, self.meet = (
            self.ranks.memory,
            self._clocked(self.ranks.add),
            self._clocked(self.ranks.meet),
        )

    def _clocked(self, together):
        def call(*arguments):
            before = time.process_time()
            result = together(*arguments)
            self.spent += time.process_time() - before
            return result

        return call


class Turns:
    """Works in turn: of all ranks together, or of rank 0 while the others sleep."""

    def __init__(self, seconds):
        from mpi4py import MPI

        self.seconds, self.ranks, self.meeting = seconds, Clocked(), MPI.COMM_WORLD.Dup()

    def meet(self):
        everybody = self.meeting.Ibarrier()
        while not everybody.Test():
            time.sleep(0.0005)

    def times(self, works, turns=7):
        """name -> (take, whether all ranks do it) -> name -> (seconds, processor time outside of
        sums) a call in each turn, on rank 0."""
        counts, found = {}, {name: [] for name in works}
        for turn in range(-1, turns):
            for name, (take, together) in works.items():
                self.meet()
                n, seconds, self.ranks.spent = counts.get(name, 2), 0.0, 0.0
                before = time.process_time()
                if together or self.ranks.rank == 0:
                    seconds = _timed(take, n)
                own = (time.process_time() - before - self.ranks.spent) / n
                self.meet()  # who waits in MPI's own calls keeps a core busy
                seconds = self.ranks.gather(seconds)[0]
                if turn < 0:
                    counts[name] = max(1, round(self.seconds / seconds))
                else:
                    found[name].append((seconds, own))
        return found

    def together(self, work):
        """Seconds that all ranks take for work(), on rank 0."""
        found = self.times({"": (lambda n: [work() for _ in range(n)], True)})
        return median(seconds for seconds, _ in found[""])


def share(file, seconds, *names):
    """Rank 0 prints what the ranks of this job give, measured in turns of so many seconds, for the
    rows of these names (none: all)."""
    turns = Turns(float(seconds))
    ranks, n, words = turns.ranks, turns.ranks.size, read_words(file)
    found = {"rows": {}, "add": {}, "rows added": {}}
    for name in names or SHARED:
        make = SHARED[name]
        times = turns.times({
            "alone": (stepper(make(words)), False),
            "shared": (stepper(make(words), ranks), True),
            "larger": (stepper(make(words, n), ranks), True),
        })  # fmt: skip
        wall = {name: [seconds for seconds, _ in turn] for name, turn in times.items()}
        own = {name: [seconds for _, seconds in turn] for name, turn in times.items()}
        found["rows"][name] = {name: median(seconds) for name, seconds in wall.items()} | {
            "speedup": _ratio(wall["alone"], wall["shared"]),
            "efficiency": _ratio(wall["alone"], wall["larger"]),
            "work": _ratio(own["alone"], own["shared"]),
        }
    for numbers in ADDED:
        array = np.zeros(numbers, np.float32)
        found["add"][array.nbytes] = turns.together(partial(ranks.add, array))
        rows = ranks.memory((n, numbers), np.float32)
        if rows is not None:
            rows[ranks.rank] = 0
            found["rows added"][array.nbytes] = turns.together(partial(_add_rows, rows, ranks))
    found["overlap"] = _overlap(turns)
    if ranks.rank == 0:
        print(json.dumps(found))


def _add_rows(rows, ranks):
    """As often as one likes: nobody writes a row before all have added it."""
    add_rows(rows, ranks)
    ranks.meet()


def _ratio(above, below):
    return median(a / b for a, b in zip(above, below, strict=True))


def _overlap(turns, numbers=800_000):
    """Seconds of a sum, of products, and of both at once, the sum begun before the products."""
    from mpi4py import MPI

    a, x = np.zeros(numbers, np.float32), np.ones((384, 384), np.float32)

    def products(poll):
        for _ in range(8):
            x @ x
            poll()

    def both(n, poll):
        for _ in range(n):
            request = MPI.COMM_WORLD.Iallreduce(MPI.IN_PLACE, a)
            products(request.Test if poll else lambda: None)
            request.Wait()

    times = turns.times({
        "sum": (lambda n: [turns.ranks.add(a) for _ in range(n)], True),
        "products": (lambda n: [products(lambda: None) for _ in range(n)], True),
        "both": (lambda n: both(n, False), True),
        "both, polled": (lambda n: both(n, True), True),
    })  # fmt: skip
    return {name: median(seconds for seconds, _ in turns) for name, turns in times.items()}


def threads(file, library, name):
    """Print the seconds that a step of a row takes in one process with the threads of the
    environment."""
    task = SHARED[name](read_words(file))
    if library == "npnet":
        _print_step(npnet_peer(task).train)
        return
    with Apart() as apart:
        made = apart.makers(library_peers, task)
        names = "torch original", "torch trimmed", "torch"
        take = next(made[name] for name in names if name in made)().train
        apart.call(_use_threads, int(os.environ["OMP_NUM_THREADS"]))
        _print_step(take)


def _print_step(take):
    take(2)
    n = max(1, round(TURN / _timed(take, 2)))
    print(json.dumps(median(_timed(take, n) for _ in range(7))))


def _use_threads(n):
    import torch

    torch.set_num_threads(n)


# What it says


def fitted(add):
    """bytes -> seconds as latency + bytes / bandwidth: the two numbers, all sizes weighed alike."""
    size, seconds = np.array(list(add), float), np.array(list(add.values()))
    a = np.stack([1 / seconds, size / seconds], axis=1)
    latency, per_byte = np.linalg.lstsq(a, np.ones(len(size)), rcond=None)[0]
    return float(latency), float(1 / per_byte)


def predicted(seconds, size, n, latency, bandwidth, rows=None):
    """Seconds a step on n nodes: compute / n + latency + bytes / bandwidth, where the sum sends
    2 log2 n messages one after the other and 2 (n - 1) / n of the bytes (Thakur et al., 2005).

    rows bounds n: nobody has less than one row. Without it every node has a batch of its own.
    """
    shared = seconds if rows is None else seconds / n
    return shared + 2 * math.log2(n) * latency + 2 * (n - 1) / n * size / bandwidth


def show(found):
    for n, job in found["ranks"].items():
        lines = [
            [
                name,
                f"{row['alone'] * 1e3:.3g}",
                f"{row['shared'] * 1e3:.3g}",
                f"{row['speedup']:.2f}",
                f"{row['efficiency']:.2f}",
                f"{row['work']:.2f}",
                *(
                    t and f"{t * 1e3:.3g}"
                    for t in map(found["threads"][name].get, ("npnet", "torch"))
                ),
            ]
            for name, row in job["rows"].items()
        ]
        head = [
            "alone ms",
            f"{n} ranks ms",
            "times as fast",
            "of a batch each",
            "work alone / shared",
        ]
        head += ["BLAS threads ms", "torch threads ms"]
        print(table([f"{n} ranks", *head], lines), end="\n\n")
        add = {int(size): seconds for size, seconds in job["add"].items()}
        common = {int(size): seconds for size, seconds in job["rows added"].items()}
        lines = [
            [f"{size:,}", *(t and f"{t * 1e6:.3g}" for t in (seconds, common.get(size)))]
            for size, seconds in add.items()
        ]
        print(table(["bytes summed", "by MPI us", "in common memory us"], lines), end="\n\n")
        latency, bandwidth = fitted(add)
        print(f"about {latency * 1e6:.2g} us + bytes / {bandwidth / 1e9:.2g} GB/s", end="\n\n")
        print(
            "a sum during products: "
            + ", ".join(f"{name} {s * 1e3:.2f} ms" for name, s in job["overlap"].items()),
            end="\n\n",
        )
    for network, (latency, bandwidth) in NETWORKS.items():
        lines = []
        for name, model in found["predicted"].items():
            once = model["seconds"], model["bytes"]
            for rows, what in ((model["batch"], "times as fast"), (None, "of a batch each")):
                cells = [
                    once[0] / predicted(*once, n, latency, bandwidth, rows)
                    if rows is None or n <= rows
                    else None
                    for n in NODES
                ]
                took = f"{once[0]:.3g} s" if once[0] > 1 else f"{once[0] * 1e3:.3g} ms"
                label = f"{name}, batch {model['batch']}, {took}: {what}"
                lines.append([label, *(c and f"{c:.2f}" for c in cells)])
        about = f"{network}, {latency * 1e6:.0f} us and {bandwidth / 1e9:g} GB/s a message"
        print(table([about, *map(str, NODES)], lines), end="\n\n")


if __name__ == "__main__":
    {"share": share, "threads": threads}[sys.argv[1]](*sys.argv[2:])
