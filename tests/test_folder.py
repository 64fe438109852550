"""A run's folder: what is saved when, resumed how, and refused why; whatever ends the process."""

import contextlib
import math
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from command_line import (
    ENVIRONMENT,
    WORDS,
    bad,
    command,
    good,
    history,
    npnet,
    same_runs,
    start,
)

from npnet import checkpoint
from npnet.data import read_words
from npnet.folder import COLUMNS, Folder, History, open_model
from npnet.presets import PRESETS, named, restored
from npnet.train import Diverged

# ---- resume

RESUMED = {
    "part3": ["--preset", "part3"],
    "part5": ["--preset", "part5", "--n-embd", 4, "--n-embd2", 6],
    "transformer": ["--type", "transformer", "--n-embd", 8, "--n-layer", 1, "--n-head", 2],
    "lstm": ["--type", "lstm", "--n-embd", 4, "--n-embd2", 4],
    "microgpt": ["--preset", "microgpt"],
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(name, names, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ["train", "-i", names, *RESUMED[name]]
    # past the first samples, which draw from the run's generator
    steps = 220 if name == "transformer" else 40
    good(*flags, "-o", whole, "--max-steps", steps)
    good(*flags, "-o", parts, "--max-steps", 7)
    good(*flags, "-o", parts, "--max-steps", 13, "--resume")
    good("train", "-o", parts, "--max-steps", steps, "--resume")
    same_runs(whole, parts)


def test_a_resumed_run_keeps_the_best_model(names, tmp_path):
    good("train", "--type", "bigram", "-i", names, "-o", tmp_path, "--max-steps", 501)
    first = (tmp_path / "model.npz").read_bytes()
    good("train", "-o", tmp_path, "--resume", "--max-steps", 520)
    assert (tmp_path / "model.npz").read_bytes() == first


def test_resuming_a_finished_run_says_at_which_rate(names, tmp_path):
    """The rate has dropped at the half of the first --max-steps, and stays there."""
    good("train", "-i", names, "-o", tmp_path / "out", "--max-steps", 20)
    done = good("train", "-o", tmp_path / "out", "--resume", "--max-steps", 40)
    assert "from step 20 to 40, learning rate 0.01\n" in done.stderr
    good("train", "-i", names, "-o", tmp_path / "gpt", "--preset", "microgpt", "--max-steps", 5)
    done = good("train", "-o", tmp_path / "gpt", "--resume", "--max-steps", 1002)
    assert "from step 5 to 1,002, learning rate 0.00995, at the end 0\n" in done.stderr


def test_the_words_may_have_moved(names, tmp_path):
    moving, out = tmp_path / "moving.txt", tmp_path / "out"
    moving.write_text(WORDS, encoding="utf-8")
    good("train", "-i", moving, "-o", out, "--max-steps", 5)
    moving.unlink()
    bad("train", "-o", out, "--resume", "--max-steps", 6, says="-i FILE finds them")
    good("train", "-o", out, "--resume", "--max-steps", 6, "-i", names)


def test_resuming_refuses_other_words_and_settings(names, tmp_path):
    out = tmp_path / "out"
    good("train", "-i", names, "--type", "bigram", "-o", out, "--max-steps", 12)
    resume = ["train", "-o", out, "--resume"]
    other = tmp_path / "other.txt"
    other.write_text(WORDS[:-1], encoding="utf-8")
    bad(*resume, "-i", other, says="another list of words")
    bad(*resume, "--seed", 1, says="other settings")
    bad(*resume, "-b", 8, says="other settings")
    bad(*resume, "--type", "rnn", says="no flag can change")
    bad(*resume, "--preset", "part3", says="no flag can change")
    bad(*resume, "--max-steps", 5, says="before step 12")
    good(*resume, "--max-steps", 12, "-b", 32)
    bad("train", "--resume", says="--work-dir")
    bad("train", "--overwrite", says="--work-dir")
    bad("train", "--save-every", 4, says="--work-dir")
    bad("train", "--sample-only", says="--work-dir")
    bad(*resume, "--overwrite", says="exclude each other")
    bad(*resume, "--sample-only", says="exclude each other")
    bad("train", "--resume", "-o", tmp_path / "nothing", says="no run to resume")
    only = ["train", "-o", out, "--sample-only"]
    bad(*only, "--max-steps", 3, says="--max-steps has no meaning")
    bad(*only, "-b", 3, says="other settings")
    bad(*only, "--type", "gru", says="no flag can change")
    good(*only, "--type", "bigram", "-b", 32, "--seed", 3, "--top-k", 2, "-n", 4)
    assert not (tmp_path / "nothing").exists()


def test_a_folder_with_a_run_is_not_overwritten_by_accident(names, tmp_path):
    out = tmp_path / "a folder"
    flags = ["train", "-i", names, "--max-steps", 5, "-o", out]
    good(*flags)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    said = bad(*flags, says="--overwrite replaces it")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    hint = said.partition("to go on: ")[2].strip()
    assert hint == f"{sys.executable} -m npnet train -o {shlex.quote(str(out))} --resume"
    done = subprocess.run(hint, shell=True, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    good(*flags, "--overwrite", "--type", "bigram")
    assert open_model(out).preset.name == "makemore-bigram"
    assert history(out)[-1].startswith("0,3.")


@pytest.mark.parametrize("name", ["-o", "--help", "it's", "a b", "~", "$HOME", "née"])
def test_the_hint_can_be_pasted_for_any_folder(name, names, tmp_path):
    good("train", "-i", names, "--max-steps", 3, f"-o={name}", cwd=tmp_path)
    hint = bad("train", f"-o={name}", cwd=tmp_path).partition("to go on: ")[2]
    where = {"shell": True, "cwd": tmp_path, "env": ENVIRONMENT, "capture_output": True}
    done = subprocess.run(hint.strip(), text=True, **where)
    assert done.returncode == 0, done.stderr


# ---- interrupts


def interrupt(*arguments, number=signal.SIGINT, times=1):
    """Start the command, send the signal once it trains -> status, stderr."""
    with start(*arguments) as process:
        first = process.stderr.readline()  # printed just before the loop
        time.sleep(0.5)
        for _ in range(times):
            process.send_signal(number)
        rest = process.stderr.read()
    return process.returncode, first + rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_says_how_to_go_on(number, names, tmp_path):
    out = tmp_path / "out"
    flags = ["train", "-i", names, "--preset", "part3"]
    status, text = interrupt(*flags, "-o", out, number=number, times=3)
    assert status == 128 + number
    assert "Traceback" not in text
    assert sorted(path.name for path in out.iterdir()) == [".lock", "history.csv", "last.npz"]
    done = int(re.search(r"interrupted after ([\d,]+) steps", text).group(1).replace(",", ""))
    assert done > 0
    assert text.endswith(f"; to go on: {sys.executable} -m npnet train -o {out} --resume\n")
    steps = done + 20
    good("train", "-o", out, "--resume", "--max-steps", steps)
    good(*flags, "-o", tmp_path / "whole", "--max-steps", steps)
    same_runs(tmp_path / "whole", out)


def test_the_main_job_goes_on_with_its_own_schedule(names, tmp_path):
    """Its rate drops at the half of --max-steps, which the resumed run must remember."""
    flags = ["train", "-i", names, "--max-steps", 20000]
    interrupt(*flags, "-o", tmp_path / "out")
    resumed = good("train", "-o", tmp_path / "out", "--resume")
    whole = good(*flags, "-o", tmp_path / "whole")
    assert whole.stdout.endswith(resumed.stdout)
    assert resumed.stdout.count("\n") >= 23
    same_runs(tmp_path / "whole", tmp_path / "out")


def test_interrupted_without_a_folder(names):
    status, text = interrupt("train", "-i", names, "--preset", "part3")
    assert status == 128 + signal.SIGINT
    assert re.search(r"^npnet: interrupted after [\d,]+ steps$", text, re.M)


def test_an_ignored_signal_stays_ignored(names, tmp_path):
    """As under nohup."""
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with start("train", "-i", names, "--max-steps", 4000, "-o", tmp_path, **ignore) as process:
        process.stderr.readline()
        process.send_signal(signal.SIGHUP)
        process.stderr.read()
    assert process.returncode == 0


def test_an_interrupted_final_evaluation_has_kept_the_model(tmp_path):
    """Nothing is printed before the model is safe."""
    words = tmp_path / "many.txt"
    words.write_text("\n".join(a + b for a in read_words() for b in ("", "lein", "ov")))
    out = tmp_path / "out"
    flags = ["train", "-i", words, "-o", out, "--preset", "part4", "--max-steps", 3, "-q"]
    with start(*flags) as process:
        while not (out / "model.npz").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        text = process.stderr.read()
    assert process.returncode in (130, 0)  # 0: it was too late
    assert "Traceback" not in text
    assert len(good("sample", out, "-n", 3, "-q").stdout.splitlines()) == 3


# ---- output that fails


@pytest.mark.parametrize(
    ("redirected", "status"),
    [
        ("| head -1", 0),
        ("> /dev/full", 2),
        ("2> /dev/full", 0),
        ("2>&-", 0),
        (">&- 2>&-", 0),
        ("<&- >&-", 0),
        ("2>&1 | head -1", 0),
    ],
)
def test_trouble_with_output_loses_no_model(redirected, status, names, tmp_path):
    out = tmp_path / "out"
    flags = shlex.join(command("train", "-i", names, "-o", out, "--preset", "part3"))
    line = f"set -o pipefail; {flags} --max-steps 200 {redirected}"
    done = subprocess.run(
        ["bash", "-c", line], env=ENVIRONMENT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == status
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
    good("train", "-i", names, "-o", tmp_path / "whole", "--preset", "part3", "--max-steps", 200)
    same_runs(out, tmp_path / "whole")


def test_an_endless_run_ends_when_its_reader_has_gone(names, tmp_path):
    flags = shlex.join(command("train", "-i", names, "-o", tmp_path / "out", "--type", "bigram"))
    done = subprocess.run(
        ["bash", "-c", f"{flags} | head -1"], env=ENVIRONMENT, capture_output=True, timeout=100
    )
    assert done.returncode == 0
    assert open_model(tmp_path / "out").step > 0


def test_drawing_ends_when_its_reader_has_gone(trained):
    flags = shlex.join(command("sample", trained, "-n", 10**11))
    line = f"set -o pipefail; {flags} | head -2"
    done = subprocess.run(
        ["bash", "-c", line], env=ENVIRONMENT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0 and done.stdout.count("\n") == 2 and done.stderr == ""


# ---- the disk, and a second run


def test_a_full_disk_is_said_and_the_save_tried_again(names, tmp_path):
    """RLIMIT_FSIZE stands for the full disk: a file cannot grow beyond it."""
    out = tmp_path / "out"
    flags = ["train", "-i", names, "--preset", "part3", "--max-steps", 3000, "--save-every", 50]
    with start(*flags, "-o", out) as process:
        lines = [process.stderr.readline()]
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1000, -1))
        while "warning" not in lines[-1]:
            lines.append(process.stderr.readline())
        listed = sorted(path.name for path in out.iterdir())
        good("sample", out, "-n", 2)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (-1, -1))
        rest = process.stderr.read()
    assert process.returncode == 0, rest
    assert str(out) in lines[-1] and "File too large" in lines[-1]
    assert listed == [".lock", "history.csv", "last.npz"]
    good(*flags, "-o", tmp_path / "whole")
    same_runs(tmp_path / "whole", out)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(names, tmp_path):
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, -1))}
    with start("train", "-i", names, "--max-steps", 5, "-o", tmp_path, **limit) as process:
        text = process.stderr.read()
    assert process.returncode == 2
    assert text.count("\n") == 1 and "File too large" in text and str(tmp_path) in text
    assert {path.name for path in tmp_path.iterdir()} <= {".lock", "history.csv"}


def test_a_file_is_no_folder(names):
    bad("train", "-i", names, "-o", names, says=f"{names}: Not a directory")
    bad("train", "-i", names, "-o", names / "x", says=f"{names / 'x'}: Not a directory")


def test_a_second_run_in_a_folder_is_refused_while_the_first_lives(names, tmp_path):
    out = tmp_path / "out"
    first = ["train", "-i", names, "--preset", "part3", "-o", out]
    with start(*first) as process:
        process.stderr.readline()
        for flags in (first, [*first, "--overwrite"], ["train", "-o", out, "--resume"]):
            bad(*flags, says="another run is at work")
        assert len(good("sample", out, "-n", 3).stdout.splitlines()) == 3
        process.kill()
        process.stderr.read()
    good("train", "-o", out, "--resume", "--max-steps", 30)


# ---- losses that are no numbers


def test_a_loss_that_is_not_finite_stops_the_run(names, tmp_path):
    flags = ["train", "-i", names, "--type", "rnn", "--max-steps", 60, "-l", "1e6", "-o", tmp_path]
    done = npnet(*flags)
    assert done.returncode == 3
    assert "Warning" not in done.stderr
    assert re.search(
        r"^npnet: the loss is (nan|inf) at step \d+, learning rate 1e\+06; the last good "
        rf"checkpoint is {tmp_path}/last.npz, of step 0; try a lower --learning-rate$",
        done.stderr,
        re.M,
    )
    assert len(good("sample", tmp_path, "-n", 2).stdout.splitlines()) == 2


@pytest.mark.parametrize("flags", [[], ["--type", "gru"], ["--preset", "part3"]])
@pytest.mark.parametrize("steps", [1, 2, 3, 30])
def test_whatever_the_rate_a_run_ends_as_documented(flags, steps, names):
    done = npnet("train", "-i", names, "-l", "1e30", "--max-steps", steps, *flags)
    assert done.returncode in (0, 3)
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert done.returncode == 0 or done.stderr.splitlines()[-1].startswith("npnet: ")


def test_a_loss_that_explodes_is_said_at_the_end(names):
    assert (
        "npnet: the loss rose from"
        in good("train", "-i", names, "--max-steps", 60, "-l", "1e10").stderr
    )
    assert "rose" not in good("train", "-i", names, "--max-steps", 60).stderr


@contextlib.contextmanager
def begun(path, name="part3", **settings):
    """A run on a hundred words and its open folder."""
    words = read_words()[:100]
    run = replace(PRESETS[name], **settings).prepare(words)
    source = path / "words.txt"
    source.write_text("\n".join(words))
    with Folder(path) as folder:
        folder.begin(run, words, source)
        yield run, folder


def test_no_checkpoint_is_overwritten_by_one_that_is_not_finite(tmp_path):
    with begun(tmp_path) as (run, folder):
        before = (tmp_path / "last.npz").read_bytes()
        run.model.data[5] = math.inf
        for save in (folder.save, folder.keep):
            with pytest.raises(Diverged, match="after 3 steps"):
                save(run, 3)
    assert (tmp_path / "last.npz").read_bytes() == before
    assert not (tmp_path / "model.npz").exists()


def test_a_best_model_that_could_not_be_kept_is_kept_by_a_later_save(tmp_path):
    """Until then last.npz stays before it, from where a resumed run finds it again."""
    with begun(tmp_path, "makemore-bigram") as (run, folder):
        in_the_way = tmp_path / "model.npz.unfinished"
        in_the_way.mkdir()
        run.best = 2.5
        best = run.model.data.copy()
        assert folder.keep_best(run, 501).filename == str(tmp_path / "model.npz")
        assert folder.keep_best(run, 501) is None  # said once
        run.model.data += 1
        with pytest.raises(OSError, match=r"model\.npz"):
            folder.save(run, 600)
        assert checkpoint.load(tmp_path / "last.npz").meta["step"] == 0
        in_the_way.rmdir()
        folder.save(run, 700)
    kept, last = (checkpoint.load(tmp_path / name) for name in ("model.npz", "last.npz"))
    assert (kept.meta["step"], last.meta["step"]) == (501, 700)
    assert np.array_equal(kept.model.data, best)
    assert np.array_equal(last.model.data, best + 1)


# ---- history.csv


def test_the_history_has_the_losses_the_rate_and_the_time(names, tmp_path):
    good("train", "-i", names, "-o", tmp_path, "--max-steps", 40)
    header, *lines = (tmp_path / "history.csv").read_text().splitlines()
    assert header == COLUMNS
    rows = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    assert [int(row["step"]) for row in rows] == list(range(41))
    assert [row["learning_rate"] for row in rows[:40]] == ["0.1"] * 20 + [
        "0.010000000000000002"
    ] * 20
    assert [k for k, row in enumerate(rows) if row["val_loss"]] == [*range(3, 39, 4), 40]
    assert rows[-1]["train_loss"] and rows[-1]["test_loss"] and not rows[-1]["batch_loss"]
    seconds = [float(row["seconds"]) for row in rows]
    assert seconds == sorted(seconds) and seconds[0] >= 0


def test_a_rank_that_writes_nothing_gathers_no_history(tmp_path):
    with begun(tmp_path) as (run, folder):
        folder.writes = False
        folder.record(run, 0, 3.3)
        assert folder.history.pending == []


def test_the_history_is_cut_back_to_where_the_run_goes_on(tmp_path):
    path = tmp_path / "history.csv"
    one = History(path, 0)
    for step in range(5):
        one.add([str(step), "3.5"])
    one.write()
    for damage in ("", "5,2", "5,2.5\n6,1\n", "\0\xff\n"):
        path.write_text(path.read_text() + damage)
        other = History(path, 4)
        other.add(["4", "2.5"])
        other.write()
        assert path.read_text() == f"{COLUMNS}\n0,3.5\n1,3.5\n2,3.5\n3,3.5\n4,2.5\n"
    History(path, 0).write()
    assert path.read_text() == f"{COLUMNS}\n"


@pytest.mark.parametrize("name", ["history.csv", ".lock", "last.npz"])
def test_a_pipe_in_the_folder_is_not_waited_for(name, names, tmp_path):
    good("train", "-i", names, "-o", tmp_path, "--max-steps", 3)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    bad("train", "-o", tmp_path, "--resume", says=f"{tmp_path / name}: ")
    if name != "last.npz":
        bad("train", "-o", tmp_path, "--overwrite", "-i", names, says=f"{tmp_path / name}: ")


def test_a_history_that_could_not_be_written_is_made_whole_by_the_next_write(tmp_path):
    path = tmp_path / "history.csv"
    one = History(path, 0)
    one.add(["0", "3.5"])
    one.write()
    with open(path, "a") as file:
        file.write("1,")  # as far as the disk had room
    one.add(["1", "3.4"])
    one.write()
    assert path.read_text() == f"{COLUMNS}\n0,3.5\n1,3.4\n"
    path.unlink()
    one.add(["2", "3.3"])
    one.write()
    assert path.read_text() == f"{COLUMNS}\n2,3.3\n"


# ---- which model a folder gives


def test_a_folder_gives_the_model_of_the_newest_run(tmp_path):
    with begun(tmp_path, "part4", stop=4) as (run, folder):
        assert open_model(tmp_path).path.name == "last.npz"
        for _ in run.steps():
            pass
        run.settle()
        folder.keep(run, 4)
        assert open_model(tmp_path).path.name == "model.npz"
        run.model.data[0] += 1
        folder.save(run, 6)
    found = open_model(tmp_path)
    assert (found.path.name, found.step) == ("last.npz", 6)
    assert found.model.data[0] == run.model.data[0]
    run.settle()
    norm, settled = (m.network.layers["norm"] for m in (found.model, run.model))
    assert np.array_equal(norm.running_mean, settled.running_mean)
    (tmp_path / "words.txt").unlink()
    with pytest.raises(ValueError, match="-i FILE"):
        open_model(tmp_path)


def test_a_run_of_the_first_version_is_refused_as_such(tmp_path):
    with begun(tmp_path):
        pass
    saved = checkpoint.load(tmp_path / "last.npz")
    del saved.meta["seconds"], saved.meta["settled"]
    checkpoint.save(tmp_path / "last.npz", saved)
    with pytest.raises(ValueError, match=r"or one of npnet 0\.1 \('seconds' is missing\)"):
        open_model(tmp_path)


def test_presets_are_restored_or_refused():
    for preset in (*PRESETS.values(), named("notebook", 50)):
        saved = checkpoint.json.loads(checkpoint.json.dumps(checkpoint.asdict(preset)))
        assert restored(saved) == preset
        for name, value in saved.items():
            for wrong in ([1], {}, "part4", 1.5, True):
                if type(wrong) is not type(value):
                    with pytest.raises(ValueError, match=r"checkpoint|preset"):
                        restored(saved | {name: wrong})
    with pytest.raises(ValueError, match="names no preset"):
        restored([])


def test_signals_are_given_back(names, tmp_path):
    code = (
        "import signal; from npnet.cli import main;"
        "before = [signal.getsignal(n) for n in (1, 2, 15)];"
        f"main(['train', '-i', {str(names)!r}, '--max-steps', '3']);"
        "assert before == [signal.getsignal(n) for n in (1, 2, 15)]"
    )
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, capture_output=True)
