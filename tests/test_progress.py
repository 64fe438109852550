"""The progress line, signals noted and raised, and an output that fails."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest
from command_line import ENVIRONMENT, command, good, start

from npnet.progress import Console, Interrupted, Output, Progress, Stage


def test_a_line_says_what_how_far_and_how_long():
    stage = Stage("step", 80_000, unit="steps", detail=lambda: "loss 2.1921")
    stage.began = 0.0
    assert stage.line(1.0) == "step 0/80,000"
    stage.advance(20_000)
    assert stage.line(2.0) == "step 20,000/80,000  loss 2.1921  10,000 steps/s  6 s left"
    assert stage.line(400.0).endswith("50 steps/s  20 min left")
    assert stage.line(4e4).endswith("2.0 s each  33 h 20 min left")
    stage = Stage("step", None, unit="steps")
    stage.began = 0.0
    stage.advance(500)
    assert stage.line(10.0) == "step 500  50 steps/s  until Ctrl-C"
    stage = Stage("step", 100, start=50, unit="steps")
    stage.began = 0.0
    stage.advance(60)
    assert stage.line(2.0) == "step 60/100  5 steps/s  8 s left"
    assert Stage("reading words.txt").line(9.0) == "reading words.txt"
    stage = Stage("evaluating val")
    stage.began = 0.0
    stage.advance(4096, 8192)
    assert stage.line(3.0) == "evaluating val 4,096/8,192  3 s left"


def test_what_is_short_is_not_worth_a_line():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.stage("short", 3)
    progress.stage("long", 3).began -= 60
    progress.close()
    assert stream.getvalue() == "long 0/3\n"


def test_a_pipe_gets_a_line_now_and_then(names):
    with start("train", "-i", names, "--max-steps", 10**9) as process:
        process.stderr.readline()
        lines = [process.stderr.readline() for _ in range(2)]
        process.terminate()
        rest = process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    steps = [
        int(re.match(r"step ([\d,]+)/1,000,000,000  loss ", line)[1].replace(",", ""))
        for line in lines
    ]
    assert 0 < steps[0] < steps[1]
    assert "interrupted after" in rest


def test_an_endless_run_says_how_it_ends(names):
    with start("train", "-i", names, "--type", "bigram") as process:
        lines = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        process.stderr.read()
    assert lines[2].endswith("until Ctrl-C\n")


def test_quiet_is_quiet(names):
    done = good("train", "-q", "-i", names, "--max-steps", 20000)
    assert done.stderr == ""


@pytest.mark.parametrize("tqdm", [True, False])
def test_a_terminal_is_redrawn_and_left_clean(tqdm, names, tmp_path):
    if tqdm:
        pytest.importorskip("tqdm")
    else:
        (tmp_path / "tqdm.py").write_text("raise ImportError")
    path = f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"
    controller, terminal = pty.openpty()
    with subprocess.Popen(
        command("train", "-i", names, "--max-steps", 8000),
        env=ENVIRONMENT | {"PYTHONPATH": path, "COLUMNS": "60"},
        stdout=terminal,
        stderr=terminal,
    ) as process:
        os.close(terminal)
        text = b""
        while True:
            try:
                text += os.read(controller, 1 << 16)
            except OSError:
                break
    os.close(controller)
    assert process.returncode == 0
    drawn = text.decode()
    assert drawn.count("\r") > 5
    if not tqdm:
        assert re.search(
            r"\rstep [\d,]+/8,000  loss \d\.\d{4}  [\d,]+ steps/s  \d s left\x1b\[K", drawn
        )
    left = [re.sub(r"^.*\r", "", line).replace("\x1b[K", "") for line in drawn.split("\r\n")]
    assert sum(line.startswith("step ") for line in left) == 9
    assert all("steps/s" not in line for line in left)


class Full(io.StringIO):
    """A stream on a disk without room."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def write(self, text):
        raise OSError(28, "No space left on device")

    def fileno(self):
        return self.file.fileno()


def test_an_output_that_fails_is_survived_or_not(tmp_path):
    with open(tmp_path / "file", "w") as file:
        output = Output(Full(file), "standard output", survives=True)
        assert output.write("lost") == 4
        assert output.error.filename == "standard output"
        assert os.fstat(file.fileno()).st_rdev == os.stat(os.devnull).st_rdev
    with open(tmp_path / "file", "w") as file, pytest.raises(OSError, match="No space"):
        Output(Full(file), "standard output").write("lost")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_message_does_not_go_on_where_a_text_is_being_drawn():
    terminal = Terminal()
    progress = Progress(terminal)
    out, err = (Output(terminal, f"standard {name}", progress) for name in ("output", "error"))
    print("", end="", file=out)
    print("npnet: drawn from there", file=err)
    for character in "The bel":
        print(character, end="", file=out)
    print("npnet: interrupted", file=err)
    print("out again", file=out)
    assert terminal.getvalue().splitlines() == [
        "npnet: drawn from there", "The bel", "npnet: interrupted", "out again"
    ]  # fmt: skip


def test_a_signal_is_noted_until_it_may_be_raised():
    with Console() as console:
        with pytest.raises(Interrupted) as found, console.deferred():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
            assert console.signal == signal.SIGTERM
        assert found.value.number == signal.SIGTERM
        signal.raise_signal(signal.SIGTERM)  # what has just been raised is not raised again
        console.close()
        console._since -= 5
        signal.raise_signal(signal.SIGTERM)  # nor is anything after the end
    with Console() as console, pytest.raises(Interrupted, match="interrupted"):
        signal.raise_signal(signal.SIGHUP)


def test_a_second_signal_a_second_later_does_not_wait():
    reached = []
    with Console() as console, pytest.raises(Interrupted), console.deferred():
        signal.raise_signal(signal.SIGTERM)
        reached.append("after the first")
        console._since -= 5
        signal.raise_signal(signal.SIGTERM)
        reached.append("after the second")
    assert reached == ["after the first"]


def test_a_signal_in_a_destructor_is_not_lost(capsys):
    class Dying:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with Console() as console, pytest.raises(Interrupted) as found:
        Dying()
        for _ in range(500):
            time.sleep(0.01)
    assert found.value.number == console.signal == signal.SIGTERM
    assert capsys.readouterr().err == ""


def test_streams_and_signals_are_given_back():
    def taken():
        return sys.stdout, sys.stderr, sys.unraisablehook, signal.getsignal(signal.SIGINT)

    before = taken()
    with Console():
        assert all(one != other for one, other in zip(before, taken(), strict=True))
    assert taken() == before


def test_a_second_signal_at_the_very_end_says_nothing_more(names):
    """The first comes while a run goes on, the second when main has given the signals back."""
    script = f"""
import signal, sys, threading
from npnet import __main__ as entry, cli

def main(run=cli.main):
    threading.Timer(1.0, signal.raise_signal, [signal.SIGTERM]).start()
    run()
    signal.raise_signal(signal.SIGINT)

cli.main = main
sys.argv = ["npnet", "train", "-q", "--type", "bigram", "-i", {str(names)!r}]
entry.run()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert re.fullmatch(r"npnet: interrupted after [\d,]+ steps\n", done.stderr)


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_signal_ends_start_up_too(delay, names):
    """Whatever is being imported or read: no traceback, and the status that belongs to it. Before
    Python runs a line of ours the signal ends the process itself."""
    with start("train", "-i", names, "--preset", "part3") as process:
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        text = process.stderr.read()
    assert process.returncode in (143, -signal.SIGTERM)
    assert "Traceback" not in text
    assert process.returncode < 0 or text.splitlines()[-1].startswith("npnet: interrupted")
