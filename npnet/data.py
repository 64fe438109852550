"""Words from a file, and the examples that the models train on.

read_words -> Vocabulary -> split -> build_dataset (windows) or build_sequences (whole words).
Characters are numbered from 1 in sorted order; 0 is '.', which stands for the start, the end and
the padding of a word and so cannot be part of one. Any fault in the words is a DataError of one
line, which names the file and the line if there is one.

Examples are Rows: they lie in one text of small integers and are copied only when they are asked
for, as int64, so that a million words take little more than their characters.

Sizes: N examples, T the longest context (block_size).
"""

import codecs
import errno
import os
import random
import reprlib
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.lib.stride_tricks import sliding_window_view


def our_own(name: str) -> Path:
    """Where a file that comes with npnet is: beside the modules in a wheel, above them in a
    clone."""
    path = Path(__file__).with_name(name)
    return path if path.exists() else Path(__file__).parents[1] / name


NAMES = our_own("names.txt")
LONGEST_WORD = 1000
LARGEST_FILE = 100_000_000  # bytes
_CHUNK = 1 << 20  # characters translated at a time


class DataError(ValueError):
    """Words that cannot be used, with a message for the person who supplied them."""


def open_regular(path: str | Path, mode: Literal["rb", "r+b", "ab"] = "rb") -> BinaryIO:
    """The open file. Anything but a regular file, such as a pipe, a device or a folder, is an
    OSError at once: nothing is waited for."""
    file = open(path, mode, opener=_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)


def read_words(path: str | Path = NAMES) -> list[str]:
    """The words of a UTF-8 text file, one per line, in the file's order and with its duplicates.

    A line ends with LF, CRLF or CR. White space around a word is stripped, a blank line is skipped,
    a byte order mark is ignored. A '.' in a word or more than LONGEST_WORD characters are a
    DataError, as are a file without a word, one of more than LARGEST_FILE bytes, and a pipe, a
    device or a folder.
    """
    try:
        with open_regular(path) as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; expected a text file with one word per line"
        ) from error
    if len(data) > LARGEST_FILE:
        raise DataError(f"{path}: more than {LARGEST_FILE:,} bytes, the most that npnet reads")
    words = []
    for number, line in enumerate(data.removeprefix(codecs.BOM_UTF8).splitlines(), start=1):
        try:
            word = line.decode().strip()
        except UnicodeDecodeError as error:
            byte = line[error.start]
            raise DataError(
                f"{path}:{number}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
            ) from error
        if "\0" in word:  # UTF-16 without a mark and most binary files would otherwise pass as text
            raise DataError(
                f"{path}:{number}: a zero byte; expected UTF-8 text with one word per line"
            )
        if len(word) > LONGEST_WORD:
            raise DataError(
                f"{path}:{number}: {len(word)} characters; a word has at most {LONGEST_WORD}"
            )
        if "." in word:
            raise DataError(
                f"{path}:{number}: '.' in {reprlib.repr(word)} is reserved for the end of a word; "
                "remove it"
            )
        if word:
            words.append(word)
    if not words:
        raise DataError(f"{path}:1: the file holds no words; expected one word per line")
    return words


class Vocabulary:
    """The characters of some words, numbered from 1 in sorted order, and '.' as 0.

    `characters` is all there is to save: `Vocabulary(vocabulary.characters) == vocabulary`, each
    character being a word of its own.

        stoi, itos    dict from character to number and back, '.' included
        len()         how many numbers there are, '.' included
    """

    boundary = "."

    def __init__(self, words: Iterable[str]):
        self.characters = "".join(sorted(set().union(*words)))
        if not self.characters:
            raise DataError("a vocabulary needs at least one character, and there is none")
        if self.boundary and self.boundary in self.characters:
            raise DataError(
                "'.' is reserved for the end of a word and cannot be a character of one"
            )
        self.itos = dict(enumerate(self.boundary + self.characters))
        self.stoi = {character: number for number, character in self.itos.items()}
        codes = code_points(self.boundary + self.characters)
        self._ids = np.full(codes.max() + 2, -1, np.min_scalar_type(-len(codes)))
        self._ids[codes] = np.arange(len(codes))

    def __len__(self) -> int:
        return len(self.itos)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.characters!r})"

    def encode(self, text: str) -> np.ndarray:
        """The number of each character, (len(text),). '.' is 0, so words joined by '.' can be
        encoded at once."""
        return self.encode_small(text).astype(np.int64)

    def encode_small(self, text: str) -> np.ndarray:
        """The same in the smallest dtype that also has room for -1."""
        ids = np.empty(len(text), self._ids.dtype)
        for start in range(0, len(text), _CHUNK):
            codes = code_points(text[start : start + _CHUNK])
            self._ids.take(codes, mode="clip", out=ids[start : start + _CHUNK])
        if ids.min(initial=0) < 0:
            place = int(ids.argmin())
            raise DataError(
                f"{text[place]!r} in {reprlib.repr(self._around(text, place))} is not in the "
                f"vocabulary {reprlib.repr(self.characters)}"
            )
        return ids

    def _around(self, text: str, place: int) -> str:
        """The word in which the place lies."""
        return text[:place].rpartition(".")[2] + text[place:].partition(".")[0]

    def decode(self, ids: Iterable[int]) -> str:
        """The characters with these numbers, one for each: a 0 becomes '.' and does not stop."""
        try:
            return "".join([self.itos[number] for number in np.asarray(ids).tolist()])
        except KeyError as error:
            raise DataError(
                f"{error.args[0]} is no character; the vocabulary has 0 to {len(self) - 1}"
            ) from None


def code_points(text: str) -> np.ndarray:
    """The code point of each character, uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


class Rows(NDArrayOperatorsMixin):
    """Examples (N, T), or (N,) where width is None, that are read like an array of int64: by len,
    shape, [], take and NumPy's functions. What is not asked for is not copied.

    Row i is text[starts[i] : starts[i] + width], from place lengths[i] on filled with `fill`.
    """

    def __init__(
        self,
        text: np.ndarray,
        starts: np.ndarray,
        width: int | None = None,
        lengths: np.ndarray | None = None,
        fill: int = 0,
    ):
        self.shape = starts.shape if width is None else (len(starts), width)
        self._windows = text if width is None else sliding_window_view(text, width)
        self._starts, self._lengths, self._fill = starts, lengths, fill
        if lengths is not None:
            self._places = np.arange(self.shape[1], dtype=lengths.dtype)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, tuple) or (isinstance(index, np.ndarray) and index.dtype.kind == "b"):
            return np.asarray(self)[index]
        rows = self._windows[self._starts[index]].astype(np.int64)
        if self._lengths is not None:
            np.putmask(rows, self._places >= self._lengths[index][..., None], self._fill)
        return rows

    def take(self, indices: Any, axis: int = 0) -> np.ndarray:
        return self[indices]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.int64, copy=False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        inputs = tuple(np.asarray(x) if isinstance(x, Rows) else x for x in inputs)
        return getattr(ufunc, method)(*inputs, **options)


Examples = Rows | np.ndarray


def build_dataset(
    words: Sequence[str], vocabulary: Vocabulary, block_size: int = 3
) -> tuple[Rows, Rows]:
    """Each character, and the '.' at the end, with the block_size characters before it -> x (N,
    block_size), y (N,).

    Before a word stand zeros: 'ab' with a block of three gives 0 0 0 -> a, 0 0 a -> b, 0 a b ->
    '.'. N is the number of characters plus the number of words.
    """
    numbers = _join(words, vocabulary, block_size)
    n = len(numbers)
    # In the text each word has block_size zeros before it, and the last one has one behind it: a
    # window begins one further for each character, and block_size further from word to word.
    size = n + len(words) * (block_size - 1) + 1
    starts = np.zeros(n, np.min_scalar_type(-size))
    np.cumsum(numbers[:-1] == 0, dtype=starts.dtype, out=starts[1:])
    starts *= block_size - 1
    starts += np.arange(n, dtype=starts.dtype)
    text = np.zeros(size, numbers.dtype)
    text[block_size:][starts] = numbers
    return Rows(text, starts, block_size), Rows(text[block_size:], starts)


def build_sequences(
    words: Sequence[str], vocabulary: Vocabulary, block_size: int
) -> tuple[Rows, Rows]:
    """Each word w as one row: x = [0, w, 0...] and y = [w, 0, -1...] -> x, y (number of words, T),
    T = block_size.

    y[i, t] follows x[i, :t + 1]; -1 is not to be predicted. A word needs len(w) + 1 places.
    """
    numbers = _join(words, vocabulary, block_size)
    text = np.zeros(1 + len(numbers) + block_size, numbers.dtype)
    text[1 : 1 + len(numbers)] = numbers
    ends = np.flatnonzero(numbers == 0)
    starts = np.zeros(len(words), np.min_scalar_type(-len(text)))
    starts[1:] = ends[:-1] + 1
    lengths = (ends + 1 - starts).astype(starts.dtype)  # the '.' included
    if lengths.max() > block_size:
        word = words[int(lengths.argmax())]
        raise DataError(
            f"{reprlib.repr(word)} and its '.' need a block of {len(word) + 1}; "
            f"block_size is {block_size}"
        )
    x = Rows(text, starts, block_size, lengths, fill=0)
    return x, Rows(text[1:], starts, block_size, lengths, fill=-1)


def _join(words: Sequence[str], vocabulary: Vocabulary, block_size: int) -> np.ndarray:
    """The words as numbers one after the other, with a 0 behind each and nowhere else."""
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}, but the context has at least one character")
    if not words:
        raise DataError("there are no words to make examples of; at least one is needed")
    text = ".".join(words) + "."
    if text.count(".") != len(words):
        word = next(word for word in words if "." in word)
        raise DataError(f"'.' in {reprlib.repr(word)} is reserved for the end of a word")
    return vocabulary.encode_small(text)


def split(words: Sequence[str], seed: int = 42) -> tuple[list[str], list[str], list[str]]:
    """Training, validation and test words, 80 : 10 : 10.

    They are in the order of `random.seed(seed); random.shuffle(words)`.
    """
    if len(words) < 6:  # the fewest for which int(0.8 * n) and int(0.9 * n) leave no part empty
        raise DataError(
            f"too few words to split into training, validation and test: {len(words)}, "
            "at least 6 are needed"
        )
    shuffled = list(words)
    random.Random(seed).shuffle(shuffled)
    first, second = int(0.8 * len(words)), int(0.9 * len(words))
    return shuffled[:first], shuffled[first:second], shuffled[second:]
