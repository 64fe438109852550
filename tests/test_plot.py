"""Pictures: every axis is labelled, and what is drawn is what the model computes."""

import math
import os
import shutil

import numpy as np
import pytest
from command_line import bad, good, npnet
from configs import config_for

from npnet import plot, progress
from npnet.cli import main
from npnet.data import LARGEST_FILE, NAMES, Vocabulary, build_dataset, build_sequences, read_words
from npnet.folder import COLUMNS
from npnet.layers import CausalAttention
from npnet.models import BUILDERS, build
from npnet.random import TorchGenerator

WORDS = read_words()[:100]
VOCABULARY = Vocabulary(WORDS)
LONGEST = max(map(len, WORDS)) + 1


def make(kind, **others):
    block_size = 4 if BUILDERS[kind].windowed else LONGEST
    sizes = {"n_layer": 2, "n_embd": 6, "n_embd2": 5, "n_head": 2} | others
    config = config_for(kind, len(VOCABULARY), block_size, **sizes)
    return build(kind, config, TorchGenerator(0))


def history(tmp_path, lines):
    path = tmp_path / "history.csv"
    path.write_text("\n".join([COLUMNS, *lines]) + "\n")
    return path


LINES = [f"{step},{3 - step / 100},,,,0.1,{step}.5" for step in range(0, 100, 10)] + [
    "50,,2.6,2.7,,,50.5",
    "100,,2.2,2.4,2.5,,100.5",
]


@pytest.mark.parametrize("kind", BUILDERS)
def test_every_picture_of_every_model_has_labelled_axes(kind, tmp_path):
    model = make(kind)
    drawn = {
        "embedding": plot.embedding(model, VOCABULARY),
        "dlogits": plot.dlogits(model, VOCABULARY, WORDS),
        "layers": plot.layers(model, VOCABULARY, WORDS),
    }
    for name, figure in drawn.items():
        for axes in figure.axes:
            assert axes.get_xlabel() or axes.get_ylabel()
        assert figure.axes[0].get_title() and figure.axes[0].get_ylabel()
        if kind in ("bigram", "transformer"):  # the commands below save those of the mlp
            figure.savefig(tmp_path / f"{name}.png")
            shown, whole = figure.get_tightbbox(), figure.bbox_inches
            assert shown.x0 >= 0 and shown.y0 >= 0, name  # nothing is cut off
            assert shown.x1 <= whole.x1 and shown.y1 <= whole.y1, name
    labels = [text.get_text() for text in drawn["embedding"].axes[0].texts]
    assert labels == list(VOCABULARY.itos.values())


def test_the_losses_are_drawn_where_they_are(tmp_path):
    read = plot.read_history(history(tmp_path, LINES))
    figure = plot.loss_curves(read)
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines}
    assert lines["minibatch"].tolist() == [[s, 3 - s / 100] for s in range(0, 100, 10)]
    assert lines["val set"].tolist() == [[50, 2.7], [100, 2.4]]
    assert lines["test set"].tolist() == [[100, 2.5]]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss (nats per character)")
    for n in (2, 12):
        (axes,) = plot.comparison({f"run {k}": read for k in range(n)}).axes
        assert len({line.get_color().tobytes() for line in axes.lines[: 2 * n]}) == n
    (axes,) = plot.comparison({"a": read, "b": read}).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()][:2] == ["a", "b"]


def test_steps_are_whole_numbers(tmp_path):
    (axes,) = plot.loss_curves(plot.read_history(history(tmp_path, ["0,,2.5,,,,0.1"]))).axes
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_a_running_mean_follows_without_the_bias_of_its_start():
    assert plot.smoothed(np.full(500, 2.0)) == pytest.approx(np.full(500, 2.0))
    rng = np.random.default_rng(0)
    line = plot.smoothed(np.linspace(3, 2, 900) + rng.standard_normal(900) * 0.1)
    assert np.abs(line[50:] - np.linspace(3, 2, 900)[50:]).max() < 0.12


ROWS = [
    "",
    "x,3,,,,,1",
    "1,3,,,,,1,1",
    ",3,,,,,1",
    "1e400,3,,,,,1",
    "1,-1e308,,,,,1",
    "1,inf,,,,,1",
]


@pytest.mark.parametrize(
    "text",
    [
        *("", "step\n", "step,batch_loss\n1,2\n", "step,a\n1,x\n", "\0\n\1"),
        *('"' * 200_000, *(f"{COLUMNS}\n{row}\n" for row in ROWS)),
    ],
)
def test_a_history_that_is_none(text, tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv: not the history of a run"):
        plot.read_history(path)


def test_a_history_is_read_up_to_a_documented_size(tmp_path):
    path = tmp_path / "history.csv"
    with open(path, "wb") as file:
        file.truncate(LARGEST_FILE + 1)
    with pytest.raises(ValueError, match=r"history\.csv: .* more than 100,000,000 bytes"):
        plot.read_history(path)


def test_a_pipe_is_no_history(tmp_path):
    os.mkfifo(tmp_path / "history.csv")
    with pytest.raises(OSError, match="Not a regular file"):
        plot.read_history(tmp_path / "history.csv")


@pytest.mark.parametrize("kind", ["mlp", "rnn"])
def test_the_map_is_the_gradient_of_the_loss(kind):
    model = make(kind)
    examples = build_dataset if model.windowed else build_sequences
    x, y = (np.asarray(a) for a in examples(WORDS[:40], VOCABULARY, model.config.block_size))
    V = len(VOCABULARY)
    logits, y = model.logits(x).reshape(-1, V).astype(np.float64), y.reshape(-1)
    counted = np.flatnonzero(y != -1)[: plot.ROWS]
    p = np.exp(logits[counted]) / np.exp(logits[counted]).sum(1, keepdims=True)
    image = plot.dlogits(model, VOCABULARY, WORDS).axes[0].images[0].get_array()
    np.testing.assert_allclose(image, p - np.eye(V)[y[counted]], atol=1e-6)


@pytest.mark.parametrize("kind", BUILDERS)
def test_recording_changes_nothing_and_hears_everything(kind):
    model, twin = make(kind), make(kind)
    rng = np.random.default_rng(0)
    T = model.config.block_size
    x = rng.integers(0, len(VOCABULARY), (5, T))
    y = rng.integers(0, len(VOCABULARY), 5 if model.windowed else (5, T))
    found = plot.record(model, x, y)
    twin.loss_and_grad(x, y, apart=True)
    assert model.grad.tobytes() == twin.grad.tobytes()
    assert all("forward" not in vars(layer) for _, layer in model.network.walk())
    leaves = [prefix[:-1] for prefix, layer in model.network.walk() if not layer.children()]
    assert list(found) == leaves
    for out, gradient in found.values():
        assert gradient is None or gradient.shape == out.shape


@pytest.mark.parametrize("style", ["makemore", "lecture"])
def test_attention_is_what_the_layer_computes(style):
    model = make("transformer", style=style)
    model.data *= 3
    ids = VOCABULARY.encode(".emma")
    caches, forward = [], CausalAttention.forward

    def watch(self, x, *more):
        y, cache = forward(self, x, *more)
        caches.append((x, y))
        return y, cache

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CausalAttention, "forward", watch)
        model.logits(ids[None])
    figure = plot.attention(model, VOCABULARY, "emma")
    maps = [np.ma.filled(a.images[0].get_array(), 0) for a in figure.axes if a.images][:4]
    for depth, (qkv, y) in enumerate(caches):
        v = qkv[:, 12:].reshape(5, 2, 3)
        for head in range(2):
            p = maps[2 * depth + head]
            np.testing.assert_allclose(p.sum(1), 1, rtol=1e-5)
            np.testing.assert_allclose(p @ v[:, head], y.reshape(5, 2, 3)[:, head], atol=1e-5)
    with pytest.raises(ValueError, match="a rnn has no attention to draw"):
        plot.attention(make("rnn"), VOCABULARY, "emma")
    with pytest.raises(ValueError, match="not in the vocabulary"):
        plot.attention(model, VOCABULARY, "é")


# The commands


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", "-o", str(folder), "--max-steps", "20", "-q"]) == 0
    return folder


def test_plot_leaves_pictures_beside_the_run(run, capsys, tmp_path):
    assert main(["plot", str(run)]) == 0
    names = ["embedding", "dlogits", "layers", "loss"]
    assert capsys.readouterr().out.splitlines() == [f"saved to {run / n}.png" for n in names]
    for name in names:
        assert (run / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plot", str(run), "--format", "svg", "-o", str(tmp_path / "new")]) == 0
    for name in names:
        assert "<svg" in (tmp_path / "new" / f"{name}.svg").read_text()
    capsys.readouterr()
    assert main(["plot", "-q", str(run), "-o", str(NAMES)]) == 2
    assert capsys.readouterr().err == f"npnet: {NAMES}/embedding.png: Not a directory\n"
    assert main(["plot", str(run), "--word", "emma"]) == 2
    printed = capsys.readouterr()
    assert "a mlp has no attention to draw" in printed.err and printed.out == ""


def test_a_run_that_has_just_begun_has_pictures_too(run, names, tmp_path, capsys):
    begun = tmp_path / "begun"
    good("train", "-i", names, "--type", "bigram", "-o", begun, "--max-steps", 0)
    assert (begun / "history.csv").read_text() == f"{COLUMNS}\n"
    assert main(["plot", "-q", str(begun)]) == 0
    assert {path.stem for path in begun.glob("*.png")} == {"embedding", "dlogits", "layers"}
    assert main(["compare", "-q", str(run), str(begun), "-o", str(tmp_path / "both.png")]) == 0
    assert capsys.readouterr().err == "" and (tmp_path / "both.png").exists()


def test_words_that_microgpt_reads_in_part_are_left_out(tmp_path):
    words, run = tmp_path / "words.txt", tmp_path / "run"
    words.write_text("a" * 16 + "\n" + "ab\n" * 4 + "a" * 15, encoding="utf-8")
    flags = ("train", "-i", words, "--preset", "microgpt", "--max-steps", 7, "-o", run)
    good(*flags)
    for command in (["evaluate"], ["plot", "-o", tmp_path], ["compare", "-o", tmp_path / "a.png"]):
        done = good(command[0], "-q", run, *command[1:])
        left = "left out 1 of 6 words of train: no room in a block of 16"
        assert done.stderr == f"npnet: {run / 'model.npz'}: {left}\n"
    assert good("evaluate", run).stdout.split()[4:7] == ["train", "5", "28"]
    words.write_text("a" * 16, encoding="utf-8")
    good(*flags, "--overwrite")
    good("sample", run)
    for command in ("evaluate", "plot"):
        bad(command, run, says="no word of train has room in a block of 16")


def test_what_matplotlib_says_about_its_fonts_is_no_second_line(run, tmp_path):
    (tmp_path / "file").touch()  # no folder, so matplotlib keeps its cache elsewhere, and says so
    done = npnet("plot", "-q", run, "-o", tmp_path, MPLCONFIGDIR=str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "stages"),
    [
        (["sample", "{run}", "-n", "3"], ["reading {run}", "drawing words 3/3"]),
        (["evaluate", "{run}"], ["reading {run}", "evaluating train", "evaluating test"]),
        (["compare", "{run}", "-o", "{out}/x.svg"], ["reading {run}", "evaluating train"]),
        (["plot", "{run}", "-o", "{out}"], ["reading {run}", "drawing pictures 4/4"]),
        (["export", "{run}", "{out}/x.safetensors"], ["reading {run}"]),
        (["diagnose", "--max-steps", "2"], ["reading names.txt", "step 1/1"]),
    ],
)
def test_every_command_says_what_it_is_at(arguments, stages, run, tmp_path, capsys, monkeypatch):
    """As it does after two seconds."""
    monkeypatch.setattr(progress, "PATIENCE", 1e-9)
    places = {"run": run, "out": tmp_path}
    assert main([a.format(**places) for a in arguments]) == 0
    said = capsys.readouterr().err
    for stage in stages:
        assert f"\n{stage.format(**places)}" in f"\n{said}"


def test_evaluate_prints_what_training_printed(run, capsys, tmp_path):
    capsys.readouterr()
    assert main(["train", "-o", str(run), "--resume", "-q"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines()[:3])
    assert main(["evaluate", str(run), "--per-word", "-q"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    for line in lines[:3]:
        name, _, _, loss, perplexity = line.split()
        assert float(loss) == pytest.approx(float(printed[name]), abs=6e-5)
        assert float(perplexity) == pytest.approx(math.exp(float(loss)), rel=1e-3)
    assert lines[4].startswith("likeliest words") and lines[16].startswith("unlikeliest words")
    (tmp_path / "words.txt").write_text("emma\nolivia\n")
    assert main(["evaluate", str(run), "-i", str(tmp_path / "words.txt")]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["words", "2", "12"]
    (tmp_path / "words.txt").write_text("emma\nжанна\n")
    assert main(["evaluate", str(run), "-i", str(tmp_path / "words.txt")]) == 2
    assert "is not in the vocabulary" in capsys.readouterr().err


def test_compare_makes_a_table_and_a_figure(run, capsys, tmp_path):
    other = tmp_path / "other"
    assert main(["train", "--type", "rnn", "-o", str(other), "--max-steps", "12", "-q"]) == 0
    capsys.readouterr()
    for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
        target = tmp_path / f"both{suffix}"
        assert main(["compare", str(run), str(other), "-q", "-o", str(target)]) == 0
        assert target.read_bytes().startswith(start)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1:4] for line in lines[1:3]] == [
        ["mlp", "12,097", "20"],
        ["rnn", "11,803", "12"],
    ]
    assert "val" in lines[1] and "test" in lines[2]
    assert main(["compare", str(run), "-o", str(tmp_path / "x.jpg")]) == 2
    assert "must end in .png or .svg" in capsys.readouterr().err


def test_words_that_are_gone_are_named_before_anything_is_printed(names, tmp_path):
    words, run = tmp_path / "words.txt", tmp_path / "run"
    shutil.copy(names, words)
    good("train", "-i", words, "-o", run, "--max-steps", 5)
    words.write_text("other\n")
    gone = f"the words of {run / 'model.npz'} are gone or changed, {words}"
    bad("compare", run, "-o", tmp_path / "x.png", says=f"{gone}\n")
    bad("plot", run, says=f"{gone}; if they have moved, -i FILE finds them\n")
    bad("evaluate", run, says=f"{gone}; -i FILE names others\n")
    good("plot", run, "-i", names)
    good("evaluate", run, "-i", names)


def test_export_and_back_draws_the_same_words(run, capsys, tmp_path):
    file, back = tmp_path / "model.safetensors", tmp_path / "back"
    assert main(["export", str(run), str(file)]) == 0
    assert main(["export", str(file), str(back)]) == 0
    capsys.readouterr()
    assert main(["sample", str(run), "-q"]) == 0
    words = capsys.readouterr().out
    assert main(["sample", str(back), "-q"]) == 0
    assert capsys.readouterr().out == words
    for argv, message in (
        ([str(run), str(file)], f"{file} exists; --overwrite replaces it"),
        ([str(file), str(back)], f"{back / 'model.npz'} exists; --overwrite replaces it"),
        ([str(run), str(back)], "has to end in .safetensors"),
        ([str(NAMES), str(tmp_path / "x.safetensors")], "names.txt: not a complete .npz file"),
    ):
        assert main(["export", *argv]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", str(run), str(file), "--overwrite"]) == 0
