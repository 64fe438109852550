"""A layer that is a class: its parameters are judged as its inputs are, wherever it keeps them and
their gradients."""

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from typing import Any

import numpy as np

from oracle.proof.attributes import (
    Place,
    get,
    gradients_of,
    name_of,
    parse,
    places_of,
    put,
    written,
)
from oracle.proof.spy import Spy
from oracle.proof.subject import (
    Arrays,
    Misuse,
    Pass,
    Subject,
    described,
    divide,
    input_names,
    named,
    positional,
    same_draws,
    takes_any,
    title,
    unnested,
)

Names = str | Sequence[str] | Mapping[str, Any]

RATE = 2.0**30  # so large that a step has the gradient's rounding, and not the parameter's
OUTPUTS = ("output", "outputs", "out", "y")
INPUTS = ("dx", "dX", "dinputs", "dinput", "grad_input", "grad_inputs", "input_grad")


def layer(
    make: Any,
    *arguments: Any,
    params: Names = (),
    grads: Names | Spy = (),
    forward: str | Callable = "forward",
    backward: str | Callable | None = "backward",
    output: str = "",
    upstream: bool = True,
    rate: str = "",
    prepare: Callable | None = None,
    **keywords: Any,
) -> "Layer":
    """A layer that is a class, for `oracle.check_backward(oracle.layer(...), signature=...)`.

    The signature has the shapes of the forward's inputs and after them those of the parameters.
    Every call gets a layer of its own and the same random numbers of np.random, so that a mask of
    dropout stays.

    make       a class, or a function that returns a layer; it is called with `arguments` and
               `keywords`, in which "i" or "2*i" stands for that size and a hypothesis strategy for
               what it draws. Or an object, which is copied
    params     where the layer keeps its parameters: "W", "linear.W", "params['W']", "params[0]"; or
               {name: place}
    grads      where it leaves their gradients: in the order of params, or {parameter or input:
               place}. Without it they are what the backward returns, or stand in dW, grad_W,
               grads['W'], W.grad and the like. Or a `Spy` that is the layer's optimiser
    forward, backward   names of methods, or functions that get the layer first; backward=None where
               the forward returns (loss, gradients)
    output     where the forward leaves its result if it returns none
    upstream   False where the backward, of a loss, takes no upstream gradient
    rate       the learning rate, where the backward takes one of that name, or the layer has it
               there, and takes the step itself: the gradient is the step over the rate
    prepare    is called with the new layer and the inputs before it gets the parameters:
               lambda layer, x: layer.initialize(spy)
    """
    made = Layer(
        make, arguments, keywords, params, grads, forward, backward, output, upstream, rate, prepare
    )
    given = {
        "params": params, "grads": grads, "forward": forward, "backward": backward,
        "output": output, "upstream": upstream, "rate": rate, "prepare": prepare,
    }  # fmt: skip
    defaults = inspect.signature(layer).parameters
    keywords |= {n: value for n, value in given.items() if value != defaults[n].default}
    if made.made and title(make).isidentifier() and plain((arguments, keywords)):
        text = [title(make), *map(repr, arguments), *(f"{n}={v!r}" for n, v in keywords.items())]
        made.calls = (f"oracle.layer({', '.join(text)})", "None")
    return made


class Layer(Subject):
    """See `layer`."""

    accumulates = seeded = True
    wrap = staticmethod(lambda array: array)  # an array as the layer takes it

    def __init__(
        self,
        make: Any,
        arguments: Sequence[Any],
        keywords: Mapping[str, Any],
        params: Names,
        grads: Names | Spy,
        forward: str | Callable,
        backward: str | Callable | None,
        output: str,
        upstream: bool,
        rate: str,
        prepare: Callable | None,
    ):
        self.made = isinstance(make, type | functools.partial) or inspect.isroutine(make)
        if not self.made and (arguments or keywords):
            raise ValueError(f"{described(make)} takes no arguments: give its class")
        self.make, self.call, self.pullback = make, forward, backward
        self.output = parse(output) if output else None
        self.upstream = upstream and backward is not None
        self.rate, self.prepare = rate, prepare
        self.params = {name: parse(text) for name, text in by_their_names(params).items()}
        self.spy = grads if isinstance(grads, Spy) else None
        self.grads = {name: parse(text) for name, text in self.gradient_places(grads).items()}
        whole = title(make) if self.made else type(make).__name__
        self.forward_title, self.title = (
            title(f) if callable(f) else f"{whole}.{f}" for f in (forward, backward or forward)
        )
        # What the constructor gets is drawn as the forward's options are.
        taken = positional(make) if arguments else []
        names = [p.name for p in taken] + [f"argument {i}" for i in range(len(arguments))]
        self.arguments = [f"{whole}.{name}" for name, _ in zip(names, arguments, strict=False)]
        self.keywords = {name: f"{whole}.{name}" for name in keywords}
        self.options = dict(zip(self.arguments, arguments, strict=True))
        self.options |= {self.keywords[name]: value for name, value in keywords.items()}

    def gradient_places(self, grads: Names | Spy) -> Mapping[str, str]:
        if isinstance(grads, Mapping):
            return grads
        if isinstance(grads, Spy) or not grads:
            return {}
        listed = [grads] if isinstance(grads, str) else grads
        if len(listed) != len(self.params):
            raise ValueError(f"there are {len(self.params)} params, but {len(listed)} grads")
        return dict(zip(self.params, listed, strict=True))

    def bind(self, inputs: int, results: int) -> None:
        count = inputs - len(self.params)
        if count < 0:
            raise ValueError(
                f"the signature has the shapes of {inputs} inputs, but there are "
                f"{len(self.params)} params alone"
            )
        self.results = results
        known = self.make if isinstance(self.make, type) or not self.made else None
        told = known is not None or callable(self.call)
        function, skip = self.function(known, self.call) if told else (None, 0)
        self.data = input_names(function, skip, count)
        if taken := [name for name in self.params if name in self.data]:
            raise ValueError(f"{taken[0]!r} is an input, too: give params={{name: place}}")
        if self.pullback and (known is not None or callable(self.pullback)):
            function, skip = self.function(known, self.pullback)
            self.upstream &= skip < len(positional(function)) or takes_any(function)
        self.names = [*self.data, *self.params]

    def function(self, known: Any, name: str | Callable) -> tuple[Callable, int]:
        """The method, and how many parameters stand before the inputs."""
        if callable(name):
            return name, 1
        if not hasattr(known, name):
            whole = title(known) if isinstance(known, type) else described(known)
            raise ValueError(f"{whole} has no method {name!r}")
        return getattr(known, name), int(isinstance(known, type))

    # One call.

    def forward(self, inputs: Arrays, options: Mapping[str, Any]) -> Pass:
        first, outputs, cache = self.run(inputs, options)
        calls = 0

        def backward(dys: tuple) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            if calls > 1:  # a layer may be good for one backward
                if not self.rate:
                    with suppress(Exception):
                        return self.gradients(first, cache, dys, inputs)
                again, _, kept = self.run(inputs, options)
                return self.gradients(again, kept, dys, inputs)
            return self.gradients(first, cache, dys, inputs)

        return Pass(outputs, backward)

    def run(self, inputs: Arrays, options: Mapping[str, Any]) -> tuple[Any, tuple, tuple]:
        """A new layer after its forward, its results, and its cache in a tuple if there is one."""
        rest = {name: value for name, value in options.items() if name not in self.options}
        data = [self.wrap(inputs[name]) for name in self.data]
        with same_draws():
            new = self.fresh(inputs, options, data)
            found = bound(new, self.call)(*data, **rest)
        if self.output:
            found = get(new, self.output)
        elif found is None:
            places = (((".", name),) for name in OUTPUTS)
            found = next((a for p in places if (a := get(new, p)) is not None), None)
        if found is None:
            raise Misuse(f"{self.forward_title} returns nothing; say where it is left in output=")
        if self.pullback is None and isinstance(found, tuple | list):
            loss, *gradients = found
            return new, (loss,), (gradients[0] if len(gradients) == 1 else gradients,)
        outputs, cache, cached = divide(found, self.results)
        return new, outputs, (cache,) if cached else ()

    def fresh(self, inputs: Arrays, options: Mapping[str, Any], data: list) -> Any:
        """A layer that has the parameters and knows nothing else of them."""
        if self.made:
            keywords = {name: options[key] for name, key in self.keywords.items()}
            new = self.make(*(options[key] for key in self.arguments), **keywords)
        else:
            new = deepcopy(self.make)
        if self.prepare:
            self.prepare(new, *data)
        for name, place in self.params.items():
            value, old = self.wrap(inputs[name]), get(new, place)
            if old is None:
                raise Misuse(
                    f"a new {type(new).__name__} has no {written(place)}; if its forward makes it: "
                    "prepare=lambda layer, x: layer.forward(x)"
                )
            has, should = tuple(np.shape(old)), tuple(np.shape(value))
            if has != should:
                raise Misuse(
                    f"{written(place)} of {type(new).__name__} has shape {has}, and not {should} "
                    "as the signature says"
                )
            replace(new, place, old, np.array(value) if self.rate else value)
            if isinstance(value, np.ndarray) and value.dtype == np.float32:
                self.convert(new, name, value.dtype)
        return new

    def convert(self, layer: Any, name: str, dtype: np.dtype) -> None:
        """Give the arrays that wait for a parameter's gradient the parameter's dtype."""
        for place in [self.grads[name]] if name in self.grads else gradients_of(self.params[name]):
            if isinstance(buffer := get(layer, place), np.ndarray):
                replace(layer, place, buffer, buffer.astype(dtype))

    def gradients(self, layer: Any, cache: tuple, dys: tuple, inputs: Arrays) -> dict[str, Any]:
        if self.pullback is None:
            return self.collected(layer, self.returned(cache[0] if cache else None), inputs)
        function, keywords = bound(layer, self.pullback), {}
        if self.spy:
            self.spy.seen.clear()
        if self.rate:
            if self.rate in inspect.signature(function).parameters:
                keywords[self.rate] = RATE
            else:
                put(layer, parse(self.rate), RATE)
        data = [self.wrap(inputs[name]) for name in self.data]
        upstream = tuple(map(self.wrap, dys))
        returned = function(*self.arguments_of(function, upstream, cache, data), **keywords)
        return self.collected(layer, self.returned(returned), inputs)

    def collected(self, layer: Any, found: dict[str, Any], inputs: Arrays) -> dict[str, Any]:
        """The gradients that were returned, and the others from where they were left."""
        for name, place in self.grads.items():
            found[name] = get(layer, place)
        for name in self.wanted:
            if name in self.params and name not in self.grads:
                now = get(layer, self.params[name])
                if self.spy:
                    found[name] = self.spy.gradient(now)
                elif self.rate:
                    found[name] = (inputs[name] - now) / RATE
            if name not in found:
                found[name] = self.left(layer, name)
        return {name: found[name] for name in self.wanted}

    def arguments_of(self, function: Callable, dys: tuple, cache: tuple, data: list) -> list:
        """What a backward gets: the upstream gradient, and the cache or the inputs if it wants
        them."""
        required = [p for p in positional(function) if p.default is p.empty and p.name != self.rate]
        needs = len(required)
        given = list(dys) if self.upstream else []
        for more in (cache, data, []):
            if len(given) > 1 and needs == 1 + len(more):
                return [dys, *more]
            if needs == len(given) + len(more):
                return [*given, *more]
        if needs > len(given) + len(cache):
            listed = ", ".join(p.name for p in required)
            without = "; upstream=False if it takes no upstream gradient" * self.upstream
            raise Misuse(
                f"{self.title} takes {listed}, but there are {len(given)} upstream gradients, "
                f"{len(data)} inputs and {len(cache)} caches{without}"
            )
        return [*given, *cache]

    def returned(self, found: Any) -> dict[str, Any]:
        """What the backward returns -> {input: gradient}: all of them, or those of the data."""
        if found is None:
            return {}
        if isinstance(found, Mapping):
            keys = {name: named(name, found) for name in self.wanted}
            return {name: found[key] for name, key in keys.items() if key is not None}
        found = unnested(found if isinstance(found, tuple | list) else (found,))
        if len(found) > 1 and isinstance(found[-1], Mapping):  # dx, {"w": dw, "b": db}
            return self.returned(found[:-1]) | self.returned(found[-1])
        own = [name for name in self.data if name in self.wanted]
        for names in (
            (own, self.data, self.wanted, self.names) if own else (self.wanted, self.names)
        ):
            if len(names) == len(found):
                return dict(zip(names, found, strict=True))
        if not own and len(found) == 1:  # of indices, whatever it is
            return {}
        raise Misuse(
            f"{self.title} returns {len(found)} gradients; with those of {', '.join(self.names)} "
            f"it would be {len(self.names)}, without the params {len(self.data)}"
        )

    def left(self, layer: Any, name: str) -> Any:
        """The gradient that the backward left in the layer."""
        places = list(gradients_of(self.params.get(name, ((".", name),))))
        if name == self.data[0]:
            places += [((".", other),) for other in INPUTS]
        for place in places:
            if (found := get(layer, place)) is not None:
                return found
        listed = ", ".join(map(written, places[:4]))
        raise Misuse(
            f"{self.title} returns no d{name}, and there is no {listed} or the like; say where it "
            f"is in grads={{{name!r}: place}}"
        )


def by_their_names(params: Names) -> Mapping[str, str]:
    """Places by the names of the parameters: the last word, or all words where that is not one."""
    if isinstance(params, Mapping):
        return params
    listed = [params] if isinstance(params, str) else list(params)
    short = [name_of(parse(text)) for text in listed]
    return {
        name if name and short.count(name) == 1 else re.sub(r"\W+", "_", text).strip("_"): text
        for name, text in zip(short, listed, strict=True)
    }


def replace(layer: Any, place: Place, old: Any, value: np.ndarray) -> None:
    """Put an array where another was, and wherever else the layer has that one."""
    others = places_of(old, layer) if isinstance(old, np.ndarray) else ()
    for each in {place, *others}:
        put(layer, each, value)


def plain(value: Any) -> bool:
    """Whether its repr makes it again."""
    if isinstance(value, dict):
        return plain(list(value.items()))
    if isinstance(value, tuple | list):
        return all(map(plain, value))
    return value is None or isinstance(value, str | int | float)


def bound(layer: Any, name: str | Callable) -> Callable:
    return functools.partial(name, layer) if callable(name) else getattr(layer, name)
