"""Backward passes that belong to a framework: a tensor engine of one's own, torch's Functions and
Modules, JAX's custom_vjp, and anything that returns a vector-Jacobian product.

    oracle.tensors(f, Tensor)           Tensor(array), y.backward(), x.grad
    oracle.torch_function(Function)     a torch.autograd.Function
    oracle.torch_module(Module, ...)    a Module with one inside, or with a backward of its own
    oracle.vjp(f, autograd.make_vjp)    pull, y = make_vjp(f, places)(inputs...)
    oracle.jax_function(f)              jax.vjp

Their results and gradients are copied, because no framework promises arrays that are not shared.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np

from oracle.proof.attributes import get, parse
from oracle.proof.layer import Layer, Names, layer
from oracle.proof.subject import (
    Arrays,
    Misuse,
    Pass,
    Subject,
    as_array,
    divide,
    input_names,
    positional,
    title,
)

UPSTREAM = {"dy", "dout", "dz", "g", "gy", "delta", "upstream", "seed", "v", "dvalues"}


def tensors(
    f: Callable | Layer,
    make: Callable,
    *,
    data: str = "data",
    grad: str = "grad",
    backward: str | Callable = "backward",
    scalars: bool = False,
) -> "Tensors":
    """A function of a framework's tensors, y = f(make(x), ...), or an `oracle.layer` of them.

    data      where y, and a gradient, has its numbers: an attribute or a method
    grad      where a tensor has its gradient after y.backward()
    backward  the method of y, which gets the upstream gradient if it takes one; if not, it is
              called on (y * make(dy)).sum(), or y.grad is set first. Or a function of y and dy
    scalars   make holds one number, as micrograd's Value: f gets arrays of objects
    """
    return Tensors(f, Engine(make, data, grad, backward, scalars))


class Engine:
    """How numbers go into a framework's tensors, and its gradients come out."""

    def __init__(
        self, make: Callable, data: str, grad: str, backward: str | Callable, scalars: bool
    ):
        self.make, self.backward, self.scalars = make, backward, scalars
        self.data, self.grad = parse(data), parse(grad)

    def tensor(self, array: np.ndarray, wanted: bool) -> Any:
        if array.dtype.kind in "iu" and not wanted:
            return array
        if not self.scalars:
            return self.make(array)
        made = [self.make(number) for number in array.ravel().tolist()]
        if array.ndim == 0:
            return made[0]
        whole = np.empty(len(made), object)
        whole[:] = made
        return whole.reshape(array.shape)

    def array(self, tensor: Any, dtype: Any = None) -> Any:
        """The numbers of a tensor, or of an array of tensors."""
        if isinstance(tensor, np.ndarray) and tensor.dtype == object:
            flat = [self.array(each) for each in tensor.ravel()]
            return np.array(flat, dtype).reshape(tensor.shape)
        plain = tensor is None or isinstance(tensor, np.ndarray | np.generic | float | int)
        if not plain and (found := get(tensor, self.data)) is not None:
            tensor = found() if callable(found) else found
        tensor = as_array(tensor)
        return np.asarray(tensor, dtype) if self.scalars else tensor

    def gradients(self, outputs: tuple, leaves: Sequence[Any], dys: tuple) -> list[Any]:
        if callable(self.backward):
            self.backward(*outputs, *dys)
        elif len(outputs) > 1:
            raise Misuse("of several results: give backward=lambda y0, y1, dy0, dy1: ...")
        else:
            self.pull(outputs[0], dys[0], self.backward)
        return [self.gradient(leaf, dys[0].dtype) for leaf in leaves]

    def pull(self, y: Any, dy: np.ndarray, backward: str) -> None:
        """Call the backward with dy, in one of the ways in which it can get there."""
        if isinstance(y, np.ndarray):  # of objects
            getattr((y * dy.astype(object)).sum(), backward)()
            return
        takes = positional(getattr(y, backward))
        if takes and upstream(takes[0].name):
            getattr(y, backward)(dy)
        elif hasattr(y, "__mul__") and (hasattr(y, "sum") or dy.ndim == 0):
            product = y * (dy.item() if self.scalars else self.make(dy))
            getattr(product.sum() if dy.ndim else product, backward)()
        else:
            setattr(y, self.grad[-1][1], dy)
            getattr(y, backward)()

    def gradient(self, leaf: Any, dtype: Any) -> Any:
        if isinstance(leaf, np.ndarray) and leaf.dtype == object:
            each = [self.gradient(one, dtype) for one in leaf.ravel()]
            return np.array(each, dtype).reshape(leaf.shape)
        return self.array(get(leaf, self.grad), dtype)


def upstream(name: str) -> bool:
    """Whether a parameter of that name takes an upstream gradient."""
    others = ("retain", "zero", "create", "no_", "clear", "accum")
    return name in UPSTREAM or ("grad" in name and not name.startswith(others))


class Tensors(Subject):
    """See `tensors`. Every backward has a graph of its own."""

    def __init__(self, f: Callable | Layer, engine: Any, names: Sequence[str] = ()):
        self.f, self.engine, self.given = f, engine, names
        self.forward_title = f.forward_title if isinstance(f, Layer) else title(f)
        self.title = f"the backward of {self.forward_title}"
        if isinstance(f, Layer):
            self.options, f.pullback = f.options, ""  # the engine has the backward

    def bind(self, inputs: int, results: int) -> None:
        self.results = results
        if isinstance(self.f, Layer):
            self.f.bind(inputs, results)
            self.names = self.f.names
        else:
            own = list(self.given[:inputs])
            self.names = own if len(own) == inputs else input_names(self.f, 0, inputs)

    def run(self, inputs: Arrays, options: Mapping[str, Any]) -> tuple[dict[str, Any], tuple]:
        """The inputs and the results as tensors."""
        given = {n: self.engine.tensor(a, n in self.wanted) for n, a in inputs.items()}
        if isinstance(self.f, Layer):
            return given, self.f.run(given, options)[1]
        with self.draws():
            return given, divide(self.f(*given.values(), **options), self.results)[0]

    def forward(self, inputs: Arrays, options: Mapping[str, Any]) -> Pass:
        outputs = tuple(map(copied, map(self.engine.array, self.run(inputs, options)[1])))

        def backward(dys: tuple) -> dict[str, Any]:
            given, y = self.run(inputs, options)
            found = self.engine.gradients(y, [given[name] for name in self.wanted], dys)
            pairs = zip(self.wanted, found, strict=True)
            return {n: None if g is None else np.array(g) for n, g in pairs}

        return Pass(outputs, backward)


class Torch:
    """The same for torch's tensors, whose gradients autograd finds."""

    def tensor(self, array: np.ndarray, wanted: bool) -> Any:
        import torch

        made = torch.from_numpy(np.array(array, order="C"))
        return torch.nn.Parameter(made, requires_grad=wanted)

    def array(self, tensor: Any) -> Any:
        return as_array(tensor)

    def gradients(self, outputs: tuple, leaves: Sequence[Any], dys: tuple) -> list[Any]:
        import torch

        upstream = [torch.from_numpy(np.array(dy)) for dy in dys]
        return [*map(as_array, torch.autograd.grad(outputs, leaves, upstream, allow_unused=True))]


def torch_function(cls: Any) -> Tensors:
    """A `torch.autograd.Function`; its class alone says as much to `oracle.check_backward`, whose
    options become the arguments after the tensors."""
    import torch

    with_context = cls.setup_context is torch.autograd.Function.setup_context
    names = [p.name for p in positional(cls.forward)][with_context:]

    def apply(*given: Any, **options: Any) -> Any:
        rest = (options[name] for name in names[len(given) :] if name in options)
        return cls.apply(*given, *rest)

    subject = Tensors(apply, Torch(), names)
    subject.title, subject.forward_title = f"{cls.__name__}.backward", f"{cls.__name__}.forward"
    subject.calls = (cls.__name__, "None")
    return subject


def torch_module(make: Any, *arguments: Any, params: Names = (), **details: Any) -> Subject:
    """A `torch.nn.Module`, as `oracle.layer`. An object's parameters are all its
    `named_parameters()`; with a class, name them. Where it has no `backward` of its own, what is
    judged is the Function inside."""
    import torch

    if isinstance(make, torch.nn.Module) and not params:
        words = [name.split(".") for name, _ in make.named_parameters()]
        last = [each[-1] for each in words]
        params = {
            each[-1] if last.count(each[-1]) == 1 else "_".join(each): tuple(
                (".", word) for word in each
            )
            for each in words
        }
    prepare = details.pop("prepare", None)

    def prepared(module: torch.nn.Module, *inputs: torch.Tensor) -> None:
        if prepare:
            prepare(module, *inputs)
        module.to(next(a.dtype for a in inputs if a.is_floating_point() or a.is_complex()))

    engine = Torch()
    inside = layer(make, *arguments, params=params, prepare=prepared, **details)
    if "backward" in details or hasattr(make, "backward"):
        inside.wrap = lambda array: engine.tensor(array, False)
        return inside
    return Tensors(inside, engine)


def vjp(f: Callable, make_vjp: Callable) -> "Products":
    """A function whose vector-Jacobian product is made as autograd makes it:
    make_vjp(f, places)(inputs...) -> (pull, y), and pull(dy) -> a gradient for each place."""

    def both(f: Callable, places: tuple[int, ...], inputs: tuple) -> tuple[Any, Callable]:
        pull, y = make_vjp(f, places)(*inputs)
        return y, pull

    return Products(f, both)


def jax_function(f: Callable) -> "Products":
    """A function of JAX, of which a custom_vjp is judged, in float64 where that is asked for."""
    import jax

    def both(f: Callable, places: tuple[int, ...], inputs: tuple) -> tuple[Any, Callable]:
        def of_the_wanted(*wanted: Any) -> Any:
            given = dict(enumerate(inputs)) | dict(zip(places, wanted, strict=True))
            return f(*given.values())

        return jax.vjp(of_the_wanted, *(inputs[i] for i in places))

    return Products(f, both, jax.enable_x64)


class Products(Subject):
    """See `vjp`: both(f, places, inputs) -> y and its pull-back to the inputs at these places."""

    def __init__(self, f: Callable, both: Callable, at_work: Callable = nullcontext):
        self.f, self.both, self.at_work = f, both, at_work
        self.forward_title = title(f)
        self.title = f"the backward of {self.forward_title}"

    def bind(self, inputs: int, results: int) -> None:
        self.names, self.results = input_names(self.f, 0, inputs), results

    def forward(self, inputs: Arrays, options: Mapping[str, Any]) -> Pass:
        f = partial(self.f, **options) if options else self.f
        places = tuple(map(self.names.index, self.wanted))
        with self.at_work(), self.draws():
            y, pull = self.both(f, places, tuple(inputs.values()))

        def backward(dys: tuple) -> dict[str, Any]:
            with self.at_work():
                found = pull(dys[0] if self.results == 1 else dys)
            return {name: np.array(g) for name, g in zip(self.wanted, found, strict=True)}

        return Pass(tuple(map(copied, divide(y, self.results)[0])), backward)

    def value(self, inputs: Arrays, options: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
        with self.at_work(), self.draws():
            y = self.f(*inputs.values(), **options)
        return tuple(map(np.asarray, divide(y, self.results)[0]))


def copied(y: Any) -> Any:
    return np.array(y) if isinstance(y := as_array(y), np.ndarray) else y


def recognised(forward: Any) -> Any:
    """Anything that is not a plain function, as a Subject."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and isinstance(forward, type) and issubclass(forward, torch.autograd.Function):
        return torch_function(forward)
    if torch and isinstance(forward, torch.nn.Module):
        return torch_module(forward)
    if jax and isinstance(forward, jax.custom_vjp):
        return jax_function(forward)
    return forward
