"""Twelve ways in which a checker stood in its users' way, each with a test that it no longer
does."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle

LINEAR = "(n,i),(i,o),(o)->(n,o)"


def linear(x, w, b):
    return x @ w + b


def linear_backward(dy, x, w, b):
    return dy @ w.T, x.T @ dy, dy.sum(0)


def wrong(report):
    return {v.name: v.kind for v in report.verdicts if not v.ok}


# 1. An input named y was always rejected.


@pytest.mark.parametrize("name", ["y", "dy", "x0", "loss", "cache", "inputs", "self"])
@pytest.mark.parametrize("reference", [True, False])
def test_an_input_may_have_any_name(name, reference):
    scope = {}
    exec(f"def double({name}): return {name} * 2", scope)
    exec(f"def double_backward(upstream, {name}): return upstream * 2", scope)
    double, backward = scope["double"], scope["double_backward"]
    report = oracle.check_backward(
        double, backward, double if reference else None, "(n)->(n)", max_examples=20
    )
    assert f"d{name}" in [verdict.name for verdict in report.verdicts]


def test_a_loss_of_y_and_t():
    def loss(y, t):
        return ((y - t) ** 2).sum()

    def backward(dloss, y, t):
        return 2 * dloss * (y - t), -2 * dloss * (y - t)

    oracle.check_backward(loss, backward, loss, "(n),(n)->()", max_examples=20)


# 2. M was too small behind torch's fused primitives.


def test_a_layer_norm_may_round_its_mean():
    def layer_norm(x):
        mean = (x.sum(-1, keepdims=True) / np.float32(3)) * (np.float32(3) / x.dtype.type(len(x.T)))
        inv = ((x - mean) ** 2).mean(-1, keepdims=True)
        inv = 1 / np.sqrt(inv + x.dtype.type(1e-5))
        return (x - mean) * inv, ((x - mean) * inv, inv)

    def backward(dy, cache):
        xhat, inv = cache
        mean = (dy * xhat).mean(-1, keepdims=True)
        return inv * (dy - dy.mean(-1, keepdims=True) - xhat * mean)

    def reference(x):
        return torch.nn.functional.layer_norm(x, x.shape[-1:])

    oracle.check_backward(
        layer_norm, backward, reference, "(n,c)->(n,c)", dtype=np.float32, max_examples=100, seed=1
    )


# 3. It stopped at the first gradient that fails, and a policy hid the verdict on the formula.


def test_there_is_a_verdict_for_every_gradient():
    def backward(dy, x, w, b):
        return dy @ w.T, 2 * (x.T @ dy), dy.mean(0)

    report = oracle.judge(linear, backward, linear, LINEAR)
    assert wrong(report) == {"dw": "wrong value", "db": "wrong value"} and report["dx"].ok


@pytest.mark.parametrize("factor", [1, 2])
def test_a_policy_does_not_hide_the_formula(factor):
    def backward(dy, x, b):
        return dy, dy.sum(0) * factor

    def add(x, b):
        return x + b

    details = {"signature": "(n,c),(c)->(n,c)", "allow": {"view"}}
    report = oracle.judge(add, backward, add, **details)
    assert wrong(report) == ({} if factor == 1 else {"db": "wrong value"})
    assert any("dx shares memory" in remark for remark in report.remarks)


# 4. The culprit was named wrongly.


def test_the_culprit_is_named():
    def right(dy, x):
        return dy * 2

    def double(x):
        return x * 2

    def triple(x):
        return x * 3

    report = oracle.judge(triple, right, double, "(n)->(n)")
    assert report["y"].sentence.startswith("triple: ")

    def broken(x):
        raise KeyError("mine")

    with pytest.raises(ValueError, match="the reference raised KeyError: 'mine'"):
        oracle.judge(double, right, broken, "(n)->(n)")
    with pytest.raises(ValueError, match="the reference is not finite"):
        oracle.judge(double, right, lambda x: x / 0, "(n)->(n)", max_examples=10)


# 5. Hints misled.


@pytest.mark.parametrize("size", [1, 4])
def test_one_number_proves_no_factor(size):
    report = oracle.judge(
        lambda x: x**3,
        lambda dy, x: dy * x,
        None,
        f"({size})->({size})",
    )
    assert "times" not in report["dx"].hint and "factor" not in report["dx"].hint


def test_a_constant_of_six_digits_is_named():
    def scaled(x):
        return np.sin(x) * np.sqrt(2 / np.pi)

    hint = oracle.judge(scaled, lambda dy, x: dy * np.cos(x) * 0.797885, None, "(n)->(n)")
    assert "0.797885 stands for sqrt(2/pi)" in hint["dx"].hint


def test_what_accumulates_and_what_is_random_is_named():
    def backward(dy, cache):
        cache["dx"] = cache["dx"] + dy * 2
        return cache["dx"].copy()

    report = oracle.judge(lambda x: (x * 2, {"dx": 0.0}), backward, None, "(n)->(n)")
    assert wrong(report) == {"dx": "state"}
    assert "accumulates between calls" in report["dx"].hint

    rng = np.random.default_rng(0)

    def dropout(x):
        mask = rng.random(x.shape) > 0.5
        return x * mask, mask

    report = oracle.judge(dropout, lambda dy, mask: dy * mask, None, "(n)->(n)")
    assert report["y"].kind == "random" and "generator" in report["y"].hint


# 6. One figure mixed two scales.


def test_an_error_is_told_in_digits():
    def softmax(x):
        e = np.exp(x)
        return e / e.sum(), e / e.sum()

    report = oracle.check_backward(
        softmax, lambda dy, p: p * (dy - (dy * p).sum()), None, "(n)->(n)", magnitude=10
    )
    assert 0 < report["dx"].error < 1e-9
    assert "digits" in str(report) and "q =" not in str(report)


# 7. Ties and zeros were never drawn.


def test_relu_at_zero():
    report = oracle.judge(
        lambda x: np.maximum(x, 0), lambda dy, x: dy * (x >= 0), torch.relu, "(n)->(n)"
    )
    assert wrong(report) == {"dx": "wrong value"}
    kinked = oracle.judge(lambda x: np.maximum(x, 0), lambda dy, x: dy * (x >= 0), None, "(n)->(n)")
    assert kinked.ok and "at a kink" in str(kinked)


def test_a_product_of_which_one_is_zero():
    with np.errstate(all="ignore"):
        report = oracle.judge(
            lambda x: np.prod(x), lambda dy, x: dy * np.prod(x) / x, None, "(n)->()"
        )
    assert wrong(report).keys() == {"dx"}


# 8. A layer needed 7 to 15 lines, kept its state, and its parameters were not judged.


def test_a_layer_is_one_line():
    class Linear:
        def __init__(self, i, o):
            self.W, self.b, self.dW, self.db = np.ones((i, o)), np.ones(o), 0, 0

        def forward(self, x):
            self.x = x
            return x @ self.W + self.b

        def backward(self, dy):
            self.dW, self.db = self.dW + self.x.T @ dy, self.db + dy.mean(0)
            return dy @ self.W.T

    report = oracle.judge(oracle.layer(Linear, "i", "o", params=["W", "b"]), signature=LINEAR)
    assert wrong(report) == {"db": "wrong value"}


# 9. Ordinary ways of writing were refused.


def test_none_for_a_gradient_that_nobody_wants():
    def loss(y, t):
        return ((y - t) ** 2).sum()

    def one(dloss, y, t):
        return 2 * dloss * (y - t), None

    report = oracle.check_backward(loss, one, None, "(n),(n)->()", max_examples=20)
    assert report["dt"].kind == "not judged"
    report = oracle.check_backward(
        loss, lambda d, y, t: one(d, y, t)[0], loss, "(n),(n)->()", wrt=["y"], max_examples=20
    )
    assert [verdict.name for verdict in report.verdicts] == ["y", "dy"]


@pytest.mark.parametrize("spelling", ["d{}", "{}", "grad_{}", "{}_grad"])
def test_gradients_in_a_dictionary(spelling):
    def backward(dy, x, w, b):
        found = dict(zip("xwb", linear_backward(dy, x, w, b), strict=True))
        return {spelling.format(name): found[name] for name in "bwx"}

    oracle.check_backward(linear, backward, linear, LINEAR, max_examples=20)


@pytest.mark.parametrize("style", ["apart", "together", "cache", "cache in a pair", "dictionary"])
def test_several_results(style):
    def forward(x, h):
        y = x * h, x + h
        if style == "dictionary":
            return {"product": y[0], "sum": y[1]}
        return (*y, (x, h)) if style == "cache" else (y, (x, h)) if "cache" in style else y

    def gradients(dp, ds, x, h):
        return dp * h + ds, dp * x + ds

    backward = {
        "together": lambda dys, x, h: gradients(*dys, x, h),
        "cache": lambda dp, ds, cache: gradients(dp, ds, *cache),
        "cache in a pair": lambda dys, cache: gradients(*dys, *cache),
    }.get(style, gradients)

    for reference in (None, lambda x, h: (x * h, x + h)):
        oracle.check_backward(forward, backward, reference, "(n),(n)->(n),(n)", max_examples=20)


def test_a_python_float_as_loss():
    def loss(x):
        return float(np.tanh(x).sum()), x

    def backward(dloss, x):
        return dloss * (1 - np.tanh(x) ** 2)

    for reference in (None, lambda x: torch.tanh(x).sum()):
        report = oracle.check_backward(loss, backward, reference, "(n)->()", max_examples=20)
        assert report.ok


def test_torch_tensors_as_results():
    def forward(x):
        return torch.from_numpy(np.array(x)) * 2

    def backward(dy, x):
        return torch.from_numpy(np.array(dy)) * 2

    for reference in (None, lambda x: x * 2):
        oracle.check_backward(forward, backward, reference, "(n)->(n)", max_examples=20)


def test_sizes_made_of_others():
    def convolve(x, w):
        return np.convolve(x, w, "valid")

    def backward(dy, x, w):
        return np.convolve(dy, w[::-1]), np.convolve(x, dy[::-1], "valid")[::-1].copy()

    oracle.check_backward(
        convolve, backward, None, "(h),(k)->(h-k+1)", sizes={"h": (3, 8), "k": (1, 3)}
    )
    oracle.check_backward(
        lambda x: x[: len(x) // 2] * 2,
        lambda dy, x: np.concatenate([dy * 2, 0 * x[len(x) // 2 :]]),
        None,
        "(h)->(h//2)",
        sizes={"h": (2, 9)},
    )


def test_a_letter_that_only_an_option_uses():
    def tile(x, times):
        return np.tile(x, times)

    def backward(dy, x, times):
        return dy.reshape(times, -1).sum(0)

    details = {"sizes": {"k": (1, 4)}, "options": {"times": "k"}}
    oracle.check_backward(tile, backward, None, "(n)->(k*n)", **details)


# 10. Without torch nothing was imported, and only what is analytic could be differentiated.


def test_torch_is_not_imported():
    code = """
import sys
sys.modules["torch"] = None
import numpy as np, oracle
oracle.check_backward(np.sin, lambda dy, x: dy * np.cos(x), None, "(n)->(n)", max_examples=5)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["buffer", "var", "norm", "abs"])
def test_a_forward_that_is_not_analytic(name):
    def buffer(x):
        y = np.zeros(x.shape)
        y[:] = x * x
        return y.sum()

    forward, slope = {
        "buffer": (buffer, lambda x: 2 * x),
        "var": (lambda x: x.var(), lambda x: 2 * (x - x.mean()) / len(x)),
        "norm": (np.linalg.norm, lambda x: x / np.linalg.norm(x)),
        "abs": (lambda x: np.abs(x).sum(), np.sign),
    }[name]
    with np.errstate(all="ignore"):
        assert oracle.judge(forward, lambda dy, x: dy * slope(x), None, "(n)->()").ok
        half = oracle.judge(forward, lambda dy, x: 0.5 * dy * slope(x), None, "(n)->()")
    assert wrong(half) == {"dx": "wrong value"}


# 11. It failed inside of a test that hypothesis draws, and its line could not be pasted.


@given(power=st.integers(1, 3))
@settings(max_examples=5)
def test_inside_of_a_given(power):
    oracle.check_backward(
        lambda x: x**power, lambda dy, x: dy * power * x ** (power - 1), None, "(n)->(n)"
    )


def test_the_line_at_the_end_can_be_pasted():
    def halved(dy, x, w, b):
        dx, dw, db = linear_backward(dy, x, w, b)
        return dx, dw / 2, db

    scope = {"oracle": oracle, "linear": linear, "halved": halved}
    line = oracle.judge(linear, halved, None, LINEAR)["dw"].reproduce
    with pytest.raises(oracle.Mismatch):
        eval(line, scope)
    line = oracle.judge(lambda x, w, b: linear(x, w, b), halved, None, LINEAR)["dw"].reproduce
    assert line.startswith("the same call with example={") and "<lambda>" not in line


# 12. Torch ran the expression a dozen times for every example.


def test_what_an_example_costs():
    calls = []

    def reference(x, w, b):
        calls.append(0)
        return x @ w + b

    report = oracle.check_backward(linear, linear_backward, reference, LINEAR, max_examples=50)
    assert report.examples == 50 and len(calls) <= 3 * 50
