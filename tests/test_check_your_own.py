"""The code of docs/check-your-own.md, run as a reader would paste it."""

import contextlib
import doctest
import importlib.util
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_layer
import test_strangers

import oracle
from oracle.proof.subject import Subject

PAGE = (Path(__file__).parent.parent / "docs" / "check-your-own.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
BLOCKS = {
    title: re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    for title, text in SECTIONS.items()
}
WITH_CODE = [title for title, blocks in BLOCKS.items() if "python" in dict(blocks)]


def missing(code):
    needs = [name for name in re.findall(r"^import (\w+)", code, re.M)]
    absent = [name for name in needs if importlib.util.find_spec(name) is None]
    return absent + ["cc"] * ('"cc"' in code and shutil.which("cc") is None)


def run(code, scope):
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "check-your-own.md", "exec"), scope)
    return said.getvalue()


def section(title):
    """Run a section after the first, whose linear layer the others use."""
    scope = {}
    for _, code in BLOCKS["Three lines"][:1]:
        run(code, scope)
    for language, text in BLOCKS["Three lines"]:
        if language == "python" and "def right_backward" in text:
            run(text, scope)
    return scope


@pytest.mark.parametrize("title", WITH_CODE)
def test_the_code_runs_and_says_what_the_page_says(title):
    scope, said, absent = section(title), "", []
    for language, text in BLOCKS[title]:
        if language == "python":
            absent += missing(text)
            said = run(text, scope) if not missing(text) else None
        elif language == "text" and said is not None:
            page, here = (re.sub(r"to \d+ digits", "to n digits", t) for t in (text, said))
            assert doctest.OutputChecker().check_output(page, here, doctest.ELLIPSIS), said
    if absent:
        pytest.skip(f"no {', '.join(absent)}")


def test_the_page_has_sections_with_code():
    assert len(WITH_CODE) >= 9 and "C" in WITH_CODE


class Dictionary(test_layer.Dictionaries):
    forward = test_layer.Dictionaries.__call__


class Renamed(test_layer.Attributes):
    __call__, bprop = test_layer.Attributes.forward, test_layer.Attributes.backward
    forward = backward = None


class Stepping(test_layer.Stepping):
    def backward(self, dy, lr):
        return super().backward(dy, lr)


class Loss:
    def forward(self, y):
        self.y = y
        return (y**2).sum()

    def backward(self):
        return 2 * self.y


class Affine(test_layer.Attributes):
    def __init__(self, W, b):
        self.W, self.b = W, b


READERS = {
    "Dictionary": Dictionary,
    "Listed": test_layer.Lists,
    "Renamed": Renamed,
    "Silent": test_layer.Nothing,
    "Lazy": test_layer.Lazy,
    "Stepping": Stepping,
    "Loss": Loss,
    "Network": test_strangers.Classifier,
    "Affine": Affine,
}


def calls(title):
    return re.findall(r"^\|.*\| `(oracle\..*)` \|$", SECTIONS[title], re.M)


@pytest.mark.parametrize("call", calls("A class"))
def test_the_calls_of_layers(call):
    scope = section("A class") | READERS
    run(next(text for language, text in BLOCKS["A class"] if language == "python"), scope)
    details = {"signature": scope["LINEAR"]}
    if "Loss" in call:
        details = {"signature": "(n)->()"}
    elif "lambda i:" in call:
        details = {"signature": "(n,i),(i,2),(2)->(n,2)"}
    elif "Network" in call:
        details = {"signature": "(n,i),(n),(i,o),(o)->()", "ids": {"y": "o"}, "wrt": ["W", "b"]}
    assert oracle.judge(eval(call, scope), max_examples=10, **details).ok


def test_the_calls_of_tensors():
    scope = section("A framework of tensors") | {"f": np.tanh, "Linear": test_layer.Attributes}
    run(BLOCKS["A framework of tensors"][0][1], scope)
    for call in calls("A framework of tensors"):
        assert isinstance(eval(call, scope), Subject), call
    assert len(calls("A framework of tensors")) == 4 and len(calls("A class")) == 11
