"""A run in one .npz file, without pickle: the model, and what a resumed run needs to go on bit for
bit.

Entries: `meta`, a JSON text that lists the others; `parameter/NAME` and `buffer/NAME` of the model;
and, if the run may go on, `optimizer/NAME` and `generator/NAME`, the state of each random stream.

A file is judged before it is believed: first the directory of the archive, then `meta`, then the
header of each entry, so that no file makes us allocate more than a few times its own length.
Nothing in it is evaluated. What numpy.savez never writes, such as a compressed or a repeated
member, is refused.
"""

import errno
import io
import json
import math
import os
import re
import reprlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from npnet.data import Vocabulary, open_regular
from npnet.model import Config, Model
from npnet.models import build, parameter_count
from npnet.random import TorchGenerator
from npnet.text import TEXT, WORDS

FORMAT = "npnet-1"
LARGEST_DIRECTORY = 2 << 20
LARGEST_META = 8 << 20
LARGEST_GENERATOR = 1 << 16
VOCABULARIES = {data.name: data.vocabulary for data in (WORDS, TEXT)}
FOREIGN = "not a complete .npz file; expected a model saved by npnet train"
HEADER = re.compile(
    rb"\{'descr': '([<>|][a-zA-Z]\d+)', 'fortran_order': False, 'shape': \(([\d, ]*)\), \} *\n"
)

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 60
shown = _repr.repr  # a value from a file in one short line


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
    one is complete and on the disk. An OSError names `path`."""
    write_whole(Path(path), lambda file: write(file, checkpoint))


def write(file: BinaryIO, checkpoint: Checkpoint) -> None:
    """Write the checkpoint to an open file."""
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
    np.savez(file, meta=np.array(description(checkpoint, arrays)), **arrays)


def description(checkpoint: Checkpoint, entries: Iterable[str]) -> str:
    """The JSON text that says what a file with these entries holds."""
    vocabulary = type(checkpoint.vocabulary)
    data = next(name for name, known in VOCABULARIES.items() if known is vocabulary)
    return json.dumps(
        {
            "format": FORMAT,
            "kind": checkpoint.model.kind,
            "config": asdict(checkpoint.model.config),
            "data": data,
            "characters": checkpoint.vocabulary.characters,
            "run": checkpoint.meta,
            "entries": list(entries),
        }
    )


def make_folder(path: Path) -> None:
    """The folder and those above it, where they are not there. What is there and no folder is a
    NotADirectoryError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(path)) from error


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new file, which then takes the name `path`, in a folder that is made where
    there is none. After a failure the new file is gone and the old one as it was; an OSError names
    `path`."""
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        make_folder(path.parent)
        unfinished.unlink(missing_ok=True)
        try:
            with open(unfinished, "xb") as file:  # "x": not through a link that was put there
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        if hasattr(os, "O_DIRECTORY"):  # where a folder can be opened, its new entry must last, too
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def load(path: str | Path) -> Checkpoint:
    """The Checkpoint in the file. A missing, damaged or foreign file is a CheckpointError of one
    line that names what is wrong."""
    try:
        with open_regular(path) as file:
            return _checkpoint(file)
    except OSError as error:
        reason = f"{error.strerror or error}; expected a model saved by npnet train"
        raise CheckpointError(f"{path}: {reason}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _checkpoint(file: BinaryIO) -> Checkpoint:
    entries = _entries(file)
    head = _head(entries)
    for name in head["entries"]:
        if name not in entries:
            raise ValueError(f"{shown(name)} is missing")
    groups: dict[str, dict[str, _Entry]] = {
        "parameter": {}, "buffer": {}, "optimizer": {}, "generator": {}
    }  # fmt: skip
    for name, entry in entries.items():
        group, _, rest = name.partition("/")
        if group not in groups or name not in head["entries"]:
            raise ValueError(f"unknown entry {shown(name)}")
        groups[group][rest] = entry

    model, vocabulary = described(head, file.seek(0, os.SEEK_END))
    fill(model.parameters(), groups["parameter"], "parameters")
    fill(model.buffers(), groups["buffer"], "buffers")
    judge_buffers(model)
    return Checkpoint(
        model,
        vocabulary,
        head["run"],
        _optimizer_state(groups["optimizer"], model),
        _generator_states(groups["generator"]),
    )


def described(head: dict[str, Any], size: int) -> tuple[Model, Vocabulary]:
    """(model, vocabulary) by the head of a file of `size` bytes, every number still to be filled
    in. Sizes for which the file has no room are a ValueError before a model is built."""
    if head["data"] not in VOCABULARIES:
        raise ValueError(f"data is {shown(head['data'])}; there are {', '.join(VOCABULARIES)}")
    config, vocabulary = _config(head["config"]), VOCABULARIES[head["data"]](head["characters"])
    if vocabulary.characters != head["characters"] or len(vocabulary) != config.vocab_size:
        n = config.vocab_size - len(vocabulary.boundary)
        raise ValueError(f"{shown(head['characters'])} are not {n} characters in order")
    needed = parameter_count(head["kind"], config) * np.dtype(config.dtype).itemsize
    if needed > size:
        raise ValueError(f"its sizes ask for {needed:,} bytes of parameters, more than it has")
    return build(head["kind"], config, TorchGenerator(0)), vocabulary


def judge_buffers(model: Model) -> None:
    """A variance below 0 is a ValueError."""
    for name, buffer in model.buffers().items():
        if name.endswith("running_var") and buffer.min() < 0:
            raise ValueError(f"buffers: {name} holds a negative number, {buffer.min()}")


def _config(values: dict[str, Any]) -> Config:
    known = [f.name for f in fields(Config)]
    for name in values:
        if name not in known:
            raise ValueError(f"unknown size {shown(name)} in its config")
    try:
        return Config(**values)
    except TypeError as error:
        raise ValueError(f"a size is missing in its config: {error}") from error


def _optimizer_state(entries: "dict[str, _Entry]", model: Model) -> dict[str, np.ndarray]:
    """Arrays of a number for each parameter and `count`, the whole number of steps taken."""
    state = {
        name: np.zeros((), np.int64) if name == "count" else np.zeros_like(model.data)
        for name in entries
    }
    if "count" in entries and entries["count"].dtype.kind != "i":
        raise ValueError(f"optimizer: count has dtype {entries['count'].dtype}, expected int64")
    fill(state, entries, "optimizer")
    for name in ("square", "count"):
        if name in state and state[name].min() < 0:
            raise ValueError(f"optimizer: {name} holds a negative number, {state[name].min()}")
    return state


def _generator_states(entries: "dict[str, _Entry]") -> dict[str, np.ndarray]:
    for name, entry in entries.items():
        if entry.dtype.kind not in "iu" or entry.length > LARGEST_GENERATOR:
            raise ValueError(f"generator: {shown(name)} is not the state of a random stream")
    return {name: np.asarray(entry) for name, entry in entries.items()}


def fill(targets: Mapping[str, np.ndarray], arrays: Mapping[str, Any], source: str) -> None:
    """Copy arrays into the targets of the same names. One that is missing, unknown, misshapen or
    not finite in the target's dtype is a ValueError by name."""
    for name in targets:
        if name not in arrays:
            raise ValueError(f"{source}: {name} is missing")
    for name, array in arrays.items():
        if name not in targets:
            raise ValueError(f"{source}: unknown entry {shown(name)}")
        target = targets[name]
        if array.shape != target.shape:
            shape = shown(array.shape)
            raise ValueError(f"{source}: {name} has shape {shape}, expected {target.shape}")
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{source}: {name} has dtype {array.dtype}, expected real numbers")
        with np.errstate(over="ignore"):
            target[...] = array
        if not np.isfinite(target).all():
            raise ValueError(f"{source}: {name} holds a number not finite in {target.dtype}")


def _head(entries: "dict[str, _Entry]") -> dict[str, Any]:
    """Take `meta` out of the entries: its JSON object, of the types that save writes."""
    meta = entries.pop("meta", None)
    if meta is None or meta.dtype.kind != "U" or meta.shape or meta.length > LARGEST_META:
        raise ValueError("no description of a model in it; expected a model saved by npnet train")
    return parsed(str(np.asarray(meta)))


def parsed(text: str) -> dict[str, Any]:
    """The head of a file from its JSON, of the types that `save` writes, else ValueError."""
    try:
        head = json.loads(text)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise ValueError("its description is no JSON object")
    if head.get("format") != FORMAT:
        raise ValueError(f"format {shown(head.get('format'))}; this npnet reads {FORMAT!r}")
    head.setdefault("data", "words")  # npnet 0.1 knew no other
    for name, kind in (
        ("kind", str),
        ("config", dict),
        ("data", str),
        ("characters", str),
        ("run", dict),
        ("entries", list),
    ):
        if not isinstance(head.get(name), kind):
            raise ValueError(f"{name} is {shown(head.get(name))}, expected a {kind.__name__}")
    if not all(isinstance(name, str) for name in head["entries"]):
        raise ValueError("entries holds something other than names")
    head["entries"] = dict.fromkeys(head["entries"])
    return head


class _Entry:
    """An array of the file: shape and dtype by its header; the numbers are read when NumPy asks."""

    def __init__(self, file: BinaryIO, start: int, length: int, checksum: int):
        self.file, self.start, self.length, self.checksum = file, start, length, checksum
        file.seek(start)
        magic, size = struct.unpack("<8sH", file.read(10))
        header = HEADER.fullmatch(file.read(min(size, 1000)))
        if magic != b"\x93NUMPY\1\0" or not header:
            raise ValueError("no array of numbers in C order")
        self.dtype = np.dtype(header[1].decode())
        self.shape = tuple(int(n) for n in header[2].split(b",") if n.strip())
        self.offset = 10 + size
        if self.offset + math.prod(self.shape) * self.dtype.itemsize != length:
            raise ValueError(f"shape {shown(self.shape)} does not fit its length")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self.file.seek(self.start)
        data = self.file.read(self.length)
        if len(data) != self.length or zlib.crc32(data) != self.checksum:
            raise ValueError("the file is damaged: a checksum does not fit")
        array = np.frombuffer(data, self.dtype, offset=self.offset).reshape(self.shape)
        return array if dtype is None else array.astype(dtype)


def _entries(file: BinaryIO) -> dict[str, _Entry]:
    """Name -> _Entry of each member of the archive."""
    entries: dict[str, _Entry] = {}
    try:
        for name, *where in _members(file):
            if name in entries:
                raise ValueError(f"{shown(name)} is there twice")
            try:
                entries[name] = _Entry(file, *where)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{shown(name)}: {error}") from error
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(FOREIGN) from error
    return entries


def _members(file: BinaryIO) -> Iterator[tuple[str, int, int, int]]:
    """(name, start, length, checksum) of each member, by the directory at the end of the zip
    archive and the header before each member (PKWARE's APPNOTE.TXT, section 4.3)."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 22))
    signature, count, length, first = struct.unpack("<4s6xH2I2x", file.read(22))
    if signature != b"PK\5\6" or first + length + 22 != size or length > LARGEST_DIRECTORY:
        raise ValueError(FOREIGN)
    file.seek(first)
    directory = io.BytesIO(file.read(length))
    left = first
    for _ in range(count):
        signature, flags, method, checksum, stored, length, n, extra, comment, offset = (
            struct.unpack("<4s4x2H4x3I3H8xI", directory.read(46))
        )
        name = directory.read(n)
        directory.seek(extra + comment, os.SEEK_CUR)
        file.seek(offset)
        local, n, extra = struct.unpack("<4s22x2H", file.read(30))
        if signature != b"PK\1\2" or local != b"PK\3\4" or file.read(n) != name:
            raise ValueError(FOREIGN)
        if method or flags & 1 or stored != length:
            raise ValueError(f"{shown(name.decode())} is compressed, as npnet train writes none")
        left -= length
        start = offset + 30 + n + extra
        if left < 0 or start + length > first:
            raise ValueError(f"{shown(name.decode())} is longer than the file has room for")
        yield name.decode().removesuffix(".npy"), start, length, checksum
