"""`check_backward`: it passes what is right, rejects and names what is wrong, and says what it
cannot judge."""

import functools
import re

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import oracle
from npnet import ops
from oracle import ops as reference
from oracle.proof.compare import Mismatch
from oracle.proof.signature import extent, parse

LINEAR = "(n,i),(i,o),(o)->(n,o)"
BOTH = (np.float64, np.float32)
RIGHT = {
    "embedding": ("(n,t),(v,c)->(n,t,c)", {"ids": {"ids": "v"}}),
    "linear": (LINEAR, {}),
    "tanh": ("(n,3)->(n,3)", {"magnitude": 10.0}),
    "gelu": ("(n)->(n)", {"options": {"approximate": st.sampled_from(["tanh", "none"])}}),
    "softmax": ("(n,n)->(n,n)", {}),
    "cross_entropy": ("(n,v),(n)->()", {"ids": {1: (0, "v")}, "magnitude": 10.0}),
    "batch_norm": (
        "(n,c),(c),(c)->(n,c)",
        {"sizes": {"n": (2, 6)}, "options": {"unbiased": st.booleans(), "eps": 1e-5}},
    ),
    "batch_norm_inference": ("(n,c),(c),(c),(c),(c)->(n,c)", {"positive": ["var"]}),
    "layer_norm": ("(n,c),(c),(c)->(n,c)", {}),
    "causal_attention": ("(b,t,6c)->(b,t,2c)", {"options": {"n_head": st.sampled_from([1, 2])}}),
    "gru": ("(5,3h),(h),(h,3h)->(5,h)", {"options": {"sizes": [2, 2, 1]}}),
}
# A complex step cannot see through np.vecdot, which takes a conjugate, and math.erfc.
NOT_COMPLEX_SAFE = ("layer_norm", "gelu")


def pair(name):
    return getattr(ops, name), getattr(ops, f"{name}_backward")


def linear(x, w, b):
    return x @ w + b


def linear_backward(dy, x, w, b):
    return dy @ w.T, x.T @ dy, dy.sum(0)


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes_beside_torch_in_both_dtypes(name):
    signature, details = RIGHT[name]
    proof = oracle.check_backward(
        *pair(name), getattr(reference, name), signature, dtype=BOTH, max_examples=25, **details
    )
    assert (
        proof.examples == 25 and proof.ok and str(proof).startswith(f"{name}_backward: all right")
    )
    assert all(verdict.error < 1e-9 for verdict in proof.verdicts)


@pytest.mark.parametrize("name", [name for name in RIGHT if name not in NOT_COMPLEX_SAFE])
def test_what_is_right_passes_by_the_complex_step(name):
    signature, details = RIGHT[name]
    details = {k: v for k, v in details.items() if k != "magnitude"}
    oracle.check_backward(*pair(name), None, signature, dtype=BOTH, max_examples=25, **details)


def test_three_lines_are_enough():
    oracle.check_backward(linear, linear_backward, reference.linear, LINEAR, max_examples=10)
    oracle.check_backward(linear, linear_backward, signature=LINEAR, max_examples=10)
    oracle.check_backward(
        np.tanh, lambda dy, x: dy * (1 - np.tanh(x) ** 2), torch.tanh, "(n)->(n)", max_examples=10
    )


def test_a_forward_without_a_cache_gets_its_options_again():
    def power(x, exponent):
        return x**exponent

    def backward(dy, x, exponent):
        return dy * exponent * x ** (exponent - 1)

    options = {"exponent": st.integers(1, 4)}
    oracle.check_backward(power, backward, power, "(n)->(n)", options=options, max_examples=20)
    with pytest.raises(Mismatch, match="exponent = "):
        oracle.check_backward(
            power, lambda dy, x, exponent: dy * x, power, "(n)->(n)", options=options
        )


# A wrong backward of linear, and what the message names.
WRONG = {
    "this is db: two gradients are swapped": lambda dx, dw, db, dy, x, w: (dx, db, dw),
    "the mean over n stands for the sum": lambda dx, dw, db, dy, x, w: (dx, dw, db / len(dy)),
    "the sign is wrong": lambda dx, dw, db, dy, x, w: (-dx, dw, db),
    "it is the right gradient times 2": lambda dx, dw, db, dy, x, w: (dx, 2 * dw, db),
    "the sign is wrong, and it is the right gradient times 0.5": lambda dx, dw, db, dy, x, w: (
        dx,
        dw * -0.5,
        db,
    ),
    "all elements are the right ones times 1.1": lambda dx, dw, db, dy, x, w: (
        dx,
        1.1 * dw,
        db,
    ),
    "a factor 1/sqrt(i) too many": lambda dx, dw, db, dy, x, w: (dx / np.sqrt(x.shape[1]), dw, db),
    "it is transposed": lambda dx, dw, db, dy, x, w: (dx, dw.T.copy(), db),
    "the upstream gradient is ignored": lambda dx, dw, db, dy, x, w: (
        dx,
        dw,
        np.full(db.shape, float(len(dy))),
    ),
    "keepdims=True": lambda dx, dw, db, dy, x, w: (dx, dw, db[None]),
    "the sum over axis 0 is missing": lambda dx, dw, db, dy, x, w: (dx, dw, dy.copy()),
    "it is summed over axis 0": lambda dx, dw, db, dy, x, w: (dx.sum(0), dw, db),
    "only broadcasts": lambda dx, dw, db, dy, x, w: (np.ones((1, x.shape[1])), dw, db),
    "it is all zeros": lambda dx, dw, db, dy, x, w: (dx, np.zeros_like(dw), db),
    "elements are right": lambda dx, dw, db, dy, x, w: (
        dx,
        dw * np.linspace(0.5, 1.5, dw.size).reshape(dw.shape).round(1),
        db,
    ),
}


@pytest.mark.parametrize("expression", [None, linear], ids=["complex step", "torch"])
@pytest.mark.parametrize("says", WRONG)
def test_the_likely_mistake_is_named(says, expression):
    def my_backward(dy, x, w, b):
        return WRONG[says](*linear_backward(dy, x, w, b), dy, x, w)

    with pytest.raises(Mismatch) as failure:
        oracle.check_backward(linear, my_backward, expression, LINEAR, max_examples=30)
    assert says in str(failure.value).partition("Likely mistake: ")[2]
    assert str(failure.value).startswith("my_backward: d")


def test_a_weight_used_the_wrong_way_round():
    with pytest.raises(Mismatch, match="Likely mistake: it is transposed"):
        oracle.check_backward(
            lambda x, w: (x @ w, (x, w)),
            lambda dy, c: (dy @ c[1].T, dy.T @ c[0]),
            None,
            "(n,3),(3,3)->(n,3)",
        )


@pytest.mark.parametrize("unbiased", [True, False])
def test_n_for_n_minus_1_inside_a_fused_gradient(unbiased):
    def wrong(dy, cache):
        centred, std, slope, divisor, *_ = cache
        xhat = centred / std
        divisor = len(dy) if unbiased else len(dy) - 1
        dgain, dbias = (dy * xhat).sum(0), dy.sum(0)
        return slope * (dy - dbias / len(dy) - xhat * dgain / divisor), dgain, dbias

    with pytest.raises(
        Mismatch, match=r"a factor n/\(n - 1\) is " + ("missing" if unbiased else "too many")
    ):
        oracle.check_backward(
            ops.batch_norm,
            wrong,
            reference.batch_norm,
            "(n,c),(c),(c)->(n,c)",
            sizes={"n": (2, 6)},
            options={"unbiased": unbiased},
        )


def test_the_variance_over_n_alone():
    def var(x):
        return ((x - x.mean(0)) ** 2).sum(0) / (len(x) - 1)

    with pytest.raises(Mismatch, match=r"a factor n/\(n - 1\) is missing: n stands for n - 1"):
        oracle.check_backward(
            var,
            lambda dy, x: 2 * dy * (x - x.mean(0)) / len(x),
            None,
            "(n,c)->(c)",
            sizes={"n": (2, 6)},
        )


@pytest.mark.parametrize("expression", [None, reference.embedding], ids=["complex step", "torch"])
def test_lost_duplicates(expression):
    def wrong(dy, cache):
        ids, shape, _ = cache
        dtable = np.zeros(shape, dy.dtype)
        dtable[ids] += dy
        return dtable

    with pytest.raises(Mismatch, match="duplicates are lost"):
        oracle.check_backward(
            ops.embedding, wrong, expression, "(n,t),(v,c)->(n,t,c)", ids={"ids": "v"}
        )


def scaled(dy, x):
    return dy * 2


ALIEN = {
    "dx shares memory with the upstream gradient": (lambda x: x * 1, lambda dy, x: dy),
    "writes into an array that was given to it": (
        lambda x: x * 2,
        lambda dy, x: np.multiply(dy, 2, out=dy),
    ),
    "has dtype float32 where float64": (lambda x: x * 2, lambda dy, x: (dy * 2).astype(np.float32)),
    "is nan where": (lambda x: x * 2, lambda dy, x: dy * 2 * np.nan),
    "is a float, not a floating NumPy array": (lambda x: x.sum(), lambda dy, x: float(dy)),
    "is not zero for an upstream gradient of zeros": (
        lambda x: x * 2,
        lambda dy, x: dy * 2 + (0 if dy.any() else 1e-300),
    ),
}


@pytest.mark.parametrize("says", ALIEN)
def test_more_than_values_has_to_be_right(says):
    forward, backward = ALIEN[says]
    with pytest.raises(Mismatch, match=re.escape(says)):
        oracle.check_backward(
            forward,
            backward,
            forward,
            "(n)->(n)" if "NumPy" not in says else "(n)->()",
            max_examples=20,
        )


def test_two_gradients_are_two_arrays():
    def backward(dy, x, w):
        dx = dy.copy()
        return dx, dx

    with pytest.raises(Mismatch, match="dw shares memory with dx: return a copy"):
        oracle.check_backward(lambda x, w: x + w, backward, lambda x, w: x + w, "(n),(n)->(n)")


def test_memory_between_calls_is_found():
    buffer = np.empty(10)

    def reused(dy, x):
        return np.multiply(dy, 2, out=buffer[: len(dy)])

    with pytest.raises(Mismatch, match="is changed by a later call"):
        oracle.check_backward(lambda x: x * 2, reused, None, "(n)->(n)")

    calls = []

    def accumulates(dy, x):
        calls.append(0)
        return dy * 2 * (1 if len(calls) < 12 else 1.5)

    with pytest.raises(Mismatch):
        oracle.check_backward(lambda x: x * 2, accumulates, None, "(n)->(n)")

    last = {}

    def forward(x):
        last["x"] = x
        return x * x, ()

    with pytest.raises(Mismatch, match="other bits the second time"):
        oracle.check_backward(
            forward, lambda dy, cache: 2 * dy * last["x"], lambda x: x * x, "(n)->(n)"
        )


def compiled(backward):
    """A backward that refuses read-only arrays as compiled code does, without saying so."""

    def refusing(dy, *inputs):
        if not dy.flags.writeable:
            raise TypeError("no matching signature")
        return backward(dy, *inputs)

    return refusing


def test_what_refuses_read_only_arrays_is_judged_with_writable_ones():
    proof = oracle.judge(linear, compiled(linear_backward), None, LINEAR)
    assert proof.ok

    def doubles(dy, x, w, b):
        result = linear_backward(dy, x, w, b)
        dy *= 2
        return result

    proof = oracle.judge(linear, compiled(doubles), None, LINEAR, max_examples=20)
    assert [v.kind for v in proof.verdicts if not v.ok] == ["writes into its inputs"]
    assert "writes into the upstream gradient" in str(proof)


def test_a_refusal_of_read_only_arrays_is_met_once():
    refused = []

    def refusing(dy, x):
        if not dy.flags.writeable:
            refused.append(1)
            raise TypeError("no matching signature")
        return 2 * dy * x

    oracle.check_backward(np.square, refusing, signature="(n)->(n)", max_examples=20)
    assert len(refused) == 1

    def crashes_once(dy, x):
        if x.size == 1:
            raise IndexError("too short")
        return dy

    report = oracle.judge(lambda x: 1.0 * x, crashes_once, None, "(n)->(n)", max_examples=20)
    assert {v.kind for v in report.verdicts if not v.ok} == {"crash", "aliasing"}


def test_a_write_into_the_cache_is_found():
    def backward(dy, cache):
        cache[0][...] *= dy
        return cache[0] * 2

    with pytest.raises(Mismatch, match="writes into an array"):
        oracle.check_backward(lambda x: (x * x, (x.copy(),)), backward, torch.square, "(n)->(n)")


def test_nonlinear_in_the_upstream_gradient():
    with pytest.raises(Mismatch):
        oracle.check_backward(
            np.tanh, lambda dy, x: abs(dy) * (1 - np.tanh(x) ** 2), torch.tanh, "(n)->(n)"
        )


def test_the_forward_is_held_against_torch_too():
    with pytest.raises(Mismatch, match=r"y \(float64\)"):
        oracle.check_backward(lambda x: 2 * x, scaled, lambda x: 3 * x, "(n)->(n)")


def test_float32_that_promotes_is_found_only_when_asked_for():
    def promotes(dy, x):
        return dy * np.float64(2)

    def forward(x):
        return x * 2

    oracle.check_backward(forward, promotes, forward, "(n)->(n)", max_examples=10)
    with pytest.raises(Mismatch, match="has dtype float64 where float32") as failure:
        oracle.check_backward(forward, promotes, forward, "(n)->(n)", dtype=np.float32)
    assert "dtype=['float32']" in str(failure.value)


def test_a_formula_rounded_otherwise_passes():
    """The gradient of a softmax without its maximum is as right as torch's."""

    def loss(x, targets):
        counts = np.exp(x)
        probs = counts / counts.sum(1, keepdims=True)
        return -np.log(probs)[np.arange(len(x)), targets].mean(), (probs, targets)

    def backward(dloss, cache):
        probs, targets = cache
        return (probs - np.eye(probs.shape[1])[targets]) * dloss / len(probs)

    oracle.check_backward(
        loss, backward, reference.cross_entropy, "(n,v),(n)->()", ids={"targets": "v"}
    )
    oracle.check_backward(loss, backward, None, "(n,v),(n)->()", ids={"targets": "v"})


def test_a_failure_is_reproduced_by_its_line():
    def wrong(dy, x, w, b):
        dx, dw, db = linear_backward(dy, x, w, b)
        return dx, dw / len(dy), db

    with pytest.raises(Mismatch) as failure:
        oracle.check_backward(linear, wrong, linear, LINEAR, dtype=[np.float64, "float32"])
    message = str(failure.value)
    assert "n = 2, o = 1" in message and "seed = " in message
    line = message.partition("Reproduce: ")[2]
    with pytest.raises(Mismatch) as again:
        eval(line, {"oracle": oracle, "linear": linear, "wrong": wrong})
    assert str(again.value) == message and failure.value.result is not None


def test_the_line_has_the_sizes_that_no_input_has():
    def tile(x, times):
        return np.tile(x, times), len(x)

    def doubled(dy, n):
        return 2 * dy.reshape(-1, n).sum(0)

    sizes, options = {"n": (1, 3), "k": (1, 4)}, {"times": "k"}
    found = oracle.judge(tile, doubled, None, "(n)->(k*n)", sizes=sizes, options=options)["dx"]
    with pytest.raises(Mismatch) as again:
        eval(found.reproduce, {"oracle": oracle, "tile": tile, "doubled": doubled})
    assert str(again.value).startswith(found.sentence)


class Square:
    def forward(self, x):
        return x * x, x

    def backward(self, dy, x):
        return dy * x

    __call__ = backward


def square(x):
    return x * x, x


def square_backward(dy, x):
    return dy * x


@pytest.mark.parametrize(
    ("forward", "backward", "reference"),
    [
        (Square().forward, Square().backward, None),
        (square, functools.partial(square_backward), None),
        (square, square_backward, torch.square),
        (square, Square(), None),
    ],
)
def test_what_has_no_name_of_its_own_is_not_in_a_line(forward, backward, reference):
    found = oracle.judge(forward, backward, reference, "(n)->(n)", max_examples=20)["dx"]
    assert found.reproduce.startswith("the same call with example={")


def test_an_object_goes_by_its_class():
    report = oracle.judge(square, Square(), None, "(n)->(n)", max_examples=20)
    assert report.title == "Square"


def test_a_backward_that_meets_a_singular_matrix_crashes_under_any_name():
    """A forward may: the point lies outside of its domain."""
    report = oracle.judge(
        lambda a: (np.linalg.det(a), a),
        lambda dy, a: dy * np.linalg.det(a) * np.linalg.inv(a).T,
        None,
        "(n,n)->()",
        sizes={"n": (2, 3)},
        draw={"layout": ["zero stride"]},
    )
    assert [verdict.kind for verdict in report.verdicts if not verdict.ok] == ["crash"]
    assert "LinAlgError" in str(report)


def test_the_seed_repeats_and_the_arguments_count():
    seen = []

    def forward(x):
        if isinstance(x, np.ndarray):
            seen.append(x.copy())
        return x * 2

    runs = []
    for seed in (1, 1, 2):
        seen.clear()
        proof = oracle.check_backward(
            forward, scaled, forward, "(n)->(n)", seed=seed, max_examples=7, magnitude=1e3
        )
        assert proof.examples == 7
        runs.append(b"".join(a.tobytes() for a in seen))
    assert runs[0] == runs[1] != runs[2]
    assert max(np.abs(a).max() for a in seen) > 100


def test_sizes_are_drawn_from_one_and_shared():
    seen = set()

    def forward(x, w):
        seen.add((*x.shape, *w.shape))
        return x @ w

    def backward(dy, x, w):
        return dy @ w.T, x.T @ dy

    oracle.check_backward(
        forward, backward, forward, "(n,i),(i,3)->(n,3)", sizes={"n": (1, 9)}, max_examples=400
    )
    assert all(a[1] == a[2] and a[3] == 3 for a in seen)
    assert {a[0] for a in seen} == {*range(1, 10)} and {a[1] for a in seen} == {*range(1, 7)}


def test_ids_are_within_their_range():
    seen = set()

    def forward(x, i, j):
        seen.update([("i", *i.ravel().tolist()), ("j", *j.ravel().tolist())])
        return x * 2

    oracle.check_backward(
        forward,
        lambda dy, x, i, j: dy * 2,
        None,
        "(n),(),(n)->(n)",
        ids={1: (-2, 3), "j": "n"},
        seed=0,
    )
    assert {v for name, *values in seen if name == "i" for v in values} == {-2, -1, 0, 1, 2}
    assert {v for name, *values in seen if name == "j" for v in values} == {*range(6)}


NOT_ANALYTIC = {
    "abs": (np.abs, lambda dy, x: dy * np.sign(x)),
    "norm": (
        lambda x: np.linalg.norm(x, keepdims=True) * np.ones_like(x),
        lambda dy, x: dy.sum() * x / np.linalg.norm(x),
    ),
    "vecdot": (lambda x: np.vecdot(x, x) * np.ones_like(x), lambda dy, x: 2 * dy.sum() * x),
    "a conversion": (lambda x: x.astype(float) * 2, lambda dy, x: dy * 2),
    "a buffer": (lambda x: np.multiply(x, 2, out=np.empty(x.shape)), lambda dy, x: dy * 2),
    "floor": (lambda x: np.floor(x) + x, lambda dy, x: dy.copy()),
}


@pytest.mark.parametrize("name", NOT_ANALYTIC)
def test_a_forward_that_is_not_analytic_is_judged_by_differences(name):
    forward, backward = NOT_ANALYTIC[name]
    with np.errstate(all="ignore"):
        report = oracle.check_backward(forward, backward, None, "(n)->(n)", max_examples=50)
        assert report.reference == "central differences"
        with pytest.raises(Mismatch):
            oracle.check_backward(
                forward, lambda dy, x: backward(dy, x) * 1.001, None, "(n)->(n)", max_examples=50
            )


def test_maximum_and_comparisons_are_complex_safe():
    oracle.check_backward(ops.relu, ops.relu_backward, None, "(n,c)->(n,c)")
    oracle.check_backward(
        lambda x: np.where(x > 0, x, 0.1 * x),
        lambda dy, x: np.where(x > 0, dy, 0.1 * dy),
        None,
        "(n)->(n)",
    )


@pytest.mark.parametrize(
    "signature",
    ["", "(n)", "n->n", "(n)->n", "(n)->", "(n,m/2)->()", "(n,2**c)->()", "(,)->()"],
)
def test_a_bad_signature(signature):
    with pytest.raises(ValueError, match="signature"):
        oracle.check_backward(np.tanh, scaled, None, signature)


def clipped_entropy(p, t):
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))


def clipped_entropy_backward(dy, p, t):
    return dy * (p - t) / (p * (1 - p)) / p.size


def test_probabilities_are_drawn_between_0_and_1():
    details = {"signature": "(n),(n)->()", "wrt": ["p"]}
    within = {"between": {"p": (0, 1), "t": (0, 1)}}
    dtypes = {"dtype": ["float64", "float32"]}
    assert not oracle.judge(clipped_entropy, clipped_entropy_backward, **details).ok
    assert oracle.judge(clipped_entropy, clipped_entropy_backward, **details, **within, **dtypes).ok
    report = oracle.judge(clipped_entropy, lambda dy, p, t: dy * (p - t), **details, **within)
    assert report["dp"].kind == "wrong value"


@pytest.mark.parametrize(
    "details, says",
    [
        ({"signature": "(n)->(m)"}, "'m' is not a size"),
        ({"ids": {"x": "k"}}, "'k' is not a size"),
        ({"ids": {"z": 3}}, "there is no input 'z'; there are x"),
        ({"ids": {1: 3}}, "there is no input 1"),
        ({"dtype": np.float16}, "dtype must be"),
        ({"dtype": ()}, "dtype must be"),
        ({"max_examples": 0}, "must be positive"),
        ({"magnitude": 0.0}, "must be positive"),
        ({"between": {"x": (1, 0)}}, r"x needs low < high"),
        ({"reference": lambda x: x.sum()}, "the reference returns shape"),
        ({"backward": lambda dy, x: (dy * 2, dy)}, "has to return dx, but returns 2 gradients"),
    ],
)
def test_bad_arguments(details, says):
    def forward(x):
        return x * 2

    arguments = {
        "forward": forward,
        "backward": scaled,
        "reference": forward,
        "signature": "(n)->(n)",
    } | details
    with pytest.raises(ValueError, match=re.escape(says)):
        oracle.check_backward(**arguments)


def test_an_error_of_the_users_is_a_failing_example():
    def backward(dy, x):
        return dy.reshape(3) * 2

    with pytest.raises(
        Mismatch, match=r"backward raised ValueError: .* \[n = 1, seed = 0\]"
    ) as error:
        oracle.check_backward(lambda x: x * 2, backward, None, "(n)->(n)")
    assert [v.kind for v in error.value.report.verdicts if not v.ok] == ["crash"]


def test_an_error_in_the_reference_is_the_references():
    def broken(x):
        raise KeyError("mine")

    with pytest.raises(ValueError, match="the reference raised KeyError"):
        oracle.check_backward(lambda x: x * 2, scaled, broken, "(n)->(n)")


def test_a_wrong_shape_of_the_result_is_the_forwards():
    with pytest.raises(
        Mismatch, match=r"y has shape \(2,\) where the signature says \(1,\)"
    ) as error:
        oracle.check_backward(lambda x: x * 2, scaled, None, "(2n)->(n)")
    assert error.value.report["y"].kind == "wrong forward"


def test_signatures():
    inputs, outputs = parse(" (n, 3) , (2c+h+1),() -> (n),(h-c+1,h//4, 2*(c-1)) ")
    sizes = {"n": 4, "c": 5, "h": 6}
    assert [extent(shape, sizes) for shape in inputs] == [(4, 3), (17,), ()]
    assert [extent(shape, sizes) for shape in outputs] == [(4,), (2, 1, 8)]


def test_threads_are_given_back():
    before = torch.get_num_threads()
    oracle.check_backward(linear, linear_backward, linear, LINEAR, max_examples=2)
    assert torch.get_num_threads() == before


def test_no_gradient_at_all_is_not_right():
    """As where the return is forgotten."""
    with pytest.raises(ValueError, match="<lambda> returns None for every gradient"):
        oracle.check_backward(lambda x: x * 2, lambda dy, x: None, None, "(n)->(n)")
    with pytest.raises(ValueError, match="returns None for every gradient"):
        oracle.check_backward(np.multiply, lambda dy, a, b: (None, None), None, "(n),(n)->(n)")


def test_one_gradient_has_one_verdict_on_its_numbers():
    """A factor that only float32 shows is small beside some numbers and large beside others."""

    def backward(dy, x):
        return 2 * dy * x * (1 if x.dtype == np.float64 else np.float32(1.0099))

    report = oracle.judge(lambda x: x * x, backward, None, "(n)->(n)", dtype=BOTH, seed=0)
    assert [verdict.kind for verdict in report.verdicts if not verdict.ok] in (
        ["precision"],
        ["wrong value"],
    )


def test_a_hint_on_values_needs_the_values_to_make_it_wrong():
    """Right for ones, but for all other numbers too, in C order."""

    def backward(dy, x):
        return 2 * x * dy.ravel(order="K").reshape(dy.shape)

    verdict = oracle.judge(lambda x: x * x, backward, None, "(n,c)->(n,c)", seed=0)["dx"]
    assert not verdict.ok and "it is right" not in verdict.hint


def test_a_crash_names_its_function_once():
    def backward(dy, x):
        raise KeyError("mine")

    report = oracle.judge(lambda x: x * 2, backward, None, "(n)->(n)")
    assert report["backward"].sentence.startswith("backward raised KeyError: 'mine' [")


def test_a_median_of_equal_numbers_may_move_with_one_of_them():
    """However small dy is: no other gradient there tells how large is large."""

    def backward(dy, x):
        dx = np.zeros_like(x)
        dx[np.argsort(x, kind="stable")[len(x) // 2]] = dy
        return dx

    draw = {"upstream": [1e-4], "layout": ["zero stride"]}
    oracle.check_backward(np.median, backward, None, "(2h+1)->()", draw=draw, max_examples=20)


@pytest.mark.parametrize("norm", [np.linalg.norm, lambda x, **axis: np.sqrt((x * x).sum(**axis))])
def test_float32_may_lose_what_cancels_inside(norm):
    """A row whose smaller element is far below the larger, beside one that is not so small."""
    values = {"sizes": {"n": 2, "c": 2}, "values": "wide", "layout": "C", "seed": 3628800}
    values |= {"scale": 1.0, "upstream": 1.0, "options": {}}

    def normalize(x):
        size = norm(x, axis=-1, keepdims=True)
        y = x / size
        return y, (y, size)

    def normalize_backward(dy, cache):
        y, size = cache
        return (dy - y * (y * dy).sum(-1, keepdims=True)) / size

    both = np.float64, np.float32
    oracle.check_backward(
        normalize, normalize_backward, signature="(n,c)->(n,c)", dtype=both, example=values
    )
