"""How everything here is timed, checked and shown."""

import gc
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from time import monotonic, process_time

# Prints a process's peak of resident memory in bytes. A child's ru_maxrss begins with its parent's
# on Linux, hence the first branch.
PEAK_MEMORY = """
try:
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    print(int(status["VmHWM"].split()[0]) * 1024)
except OSError:
    import resource, sys
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(peak if sys.platform == "darwin" else peak * 1024)
"""
TURN = 0.04  # seconds: long beside the clock's grain, short beside a disturbance


@dataclass
class Peer:
    """One way to do a row's work.

    train(n)        n steps, minibatches drawn, on the examples of the task
    check(*inputs)  what must equal npnet's result; for a training step the losses of two steps on
                    the batch (x, y). None where there is nothing to compare
    chunk           train wants a multiple of it
    seconds(n)      train(n) -> the processor time that it took
    """

    train: Callable
    check: Callable | None = None
    chunk: int = 1

    def seconds(self, n):
        before = process_time()
        self.train(n)
        return process_time() - before


def agree(task, peers):
    """Every peer finds npnet's loss of a common batch, before and after one update of the
    parameters."""
    x, y = next(task.batches())
    expected = peers["npnet"].check(x, y)
    for name, peer in peers.items():
        if name == "npnet" or peer.check is None or task.row.other:
            continue
        found = peer.check(x, y)
        if not all(abs(a - b) < 1e-4 for a, b in zip(found, expected, strict=True)):
            raise AssertionError(
                f"{task.name}: losses of two steps in {name} are {found}, in npnet {expected}"
            )


def interleave(peers, seconds):
    """The peers in turn, a few steps at a time, about `seconds` of processor time each -> for each
    its seconds a step in every turn.

    Processor time is what other programs disturb least.
    """
    counts = {}
    for name, peer in peers.items():
        peer.train(peer.chunk)
        count, spent = peer.chunk, 0.0
        while spent < TURN:
            spent = peer.seconds(count)
            if spent < TURN:
                wanted = int(1.2 * TURN / max(spent, 1e-6) * count)
                count = peer.chunk * max(
                    count // peer.chunk + 1, min(wanted, 16 * count) // peer.chunk
                )
        counts[name] = count
    turns = {name: [] for name in peers}
    gc.collect()
    gc.disable()
    try:
        for _ in range(max(5, round(seconds / TURN))):
            for name, peer in peers.items():
                turns[name].append(peer.seconds(counts[name]) / counts[name])
    finally:
        gc.enable()
    return turns


def summary(turns, base="npnet"):
    """name -> the median seconds, and the median of base's turn over its own: below 1 base is
    faster."""
    return {
        name: {
            "seconds": median(times),
            "ratio": median(a / b for a, b in zip(turns[base], times, strict=True)),
        }
        for name, times in turns.items()
    }


class Progress:
    """What is being done, on stderr: one line, overwritten on a terminal, else a line each."""

    def __init__(self, about, total):
        self.about, self.total, self.done = about, total, 0
        self.start = monotonic()

    def say(self, text):
        left = ""
        if self.done:
            seconds = (monotonic() - self.start) / self.done * (self.total - self.done)
            left = f", about {seconds:.0f} s left"
        line = f"{self.about} {self.done + 1}/{self.total}: {text}{left}"
        if sys.stderr.isatty():
            line = f"\r{line:79.79}\r"
        else:
            line += "\n"
        sys.stderr.write(line)
        sys.stderr.flush()

    def advance(self):
        self.done += 1
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{'':79}\r")


def table(head, rows):
    """A Markdown table whose columns line up; None is a dash."""
    cells = [["-" if cell is None else str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row):
        first, *others = zip(row, widths, strict=True)
        return f"| {first[0]:{first[1]}} | " + " | ".join(f"{c:>{w}}" for c, w in others) + " |"

    rule = "|".join(["-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:])])
    return "\n".join([line(cells[0]), f"|{rule}|", *map(line, cells[1:])])


def python(*arguments):
    """What a fresh Python process prints, or "" where it fails."""
    return subprocess.run(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ).stdout


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine():
    """What the figures depend on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "OPENBLAS_CORETYPE": os.environ.get("OPENBLAS_CORETYPE"),
        "python": platform.python_version(),
    } | {name: installed(name) for name in ("numpy", "torch", "jax")}


def describe(machine, used="one"):
    """The machine in two lines, and how many of its cores are used."""
    versions = ", ".join(
        f"{n} {machine[n]}" for n in ("python", "numpy", "torch", "jax") if machine[n]
    )
    kernels = machine["OPENBLAS_CORETYPE"] or "not set"
    cores = f"{machine['cores']} cores, {used} used"
    return (
        f"{machine['processor']}, {cores}; {machine['system']}\n"
        f"{versions}; OPENBLAS_CORETYPE {kernels}"
    )


def _processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown processor"
