"""Whatever a file holds, a command ends with status 0 or 2, in one line, at once, in little memory.

`python tests/test_hostile.py` is the worker: it reads commands as JSON, one a line, runs them and
answers with what became of each.
"""

import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
from hostile import crafted, damaged

MEGABYTES = 200
CHECKPOINTS, LISTS = 3000, 500


def work():
    import npnet.commands  # noqa: F401  what a command imports is no part of its time
    from npnet.cli import main

    for line in sys.stdin:
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        out, err, began = io.StringIO(), io.StringIO(), time.process_time()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status = main(json.loads(line))
            except SystemExit as error:
                status = error.code
            except BaseException:
                status = traceback.format_exc()
        took = time.process_time() - began
        print(json.dumps([status, err.getvalue(), took, peak_megabytes()]), flush=True)


def peak_megabytes():
    status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent's as well
    return int(status.partition("VmHWM:")[2].split()[0]) / 1e3


class Worker:
    """A process that runs one command after the other, and another one after a while."""

    def __init__(self):
        self.process, self.left = None, 0

    def run(self, argv):
        if self.left == 0:
            self.close()
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
            self.left = 100
        self.left -= 1
        self.process.stdin.write(json.dumps(argv) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the process died of {argv}"
        return json.loads(answer)

    def close(self):
        if self.process:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


def judge(name, argv, answer):
    """A refusal costs nothing; what is right may train for a step."""
    status, err, _, peak = answer
    megabytes = MEGABYTES if status == 2 else 1000
    assert status in (0, 2, 3), f"{name}: {argv}: {status}"  # 3: a rate of 1e300 diverges
    lines = err.splitlines()
    if status == 2:
        assert len(lines) == 1 and lines[0].startswith("npnet"), f"{name}: {argv}: {lines}"
        assert lines[0].isprintable() and len(lines[0]) < 700, f"{name}: {argv}: {lines}"
    assert peak < megabytes, f"{name}: {argv}: {peak:.0f} MB"


@pytest.mark.slow
def test_damaged_and_hostile_checkpoints(tmp_path, worker):
    good = []
    for name, options in (
        ("notebook", ["--n-embd2", "8"]),
        ("part3", ["--n-embd2", "8"]),
        ("makemore-rnn", ["--n-embd", "4", "--n-embd2", "8"]),
        ("makemore-transformer", ["--n-embd", "4", "--n-layer", "1", "--n-head", "2"]),
        ("microgpt", []),
        ("text-gru", ["--n-embd", "4", "--n-embd2", "8", "--block-size", "8"]),
    ):
        folder = tmp_path / name
        argv = ["train", "--preset", name, "--max-steps", "3", "-q", "-o", str(folder), *options]
        assert worker.run(argv)[0] == 0
        good.append(folder / "last.npz")
    rng = np.random.default_rng(0)
    files = itertools.chain(
        *(crafted(path).items() for path in good),
        (
            (f"damage {k}", damaged(good[k % len(good)].read_bytes(), rng))
            for k in itertools.count()
        ),
    )
    target = tmp_path / "hostile"
    statuses, slowest = {0: 0, 2: 0, 3: 0}, 0.0
    for k, (name, data) in enumerate(itertools.islice(files, CHECKPOINTS)):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        (target / "last.npz").write_bytes(data)
        argv = [
            ["sample", str(target), "-n", "2"],
            ["train", "-o", str(target), "--resume", "--max-steps", "4", "-q"],
            ["export", str(target), str(target / "x.safetensors")],
            ["sample", str(target / "last.npz"), "-n", "2"],
        ][k % 4]
        answer = worker.run(argv)
        judge(name, argv, answer)
        statuses[answer[0]] += 1
        slowest = max(slowest, answer[2] if answer[0] == 2 else 0.0)
    print(statuses, f"the slowest refusal took {slowest:.2f} s of processor time")
    assert statuses[0] > 20 and statuses[2] > 20


@pytest.mark.slow
def test_lists_of_random_bytes(tmp_path, worker):
    rng = np.random.default_rng(1)
    kinds = [
        lambda n: rng.bytes(n),
        lambda n: bytes(rng.integers(32, 127, n).astype(np.uint8)),
        lambda n: bytes(rng.choice(np.frombuffer(b"abc\n", np.uint8), n)),
        lambda n: bytes(rng.choice(np.frombuffer(b"abc\n.\0\r\t\xff\xc3\xa9", np.uint8), n)),
        lambda n: "".join(map(chr, rng.integers(32, 0xD800, n))).encode(),
        lambda n: "\n".join(map(chr, rng.integers(32, 0x2FFF, n))).encode(),
        lambda n: "".join(map(chr, rng.integers(97, 110, n))).encode("utf-16"),
        lambda n: b"emma\n" * n,
    ]
    path = tmp_path / "words.txt"
    statuses, slowest = {0: 0, 2: 0, 3: 0}, 0.0
    types = ("bigram", "rnn", "transformer")
    for k in range(LISTS):
        path.write_bytes(kinds[k % len(kinds)](int(10 ** rng.uniform(0, 4))))
        argv = ["train", "-i", str(path), "--max-steps", "1", "-q"]
        if k % 3 == 0:
            argv += ["--type", types[k % len(types)]]
        if k % 3 == 1:
            argv[1] = "--text"
        answer = worker.run(argv)
        judge(f"list {k}", argv, answer)
        statuses[answer[0]] += 1
        slowest = max(slowest, answer[2] if answer[0] == 2 else 0.0)
    print(statuses, f"the slowest refusal took {slowest:.2f} s of processor time")
    assert statuses[0] > 20 and statuses[2] > 20


def test_the_worker_sees_what_is_wrong(worker, tmp_path):
    path = tmp_path / "none.npz"
    answer = worker.run(["sample", str(path)])
    judge("a missing file", [], answer)
    for wrong in (
        ["Traceback", "", 0.1, 50],
        [2, "npnet: a\nb\n", 0.1, 50],
        [2, "", 0.1, 50],
        [2, "npnet: \x1b\n", 0.1, 50],
        [2, "npnet: a\n", 0.1, 300],
        [0, "", 0.1, 2000],
    ):
        with pytest.raises(AssertionError):
            judge("wrong", [], wrong)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    work()
