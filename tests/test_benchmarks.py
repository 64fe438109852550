"""python -m benchmarks: every peer of a row does npnet's work, and what is measured is shown."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from time import monotonic, process_time, sleep

import numpy as np
import pytest

from benchmarks import bounds, generate, habits, imports, ranks, runs, scale
from benchmarks.__main__ import main
from benchmarks.apart import Apart
from benchmarks.measure import Peer, agree, summary, table
from benchmarks.rows import ROWS, TEXT_ROWS, Task, TextTask
from benchmarks.step import library_peers, npnet_peer, numpy_peers
from npnet.data import read_words
from npnet.ops import constants
from oracle.model_cases import MODEL_CASES

WORDS = read_words()[:300]


def cells(printed):
    return {cell.strip() for cell in printed.replace("\n", "|").split("|")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ROWS)
def test_every_peer_finds_the_losses_of_npnet(name):
    task = Task(name, ROWS[name], WORDS)
    made = {}
    for peer, make in (numpy_peers(task) | library_peers(task)).items():
        try:
            made[peer] = make()
        except OSError:
            assert peer == "C"
    assert {"npnet", "torch", "products"} <= made.keys()
    agree(task, made)
    for peer in made.values():
        peer.train(peer.chunk)


@pytest.mark.parametrize("name", TEXT_ROWS)
def test_the_originals_of_runs_on_text_find_the_losses_of_npnet(name):
    task = TextTask(name)
    makers = numpy_peers(task) | library_peers(task)
    made = {peer: make() for peer, make in makers.items()}
    assert made.keys() == {"npnet", "torch original", "products"}
    agree(task, made)
    for peer in made.values():
        peer.train(1)


def test_a_peer_that_does_other_work_is_named():
    task = Task("rnn", ROWS["rnn"], WORDS)
    peers = {"npnet": npnet_peer(task)}
    one = peers["npnet"].check
    peers["lazy"] = Peer(lambda n: None, lambda x, y: [one(x, y)[0]] * 2)
    with pytest.raises(AssertionError, match="rnn: losses of two steps in lazy are"):
        agree(task, peers)


def peers_that_tell_where_they_are(last):
    def spin(n):
        begin = process_time()
        while process_time() - begin < 0.02 * n:
            pass

    def lost():
        raise OSError("no compiler here")

    return {"here": partial(Peer, spin, lambda x: [os.getpid(), x, last], 2), "lost": lost}


def test_peers_apart_work_and_are_timed_in_a_process_of_their_own():
    with Apart() as apart:
        made = apart.makers(peers_that_tell_where_they_are, 7)
        here = made["here"]()
        pid, *others = here.check(5)
        assert pid != os.getpid() and others == [5, 7] and here.chunk == 2
        begin = process_time()
        spent = here.seconds(2)
        assert spent >= 0.04 > process_time() - begin
        with pytest.raises(OSError, match="no compiler here"):
            made["lost"]()
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            apart.call(divmod, 1, 0)
        with pytest.raises(RuntimeError, match="the process of torch and JAX has died"):
            apart.call(os._exit, 1)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="there is no /proc")
def test_the_other_process_ends_with_this_one():
    code = (
        "import os, time; from benchmarks.apart import Apart\n"
        "with Apart() as apart: print(apart.call(os.getpid), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as this:
        other = Path(f"/proc/{int(this.stdout.readline())}/cmdline")
        assert other.read_bytes()
        this.kill()
    begin = monotonic()
    while other.exists() and other.read_bytes():  # empty once it has ended
        assert monotonic() - begin < 30
        sleep(0.05)


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
    assert {"bigram", f"{row['products']['ratio']:.2f}"} <= cells(printed.out)
    assert np.isfinite(row["npnet"]["seconds"]) and found["machine"]["numpy"] == np.__version__
    assert "step 1/1: bigram" in printed.err


def test_an_unknown_row_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["step", "perceptron"])
    assert caught.value.code == 2
    assert "unknown name perceptron; step has mlp" in capsys.readouterr().err


def test_a_mistake_is_one_line_before_anything_is_measured(capsys, tmp_path):
    for argv, message in (
        (["runs", "wavenet"], "unknown name wavenet; runs has mlp"),
        (["scale", "depth"], "unknown name depth; scale has batch"),
        (["step", "microgpt", "--peer", str(tmp_path)], "there is no"),
        (["import", "--json", str(tmp_path / "no" / "x.json")], "No such file or directory"),
        (["import", "-i", str(tmp_path / "none.txt")], "expected a text file"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        printed = capsys.readouterr()
        assert caught.value.code == 2 and printed.out == ""
        assert message in printed.err.splitlines()[-1]


def test_words_and_text_are_generated_by_every_way(capsys):
    found = generate.measure(WORDS, seconds=0, steps=3, characters=40)
    generate.show(found)
    names, text = found["1,000 names"], found["40 characters"]
    assert list(names) == ["npnet", "torch plain", "torch cached", "torch cached, dropping"]
    assert list(text) == ["npnet", "lecture", "lecture, inference"]
    shown = cells(capsys.readouterr().out)
    for ratio in (names["torch plain"]["ratio"], text["lecture"]["ratio"]):
        assert f"{ratio:.2f}" in shown


def test_an_import_is_measured_in_a_lean_process(capsys):
    found = imports.measure(turns=1)
    imports.show(found)
    assert 1e6 < found["Python alone"]["bytes"] < found["numpy"]["bytes"] < found["torch"]["bytes"]
    assert "npnet, all of it" in cells(capsys.readouterr().out)


def test_growth_has_a_table_and_a_picture(tmp_path, capsys, monkeypatch):
    points = {V: scale.mlp(V) for V in (5, 9)}
    monkeypatch.setitem(scale.SERIES, "vocabulary", ("vocabulary V (the MLP)", points))
    found = scale.measure(["vocabulary"], seconds=0)
    scale.show(found)
    scale.plot(found, tmp_path / "growth.svg")
    assert f"{found['vocabulary'][9]['torch']['ratio']:.2f}" in cells(capsys.readouterr().out)
    drawn = (tmp_path / "growth.svg").read_text()
    assert drawn.startswith("<?xml") and "vocabulary V" in drawn


def test_whole_runs_end_at_the_same_loss(tmp_path, capsys):
    file = tmp_path / "words.txt"
    file.write_text("\n".join(WORDS))
    found = runs.measure(file, ["mlp"], steps=30)
    runs.show(found)
    ours, theirs = found["mlp"]["npnet"], found["mlp"]["torch"]
    assert abs(ours["loss"] - theirs["loss"]) < 0.3 and ours["bytes"] < theirs["bytes"]
    assert f"{ours['loss']:.3f}" in cells(capsys.readouterr().out)


def test_calls_and_bytes_of_a_step_are_counted():
    a = np.ones((2, 3)).view(bounds.Counted)
    bounds.counted.clear()
    b = a + 1  # reads 48, writes 48
    b *= a  # reads twice 48, writes 48
    b.sum(0)  # reads 48, writes 24
    np.matmul(b, a.T, out=np.empty((2, 2)))  # reads twice 48, writes 32
    assert bounds.counted == {"calls": 4, "bytes": 96 + 144 + 72 + 128}
    a[:, 0], a.T, a.reshape(3, 2)  # views
    assert bounds.counted["calls"] == 4
    a[np.array([0, 0, 1])], a.take([0], axis=0), a.copy(), a.dot(a.T), a.argmax(axis=1)
    assert bounds.counted["calls"] == 9


def test_a_counted_step_is_the_step(capsys):
    plain, counted = (Task("mlp", ROWS["mlp"], WORDS) for _ in range(2))
    npnet_peer(plain).train(11)
    found = bounds.count(counted)
    np.testing.assert_array_equal(counted.model.data, plain.model.data)
    # Sums by kept ones and rows of a kept unit matrix are among them.
    assert found["calls"] > 48 and found["bytes"] > plain.model.data.nbytes
    assert type(counted.model.data) is np.ndarray
    assert type(constants.ones(32, np.dtype(np.float32))) is np.ndarray
    bounds.show(bounds.measure(WORDS, ["mlp"], seconds=0))
    assert f"{found['calls']:.0f}" in cells(capsys.readouterr().out)


def test_the_time_of_a_sum_is_fitted_and_predicts_a_step():
    add = {size: 2e-6 + size / 5e9 for size in (4, 4000, 400_000, 40_000_000)}
    latency, bandwidth = ranks.fitted(add)
    assert latency == pytest.approx(2e-6) and bandwidth == pytest.approx(5e9)
    # 10 ms of compute and 8 MB on 4 nodes: two messages there, two back, 3/2 of the bytes
    expected = 10e-3 / 4 + 4 * 1e-5 + 12e6 / 1e9
    assert ranks.predicted(10e-3, 8e6, 4, 1e-5, 1e9, rows=8) == pytest.approx(expected)
    expected += 10e-3 * 3 / 4
    assert ranks.predicted(10e-3, 8e6, 4, 1e-5, 1e9) == pytest.approx(expected)


def test_what_ranks_give_is_shown(capsys):
    row = {"alone": 0.01, "shared": 0.006, "larger": 0.0125, "speedup": 1.67, "efficiency": 0.8}
    row["work"] = 1.9
    name = "Transformer of makemore, batch 32"
    job = {"rows": {name: row}, "add": {"4": 2e-6, "4000": 3e-6}, "overlap": {"sum": 1e-3}}
    job["rows added"] = {"4": 1e-6}
    model = {"seconds": 0.064, "bytes": 8e5, "batch": 16}
    ranks.show(
        {"ranks": {2: job}, "threads": {name: {"npnet": 0.0103}}, "predicted": {"0.2 M": model}}
    )
    printed = capsys.readouterr().out
    assert {name, "10", "6", "1.67", "0.80", "1.90", "10.3", "-"} <= cells(printed)
    assert "a sum during products: sum 1.00 ms" in printed
    assert "0.2 M, batch 16, 64 ms: times as fast" in cells(printed)
    assert "-" in cells(printed)  # 32 nodes have no row each


def test_ranks_ask_for_a_number_and_for_mpi4py(capsys, monkeypatch):
    for argv, message in (
        (["scale", "--ranks", "1"], "--ranks wants a number of at least 2"),
        (["scale", "batch", "--ranks"], "neither series nor --plot"),
        (["scale", "--ranks", "2"], '--ranks needs mpi4py: pip install ".[mpi]"'),
    ):
        monkeypatch.setattr("benchmarks.measure.installed", lambda name: None)
        with pytest.raises(SystemExit):
            main(argv)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", MODEL_CASES)
def test_every_model_has_first_values_for_the_table_of_habits(name):
    (library,) = (habit for habit in habits.HABITS if habit.library and not habit.ones)
    drawn = habits.prepare(MODEL_CASES[name], library, np.random.default_rng(0))
    assert len(drawn.inputs) > 2
