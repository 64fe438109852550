"""Shapes as text, as NumPy writes them for generalised ufuncs: "(n,i),(i,o),(o)->(n,o)"."""

import re

Axis = tuple[tuple[int, str], ...]  # 2c + h + 1 is (2, "c"), (1, "h"), (1, "")
Shape = tuple[Axis, ...]


def parse(signature: str) -> tuple[list[Shape], Shape]:
    """The shapes of the inputs, and of the result."""
    sides = re.sub(r"\s", "", signature).split("->")
    shapes = [re.findall(r"\(([^()]*)\)", side) for side in sides]
    if (
        len(sides) != 2
        or [",".join(f"({s})" for s in side) for side in shapes] != sides
        or len(shapes[1]) != 1
    ):
        raise ValueError(
            f"the signature {signature!r} is not of the form '(n,i),(i,o),(o)->(n,o)': the shapes of the inputs, ->, "
            "the shape of the one result"
        )

    def axis(text: str) -> Axis:
        found = [re.fullmatch(r"(\d*)([A-Za-z_]\w*)?", term) for term in text.split("+")]
        if not all(match and match[0] for match in found):
            raise ValueError(
                f"{text!r} in the signature {signature!r} is not a size such as n, 3, 3c or c+h"
            )
        return tuple((int(match[1] or 1), match[2] or "") for match in found if match)

    inputs, (result,) = (
        [tuple(map(axis, shape.split(","))) if shape else () for shape in side] for side in shapes
    )
    return inputs, result


def letters(*shapes: Shape) -> list[str]:
    return sorted({letter for shape in shapes for axis in shape for _, letter in axis if letter})


def extent(shape: Shape, sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(
        sum(count * (sizes[letter] if letter else 1) for count, letter in axis) for axis in shape
    )
