"""Where the judge stood in the way of other people's code: each case in the style of a project that
it was tried on."""

import numpy as np
import pytest

import oracle

TWO_LAYERS = "(n,d),(n),(d,c),(c)->()"


def kinds(report):
    return {(verdict.name, verdict.kind) for verdict in report.verdicts if not verdict.ok}


class TwoHalves:
    """y = x w, whose weights are of two heads."""

    def __init__(self, width, heads):
        self.w = np.zeros((width // heads, heads))

    def forward(self, x):
        self.x = x
        return x * self.w.ravel()

    def backward(self, dy):
        self.dw = (dy * self.x).sum(0).reshape(self.w.shape)
        return dy * self.w.ravel()


def test_an_argument_is_a_size_as_the_signature_writes_it():
    layer = oracle.layer(TwoHalves, "2c", 2, params="w")
    oracle.check_backward(layer, signature="(n,2c),(c,2)->(n,2c)", max_examples=10)


def dropout(x, p):
    mask = np.random.rand(*x.shape) > p
    return x * mask, mask


def test_a_mask_of_np_random_stays_for_a_function_too():
    drawn = {"signature": "(n,m)->(n,m)", "options": {"p": 0.4}, "max_examples": 30}
    oracle.check_backward(dropout, lambda dy, mask: dy * mask, **drawn)
    report = oracle.judge(dropout, lambda dy, mask: dy * mask / 0.6, **drawn)
    assert kinds(report) == {("dx", "wrong value")}


def test_what_draws_from_a_generator_of_its_own_is_random_and_keeps_nothing():
    rng = np.random.default_rng(0)

    def noise(x):
        return x + rng.standard_normal(x.shape)

    report = oracle.judge(noise, lambda dy, x: 1 * dy, signature="(n)->(n)", max_examples=10)
    assert report["y"].kind == "random"
    assert "kept between calls" not in report["y"].sentence


def test_more_results_than_one_and_a_cache_are_counted():
    def batch_norm(x, running_mean, running_var):
        return x, (x,), running_mean, running_var

    with pytest.raises(ValueError, match=r"4 values where .* one result.*\[:2\]"):
        oracle.judge(
            batch_norm,
            lambda dy, cache: dy,
            signature="(n,c)->(n,c)",
            options={"running_mean": np.zeros(1), "running_var": np.ones(1)},
        )


def test_infinity_over_infinity_is_an_overflow():
    def forward(x):
        return 1 / (1 + np.exp(-(x**3)))

    def backward(dy, x):
        e = np.exp(-(x**3))
        return dy * 3 * x**2 * e / (1 + e) ** 2

    assert kinds(oracle.judge(forward, backward, signature="(n)->(n)")) == {("dx", "overflow")}


class OneHotSoftmax:
    """As in cnn-from-scratch, whose loss has one derivative that is not zero."""

    def forward(self, x):
        e = np.exp(x - x.max())
        self.p = e / e.sum()
        return self.p

    def backprop(self, dy):
        for i, g in enumerate(dy):
            if g != 0:
                return g * self.p[i] * ((np.arange(len(dy)) == i) - self.p)


def test_a_backward_that_returns_nothing_for_zeros_gets_a_verdict():
    layer = oracle.layer(OneHotSoftmax, backward="backprop")
    report = oracle.judge(layer, signature="(n)->(n)", max_examples=30)
    assert ("dx", "wrong value") in kinds(report)
    assert "returns no dx" in str(report)


class Diffs:
    def __init__(self, n):
        self.w, self.w_diff = np.zeros(n), np.zeros(n)

    def forward(self, x):
        self.x = x
        return x * self.w

    def backward(self, dy):
        self.w_diff += (dy * self.x).sum(0)
        return dy * self.w


def test_a_gradient_may_be_called_a_diff():
    layer = oracle.layer(Diffs, "m", params="w")
    oracle.check_backward(layer, signature="(n,m),(m)->(n,m)", max_examples=10)


class Parameters:
    """As in MLAlgorithms: like a dictionary, but for what it raises."""

    def __init__(self, w):
        self.held, self.grad = {"W": w}, {}

    def __getitem__(self, name):
        if name not in self.held:
            raise ValueError
        return self.held[name]

    def __setitem__(self, name, value):
        self.held[name] = value


class Scaled:
    def __init__(self, n):
        self.p = Parameters(np.zeros(n))

    def forward(self, x):
        self.x = x
        return x * self.p["W"]

    def backward(self, dy):
        self.p.grad["W"] = (dy * self.x).sum(0)
        return dy * self.p["W"]


def test_a_container_of_parameters_may_raise_what_it_likes():
    layer = oracle.layer(Scaled, "m", params="p['W']")
    oracle.check_backward(layer, signature="(n,m),(m)->(n,m)", max_examples=10)


class Classifier:
    """As in CS231n: one method returns the loss and its gradients."""

    def __init__(self, d, c):
        self.params = {"W": np.random.randn(d, c), "b": np.zeros(c)}

    def loss(self, X, y):
        z = X @ self.params["W"] + self.params["b"]
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        rows = np.arange(len(y))
        dz = p.copy()
        dz[rows, y] -= 1
        return -np.log(p[rows, y]).mean(), self.gradients(X, dz / len(y))

    def gradients(self, X, dz):
        return {"W": X.T @ dz, "b": dz.sum(0)}


class Forgetful(Classifier):
    def gradients(self, X, dz):
        return X.T @ dz, dz.sum(0) / len(X)


@pytest.mark.parametrize("cls, wrong", [(Classifier, set()), (Forgetful, {("db", "wrong value")})])
def test_a_method_may_return_the_loss_and_its_gradients(cls, wrong):
    places = ["params['W']", "params['b']"]
    layer = oracle.layer(cls, "d", "c", params=places, forward="loss", backward=None)
    report = oracle.judge(
        layer,
        signature=TWO_LAYERS,
        ids={"y": "c"},
        wrt=["W", "b"],
        draw={"values": ["normal"]},
        max_examples=30,
    )
    assert kinds(report) == wrong


class Tensor:
    """A framework whose results may be views, and which drops with np.random."""

    def __init__(self, data, pull=None):
        self.data, self.pull, self.grad = np.asarray(data), pull, None

    def transpose(self):
        return Tensor(self.data.T, lambda dy: self.backward(dy.T))

    def dropout(self):
        mask = np.random.rand(*self.data.shape) > 0.5
        return Tensor(self.data * mask, lambda dy: self.backward(dy * mask))

    def backward(self, dy):
        self.grad = dy
        if self.pull:
            self.pull(dy)


@pytest.mark.parametrize(
    "operation, signature",
    [(Tensor.transpose, "(n,m)->(m,n)"), (Tensor.dropout, "(n,m)->(n,m)")],
)
def test_a_framework_may_return_views_and_drop(operation, signature):
    oracle.check_backward(oracle.tensors(operation, Tensor), signature=signature, max_examples=20)


def test_a_mean_that_was_taken_twice_is_named():
    report = oracle.judge(
        lambda x: (x**2).sum(1),
        lambda dy, x: 2 * x * dy[:, None] / len(x) ** 2,
        signature="(n,m)->(n)",
        max_examples=20,
    )
    assert "a factor 1/n^2 too many" in report["dx"].hint


def test_nothing_is_right_to_more_digits_than_there_are():
    def forward(x):
        return np.array([x[0], 1e-30 * np.sin(x[0])])

    def backward(dy, x):
        return np.array([dy[0] + 1e-30 * np.cos(x[0]) * dy[1]])

    report = oracle.judge(forward, backward, signature="(1)->(2)", max_examples=30)
    digits = report["dx"].text.removeprefix("to ").split()[0]
    assert digits == "the" or int(digits) <= 16
