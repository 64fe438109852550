"""A model as a .safetensors file, which other programs read, and back.

The tensors have the names and the layout that they have here, a Linear's weight (fan_in, fan_out)
as the transpose of torch's; the running statistics stand among them. The file's metadata has one
text, "npnet": what a checkpoint says about its model.
"""

import os
from pathlib import Path

import numpy as np

from npnet.checkpoint import (
    Checkpoint,
    CheckpointError,
    described,
    description,
    fill,
    judge_buffers,
    parsed,
    write_whole,
)
from npnet.data import open_regular

SUFFIX = ".safetensors"


def save_safetensors(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the model to `path`, whole or not at all."""
    tensors = {**checkpoint.model.parameters(), **checkpoint.model.buffers()}
    write_tensors(path, tensors, {"npnet": description(checkpoint, tensors)})


def write_tensors(
    path: str | Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Name -> array of any layout, and name -> text, as a .safetensors file.

    Each array is laid out in C order first: safetensors 0.8 writes the memory of any other as it
    lies, under the shape that it does not have there.
    """
    save = _safetensors().numpy.save
    data = save({name: np.array(a, order="C") for name, a in tensors.items()}, metadata)
    write_whole(Path(path), lambda file: file.write(data))


def load_safetensors(path: str | Path) -> Checkpoint:
    """The Checkpoint in a file that save_safetensors wrote; anything else is a CheckpointError."""
    safetensors = _safetensors()
    try:
        with open_regular(path) as file:
            size = file.seek(0, os.SEEK_END)
        with safetensors.safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get("npnet")
            if text is None:
                raise ValueError("not written by npnet export: it does not say of what model")
            head = parsed(text)
            model, vocabulary = described(head, size)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        buffers = model.buffers()
        fill(buffers, {name: a for name, a in tensors.items() if name in buffers}, "buffers")
        parameters = {name: a for name, a in tensors.items() if name not in buffers}
        fill(model.parameters(), parameters, "parameters")
        judge_buffers(model)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    except (ValueError, TypeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return Checkpoint(model, vocabulary, head["run"])


def _safetensors():
    try:
        import safetensors.numpy
    except ImportError as error:
        hint = 'pip install "npnet-trainer[safetensors]"'
        raise ValueError(f".safetensors files need safetensors: {hint}") from error
    return safetensors
