"""The comparison itself: what must be accepted, and what must never pass."""

import dataclasses
import shlex

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from npnet import ops
from oracle import prove
from oracle.proof.autograd import Rounding, rounding_scale
from oracle.proof.compare import Mismatch, compare
from oracle.table import row

X = np.array([[1.0, -2.0, 3.0], [0.5, 0.25, 7.0]])


SCALES, DTYPES = st.sampled_from([1e-4, 1.0, 1e4]), st.sampled_from([np.float32, np.float64])


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), SCALES, DTYPES)
def test_a_correct_product_passes_and_a_part_in_2000_does_not(seed, n, scale, dtype):
    rng = np.random.default_rng(seed)
    a, b = (rng.standard_normal(shape).astype(dtype) * dtype(scale) for shape in ((3, n), (n, 4)))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    exact = (wide_a.astype(np.longdouble) @ wide_b.astype(np.longdouble)).astype(np.float64)
    scales = np.abs(wide_a) @ np.abs(wide_b)
    assert compare(a @ b, exact, scales, n, dtype=dtype).ok
    worse = a @ b
    index = np.unravel_index(np.argmax(np.abs(exact) / scales), exact.shape)
    worse[index] *= 1 + 1 / 2000
    assert not compare(worse, exact, scales, n, dtype=dtype).ok


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_passes(bad):
    got = X.copy()
    got[1, 2] = bad
    result = compare(got, X, np.inf)
    assert not result.ok and result.index == (1, 2) and "[1, 2]" in result.message
    assert not compare(np.float64(bad), np.array(1.0), np.inf).ok
    assert "reference" in compare(X, got, 1.0).message
    assert not compare(got, got, 1.0).ok


@pytest.mark.parametrize("got", [X[:1], X[:, :1], X.T, X[None], X.ravel(), X.sum()])
def test_nothing_broadcasts(got):
    assert "shape" in compare(got, X, 1e300).message
    assert "shape" in compare(X, np.asarray(got), 1e300).message


def test_the_dtype_is_part_of_the_answer():
    assert compare(X.astype(np.float32), X, 1.0).ok
    assert "dtype float64" in compare(X, X, 1.0, dtype=np.float32).message
    assert "dtype float32" in compare(X.astype(np.float32), X, 1.0, dtype=np.float64).message
    assert "dtype int64" in compare(np.array([1, 2]), np.array([1.0, 2.0]), 1e300).message
    assert "list" in compare([1.0, 2.0], np.array([1.0, 2.0]), 1.0).message
    assert "NoneType" in compare(None, X, 1.0).message


def test_the_bound_is_the_documented_one():
    one, u = np.ones(1), 2.0**-53
    assert compare(one * (1 + 16 * 2 * u), one, 2.0).ok
    assert not compare(one * (1 + 17 * 2 * u), one, 2.0).ok
    assert compare(one * (1 + 64 * u), one, 1.0, terms=256).ok
    assert not compare(one * (1 + 66 * u), one, 1.0, terms=256).ok
    result = compare(one * (1 + 4 * u), one, 1.0, name="linear: dw")
    assert (result.q, result.limit, result.exact) == (4, 16, False)
    tiny = np.finfo(np.float64).tiny
    assert compare(one * 0 + 5 * tiny, one * 0, 0.0, terms=5).ok
    assert not compare(one * 0 + 6 * tiny, one * 0, 0.0, terms=5).ok
    assert compare(one * 0 + 6 * tiny, one * 0, 0.0, terms=5, upstream=2.0).ok
    assert compare(np.zeros((0, 3)), np.zeros((0, 3)), 1.0).ok


def test_the_worst_element_is_named_in_a_sentence():
    got = X.astype(np.float32)
    got[1, 0] += 1e-5
    got[0, 1] += 1e-4
    result = compare(got, X, np.abs(X), 3, name="linear: dw", context="Sizes n = 2; seed 7")
    said = "linear: dw (float32) at [0, 1] is -1.99989998 where -2 was expected"
    assert not result.ok and result.message.startswith(said)
    assert result.message.endswith("16 are allowed. Sizes n = 2; seed 7.")
    assert result.index == (0, 1)
    assert compare(X, X, 0.0).exact


def test_a_row_of_the_table():
    result = compare(X.astype(np.float32) / 3, X / 3, np.abs(X), name="dw")
    assert (
        row(result).startswith("dw ")
        and "exact: True" in row(result)
        and "approximate: True" in row(result)
    )
    assert "최대차이값" in row(result, "ko")


def test_monte_carlo_sees_cancellation():
    """1 + x - 1: the value is x, but its error is that of 1 + x."""
    values, scales = rounding_scale(lambda x: [(1 + x) - 1, x * 1], [np.full(100, 1e-9)])
    np.testing.assert_allclose(values[0], 1e-9, rtol=1e-6)
    assert np.all((scales[0] > 0.1) & (scales[0] < 3))
    assert np.all((scales[1] >= 1e-9) & (scales[1] < 5e-9))


def test_monte_carlo_sees_cancellation_in_the_backward_and_in_place():
    def gradient(x):
        x.requires_grad_()
        return torch.autograd.grad(torch.sigmoid(x).sum(), [x])

    x = np.linspace(20, 30, 50)
    measured = rounding_scale(gradient, [x])[1][0]
    assert np.all(
        measured > 0.1
    )  # s (1 - s): 1 - s cancels, so the error is that of 1, not of 1e-13
    in_place = rounding_scale(lambda x: [1 - x.clone().sigmoid_()], [x])[1][0]
    assert np.all(in_place > 0.1)


def test_monte_carlo_agrees_with_the_formula_of_a_product():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((5, 3)), rng.standard_normal((3, 4))
    measured = rounding_scale(lambda x, w: [x @ w], [x, w])[1][0] / (np.abs(x) @ np.abs(w))
    assert measured.min() > 0.2 and measured.max() < 5


def test_monte_carlo_leaves_integers_and_moved_data_alone():
    values, scales = rounding_scale(
        lambda i, x: [x[i].T.reshape(-1), i.double()], [np.array([2, 0]), X.T]
    )
    assert values[1].tolist() == scales[1].tolist() == [2, 0]
    ones = torch.ones(3, 2, dtype=torch.float64)
    with Rounding(2.0**-26, 0):
        moved = ones.t().clone()[1:].expand(2, 3).contiguous()
    assert torch.equal(moved, torch.ones(2, 3, dtype=torch.float64))


def test_monte_carlo_is_repeatable():
    first, second = (rounding_scale(lambda x: [x.exp()], [X])[1][0] for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_the_reproducing_line_reproduces(monkeypatch):
    def wrong(dy, cache):
        return ops.tanh_backward(dy, cache) * dy.dtype.type(1 + 1 / 2000)

    case = prove.ALL_CASES["tanh"]
    with pytest.raises(Mismatch) as caught:
        prove.prove(case, case.example(np.random.default_rng(0)), backward=wrong)
    python, option, line = shlex.split(str(caught.value).split("Reproduce: ")[1])
    assert (python, option) == ("python", "-c")
    exec(line, {})
    monkeypatch.setitem(prove.ALL_CASES, "tanh", dataclasses.replace(case, backward=wrong))
    with pytest.raises(Mismatch) as again:
        exec(line, {})
    assert str(again.value) == str(caught.value)
