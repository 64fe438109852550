"""`python -m oracle exercise`: a file with a forward and gradients left to derive, and the table
that judges it."""

import inspect
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from npnet import chunked
from oracle import chunked as reference
from oracle.cases import CASES, Case
from oracle.exercise import EXERCISES, templates
from oracle.proof.compare import decide, within
from oracle.proof.draw import COMMON
from oracle.proof.examine import Examination
from oracle.proof.mistakes import likely_mistake
from oracle.proof.subject import arrays_in
from oracle.prove import examine
from oracle.table import minibatch

DONE, WRONG, NOT_YET = "done", "wrong", "not yet done"


class Problem(str):
    """What happened in the user's file, and at which line."""


@dataclass
class Answer:
    """One gradient for one example: what the user returned, None or a Problem; what is right; what
    `decide` needs, and what `likely_mistake` may know; what the whole property says of a right
    value."""

    name: str
    got: Any
    expected: dict[str, np.ndarray]
    largest: float
    sizes: dict[str, int]
    scale: Callable[[], np.ndarray] | None = None
    terms: int = 1
    known: dict[str, Any] = field(default_factory=dict)
    finding: str = ""

    def judge(self) -> tuple[str, str]:
        if self.got is None:
            return NOT_YET, ""
        if isinstance(self.got, Problem):
            return WRONG, str(self.got)
        expected, name = self.expected[self.name], self.name
        result = within(self.got, expected, np.inf, dtype=np.float64, name=name)
        if result.ok:
            got = np.asarray(self.got)
            result = decide(got, expected, self.scale, self.terms, self.largest, name)
        if result.ok:
            return (WRONG, f"{self.finding}.") if self.finding else (DONE, "")
        hint = likely_mistake(name, self.got, self.expected, sizes=self.sizes, **self.known)
        return WRONG, f"{result.message}." + (f" Likely mistake: {hint}." if hint else "")


def new(path: Path, exercise: str, solution: bool = False) -> None:
    """Write the exercise, or its solution, to a file that does not exist yet."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(templates.text(exercise, path.name, solution))
    except FileExistsError:
        raise ValueError(f"{path} exists and is not overwritten") from None
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def check(path: Path, examples: int = 50, seed: int | None = None) -> bool:
    """Print the table for the user's file: at the notebook's size, then at others; whether all of
    it is right."""
    try:
        path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    sys.path.insert(0, str(path.parent))
    torch.set_num_threads(1)  # at these sizes a second one only waits
    try:
        mine = runpy.run_path(str(path))
    except (Exception, SystemExit) as error:
        print(problem(error, path))
        return False
    exercise = mine.get("EXERCISE", "chunked")
    if exercise not in EXERCISES:
        raise ValueError(f"{path}: EXERCISE is {exercise!r}, but there are {', '.join(EXERCISES)}")
    seed = int(np.random.default_rng().integers(2**32)) if seed is None else seed
    rng = np.random.default_rng(seed)
    rows: dict[str, tuple[str, str]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    answers = chunked_answers if exercise == "chunked" else operation_answers
    for i in range(examples + 1):
        for answer in answers(path, mine, exercise, rng, i):
            status, text = rows.get(answer.name, (DONE, ""))
            if status == DONE:
                status, text = answer.judge()
                if text:
                    text += (
                        " ["
                        + ", ".join(
                            f"{n} = {size}" for n, size in answer.sizes.items() if n != "32"
                        )
                        + "]"
                    )
                    text = f"right for n = 32, but: {text}" if i else text
                rows[answer.name] = status, text
            shapes.setdefault(answer.name, answer.expected[answer.name].shape)
        if all(status != DONE for status, _ in rows.values()):
            break
    for name, (status, text) in rows.items():
        print(f"{name:16} {shapes[name]!s:>14}  {status}" + (f"\n    {text}" if text else ""))
    counts = [sum(status == kind for status, _ in rows.values()) for kind in (DONE, WRONG, NOT_YET)]
    print(
        "\n{} done, {} wrong, {} not yet done".format(*counts)
        + f" (--seed {seed})" * (counts[1] > 0)
    )
    return counts[0] == len(rows)


def problem(error: BaseException, path: Path) -> Problem:
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        lines, text = [error.lineno], error.msg
    advice = " (what is given may not be changed: copy it)" if "read-only" in text else ""
    return Problem(f"{path}:{lines[-1] if lines else 1}: {type(error).__name__}: {text}{advice}")


def call(path: Path, function: Callable, *arguments: Any, **named: Any) -> Any:
    try:
        with np.errstate(all="ignore"):
            return function(*arguments, **named)
    except NotImplementedError:
        return None
    except (Exception, SystemExit) as error:
        return problem(error, path)


def chunked_answers(
    path: Path, mine: dict, exercise: str, rng: np.random.Generator, i: int
) -> Iterator[Answer]:
    """The notebook's minibatch, then sizes that are all different, then any."""
    if i == 0:
        params, x, y = minibatch(with_b1=True)
        params = {name: p.astype(np.float64) for name, p in params.items()}
    else:
        drawn = (
            (rng.integers(2, 9), *rng.integers(1, 5, 2), *rng.integers(1, 9, 2))
            if i > 1
            else (5, 3, 2, 7, 11)
        )
        params, x, y = templates.network(rng, *map(int, drawn))
    values = chunked.forward(params, x, y)
    right, expected = chunked.backward(params, values), reference.gradients(params, x, y)
    n, T, E = values["emb"].shape
    sizes = {"n": n, "T": T, "E": E, "H": values["h"].shape[1], "V": len(params["C"])}
    available: dict[str, Any] = {
        **locked(params | {k: np.asarray(a) for k, a in values.items()}),
        **sizes,
        "dloss": 1.0,
    }
    solution: dict[str, Any] = {}
    exec(templates.text("chunked", "", solution=True), solution)
    for name in right:
        needs = {n: available[n] for n in inspect.signature(solution[name]).parameters}
        upstream = {n: a for n, a in needs.items() if n in right}
        largest = max(float(np.abs(a).max()) for a in (*upstream.values(), expected[name]))
        ones = {n: np.ones_like(a) for n, a in upstream.items()}
        yield Answer(
            name,
            answer_of(path, mine.get(name), name, available),
            {name: expected[name]},
            largest,
            sizes | ({"32": 32} if i else {}),
            known={
                "inputs": {"x": x} if name == "dC" else {},
                "ones": solution[name](**needs | ones) if ones else None,
                "without": {
                    n: solution[name](**needs | {n: np.zeros_like(a)}) for n, a in upstream.items()
                },
            },
        )
        available |= locked({name: right[name]})


def locked(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def answer_of(path: Path, function: Any, name: str, available: dict[str, Any]) -> Any:
    """What a function returns that gets its arguments by their names."""
    if not inspect.isfunction(function):
        return None
    wanted = inspect.signature(function).parameters
    for n in wanted:
        if n not in available:
            return Problem(
                f"{path}:{function.__code__.co_firstlineno}: {name} asks for {n}, "
                "which there is not (yet)"
            )
    return call(path, function, **{n: available[n] for n in wanted})


def operation_answers(
    path: Path, mine: dict, exercise: str, rng: np.random.Generator, i: int
) -> Iterator[Answer]:
    """A batch of 32 with sizes that are all different, then any, with one leading axis."""
    case = CASES[templates.OPERATIONS[exercise][0]]
    sizes: dict[str, Any] = {"lead": (32,), "C": 5, "H": 7, "T": 3, "V": 27, "n_head": 2, "D": 4}
    example = case.plain(**{name: size for name, size in sizes.items() if name in case.choices})
    if i:
        leads = [lead for lead in case.choices["lead"] if len(lead) == 1]
        example = case.example(rng) | {name: options[0] for name, options in COMMON.items()}
        example["lead"] = leads[rng.integers(len(leads))]
    examination = examine(case, example, np.float64)
    problem, expected = examination.problem, examination.expected
    names = ["d" + name for name in examination.wanted]
    (dy,) = problem.dys
    assert expected.outputs is not None
    values = {"y": expected.outputs[0]} | dict(zip(names, expected.gradients.values(), strict=True))
    at_ones = examination.expect((np.ones(dy.shape),)).gradients
    ones = {"d" + name: gradient for name, gradient in at_ones.items()}
    shown = {"n": example["lead"][0]} | {
        n: example[n] for n in sizes if n in case.choices and n != "lead"
    }
    y, gradients = run_operation(path, mine, case, examination, names)
    found = {"y": y} | dict(zip(names, gradients, strict=True))
    beyond = findings(mine, case, example, names) if all_given(found.values()) else {}
    for name, got in found.items():
        yield Answer(
            name,
            got,
            {n: a for n, a in values.items() if n != "y" or name == "y"},
            max(float(np.abs(a).max()) for a in (dy, *values.values())),
            shown | ({"32": 32} if i else {}),
            partial(scale_of, examination, name),
            examination.terms,
            {"inputs": problem.inputs, "dy": dy, "ones": ones.get(name)},
            beyond.get(name, ""),
        )


def all_given(found: Iterable[Any]) -> bool:
    return all(got is not None and not isinstance(got, Problem) for got in found)


def findings(mine: dict, case: Case, example: dict, names: list[str]) -> dict[str, str]:
    """What the judge's property says of the user's pair beyond the values, which an Answer judges:
    the first sentence about each gradient, or about the whole under the first."""
    forward, backward = mine.get(case.name), mine[f"{case.name}_backward"]
    said: dict[str, str] = {}
    for finding in examine(case, example, np.float64, forward, backward).run():
        said.setdefault(finding.name if finding.name in names else names[0], finding.sentence)
    return said


def scale_of(examination: Examination, name: str) -> np.ndarray:
    outputs, gradients = examination.scales()
    return outputs[0] if name == "y" else gradients[name[1:]]


def run_operation(
    path: Path, mine: dict, case: Case, examination: Examination, names: list[str]
) -> tuple[Any, list]:
    """The user's forward and backward -> an answer for y and for each gradient."""
    name, problem = case.name, examination.problem
    forward, backward = mine.get(name, case.forward), mine.get(f"{name}_backward")
    y = call(path, forward, *problem.inputs.values(), **problem.options)
    if not (isinstance(y, tuple) and len(y) == 2):
        return y if isinstance(y, Problem) else Problem(f"{path}: {name} has to return y, cache"), [
            None
        ] * len(names)
    y, cache = y
    if backward is None:
        return y, [None] * len(names)
    for array in arrays_in((y, cache)):
        array.flags.writeable = False
    found = call(path, backward, problem.dys[0], cache)
    if found is None or isinstance(found, Problem):
        return y, [found] * len(names)
    found = list(found) if isinstance(found, tuple | list) else [found]
    if len(found) != len(names):
        line = backward.__code__.co_firstlineno
        returns = (
            f"{name}_backward returns {len(found)} gradients where {', '.join(names)} are wanted"
        )
        found = [Problem(f"{path}:{line}: {returns}")] * len(names)
    return y, found
