"""`python -m oracle certify`: a row for each operation and model, and a failure that can be
reproduced."""

import re
import runpy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from command_line import ENVIRONMENT

from npnet.ops import constants
from oracle import certify as certifying
from oracle.__main__ import main
from oracle.cases import CASES
from oracle.certify import certify
from oracle.model_cases import MODEL_CASES
from oracle.prove import ALL_CASES, prove


def test_every_operation_and_model_has_a_row(capsys):
    assert certify([], 2)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == [*CASES, *MODEL_CASES]
    assert all(row.split()[1] == "2" for row in rows)


def test_the_examples_are_fresh(capsys):
    errors = set()
    for _ in range(3):
        assert main(["certify", "--op", "linear", "--examples", "3"]) == 0
        errors.add(capsys.readouterr().out.split()[-2])
    assert len(errors) > 1


def test_a_wrong_backward_is_a_failure_that_can_be_reproduced(monkeypatch, capsys):
    right = CASES["tanh"]
    monkeypatch.setitem(
        ALL_CASES, "tanh", replace(right, backward=lambda dy, cache: dy * (1 - cache[0]))
    )
    assert main(["certify", "--op", "tanh", "--op", "relu", "--examples", "50"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"^tanh +\d+ +WRONG", out, re.M) and re.search(r"^relu +50 +0.00", out, re.M)
    (line,) = re.findall(r'^Reproduce: python -c "(.*)"$', out, re.M)
    with pytest.raises(AssertionError, match="tanh"):
        exec(line, {})
    monkeypatch.undo()
    exec(line, {})


def test_two_processes_print_the_same_rows_and_say_what_is_left(capsys, monkeypatch):
    monkeypatch.setattr(certifying, "PAUSE", 0)
    assert certify(["tanh", "linear", "tanh"], 30, jobs=2)
    out, err = capsys.readouterr()
    assert [row.split()[:2] for row in out.splitlines()[1:]] == [["tanh", "30"], ["linear", "30"]]
    assert err.splitlines()[0].startswith("25 of 60 examples, about ")


@pytest.mark.parametrize(
    "flags", [["--op", "nope"], ["--examples", "0"], ["--examples", "x"], ["--nope"]]
)
def test_bad_flags_are_one_line(flags):
    run = subprocess.run(
        [sys.executable, "-m", "oracle", "certify", *flags], capture_output=True, text=True
    )
    assert run.returncode == 2 and run.stdout == "" and len(run.stderr.splitlines()) == 1
    assert flags[-1] in run.stderr


def test_what_is_judged_again_by_the_parts_it_is_summed_from_is_reported_once():
    example = {"seed": 2658527903, "lead": (), "T": 2, "n_head": 2, "D": 3, "block": 2, "p": 0.5}
    example |= {"values": "normal", "scale": 1.0, "upstream": 1e4, "layout": "reversed"}
    results = prove("causal_attention_dropout", example)
    assert results and all(result.ok for result in results)


def test_without_avx512_powers_are_those_of_e():
    """Everywhere else npnet calls exp, so that path is proven here too."""
    found = np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])
    names = [name for name in found if name == "X86_V4" or name.startswith("AVX512")]
    program = """
import sys
import numpy as np
from npnet.ops import constants
from oracle.__main__ import main
assert constants.power is np.exp and constants.NAT == 1
sys.exit(main(["certify", "--examples", "10", "--op", "causal_attention", "--op", "gelu"]))
"""
    environment = ENVIRONMENT | {"NPY_DISABLE_CPU_FEATURES": " ".join(names)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("platform", "found", "power"),
    [
        ("linux", ["AVX512F", "AVX512_SKX"], np.exp2),
        ("linux", ["X86_V3", "X86_V4"], np.exp2),
        ("linux", ["AVX2"], np.exp),
        ("win32", ["X86_V3", "X86_V4"], np.exp),
    ],
)
def test_powers_of_2_are_taken_where_numpy_has_fast_ones(monkeypatch, platform, found, power):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(np, "show_config", lambda mode: {"SIMD Extensions": {"found": found}})
    assert runpy.run_path(constants.__file__)["power"] is power
