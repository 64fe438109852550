"""Places in an object, written as code: "W", "linear.W", "params['W']", "params[0]"."""

import ast
import types
from collections.abc import Iterator
from typing import Any

from oracle.proof.subject import spellings

Step = tuple[str, Any]  # ".", an attribute's name; "[", a key or an index
Place = tuple[Step, ...]

HELD = ("data", "value", "val", "array")  # where an object for a parameter has its numbers
CONTAINERS = ("grads", "gradients", "grad", "gradient", "derivatives", "dparams")


def parse(text: str | Place) -> Place:
    if not isinstance(text, str):
        return text

    def steps(node: ast.expr) -> Place:
        if isinstance(node, ast.Name):
            return ((".", node.id),)
        if isinstance(node, ast.Attribute):
            return (*steps(node.value), (".", node.attr))
        if isinstance(node, ast.Subscript):
            return (*steps(node.value), ("[", ast.literal_eval(node.slice)))
        raise ValueError

    try:
        return steps(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError):
        raise ValueError(
            f"{text!r} is not a place such as W, linear.W, params['W'] or params[0]"
        ) from None


def written(place: Place) -> str:
    return "".join(f".{key}" if kind == "." else f"[{key!r}]" for kind, key in place)[1:]


def get(root: Any, place: Place) -> Any:
    """What stands there; None where nothing does."""
    try:
        for kind, key in place:
            root = getattr(root, key) if kind == "." else root[key]
    except Exception:  # of a property or a __getitem__ of theirs, it may be any
        return None
    return root


def put(root: Any, place: Place, value: Any) -> None:
    *home, (kind, key) = place
    container = get(root, tuple(home)) if home else root
    if kind == ".":
        setattr(container, key, value)
    else:
        container[key] = value


def places_of(value: Any, root: Any) -> Iterator[Place]:
    """Every attribute and entry below root, in objects, lists and dictionaries, that is `value`."""
    seen = set()

    def below(thing: Any, place: Place) -> Iterator[Place]:
        if id(thing) in seen:
            return
        seen.add(id(thing))
        entries: Iterator[tuple[Step, Any]]
        if isinstance(thing, dict):
            entries = ((("[", key), entry) for key, entry in thing.items())
        elif isinstance(thing, list | tuple):
            entries = ((("[", i), entry) for i, entry in enumerate(thing))
        elif isinstance(thing, type | types.ModuleType) or not hasattr(thing, "__dict__"):
            return
        else:
            entries = (((".", name), entry) for name, entry in vars(thing).items())
        for step, entry in entries:
            if entry is value and not isinstance(thing, tuple):
                yield (*place, step)
            elif isinstance(entry, dict | list | tuple) or hasattr(entry, "__dict__"):
                yield from below(entry, (*place, step))

    yield from below(root, ())


def name_of(place: Place) -> str:
    """The last word of a place, "W", or nothing."""
    *home, (_, key) = place
    if key in HELD and home:
        return name_of(tuple(home))
    return key if isinstance(key, str) and key.isidentifier() else ""


def gradients_of(place: Place) -> Iterator[Place]:
    """Where people leave the gradient of what stands at a place."""
    *home, (kind, key) = place
    if kind == "." and key in HELD and home:
        yield from ((*home, (".", name)) for name in ("grad", "gradient"))
    spelt = spellings(key) if isinstance(key, str) else ()
    if kind == ".":
        yield from ((*home, (".", name)) for name in spelt)
        yield from ((*home, (".", c), ("[", n)) for c in CONTAINERS for n in (key, *spelt))
        yield (*place, (".", "grad"))
        return
    if home and home[-1][0] == ".":
        containers = (*spellings(home[-1][1]), *CONTAINERS)
        yield from ((*home[:-1], (".", c), ("[", n)) for c in containers for n in (key, *spelt))
    yield from ((*home, ("[", name)) for name in spelt)
    yield from ((*home, (".", c), ("[", key)) for c in CONTAINERS)
    yield (*place, (".", "grad"))
