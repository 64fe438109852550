"""`python -m oracle`: the table, its languages and options, and one line about whatever it cannot
use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from npnet import chunked
from oracle.__main__ import main

ROOT = Path(__file__).parents[1]
NAMES = [
    *(
        "logprobs",
        "probs",
        "counts_sum_inv",
        "counts_sum",
        "counts",
        "norm_logits",
        "logit_maxes",
        "logits",
        "h",
        "w2",
    ),
    *(
        "b2",
        "hpreact",
        "bngain",
        "bnbias",
        "bnraw",
        "bnvar_inv",
        "bnvar",
        "bndiff2",
        "bndiff",
        "bnmean",
        "hprebn",
    ),
    *("embconcat", "w1", "emb", "C"),
]


def command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "oracle", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
    )


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("emma\nolivia\nava\nisabella\nsophia\ncharlotte\nmia\namelia\nharper\nevelyn\n")
    return path


def rows(text):
    return [line for line in text.splitlines() if " | " in line]


def test_the_table():
    result = command()
    assert result.returncode == 0 and result.stderr == ""
    table = rows(result.stdout)
    assert [line.split()[0] for line in table] == NAMES
    assert all("approximate: True" in line for line in table)
    assert "25 of 25 gradients are right" in result.stdout


def test_the_table_in_korean(words):
    result = command("--lang", "ko", "-i", words)
    assert result.returncode == 0
    table = rows(result.stdout)
    assert [line.split()[0] for line in table] == NAMES
    assert all(
        "실제값" in line and "추정값: True" in line and "최대차이값" in line for line in table
    )


def test_options_change_the_minibatch(words, capsys):
    assert main(f"-i {words} --seed 7 --batch-size 5 --n-embd2 3 --with-b1".split()) == 0
    table = {line.split()[0]: line for line in rows(capsys.readouterr().out)}
    assert set(table) == {*NAMES, "b1"}
    assert "(5, 3, 10)" in table["emb"] and "(30, 3)" in table["w1"] and "(3,)" in table["b1"]
    losses = set()
    for seed in (7, 8):
        main(f"-i {words} --seed {seed}".split())
        losses.add(
            next(line for line in capsys.readouterr().out.splitlines() if line.startswith("loss"))
        )
    assert len(losses) == 2


def test_a_wrong_gradient_is_status_1_and_named(words, monkeypatch, capsys):
    right = chunked.backward

    def wrong(params, values, dloss=1.0):
        gradients = right(params, values, dloss)
        return gradients | {"dbnvar": -gradients["dbnvar"], "db2": gradients["db2"][None]}

    monkeypatch.setattr(chunked, "backward", wrong)
    assert main(["-i", str(words)]) == 1
    output = capsys.readouterr().out
    assert "23 of 25 gradients are right" in output
    assert [line.split()[0] for line in rows(output) if "approximate: False" in line] == [
        "b2",
        "bnvar",
    ]
    assert "\ndbnvar " in output and "\ndb2 has shape (1, 17) where (17,) was expected" in output


def test_bad_input_in_a_process_is_one_line_and_status_2(tmp_path):
    missing = tmp_path / "missing.txt"
    result = command("-i", missing)
    assert result.returncode == 2 and result.stdout == ""
    assert str(missing) in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ("--batch-size 1", "--batch-size: '1' is not an integer from 2 to"),
        ("--batch-size many", "--batch-size: 'many' is not an integer from 2 to"),
        ("--n-embd2 0", "--n-embd2: '0' is not an integer from 1 to"),
        ("--n-embd2 1e3", "--n-embd2: '1e3' is not an integer"),
        ("--seed 18446744073709551616", "--seed: '18446744073709551616' is not an integer from"),
        ("--lang fr", "--lang: invalid choice: 'fr'"),
        ("--unknown", "--unknown"),
        ("-i .", "."),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, expected, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments.split())
    output = capsys.readouterr()
    assert end.value.code == 2 and output.out == ""
    assert expected in output.err and len(output.err.splitlines()) == 1


@pytest.mark.parametrize(
    "content, expected",
    [(b"", "no words"), (b"a\nb\n", "too few words"), (b"\xff\xfe\n", "not UTF-8")],
)
def test_a_bad_file_is_one_line_and_status_2(content, expected, tmp_path, capsys):
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        main(["-i", str(path)])
    error = capsys.readouterr().err
    assert end.value.code == 2 and expected in error and len(error.splitlines()) == 1


def test_without_torch_it_says_what_to_install(tmp_path):
    (tmp_path / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    result = command(PYTHONPATH=str(tmp_path))
    assert result.returncode == 2 and 'pip install ".[oracle]"' in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_judge_needs_no_torch(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError")
    code = "import numpy as np, oracle; f = lambda x: 2 * x; g = lambda dy, x: 2 * dy\n"
    code += "print(oracle.check_backward(f, g, None, '(n)->(n)').ok)"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr
