"""Shapes as text, as NumPy writes them for generalised ufuncs: "(n,i),(i,o),(o)->(n,o)".

An axis is a size to be drawn, a number, or made of others: 3c, c+h, h-k+1, h//2, 2*(c+1).
"""

import ast
import operator
import re
from collections.abc import Mapping
from typing import Any

Axis = ast.expr
Shape = tuple[Axis, ...]

_OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def parse(signature: str) -> tuple[list[Shape], list[Shape]]:
    """The shapes of the inputs, and of the results."""
    text = re.sub(r"\s", "", signature)
    sides = text.split("->")
    shapes = [_split(side) for side in sides]
    if len(sides) != 2 or not all(
        shapes and all(s[:1] == "(" and s[-1:] == ")" for s in shapes) for shapes in shapes
    ):
        raise ValueError(
            f"the signature {signature!r} is not of the form '(n,i),(i,o),(o)->(n,o)': the shapes "
            "of the inputs, ->, the shapes of the results"
        )

    def axis(text: str) -> Axis:
        try:
            found = size(text)
            letters_of(found)
            return found
        except (SyntaxError, ValueError):
            raise ValueError(
                f"{text!r} in the signature {signature!r} is not a size such as n, 3, 3c, c+h, "
                "h-k+1 or h//2"
            ) from None

    inputs, outputs = (
        [tuple(map(axis, _split(shape[1:-1]))) if shape != "()" else () for shape in side]
        for side in shapes
    )
    return inputs, outputs


def size(text: str) -> Axis:
    """What a text such as 3c means, in which no letter need be a size."""
    return ast.parse(re.sub(r"(\d)(?=[A-Za-z_(])", r"\1*", text.strip()), mode="eval").body


def letters(*shapes: Shape) -> list[str]:
    return sorted({letter for shape in shapes for axis in shape for letter in letters_of(axis)})


def letters_of(axis: Axis) -> set[str]:
    """The letters of one size; ValueError where it is not made of +, -, * and //."""
    if isinstance(axis, ast.Name):
        return {axis.id}
    if isinstance(axis, ast.Constant) and type(axis.value) is int:
        return set()
    if isinstance(axis, ast.BinOp) and type(axis.op) in _OPERATIONS:
        return letters_of(axis.left) | letters_of(axis.right)
    raise ValueError


def extent(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(_size(axis, sizes) for axis in shape)


def sized(value: Any, sizes: Mapping[str, int]) -> Any:
    """An option in which a text such as "n" or "2n", of letters that are sizes, is a number; also
    inside of tuples and lists."""
    if isinstance(value, tuple | list):
        return type(value)(sized(part, sizes) for part in value)
    if not isinstance(value, str):
        return value
    try:
        axis = size(value)
        found = letters_of(axis)
    except (SyntaxError, ValueError):
        return value
    return _size(axis, sizes) if found and found <= sizes.keys() else value


def _size(axis: Axis, sizes: Mapping[str, int]) -> int:
    if isinstance(axis, ast.BinOp):
        return _OPERATIONS[type(axis.op)](_size(axis.left, sizes), _size(axis.right, sizes))
    return sizes[axis.id] if isinstance(axis, ast.Name) else axis.value  # type: ignore[attr-defined]


def _split(text: str) -> list[str]:
    """At the commas that stand in no parentheses."""
    parts, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
