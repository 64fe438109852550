"""python -m benchmarks: every peer of a row does npnet's work, and what is measured is shown."""

import json
import re

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.measure import Peer, agree, summary, table
from benchmarks.rows import ROWS, Task
from benchmarks.step import makers
from npnet.data import read_words

WORDS = read_words()[:300]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ROWS)
def test_every_peer_finds_the_losses_of_npnet(name):
    task = Task(name, ROWS[name], WORDS)
    made = {}
    for peer, make in makers(task).items():
        try:
            made[peer] = make()
        except OSError:
            assert peer == "C"
    assert {"npnet", "torch", "products"} <= made.keys()
    agree(task, made)
    for peer in made.values():
        peer.train(peer.chunk)


def test_a_peer_that_does_other_work_is_named():
    task = Task("rnn", ROWS["rnn"], WORDS)
    peers = {"npnet": makers(task)["npnet"]()}
    one = peers["npnet"].check
    peers["lazy"] = Peer(lambda n: None, lambda x, y: [one(x, y)[0]] * 2)
    with pytest.raises(AssertionError, match="rnn: losses of two steps in lazy are"):
        agree(task, peers)


def test_a_ratio_is_the_median_over_the_turns():
    found = summary({"npnet": [1.0, 2.0, 9.0], "other": [2.0, 1.0, 3.0]})
    assert found["other"] == {"seconds": 2.0, "ratio": 2.0}
    assert found["npnet"]["ratio"] == 1.0


def test_what_is_absent_is_a_dash():
    lines = table(["row", "a", "b"], [["x", 1.5, None]]).splitlines()
    assert lines == ["| row |   a | b |", "|-----|----:|--:|", "| x   | 1.5 | - |"]


def test_the_step_command_prints_a_table_and_writes_json(tmp_path, capsys):
    file = tmp_path / "words.txt"
    file.write_text("\n".join(WORDS))
    options = ["--seconds", "0.01", "--only", "products", "-i", str(file)]
    assert main(["step", "bigram", *options, "--json", str(tmp_path / "found.json")]) == 0
    printed = capsys.readouterr()
    found = json.loads((tmp_path / "found.json").read_text())
    row = found["step"]["rows"]["bigram"]
    assert re.search(rf"\| bigram .*\| *{row['products']['ratio']:.2f} \|", printed.out)
    assert np.isfinite(row["npnet"]["seconds"]) and found["machine"]["numpy"] == np.__version__
    assert "step 1/1: bigram" in printed.err


def test_an_unknown_row_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["step", "perceptron"])
    assert caught.value.code == 2
    assert "unknown row perceptron; there are mlp" in capsys.readouterr().err
