"""Words from a file, and the arrays that the models train on.

read_words -> Vocabulary -> split -> build_dataset (windows) or build_sequences (whole words).
Characters are numbered from 1 in sorted order; 0 is '.', which stands for the start, the end and
the padding of a word and so cannot be part of one. Whatever is wrong with the words is a DataError
of one line, which names the file and the line where there is one.

Sizes: N examples, T the longest context (block_size). Arrays of numbers are int64.
"""

import codecs
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

NAMES = Path(__file__).with_name("names.txt")  # where a wheel has it
if not NAMES.exists():
    NAMES = Path(__file__).parents[1] / "names.txt"  # and a clone
LONGEST_WORD = 1000


class DataError(ValueError):
    """Words that cannot be used, with a message for the person who supplied them."""


def read_words(path: str | Path = NAMES) -> list[str]:
    """The words of a UTF-8 text file, one a line, in the file's order and with its duplicates.

    A line ends with LF, CRLF or CR. White space around a word is stripped, a blank line is skipped,
    a byte order mark is ignored. A '.' in a word or more than LONGEST_WORD characters are a
    DataError, as is a file without a word.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: {error.strerror}; expected a text file with one word a line"
        ) from error
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
                f"{path}:{number}: a zero byte; expected UTF-8 text with one word a line"
            )
        if len(word) > LONGEST_WORD:
            raise DataError(
                f"{path}:{number}: {len(word)} characters; a word has at most {LONGEST_WORD}"
            )
        if "." in word:
            raise DataError(
                f"{path}:{number}: '.' in {word!r} is reserved for the end of a word; remove it"
            )
        if word:
            words.append(word)
    if not words:
        raise DataError(f"{path}:1: the file holds no words; expected one word a line")
    return words


class Vocabulary:
    """The characters of some words, numbered from 1 in sorted order, and '.' as 0.

    `characters` is all there is to save: `Vocabulary(vocabulary.characters) == vocabulary`, each
    character being a word of its own.

        stoi, itos    dict from character to number and back, '.' included
        len()         how many numbers there are, '.' included
    """

    def __init__(self, words: Iterable[str]):
        self.characters = "".join(sorted(set().union(*words)))
        if not self.characters:
            raise DataError("a vocabulary needs at least one character, and there is none")
        if "." in self.characters:
            raise DataError(
                "'.' is reserved for the end of a word and cannot be a character of one"
            )
        self.itos = dict(enumerate("." + self.characters))
        self.stoi = {character: number for number, character in self.itos.items()}

    def __len__(self) -> int:
        return len(self.itos)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.characters == other.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __repr__(self) -> str:
        return f"Vocabulary({self.characters!r})"

    def encode(self, text: str) -> np.ndarray:
        """The number of each character, (len(text),). '.' is 0, so words joined by '.' can be
        encoded at once."""
        try:
            return np.fromiter(map(self.stoi.__getitem__, text), np.int64, count=len(text))
        except KeyError as error:
            character = error.args[0]
            before, _, after = text.partition(character)
            word = before.rpartition(".")[2] + character + after.partition(".")[0]
            raise DataError(
                f"{character!r} in {word!r} is not in the vocabulary {self.characters!r}"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """The characters with these numbers, one for each: a 0 becomes '.' and does not stop."""
        try:
            return "".join([self.itos[number] for number in np.asarray(ids).tolist()])
        except KeyError as error:
            raise DataError(
                f"{error.args[0]} is no character; the vocabulary has 0 to {len(self) - 1}"
            ) from None


def build_dataset(
    words: Sequence[str], vocabulary: Vocabulary, block_size: int = 3
) -> tuple[np.ndarray, np.ndarray]:
    """Each character, and the '.' at the end, with the block_size characters before it -> x (N,
    block_size), y (N,).

    Before a word stand zeros: 'ab' with a block of three gives 0 0 0 -> a, 0 0 a -> b, 0 a b ->
    '.'. N is the number of characters plus the number of words.
    """
    y = _join(words, vocabulary, block_size)
    x = np.zeros((len(y), block_size), np.int64)
    # One place further left is what the example before saw, unless that one ended a word.
    same_word, column = y[:-1] != 0, y
    for place in reversed(range(block_size)):
        np.multiply(column[:-1], same_word, out=x[1:, place])
        column = x[:, place]
    return x, y


def build_sequences(
    words: Sequence[str], vocabulary: Vocabulary, block_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Each word w as one row: x = [0, w, 0...] and y = [w, 0, -1...] -> x, y (number of words, T),
    T = block_size.

    y[i, t] follows x[i, :t + 1]; -1 is not to be predicted. A word needs len(w) + 1 places.
    """
    numbers = _join(words, vocabulary, block_size)
    lengths = np.diff(np.flatnonzero(numbers == 0), prepend=-1)  # the '.' included
    if lengths.max() > block_size:
        word = words[int(lengths.argmax())]
        raise DataError(
            f"{word!r} and its '.' need a block of {len(word) + 1}; block_size is {block_size}"
        )
    y = np.full((len(words), block_size), -1, np.int64)
    y[np.arange(block_size) < lengths[:, None]] = numbers
    x = np.zeros_like(y)
    np.maximum(y[:, :-1], 0, out=x[:, 1:])
    return x, y


def _join(words: Sequence[str], vocabulary: Vocabulary, block_size: int) -> np.ndarray:
    """The words as numbers one after the other, with a 0 behind each and nowhere else."""
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}, but the context has at least one character")
    if not words:
        raise DataError("there are no words to make examples of; at least one is needed")
    text = ".".join(words) + "."
    if text.count(".") != len(words):
        word = next(word for word in words if "." in word)
        raise DataError(f"'.' in {word!r} is reserved for the end of a word")
    return vocabulary.encode(text)


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
