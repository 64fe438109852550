"""The files of the exercise, the finished ones too, cut out of npnet's own source, so there is
nothing to keep in step.

"chunked" has a function for each gradient of the notebook; the others have one for the backward of
an operation.
"""

import ast
import functools
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator

import numpy as np

from npnet import chunked, ops

# name -> operation, and what its backward gets and returns, with one leading axis
OPERATIONS = {
    "cross_entropy": ("cross_entropy", "dloss, a number -> dlogits (n, V)"),
    "batch_norm": ("batch_norm", "dy (n, C) -> dx (n, C), dgain (C,), dbias (C,)"),
    "layer_norm": ("layer_norm", "dy (n, C) -> dx (n, C), dgain (C,), dbias (C,)"),
    "attention": ("causal_attention", "dy (n, T, C) -> dqkv (n, T, 3C)"),
    "gru": ("gru", "dy (N, H) -> da (N, 3H), dh0 (H,), dw (H, 3H); the N rows are packed"),
}
HEADER = '''"""The exercise {exercise}: derive the backward pass by hand, in NumPy.

{what}

    python -m oracle exercise check {file}

says after each step what is done, what is wrong and how, and what is not yet done.
"""
'''
CHUNKED = """\
Each function below the forward returns one gradient: d<name>, the gradient of the loss with respect
to <name>, which has its shape. Start at the top. The arguments are those that may be of use; others
can be added by name: x, y, a value or a parameter of the forward, n, T, E, H, V, and every gradient
further up, which is the true one whatever your own function returned."""
OPERATION = """\
Write {name}_backward, which gets the upstream gradient and the cache that the forward returned. To
do one gradient at a time, return None for those that are not yet done. You may change the cache."""


@functools.cache
def text(exercise: str, file: str, solution: bool = False) -> str:
    """The file, or the file as it is when all is done."""
    return (
        chunked_file(file, solution)
        if exercise == "chunked"
        else operation_file(file, exercise, solution)
    )


def statements(function: Callable) -> Iterator[tuple[ast.stmt, str]]:
    """The statements of a function, each with its text and the comments above it."""
    source = textwrap.dedent(inspect.getsource(function))
    lines, body = source.splitlines(), ast.parse(source).body[0].body  # type: ignore[attr-defined]
    for before, statement in itertools.pairwise(body):
        yield (
            statement,
            textwrap.dedent("\n".join(lines[before.end_lineno : statement.end_lineno])).strip("\n"),
        )


def names_in(node: ast.AST) -> list[str]:
    return list(dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name)))


def target(statement: ast.stmt) -> str:
    """The name that is assigned to, or nothing."""
    return (
        statement.targets[0].id
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
        else ""
    )


def chunked_file(file: str, solution: bool) -> str:
    rng = np.random.default_rng(0)
    params, x, y = network(rng, n=32, T=3, E=10, H=64, V=27)
    values = chunked.forward(params, x, y) | params
    letters = {1: "1", 32: "n", 3: "T", 10: "E", 30: "T * E", 64: "H", 27: "V"}
    shapes = {
        n: "(" + ", ".join(letters[s] for s in np.shape(a)) + ("," if np.ndim(a) == 1 else "") + ")"
        for n, a in values.items()
    }
    lines = {
        target(s): s
        for s, _ in statements(chunked.forward)
        if target(s) in values and "params" not in names_in(s)
    }
    answers = answer_lines()
    text = HEADER.format(exercise="chunked", what=CHUNKED, file=file)
    text += f'\nimport numpy as np\n\nEXERCISE = "chunked"\nEPS = {chunked.EPS}\n\n\n'
    text += inspect.getsource(chunked.forward)
    known = [*values, "n", "T", "E", "H", "V", "dloss"]
    for gradient in chunked.backward(params, values):
        name = gradient[1:]
        uses = {to: s for to, s in lines.items() if name in names_in(s.value)}  # type: ignore[attr-defined]
        if solution:
            body, needs = answers[gradient]
            arguments = [n for n in known if n in needs]
            body += f"\nreturn {gradient}"
        else:
            needs = [n for s in uses.values() for n in names_in(s)]
            arguments = [f"d{to}" for to in uses] + [
                n for n in dict.fromkeys((name, *needs)) if n in known
            ]
            body = "raise NotImplementedError"
        forward = "\n".join(f"    {ast.unparse(s)}  # {to} {shapes[to]}" for to, s in uses.items())
        doc = f'"""{gradient} {shapes[name]}. {name} is used in\n\n{forward}\n"""'
        text += f"\n\ndef {gradient}({', '.join(arguments)}):\n" + textwrap.indent(
            f"{doc}\n{body}\n", "    "
        )
        known.append(gradient)
    return text


def answer_lines() -> dict[str, tuple[str, list[str]]]:
    """Each gradient's lines in `chunked.backward`, with those that prepare them, and the names they
    need."""
    prepared: dict[str, tuple[str, list[str]]] = {}
    found: dict[str, tuple[str, list[str]]] = {}
    current = ""
    for statement, text in statements(chunked.backward):
        name = target(statement)
        if name == "onehot":
            prepared[name] = text, names_in(statement)
        if name == "gradients":
            break
        if name.startswith("d") or isinstance(statement, ast.Expr):
            current = name or current
            needs = names_in(statement)
            before = [prepared[n] for n in needs if n in prepared] if name else [found[current]]
            found[current] = (
                "\n".join([*(lines for lines, _ in before), text]),
                [*(n for _, more in before for n in more), *needs],
            )
    return found


def operation_file(file: str, exercise: str, solution: bool) -> str:
    name, shapes = OPERATIONS[exercise]
    module = sys.modules[getattr(ops, name).__module__]
    source = inspect.getsource(module)
    tree = ast.parse(source).body
    wanted = [name, *([f"{name}_backward"] if solution else [])]
    chosen: list[ast.stmt] = []
    while wanted:
        n = wanted.pop()
        for statement in tree:
            if statement not in chosen and (
                getattr(statement, "name", "") == n or target(statement) == n
            ):
                chosen.append(statement)
                wanted += names_in(statement)
    used = {n for statement in chosen for n in names_in(statement)}
    imports = [
        s
        for s in tree
        if isinstance(s, ast.Import | ast.ImportFrom)
        and used & {a.asname or a.name for a in s.names}
    ]
    lines = source.splitlines()
    text = HEADER.format(exercise=exercise, what=OPERATION.format(name=name), file=file)
    text += "\n" + "\n".join(map(ast.unparse, imports)) + f'\n\nEXERCISE = "{exercise}"\n'
    for statement in sorted(chosen, key=lambda s: s.lineno):
        start = statement.lineno - 1
        while lines[start - 1].startswith("#"):
            start -= 1
        gap = "\n\n" if isinstance(statement, ast.FunctionDef) else "\n"
        text += gap + "\n".join(lines[start : statement.end_lineno]) + "\n"
    if not solution:
        backward = getattr(ops, f"{name}_backward")
        unpack = next(
            part for statement, part in statements(backward) if "cache" in names_in(statement)
        )
        body = f'"""{shapes}."""\n{unpack}\nraise NotImplementedError\n'
        upstream = next(iter(inspect.signature(backward).parameters))
        text += f"\n\ndef {name}_backward({upstream}, cache):\n" + textwrap.indent(body, "    ")
    return text


def network(
    rng: np.random.Generator, n: int, T: int, E: int, H: int, V: int
) -> tuple[dict, np.ndarray, np.ndarray]:
    """Random parameters for `npnet.chunked` in float64, x and y."""
    shapes = {
        "C": (V, E),
        "w1": (T * E, H),
        "b1": (H,),
        "w2": (H, V),
        "b2": (V,),
        "bngain": (1, H),
        "bnbias": (1, H),
    }
    params = {name: rng.standard_normal(shape) * 0.5 for name, shape in shapes.items()}
    return params, rng.integers(0, V, (n, T)), rng.integers(0, V, n)
