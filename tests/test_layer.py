"""`oracle.layer`: classes in the styles of public NumPy networks, each judged as it stands."""

import numpy as np
import pytest
from hypothesis import strategies as st

import oracle
from oracle.proof.compare import Mismatch
from oracle.proof.subject import Misuse

LINEAR = "(n,i),(i,o),(o)->(n,o)"


def judge(layer, signature=LINEAR, reference=None, **details):
    details = {"max_examples": 20, "seed": 0} | details
    return oracle.judge(layer, None, reference, signature, **details)


class Attributes:
    """Parameters W and b, gradients dW and db; dx is returned."""

    mean = False

    def __init__(self, i, o):
        self.W, self.b = np.random.randn(i, o), np.zeros(o)
        self.dW = self.db = self.x = None

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b

    def backward(self, dy):
        self.dW = self.x.T @ dy
        self.db = dy.mean(0) if self.mean else dy.sum(0)
        return dy @ self.W.T


class Returned(Attributes):
    """All gradients are returned."""

    def backward(self, dy):
        dx = super().backward(dy)
        return dx, self.dW, self.db


class Named(Attributes):
    """In a dictionary."""

    def backward(self, dy):
        dx = super().backward(dy)
        return {"grad_x": dx, "W": self.dW, "b_grad": self.db}


class Nothing(Attributes):
    """Nothing is returned, by neither of the two."""

    def forward(self, inputs):
        self.output = super().forward(inputs)

    def backward(self, dvalues):
        self.dinputs = super().backward(dvalues)


class Dictionaries:
    """Parameters and gradients in dictionaries; the gradients accumulate."""

    mean = False

    def __init__(self, i, o):
        self.params = {"W": np.ones((i, o)), "b": np.ones(o)}
        self.grads = {name: np.zeros_like(a) for name, a in self.params.items()}

    def __call__(self, x):
        self.x = x
        return x @ self.params["W"] + self.params["b"]

    def backward(self, dy):
        self.grads["W"] += self.x.T @ dy
        self.grads["b"] += dy.mean(0) if self.mean else dy.sum(0)
        return dy @ self.params["W"].T


class Lists(Attributes):
    """In lists that other code reads; the gradients are written in place."""

    def __init__(self, i, o):
        self.params = [np.ones((i, o)), np.ones(o)]
        self.grads = [np.zeros_like(p) for p in self.params]

    def forward(self, x):
        self.x, (self.W, self.b) = x, self.params
        return x @ self.W + self.b

    def backward(self, dy):
        dx = super().backward(dy)
        self.grads[0][...], self.grads[1][...] = self.dW, self.db
        return dx


class Parameter:
    def __init__(self, data):
        self.data, self.grad = data, None


class Parameters(Attributes):
    """As objects with data and grad, inside of another."""

    def __init__(self, i, o):
        self.inner = type("Inner", (), {})()
        self.inner.weight, self.inner.bias = Parameter(np.ones((i, o))), Parameter(np.ones(o))

    def forward(self, x):
        self.W, self.b = self.inner.weight.data, self.inner.bias.data
        return super().forward(x)

    def backward(self, dy):
        dx = super().backward(dy)
        self.inner.weight.grad, self.inner.bias.grad = self.dW, self.db
        return dx


class Stepping(Attributes):
    """The backward takes the step itself."""

    def backward(self, dy, learning_rate):
        dx = super().backward(dy)
        self.W -= learning_rate * self.dW
        self.b = self.b - learning_rate * self.db
        return dx


class SteppingAtItsOwnRate(Stepping):
    def __init__(self, i, o, eta=0.1):
        super().__init__(i, o)
        self.hyper = {"eta": eta}

    def backward(self, dy):
        return super().backward(dy, self.hyper["eta"])


class Optimised(Attributes):
    """The gradients are seen by an optimiser only."""

    def __init__(self, o, input_shape):
        self.o, (self.i,) = o, input_shape

    def initialize(self, optimizer):
        import copy

        super().__init__(self.i, self.o)
        self.W_opt, self.b_opt = copy.copy(optimizer), copy.copy(optimizer)

    def forward_pass(self, X, training=True):
        return self.forward(X)

    def backward_pass(self, accum_grad):
        W = self.W
        self.backward(accum_grad)
        self.W = self.W_opt.update(self.W, self.dW)
        self.b = self.b_opt.update(self.b, self.db)
        del self.dW, self.db
        return accum_grad @ W.T


class Lazy(Attributes):
    """The parameters come with the first input."""

    def __init__(self, o):
        self.o, self.W, self.b = o, None, None

    def forward(self, x):
        if self.W is None:
            super().__init__(x.shape[1], self.o)
        return super().forward(x)


spy = oracle.Spy()
SIZES = ("i", "o")
W_B = {"params": ["W", "b"]}
STYLES = {
    "attributes": (Attributes, SIZES, W_B),
    "places of the gradients": (Attributes, SIZES, W_B | {"grads": ["dW", "db"]}),
    "returned": (Returned, SIZES, W_B),
    "named": (Named, SIZES, W_B),
    "nothing": (Nothing, SIZES, W_B),
    "nothing, said": (Nothing, SIZES, W_B | {"output": "output", "grads": {"inputs": "dinputs"}}),
    "dictionaries": (
        Dictionaries, SIZES, {"params": ["params['W']", "params['b']"], "forward": "__call__"},
    ),
    "lists": (Lists, SIZES, {"params": {"W": "params[0]", "b": "params[1]"}}),
    "objects": (
        Parameters, SIZES, {"params": {"W": "inner.weight.data", "b": "inner.bias.data"}},
    ),
    "objects, by their own names": (
        Parameters, SIZES, {"params": ["inner.weight.data", "inner.bias.data"]},
    ),
    "a step": (Stepping, SIZES, W_B | {"rate": "learning_rate"}),
    "a step at its own rate": (SteppingAtItsOwnRate, SIZES, W_B | {"rate": "hyper['eta']"}),
    "an optimiser": (
        Optimised,
        ("o",),
        W_B | {
            "input_shape": ("i",), "grads": spy, "forward": "forward_pass",
            "backward": "backward_pass", "prepare": lambda layer, x: layer.initialize(spy),
        },
    ),
    "lazy": (Lazy, ("o",), W_B | {"prepare": lambda layer, x: layer.forward(x)}),
    "a factory": (lambda i, o: Attributes(i, o), SIZES, W_B),
    "functions of the layer": (
        Attributes, SIZES,
        W_B | {"forward": lambda layer, x: layer.forward(x), "backward": Attributes.backward},
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("style", STYLES)
def test_a_right_layer_is_right_and_all_its_gradients_are_judged(style, dtype):
    make, sizes, details = STYLES[style]
    report = judge(oracle.layer(make, *sizes, **details), dtype=dtype)
    names = [v.name for v in report.verdicts]
    assert report.ok, report
    assert len(names) == 3 and all(v.error < 1e-5 for v in report.verdicts), report


@pytest.mark.parametrize("style", STYLES)
def test_a_wrong_db_in_any_style_is_found_and_nothing_else(style, monkeypatch):
    make, sizes, details = STYLES[style]
    for owner in (Attributes, Dictionaries):
        monkeypatch.setattr(owner, "mean", True)
    report = judge(oracle.layer(make, *sizes, **details))
    wrong = [v for v in report.verdicts if not v.ok]
    assert [v.name for v in wrong] in (["db"], ["dbias"]), report
    assert wrong[0].kind == "wrong value" and "the mean over n" in wrong[0].hint


def test_torch_is_a_reference_for_a_layer_too():
    layer = oracle.layer(Attributes, "i", "o", params=["W", "b"])
    assert judge(layer, reference=lambda x, w, b: x @ w + b).ok
    report = judge(layer, reference=lambda x, w, b: x @ w - b)
    assert report["y"].kind == "wrong forward" and report["y"].sentence.startswith(
        "Attributes.forward: y"
    )


def test_an_object_is_copied_and_keeps_what_it_has():
    mine = Attributes(3, 2)
    before = mine.W.copy()
    assert judge(oracle.layer(mine, params=["W", "b"]), "(n,3),(3,2),(2)->(n,2)").ok
    assert mine.x is None and (before == mine.W).all()


def test_what_accumulates_is_a_remark():
    places = ["params['W']", "params['b']"]
    layer = oracle.layer(Dictionaries, "i", "o", params=places, forward="__call__")
    report = judge(layer)
    assert report.ok
    assert "dW accumulates between calls, as torch's .grad does" in str(report)
    assert "dx" not in " ".join(report.remarks)


def test_a_gradient_that_grows_otherwise_is_a_mistake():
    class Momentum(Attributes):
        def backward(self, dy):
            before = 0 if self.dW is None else self.dW
            dx = super().backward(dy)
            self.dW = self.dW + 0.9 * before
            return dx

    report = judge(oracle.layer(Momentum, "i", "o", params=["W", "b"]))
    assert [(v.name, v.kind) for v in report.verdicts if not v.ok] == [("dW", "state")]


def test_a_layer_that_serves_one_backward_only():
    class Once(Attributes):
        def backward(self, dy):
            dx = super().backward(dy)
            del self.x
            return dx

    assert judge(oracle.layer(Once, "i", "o", params=["W", "b"])).ok


def test_a_parameter_is_set_wherever_the_layer_keeps_it():
    class Network:
        def __init__(self, i, o):
            self.params = {"W": np.ones((i, o)), "b": np.ones(o)}
            self.layers = [Attributes(i, o)]
            self.layers[0].W, self.layers[0].b = self.params["W"], self.params["b"]

        def loss(self, x):
            return (self.layers[0].forward(x) ** 2).sum() / 2

        def gradient(self, x):
            self.layers[0].backward(self.layers[0].forward(x))
            return {"W": self.layers[0].dW, "b": self.layers[0].db}

    network = oracle.layer(
        Network, "i", "o", params=["params['W']", "params['b']"], forward="loss",
        backward="gradient", upstream=False,
    )  # fmt: skip
    report = judge(network, "(n,i),(i,o),(o)->()", wrt=["W", "b"])
    assert report.ok and [v.name for v in report.verdicts] == ["dW", "db"]


def test_a_training_flag_and_a_mask():
    class Dropout:
        def __init__(self, p):
            self.p = p

        def forward(self, x, training=True):
            self.mask = (np.random.rand(*x.shape) > self.p) / (1 - self.p) if training else 1
            return x * self.mask

        def backward(self, dy):
            return dy * self.mask

    layer = oracle.layer(Dropout, st.sampled_from([0.1, 0.5]))
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    assert judge(layer, "(n,c)->(n,c)", options={"training": st.booleans()}).ok
    assert (np.random.get_state()[1] == before).all()


def test_losses_with_and_without_an_upstream_gradient():
    class Squares:
        def forward(self, y, t):
            self.difference = y - t
            return (self.difference**2).mean()

        def backward(self, dout=1):
            return dout * 2 * self.difference / self.difference.size

    class Alone(Squares):
        def backward(self):
            return super().backward(), -super().backward()

    class OfBoth:
        def loss(self, predicted, actual):
            return float(((predicted - actual) ** 2).sum())

        def grad(self, predicted, actual):
            return 2 * (predicted - actual)

    both = "(n,c),(n,c)->()"
    assert judge(oracle.layer(Squares), both, wrt=["y"]).ok
    assert judge(oracle.layer(Alone), both).ok
    methods = {"forward": "loss", "backward": "grad", "upstream": False}
    assert judge(oracle.layer(OfBoth, **methods), both, wrt=["predicted"]).ok


def test_a_cell_with_two_inputs_a_cache_and_two_results():
    class Cell:
        def __init__(self, c):
            self.w = np.ones((c, c))

        def step(self, x, h):
            a = np.tanh(x + h @ self.w)
            return a, 2 * a, (h, a)

        def step_back(self, da, db, cache):
            h, a = cache
            dz = (da + 2 * db) * (1 - a * a)
            return dz, dz @ self.w.T, h.T @ dz

    class Together(Cell):
        def step_back(self, dys, cache):
            return super().step_back(*dys, cache)

    for make in (Cell, Together):
        layer = oracle.layer(make, "c", params="w", forward="step", backward="step_back")
        assert judge(layer, "(n,c),(n,c),(c,c)->(n,c),(n,c)").ok


def test_an_embedding_returns_what_it_likes_for_its_indices():
    class Embedding:
        lost = False

        def __init__(self, v, c):
            self.weight = np.ones((v, c))

        def forward(self, ids):
            self.ids = ids
            return self.weight[ids]

        def backward(self, dout):
            self.grad_weight = np.zeros_like(self.weight)
            if self.lost:
                self.grad_weight[self.ids] += dout
            else:
                np.add.at(self.grad_weight, self.ids, dout)

    class Lost(Embedding):
        lost = True

    details = {"signature": "(n,t),(v,c)->(n,t,c)", "ids": {"ids": "v"}}
    assert judge(oracle.layer(Embedding, "v", "c", params="weight"), **details).ok
    report = judge(oracle.layer(Lost, "v", "c", params="weight"), **details)
    assert "duplicates are lost" in report["dweight"].hint


def test_sizes_in_a_constructor():
    class Conv:
        def __init__(self, shape, width, stride):
            (self.c,), self.k, self.stride = shape, width, stride
            self.w = np.ones((self.k, self.c))

        def forward(self, x):
            self.x = x
            steps = range(0, len(x) - self.k + 1, self.stride)
            return np.array([(x[i : i + self.k] * self.w).sum() for i in steps])

        def backward(self, dy):
            dx, self.dw = np.zeros_like(self.x), np.zeros_like(self.w)
            for j, d in enumerate(dy):
                rows = slice(j * self.stride, j * self.stride + self.k)
                dx[rows] += d * self.w
                self.dw += d * self.x[rows]
            return dx

    layer = oracle.layer(Conv, ("c",), "2*k", params="w", stride=1)
    assert judge(layer, "(t,c),(2k,c)->(t-2k+1)", sizes={"t": (4, 8), "k": (1, 2)}).ok
    strided = oracle.layer(Conv, ("c",), 2, params="w", stride=2)
    report = judge(strided, "(t,c),(2,c)->(t//2)", sizes={"t": (2, 8)})
    assert report.ok


def test_a_failure_is_reproduced_by_its_line(monkeypatch):
    monkeypatch.setattr(Attributes, "mean", True)
    report = judge(oracle.layer(Attributes, "i", "o", params=["W", "b"]))
    line = report["db"].reproduce
    assert line.startswith(
        "oracle.check_backward(oracle.layer(Attributes, 'i', 'o', params=['W', 'b']), None, None, "
    )
    assert "[i = 1, n = 2, o = 1, seed = 0]" in report["db"].sentence
    with pytest.raises(Mismatch, match=r"Attributes.backward: db \(float64\) at"):
        eval(line, {"oracle": oracle, "Attributes": Attributes})
    report = judge(oracle.layer(lambda i, o: Attributes(i, o), "i", "o", params=["W", "b"]))
    assert report["db"].reproduce.startswith("the same call with example=")


@pytest.mark.parametrize(
    "make, sizes, details, says",
    [
        (Attributes, SIZES, {"params": ["W", "c"]}, "a new Attributes has no c"),
        (Lazy, ("o",), W_B, "prepare=lambda layer, x: layer.forward"),
        (Attributes, ("o", "i"), W_B, "has shape .*, and not .* as the signature says"),
        (Attributes, SIZES, W_B | {"grads": ["dW"]}, "there are 2 params, but 1 grads"),
        (Attributes, SIZES, {"params": ["W", "b", "x", "y"]}, "4 params alone"),
        (Attributes, SIZES, {"params": ["W b"]}, "is not a place such as"),
        (Attributes, SIZES, {"params": {"x": "W", "b": "b"}}, "is an input, too"),
        (Attributes, SIZES, W_B | {"forward": "call"}, "has no method 'call'"),
        (Attributes(2, 2), (), W_B | {"width": 3}, "takes no arguments"),
        (Dictionaries, SIZES, {"params": ["params['W']", "params['b']"]}, "no method 'forward'"),
    ],
)
def test_what_does_not_fit(make, sizes, details, says):
    with pytest.raises(ValueError, match=says):
        judge(oracle.layer(make, *sizes, **details))


def test_gradients_that_are_nowhere():
    class Silent(Attributes):
        def backward(self, dy):
            return dy @ self.W.T

    class Few(Attributes):
        def backward(self, dy):
            return dy, dy

    with pytest.raises(Misuse, match=r"no dW, and there is no dW, d_W, .* grads=\{'W': place\}"):
        judge(oracle.layer(Silent, "i", "o", params=["W", "b"]))
    with pytest.raises(Misuse, match="returns 2 gradients"):
        judge(oracle.layer(Few, "i", "o", params=["W", "b"]))


def test_a_loss_whose_backward_takes_no_upstream_gradient_is_asked_for_that():
    class Loss:
        def forward(self, y, t):
            return ((y - t) ** 2).mean()

        def backward(self, y, t):
            return 2 * (y - t) / y.size

    def check(**details):
        loss = oracle.layer(Loss, **details)
        return oracle.check_backward(loss, signature="(n,k),(n,k)->()", wrt=["y"], max_examples=20)

    with pytest.raises(ValueError, match=r"takes y, t, but .* upstream=False if it"):
        check()
    assert check(upstream=False).ok


class Affine:
    def __init__(self, i, o):
        self.W, self.b = np.zeros((i, o)), np.zeros(o)

    def forward(self, x):
        self.x = x
        return x @ self.W + self.b


@pytest.mark.parametrize("together", [lambda dw, db: [dw, db], lambda dw, db: {"W": dw, "b": db}])
def test_the_gradients_of_the_parameters_may_come_in_a_list_or_a_dictionary(together):
    def backward(layer, dy):
        return dy @ layer.W.T, together(layer.x.T @ dy, dy.sum(0))

    def forgetful(layer, dy):
        return dy @ layer.W.T, together(layer.x.T @ dy, dy.mean(0))

    def judge(backward):
        affine = oracle.layer(Affine, "i", "o", params=["W", "b"], backward=backward)
        return oracle.judge(affine, signature="(n,i),(i,o),(o)->(n,o)", max_examples=20)

    assert judge(backward).ok
    assert [v.name for v in judge(forgetful).verdicts if not v.ok] == ["db"]


@pytest.mark.parametrize("nothing", [[], (), None, {}])
def test_a_layer_without_parameters_may_say_so(nothing):
    class Tanh:
        def forward(self, x):
            self.y = np.tanh(x)
            return self.y

        def backward(self, dy):
            dx = dy * (1 - self.y**2)
            return dx if nothing is None else (dx, nothing)

    oracle.check_backward(oracle.layer(Tanh), signature="(n)->(n)", max_examples=20)


def test_two_functions_may_list_the_gradients_of_the_parameters():
    def affine(x, w, b):
        return x @ w + b, (x, w)

    def backward(dy, cache):
        x, w = cache
        return dy @ w.T, [x.T @ dy, dy.sum(0)]

    oracle.check_backward(affine, backward, signature="(n,i),(i,o),(o)->(n,o)", max_examples=20)
