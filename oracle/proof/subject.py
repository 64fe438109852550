"""A forward and a backward in any style, behind one call.

    subject.forward(inputs, options) -> Pass         inputs by name, in the order of the signature
    pass.backward(dys) -> {input name: gradient}     None where there is none

`Pair` is two plain functions. The other styles are in `oracle.proof.styles`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import mtrand

Arrays = dict[str, np.ndarray]
OWN = np.random.MT19937(0)  # swapped for np.random's, which is faster than to save its state
FIRST_DRAW = np.random.RandomState(0).random()


class Misuse(ValueError):
    """A call that does not fit what it is about, before anything is judged."""


@dataclass
class Pass:
    """What a forward returned: its results, the backward that belongs to them, and the arrays that
    are kept for it."""

    outputs: tuple[Any, ...]
    backward: Callable[..., dict[str, Any]]
    cache: list[np.ndarray] = field(default_factory=list)


class Subject:
    """What is judged. `names` are the inputs, in order; `title` and `forward_title` what messages
    call its two functions."""

    names: list[str]
    wanted: list[str]
    title: str
    forward_title: str
    calls: tuple[str, ...] = ()  # the first two arguments of a call that can be pasted
    upstream = True  # whether the backward takes an upstream gradient
    takes_read_only = True  # False once it was right with writable arrays alone
    seeded = False  # True once the forward drew from np.random: now each has the same draws
    accumulates = False  # whether a second backward may add to the gradients of the first
    options: Mapping[str, Any] = {}  # to be drawn for it, beside those of the forward

    def bind(self, inputs: int, results: int) -> None:
        """Set `names` for a signature with so many inputs and results."""
        raise NotImplementedError

    def forward(self, inputs: Arrays, options: Mapping[str, Any]) -> Pass:
        raise NotImplementedError

    def draws(self) -> AbstractContextManager:
        """What a forward runs in."""
        return same_draws() if self.seeded else nullcontext()

    def value(self, inputs: Arrays, options: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        """The results alone, as arrays."""
        return tuple(np.asarray(as_array(y)) for y in self.forward(inputs, options).outputs)


class Pair(Subject):
    """forward(inputs..., **options) -> (y, cache) and backward(dy, cache); or -> y alone, and then
    backward(dy, inputs..., **options).

    With several results y is a tuple of them, and the backward takes a gradient for each, one after
    the other or as one tuple. The gradients come back as a tuple in the order of `wanted`, or of
    all inputs, or as a dictionary by name. Without a backward, forward returns (loss, gradients).
    """

    def __init__(
        self,
        forward: Callable,
        backward: Callable | None,
        names: Sequence[str],
        wanted: Sequence[str],
        results: int = 1,
    ):
        self.function, self.pullback = forward, backward
        self.names, self.wanted, self.results = list(names), list(wanted), results
        self.upstream = backward is not None
        self.title, self.forward_title = title(backward or forward), title(forward)
        calls = (own_name(forward), own_name(backward))
        self.calls = calls if all(calls) else ()

    def forward(self, inputs: Arrays, options: Mapping[str, Any]) -> Pass:
        with self.draws():
            found = self.function(*inputs.values(), **options)
        if self.pullback is None:
            if not (isinstance(found, tuple | list) and len(found) >= 2):
                raise Misuse(
                    f"{self.forward_title} has to return (loss, gradients) where there is no "
                    f"backward, got {described(found)}"
                )
            loss, *rest = found
            return Pass((loss,), lambda dys: by_name(rest[0] if len(rest) == 1 else rest, self))
        outputs, cache, cached = divide(found, self.results)

        def backward(dys: tuple, **out: Any) -> dict[str, Any]:
            what = (cache,) if cached else tuple(inputs.values())
            upstream = (dys,) if self.takes_a_tuple(len(what)) else dys
            given = out if cached else {**options, **out}
            return by_name(self.pullback(*upstream, *what, **given), self)  # type: ignore[misc]

        return Pass(outputs, backward, list(arrays_in(cache)))

    def takes_a_tuple(self, others: int) -> bool:
        """Whether several upstream gradients go to the backward as one argument."""
        if self.results == 1:
            return False
        required = [p for p in positional(self.pullback) if p.default is p.empty]
        return len(required) == 1 + others and not takes_any(self.pullback)


@contextmanager
def same_draws() -> Iterator[None]:
    """With np.random as it is after seed(0), and given back as it was."""
    theirs = mtrand.get_bit_generator()
    mtrand.set_bit_generator(OWN)
    np.random.seed(0)
    try:
        yield
    finally:
        mtrand.set_bit_generator(theirs)


def divide(found: Any, results: int) -> tuple[tuple, Any, bool]:
    """What a forward returned -> the results, the cache, whether there is a cache."""
    k = results
    if isinstance(found, Mapping) and len(found) == k:
        return tuple(found.values()), (), False
    if not isinstance(found, tuple | list):
        return (found,), (), False
    if k == 1:
        if len(found) > 2 and any(isinstance(part, np.ndarray) for part in found):
            raise Misuse(
                f"the forward returns {len(found)} values where the signature has one result: "
                "return it alone or with a cache, as lambda ...: f(...)[:2] does"
            )
        return (tuple(found[:1]), found[1], True) if len(found) == 2 else ((found,), (), False)
    if len(found) == 2 and isinstance(found[0], tuple | list):
        return tuple(found[0]), found[1], True
    if len(found) == k + 1:
        return tuple(found[:k]), found[k], True
    return tuple(found), (), False


def by_name(found: Any, subject: Any) -> dict[str, Any]:
    """A backward's result -> {input name: gradient}; a Misuse where the number does not fit."""
    wanted: list[str] = subject.wanted
    if isinstance(found, Mapping):
        gradients = {}
        for name in wanted:
            key = named(name, found)
            if key is None:
                raise Misuse(
                    f"{subject.title} returns {', '.join(map(str, found))}, but no d{name}; name "
                    "what it does return in wrt="
                )
            gradients[name] = found[key]
        return gradients
    if not isinstance(found, tuple | list) and len(wanted) == 1:
        found = (found,)
    found = unnested(found)
    names = wanted
    if isinstance(found, tuple | list) and len(found) != len(wanted):
        names = subject.names
    if not isinstance(found, tuple | list) or len(found) != len(names):
        listed = ", ".join("d" + name for name in wanted)
        count = f"{len(found)} gradients" if isinstance(found, tuple | list) else described(found)
        raise Misuse(f"{subject.title} has to return {listed}, but returns {count}")
    return {n: g for n, g in zip(names, found, strict=True) if n in wanted}


def unnested(found: Any) -> Any:
    """(dx, [dw, db]) as (dx, dw, db), and (dx, []) as (dx,)."""
    if not isinstance(found, tuple | list):
        return found

    def parts(part: Any) -> Any:
        listed = isinstance(part, tuple | list)
        return part if listed and all(a is None or hasattr(a, "shape") for a in part) else [part]

    return tuple(gradient for part in found for gradient in parts(part))


def named(name: str, found: Mapping) -> str | None:
    """The key of that input's gradient."""
    return next((key for key in (f"d{name}", name, *spellings(name)) if key in found), None)


def spellings(name: str) -> tuple[str, ...]:
    """What people call the gradient of that name."""
    return (
        *(f"d{name}", f"d_{name}", f"grad_{name}", f"{name}_grad", f"grad{name}"),
        *(f"{name}_gradient", f"gradient_{name}", f"{name}_grads", f"delta_{name}", f"g{name}"),
        *(f"{name}_diff", f"diff_{name}"),
    )


def input_names(forward: Any, skip: int, count: int) -> list[str]:
    """The names of a forward's first parameters after some, or x, or x0, x1, ..., where it does not
    tell."""
    names = [p.name for p in positional(forward)][skip : skip + count]
    if len(names) == count:
        return names
    return ["x"] if count == 1 else [f"x{i}" for i in range(count)]


def positional(function: Any) -> list[inspect.Parameter]:
    """The parameters that can be given by place; none where the function does not tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def takes_any(function: Any) -> bool:
    """Whether there is an *args."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind == p.VAR_POSITIONAL for p in parameters)


def arrays_in(cache: Any) -> Iterator[np.ndarray]:
    if isinstance(cache, np.ndarray):
        yield cache
    elif isinstance(cache, dict):
        yield from arrays_in(tuple(cache.values()))
    elif isinstance(cache, tuple | list):
        for entry in cache:
            yield from arrays_in(entry)


def same_bits(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def title(function: Any) -> str:
    function = getattr(function, "func", function)  # of a functools.partial
    return getattr(function, "__qualname__", type(function).__name__).split(".")[-1]


def own_name(function: Any) -> str:
    """What a line that is pasted may call it, or "" for a method, a partial and the like, which
    have no name of their own."""
    if function is None:
        return "None"
    name = getattr(function, "__qualname__", "").rpartition("<locals>.")[2]
    return name if name.isidentifier() and not hasattr(function, "__self__") else ""


def described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


def as_array(value: Any) -> Any:
    """What other libraries return, as NumPy's; Python's and NumPy's own as they are."""
    if isinstance(value, np.ndarray | np.generic | float | int) or value is None:
        return value
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    return np.asarray(value) if hasattr(value, "__array__") else value
