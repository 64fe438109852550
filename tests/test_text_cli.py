"""The commands on running text: what holds of words, and characters as they are drawn."""

import os
import pty
import subprocess

import numpy as np
import pytest
from command_line import (
    ENVIRONMENT,
    bad,
    command,
    good,
    npnet,
    same_runs,
    start,
)

from npnet import checkpoint
from npnet.data import NAMES
from npnet.folder import open_model
from npnet.random import TorchGenerator
from npnet.sample import chooser, continued
from npnet.text import PLAY, read_text

SMALL = ["--n-embd", 8, "--block-size", 16]
RUNS = {
    "gru": ["--type", "gru", *SMALL, "--n-embd2", 8],
    "transformer": ["--type", "transformer", *SMALL, "--n-layer", 1, "--n-head", 2],
    "wavenet": ["--type", "wavenet", *SMALL, "--n-embd2", 8],
    "bigram": ["--preset", "part7-bigram"],
}


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a play.txt"
    path.write_text(PLAY.read_text(encoding="utf-8")[:20_000], encoding="utf-8", newline="")
    return path


@pytest.fixture(scope="session")
def run(text, tmp_path_factory):
    """A work directory to read or to copy."""
    out = tmp_path_factory.mktemp("run") / "out"
    good("train", "--text", text, "-o", out, "--max-steps", 60, *RUNS["transformer"])
    return out


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_uninterrupted_one(name, text, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    flags = ["train", "--text", text, *RUNS[name]]
    good(*flags, "-o", whole, "--max-steps", 210)
    with start(*flags, "-o", parts, "--max-steps", 210, "--save-every", 1) as process:
        while process.poll() is None and not (parts / "last.npz").exists():
            pass
        process.kill()
    good("train", "-o", parts, "--resume")
    same_runs(whole, parts)
    drawn = [good("sample", folder, "-n", 40).stdout for folder in (whole, parts)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 41


def test_the_default_run_needs_no_file(tmp_path):
    done = good("train", "--text", "--max-steps", 3, "-o", tmp_path, cwd=tmp_path)
    assert "gru: " in done.stderr and " characters from play.txt\n" in done.stderr
    assert open_model(tmp_path).meta["input_file"] is None
    good("train", "-o", tmp_path, "--resume", "--max-steps", 4, "--text")
    assert "characters from play.txt" in good("train", "--preset", "part7-bigram", "--max-steps", 1,
                                              cwd=tmp_path).stderr  # fmt: skip


def test_a_published_run_says_that_its_text_is_another(text):
    done = good("train", "--preset", "part7-bigram", "--text", text, "--max-steps", 1)
    assert (
        "the published figures of part7-bigram belong to another text, tinyshakespeare\n"
        in done.stderr
    )
    assert "published" not in good("train", "-i", text, "--preset", "text-gru", *RUNS["gru"][2:],
                                   "--max-steps", 1).stderr  # fmt: skip


def test_what_cannot_be_trained_on_is_one_line(text, run, tmp_path):
    def written(content):
        path = tmp_path / "text.txt"
        path.write_bytes(content)
        return path

    bad("train", "--text", tmp_path, says="Is a directory; expected a UTF-8 text file")
    bad("train", "--text", written(b"abc\xff"), says="byte 0xff at position 3 is not UTF-8")
    bad("train", "--text", written(b""), says="the text is empty")
    says = "600 characters, 540 to train on and 60 held out; with block_size = 64"
    bad("train", "--text", written(b"a\n" * 300), says=says)
    bad("train", "--text", "", says="must not be empty")
    bad("train", "--text", text, "-i", text, says="exclude each other")
    bad("train", "--text", text, "--type", "foo", says="there are bigram, mlp, bow")
    bad("train", "--text", text, "--preset", "part3", says="a list of words")
    bad("train", "--text", text, "--max-steps", 0, says="--max-steps must be at least 1")
    bad("train", "--text", text, "--max-steps", -1, says="--max-steps must be at least 1")
    bad("train", "--text", text, "--top-k", 3, says="top_k has no meaning in text-gru")
    bad("train", "--block-size", 4, says="block_size has no meaning in notebook")
    bad("train", "--text", text, "--block-size", 10**9, says="needs at least 1,000,000,001")
    other = written(text.read_bytes() + b"!")
    resume = ["train", "-o", run, "--resume", "--max-steps", 61]
    bad(*resume, "--text", other, says=f"{other} is another text than the run in {run}")
    bad(*resume, "--block-size", 8, says="other settings")
    bad("sample", run, "--prompt", "jo∑", says="'∑' in 'jo∑' is not in the vocabulary")
    bad("diagnose", "--preset", "part7-bigram", says="diagnose takes")
    bad("evaluate", run, "-i", written(b"a"), says="the text has 1 characters; at least 2")
    bad("evaluate", run, "-i", written("aé".encode()), says="'é' in the text is not in the voc")


def test_words_and_text_are_not_taken_for_one_another(text, run, names, trained, tmp_path):
    bad("train", "-o", trained, "--resume", "--text", text, says="on a list of words, not on a te")
    bad("train", "-o", run, "--resume", "--type", "transformer", says="no flag can change")
    saved = checkpoint.load(run / "last.npz")
    words = checkpoint.load(trained / "last.npz")
    presets = words.meta["preset"], saved.meta["preset"]
    for one, preset, name in zip((saved, words), presets, "ab", strict=True):
        mixed = tmp_path / f"{name}.npz"
        one.meta["preset"] = preset
        checkpoint.save(mixed, one)
        bad("sample", mixed, says="not a run of npnet train")


def test_the_text_may_have_moved(text, tmp_path):
    moving, out = tmp_path / "moving.txt", tmp_path / "out"
    moving.write_bytes(text.read_bytes())
    good("train", "--text", moving, "-o", out, "--max-steps", 5, *RUNS["gru"])
    moving.unlink()
    bad("train", "-o", out, "--resume", "--max-steps", 6, says="the text has moved, -i FILE finds")
    flags = ("--text", "--type", "gru", "--max-steps", 0)
    bad("train", "-o", out, "--resume", *flags, "-i", text, says="lies before step 5")
    bad("evaluate", out, says="; -i FILE names others")
    good("sample", out, "-n", 3)  # which needs no text
    bad("sample", out, "-i", NAMES, says="another text than the model was trained on")
    bad("sample", out, "-i", moving, says="No such file")
    good("train", "-o", out, "--resume", "--max-steps", 6, "--text", text)
    good("evaluate", out)


# ---- sampling


def test_characters_are_counted_and_follow_the_prompt(run):
    done = good("sample", run, "--prompt", "The bell", "-n", 30)
    assert done.stdout.startswith("The bell") and len(done.stdout) == 8 + 30 + 1
    trained = open_model(run)
    ids = continued(
        trained.model, chooser(TorchGenerator(7)), trained.vocabulary.encode("The bell"), 30
    )
    assert good("sample", run, "--prompt", "The bell", "-n", 30, "--seed", 7).stdout == (
        "The bell" + trained.vocabulary.decode(list(ids)) + "\n"
    )
    assert len(good("sample", run).stdout) == 501
    likeliest = ["sample", run, "-n", 9, "--temperature", 0]
    assert good(*likeliest).stdout == good(*likeliest, "--seed", 9).stdout
    assert len(good("train", "-o", run, "--sample-only", "--seed", 3).stdout) == 501


def test_the_prompt_from_standard_input(run):
    def sample(data):
        arguments = command("sample", "-q", run, "--prompt", "-", "-n", 5)
        return subprocess.run(arguments, env=ENVIRONMENT, input=data, capture_output=True)

    done = sample(b"The\nbell\n")
    assert done.returncode == 0 and done.stdout.startswith(b"The\nbell\n")
    assert len(done.stdout) == 9 + 5 + 1
    assert sample(b"\xef\xbb\xbfThe\nbell\n").stdout == done.stdout
    for data, says in ((b"a\xff", b"byte 0xff at position 1"), (b"a" * 1_000_001, b"1,000,000")):
        done = sample(data)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count(b"\n") == 1


def test_characters_are_seen_as_they_are_drawn(run):
    """A million would take minutes; the first ones come at once, and nobody needs the others."""
    with start("sample", "-q", run, "-n", 1_000_000, stdout=subprocess.PIPE) as process:
        assert len(process.stdout.read(20)) == 20
        process.stdout.close()
        assert process.wait(60) == 0
        assert process.stderr.read() == ""


def on_a_terminal(*arguments):
    """What the command writes to a terminal."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        command(*arguments), env=ENVIRONMENT, stdout=other, stderr=subprocess.PIPE
    )
    os.close(other)
    written = b""
    while True:
        try:
            data = os.read(main, 4096)
        except OSError:
            data = b""
        if not data:
            break
        written += data
    os.close(main)
    assert process.wait() == 0, process.stderr.read()
    process.stderr.close()
    return written


def test_a_terminal_gets_no_control_characters(tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "out"
    text.write_bytes("\x1b[31m é\t\n".encode() * 100)
    good("train", "--text", text, "-o", out, "--max-steps", 5, *RUNS["gru"], "--block-size", 4)
    prompt = "\x1b[31m é\t\n"
    shown = on_a_terminal("sample", out, "-n", 200, "--prompt", prompt)
    assert b"\x1b" not in shown and "\\x1b[31m é\t\r\n".encode() in shown
    assert good("sample", out, "-n", 200, "--prompt", prompt).stdout.startswith(prompt)


def test_a_terminal_gets_no_control_characters_of_words_either(tmp_path):
    words, out = tmp_path / "words.txt", tmp_path / "out"
    words.write_bytes(b"a\x1b[31m\xc2\x9b\n" * 10)
    flags = ("train", "-i", words, "--max-steps", 1, "-b", 2)
    for arguments in ((*flags, "-o", out), ("sample", out), ("evaluate", out, "--per-word")):
        shown = on_a_terminal(*arguments)
        assert b"\x1b" not in shown and b"\xc2\x9b" not in shown
        assert b"\\x1b" in shown and b"\\x9b" in shown
    assert "\x1b[31m\x9b" in good("evaluate", out, "--per-word").stdout


# ---- looking at it


def test_evaluate_compare_plot_and_export(run, text, trained, tmp_path):
    done = good("evaluate", run, "--per-word")
    head, train, val, *lines = done.stdout.splitlines()
    assert head.split() == ["characters", "loss", "perplexity"]
    n = len(read_text(text))
    assert [train.split()[:2], val.split()[:2]] == [
        ["train", f"{int(0.9 * n) - 1:,}"],
        ["val", f"{n - int(0.9 * n) - 1:,}"],
    ]
    assert sum(line.startswith(("likeliest lines", "unlikeliest lines")) for line in lines) == 2
    assert len([line for line in lines if line]) == 2 * (1 + 10)
    whole = good("evaluate", run, "-i", text).stdout.splitlines()[1].split()
    assert whole[:2] == ["text", f"{n - 1:,}"]

    compared = good("compare", run, trained, "-o", tmp_path / "both.png").stdout
    assert f"train {train.split()[2]}  val {val.split()[2]}" in compared

    good("plot", run, "-o", tmp_path / "pictures", "--word", "The bell")
    drawn = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert drawn == {f"{n}.png" for n in ("attention", "dlogits", "embedding", "layers", "loss")}

    bad("plot", run, "-o", tmp_path, "--word", "", says="an empty text has no attention to draw")

    good("export", run, tmp_path / "model.safetensors")
    good("export", tmp_path / "model.safetensors", tmp_path / "back")
    assert good("sample", tmp_path / "back", "-n", 9).stdout == good("sample", run, "-n", 9).stdout


def test_a_text_of_many_characters(tmp_path):
    """More than a byte tells apart, in every command."""
    text, out = tmp_path / "text.txt", tmp_path / "out"
    letters = [chr(0x4E00 + i) for i in range(300)]
    rng = np.random.default_rng(0)
    text.write_text("".join(rng.choice([*letters, "\n"], 5000)), encoding="utf-8")
    good("train", "--text", text, "-o", out, "--max-steps", 3, *RUNS["bigram"])
    drawn = good("sample", out, "-n", 20).stdout
    assert len(drawn) == 21 and set(drawn) <= {*letters, "\n"}
    good("evaluate", out, "--per-word")
    good("plot", out)
    narrow = npnet("sample", out, "-n", 20, PYTHONIOENCODING="ascii")
    assert narrow.returncode == 0
    assert narrow.stdout == drawn.encode("ascii", "backslashreplace").decode()


def test_signals_end_a_sampling_run_in_one_line(run):
    with start("sample", "-q", run, "-n", 1_000_000, stdout=subprocess.PIPE) as process:
        process.stdout.read(5)
        process.terminate()
        assert process.communicate()[1] == "npnet: interrupted\n"
        assert process.returncode == 143
