"""Frameworks: engines of tensors, torch's Functions and Modules, autograd, JAX, as they are
called."""

import numpy as np
import pytest
import torch

import oracle

LINEAR = "(n,i),(i,o),(o)->(n,o)"


def judge(subject, signature, reference=None, **details):
    details = {"max_examples": 20, "seed": 0} | details
    return oracle.judge(subject, None, reference, signature, **details)


def found(report):
    return [(v.name, v.kind) for v in report.verdicts if not v.ok]


class Tensor:
    """An engine as people write it: a graph of closures, and a backward that starts at ones."""

    wrong = ""

    def __init__(self, data, parents=()):
        self.data, self.parents = np.asarray(data), parents
        self.grad, self.pull = np.zeros_like(self.data), lambda: None

    def __matmul__(self, other):
        out = type(self)(self.data @ other.data, (self, other))

        def pull():
            self.grad = self.grad + out.grad @ other.data.T
            other.grad = other.grad + self.data.T @ out.grad

        out.pull = pull
        return out

    def __mul__(self, other):
        out = type(self)(self.data * other.data, (self, other))

        def pull():
            self.grad = self.grad + other.data * out.grad
            if self.wrong != "overwritten":
                other.grad = other.grad + self.data * out.grad
            else:
                other.grad = self.data * out.grad

        out.pull = pull
        return out

    def sum(self):
        out = type(self)(self.data.sum(), (self,))

        def pull():
            self.grad = self.grad + np.full_like(self.data, out.grad)

        out.pull = pull
        return out

    def tanh(self):
        out = type(self)(np.tanh(self.data), (self,))

        def pull():
            slope = 1 - out.data * (1 if self.wrong == "slope" else out.data)
            self.grad = self.grad + slope * out.grad

        out.pull = pull
        return out

    def run(self):
        order, seen = [], set()

        def visit(tensor):
            if tensor not in seen:
                seen.add(tensor)
                for parent in tensor.parents:
                    visit(parent)
                order.append(tensor)

        visit(self)
        for tensor in reversed(order):
            tensor.pull()

    def backward(self):
        self.grad = np.ones_like(self.data)
        self.run()


class Upstream(Tensor):
    """The backward takes the upstream gradient."""

    def backward(self, grad=None):
        self.grad = np.ones_like(self.data) if grad is None else grad * 1
        self.run()


class Preset:
    """y.grad is set first; nothing can be multiplied."""

    def __init__(self, data):
        self.array, self.grad = data, None

    def double(self):
        out = Preset(2 * self.array)
        out.before = self
        return out

    def backward(self, retain_grad=False):
        self.before.grad = 2 * self.grad


def layer_of(x, w):
    return (x @ w).tanh()


def square(x):
    return x * x


@pytest.mark.parametrize("make", [Tensor, Upstream])
def test_an_engine_of_tensors(make, monkeypatch):
    assert judge(oracle.tensors(layer_of, make), "(n,i),(i,o)->(n,o)").ok
    assert judge(oracle.tensors(square, make), "(n)->(n)", torch.square, dtype=np.float32).ok
    monkeypatch.setattr(Tensor, "wrong", "slope")
    report = judge(oracle.tensors(Tensor.tanh, make), "(n)->(n)")
    assert found(report) == [("dself", "wrong value")]
    assert "the slope of tanh is taken as 1 - tanh(x)" in report["dself"].hint
    monkeypatch.setattr(Tensor, "wrong", "overwritten")
    assert found(judge(oracle.tensors(square, make), "(n)->(n)")) == [("dx", "wrong value")]


def test_an_engine_whose_gradient_is_set_first():
    subject = oracle.tensors(Preset.double, Preset, data="array")
    assert judge(subject, "(n)->(n)", lambda x: 2 * x).ok


def test_an_engine_that_is_asked_by_a_function():
    def backward(y, dy):
        y.grad = dy * 1
        y.run()

    assert judge(oracle.tensors(layer_of, Tensor, backward=backward), "(n,i),(i,o)->(n,o)").ok


def test_a_layer_of_tensors():
    class Linear:
        def __init__(self, i, o):
            self.w = Tensor(np.zeros((i, o)))

        def __call__(self, x):
            return (x @ self.w).tanh()

    subject = oracle.tensors(oracle.layer(Linear, "i", "o", params="w", forward="__call__"), Tensor)
    report = judge(subject, "(n,i),(i,o)->(n,o)")
    assert report.ok and [v.name for v in report.verdicts] == ["dx", "dw"]


class Value:
    """Of one number."""

    wrong = False

    def __init__(self, data, parents=(), slopes=()):
        self.data, self.grad, self.parents, self.slopes = data, 0.0, parents, slopes

    def __add__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data + other.data, (self, other), (1.0, 1.0))

    def __mul__(self, other):
        other = other if isinstance(other, Value) else Value(other)
        return Value(self.data * other.data, (self, other), (other.data, self.data))

    def relu(self):
        slope = float(self.data >= 0 if self.wrong else self.data > 0)
        return Value(max(self.data, 0.0), (self,), (slope,))

    def backward(self, grad=1.0):
        self.grad += grad
        for parent, slope in zip(self.parents, self.slopes, strict=True):
            parent.backward(grad * slope)


def test_an_engine_of_single_numbers(monkeypatch):
    def neuron(x, w, b):
        return ((x * w).sum() + b).relu()

    subject = oracle.tensors(neuron, Value, scalars=True)
    assert judge(subject, "(n),(n),()->()").ok
    assert judge(oracle.tensors(lambda x, w: x @ w, Value, scalars=True), "(n,i),(i)->(n)").ok
    assert judge(oracle.tensors(Value.relu, Value, scalars=True), "()->()", torch.relu).ok
    monkeypatch.setattr(Value, "wrong", True)
    relu = oracle.tensors(Value.relu, Value, scalars=True)
    report = judge(relu, "()->()", torch.relu, max_examples=200)
    assert found(report) == [("dself", "wrong value")]  # at 0, where torch's is 0


class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, power=1):
        ctx.save_for_backward(x, w)
        ctx.power = power
        return x * w**power

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        dw = (dy * x).sum(0) * ctx.power * w ** (ctx.power - 1)
        return dy * w**ctx.power, dw, None


class Forgetful(Scale):
    @staticmethod
    def backward(ctx, dy):
        dx, dw, _ = Scale.backward(ctx, dy)
        return dx, dw / len(dy), None


class SetUp(torch.autograd.Function):
    @staticmethod
    def forward(x, w):
        return x * w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        return dy * w, (dy * x).sum(0)


def scale(x, w, power=1):
    return x * w**power


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("reference", [None, scale])
def test_a_torch_function(reference, dtype):
    signature, details = "(n,c),(c)->(n,c)", {"dtype": dtype}
    assert judge(Scale, signature, reference, **details).ok
    assert judge(oracle.torch_function(SetUp), signature, reference, **details).ok
    powers = {"power": 3}
    assert judge(Scale, signature, reference, options=powers, positive=["w"], **details).ok
    report = judge(Forgetful, signature, reference, **details)
    assert found(report) == [("dw", "wrong value")]
    assert "the mean over n" in report["dw"].hint
    assert report["dw"].sentence.startswith("Forgetful.backward: dw")
    assert "check_backward(Forgetful, None, " in report["dw"].reproduce


class Inside(torch.nn.Module):
    function = Scale

    def __init__(self, c):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(c))

    def forward(self, x):
        return self.function.apply(x, self.w)


class ByHand(torch.nn.Linear):
    lost = False

    def forward(self, x):
        self.x = x
        return super().forward(x)

    def backward(self, dy):
        self.weight.grad = dy.T @ self.x
        self.bias.grad = dy.mean(0) if self.lost else dy.sum(0)
        return dy @ self.weight


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_torch_module(dtype, monkeypatch):
    details = {"dtype": dtype, "max_examples": 8}
    linear = "(n,i),(o,i),(o)->(n,o)"
    hand = oracle.torch_module(ByHand, "i", "o", params=["weight", "bias"])
    assert judge(hand, linear, torch.nn.functional.linear, **details).ok
    assert judge(ByHand(3, 2), "(n,3),(2,3),(2)->(n,2)", **details).ok
    nested = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    report = judge(nested, "(n,2),(3,2),(3),(1,3),(1)->(n,1)", **details)
    names = ["dinput", "d0_weight", "d0_bias", "d2_weight", "d2_bias"]
    assert report.ok and [v.name for v in report.verdicts][:5] == names
    assert judge(oracle.torch_module(Inside, "c", params="w"), "(n,c),(c)->(n,c)", **details).ok
    monkeypatch.setattr(Inside, "function", Forgetful)
    monkeypatch.setattr(ByHand, "lost", True)
    report = judge(oracle.torch_module(Inside, "c", params="w"), "(n,c),(c)->(n,c)", **details)
    assert found(report) == [("dw", "wrong value")]
    assert found(judge(hand, linear, **details)) == [("dbias", "wrong value")]


def test_autograd():
    autograd = pytest.importorskip("autograd", reason="no autograd to differentiate with")
    anp = pytest.importorskip("autograd.numpy")

    def f(x, w):
        return anp.tanh(anp.dot(x, w))

    @autograd.extend.primitive
    def cube(x):
        return x**3

    autograd.extend.defvjp(cube, lambda y, x: lambda dy: 2 * x**2 * dy)
    assert judge(oracle.vjp(f, autograd.make_vjp), "(n,i),(i)->(n)").ok
    report = judge(oracle.vjp(cube, autograd.make_vjp), "(n)->(n)")
    assert found(report) == [("dx", "wrong value")]


def test_a_vector_jacobian_product_of_your_own():
    def product(x, w):
        return x * w, x + w

    def make_vjp(f, places):
        def both(x, w):
            pull = lambda dys: (dys[0] * w + dys[1], dys[0] * x + dys[1])
            return (lambda dys: [pull(dys)[i] for i in places]), f(x, w)

        return both

    assert judge(oracle.vjp(product, make_vjp), "(n),(n)->(n),(n)").ok
    report = judge(oracle.vjp(product, make_vjp), "(n),(n)->(n),(n)", wrt=["w"])
    assert report.ok and [v.name for v in report.verdicts] == ["dw"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_jax(dtype):
    jax = pytest.importorskip("jax", reason="no jax")
    jnp = pytest.importorskip("jax.numpy")

    def softplus(x, scale=1.0):
        return jnp.logaddexp(x, 0) * scale

    right, wrong = jax.custom_vjp(softplus), jax.custom_vjp(softplus)
    for f, slope in ((right, jax.nn.sigmoid), (wrong, jnp.tanh)):
        f.defvjp(
            lambda x, scale: (softplus(x, scale), (x, scale)),
            lambda kept, dy, slope=slope: (
                dy * slope(kept[0]) * kept[1],
                (dy * jnp.logaddexp(kept[0], 0)).sum(),
            ),
        )
    details = {"signature": "(n),()->(n)", "dtype": dtype, "draw": {"values": ["normal"]}}
    assert judge(right, **details).ok
    report = judge(oracle.jax_function(wrong), **details)
    assert found(report) == [("dx", "wrong value")]
