"""Running text: read exactly and in pieces, split, and windows of it as the lecture draws them."""

import codecs
import hashlib
import os
import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npnet import text as module
from npnet.data import DataError, Vocabulary
from npnet.random import TorchGenerator
from npnet.text import PLAY, Text, TextVocabulary, random_windows, read_text, split_text, visible

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)


@pytest.fixture
def written(tmp_path):
    def write(content: bytes):
        path = tmp_path / "text.txt"
        path.write_bytes(content)
        return path

    return write


def make(text: str) -> Text:
    vocabulary = TextVocabulary(text)
    return Text(vocabulary.encode(text), vocabulary, "")


@given(text=TEXTS, size=st.integers(1, 7))
def test_every_character_is_kept(text, size, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    text = text.removeprefix("\ufeff") or "a"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", size)  # characters of several bytes are cut in two
        read = read_text(path)
    assert read.vocabulary.decode(read.ids) == text
    assert read.vocabulary.characters == "".join(sorted(set(text)))
    assert len(read) == len(text)
    assert read.fingerprint == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("content", ["a.b\r\nc\n\n d\t\0", "日本\n語", "ω\u0301", "\r"])
def test_line_ends_and_full_stops_are_characters(written, content):
    read = read_text(written(content.encode()))
    assert read.vocabulary.decode(read.ids) == content


def test_a_byte_order_mark_is_dropped(written):
    read = read_text(written(codecs.BOM_UTF8 + b"ab"))
    assert read.vocabulary.characters == "ab" and len(read) == 2


@pytest.mark.parametrize("n, dtype", [(256, np.uint8), (257, np.uint16)])
def test_a_character_takes_a_byte_or_two(written, n, dtype):
    text = "".join(map(chr, range(1000, 1000 + n)))
    read = read_text(written(text.encode()))
    assert read.ids.dtype == dtype and read.ids.tolist() == list(range(n))


def test_a_text_is_held_once_at_a_byte_a_character(written):
    path = written(b"To be, or not to be: that is the question.\n" * 400_000)
    n = path.stat().st_size
    tracemalloc.start()
    try:
        text = read_text(path)
        split_text(text, 64)
        random_windows(text.ids, 64, 32, TorchGenerator(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(text) == n > 17_000_000
    assert peak < n + 25_000_000


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "the text is empty"),
        (codecs.BOM_UTF8, "the text is empty"),
        (b"ab\xff", "byte 0xff at position 2 is not UTF-8"),
        (b"ab\xc3", "byte 0xc3 at position 2 is not UTF-8"),
        (codecs.BOM_UTF8 + b"\xc3\xa9\xc3(", "byte 0xc3 at position 5 is not UTF-8"),
        ("ab".encode("utf-16"), "byte 0xff at position 0 is not UTF-8"),
        (b"a" * 10 + b"\xed\xa0\x80", "byte 0xed at position 10 is not UTF-8"),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 5, 1 << 20])
def test_a_text_that_cannot_be_used_is_told_in_one_line(
    written, content, message, size, monkeypatch
):
    monkeypatch.setattr(module, "_CHUNK", size)
    path = written(content)
    with pytest.raises(DataError) as info:
        read_text(path)
    assert str(info.value).startswith(f"{path}: {message}")
    assert "\n" not in str(info.value)


def test_what_is_no_file_or_too_large_is_refused(tmp_path, written, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [
        (tmp_path / "missing.txt", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "Not a regular file"),
    ]:
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: {reason}.*UTF-8 text"):
            read_text(path)
    monkeypatch.setattr(module, "LARGEST_TEXT", 3)
    with pytest.raises(DataError, match="4 bytes; 3 are the most"):
        read_text(written(b"abcd"))
    assert len(read_text(written(b"abc"))) == 3


@pytest.mark.parametrize("later", [b"abcabc", b"ab", b"abd"])
def test_a_file_that_changes_while_it_is_read_is_refused(written, later, monkeypatch):
    path = written(b"abc")

    def numbered(characters):
        path.write_bytes(later)
        return TextVocabulary(characters)

    monkeypatch.setattr(module, "TextVocabulary", numbered)
    with pytest.raises(DataError, match="changed while it was read"):
        read_text(path)


def test_our_own_text():
    text = read_text()
    assert text.vocabulary.decode(text.ids) == PLAY.read_bytes().decode()
    assert len(text) > 60_000 and "\n" in text.vocabulary.characters


# ---- the vocabulary


def test_a_text_vocabulary_reserves_nothing():
    vocabulary = TextVocabulary("b.a\n")
    assert vocabulary.characters == "\n.ab" and len(vocabulary) == 4
    assert vocabulary.encode("\n.ab").tolist() == [0, 1, 2, 3]
    assert vocabulary.decode([3, 1]) == "b."
    assert vocabulary.start == 0 and TextVocabulary("\tz\n").start == 1
    assert TextVocabulary("ab").start == 0
    assert vocabulary == TextVocabulary("\n.ab") and vocabulary != Vocabulary("\nab")
    assert TextVocabulary("ab") != Vocabulary("ab") and hash(vocabulary) == hash("\n.ab")
    assert repr(vocabulary) == r"TextVocabulary('\n.ab')"
    with pytest.raises(DataError, match="'c' in 'aaaaaaaaaacaaaaaaaaa' is not in the voc"):
        vocabulary.encode("a" * 30 + "c" + "a" * 30)


def test_a_text_by_the_numbers_of_another_vocabulary():
    text = make("cab")
    assert text.ids_in(text.vocabulary) is text.ids
    other = TextVocabulary("abcdé")
    assert other.decode(text.ids_in(other)) == "cab"
    with pytest.raises(DataError, match="'c' in the text is not in the vocabulary 'abd'"):
        text.ids_in(TextVocabulary("abd"))


# ---- parts and windows


@pytest.mark.parametrize("n, block_size", [(1, 1), (10, 1), (20, 2), (30, 3), (80, 8)])
def test_a_part_without_a_window_is_refused(n, block_size):
    with pytest.raises(DataError) as info:
        split_text(make("a" * n), block_size)
    train = int(0.9 * n)
    assert f"{n} characters, {train} to train on and {n - train} held out" in str(info.value)
    assert f"block_size = {block_size} each part needs at least {block_size + 1}" in str(info.value)


@pytest.mark.parametrize("n, block_size", [(20, 1), (40, 3), (90, 8), (1000, 99)])
def test_the_last_tenth_is_held_out(n, block_size):
    text = make("".join(map(chr, np.arange(n) % 50 + 40)))
    parts = split_text(text, block_size)
    assert list(parts) == ["train", "val"] and len(parts["train"]) == int(0.9 * n)
    assert np.array_equal(np.concatenate(list(parts.values())), text.ids)
    for ids in parts.values():
        random_windows(ids, block_size, 4, TorchGenerator(0))


def test_windows_are_the_lectures():
    ids = np.random.default_rng(0).integers(0, 65, 1000).astype(np.uint8)
    data = torch.tensor(ids, dtype=torch.long)
    generator, theirs = TorchGenerator(1337), torch.Generator().manual_seed(1337)
    for block_size, batch_size in ((8, 4), (32, 16), (999, 3), (1, 1)):
        x, y = random_windows(ids, block_size, batch_size, generator)
        ix = torch.randint(len(data) - block_size, (batch_size,), generator=theirs)
        assert x.dtype == y.dtype == np.int64
        assert np.array_equal(x, torch.stack([data[i : i + block_size] for i in ix]))
        assert np.array_equal(y, torch.stack([data[i + 1 : i + block_size + 1] for i in ix]))


def test_the_lectures_first_batch(tinyshakespeare):
    text = read_text(tinyshakespeare)
    assert len(text) == 1_115_394 and len(text.vocabulary) == 65 and text.ids.dtype == np.uint8
    x, y = random_windows(split_text(text, 8)["train"], 8, 4, TorchGenerator(1337))
    assert x.tolist()[0] == [24, 43, 58, 5, 57, 1, 46, 43]
    assert x.tolist()[1] == [44, 53, 56, 1, 58, 46, 39, 58]
    assert np.array_equal(x[:, 1:], y[:, :-1])


def test_what_could_control_a_terminal_is_escaped():
    assert visible("a\tb\n\x1b[31mé\r\x9b") == "a\tb\n\\x1b[31mé\\r\\x9b"
    assert visible("a\nb", also="") == "a\\nb"
    assert visible("\u202ea\u200cb\u200d") == "\\u202ea\u200cb\u200d"
