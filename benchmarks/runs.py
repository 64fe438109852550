"""Whole runs, each in a process of its own: start, data, training, the loss on the validation
words; wall time and peak memory."""

import sys
from subprocess import DEVNULL, PIPE, run
from time import perf_counter

from benchmarks.measure import PEAK_MEMORY, Progress, installed, table

# Row -> the steps of the published run, or where makemore has no end enough to be past its start
STEPS = {"mlp": 200_000, "mlp_makemore": 5000, "lstm": 5000, "transformer": 1000, "microgpt": 1000}


def measure(file, names=None, steps=None):
    """row -> library -> {"steps", "seconds", "bytes", "loss"}."""
    names = names or list(STEPS)
    libraries = [name for name in ("npnet", "torch") if name == "npnet" or installed(name)]
    progress = Progress("runs", len(names) * len(libraries))
    found = {}
    for name in names:
        n = steps or STEPS.get(name, 1000)
        found[name] = {}
        for library in libraries:
            progress.say(f"{name}, {n:,} steps in {library}")
            found[name][library] = {"steps": n} | whole_run(library, name, n, file)
            progress.advance()
    return found


def whole_run(library, name, steps, file):
    code = (
        f"from benchmarks.peers import whole_run; "
        f"print(whole_run.in_{library}({name!r}, {steps}, {str(file)!r}))\n{PEAK_MEMORY}"
    )
    before = perf_counter()
    done = run([sys.executable, "-c", code], stdout=PIPE, stderr=DEVNULL, check=True, text=True)
    seconds = perf_counter() - before
    loss, peak = done.stdout.split()
    return {"seconds": seconds, "bytes": int(peak), "loss": float(loss)}


def show(found):
    lines = []
    for name, row in found.items():
        for library, figures in row.items():
            lines.append(
                [
                    name,
                    library,
                    f"{figures['steps']:,}",
                    f"{figures['seconds']:.1f}",
                    f"{figures['bytes'] / 1e6:.0f}",
                    f"{figures['loss']:.3f}",
                ]
            )
    print(table(["whole run", "library", "steps", "seconds", "peak MB", "val loss"], lines))
