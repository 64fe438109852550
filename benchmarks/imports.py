"""What an import costs: fresh processes that do nothing else."""

from statistics import median
from time import perf_counter

from benchmarks.measure import PEAK_MEMORY, Progress, installed, python, table

STATEMENTS = {
    "Python alone": "",
    "numpy": "import numpy",
    "npnet, all of it": "from npnet import *",
    "torch": "import torch",
    "jax": "import jax.numpy",
}


def measure(turns=5):
    """name -> {"seconds" of the whole process, "bytes" at its peak}: medians."""
    names = [n for n in STATEMENTS if n not in ("torch", "jax") or installed(n)]
    progress = Progress("import", turns + 1)
    found = {name: [] for name in names}
    for _ in range(turns + 1):
        progress.say(", ".join(names))
        for name in names:
            before = perf_counter()
            peak = int(python("-c", f"{STATEMENTS[name]}\n{PEAK_MEMORY}"))
            found[name].append((perf_counter() - before, peak))
        progress.advance()
    result = {}
    for name, runs in found.items():
        seconds, peaks = zip(*runs[1:], strict=True)  # the first fills the file cache
        result[name] = {"seconds": median(seconds), "bytes": median(peaks)}
    return result


def show(found):
    rows = [
        [name, f"{found[name]['seconds'] * 1e3:.0f}", f"{found[name]['bytes'] / 1e6:.0f}"]
        if name in found
        else [name, None, None]
        for name in STATEMENTS
    ]
    print(table(["a process with", "ms", "peak MB"], rows))
