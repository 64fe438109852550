"""Whether a run survives: killed, interrupted, without room on the disk, beside a second one; and
whether any list of arguments ends in a way that is documented.

    python tests/survive.py kills 100       SIGKILL at random moments, over seven models
    python tests/survive.py signals 100     SIGINT, SIGTERM and SIGHUP, alone and in pairs
    python tests/survive.py disks 10        no room for a while
    python tests/survive.py writers 20      a second run in the same folder
    python tests/survive.py arguments 3000  random flags with random values
    python tests/survive.py memory          whether it grows over 200,000 steps
    python tests/survive.py lists 1000000   what a long list takes until the first step
    python tests/survive.py texts 1000000000    the same for a text of so many bytes

After every interruption the run goes on by the command that npnet printed. In the end parameters,
optimiser, random streams, history, printed lines and words must be those of a run that nobody
disturbed. test_survive.py does a little of each.
"""

import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from command_line import ENVIRONMENT, WORDS, command, good, heed_signals, same_runs, start

from npnet.presets import PRESETS
from npnet.text import PLAY

MODELS = {
    "notebook": ["--max-steps", 1500],
    "part3": ["--preset", "part3", "--max-steps", 1200],
    "part5": ["--preset", "part5", "--n-embd", 8, "--n-embd2", 16, "--max-steps", 900],
    "lstm": ["--type", "lstm", "--n-embd", 4, "--n-embd2", 8, "--max-steps", 601],
    "transformer": [
        *("--type", "transformer", "--n-embd", 8, "--n-layer", 1, "--n-head", 2),
        *("--max-steps", 601),
    ],
    "microgpt": ["--preset", "microgpt", "--max-steps", 800],
    "text": [
        *("--preset", "text-gru", "--n-embd", 4, "--n-embd2", 8, "--block-size", 8),
        *("--max-steps", 901),
    ],
}  # fmt: skip
STATUSES = (0, 2, 3, 129, 130, 143)


def lines(text):
    """The whole lines of what a run printed, without the times."""
    text = text[: text.rfind("\n") + 1]
    return re.sub(r"time \d+\.\d+ms|saving model to .*", "", text).splitlines()


class Undisturbed:
    """A run that nobody disturbs, and what it takes to compare another one with it."""

    def __init__(self, name, folder):
        self.flags, self.folder = ["train", "-q", "--save-every", 20, *MODELS[name]], folder
        words = folder.with_name("words.txt")
        words.write_text(WORDS)
        self.flags += ["-i", words]
        began = time.perf_counter()
        self.printed = lines(good(*self.flags, "-o", folder).stdout)
        self.seconds = time.perf_counter() - began
        self.words = good("sample", folder, "-n", 20).stdout

    def compare(self, folder, printed):
        """printed: the lines of each part of the run in `folder`."""
        same_runs(self.folder, folder)
        assert good("sample", folder, "-n", 20).stdout == self.words
        reached = 0
        for part in printed:
            at = next(k for k in range(reached, -1, -1) if self.printed[k : k + len(part)] == part)
            reached = max(reached, at + len(part))
        assert reached == len(self.printed)


def disturbed(run, folder, disturb, rng):
    """Start the run and disturb it, again and again until it ends -> how often it was.

    disturb(process, wait) may wait for so many seconds and send what it likes; it returns what the
    exit status may be.
    """
    printed, times = [], 0
    next_command = command(*run.flags, "-o", folder)
    while True:
        with subprocess.Popen(
            next_command,
            shell=isinstance(next_command, str),
            preexec_fn=heed_signals,
            env=ENVIRONMENT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            status = disturb(process, rng.uniform(0, 0.7 * run.seconds))
            out, err = process.communicate()
        assert process.returncode in (0, *status), (process.returncode, out, err)
        assert "Traceback" not in err and "Warning" not in err and "Exception" not in err, err
        printed.append(lines(out))
        if process.returncode == 0:
            run.compare(folder, printed)
            return times
        times += 1
        interrupted = re.findall(r"^npnet: interrupted.*", err, re.M)
        if process.returncode > 128:
            assert len(interrupted) == 1, err
        hint = re.search(r"to go on: (.*)$", err, re.M) or _refused(run, folder)
        next_command = f"exec {hint[1]}" if hint else command(*run.flags, "-o", folder)


def _refused(run, folder):
    """The hint for a folder in which a run was killed before it could say anything."""
    if not (folder / "last.npz").exists():
        return None
    done = subprocess.run(
        command(*run.flags, "-o", folder), env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    return re.search(r"to go on: (.*)$", done.stderr, re.M)


def kill(process, wait):
    time.sleep(wait)
    process.kill()
    return [-signal.SIGKILL]


def _listens(pid):
    """Whether npnet has taken the signals. Until then Python answers them, by a traceback."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is None or int(caught[1], 16) >> (signal.SIGTERM - 1) & 1


def interrupt(rng):
    def disturb(process, wait):
        while process.poll() is None and not _listens(process.pid):
            time.sleep(0.001)
        time.sleep(wait)
        numbers = [rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])]
        if rng.random() < 0.4:
            numbers.append(rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))
        for number in numbers:
            process.send_signal(number)
            time.sleep(rng.choice([0, 0.0005]))
        # -n: the second of two may come when the first has been obeyed, and Python is ending.
        return [s for n in numbers for s in (128 + n, -n)]

    return disturb


def fill(rng):
    """No room for a while: RLIMIT_FSIZE, which a file cannot grow beyond, stands for the disk."""

    def disturb(process, wait):
        time.sleep(wait)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (rng.choice([0, 700, 4000]), -1))
        time.sleep(rng.uniform(0, 0.3))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        return [2]

    return disturb


def survive(kind, n, seed=0, report=print):
    """Disturb runs of all models in turn, n times or more."""
    rng = random.Random(seed)
    disturb = {"kills": kill, "signals": interrupt(rng), "disks": fill(rng)}[kind]
    total = 0
    with tempfile.TemporaryDirectory() as place:
        runs = {}
        attempt = 0
        while total < n:
            name = list(MODELS)[attempt % len(MODELS)]
            if name not in runs:
                runs[name] = Undisturbed(name, Path(place) / name)
            folder = Path(place) / f"{name}-{attempt}"
            times = disturbed(runs[name], folder, disturb, rng)
            total += times if kind != "disks" else 1
            attempt += 1
            shutil.rmtree(folder)
            report(f"{kind}: {name} survived {times}; {total} of {n}")
    return total


def writers(n, seed=0, report=print):
    """A second run in the folder of a first, with every combination of flags, changes nothing."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        run = Undisturbed("part3", Path(place) / "whole")
        refused = 0
        while refused < n:
            folder = Path(place) / "out"
            shutil.rmtree(folder, ignore_errors=True)
            with start(*run.flags, "-o", folder, stdout=subprocess.PIPE) as process:
                while not (folder / "last.npz").exists():
                    time.sleep(0.005)
                while process.poll() is None and refused < n:
                    more = rng.choice([[], ["--resume"], ["--overwrite"]])
                    flags = ["train", "-o", folder] if more == ["--resume"] else run.flags
                    second = start(*flags, *more, "-o", folder)
                    text = second.communicate()[1]
                    if process.poll() is not None:
                        break
                    if "another run is at work" not in text:
                        process.wait(1)  # it has left the folder, and is about to end
                        break
                    assert second.returncode == 2, text
                    refused += 1
                out, err = process.communicate()
            if "--overwrite" not in more:
                assert process.returncode == 0, err
                run.compare(folder, [lines(out)])
        report(f"writers: {refused} refused")
    return refused


# ---- any list of arguments

TEXTS = [
    *("", " ", "-", "--", "-1", "0", "1", "2", "3", "1.5", "-0", "+3", "1e3", "1e-45", "1e308"),
    *("nan", "inf", "-inf", "99999999999", "1" * 30, "9" * 5000, "0x10", "1_000", "٣", "²"),
    *("a\nb", "\x1b[31m", "é", "\udcff", "a" * 300, "a" * 5000, "%s", "{}", "$HOME", "~", "."),
    *("/", "/dev/null", "/dev/full", "/dev/zero", "/proc/self/mem", "/nowhere/x", "part3", "rnn"),
]  # fmt: skip
FLAGS = {
    "train": [
        *("-i", "-o", "--preset", "--type", "--max-steps", "--seed", "-b", "-l", "-w", "-n"),
        *("--n-layer", "--n-head", "--n-embd", "--n-embd2", "--top-k", "--device"),
        *("--save-every", "--input-file", "--work-dir", "--batch-size", "--learning-rate"),
        *("--text", "--text", "--block-size"),
    ],
    "sample": ["-n", "--prompt", "--temperature", "--top-k", "--seed", "-i", "--num-samples"],
    "diagnose": ["-i", "--preset", "--max-steps", "--plot"],
    "evaluate": ["-i"],
    "compare": ["-o"],
    "plot": ["-o", "-i", "--format", "--word"],
    "export": [],
}  # fmt: skip
SWITCHES = {
    "train": ["--resume", "--overwrite", "--sample-only"],
    "evaluate": ["--per-word"],
    "export": ["--overwrite"],
}
USUAL = {
    "--preset": [
        *("part1", "part3", "part3-deep", "part4", "part5", "microgpt", "makemore-gru"),
        *("part7-bigram", "text-gru"),
    ],
    "--type": ["bigram", "mlp", "bow", "rnn", "gru", "lstm", "transformer"],
    "--device": ["cpu"],
    "--prompt": ["jo", "an", "x", "-"],
    "--word": ["jo", "an", "x"],
    "--format": ["png", "svg"],
    "--temperature": ["0", "0.5", "2"],
    "-l": ["0.1", "1e-3", "1e6", "1e30"],
}


def random_arguments(rng, place):
    """A list of arguments, mostly sensible in each of its parts, which rarely fit together."""
    name = rng.choice(
        ["train"] * 8 + ["sample"] * 4 + ["evaluate", "compare", "plot", "export"] * 2
        + ["diagnose", "fly", "--version", "--help"]
    )  # fmt: skip
    files = [str(place / f) for f in ("words.txt", "bytes.txt", "few.txt", "fifo", "missing")]
    folders = [str(place / f) for f in ("run", "gru", "text", "new", "a b", "words.txt/x")]
    arguments = [name]
    models = [*folders, *folders, str(place / "run" / "last.npz"), "", "x"]
    if name in ("sample", "evaluate", "plot", "export", "compare"):
        arguments.append(rng.choice(models))
    if name in ("export", "compare"):
        arguments.append(rng.choice([*models, str(place / "gru.safetensors"), "a.png"]))
    for _ in range(rng.choice([0, 1, 1, 2, 3, 5])):
        if SWITCHES.get(name) and rng.random() < 0.2:
            arguments.append(rng.choice(SWITCHES[name]))
            continue
        flag = rng.choice(FLAGS.get(name) or ["--fly"])
        usual = USUAL.get(flag, ["1", "2", "4", "8", "32"])
        if flag in ("-i", "--input-file", "--text"):
            usual = files
        if flag == "--text" and rng.random() < 0.2:
            arguments.append(flag)
            continue
        elif flag in ("-o", "--work-dir", "--plot"):
            usual = folders
        arguments += [flag, rng.choice(usual if rng.random() < 0.7 else TEXTS)]
    if name in ("train", "diagnose") and rng.random() < 0.8:
        arguments += ["--max-steps", rng.choice(["1", "3", "20"])]
    return [a for a in arguments if "\0" not in a]


def outcome(arguments, place, patience=3.0):
    """status, stdout and stderr of the command in a fork of this process, which has imported
    everything; after `patience` seconds it gets a SIGTERM."""
    from npnet import cli, commands, diagnose  # noqa: F401
    from npnet.__main__ import run

    out, err = (open(place / f"{name}.txt", "w+", errors="replace") for name in ("out", "err"))  # noqa: SIM115
    child = os.fork()
    if child == 0:
        os.chdir(place)
        heed_signals()
        resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number, file in enumerate((out, err), 1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        sys.argv = ["npnet", *arguments]
        try:
            status = run()
        except SystemExit as ended:
            status = ended.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    handle = os.pidfd_open(child)
    if not select.select([handle], [], [], patience)[0]:
        os.kill(child, signal.SIGTERM)
        if not select.select([handle], [], [], 20 * patience)[0]:
            os.kill(child, signal.SIGKILL)
    os.close(handle)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    texts = []
    for file in (out, err):
        file.seek(0)
        texts.append(file.read(1 << 20))
        file.close()
    return status, *texts


def arguments(n, seed=0, report=print):
    """n random lists of arguments: a documented status, at most one line of complaint."""
    rng = random.Random(seed)
    counts = dict.fromkeys(STATUSES, 0)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "words.txt").write_text(WORDS)
        (place / "few.txt").write_text("anna\nbob\n")
        (place / "bytes.txt").write_bytes(rng.randbytes(1000))
        os.mkfifo(place / "fifo")
        kept = ["-i", place / "words.txt", "--max-steps", 5, "-q"]
        good("train", *kept, "-o", place / "run")
        good("train", *kept, "-o", place / "gru", "--type", "gru", "--n-embd", 4)
        good("train", *kept, "-o", place / "text", "--preset", "text-gru", "--n-embd", 4)
        for k in range(n):
            given = random_arguments(rng, place)
            status, out, err = outcome(given, place)
            counts[status] = counts.get(status, 0) + 1
            assert status in STATUSES, (given, status, out, err)
            assert "Traceback" not in err and "Warning" not in err, (given, err)
            complaints = [line for line in err.splitlines() if line.startswith("npnet")]
            if status == 2:
                assert len(err.splitlines()) == len(complaints) == 1, (given, err)
            elif status:
                assert len([c for c in complaints if "saved to" not in c]) == 1, (given, err)
            if k % 100 == 99:
                report(f"arguments: {k + 1} of {n}, {counts}")
    return counts


def memory(steps=200_000, report=print):
    """The resident memory of three models over 200,000 steps, at a tenth of them and in the end."""
    small = {"lstm": ["--n-embd", 4, "--n-embd2", 8], "transformer": ["--n-embd", 8]}
    small["transformer"] += ["--n-layer", 1, "--n-head", 2]
    found = {}
    with tempfile.TemporaryDirectory() as place:
        words = Path(place) / "words.txt"
        words.write_text(WORDS)
        for name in ("mlp", "lstm", "transformer"):
            flags = ["--type", name, *small.get(name, ["--n-embd", 8]), "-b", 4]
            flags += ["-i", words, "--max-steps", steps, "-o", Path(place) / name, "-q"]
            with start("train", *flags, stdout=subprocess.PIPE) as process:
                sizes = []
                for line in process.stdout:
                    step = re.match(r"step (\d+) \| loss", line)
                    if step and int(step[1]) % (steps // 10) == 0:
                        status = Path(f"/proc/{process.pid}/status").read_text()
                        sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024)
            found[name] = sizes
            report(f"memory: {name}, MB at each tenth of {steps:,} steps: {sizes}")
    return found


def lists(n, report=print):
    """Seconds of processor time and MB that each model has taken when it prints the loss of its
    first step on n words; part1 takes no step, and prints when it has counted."""
    rng = random.Random(0)
    names = WORDS.split("\n")
    presets = [
        name
        for name, preset in PRESETS.items()
        if name.startswith(("part", "microgpt")) and preset.data.name == "words"
    ]
    flags = {name: ["--preset", name] for name in presets} | {"notebook": ["--max-steps", 10]}
    flags |= {name: ["--type", name] for name in USUAL["--type"]}
    found = {}
    with tempfile.TemporaryDirectory() as place:
        words = Path(place) / "words.txt"
        words.write_text("\n".join(rng.choice(names) + rng.choice(names)[:3] for _ in range(n)))
        report(f"lists: {n:,} words, {words.stat().st_size / 1e6:.1f} MB")
        for name, given in flags.items():
            found[name] = until_it_prints("train", "-q", "-i", words, *given)
            report("lists: {:<12} {:5.2f} s  {:5} MB".format(name, *found[name]))
    return found


def texts(n, report=print):
    """The same for each model of running text, which prints before its first step, on npnet's play
    again and again, n bytes of it or a little more."""
    found = {}
    with tempfile.TemporaryDirectory() as place:
        text = Path(place) / "text.txt"
        with open(text, "wb") as file:
            while file.tell() < n:
                file.write(PLAY.read_bytes())
        report(f"texts: {text.stat().st_size:,} bytes")
        for name in (name for name in PRESETS if name.startswith("text-")):
            found[name] = until_it_prints("train", "-q", "--text", text, "--preset", name)
            report("texts: {:<16} {:5.2f} s  {:5} MB".format(name, *found[name]))
    return found


def until_it_prints(*arguments):
    """Seconds of processor time and MB that a command has taken when it prints its first line."""
    with start(*arguments, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        stat = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        status = Path(f"/proc/{process.pid}/status").read_text()
        process.kill()
    seconds = (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")
    return seconds, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) // 1000


if __name__ == "__main__":
    what, *number = sys.argv[1:]
    whole = {
        "writers": writers, "arguments": arguments, "memory": memory, "lists": lists,
        "texts": texts,
    }  # fmt: skip
    if what in whole:
        whole[what](*map(int, number))
    else:
        survive(what, int(number[0]))
