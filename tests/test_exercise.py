"""The exercise: the files it writes, and that what people do to them is named."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npnet import chunked
from oracle.__main__ import main
from oracle.exercise import EXERCISES, templates

ROOT = Path(__file__).parents[1]
GRADIENTS = {
    "cross_entropy": ["dlogits"],
    "batch_norm": ["dx", "dgain", "dbias"],
    "layer_norm": ["dx", "dgain", "dbias"],
    "attention": ["dqkv"],
    "gru": ["da", "dh0", "dw"],
}


@pytest.fixture
def check(tmp_path, capsys):
    """Check a text as the user's file, with few examples -> status, rows {name: (status, text)},
    the whole output."""

    def check(text, examples=3):
        path = tmp_path / "my_backward.py"
        path.write_text(text, encoding="utf-8")
        status = main(["exercise", "check", str(path), "--examples", str(examples), "--seed", "1"])
        output = capsys.readouterr().out
        rows, lines = {}, output.splitlines()
        for line, below in zip(lines, [*lines[1:], ""], strict=True):
            for kind in ("done", "wrong", "not yet done"):
                if line.endswith(f")  {kind}"):
                    rows[line.split()[0]] = kind, below.strip() if below.startswith("    ") else ""
        return status, rows, output

    return check


def solution(name="chunked"):
    return templates.text(name, "my_backward.py", solution=True)


def edited(old, new, name="chunked"):
    text = solution(name)
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the solution of {name}"
    return text.replace(old, new)


def test_every_exercise_has_a_template():
    assert ("chunked", *templates.OPERATIONS) == EXERCISES
    assert set(GRADIENTS) == {*EXERCISES} - {"chunked"}


def test_every_gradient_of_the_notebook_is_to_be_found():
    params, x, y = templates.network(np.random.default_rng(0), 4, 2, 3, 5, 6)
    wanted = chunked.backward(params, chunked.forward(params, x, y))
    for text in (solution(), templates.text("chunked", "my_backward.py")):
        assert [
            line[4:].partition("(")[0] for line in text.splitlines() if line.startswith("def d")
        ] == [*wanted]


@pytest.mark.parametrize("name", EXERCISES)
def test_new_writes_what_is_not_yet_done_and_the_solution_is_right(name, tmp_path, check):
    path = tmp_path / "new.py"
    assert main(["exercise", "new", str(path), "--exercise", name]) == 0
    status, rows, output = check(path.read_text(encoding="utf-8"))
    assert status == 1 and {kind for n, (kind, _) in rows.items() if n != "y"} == {"not yet done"}
    assert " 0 wrong" in output

    assert (
        main(["exercise", "new", str(tmp_path / "done.py"), "--exercise", name, "--solution"]) == 0
    )
    status, rows, output = check((tmp_path / "done.py").read_text(encoding="utf-8"), examples=20)
    assert status == 0 and {kind for kind, _ in rows.values()} == {"done"}, output
    if name != "chunked":
        assert list(rows) == ["y", *GRADIENTS[name]]


ANSWERS = {
    "chunked": ("np.add.at", "@ w1.T"),
    "cross_entropy": ("dlogits *= scale",),
    "batch_norm": ("dgain / (divisor * std)",),
    "layer_norm": ("projection",),
    "attention": ("ds -=",),
    "gru": ("da_r *= p",),
}


@pytest.mark.parametrize("name", EXERCISES)
def test_nothing_of_the_answer_is_in_the_template(name):
    template, solution = (templates.text(name, "f.py", solved) for solved in (False, True))
    assert template.count("raise NotImplementedError") == (26 if name == "chunked" else 1)
    for line in ANSWERS[name]:
        assert line in solution and line not in template


# (what stands in the solution, what a person writes, the row, what the table says)
MISTAKES = [
    (
        "onehot[y] * (-float(dloss) / n)",
        "-onehot[y]",
        "dlogprobs",
        "the sum over n stands for the mean",
    ),
    ("onehot[y] * (-float(dloss) / n)", "onehot[y] / n", "dlogprobs", "the sign is wrong"),
    ("= dlogprobs / probs", "= 1 / probs", "dprobs", "the upstream gradient is ignored"),
    (
        "(dprobs * counts).sum(1, keepdims=True)",
        "(dprobs * counts).sum(1)",
        "dcounts_sum_inv",
        "keepdims",
    ),
    (
        "-(counts_sum**-2) * dcounts_sum_inv",
        "counts_sum**-2 * dcounts_sum_inv",
        "dcounts_sum",
        "the sign is wrong",
    ),
    (
        "= -(counts_sum**-2) * dcounts_sum_inv",
        "= -(counts_sum**-2)",
        "dcounts_sum",
        "the upstream gradient is ignored",
    ),
    (
        "counts_sum_inv * dprobs + dcounts_sum",
        "counts_sum_inv * dprobs",
        "dcounts",
        "through dcounts_sum is missing",
    ),
    ("h.T @ dlogits", "dlogits.T @ h", "dw2", "it is transposed"),
    ("db2 = dlogits.sum(0)", "db2 = dlogits.copy()", "db2", "the sum over axis 0 is missing"),
    ("db2 = dlogits.sum(0)", "db2 = dlogits.sum(0, keepdims=True)", "db2", "only broadcasts"),
    ("db2 = dlogits.sum(0)", "db2 = dlogits.mean(0)", "db2", "the mean over n stands for the sum"),
    ("db2 = dlogits.sum(0)", "db2 = np.zeros_like(dlogits[0])", "db2", "all zeros"),
    (
        "bngain * dhpreact",
        "bngain * dhpreact.sum(0, keepdims=True)",
        "dbnraw",
        "it is summed over axis 0",
    ),
    ("-0.5 * (bnvar", "-1.0 * (bnvar", "dbnvar", "it is the right gradient times 2"),
    (
        "1 / (n - 1) * np.ones_like",
        "1 / n * np.ones_like",
        "dbndiff2",
        "a factor n/(n - 1) is missing",
    ),
    ("1 / (n - 1) * np.ones_like(bndiff2) *", "1 / (n - 1) *", "dbndiff2", "only broadcasts"),
    ("+ 2.0 * bndiff * dbndiff2", "", "dbndiff", "through dbndiff2 is missing"),
    (
        "dbndiff + 1 / n * dbnmean",
        "dbndiff + dbnmean",
        "dhprebn",
        "the term through the mean over axis 0",
    ),
    ("np.add.at(dC, x, demb)", "dC[x] += demb", "dC", "duplicates are lost"),
]


@pytest.mark.parametrize(
    "old, new, row, says", MISTAKES, ids=[f"{row}: {new}" for _, new, row, _ in MISTAKES]
)
def test_a_mistake_is_named_and_does_not_spread(old, new, row, says, check):
    status, rows, output = check(edited(old, new), examples=0)
    assert status == 1 and rows[row][0] == "wrong"
    assert says in rows[row][1].partition("Likely mistake:")[2], rows[row]
    assert [name for name, (kind, _) in rows.items() if kind != "done"] == [row]
    assert "25 done, 1 wrong, 0 not yet done" in output


FUSED = [
    (
        "batch_norm",
        "dgain / (divisor * std)",
        "dgain / (n * std)",
        "dx",
        "a factor n/(n - 1) is missing",
    ),
    (
        "batch_norm",
        "dx = dy - centred * (dgain / (divisor * std))",
        "dx = dy + 0",
        "dx",
        "the variance over axis 0 is missing",
    ),
    ("batch_norm", "dx -= dbias / n", "pass", "dx", "the term through the mean over axis 0"),
    (
        "batch_norm",
        "dx.reshape(shape)), dgain, dbias",
        "dx.reshape(shape)), dbias, dgain",
        "dgain",
        "swapped",
    ),
    ("layer_norm", "dx -= mean[:, None]", "pass", "dx", "the term through the mean over axis 1"),
    (
        "layer_norm",
        "dx -= xhat * projection[:, None]",
        "pass",
        "dx",
        "the variance over axis 1 is missing",
    ),
    (
        "cross_entropy",
        "np.array(dloss / n, e.dtype)",
        "np.array(1 / n, e.dtype)",
        "dlogits",
        "the upstream gradient is ignored",
    ),
    (
        "cross_entropy",
        "np.array(dloss / n, e.dtype)",
        "np.array(dloss, e.dtype)",
        "dlogits",
        "the sum over n stands for the mean",
    ),
    (
        "gru",
        "_state_gradient(dp, ndim), dw",
        "dp, dw",
        "dh0",
        "the sum over axis 0",
    ),
]


@pytest.mark.parametrize("name, old, new, row, says", FUSED, ids=[f"{f[0]}: {f[2]}" for f in FUSED])
def test_a_mistake_in_a_fused_backward_is_named(name, old, new, row, says, check):
    status, rows, _ = check(edited(old, new, name), examples=0)
    assert (
        status == 1
        and rows[row][0] == "wrong"
        and says in rows[row][1].partition("Likely mistake:")[2]
    ), rows[row]


def test_right_once_and_wrong_when_called_again(check):
    adds_up = """
once = batch_norm_backward
total = {}

def batch_norm_backward(dy, cache):
    dx, dgain, dbias = once(dy, cache)
    total[dbias.shape] = dbias + total.get(dbias.shape, 0)
    return dx, dgain, total[dbias.shape]
"""
    status, rows, _ = check(solution("batch_norm") + adds_up)
    assert status == 1
    assert rows["dx"][0] == rows["dgain"][0] == "done"
    assert rows["dbias"][0] == "wrong" and "was expected" in rows["dbias"][1]


def test_right_for_32_and_wrong_for_others(check):
    status, rows, output = check(edited("dbndiff + 1 / n * dbnmean", "dbndiff + 1 / 32 * dbnmean"))
    assert (
        status == 1
        and rows["dhprebn"][0] == "wrong"
        and "right for n = 32, but: " in rows["dhprebn"][1]
    )
    assert "n = 5" in rows["dhprebn"][1] and "25 done, 1 wrong" in output and "--seed 1" in output
    _, rows, _ = check(edited("onehot[y] * (-float(dloss) / n)", "onehot[y] / -32"))
    assert (
        "right for n = 32, but: " in rows["dlogprobs"][1]
        and "32 stands for n" in rows["dlogprobs"][1]
    )
    _, rows, _ = check(edited("1 / (n - 1) * np.ones_like", "1 / 31 * np.ones_like"))
    assert "31 stands for n - 1" in rows["dbndiff2"][1]


def test_errors_are_shown_at_their_line_and_the_rest_goes_on(check, tmp_path):
    text = edited("dh = dlogits @ w2.T", "dh = dlogits @ w2")
    text = text.replace(
        "    dnorm_logits = counts * dcounts\n", "    dcounts *= counts\n    return dcounts\n", 1
    )
    text = text.replace("def demb(emb, dembconcat)", "def demb(emb, dembconcat, dC)", 1)
    status, rows, _ = check(text)
    lines = text.splitlines()
    path = tmp_path / "my_backward.py"
    assert status == 1 and {n for n, (kind, _) in rows.items() if kind == "wrong"} == {
        "dh",
        "dnorm_logits",
        "demb",
    }
    line = lines.index("    dh = dlogits @ w2") + 1
    assert rows["dh"][1].startswith(f"{path}:{line}: ValueError: matmul")
    assert rows["dnorm_logits"][1].startswith(
        f"{path}:{lines.index('    dcounts *= counts') + 1}: ValueError: "
    )
    assert "copy it" in rows["dnorm_logits"][1] and "asks for dC" in rows["demb"][1]


def test_what_is_not_there_or_none_is_not_yet_done(check):
    text = edited("def dprobs(", "def other(").replace(
        "    return dcounts_sum\n", "    return None\n"
    )
    status, rows, _ = check(text)
    assert status == 1 and [n for n, (kind, _) in rows.items() if kind == "not yet done"] == [
        "dprobs",
        "dcounts_sum",
    ]
    text = edited("_state_gradient(dp, ndim), dw", "None, None", "gru")
    status, rows, _ = check(text)
    assert status == 1 and [n for n, (kind, _) in rows.items() if kind == "not yet done"] == [
        "dh0",
        "dw",
    ]
    assert rows["da"][0] == "done"


def test_the_wrong_kind_of_thing_is_wrong(check):
    status, rows, _ = check(edited("return db2", "return list(db2)"))
    assert status == 1 and "is a list" in rows["db2"][1]
    status, rows, _ = check(
        edited("dx.reshape(shape)), dgain, dbias", "dx.reshape(shape))", "batch_norm")
    )
    assert status == 1 and "returns 1 gradients where dx, dgain, dbias are wanted" in rows["dx"][1]


@pytest.mark.parametrize(
    "line", ["def dh(:", "1 / 0", "import nothing_of_this_name", "raise SystemExit(3)", "return"]
)
def test_a_file_that_cannot_be_run_is_shown_at_its_line(line, check, tmp_path):
    status, rows, output = check(f"# a comment\n{line}\n")
    assert status == 1 and not rows
    assert output.startswith(f"{tmp_path / 'my_backward.py'}:2: ") and len(output.splitlines()) == 1


def test_the_file_may_import_what_lies_beside_it(check, tmp_path):
    (tmp_path / "beside_the_exercise.py").write_text("def twice(a):\n    return 2 * a\n")
    assert check("from beside_the_exercise import twice\n" + solution())[0] == 0


@pytest.mark.parametrize(
    "arguments, says",
    [
        ("new {exists}", "is not overwritten"),
        ("new {missing}/f.py", "No such file"),
        ("new {missing}.py --exercise calculus", "invalid choice: 'calculus'"),
        ("check {missing}.py", "No such file"),
        ("check {exists}", "EXERCISE is 'calculus'"),
        ("check {exists} --examples -1", "--examples"),
        ("", "new | check"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(arguments, says, tmp_path, capsys):
    exists = tmp_path / "exists.py"
    exists.write_text("EXERCISE = 'calculus'\n")
    with pytest.raises(SystemExit) as end:
        main(["exercise", *arguments.format(exists=exists, missing=tmp_path / "missing").split()])
    error = capsys.readouterr().err
    assert end.value.code == 2 and says in error and len(error.splitlines()) == 1
    assert exists.read_text() == "EXERCISE = 'calculus'\n"


def test_in_a_process(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "oracle", "exercise", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    assert run("new", "mine.py").returncode == 0
    result = run("check", "mine.py", "--examples", 1)
    assert (
        result.returncode == 1
        and result.stderr == ""
        and "0 done, 0 wrong, 26 not yet done" in result.stdout
    )
    assert run("new", "mine.py").returncode == 2


def test_every_argument_in_the_template_is_one_that_is_given():
    known = {*"nTEHV", "x", "y", "dloss", "loss"}
    params, x, y = templates.network(np.random.default_rng(0), 4, 2, 3, 5, 6)
    values = chunked.forward(params, x, y)
    known |= {*params, *values}
    namespace = {}
    exec(templates.text("chunked", "f.py"), namespace)
    for gradient in chunked.backward(params, values):
        function = namespace[gradient]
        assert {*function.__code__.co_varnames[: function.__code__.co_argcount]} <= known
        known.add(gradient)
