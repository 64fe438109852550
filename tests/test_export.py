"""Safetensors: any layout survives, torch reads what we write, and no damage gets in."""

import json

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
from configs import config_for
from hypothesis import given, settings
from hypothesis import strategies as st

from npnet import export
from npnet.checkpoint import Checkpoint, CheckpointError
from npnet.data import Vocabulary
from npnet.models import BUILDERS, build
from npnet.random import TorchGenerator

VOCABULARY = Vocabulary("abcde")
LAYOUTS = {
    "C": lambda a: a,
    "Fortran": np.asfortranarray,
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "of one stride 0": lambda a: np.broadcast_to(a[:1], a.shape),
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "inside another": lambda a: np.pad(a, 1)[1:-1, 1:-1],
}


def make(kind, dtype="float32"):
    config = config_for(kind, 6, 4, n_layer=2, n_embd=4, n_embd2=5, n_head=2, dtype=dtype)
    model = build(kind, config, TorchGenerator(0))
    rng = np.random.default_rng(0)
    model.data[...] = rng.standard_normal(model.data.size)
    for buffer in model.buffers().values():
        buffer[...] = rng.random(buffer.shape)
    return model


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_layout_comes_back(tmp_path, layout, dtype):
    rng = np.random.default_rng(0)
    for shape in ((3, 4), (1, 5), (5, 1), (7, 7), (2, 0)):
        array = LAYOUTS[layout](rng.standard_normal(shape).astype(dtype))
        export.write_tensors(tmp_path / "x.safetensors", {"x": array, "n": np.array(2.5)}, {})
        for load in (safetensors.numpy.load_file, safetensors.torch.load_file):
            found = load(tmp_path / "x.safetensors")
            np.testing.assert_array_equal(
                np.asarray(found["x"]), array, strict=layout != "big-endian"
            )
            assert found["n"].shape == () and found["n"] == 2.5


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_comes_back_and_torch_reads_it(tmp_path, kind, dtype):
    model, path = make(kind, dtype), tmp_path / "model.safetensors"
    export.save_safetensors(path, Checkpoint(model, VOCABULARY, {"step": 3}))
    loaded = export.load_safetensors(path)
    assert loaded.meta == {"step": 3} and loaded.vocabulary == VOCABULARY
    assert loaded.model.config == model.config and loaded.model.kind == kind
    assert loaded.model.data.tobytes() == model.data.tobytes()
    in_torch = safetensors.torch.load_file(path)
    assert in_torch.keys() == model.parameters().keys() | model.buffers().keys()
    for name, array in (model.parameters() | model.buffers()).items():
        np.testing.assert_array_equal(in_torch[name].numpy(), array, strict=True)
    for name, buffer in model.buffers().items():
        np.testing.assert_array_equal(loaded.model.buffers()[name], buffer, strict=True)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    path = tmp_path_factory.mktemp("good") / "model.safetensors"
    export.save_safetensors(path, Checkpoint(make("mlp_running"), VOCABULARY, {"step": 3}))
    return path


def test_what_is_wrong_is_named(good, tmp_path):
    tensors = safetensors.numpy.load_file(good)
    with safetensors.safe_open(good, framework="numpy") as file:
        text = file.metadata()["npnet"]
    path = tmp_path / "changed.safetensors"

    def refused(message, tensors=tensors, text=text):
        export.write_tensors(path, tensors, {} if text is None else {"npnet": text})
        with pytest.raises(CheckpointError, match=message) as caught:
            export.load_safetensors(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)

    head = json.loads(text)
    refused("does not say of what model", text=None)
    refused("no JSON object", text="[" * 100_000)
    refused("unknown model", text=json.dumps(head | {"kind": "x\ny"}))
    huge = head["config"] | {"n_embd": 10**8}
    refused("ask for .* bytes", text=json.dumps(head | {"config": huge}))
    refused("unknown entry 'x'", tensors | {"x": np.zeros(2, np.float32)})
    refused("head.weight is missing", {k: v for k, v in tensors.items() if k != "head.weight"})
    refused("has shape", tensors | {"head.weight": tensors["head.weight"].T.copy()})
    refused("not finite", tensors | {"head.weight": tensors["head.weight"] + np.nan})
    refused("negative", tensors | {"norm.running_var": -tensors["norm.running_var"] - 1})
    for other in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match=str(other)):
            export.load_safetensors(other)


@settings(max_examples=max(200, settings().max_examples))
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_damage_is_an_error_or_another_number(good, place, flip, cut):
    data = bytearray(good.read_bytes())
    at = int(place * len(data))
    data[at] ^= flip
    path = good.with_name("damaged.safetensors")
    path.write_bytes(data[:at] if cut else data)
    try:
        loaded = export.load_safetensors(path)
        assert not cut and loaded.model.kind in ("mlp", "mlp_running")
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
