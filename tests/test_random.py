import copy
import math
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from npnet.random import TorchGenerator, linear_init
from npnet.runs import PythonRandom

# Elsewhere torch computes normals with another logarithm and cosine and does not fuse: they are
# compared by a bound.
EXACT_NORMALS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")

DTYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}
dtypes = st.sampled_from([np.float32, np.float64])
seeds = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, 1, 42, 3407, 2147483647, 2**32 - 1, 2**32]),
)
shapes = st.one_of(
    st.tuples(), st.tuples(st.integers(0, 70)), st.lists(st.integers(0, 9), max_size=3).map(tuple)
)
numbers = st.floats(-100, 100).filter(lambda x: x == 0 or abs(x) > 1e-250)


def bits(a):
    return a.view(f"u{a.itemsize}") if a.dtype.kind == "f" else a


def assert_same(ours, theirs):
    theirs = theirs.numpy()
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert ours.flags.c_contiguous and ours.flags.writeable
    np.testing.assert_array_equal(bits(ours), bits(theirs), strict=True)


def assert_same_floats(ours, theirs, size, ulps):
    """Equal bits where torch runs its AVX2 code; elsewhere within `ulps` of a number of magnitude
    `size`."""
    if EXACT_NORMALS:
        assert_same(ours, theirs)
    else:
        theirs = theirs.numpy()
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert np.all(np.abs(ours - theirs) <= ulps * np.spacing(ours.dtype.type(size)))


def assert_same_normals(ours, theirs, mean=0.0, std=1.0):
    assert_same_floats(ours, theirs, abs(mean) + 6 * std, 8)
    if ours.dtype == np.float64:
        theirs = theirs.numpy()
        assert np.all(
            np.abs(ours - theirs) <= 2 * np.spacing(np.maximum(np.abs(theirs), abs(mean) + 6 * std))
        )


def empty(shape, dtype):
    return torch.empty(shape, dtype=DTYPES[np.dtype(dtype)])


@st.composite
def probabilities(draw, rows=None):
    """Unnormalised, of very different sizes, some of them zero, none of the rows without any."""
    categories = draw(st.integers(1, 30))
    values = np.random.default_rng(draw(st.integers(0, 2**32))).lognormal(
        0, draw(st.sampled_from([0, 1, 4])), (rows or 1, categories)
    )
    values[:, 1:][
        :, draw(st.lists(st.booleans(), min_size=categories - 1, max_size=categories - 1))
    ] = 0
    return (values if rows else values[0]).astype(draw(dtypes))


class SameStream(RuleBasedStateMachine):
    """Any sequence of draws, mixed in any way, gives on both sides the same numbers."""

    saved = Bundle("saved")

    @initialize(seed=seeds)
    def start(self, seed):
        self.ours, self.theirs = TorchGenerator(seed), torch.Generator().manual_seed(seed)

    @rule(seed=seeds)
    def manual_seed(self, seed):
        assert self.ours.manual_seed(seed) is self.ours
        self.theirs.manual_seed(seed)
        assert self.ours.initial_seed() == self.theirs.initial_seed()

    @rule(shape=shapes, dtype=dtypes)
    def rand(self, shape, dtype):
        assert_same(
            self.ours.rand(*shape, dtype=dtype),
            torch.rand(shape, generator=self.theirs, dtype=DTYPES[np.dtype(dtype)]),
        )

    @rule(a=numbers, b=numbers, shape=shapes, dtype=dtypes)
    def uniform(self, a, b, shape, dtype):
        low, high = min(a, b), max(a, b)
        theirs = empty(shape, dtype).uniform_(low, high, generator=self.theirs)
        assert_same_floats(
            self.ours.uniform(low, high, shape, dtype), theirs, max(abs(low), abs(high)), 1
        )

    @rule(shape=shapes, dtype=dtypes)
    def randn(self, shape, dtype):
        theirs = torch.randn(shape, generator=self.theirs, dtype=DTYPES[np.dtype(dtype)])
        assert_same_normals(self.ours.randn(*shape, dtype=dtype), theirs)

    @rule(mean=numbers, std=st.floats(0, 100), shape=shapes, dtype=dtypes)
    def normal(self, mean, std, shape, dtype):
        theirs = empty(shape, dtype).normal_(mean, std, generator=self.theirs)
        assert_same_normals(self.ours.normal(mean, std, shape, dtype), theirs, mean, std)

    @rule(
        low=st.integers(-(2**40), 2**40),
        span=st.integers(1, 2**28 - 1) | st.integers(1, 9),
        shape=shapes,
    )
    def randint(self, low, span, shape):
        assert_same(
            self.ours.randint(low, low + span, shape),
            torch.randint(low, low + span, shape, generator=self.theirs),
        )

    @rule(
        ends=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2, unique=True),
        shape=shapes,
    )
    def randint_anywhere(self, ends, shape):
        low, high = sorted(ends)
        assert_same(
            self.ours.randint(low, high, shape),
            torch.randint(low, high, shape, generator=self.theirs),
        )

    @rule(span=st.integers(2**28 - 1, 2**28 + 1) | st.integers(2**32 - 1, 2**32 + 1), shape=shapes)
    def randint_at_the_limit(self, span, shape):
        assert_same(
            self.ours.randint(-5, span - 5, shape),
            torch.randint(-5, span - 5, shape, generator=self.theirs),
        )

    @rule()
    def random_int64(self):
        assert (
            self.ours.random_int64()
            == torch.empty((), dtype=torch.int64).random_(generator=self.theirs).item()
        )

    @rule(n=st.integers(0, 700))
    def randperm(self, n):
        assert_same(self.ours.randperm(n), torch.randperm(n, generator=self.theirs))

    @rule(rate=st.sampled_from([1.0]) | st.floats(0.01, 100), shape=shapes, dtype=dtypes)
    def exponential(self, rate, shape, dtype):
        theirs = empty(shape, dtype).exponential_(rate, generator=self.theirs)
        assert_same(self.ours.exponential(shape, dtype, rate), theirs)

    @rule(data=st.data(), rows=st.none() | st.integers(1, 5), replacement=st.booleans())
    def multinomial(self, data, rows, replacement):
        p = data.draw(probabilities(rows))
        most = 30 if replacement else np.count_nonzero(p, -1).min()
        k = data.draw(st.just(1) | st.integers(1, most))
        theirs = torch.multinomial(torch.from_numpy(p), k, replacement, generator=self.theirs)
        assert_same(self.ours.multinomial(p, k, replacement), theirs)

    @rule(p=probabilities())
    def multinomial_2022(self, p):
        """One sample with replacement by the old rule is the first of two by the current one, which
        draws once more."""
        before = self.theirs.get_state()
        theirs = torch.multinomial(torch.from_numpy(p), 2, True, generator=self.theirs)[:1]
        self.theirs.set_state(before)
        torch.rand((), dtype=torch.float64, generator=self.theirs)
        assert_same(self.ours.multinomial(p, 1, True, rule="2022"), theirs)

    @rule(target=saved)
    def save(self):
        return self.ours.state(), self.theirs.get_state()

    @rule(states=saved)
    def restore(self, states):
        ours, theirs = states
        self.ours, self.theirs = TorchGenerator(), torch.Generator()
        self.ours.set_state(ours)
        self.theirs.set_state(theirs)
        assert self.ours.initial_seed() == self.theirs.initial_seed()
        np.testing.assert_array_equal(self.ours.state(), ours, strict=True)


TestSameStream = SameStream.TestCase
TestSameStream.settings = settings(settings.default, stateful_step_count=30)

LONG = 123_457  # a multiple of neither 16 nor 624


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", [0, 2147483647, -5])
class TestLong:
    @pytest.fixture
    def both(self, seed):
        return TorchGenerator(seed), torch.Generator().manual_seed(seed)

    def test_rand(self, both, dtype):
        assert_same(both[0].rand(LONG, dtype=dtype), empty(LONG, dtype).uniform_(generator=both[1]))

    def test_uniform(self, both, dtype):
        theirs = empty(LONG, dtype).uniform_(-1 / 3, 5.1, generator=both[1])
        assert_same_floats(both[0].uniform(-1 / 3, 5.1, LONG, dtype), theirs, 5.1, 1)

    def test_randn(self, both, dtype):
        assert_same_normals(
            both[0].randn(LONG, dtype=dtype), empty(LONG, dtype).normal_(generator=both[1])
        )

    def test_normal(self, both, dtype):
        theirs = empty(LONG, dtype).normal_(0.3, 1.7, generator=both[1])
        assert_same_normals(both[0].normal(0.3, 1.7, LONG, dtype), theirs, 0.3, 1.7)

    def test_scalar_normals(self, both, dtype):
        for _ in range(3_000):
            assert_same_normals(
                both[0].randn(3, dtype=dtype), empty(3, dtype).normal_(generator=both[1])
            )

    def test_exponential(self, both, dtype):
        assert_same(
            both[0].exponential(LONG, dtype), empty(LONG, dtype).exponential_(generator=both[1])
        )

    def test_multinomial(self, both, dtype):
        p = np.random.default_rng(1).random((LONG // 27, 27)).astype(dtype)
        for k, replacement in [(1, False), (27, False), (30, True)]:
            theirs = torch.multinomial(torch.from_numpy(p), k, replacement, generator=both[1])
            assert_same(both[0].multinomial(p, k, replacement), theirs)


@pytest.mark.parametrize("rows", [[], [0], [4, 1], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize(
    ("make", "how"),
    [
        (TorchGenerator, (1, False, "current")),
        (TorchGenerator, (1, True, "2022")),
        (TorchGenerator, (3, True, "current")),
        (TorchGenerator, (3, False, "current")),
        (PythonRandom, (1,)),
    ],
)
def test_rows_among_others_are_drawn_as_with_them(make, how, rows):
    p, rows = np.random.default_rng(1).random((5, 7)), np.array(rows, np.int64)
    one, other = make(3), make(3)
    expected = one.multinomial(p, *how)[rows]
    found = other.multinomial(p[rows], *how, among=(rows, 5))
    np.testing.assert_array_equal(found, expected, strict=True)
    np.testing.assert_array_equal(one.state(), other.state())


def test_a_sample_that_hits_the_cumulative_sum():
    u = TorchGenerator(3).rand(dtype=np.float64)
    p = np.array([u, 1 - u])
    assert p.cumsum().tolist() == [u, 1]
    theirs = torch.multinomial(
        torch.from_numpy(p), 5, True, generator=torch.Generator().manual_seed(3)
    )
    assert theirs[0] == 0
    assert_same(TorchGenerator(3).multinomial(p, 5, True), theirs)


@pytest.mark.skipif(not EXACT_NORMALS, reason="torch does not fuse here")
@pytest.mark.parametrize(("dtype", "tiny"), [(np.float32, 1e-30), (np.float64, 1e-60)])
def test_uniforms_between_two_floats_are_decided_by_the_smallest_low(dtype, tiny):
    theirs = empty(LONG, dtype).uniform_(tiny, 1.5, generator=torch.Generator().manual_seed(3))
    ours = TorchGenerator(3).uniform(tiny, 1.5, LONG, dtype)
    assert_same(ours, theirs)
    assert (ours != TorchGenerator(3).uniform(0, 1.5, LONG, dtype)).sum() > LONG / 10


@pytest.mark.parametrize("span", [27, 182_625, 2**28 - 1, 2**28, 2**40 + 7])
def test_long_randint(span):
    ours, theirs = TorchGenerator(7), torch.Generator().manual_seed(7)
    assert_same(
        ours.randint(-3, span - 3, (LONG,)), torch.randint(-3, span - 3, (LONG,), generator=theirs)
    )
    for _ in range(4_000):
        assert_same(ours.randint(0, span, 32), torch.randint(0, span, (32,), generator=theirs))


def test_long_randperm():
    assert_same(
        TorchGenerator(7).randperm(LONG),
        torch.randperm(LONG, generator=torch.Generator().manual_seed(7)),
    )


@pytest.mark.parametrize(
    ("mean", "std"), [(1e39, 1), (0, 1e39), (math.inf, 1), (0, math.inf), (math.nan, 1), (2, 0)]
)
@pytest.mark.parametrize("n", [5, 40])
def test_normals_beyond_the_range_are_what_torch_makes_of_them(mean, std, n):
    theirs = torch.empty(n).normal_(mean, std, generator=torch.Generator().manual_seed(7)).numpy()
    np.testing.assert_array_equal(TorchGenerator(7).normal(mean, std, n), theirs, strict=True)


@given(
    seed=st.integers(0, 2**64 - 1),
    fan_in=st.integers(1, 40),
    fan_out=st.integers(1, 40),
    bias=st.booleans(),
    dtype=dtypes,
)
def test_layers_start_as_torchs(seed, fan_in, fan_out, bias, dtype):
    torch.manual_seed(seed)
    theirs = torch.nn.Linear(fan_in, fan_out, bias, dtype=DTYPES[np.dtype(dtype)])
    table = torch.nn.Embedding(fan_in, fan_out, dtype=DTYPES[np.dtype(dtype)])
    ours = TorchGenerator(seed)
    weight, b = linear_init(ours, fan_in, fan_out, bias, dtype)
    size = fan_in**-0.5
    assert_same_floats(weight, theirs.weight.detach().T.contiguous(), size, 1)
    if bias:
        assert_same_floats(b, theirs.bias.detach(), size, 1)
    else:
        assert b is None and theirs.bias is None
    assert_same_normals(ours.normal(0.0, 1.0, (fan_in, fan_out), dtype), table.weight.detach())


def test_a_fresh_generator_is_torchs_fresh_generator():
    assert TorchGenerator().initial_seed() == torch.Generator().initial_seed() == 67280421310721
    assert_same(TorchGenerator().rand(5), torch.rand(5, generator=torch.Generator()))


class TestState:
    def test_does_not_tell_how_far_the_generator_has_drawn_ahead(self):
        for n in (0, 1, 623, 624, 625, 1248, 5000):
            together, apart = TorchGenerator(3), TorchGenerator(3)
            together.rand(n)
            for _ in range(n):
                apart.rand()
            np.testing.assert_array_equal(together.state(), apart.state(), strict=True)

    def test_fits_an_npz_and_is_nobodys_view(self, tmp_path):
        generator = TorchGenerator(-1)
        generator.randn(3)
        np.savez(tmp_path / "state.npz", generator=generator.state())
        with np.load(tmp_path / "state.npz") as file:
            state = file["generator"]
        expected = generator.randn(20), generator.randn(5), generator.randint(0, 9, 700)
        other = TorchGenerator(8)
        other.set_state(state)
        state[:] = 0
        for a, b in zip(
            expected, (other.randn(20), other.randn(5), other.randint(0, 9, 700)), strict=True
        ):
            np.testing.assert_array_equal(a, b, strict=True)
        assert other.initial_seed() == 2**64 - 1

    @pytest.mark.parametrize(
        "damage",
        [
            lambda s: s[:-1],
            lambda s: s.astype(np.int64),
            lambda s: s[None],
            lambda s: np.where(np.arange(628) == 5, np.uint64(2**32), s),
            lambda s: np.where(np.arange(628) < 624, np.uint64(0), s),
            lambda s: np.where(np.arange(628) == 624, np.uint64(625), s),
            lambda s: np.where(np.arange(628) == 625, np.uint64(2), s),
            lambda s: np.where(np.arange(628) == 625, np.uint64(0), s),
            lambda s: np.where(np.arange(628) == 626, np.float64(np.nan).view(np.uint64), s),
            lambda s: b"not an array",
            lambda s: None,
        ],
    )
    def test_a_damaged_one_is_refused_and_changes_nothing(self, damage):
        generator = TorchGenerator(3)
        generator.randn(5)
        state = generator.state()
        with pytest.raises(ValueError, match="state"):
            generator.set_state(damage(state))
        np.testing.assert_array_equal(generator.state(), state)


p3 = np.array([0.2, 0.0, 0.8], np.float32)
ERRORS = {
    "a seed above": (lambda g: g.manual_seed(2**64), r"seed must be in \[-2\^63, 2\^64\), got"),
    "a seed below": (lambda g: g.manual_seed(-(2**63) - 1), "seed must be in"),
    "a float seed": (lambda g: TorchGenerator(1.0), "seed must be an integer, got 1.0"),
    "a bool seed": (lambda g: TorchGenerator(True), "seed must be an integer"),
    "a string seed": (lambda g: TorchGenerator("1"), "seed must be an integer"),
    "no seed": (lambda g: TorchGenerator(None), "seed must be an integer"),
    "a negative size": (lambda g: g.rand(3, -1), r"must not be negative, got \(3, -1\)"),
    "a negative size for randn": (lambda g: g.randn(-1), "must not be negative"),
    "a float size": (lambda g: g.rand(2.0), "a size must be an integer, got 2.0"),
    "a bool size": (lambda g: g.randint(0, 5, True), "a size must be an integer"),
    "a nested shape": (lambda g: g.rand((2, (3,))), "a size must be an integer"),
    "half precision": (lambda g: g.rand(3, dtype=np.float16), "dtype must be float32 or float64"),
    "integers as floats": (
        lambda g: g.normal(0, 1, 3, dtype=int),
        "dtype must be float32 or float64",
    ),
    "None as dtype": (
        lambda g: g.rand(3, dtype=None),
        "dtype must be float32 or float64, got None",
    ),
    "no dtype": (
        lambda g: g.exponential(3, dtype="floaty"),
        "dtype must be float32 or float64, got 'floaty'",
    ),
    "low == high": (lambda g: g.randint(3, 3, 0), "low < high.*got 3 and 3"),
    "low > high": (lambda g: g.randint(4, 3, (2,)), "low < high"),
    "high above int64": (lambda g: g.randint(0, 2**63, 2), "low < high"),
    "low below int64": (lambda g: g.randint(-(2**63) - 1, 0, 2), "low < high"),
    "a float bound": (lambda g: g.randint(0, 5.0, 2), "high must be an integer"),
    "from > to": (lambda g: g.uniform(1, 0, 3), "low <= high"),
    "an infinite bound": (lambda g: g.uniform(0, math.inf, 3), "low <= high"),
    "a bound that is not a number": (lambda g: g.uniform(math.nan, 1, 3), "low <= high"),
    "a bound above float32": (lambda g: g.uniform(0, 1e39, 3), "finite in float32"),
    "a span above float32": (lambda g: g.uniform(-3e38, 3e38, 3), "finite in float32"),
    "a bound in words": (lambda g: g.uniform("0", 1, 3), "low must be a number"),
    "std < 0": (lambda g: g.normal(0, -1, 3), "std must be >= 0, got -1"),
    "std not a number": (lambda g: g.normal(0, math.nan, 30), "std must be >= 0"),
    "rate 0": (lambda g: g.exponential(3, rate=0), "rate must be > 0, got 0"),
    "rate < 0": (lambda g: g.exponential(3, rate=-1), "rate must be > 0"),
    "rate not a number": (lambda g: g.exponential(3, rate=math.nan), "rate must be > 0"),
    "n < 0": (lambda g: g.randperm(-1), "0 <= n < 214748364, got -1"),
    "n too large": (lambda g: g.randperm(214748364), "0 <= n < 214748364"),
    "a float n": (lambda g: g.randperm(3.0), "n must be an integer"),
    "a negative probability": (lambda g: g.multinomial(p3 - 0.1, 1), "finite and not negative"),
    "an infinite probability": (
        lambda g: g.multinomial(p3 + math.inf, 1),
        "finite and not",
    ),
    "a probability that is none": (
        lambda g: g.multinomial(p3 * math.nan, 2, True),
        "finite and not negative",
    ),
    "no probability": (lambda g: g.multinomial(p3 * 0, 1), "positive sum"),
    "a row without": (lambda g: g.multinomial(np.stack([p3, p3 * 0]), 2, True), "positive sum"),
    "a sum that overflows": (
        lambda g: g.multinomial(np.full(3, 3e38, np.float32), 2, True),
        "scale them down",
    ),
    "no samples": (lambda g: g.multinomial(p3, 0), "num_samples must be at least 1, got 0"),
    "half a sample": (lambda g: g.multinomial(p3, 0.5), "num_samples must be an integer"),
    "more samples than categories": (
        lambda g: g.multinomial(p3, 4),
        "4 samples without replacement need 4 nonzero",
    ),
    "more than are possible": (
        lambda g: g.multinomial(p3, 3),
        "3 samples without replacement need 3 nonzero",
    ),
    "another rule": (
        lambda g: g.multinomial(p3, 1, rule="2021"),
        'rule must be "current" or "2022", got \'2021\'',
    ),
    "integer probabilities": (lambda g: g.multinomial([1, 2], 1), "float32 or float64"),
    "no categories": (lambda g: g.multinomial(p3[:0], 1), r"1 to 2\^24 categories"),
    "too many categories": (
        lambda g: g.multinomial(np.broadcast_to(p3[0], 2**24 + 1), 1),
        r"1 to 2\^24 categories",
    ),
    "a scalar probability": (lambda g: g.multinomial(p3[0], 1), r"got float32 \(\)"),
    "three axes": (lambda g: g.multinomial(p3[None, None], 1), r"got float32 \(1, 1, 3\)"),
    "fewer rows than numbers": (
        lambda g: g.multinomial(p3[None], 1, among=(np.array([0, 1]), 3)),
        r"among must number 1 rows out of n, got \[0 1\] and n = 3",
    ),
    "a row beyond the last": (
        lambda g: g.multinomial(p3[None], 1, among=(np.array([3]), 3)),
        r"among must number 1 rows out of n, got \[3\] and n = 3",
    ),
    "a row before the first": (
        lambda g: g.multinomial(p3[None], 2, True, among=(np.array([-1]), 3)),
        r"among must number 1 rows",
    ),
    "a layer without inputs": (lambda g: linear_init(g, 0, 3), "at least 1, got 0 and 3"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_torch_rejects_is_one_clear_line_and_draws_nothing(name):
    call, message = ERRORS[name]
    generator = TorchGenerator(3)
    generator.randn(3)
    before = generator.state()
    with pytest.raises(ValueError, match=message) as error:
        call(generator)
    assert "\n" not in str(error.value)
    np.testing.assert_array_equal(generator.state(), before)


# Printed in the published notebook of part 1 (2022): five of its outputs need no data beyond what
# stands here.


def softmax_of_emma():
    w = TorchGenerator(2147483647).randn(27, 27)
    logits = w[[0, 5, 13, 13, 1]]
    counts = np.exp(logits)
    return counts / counts.sum(1, keepdims=True)


def test_part1_normalised_uniforms():
    p = TorchGenerator(2147483647).rand(3)
    assert [f"{x:.4f}" for x in p / p.sum()] == ["0.6064", "0.3033", "0.0903"]


@pytest.mark.parametrize("rule", ["2022", "current"])
def test_part1_hundred_samples(rule):
    generator = TorchGenerator(2147483647)
    p = generator.rand(3)
    assert "".join(
        map(str, generator.multinomial(p / p.sum(), 100, replacement=True, rule=rule))
    ) == (
        "1120021100011001100102001001000111011001110110110200000000001100000000100100000001200000010020100111"
    )


def test_part1_first_letter():
    counts = [
        0,
        4410,
        1306,
        1542,
        1690,
        1531,
        417,
        669,
        874,
        591,
        2422,
        2963,
        1572,
        2538,
    ]  # of names by first letter
    counts += [1146, 394, 515, 92, 1639, 2055, 1308, 78, 376, 307, 134, 535, 929]
    p = np.array(counts, np.float32)
    p /= p.sum()
    assert TorchGenerator(2147483647).multinomial(p, 1, True, rule="2022").tolist() == [
        ord("m") - ord("a") + 1
    ]
    assert TorchGenerator(2147483647).multinomial(p, 1, True).tolist() == [
        ord("c") - ord("a") + 1
    ]  # torch 2.13


def test_part1_probabilities_of_an_untrained_network():
    assert " ".join(f"{x:.4f}" for x in softmax_of_emma()[0]) == (
        "0.0607 0.0100 0.0123 0.0042 0.0168 0.0123 0.0027 0.0232 0.0137 0.0313 0.0079 0.0278 "
        "0.0091 0.0082 0.0500 0.2378 0.0603 0.0025 0.0249 0.0055 0.0339 0.0109 0.0029 0.0198 "
        "0.0118 0.1537 0.1459"
    )


def test_part1_loss_on_emma():
    losses = -np.log(softmax_of_emma()[range(5), [5, 13, 13, 1, 0]])
    np.testing.assert_allclose(
        losses, [4.39927435, 4.01457071, 3.62340879, 2.60806680, 4.20120430], rtol=3e-7
    )
    np.testing.assert_allclose(losses.mean(), 3.7693049907684326, rtol=3e-7)


def test_the_sampler_seed_of_makemore():
    """What makemore.py draws before the first step with 32,033 names, seed 3407 and its default
    transformer."""
    generator = TorchGenerator(3407)
    generator.randperm(32033)
    generator.randn(27, 64)
    generator.randn(16, 64)
    for _ in range(4):
        for fan_in, fan_out in [(64, 192), (64, 64), (64, 256), (256, 64)]:
            linear_init(generator, fan_in, fan_out)
    linear_init(generator, 64, 27, bias=False)
    generator.random_int64()  # the loader's base seed
    seed = generator.random_int64()
    assert seed == 1004491988175041281
    first = TorchGenerator(seed).randint(0, 31033, (32,))[:8]
    assert first.tolist() == [7648, 24476, 28537, 3455, 9335, 13524, 28832, 8217]


def test_importing_it_does_not_import_numpys_random_module():
    code = "import sys, npnet.random; print('numpy.random' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda g: g.rand(100),
        lambda g: g.randn(37),
        lambda g: g.randn(3, dtype=np.float64),
        lambda g: g.randperm(50),
    ],
)
def test_threads_share_the_stream_draw_by_draw(draw):
    shared, drawn = TorchGenerator(1), []

    def work():
        for _ in range(200):
            drawn.append(draw(shared).tobytes())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    alone = TorchGenerator(1)
    assert sorted(drawn) == sorted(draw(alone).tobytes() for _ in range(800))
    assert (shared.state() == alone.state()).all()


def test_a_copy_goes_on_by_itself():
    generator = TorchGenerator(3)
    generator.randn(5)
    copies = [copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))]
    expected = generator.randn(40)
    for other in copies:
        assert (other.randn(40) == expected).all()
