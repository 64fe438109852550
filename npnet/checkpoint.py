"""A run in one .npz file, without pickle: the model, and what a resumed run needs to go on bit for
bit.

Entries: `meta`, a JSON text that lists the others; `parameter/NAME` and `buffer/NAME` of the model;
and, if the run may go on, `optimizer/NAME` and `generator/NAME`, the state of each random stream.
"""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from npnet.data import Vocabulary
from npnet.models import Config, Model, build
from npnet.random import TorchGenerator

FORMAT = "npnet-1"


class CheckpointError(ValueError):
    """A file that is not a checkpoint of ours, or a damaged one."""


@dataclass
class Checkpoint:
    """What a file holds. meta is the run's own: its step, its preset, whatever JSON can hold."""

    model: Model
    vocabulary: Vocabulary
    meta: dict = field(default_factory=dict)
    optimizer: dict[str, np.ndarray] = field(default_factory=dict)
    generators: dict[str, np.ndarray] = field(default_factory=dict)


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint to `path`, whole or not at all: a file that is there stays until the new
    one is complete."""
    model = checkpoint.model
    arrays: dict[str, Any] = {
        f"{group}/{name}": array
        for group, members in (
            ("parameter", model.parameters()),
            ("buffer", model.buffers()),
            ("optimizer", checkpoint.optimizer),
            ("generator", checkpoint.generators),
        )
        for name, array in members.items()
    }
    head = {
        "format": FORMAT,
        "kind": model.kind,
        "config": asdict(model.config),
        "characters": "".join(checkpoint.vocabulary.characters),
        "run": checkpoint.meta,
        "entries": list(arrays),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    with open(unfinished, "wb") as file:
        np.savez(file, meta=np.array(json.dumps(head)), **arrays)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)


def load(path: str | Path) -> Checkpoint:
    """The Checkpoint in the file. A missing, damaged or foreign file is a CheckpointError that
    names what is wrong."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise CheckpointError(
            f"{path}: {error.strerror or error}; expected a model saved by npnet train"
        ) from error
    # Of many kinds: a damaged byte may say that an entry is encrypted or compressed.
    except Exception as error:
        raise CheckpointError(
            f"{path}: not a complete .npz file; expected a model saved by npnet train"
        ) from error
    try:
        head = json.loads(str(arrays.pop("meta")))
        if head["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {head['format']!r}; this npnet reads {FORMAT!r}")
        for name in head["entries"]:
            if name not in arrays:
                raise CheckpointError(f"{path}: {name} is missing")
        vocabulary = Vocabulary(head["characters"])
        model = build(head["kind"], Config(**head["config"]), TorchGenerator(0))
        checkpoint = Checkpoint(model, vocabulary, head["run"])
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a model saved by npnet train ({error})") from error
    fill(model.parameters(), _group(arrays, "parameter"), path, CheckpointError)
    fill(model.buffers(), _group(arrays, "buffer"), path, CheckpointError)
    checkpoint.optimizer = _group(arrays, "optimizer")
    checkpoint.generators = _group(arrays, "generator")
    return checkpoint


def fill(
    targets: dict[str, np.ndarray],
    arrays: dict[str, np.ndarray],
    source: object,
    error: type[ValueError] = ValueError,
) -> None:
    """Copy arrays into the targets of the same names. A missing, unknown or misshapen entry raises
    `error`, by name."""
    for name in targets:
        if name not in arrays:
            raise error(f"{source}: {name} is missing")
    for name, array in arrays.items():
        if name not in targets:
            raise error(f"{source}: unknown entry {name}")
        if array.shape != targets[name].shape:
            raise error(f"{source}: {name} has shape {array.shape}, expected {targets[name].shape}")
        if array.dtype.kind not in "iuf":
            raise error(f"{source}: {name} has dtype {array.dtype}, expected real numbers")
        if not np.isfinite(array).all():
            raise error(f"{source}: {name} holds a number that is not finite")
        targets[name][...] = array


def _group(arrays: dict[str, np.ndarray], group: str) -> dict[str, np.ndarray]:
    prefix = group + "/"
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
