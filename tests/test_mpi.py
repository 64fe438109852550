"""Runs of real ranks, started by mpiexec: what they compute, and how they end."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import ENVIRONMENT, ROOT, command, good, heed_signals
from shared_runs import KINDS

from benchmarks import ranks
from npnet import checkpoint

MPIEXEC = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
# Ranks that wait leave the processor to the others, which on few cores is many times as fast.
PATIENT = {
    "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1",
    "MPIR_CVAR_POLLS_BEFORE_YIELD": "10",
    "MPIR_CVAR_POSIX_POLL_FREQUENCY": "10",
}
PYTHONPATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
OPTIONS = {"env": {**ENVIRONMENT, **PATIENT, "PYTHONPATH": PYTHONPATH}, "text": True}
TRAIN = ("train", "--preset", "part3", "-q")


def mpi(*commands, check=0, timeout=120):
    """The commands, each for so many ranks: (n, arguments), ..."""
    done = subprocess.run(line(*commands), capture_output=True, timeout=timeout, **OPTIONS)
    assert done.returncode == check, (done.returncode, done.stdout[-500:], done.stderr)
    return done


def line(*commands):
    words = [MPIEXEC]
    for n, arguments in commands:
        words += [":"] * (len(words) > 1) + ["-n", str(n), *map(str, arguments)]
    return words


def python(code):
    """npnet in which something goes wrong."""
    return sys.executable, "-c", code + "\nimport sys, npnet.cli; sys.exit(npnet.cli.main())"


def one_line(done, says):
    assert says in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.fixture(scope="module", autouse=True)
def two_ranks():
    """Skip, and say why, where this machine cannot start them."""
    code = "from mpi4py.MPI import COMM_WORLD as c; n = c.allgather(1); c.rank or print(sum(n))"
    try:
        done = subprocess.run(
            line((2, (sys.executable, "-c", code))), capture_output=True, timeout=60, **OPTIONS
        )
    except (OSError, TypeError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no working MPI here: {error}")
    if done.stdout != "2\n":
        reason = (done.stderr or done.stdout).strip().splitlines() or ["nothing was printed"]
        pytest.skip(f"no working MPI here: {reason[-1]}")


@pytest.mark.parametrize("n", [2, 3, 4])
def test_every_model_is_trained_as_by_one_process(n):
    """50 steps, batches of which a rank may have no row: parameters, losses and statistics; twice
    the same bits, whoever comes late; the same bits on every rank."""
    found = mpi((n, (sys.executable, "tests/shared_runs.py"))).stdout.splitlines()
    assert [row.split()[0] for row in found] == KINDS
    for row in found:
        kind, size, apart, again, alike = row.split()
        assert int(size) == n
        assert float(apart) < 1e-10, kind
        assert (again, alike) == ("True", "True"), kind


@pytest.mark.parametrize(
    "flags",
    [
        (*TRAIN, "-i"),
        ("train", "--type", "transformer", "-q", "-i"),
        ("train", "--preset", "part7-bigram", "-q", "--text"),
    ],
    ids=["windows", "words", "text"],
)
def test_a_run_changes_the_number_of_its_ranks(flags, names, tmp_path):
    """Alone, or with two, then three, then one: the same lines, and nearly the same numbers."""
    flags = (*flags, names)
    whole = good(*flags, "--max-steps", 43, "-o", tmp_path / "alone")
    parts = tmp_path / "parts"
    mpi((2, command(*flags, "--max-steps", 11, "-o", parts)))
    for n, steps in ((3, 21), (1, 43)):
        resumed = command("train", "-q", "-o", parts, "--resume", "--max-steps", steps)
        last = mpi((n, resumed)).stdout
    found, expected = (
        checkpoint.load(path / "last.npz").model.data for path in (parts, tmp_path / "alone")
    )
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    lines, expected_lines = (
        [text.partition(" | step time")[0] for text in output.splitlines()][-20:]
        for output in (last, whole.stdout)
    )
    assert lines == expected_lines[-len(lines) :]
    drawn = ("sample", "-q", tmp_path / "alone", "-n", 30)
    assert mpi((2, command(*drawn))).stdout == good(*drawn).stdout
    judged = ("evaluate", "-q", tmp_path / "alone", "--per-word")
    assert mpi((3, command(*judged))).stdout == good(*judged).stdout


def test_the_benchmark_of_ranks_finds_a_time_for_everything(names):
    rows = list(ranks.SHARED)[:2]
    arguments = (sys.executable, "-m", "benchmarks.ranks", "share", names, 0.001, *rows)
    found = json.loads(mpi((2, arguments)).stdout)
    assert list(found["rows"]) == rows
    for row in found["rows"].values():
        assert row.keys() == {"alone", "shared", "larger", "speedup", "efficiency", "work"}
        assert min(row.values()) > 0
    assert ranks.fitted(found["add"])[1] > 0 and len(found["overlap"]) == 4
    assert "4" in found["rows added"]


def running(tmp_path, names, *flags, n=2):
    """mpiexec with a run that has begun, and the ranks' process ids."""
    process = subprocess.Popen(
        line((n, command(*TRAIN, "-i", names, "--save-every", 5, "-o", tmp_path / "out", *flags))),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed_signals, **OPTIONS,
    )  # fmt: skip
    until = time.monotonic() + 60
    while step_of(tmp_path) < 5:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    pids = {}
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(tmp_path) in (status.parent / "cmdline").read_text():
                found = dict(v.split("=", 1) for v in status.read_text().split("\0") if "=" in v)
                if "PMI_RANK" in found:
                    pids[int(found["PMI_RANK"])] = int(status.parent.name)
        except OSError:
            pass  # a process that has ended meanwhile
    return process, pids


def step_of(tmp_path):
    """Of the last checkpoint, which is good."""
    path = tmp_path / "out" / "last.npz"
    return checkpoint.load(path).meta["step"] if path.exists() else -1


def ended(process, timeout=30):
    """What it has written to stderr; a process that hangs is a failure."""
    try:
        return process.communicate(timeout=timeout)[1]
    finally:
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_mpiexec_saves_and_ends_every_rank(number, names, tmp_path):
    process, _ = running(tmp_path, names)
    process.send_signal(number)
    said = [text for text in ended(process).splitlines() if not text.startswith("[mpiexec")]
    assert len(said) == 1 and "interrupted after" in said[0], said
    assert process.returncode in (128 + number, 143)  # MPICH has its own status for Ctrl-C
    assert f"after {step_of(tmp_path):,} steps" in said[0]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_ends_all(rank, names, tmp_path):
    process, pids = running(tmp_path, names)
    os.kill(pids[rank], signal.SIGTERM)
    said = ended(process)
    assert process.returncode == 143 and said.count("\n") == 1, said
    assert f"interrupted after {step_of(tmp_path):,} steps" in said


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks in /proc")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_leaves_a_good_checkpoint(rank, names, tmp_path):
    process, pids = running(tmp_path, names)
    os.kill(pids[rank], signal.SIGKILL)
    ended(process)
    assert process.returncode != 0
    before = step_of(tmp_path)
    assert before >= 5
    resumed = command("train", "-q", "-o", tmp_path / "out", "--resume", "--max-steps", before + 3)
    mpi((2, resumed))


def test_what_is_wrong_on_one_rank_ends_all_with_one_line(names, tmp_path):
    flags = (*TRAIN, "-i", names, "-o", tmp_path / "out", "--save-every", 10, "--max-steps", 100)
    other = tmp_path / "other.txt"
    other.write_text("emma\n" + names.read_text(), encoding="utf-8")

    done = mpi((2, command(*flags, "--n-head", 3)), check=2)
    one_line(done, "n_head has no meaning in part3")
    done = mpi((1, command(*flags)), (1, command(*flags, "--n-layers", 3)), check=2)
    one_line(done, "unrecognized arguments: --n-layers 3")
    done = mpi((1, command(*flags)), (1, command(*flags, "-i", other)), check=2)
    one_line(done, "rank 1 and rank 0 differ in words: ")
    done = mpi((1, command(*flags)), (1, command(*flags, "-i", tmp_path / "none.txt")), check=2)
    one_line(done, "none.txt: No such file")
    code = f"import npnet, sys; npnet.__version__ = '0.0'; sys.argv[1:] = {[*map(str, flags)]}"
    done = mpi((1, command(*flags)), (1, python(code)), check=2)
    one_line(done, "rank 1 and rank 0 differ in version of npnet: 0.0 and")
    assert not (tmp_path / "out" / "last.npz").exists()


FAULT = """
import errno, os, sys
from npnet import checkpoint, models
sys.argv[1:] = {flags}
whole, step = models.Model.loss_and_grad, 0
def broken(self, *arguments, **options):
    global step
    step += 1
    loss = whole(self, *arguments, **options)
    if step == 25 and os.environ["PMI_RANK"] == "1":
        {fault}
    return loss
models.Model.loss_and_grad = broken
write = checkpoint.write_whole
def full(path, save):
    if {full} and step > 15:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    write(path, save)
checkpoint.write_whole = full
"""


@pytest.mark.parametrize(
    "fault, full, status, says, step",
    [
        ("return loss * float('nan')", False, 3, "the loss is nan at step 24", 20),
        ("raise MemoryError", False, 2, "not enough memory", 20),
        ("os._exit(9)", False, 9, "", 20),
        ("pass", True, 2, "last.npz: No space left on device", 10),
    ],
)
def test_a_fault_in_a_step_leaves_a_good_checkpoint(
    fault, full, status, says, step, names, tmp_path
):
    out = tmp_path / "out"
    flags = (*TRAIN, "-i", names, "-o", out, "--save-every", 10, "--max-steps", 40)
    code = FAULT.format(flags=[*map(str, flags)], fault=fault, full=full)
    done = mpi((2, python(code)), check=status)
    said = [text for text in done.stderr.splitlines() if "warning" not in text]
    assert len(said) == bool(says) and all(says in text for text in said), said
    assert step_of(tmp_path) == step
