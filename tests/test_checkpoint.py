"""Checkpoints: everything comes back, a run goes on bit for bit, and no damage gets in or shows a
traceback."""

import io
import json
import os
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from configs import config_for
from hostile import crafted
from hypothesis import given, settings
from hypothesis import strategies as st

from npnet import checkpoint
from npnet.checkpoint import Checkpoint, CheckpointError, load, save
from npnet.data import Vocabulary
from npnet.models import BUILDERS, build
from npnet.optim import SGD, AdamW, step_decay
from npnet.random import TorchGenerator
from npnet.train import loop, minibatches

VOCABULARY = Vocabulary(["abcde"])
RULES = {
    "SGD": lambda model: SGD(model.data, model.grad),
    "momentum": lambda model: SGD(model.data, model.grad, momentum=0.9, nesterov=True),
    "AdamW": lambda model: AdamW(model.data, model.grad),
}


def make(kind, **sizes):
    sizes = {"block_size": 4, "n_layer": 2, "n_embd": 4, "n_embd2": 5, "n_head": 2} | sizes
    model = build(kind, config_for(kind, 6, **sizes), TorchGenerator(0))
    rng = np.random.default_rng(0)
    model.data[...] = rng.standard_normal(model.data.size)
    for buffer in model.buffers().values():
        buffer[...] = rng.random(buffer.shape)
    return model


def batches(model, generator):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 6, (50, 4))
    return minibatches(x, rng.integers(0, 6, 50 if model.windowed else (50, 4)), 8, generator)


def content(loaded):
    """All that a checkpoint holds, comparable."""
    arrays = {
        "data": loaded.model.data,
        **loaded.model.buffers(),
        **loaded.optimizer,
        **loaded.generators,
    }
    head = (loaded.model.kind, loaded.model.config, loaded.vocabulary, loaded.meta)
    return head, {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_everything_comes_back(tmp_path, kind, dtype):
    model = make(kind, dtype=dtype, tie_weights=kind == "transformer")
    optimizer, generator = AdamW(model.data, model.grad), TorchGenerator(5)
    generator.randn(3)
    meta = {"step": 7, "preset": "test", "losses": [1.5, 2.0], "name": "한글"}
    saved = Checkpoint(model, VOCABULARY, meta, optimizer.state(), {"batches": generator.state()})
    save(tmp_path / "model.npz", saved)
    loaded = load(tmp_path / "model.npz")
    assert content(loaded) == content(saved)
    assert loaded.model.parameters().keys() == model.parameters().keys()
    x = np.zeros((2, 4), np.int64)
    assert loaded.model.logits(x).tobytes() == model.logits(x).tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model.npz"]


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, kind, rule):
    def train(model, optimizer, generator, start, stop):
        return [
            loss
            for _, loss in loop(
                model, batches(model, generator), optimizer, step_decay(0.05, 15), stop, start
            )
        ]

    model, generator = make(kind), TorchGenerator(1)
    whole = train(model, RULES[rule](model), generator, 0, 20)

    first, first_generator = make(kind), TorchGenerator(1)
    optimizer = RULES[rule](first)
    losses = train(first, optimizer, first_generator, 0, 10)
    state = {"batches": first_generator.state()}
    save(
        tmp_path / "last.npz", Checkpoint(first, VOCABULARY, {"step": 10}, optimizer.state(), state)
    )

    loaded = load(str(tmp_path / "last.npz"))
    second, second_generator = loaded.model, TorchGenerator(99)
    second_generator.set_state(loaded.generators["batches"])
    optimizer = RULES[rule](second)
    for name, array in optimizer.state().items():
        array[...] = loaded.optimizer[name]
    losses += train(second, optimizer, second_generator, loaded.meta["step"], 20)

    assert losses == whole
    assert second.data.tobytes() == model.data.tobytes()
    np.testing.assert_array_equal(second_generator.state(), generator.state())
    for name, buffer in model.buffers().items():
        assert second.buffers()[name].tobytes() == buffer.tobytes()


# Damage


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A small checkpoint with all kinds of entries: (path, bytes, content)."""
    path = tmp_path_factory.mktemp("good") / "model.npz"
    model = make("mlp_running", n_embd=1, n_embd2=2, block_size=2)
    save(
        path,
        Checkpoint(
            model,
            VOCABULARY,
            {"step": 3},
            AdamW(model.data, model.grad).state(),
            {"b": np.arange(3)},
        ),
    )
    return path, path.read_bytes(), content(load(path))


def rejected(path):
    """Whether load says CheckpointError, in one line that names the file, and nothing else."""
    try:
        loaded = load(path)
    except CheckpointError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return True
    return content(loaded)


def test_a_truncated_file_is_an_error(good, tmp_path):
    _, data, _ = good
    path = tmp_path / "cut.npz"
    for size in range(0, len(data), 11):
        path.write_bytes(data[:size])
        assert rejected(path) is True


@settings(max_examples=max(600, settings().max_examples))
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_an_error_or_of_no_consequence(good, place, flip):
    path, data, expected = good
    damaged = bytearray(data)
    damaged[int(place * len(data))] ^= flip
    path = path.with_name("flipped.npz")
    path.write_bytes(damaged)
    found = rejected(path)
    assert found is True or found == expected


def npy(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return file.getvalue()


OTHER_FILES = {
    "empty": b"",
    "text": b"emma\nolivia\n",
    "binary": bytes(range(256)) * 10,
    "one array": npy(np.ones(3)),
    "one pickle": npy(np.array([{}]), allow_pickle=True),
    "an empty zip": zipped(),
    "a zip of text": zipped(readme=b"hello"),
    "a zip of arrays": zipped(**{"weights.npy": npy(np.ones(3))}),
    "a zip of text as meta": zipped(meta=b"{}"),
    "pickled arrays": zipped(**{"meta.npy": npy(np.array([{}]), allow_pickle=True)}),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_another_file_is_an_error(tmp_path, name):
    path = tmp_path / "other.npz"
    path.write_bytes(OTHER_FILES[name])
    assert rejected(path) is True


def test_a_missing_file_and_a_directory_are_an_error(tmp_path):
    assert rejected(tmp_path / "none.npz") is True
    assert rejected(tmp_path) is True


def rewritten(good, path, **changes):
    """A copy of the good file with some entries replaced, or left out where the new value is
    None."""
    with np.load(good[0]) as file:
        arrays = {name: file[name] for name in file.files} | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


def head(good, **changes):
    with np.load(good[0]) as file:
        meta = json.loads(str(file["meta"])) | changes
    return np.array(json.dumps({key: value for key, value in meta.items() if value is not None}))


def test_a_wrong_entry_is_an_error_that_names_it(good, tmp_path):
    path = tmp_path / "changed.npz"
    rewritten(good, path)
    assert rejected(path) == good[2]
    for name in ("parameter/head.weight", "buffer/norm.running_var"):
        array = np.load(good[0])[name]
        for wrong, message in (
            (None, "is missing"),
            (array.T[:1], "has shape"),
            (array[None], "has shape"),
            (np.full_like(array, np.nan), "not finite"),
            (np.full_like(array, np.inf), "not finite"),
            (array.astype(str), "has dtype"),
            (array.astype(complex), "has dtype"),
        ):
            rewritten(good, path, **{name: wrong})
            with pytest.raises(CheckpointError, match=message) as caught:
                load(path)
            assert str(path) in str(caught.value) and name.partition("/")[2] in str(caught.value)
    for name in ("optimizer/count", "generator/b"):
        rewritten(good, path, **{name: None})
        with pytest.raises(CheckpointError, match=f"'{name}' is missing"):
            load(path)
    rewritten(good, path, **{"parameter/extra": np.ones(1)})
    with pytest.raises(CheckpointError, match="unknown entry 'parameter/extra'"):
        load(path)


def test_loading_runs_no_code_from_the_file(good, tmp_path):
    class Touches:
        def __reduce__(self):
            return Path.touch, (tmp_path / "touched",)

    path, array = tmp_path / "pickled.npz", np.empty(1, object)
    array[0] = Touches()
    rewritten(good, path, **{"optimizer/extra": array})
    assert rejected(path) is True
    assert not (tmp_path / "touched").exists()
    np.load(path, allow_pickle=True)["optimizer/extra"]
    assert (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": None},
        {"format": "npnet-0"},
        {"kind": None},
        {"kind": "mpl"},
        {"kind": ["mlp"]},
        {"kind": "bigram"},
        {"config": None},
        {"config": {}},
        {"config": {"vocab_size": 6, "block_size": 2, "depth": 3}},
        {"config": {"vocab_size": 6, "block_size": -2}},
        {"config": {"vocab_size": 7, "block_size": 2}},
        {"config": [6, 2]},
        {"characters": None},
        {"characters": ""},
        {"characters": 3},
        {"run": None},
        {"entries": None},
        {"entries": 3},
        {"entries": [["meta"]]},
    ],
    ids=str,
)
def test_a_wrong_description_is_an_error(good, tmp_path, changes):
    rewritten(good, tmp_path / "changed.npz", meta=head(good, **changes))
    assert rejected(tmp_path / "changed.npz") is True


@pytest.mark.parametrize(
    "meta",
    [np.array("{"), np.array("[1]"), np.array("3"), np.arange(3), np.array(b"\xff"), None],
    ids=str,
)
def test_a_description_that_is_none_is_an_error(good, tmp_path, meta):
    rewritten(good, tmp_path / "changed.npz", meta=meta)
    assert rejected(tmp_path / "changed.npz") is True


def test_a_failed_save_leaves_the_file_that_is_there(good, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    path.write_bytes(good[1])

    def full(file, **arrays):
        file.write(b"PK" * 100)
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint.np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        save(path, Checkpoint(make("bigram"), VOCABULARY))
    assert path.read_bytes() == good[1]
    monkeypatch.undo()
    save(path, Checkpoint(make("bigram"), VOCABULARY))
    assert load(path).model.kind == "bigram"
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]


def test_the_directory_is_made(tmp_path):
    save(tmp_path / "a" / "b" / "model.npz", Checkpoint(make("bigram"), VOCABULARY))
    assert load(tmp_path / "a" / "b" / "model.npz").meta == {}


# Malice


@pytest.fixture(scope="module")
def hostile(good):
    return crafted(good[0])


def test_a_crafted_file_is_an_error_of_one_short_line_that_costs_nothing(hostile, tmp_path):
    path = tmp_path / "hostile.npz"
    for name, data in hostile.items():
        path.write_bytes(data)
        tracemalloc.start()
        try:
            loaded = load(path)
        except CheckpointError as error:
            message = str(error).removeprefix(str(path))
            assert message.isprintable() and len(message) < 400, name
        else:  # what only the run reads is judged where a run begins, and mlp has the same sizes
            assert name.startswith(("run ", "head run ")) or loaded.model.kind == "mlp", name
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 150e6, name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a compressed bomb", "is compressed"),
        ("an encrypted member", "is compressed"),
        ("a member twice", "is there twice"),
        ("a member longer than the file", "longer than the file has room for"),
        ("a wrong checksum", "checksum"),
        ("code in a header", "no array of numbers"),
        ("a shape of 10^18", "does not fit its length"),
        ("nested brackets as meta", "no JSON object"),
        ("a negative variance", r"norm\.running_var holds a negative number, -1"),
        ("1e300 in float32", "not finite in float32"),
        ("a negative square", "optimizer: square holds a negative number, -1"),
        ("a negative count", "optimizer: count holds a negative number, -1"),
        ("half a step counted", "count has dtype float64, expected int64"),
        ("n_embd 1000000000", "n_embd must be a whole number from 1 to 100,000,000"),
        ("n_embd 100000000", r"its sizes ask for [\d,]+ bytes of parameters, more than it has"),
        ("another model, rnn", "missing|unknown|bytes"),
    ],
)
def test_the_message_says_what_is_wrong(hostile, tmp_path, name, message):
    path = tmp_path / "hostile.npz"
    path.write_bytes(hostile[name])
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    for path in (tmp_path / "pipe.npz", "/dev/zero"):
        with pytest.raises(CheckpointError, match=f"^{path}: Not a regular file; expected a model"):
            load(path)


def test_a_link_in_the_place_of_the_unfinished_file_is_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "model.npz"
    victim.write_text("precious")
    path.with_name("model.npz.unfinished").symlink_to(victim)
    save(path, Checkpoint(make("bigram"), VOCABULARY))
    assert victim.read_text() == "precious"
    assert load(path).model.kind == "bigram"


def test_a_full_disk_names_the_file_and_leaves_nothing(good, tmp_path):
    path = tmp_path / "model.npz"
    path.write_bytes(good[1])
    code = (
        "import resource, sys; from npnet.checkpoint import *;"
        "loaded = load(sys.argv[1]); path = sys.argv[2];"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "save(path, loaded)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, good[0], path], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{path}'"
    assert path.read_bytes() == good[1]
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]
