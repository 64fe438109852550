"""What the judge found in other people's code, shown again by hand and by the judge, and what is
right there: `pytest -m wild`.

A value by hand is plain float64 and exact arithmetic, without our judge. docs/found-in-the-wild.md
tells the same findings in words, with those of projects that no package index has.
"""

import collections
import collections.abc
import importlib.util
import warnings

import numpy as np
import pytest

import oracle

PACKAGES = ["autograd", "sklearn", "mygrad", "micrograd", "numba", "numpy_ml"]
absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
pytestmark = [
    pytest.mark.wild,
    pytest.mark.skipif(
        bool(absent), reason=f'no {", ".join(absent)}: pip install -e ".[test,wild]"'
    ),
]


@pytest.fixture
def ag():
    """autograd, whose NumPy functions know their derivatives."""
    import autograd
    import autograd.numpy

    return autograd


@pytest.fixture
def numpy_ml(monkeypatch):
    """numpy-ml's layers. Its last release takes `Hashable` from where Python 3.9 had it."""
    monkeypatch.setattr(collections, "Hashable", collections.abc.Hashable, raising=False)
    with warnings.catch_warnings(action="ignore"):  # it would like to have gym
        from numpy_ml.neural_nets import layers

    return layers


# By hand


def test_autograd_tile_repeats_the_last_axis_and_sums_the_first(ag):
    x, weights = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(2, 6)
    dx = ag.grad(lambda x: ag.numpy.sum(weights * ag.numpy.tile(x, 2)))(x)

    assert dx.tolist() == [[6, 8, 10], [12, 14, 16]]
    assert (weights[:, :3] + weights[:, 3:]).tolist() == [[3, 5, 7], [15, 17, 19]]


def test_autograd_norm_with_keepdims_has_the_wrong_shape(ag):
    def f(x):
        return ag.numpy.sum(ag.numpy.linalg.norm(x, axis=1, keepdims=True))

    x = np.array([[3.0, 4.0], [6.0, 8.0]])  # of norms 5 and 10: dx = x / norm
    assert ag.grad(f)(x).shape == (2, 2, 2)
    one = ag.grad(f)(x[:1])  # of one row, the shape alone is wrong
    assert one.shape == (1, 1, 2)
    np.testing.assert_allclose(one[0], [[0.6, 0.8]], rtol=1e-15)


def test_autograd_diag_of_a_matrix_that_is_not_square_has_the_wrong_shape(ag):
    dx = ag.grad(lambda x: ag.numpy.sum(ag.numpy.diag(x)))(np.ones((2, 3)))

    assert dx.tolist() == [[1, 0], [0, 1]]  # and not [[1, 0, 0], [0, 1, 0]]


def test_autograd_gradient_of_two_or_three_numbers_raises(ag):
    f = ag.grad(lambda x: ag.numpy.sum(ag.numpy.gradient(x)))

    with pytest.raises(IndexError):
        f(np.array([0.0, 1.0]))  # gradient([a, b]) is [b - a, b - a]: [-2, 2]
    with pytest.raises(ValueError):
        f(np.array([0.0, 1.0, 2.0]))  # [b - a, (c - a) / 2, c - b]: [-1.5, 0, 1.5]


def test_autograd_prod_divides_by_zero(ag):
    with np.errstate(invalid="ignore"):
        dx = ag.grad(ag.numpy.prod)(np.array([0.0, 2.0]))

    np.testing.assert_array_equal(dx, [np.nan, 0])  # of x0 x1: [2, 0]


def test_autograd_sinc_divides_by_zero(ag):
    with np.errstate(invalid="ignore"):
        assert np.isnan(ag.grad(ag.numpy.sinc)(0.0))  # sinc is even, so its slope is 0
    x = 1e-3
    np.testing.assert_allclose(ag.grad(ag.numpy.sinc)(x), -(np.pi**2) / 3 * x, rtol=1e-5)


def test_autograd_where_does_not_add_up_what_was_broadcast(ag):
    first = np.array([[True, False], [False, False]])
    dy = ag.grad(lambda y: ag.numpy.sum(ag.numpy.where(first, 0.0, y)))(np.ones(2))

    assert dy.tolist() == [[0, 1], [1, 1]]  # and not [1, 2]


def test_sklearn_multiplies_the_gradient_by_the_number_of_outputs():
    from sklearn.neural_network import MLPRegressor

    # One input 1, two outputs w0 and w1, targets 0: the loss is (w0**2 + w1**2) / 4
    x, y = np.ones((1, 1)), np.zeros((1, 2))
    mlp = MLPRegressor(hidden_layer_sizes=(), alpha=0).partial_fit(x, y)

    def loss_and_gradient(w):
        mlp.coefs_, mlp.intercepts_ = [w], [np.zeros(2)]
        loss, (dw,), _ = mlp._backprop(x, y, None, [x, None], [None], [None], [None])
        return loss, dw

    loss, dw = loss_and_gradient(np.array([[1.0, 1.0]]))
    assert loss == 0.5
    assert dw.tolist() == [[1, 1]]  # and not w / 2
    assert loss_and_gradient(np.array([[1.5, 1.0]]))[0] == 0.8125
    assert loss_and_gradient(np.array([[0.5, 1.0]]))[0] == 0.3125  # (.8125 - .3125) / 1 = .5


def test_numpy_ml_embedding_counts_a_pooled_row_once(numpy_ml):
    layer = numpy_ml.Embedding(n_out=1, vocab_size=3, pool="sum")
    y = layer.forward(np.array([[1, 1]]))  # 2 W[1]
    layer.backward(np.ones_like(y))

    assert y.item() == 2 * layer.parameters["W"][1].item()
    assert layer.gradients["W"].tolist() == [[0], [1], [0]]  # and not 2


def test_numpy_ml_softmax_over_dim_0_has_no_gradient(numpy_ml):
    layer = numpy_ml.Softmax(dim=0)
    p = layer.forward(np.array([[0.0], [1.0]]))
    dx = layer.backward(np.array([[1.0], [0.0]]))

    np.testing.assert_allclose(p[0, 0] * p[1, 0], 0.196611933, rtol=1e-8)
    assert dx.tolist() == [[0], [0]]  # and not p0 p1 and -p0 p1


def test_numpy_ml_max_pooling_with_padding_raises(numpy_ml):
    layer = numpy_ml.Pool2D((2, 2), pad=1, mode="max")
    y = layer.forward(np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 2, 1))

    assert y.ravel().tolist() == [1, 2, 2, 3, 4, 4, 3, 4, 4]
    with pytest.raises(ValueError, match="zero-size array"):
        layer.backward(np.ones_like(y))  # as often as it is the maximum: [[1, 2], [2, 4]]


def test_mygrad_gru_writes_into_the_gradient_it_is_given():
    from mygrad import tensor
    from mygrad.nnet.layers import gru

    parameters = [np.zeros(shape) for shape in [(1, 1), (1, 1), (1,)] * 3]
    states = gru(tensor(np.zeros((2, 1, 1))), *map(tensor, parameters))
    dstates = np.ones((3, 1, 1))
    states.backward(dstates)

    assert dstates.ravel().tolist() == [1, 1.5, 1]  # the gate is 1/2; it was [1, 1, 1]


def test_mygrad_std_of_one_number_divides_by_zero():
    import mygrad

    x = mygrad.tensor([2.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        mygrad.std(x).backward()

    assert np.isnan(x.grad)  # it is 0 whatever x is, and so is its slope
    assert mygrad.std(mygrad.tensor([3.0])).item() == 0


def test_mygrad_leaky_relu_has_no_slope_at_zero():
    from mygrad import tensor
    from mygrad.nnet.activations import leaky_relu

    x = tensor([-1.0, 0.0, 1.0])
    leaky_relu(x, 0.1).backward()

    assert x.grad.tolist() == [0.1, 0, 1]  # anything from 0.1 to 1 would do


# By the judge


def kinds(report):
    """{(gradient or function, kind of mistake)}"""
    return {(verdict.name, verdict.kind) for verdict in report.verdicts if not verdict.ok}


def test_the_judge_finds_autograds_mistakes(ag):
    np = ag.numpy

    def judged(function, signature, **details):
        return kinds(
            oracle.judge(oracle.vjp(function, ag.make_vjp), signature=signature, **details)
        )

    assert ("dx", "wrong value") in judged(lambda x: np.tile(x, 2), "(n,m)->(n,2m)")
    assert judged(lambda x: np.linalg.norm(x, axis=1, keepdims=True), "(n,m)->(n,1)")
    assert judged(lambda x: np.diag(x), "(n,n+1)->(n)", allow=["view"])
    assert judged(lambda x: np.gradient(x), "(n)->(n)", sizes={"n": (2, 6)})
    assert judged(lambda x: np.prod(x), "(n)->()") == {("dx", "wrong value")}
    assert judged(lambda x: np.sinc(x), "(n)->(n)") == {("dx", "wrong value")}
    assert judged(lambda x, y: np.where(x > 0, x, y), "(n,m),(m)->(n,m)")


def test_the_judge_finds_sklearns_mistake():
    from sklearn.neural_network import MLPRegressor

    mlp = MLPRegressor(hidden_layer_sizes=(), alpha=0).partial_fit(np.ones((1, 1)), np.ones((1, 2)))

    def loss(w, b, x, y):
        mlp.coefs_, mlp.intercepts_ = [w], [b]
        loss, (dw,), (db,) = mlp._backprop(x, y, None, [x, None], [None], [None], [None])
        return loss, (dw, db)

    report = oracle.judge(loss, signature="(i,k),(k),(n,i),(n,k)->()", wrt=["w", "b"])
    assert kinds(report) == {("dw", "wrong value"), ("db", "wrong value")}
    assert "not divided by k" in str(report)


def test_the_judge_finds_numpy_mls_mistakes(numpy_ml):
    pooled = oracle.layer(
        numpy_ml.Embedding, "c", "v", pool="sum", params="parameters['W']", grads="gradients['W']"
    )
    report = oracle.judge(pooled, signature="(n,t),(v,c)->(n,1,c)", ids={0: "v"})
    assert ("dW", "wrong value") in kinds(report)
    report = oracle.judge(oracle.layer(numpy_ml.Softmax, dim=0), signature="(n,m)->(n,m)")
    assert ("dX", "wrong value") in kinds(report)
    pool = oracle.layer(numpy_ml.Pool2D, (2, 2), pad=1)
    report = oracle.judge(pool, signature="(n,h,w,c)->(n,h+1,w+1,c)", max_examples=5)
    assert ("Pool2D.backward", "crash") in kinds(report)


def test_the_judge_finds_mygrads_mistakes():
    import mygrad
    from mygrad.nnet.activations import leaky_relu
    from mygrad.nnet.layers import gru

    def judged(function, signature, **details):
        tensors = oracle.tensors(function, mygrad.tensor)
        return kinds(oracle.judge(tensors, signature=signature, **details))

    assert judged(lambda x: mygrad.std(x), "(n)->()") == {("dx", "wrong value")}
    assert judged(lambda x: leaky_relu(x, 0.1), "(n)->(n)") == {("dx", "wrong value")}
    shapes = "(t,n,c),(c,d),(d,d),(d),(c,d),(d,d),(d),(c,d),(d,d),(d)->(t+1,n,d)"
    # numba compiles for every order in memory
    small = {"sizes": dict.fromkeys("tncd", (2, 2)), "draw": {"layout": ["C"]}, "max_examples": 5}
    written = judged(gru, shapes, **small)
    assert written == {("the backward of gru", "writes into its inputs")}


# What is right


def right(home):
    """The operations of a table as parameters, with nothing to collect where it is absent."""
    if absent:
        return [pytest.param(None, (), id="absent")]
    import wild_operations

    of = getattr(wild_operations, f"{home}_of")
    table = getattr(wild_operations, home.upper())
    return [pytest.param(of, operation, id=f"{home}-{name}") for name, operation in table.items()]


@pytest.mark.parametrize(
    "of, operation", [*right("autograd"), *right("mygrad"), *right("micrograd")]
)
def test_no_false_alarm(of, operation):
    function, signature, *details = operation
    policy = {"max_examples": 30, "dtype": (np.float64, np.float32), "allow": ["view", "dtype"]}
    for more in details:
        policy |= more
    oracle.check_backward(of(function), signature=signature, **policy)


def test_every_function_of_autograd_is_in_the_table(ag):
    import wild_operations
    from autograd.core import primitive_vjps

    homes = [ag.numpy, ag.numpy.linalg, ag.numpy.fft]
    rows = {name.split()[0] for name in wild_operations.AUTOGRAD}
    tried = [vars(home).get(name) for home in homes for name in rows] + [ag.numpy.sinc]
    for home in homes:
        for name, function in vars(home).items():
            hidden = name.startswith("_") or name == "truncate_pad"
            if not hidden and callable(function) and function in primitive_vjps:
                assert any(function is other for other in tried), name
