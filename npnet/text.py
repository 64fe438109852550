"""Running text from a file, as one small integer a character, and random windows of it.

read_text -> split_text -> random_windows. Every character counts, line ends and '.' included; they
are numbered from 0 in sorted order, and none stands for a start or an end. A text of a gigabyte is
read in pieces and held once, with one byte per character, or two where it has more than 256
different ones. Any fault in a text is a DataError of one line.

Sizes: n characters, B windows, T the characters that a window predicts (block_size).
"""

import codecs
import hashlib
import os
import reprlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from npnet.data import NAMES, DataError, Vocabulary, code_points, open_regular, our_own, read_words
from npnet.random import TorchGenerator

PLAY = our_own("play.txt")
LARGEST_TEXT = 10_000_000_000  # bytes
_CHUNK = 1 << 20  # bytes decoded at a time


class TextVocabulary(Vocabulary):
    """The characters of a text, numbered from 0 in sorted order: '.' is one like any other."""

    boundary = ""

    @property
    def start(self) -> int:
        """What a text without a beginning follows: the number of the line end, or 0."""
        return self.stoi.get("\n", 0)

    def _around(self, text: str, place: int) -> str:
        return text[max(0, place - 10) : place + 10]


class Text:
    """A text as the number of each of its characters in `vocabulary`.

    ids           (n,) in the smallest unsigned dtype that holds them
    fingerprint   the SHA-256 of the text in UTF-8, in hexadecimal
    len()         n
    """

    def __init__(self, ids: np.ndarray, vocabulary: TextVocabulary, fingerprint: str):
        self.ids, self.vocabulary, self.fingerprint = ids, vocabulary, fingerprint

    def __len__(self) -> int:
        return len(self.ids)

    def ids_in(self, vocabulary: TextVocabulary) -> np.ndarray:
        """The same characters by their numbers in another vocabulary; one that it lacks is a
        DataError."""
        if vocabulary == self.vocabulary:
            return self.ids
        for character in self.vocabulary.characters:
            if character not in vocabulary.stoi:
                known = reprlib.repr(vocabulary.characters)
                raise DataError(f"{character!r} in the text is not in the vocabulary {known}")
        return vocabulary.encode_small(self.vocabulary.characters)[self.ids]


def read_text(path: str | Path = PLAY) -> Text:
    """The Text of a UTF-8 file, its line ends as they are; only a byte order mark is dropped.

    A file without a character, one of more than LARGEST_TEXT bytes, one that is not UTF-8, and a
    pipe, a device or a folder are a DataError. The file is read twice, once for its characters and
    once for their numbers.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_TEXT:
                raise DataError(f"{size:,} bytes; {LARGEST_TEXT:,} are the most that npnet reads")
            return _read(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected a UTF-8 text file") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__


def _read(file: BinaryIO) -> Text:
    seen = np.zeros(sys.maxunicode + 1, bool)
    n = 0
    for codes, _ in _decoded(file):
        seen[codes] = True
        n += len(codes)
    if n == 0:
        raise DataError("the text is empty; expected at least one character")
    vocabulary = TextVocabulary(map(chr, np.flatnonzero(seen).tolist()))
    numbers = np.cumsum(seen, dtype=np.int32)
    numbers -= 1
    numbers = numbers.astype(np.min_scalar_type(len(vocabulary) - 1))
    ids = np.empty(n, numbers.dtype)
    digest, done = hashlib.sha256(), 0
    for codes, data in _decoded(file):
        stop = done + len(codes)
        if stop > n or not seen[codes].all():
            break
        ids[done:stop] = numbers[codes]
        digest.update(data)
        done = stop
    if done != n:
        raise DataError("the file changed while it was read")
    return Text(ids, vocabulary, digest.hexdigest())


def _decoded(file: BinaryIO) -> Iterator[tuple[np.ndarray, bytes]]:
    """The code points of the whole file, piece by piece, and the bytes that were read for them."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    place = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    file.seek(place)
    while True:
        data = file.read(_CHUNK)
        begun = len(decoder.getstate()[0])  # bytes of a character of which the rest follows
        try:
            text = decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise DataError(
                f"byte 0x{error.object[error.start]:02x} at position "
                f"{place - begun + error.start:,} is not UTF-8; save the file as UTF-8"
            ) from error
        if not data:
            return
        place += len(data)
        yield code_points(text), data


def split_text(text: Text, block_size: int) -> dict[str, np.ndarray]:
    """The first nine tenths to train on and the rest: {"train": ids, "val": ids}.

    Each has to hold one window, which is a block and the character after it.
    """
    n = int(0.9 * len(text))
    if len(text) - n <= block_size or n <= block_size:
        raise DataError(
            f"the text has {len(text):,} characters, {n:,} to train on and {len(text) - n:,} held "
            f"out; with block_size = {block_size:,} each part needs at least {block_size + 1:,}"
        )
    return {"train": text.ids[:n], "val": text.ids[n:]}


def random_windows(
    ids: np.ndarray, block_size: int, batch_size: int, generator: TorchGenerator
) -> tuple[np.ndarray, np.ndarray]:
    """x, y (B, T) int64: block_size characters from a random place on, B times, and the same one
    character further. The places are one generator.randint."""
    starts = generator.randint(0, len(ids) - block_size, (batch_size,))
    windows = ids[starts[:, None] + np.arange(block_size + 1)].astype(np.int64)
    return windows[:, :-1], windows[:, 1:]


def visible(text: str, also: str = "\n\t") -> str:
    """The text with every character escaped that is neither printable, nor one of `also`, nor a
    joiner, with which Persian, Sinhala and emoji are spelled."""
    shown = also + "\u200c\u200d"
    return "".join(
        c if c.isprintable() or c in shown else c.encode("unicode_escape").decode() for c in text
    )


class Data(NamedTuple):
    """A kind of data that a model is trained on."""

    name: str
    another: str  # one that is not the run's own
    unit: str  # what len() of it counts
    read: Callable[[str | Path], Any]
    default_file: Path
    vocabulary: type[Vocabulary]


WORDS = Data("words", "another list of words", "words", read_words, NAMES, Vocabulary)
TEXT = Data("text", "another text", "characters", read_text, PLAY, TextVocabulary)
