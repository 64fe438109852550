import os
import random
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npnet import data
from npnet.data import (
    NAMES,
    DataError,
    Vocabulary,
    build_dataset,
    build_sequences,
    read_words,
    split,
)

# Few characters, so that they repeat; some sort before '.', some need two bytes or four.
word = st.text("ab-' zéß李😀", max_size=6)
word_lists = st.lists(word, min_size=1, max_size=12).filter(any)


def naive_dataset(words, vocabulary, block_size):
    x, y = [], []
    for w in words:
        context = [0] * block_size
        for character in w + ".":
            x.append(context)
            y.append(vocabulary.stoi[character])
            context = [*context[1:], y[-1]]
    return np.array(x), np.array(y)


def naive_sequences(words, vocabulary, block_size):
    x = np.zeros((len(words), block_size), np.int64)
    y = np.full((len(words), block_size), -1)
    for i, w in enumerate(words):
        for t, character in enumerate(w):
            x[i, t + 1] = y[i, t] = vocabulary.stoi[character]
        y[i, len(w)] = 0
    return x, y


def assert_same(got, expected):
    """The Rows read as the arrays that are expected, whole and in every part."""
    for rows, array in zip(got, expected, strict=True):
        assert len(rows) == len(array) and rows.shape == array.shape
        order = np.random.default_rng(0).integers(0, len(array), (2, 5))
        for index in (slice(None), slice(1, 3), slice(None, None, -2), order[0], order, 0, -1):
            assert_equal(rows[index], array[index])
        assert_equal(rows.take(order[0], axis=0), array.take(order[0], axis=0))
        assert_equal(rows == 1, array == 1)
        assert_equal(rows[..., :1], array[..., :1])
        assert_equal(rows[array == 1], array[array == 1])
        assert_equal(np.asarray(rows), array)
        with pytest.raises(IndexError):
            rows[len(array)]


def assert_equal(got, expected):
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected, strict=True)


# ---- reading


@pytest.fixture
def written(tmp_path):
    def write(content: bytes) -> Path:
        path = tmp_path / "words.txt"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize(
    "content, words",
    [
        (b"emma\nolivia\nava\n", ["emma", "olivia", "ava"]),
        (b"emma\nolivia\nava", ["emma", "olivia", "ava"]),
        (b"emma\r\nolivia\r\n", ["emma", "olivia"]),
        (b"emma\rolivia\r", ["emma", "olivia"]),
        (b"\n  emma\t\n\n   \nolivia \n\n", ["emma", "olivia"]),
        (b"\xef\xbb\xbfemma\n", ["emma"]),
        (b"b\na\nb\nb\n", ["b", "a", "b", "b"]),
        ("mary ann\no'neil\nzoë\n李\n".encode(), ["mary ann", "o'neil", "zoë", "李"]),
        (b"a" * 1000 + b"\n", ["a" * 1000]),
    ],
)
def test_read_words(written, content, words):
    assert read_words(written(content)) == words
    assert read_words(str(written(content))) == words


@pytest.mark.parametrize(
    "content, line, message",
    [
        (b"", 1, "no words"),
        (b"\n \r\n\n", 1, "no words"),
        (b"\xef\xbb\xbf", 1, "no words"),
        (b"emma\nzo\xeb\nava\n", 2, "0xeb is not UTF-8"),
        ("emma\nolivia\n".encode("utf-16"), 1, "is not UTF-8"),
        ("emma\nolivia\n".encode("utf-16-le"), 1, "zero byte"),
        (b"emma\n\n" + b"a" * 1001, 3, "1001 characters"),
        (b"emma\nst.john\n", 2, "'.' in 'st.john' is reserved"),
    ],
)
def test_read_words_names_file_and_line(written, content, line, message):
    path = written(content)
    with pytest.raises(DataError) as info:
        read_words(path)
    assert str(info.value).startswith(f"{path}:{line}: ")
    assert message in str(info.value)
    assert "\n" not in str(info.value)


def test_read_words_from_what_is_no_file(tmp_path, written, monkeypatch):
    file = written(b"emma\n")
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path / "missing.txt", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "Not a regular file"),
        (Path("/dev/zero"), "Not a regular file"),
        (file / "names.txt", "Not a directory"),
    ]:
        with pytest.raises(
            DataError, match=f"^{re.escape(str(path))}: {reason}.*; expected a text file"
        ):
            read_words(path)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(data, "open_regular", denied)
    with pytest.raises(DataError, match=r"words\.txt: Permission denied; expected"):
        read_words(file)


def test_a_file_beyond_all_measure(tmp_path):
    with open(tmp_path / "words.txt", "wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match=r"words\.txt: more than 100,000,000 bytes"):
        read_words(tmp_path / "words.txt")


# ---- vocabulary


def test_vocabulary_of_the_lectures():
    vocabulary = Vocabulary(["emma", "olivia"])
    assert vocabulary.characters == "aeilmov"
    assert vocabulary.stoi == {".": 0, "a": 1, "e": 2, "i": 3, "l": 4, "m": 5, "o": 6, "v": 7}
    assert vocabulary.itos == {number: character for character, number in vocabulary.stoi.items()}
    assert len(vocabulary) == 8
    assert vocabulary.encode("emma.").tolist() == [2, 5, 5, 1, 0]
    assert vocabulary.decode([2, 5, 5, 1, 0, 0, 1]) == "emma..a"
    assert repr(vocabulary) == "Vocabulary('aeilmov')"


@given(word_lists)
def test_vocabulary_round_trips(words):
    vocabulary = Vocabulary(words)
    assert list(vocabulary.itos) == list(range(len(vocabulary)))
    assert [vocabulary.stoi[c] for c in sorted(set("".join(words)))] == list(
        range(1, len(vocabulary))
    )
    for w in words:
        numbers = vocabulary.encode(w)
        assert numbers.dtype == np.int64 and numbers.shape == (len(w),)
        assert vocabulary.decode(numbers) == w == vocabulary.decode(numbers.tolist())
    again = Vocabulary(vocabulary.characters)
    assert again == vocabulary and hash(again) == hash(vocabulary) and again.stoi == vocabulary.stoi
    assert Vocabulary([*words, "q"]) != vocabulary != vocabulary.characters


def test_vocabulary_says_what_it_does_not_know():
    vocabulary = Vocabulary("abc")
    with pytest.raises(DataError, match=r"^'d' in 'bad' is not in the vocabulary 'abc'$"):
        vocabulary.encode("bad")
    with pytest.raises(DataError, match=r"^'d' in 'bad' is not in the vocabulary 'abc'$"):
        build_dataset(["cab", "bad", "dad"], vocabulary)
    for number in (4, -1):
        with pytest.raises(
            DataError, match=f"^{number} is no character; the vocabulary has 0 to 3$"
        ):
            vocabulary.decode([1, number])
    for words, message in (
        ([], "at least one character"),
        ([""], "at least one character"),
        (["a.b"], "reserved"),
    ):
        with pytest.raises(DataError, match=message):
            Vocabulary(words)


# ---- examples


@given(word_lists, st.integers(1, 9))
@example(words=["", "a", ""], block_size=1)
def test_build_dataset_equals_the_loop(words, block_size):
    vocabulary = Vocabulary(words)
    assert_same(
        build_dataset(words, vocabulary, block_size), naive_dataset(words, vocabulary, block_size)
    )


@given(word_lists, st.integers(0, 4))
@example(words=["", "a", ""], extra=0)
def test_build_sequences_equals_the_loop(words, extra):
    vocabulary = Vocabulary(words)
    block_size = max(map(len, words)) + 1 + extra
    assert_same(
        build_sequences(words, vocabulary, block_size),
        naive_sequences(words, vocabulary, block_size),
    )


def test_examples_by_eye():
    vocabulary = Vocabulary("ab")
    x, y = build_dataset(["ab", "b"], vocabulary)
    assert x[:].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 0, 0], [0, 0, 2]]
    assert y[:].tolist() == [1, 2, 0, 2, 0]
    x, y = build_sequences(["ab", "b"], vocabulary, 4)
    assert x[:].tolist() == [[0, 1, 2, 0], [0, 2, 0, 0]]
    assert y[:].tolist() == [[1, 2, 0, -1], [2, 0, -1, -1]]


def test_a_word_longer_than_the_block():
    vocabulary = Vocabulary(["emma", "olivia"])
    build_sequences(["emma", "olivia"], vocabulary, 7)
    with pytest.raises(
        DataError, match=r"^'olivia' and its '\.' need a block of 7; block_size is 6$"
    ):
        build_sequences(["emma", "olivia"], vocabulary, 6)


@pytest.mark.parametrize("build", [build_dataset, build_sequences])
def test_examples_of_bad_input(build):
    vocabulary = Vocabulary("ab")
    for block_size in (0, -1):
        with pytest.raises(ValueError, match=f"block_size is {block_size}"):
            build(["ab"], vocabulary, block_size)
    with pytest.raises(DataError, match="no words"):
        build([], vocabulary, 3)
    with pytest.raises(DataError, match=r"'\.' in 'a\.b' is reserved"):
        build(["ab", "a.b"], vocabulary, 5)


@pytest.mark.parametrize("build", [build_dataset, build_sequences])
def test_a_long_word_among_many_is_not_paid_for_by_all(build):
    words = ["emma"] * 100_000 + ["a" * 1000]
    tracemalloc.start()
    x, y = build(words, Vocabulary(words), 8 if build is build_dataset else 1001)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # as arrays of int64 they would take 64 MB and 1.6 GB
    assert y[-1].tolist() == (0 if build is build_dataset else [1] * 1000 + [0])
    assert x[-1].tolist() == ([1] * 8 if build is build_dataset else [0] + [1] * 1000)


# ---- split


@given(st.lists(word, min_size=6), st.integers(0, 2**40))
def test_split_is_the_shuffle_of_the_random_module(words, seed):
    before = list(words)
    parts = split(words, seed)
    assert words == before
    expected = list(words)
    random.seed(seed)
    random.shuffle(expected)
    assert [w for part in parts for w in part] == expected
    n = len(words)
    assert [len(part) for part in parts] == [
        int(0.8 * n),
        int(0.9 * n) - int(0.8 * n),
        n - int(0.9 * n),
    ]


def test_split_leaves_the_global_generator_alone():
    state = random.getstate()
    assert split("abcdefghij") == split("abcdefghij", seed=42)
    assert random.getstate() == state


def test_split_never_leaves_a_part_empty():
    assert all(all(split(range(n))) for n in range(6, 500))
    for n in range(6):
        with pytest.raises(DataError, match=f"^too few words .*: {n}, at least 6 are needed$"):
            split(["a"] * n)


# ---- the two names files


def test_shapes_of_the_lectures(makemore_names):
    words = read_words(makemore_names)
    vocabulary = Vocabulary(words)
    assert len(words) == 32033
    assert len(vocabulary) == 27
    assert build_dataset(words[:3], vocabulary)[0].shape == (16, 3)
    shapes = [build_dataset(part, vocabulary)[0].shape for part in split(words)]
    assert shapes == [(182625, 3), (22655, 3), (22866, 3)]
    assert build_sequences(words, vocabulary, 16)[0].shape == (32033, 16)


def test_the_whole_file_takes_no_time(makemore_names):
    words = read_words(makemore_names)
    vocabulary = Vocabulary(words)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        x, _ = build_dataset(words, vocabulary)
        times.append(time.perf_counter() - start)
    assert x.shape == (228146, 3)
    assert min(times) < 0.25


def test_our_names():
    words = read_words()
    assert NAMES.name == "names.txt" and NAMES.parent in Path(data.__file__).parents
    assert len(words) >= 5000
    assert len(set(words)) == len(words)
    assert [w for w in words if not re.fullmatch("[a-z]{2,15}", w)] == []
    assert NAMES.read_bytes() == "".join(w + "\n" for w in words).encode()
