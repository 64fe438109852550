"""The command line as a user meets it: a subprocess, its output, its exit status, the files it
leaves."""

import re
import zipfile

import numpy as np
import pytest
from command_line import WORDS, bad, good

from npnet import results
from npnet.cli import main

# ---- train and sample


def test_training_without_a_flag_is_the_notebook(names, tmp_path):
    done = good("train", "-i", names, "--max-steps", 60, cwd=tmp_path)
    *looks, train, val, test = done.stdout.splitlines()[:-20]
    marked = r"\S* \((new|in train|in test)\)"
    assert len(looks) == 9
    for k, line in enumerate(looks, 1):
        assert re.fullmatch(rf"step {6 * k}  val \d\.\d{{4}}  {marked}, {marked}, {marked}", line)
    for line, split in ((train, "train"), (val, "val"), (test, "test")):
        assert re.fullmatch(rf"{split} \d\.\d+", line)
    known = set(WORDS.split("\n"))
    for line in done.stdout.splitlines()[-20:]:
        word, mark = re.fullmatch(r"(\S*) +(new|in train|in test)", line).groups()
        assert (mark == "new") == (word not in known)
    assert re.search(r"^mlp: [\d,]+ parameters, 300 words from some.txt$", done.stderr, re.M)
    assert "\r" not in done.stderr and "\x1b" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_our_own_names_are_found_from_anywhere(tmp_path):
    assert "words from names.txt" in good("train", "--max-steps", 5, cwd=tmp_path).stderr


def test_the_same_seed_is_the_same_run(names):
    runs = [
        good("train", "-i", names, "--max-steps", 30, "--seed", seed).stdout for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_sampling_marks_what_is_new(names, trained):
    lines = good("sample", trained, "-n", 30).stdout.splitlines()
    assert len(lines) == 30
    known = set(WORDS.split("\n"))
    for line in lines:
        word, _, mark = line.partition(" ")
        assert mark.strip() in (("in train", "in test") if word in known else ("new",))
    assert good("sample", trained, "-n", 30).stdout.splitlines() == lines
    assert good("sample", trained, "-n", 30, "--seed", 1).stdout.splitlines() != lines


def test_long_words_are_drawn_fewer_at_once(trained, monkeypatch, capsys):
    drawn, generate = [], results.generate

    def watched(model, vocabulary, generator, n, **options):
        drawn.append(n)
        return generate(model, vocabulary, generator, n, **options)

    monkeypatch.setattr(results, "generate", watched)
    for state, counts in ((1 << 26, [7]), (3 * 10 * 4 * 3, [3, 3, 1]), (1, [1] * 7)):
        monkeypatch.setattr(results, "LARGEST_STATE", state)  # positions, channels, layers, words
        drawn.clear()
        assert main(["sample", str(trained), "-n", "7", "-q"]) == 0
        assert drawn == counts
        assert capsys.readouterr().out.count("\n") == 7


def test_sampling_with_a_prompt(trained):
    lines = good("sample", trained, "--prompt", "jo", "-n", 5).stdout.splitlines()
    assert len(lines) == 5 and all(line.startswith("jo") for line in lines)


def test_temperature_0_and_one_candidate_are_the_likeliest_word(trained):
    cold = good("sample", trained, "--temperature", 0, "-n", 4).stdout.splitlines()
    narrow = good("sample", trained, "--top-k", 1, "-n", 4, "--seed", 9).stdout.splitlines()
    assert len(set(cold)) == 1 and cold == narrow


def test_sampling_when_the_words_are_gone(names, tmp_path):
    moving = tmp_path / "moving.txt"
    moving.write_text(WORDS, encoding="utf-8")
    good("train", "-i", moving, "-o", tmp_path / "out", "--max-steps", 5)
    moving.unlink()
    unmarked = good("sample", tmp_path / "out", "-n", 6).stdout.splitlines()
    assert len(unmarked) == 6 and not any(
        line.endswith((" new", "in train", "in test")) for line in unmarked
    )
    marked = good("sample", tmp_path / "out", "-n", 6, "-i", names).stdout.splitlines()
    assert sorted(line.partition(" ")[0] for line in marked) == sorted(unmarked)
    assert all(line.endswith((" new", "in train", "in test")) for line in marked)


@pytest.mark.parametrize(
    "flags",
    [
        ["--preset", "part3"],
        ["--preset", "part5", "--n-embd", 4, "--n-embd2", 6],
        ["--type", "transformer", "--n-embd", 8, "--n-layer", 1, "--n-head", 2],
        ["--type", "mlp", "--n-embd", 4],
        ["--type", "gru", "--n-embd", 4, "--n-embd2", 6],
        ["--type", "bow", "--n-embd", 4],
        ["--preset", "microgpt"],
    ],
)
def test_other_runs_leave_a_model_to_sample_from(flags, names, tmp_path):
    good("train", "-i", names, "-o", tmp_path, "--max-steps", 11, *flags)
    files = [".lock", "history.csv", "last.npz", "model.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert len(good("sample", tmp_path, "-n", 3, "--prompt", "a").stdout.splitlines()) == 3


def test_makemores_flags(names, tmp_path):
    flags = ["--type", "transformer", "--n-layer", 1, "--n-head", 2, "--n-embd", 8]
    flags += [
        "-n",
        4,
        "--device",
        "cpu",
        "-b",
        16,
        "-l",
        0.001,
        "-w",
        0.1,
        "--top-k",
        5,
        "--seed",
        1,
    ]
    done = good("train", "-i", names, "-o", tmp_path, "--max-steps", 501, *flags)
    logged = re.findall(
        r"^step (\d+) \| loss \d\.\d{4} \| step time \d+\.\d\dms$", done.stdout, re.M
    )
    assert [int(step) for step in logged] == list(range(0, 501, 10))
    assert len(re.findall(r"^step 500 train loss: \S+ test loss: \S+$", done.stdout, re.M)) == 1
    assert f"saving model to {tmp_path / 'model.npz'}" in done.stdout
    assert done.stdout.count("samples that are new:") == 2
    only = good("train", "-i", names, "-o", tmp_path, "--sample-only", "--top-k", 5)
    assert len(only.stdout.splitlines()) == 50


# ---- what a user can get wrong


def test_bad_words(tmp_path):
    bad("train", "-i", tmp_path / "missing.txt", says="missing.txt")
    bad("train", "-i", tmp_path, says=str(tmp_path))
    for content, says in (
        (b"", "no words"),
        (b"\n\n", "no words"),
        (b"anna\nj\xf6rg\n", ":2: byte 0xf6 is not UTF-8"),
        ("anna\n".encode("utf-16-le"), ":1: a zero byte"),
        (b"an.na\n", "reserved"),
        (b"anna\nbob\n", "too few words"),
        (b"a" * 5000 + b"\n", ":1: 5000 characters"),
    ):
        path = tmp_path / "words.txt"
        path.write_bytes(content)
        bad("train", "-i", path, says=says)
        if says != "too few words":
            bad("train", "-i", path, "--type", "rnn", says=says)
    path.write_bytes(b"anna\nbob\n" * 4)
    bad("train", "-i", path, "--type", "rnn", says="at least 10")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ([], "required"),
        (["fly"], "fly"),
        (["train", "--fly"], "--fly"),
        (["train", "--preset", "part9"], "unknown preset 'part9'"),
        (["train", "--type", "cnn"], "unknown type 'cnn'; there are bigram, mlp, bow, rnn, gru,"),
        (["train", "--type", "rnn", "--preset", "part3"], "exclude each other"),
        (["train", "--device", "cuda"], "cuda"),
        (["train", "--max-steps", "0"], "--max-steps"),
        (["train", "--max-steps", "many"], "many"),
        (["train", "-b", "0"], "at least 1"),
        (["train", "-b", "2.5"], "2.5"),
        (
            ["train", "--seed", "9" * 20],
            "at least -9223372036854775808 and below 9223372036854775808",
        ),
        (["train", "-b", "1", "--max-steps", "3"], "at least 2"),
        (["train", "-l", "-1"], "at least 0"),
        (["train", "-l", "nan"], "at least 0"),
        (["train", "--n-embd", "-3"], "--n-embd"),
        (["train", "--seed", "1e3"], "1e3"),
        (["train", "--seed", str(2**64)], "seed"),
        (["train", "--weight-decay", "0.1"], "weight_decay has no meaning"),
        (["train", "--preset", "part3", "--n-head", "8"], "n_head has no meaning in part3"),
        (["train", "--type", "transformer", "--n-embd2", "8"], "n_embd2 has no meaning"),
        (["train", "--type", "bigram", "--n-embd", "8"], "n_embd has no meaning"),
        (["train", "--preset", "microgpt", "-b", "8"], "batch_size has no meaning"),
        (["train", "--preset", "part1", "-l", "0.1"], "learning_rate has no meaning"),
        (
            ["train", "--preset", "makemore-transformer", "--n-embd", "10", "--n-head", "4"],
            "n_head",
        ),
        (["train", "--preset", "microgpt", "--n-head", "3"], "n_head"),
        (["train", "--type", "rnn", "--top-k", "0"], "top"),
        (["sample"], "DIR"),
    ],
)
def test_bad_flags(flags, says, names):
    bad(*flags, *(["-i", names] if flags[:1] == ["train"] else []), says=says)


def test_a_work_directory_that_cannot_be_one(names, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    bad("train", "-i", names, "--max-steps", 3, "-o", file, says=str(file))
    bad("train", "-i", names, "--max-steps", 3, "-o", file / "below", says=str(file))
    bad("sample", file, says=str(file))
    assert file.read_text() == "mine"


def test_bad_sampling(names, trained, tmp_path):
    bad("sample", tmp_path, says="holds no model")
    bad("sample", trained, "--prompt", "j3", says="'3'")
    bad("sample", trained, "--prompt", "a.b", says="prompt")
    bad("sample", trained, "--prompt", "a" * 1001, says="longer")
    bad("sample", trained, "--temperature", -1, says="temperature")
    bad("sample", trained, "--temperature", "nan", says="temperature")
    bad("sample", trained, "--top-k", 0, says="--top-k")
    bad("sample", trained, "-n", 0, says="at least 1")
    bad("sample", trained, "--seed", 2**70, says="seed")
    bad("sample", trained, "-i", tmp_path / "no.txt", says="no.txt")
    other = tmp_path / "other.txt"
    other.write_text("anna\nbob\n")
    bad("sample", trained, "-i", other, says="another list of words")


def rewrite(path, **changes):
    """The archive with some of its entries replaced; None leaves one out."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def test_damaged_models(trained, tmp_path):
    content = (trained / "model.npz").read_bytes()
    model = tmp_path / "model.npz"
    for damaged in (b"", b"not an archive", content[:-100], content[:2000]):
        model.write_bytes(damaged)
        bad("sample", tmp_path, says="model.npz")
    changed = bytearray(content)
    changed[len(content) // 2] ^= 255
    model.write_bytes(changed)
    bad("sample", tmp_path, says="model.npz")

    def with_entries(says, **changes):
        model.write_bytes(content)
        rewrite(model, **changes)
        bad("sample", tmp_path, says=says)

    name = "parameter/hidden.weight"
    with np.load(trained / "model.npz") as file:
        weight, meta = file[name], str(file["meta"])
    with_entries("'parameter/hidden.weight' is missing", **{name: None})
    with_entries("hidden.weight has shape", **{name: weight[1:]})
    with_entries("unknown entry 'parameter/more'", **{"parameter/more": weight})
    with_entries("not finite", **{name: weight * np.nan})
    with_entries("model.npz", meta=None)
    with_entries("model.npz", meta=np.array("{}"))
    with_entries("model.npz", meta=np.array("[1]"))
    with_entries("model.npz", meta=np.array("not json"))
    with_entries("npnet-9", meta=np.array(meta.replace("npnet-1", "npnet-9")))
    with_entries("model.npz", meta=np.array(meta.replace('"mlp"', '"mlq"')))
    with zipfile.ZipFile(model, "w") as archive:
        archive.writestr("meta.npy", b"no array")
    bad("sample", tmp_path, says="model.npz")


def test_damaged_checkpoints(names, trained, tmp_path):
    last = tmp_path / "last.npz"
    content = (trained / "last.npz").read_bytes()
    resume = ["train", "-i", names, "-o", tmp_path, "--resume", "--max-steps", 300]
    with np.load(trained / "last.npz") as file:
        state = file["generator/generator"]
    last.write_bytes(content[:-50])
    bad(*resume, says="last.npz")
    for changes in ({"generator/generator": state[1:]}, {"generator/generator": None}):
        last.write_bytes(content)
        rewrite(last, **changes)
        bad(*resume)
    last.write_bytes((trained / "model.npz").read_bytes())
    bad(*resume)


def test_help_lists_the_commands_and_presets():
    assert "diagnose" in good("--help").stdout
    text = good("train", "--help").stdout
    for name in ("part3-deep", "makemore-transformer", "microgpt", "--resume"):
        assert name in text
