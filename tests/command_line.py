"""npnet in a subprocess: what the tests of the command line share."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from npnet.data import read_words

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
WORDS = "\n".join(read_words()[:300])


def command(*arguments):
    return [sys.executable, "-m", "npnet", *map(str, arguments)]


def npnet(*arguments, cwd=None, **environment):
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env=ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def heed_signals():
    """For a child: what the shell of a background job has made it ignore."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(*arguments, **options):
    """The same, running: a Popen whose output, if anybody wants it, is text."""
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | options
    options = {"preexec_fn": heed_signals, "env": ENVIRONMENT, "text": True} | options
    return subprocess.Popen(command(*arguments), **options)


def good(*arguments, cwd=None):
    done = npnet(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done


def bad(*arguments, says="", cwd=None, **environment):
    """One line on stderr that says so, nothing on stdout, status 2. It is asked to be quiet: a busy
    machine would have the command say that it is still reading."""
    done = npnet(*arguments[:1], "-q", *arguments[1:], cwd=cwd, **environment)
    assert done.returncode == 2, (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("npnet"), done.stderr
    assert done.stdout == ""
    assert says in done.stderr
    return done.stderr


def same_arrays(one, other):
    with np.load(one) as a, np.load(other) as b:
        assert a.files == b.files
        for name in a.files:
            if name != "meta":
                assert np.array_equal(a[name], b[name]), name


def history(folder):
    """The lines of its history.csv without their last column, the seconds."""
    return [line.rpartition(",")[0] for line in (folder / "history.csv").read_text().splitlines()]


def same_runs(one, other):
    """Everything but the times is the same in two folders."""
    same_arrays(one / "last.npz", other / "last.npz")
    same_arrays(one / "model.npz", other / "model.npz")
    assert history(one) == history(other)
