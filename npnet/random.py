"""PyTorch's CPU random stream in NumPy: one integer, the same numbers as
`torch.Generator().manual_seed(integer)`.

Source of every rule here: PyTorch 2.13 ATen CPU generator, measured (x86-64, AVX2 and AVX-512). A
*raw* is one 32-bit word of the Mersenne Twister, a *raw64* is `(first raw << 32) | second raw`.
Integers, `rand` and `exponential` are torch's on every machine. Normals and `uniform` are so, bit
for bit, where torch runs its AVX2 code; elsewhere torch's own logarithm, cosine and lack of a fused
multiply-add make the last bits differ.

A shape is an int or a tuple, `()` for a scalar; results are fresh C-contiguous arrays. What torch
rejects is a ValueError, raised before anything is drawn. Left out on purpose: other distributions,
dtypes and devices.
"""

import math
import numbers
import threading
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from npnet.torch_math import fma, libm, log32, sincos32

_BLOCK = 624  # words the twister makes at a time
_CHUNK = 8192  # normals transformed at a time: the temporaries stay in the cache
# A double has 53 bits: 21 from the first raw, 32 from the second. These are arrays because a Python
# number is converted again in every call.
_UPPER_BITS, _UPPER, _LOWER = np.array(2**21 - 1, np.uint32), np.array(2.0**-21), np.array(2.0**-53)
Among = tuple[np.ndarray, int]  # which rows, of how many


class Generator(Protocol):
    """What first values and words are drawn from, and what a resumed run keeps of it. Words are
    drawn with multinomial's replacement, rule and among, which `TorchGenerator` describes."""

    def uniform(
        self, low: float, high: float, shape: Sequence[int], dtype: Any = np.float32
    ) -> np.ndarray: ...

    def normal(
        self, mean: float, std: float, shape: Sequence[int], dtype: Any = np.float32
    ) -> np.ndarray: ...

    def bernoulli(self, p: float, shape: Sequence[int]) -> np.ndarray: ...

    def multinomial(
        self, probs: np.ndarray, num_samples: int, *args: Any, **kwargs: Any
    ) -> np.ndarray: ...

    def state(self) -> np.ndarray: ...

    def set_state(self, state: np.ndarray) -> None: ...


class TorchGenerator:
    """`torch.Generator` for NumPy: the same draws, in any order and mixture, give the same numbers.

        generator = TorchGenerator(seed)
        generator.randn(27, 10)  # torch.manual_seed(seed); torch.randn(27, 10)

    Without a seed it starts where a fresh `torch.Generator()` does. It is never the global state of
    anything. Threads may share one: each draw is then a whole piece of the stream, in the order in
    which they come.
    """

    def __init__(self, seed: int = 67280421310721) -> None:
        self._lock = threading.RLock()
        self.manual_seed(seed)

    def manual_seed(self, seed: int) -> "TorchGenerator":
        """Start again, no normal kept: mt19937 seeded with `seed mod 2^32`, -2^63 <= seed < 2^64.

        Returns self.
        """
        seed = _integer(seed, "seed")
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"seed must be in [-2^63, 2^64), got {seed}")
        with self._lock:
            self._seed = seed % 2**64
            self._twister = np.random.MT19937(0)
            np.random.RandomState(self._twister).seed(self._seed % 2**32)
            # The end of the twister's current block, and how many of these are used.
            self._ahead, self._used = np.empty(0, np.uint32), 0
            self._kept: float | None = None  # the second normal of a scalar pair
        return self

    def initial_seed(self) -> int:
        """The seed last set, as torch reports it: a negative one modulo 2^64."""
        return self._seed

    def state(self) -> np.ndarray:
        """What the next draws depend on, uint64 (628,): the 624 words, position, normal kept?, its
        bits, seed.

        It does not depend on how far the generator has drawn ahead, so equal positions in the
        stream have equal states.
        """
        with self._lock:
            key = self._twister.state["state"]["key"]
            position = _BLOCK - (self._ahead.size - self._used)
            kept, seed = self._kept, self._seed
        bits = np.float64(0.0 if kept is None else kept).view(np.uint64)
        return np.array([*key.tolist(), position, kept is not None, bits, seed], np.uint64)

    def set_state(self, state: np.ndarray) -> None:
        """Continue from what `state()` returned."""
        state = np.array(state)
        if state.dtype != np.uint64 or state.shape != (_BLOCK + 4,):
            raise ValueError(
                f"a state is a uint64 array of shape ({_BLOCK + 4},), "
                f"got {state.dtype} {state.shape}"
            )
        key, (position, keeps, bits, seed) = state[:_BLOCK], state[_BLOCK:].tolist()
        kept = float(state[_BLOCK + 2 : _BLOCK + 3].view(np.float64)[0])
        if key.max() >= 2**32 or not key.any() or position > _BLOCK:
            raise ValueError(
                "damaged state: it must hold 624 words below 2^32, not all zero, "
                "and a position up to 624"
            )
        if keeps > 1 or not math.isfinite(kept) or (bits and not keeps):
            raise ValueError(
                "damaged state: it must say by 0 or 1 whether it keeps a normal, "
                "and that must be finite"
            )
        with self._lock:
            twister: Any = {"key": key.astype(np.uint32), "pos": position}
            self._twister.state = {"bit_generator": "MT19937", "state": twister}
            self._ahead, self._used = self._words(_BLOCK - position), 0
            self._kept, self._seed = kept if keeps else None, seed

    def __reduce__(self) -> Any:  # a lock can be neither copied nor pickled
        return _in_state, (self.state(),)

    def rand(self, *shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """Uniform in [0, 1).

        float32: `(raw & (2^24 - 1)) * 2^-24`; float64: `(raw64 & (2^53 - 1)) * 2^-53`.
        """
        sizes = _shape(*shape)
        return self._unit(math.prod(sizes), _dtype(dtype)).reshape(sizes)

    def uniform(
        self, low: float, high: float, shape: int | Sequence[int], dtype: Any = np.float32
    ) -> np.ndarray:
        """Uniform in [low, high): `fma(rand, high - low, low)`, all in `dtype`; a result equal to
        high becomes low."""
        sizes, dtype = _shape(shape), _dtype(dtype)
        low, high = _real(low, "low"), _real(high, "high")
        limit = float(np.finfo(dtype).max)
        if not (-limit <= low <= high <= limit and high - low <= limit):
            raise ValueError(
                f"uniform needs low <= high and high - low finite in {dtype}, got {low} and {high}"
            )
        a, b = dtype.type(low), dtype.type(high)
        out = fma(self._unit(math.prod(sizes), dtype), b - a, a)
        out[out == b] = a
        return out.reshape(sizes)

    def randn(self, *shape: int | Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """Normal with mean 0 and standard deviation 1, see `normal`."""
        return self.normal(0.0, 1.0, _shape(*shape), dtype)

    def normal(
        self, mean: float, std: float, shape: int | Sequence[int], dtype: Any = np.float32
    ) -> np.ndarray:
        """Normal by Box and Muller (1958), `fma(z, std, mean)`, in one of two ways.

        16 elements or more: n uniforms in `dtype`. In each block of 16 the first eight are 1 - u1,
        the last eight u2, and they become `r cos(t)` and `r sin(t)` with
            r = sqrt(-2 ln u1),  t = 2 pi u2.
        If n is no multiple of 16, the last 16 elements are drawn again from 16 fresh uniforms.

        Fewer: one at a time in double, `z = sqrt(-2 log1p(-u2)) cos(2 pi u1)`. The sine is kept for
        the next scalar, also through larger draws in between.
        """
        sizes, dtype = _shape(shape), _dtype(dtype)
        mean, std = _real(mean, "mean"), _real(std, "std")
        if not std >= 0:
            raise ValueError(f"std must be >= 0, got {std}")
        n = math.prod(sizes)
        with self._lock, np.errstate(over="ignore", invalid="ignore"):
            if n < 16:
                z = np.array([self._scalar_normal() for _ in range(n)], np.float64)
                return fma(z, std, mean).astype(dtype).reshape(sizes)
            out = np.empty(n, dtype)
            a, b = dtype.type(mean), dtype.type(std)
            whole = n - n % 16
            for start in range(0, whole, _CHUNK):
                stop = min(start + _CHUNK, whole)
                out[start:stop] = fma(_box_muller(self._unit(stop - start, dtype)), b, a)
            if whole < n:
                self._raw((n - whole) * dtype.itemsize // 4)
                out[-16:] = fma(_box_muller(self._unit(16, dtype)), b, a)
        return out.reshape(sizes)

    def exponential(
        self, shape: int | Sequence[int], dtype: Any = np.float32, rate: float = 1.0
    ) -> np.ndarray:
        """Exponential: `-1/rate * log1p(-u)` with u from one raw64, in double, then cast."""
        sizes, dtype, rate = _shape(shape), _dtype(dtype), _real(rate, "rate")
        if not rate > 0:
            raise ValueError(f"rate must be > 0, got {rate}")
        with np.errstate(over="ignore"):
            u = self._unit(math.prod(sizes), np.dtype(np.float64))
            return _exponential(u, dtype, rate).reshape(sizes)

    def bernoulli(self, p: float, shape: int | Sequence[int]) -> np.ndarray:
        """True with probability p, as torch's `bernoulli_` on a CPU without Intel's MKL:
        `(raw64 & (2^53 - 1)) * 2^-53 < p`."""
        sizes, p = _shape(shape), _real(p, "p")
        if not 0 <= p <= 1:
            raise ValueError(f"p must be in [0, 1], got {p}")
        drawn = self._raw64(math.prod(sizes)) & np.uint64(2**53 - 1)
        return (drawn < np.uint64(math.ceil(p * 2.0**53))).reshape(sizes)

    def randint(self, low: int, high: int, shape: int | Sequence[int]) -> np.ndarray:
        """int64 in [low, high): `raw % span + low` for span = high - low below 2^28, else with
        raw64 for raw."""
        sizes, low, high = _shape(shape), _integer(low, "low"), _integer(high, "high")
        if not -(2**63) <= low < high < 2**63:
            raise ValueError(
                f"randint needs low < high, both in [-2^63, 2^63), got {low} and {high}"
            )
        n, span = math.prod(sizes), high - low
        if span < 2**28:
            drawn = np.remainder(self._raw(n), span, dtype=np.int64)
            if low:
                drawn += low
            return drawn if len(sizes) == 1 else drawn.reshape(sizes)
        drawn = self._raw64(n) % np.uint64(span) + np.uint64(low % 2**64)
        return drawn.view(np.int64).reshape(sizes)

    def random_int64(self) -> int:
        """torch's `random_()` of one int64, which its data loader draws for seeds.

        It is `raw64 & (2^63 - 1)`.
        """
        return int(self._raw64(1)[0]) % 2**63

    def randperm(self, n: int) -> np.ndarray:
        """A permutation of 0 .. n-1 as int64.

        For i in 0 .. n-2: swap p[i] and p[i + raw % (n - i)].
        """
        n = _integer(n, "n")
        if not 0 <= n < 214748364:
            raise ValueError(f"randperm needs 0 <= n < 214748364, got {n}")
        steps = self._raw(max(n - 1, 0)) % np.arange(n, 1, -1, dtype=np.uint32)
        p = list(range(n))
        for i, step in enumerate(steps.tolist()):
            j = i + step
            p[i], p[j] = p[j], p[i]
        return np.array(p, np.int64)

    def multinomial(
        self,
        probs: np.ndarray,
        num_samples: int,
        replacement: bool = False,
        rule: str = "current",
        among: Among | None = None,
    ) -> np.ndarray:
        """Indices in proportion to probs, int64: (..., categories) -> (..., num_samples), one
        leading axis or none.

        race: q = exponential of probs' shape; the indices of the largest `probs / q`, largest
        first. cdf: `cumsum(probs) / sum(probs)` in probs' dtype; the first index with cdf >= u, u a
        double from one raw64.

        rule="current" (torch 2.13): race for one sample or without replacement, else cdf.
        rule="2022" (torch 1.12 and 1.13, the published notebooks): race without replacement, else
        cdf. More samples without replacement than nonzero probabilities are an error here, as
        torch's documentation asks; torch itself goes on to draw impossible categories.

        among=(rows, n) says that probs are those of the rows `rows` of n. The stream goes on as if
        all n were drawn.
        """
        p, k = np.asarray(probs), _integer(num_samples, "num_samples")
        if rule not in ("current", "2022"):
            raise ValueError(f'rule must be "current" or "2022", got {rule!r}')
        _check_probabilities(p, k, replacement)
        rows = p.reshape(-1, p.shape[-1])
        with np.errstate(over="ignore", divide="ignore"):
            if not replacement or (k == 1 and rule == "current"):
                u = self._unit_rows(rows.shape, among)
                if k == 1:
                    drawn = _winner(rows, u)
                else:
                    drawn = np.argsort(-rows / _exponential(u, p.dtype), kind="stable")[:, :k]
            else:
                cdf = np.cumsum(rows, 1)
                if not np.isfinite(cdf[:, -1]).all():
                    raise ValueError(
                        f"the sum of probs must be finite in {p.dtype}: scale them down"
                    )
                cdf /= cdf[:, -1:].copy()
                u = self._unit_rows((len(rows), k), among)
                drawn = np.array([np.searchsorted(*row) for row in zip(cdf, u, strict=True)])
        return drawn.reshape(*p.shape[:-1], k).astype(np.int64)

    def _words(self, n: int) -> np.ndarray:
        return self._twister.random_raw(n).astype(np.uint32)

    def _raw(self, n: int) -> np.ndarray:
        """The next n raws, to be read only. Whole blocks are made, so the twister's key is the
        current block's."""
        with self._lock:
            start, stop = self._used, self._used + n
            missing = stop - self._ahead.size
            if missing <= 0:
                self._used = stop
                return self._ahead[start:stop]
            rest = self._ahead[start:]
            fresh = self._words(-(-missing // _BLOCK) * _BLOCK)
            self._ahead, self._used = fresh[missing:].copy(), 0
            return np.concatenate([rest, fresh[:missing]])

    def _raw64(self, n: int) -> np.ndarray:
        raw = self._raw(2 * n).astype(np.uint64)
        return (raw[0::2] << 32) | raw[1::2]

    def _unit(self, n: int, dtype: np.dtype) -> np.ndarray:
        if dtype == np.float32:
            return (self._raw(n) & (2**24 - 1)).astype(np.float32) * 2.0**-24
        return _double(self._raw(2 * n))

    def _unit_rows(self, shape: tuple[int, int], among: Among | None) -> np.ndarray:
        """Doubles in [0, 1), a row for each row of probabilities: see `multinomial`."""
        if among is None:
            return _double(self._raw(2 * shape[0] * shape[1]).reshape(shape[0], -1))
        rows, n = among
        if len(rows) != shape[0] or not ((rows >= 0) & (rows < n)).all():
            raise ValueError(f"among must number {shape[0]} rows out of n, got {rows} and n = {n}")
        return _double(self._raw(2 * n * shape[1]).reshape(n, -1).take(rows, axis=0))

    def _scalar_normal(self) -> float:
        if self._kept is not None:
            z, self._kept = self._kept, None
            return z
        u1, u2 = self._unit(2, np.dtype(np.float64)).tolist()
        r, t = math.sqrt(-2 * math.log1p(-u2)), 2 * math.pi * u1
        self._kept = r * math.sin(t)
        return r * math.cos(t)


def _in_state(state: np.ndarray) -> TorchGenerator:
    generator = TorchGenerator()
    generator.set_state(state)
    return generator


def linear_init(
    generator: Generator, fan_in: int, fan_out: int, bias: bool = True, dtype: Any = np.float32
) -> tuple[np.ndarray, np.ndarray | None]:
    """What `torch.nn.Linear(fan_in, fan_out, bias)` starts with: weight (fan_in, fan_out), bias
    (fan_out,) or None.

    Both are uniform in +-1/sqrt(fan_in); the weight's bound is computed as He et al. (2015) have
    it, with a = sqrt(5): `sqrt(3) (sqrt(2 / (1 + a^2)) / sqrt(fan_in))`. Drawn first, as torch's
    (fan_out, fan_in), and transposed.
    """
    fan_in, fan_out = _integer(fan_in, "fan_in"), _integer(fan_out, "fan_out")
    if fan_in < 1 or fan_out < 1:
        raise ValueError(f"fan_in and fan_out must be at least 1, got {fan_in} and {fan_out}")
    bound = math.sqrt(3.0) * (math.sqrt(2.0 / (1 + math.sqrt(5) ** 2)) / math.sqrt(fan_in))
    weight = np.ascontiguousarray(generator.uniform(-bound, bound, (fan_out, fan_in), dtype).T)
    bound = 1 / math.sqrt(fan_in)
    return weight, generator.uniform(-bound, bound, (fan_out,), dtype) if bias else None


def _double(raw: np.ndarray) -> np.ndarray:
    """The lower 53 bits of each raw64, times 2^-53: (..., 2 n) raws -> (..., n). Its two parts add
    up exactly."""
    u = (raw[..., 0::2] & _UPPER_BITS) * _UPPER
    u += raw[..., 1::2] * _LOWER
    return u


def _exponential(u: np.ndarray, dtype: np.dtype, rate: float = 1.0) -> np.ndarray:
    return (-1.0 / rate * libm(math.log1p, -u)).astype(dtype)


def _winner(p: np.ndarray, u: np.ndarray) -> np.ndarray:
    """The index of the largest key p / q of each row, q the exponential from u: (N, V) -> (N,).
    NumPy's logarithm, many times as fast as the C library's, says which; the latter is asked where
    a second key is as near as rounding."""
    key = p / -np.log1p(-u).astype(p.dtype)
    first = key.argmax(1)
    near = key >= (key[np.arange(len(key)), first] * (1 - 1e-6))[:, None]
    if np.count_nonzero(near) > len(key):
        close = np.count_nonzero(near, 1) > 1
        key[close] = p[close] / _exponential(u[close], p.dtype)
        first = key.argmax(1)
    return first


def _box_muller(u: np.ndarray) -> np.ndarray:
    """Uniforms in blocks of 16 -> normals, see `TorchGenerator.normal`. (16 n,) -> (16 n,)"""
    block = u.reshape(-1, 16)
    u1, t = 1 - block[:, :8], block[:, 8:] * (2 * math.pi)
    if u.dtype == np.float32:
        log, (sin, cos) = log32(u1), sincos32(t)
    else:
        log, sin, cos = libm(math.log, u1), libm(math.sin, t), libm(math.cos, t)
    r = np.sqrt(-2 * log)
    out = np.empty_like(block)
    np.multiply(r, cos, out=out[:, :8])
    np.multiply(r, sin, out=out[:, 8:])
    return out.reshape(-1)


def _check_probabilities(p: np.ndarray, k: int, replacement: bool) -> None:
    if (
        p.dtype not in (np.float32, np.float64)
        or p.ndim not in (1, 2)
        or not 0 < p.shape[-1] <= 2**24
    ):
        raise ValueError(
            "probs must be float32 or float64, ([rows,] 1 to 2^24 categories), "
            f"got {p.dtype} {p.shape}"
        )
    if k < 1:
        raise ValueError(f"num_samples must be at least 1, got {k}")
    smallest, largest = (p.item(p.argmin()), p.item(p.argmax())) if p.size else (1, 1)
    if not (smallest >= 0 and largest < np.inf):
        raise ValueError("probs must be finite and not negative")
    several = p.size > p.shape[-1]
    if largest == 0 or (several and np.count_nonzero(p.any(-1)) * p.shape[-1] < p.size):
        raise ValueError("probs must have a positive sum, in every row")
    if not replacement and k > 1 and k > np.count_nonzero(p, -1).min(initial=p.shape[-1]):
        raise ValueError(
            f"{k} samples without replacement need {k} nonzero probabilities, in every row"
        )


def _integer(value: Any, name: str) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    return int(value)


def _real(value: Any, name: str) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise ValueError(f"{name} must be a number, got {value!r}")
    return float(value)


def _shape(*sizes: Any) -> tuple[int, ...]:
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    shape = tuple([_integer(size, "a size") for size in sizes])
    if shape and min(shape) < 0:
        raise ValueError(f"the sizes of a shape must not be negative, got {shape}")
    return shape


def _dtype(dtype: Any) -> np.dtype:
    try:
        found = np.dtype(object if dtype is None else dtype)
    except TypeError:
        found = np.dtype(object)
    if found not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")
    return found
