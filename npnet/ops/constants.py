"""Arrays that the operations need at every step and that never change: made once for each size, and
read-only."""

import math
import sys
from functools import lru_cache
from typing import Any, cast

import numpy as np

_KEPT_ROWS = 512  # of a unit matrix; a larger one is not worth its memory
_KEPT_STARTS = 4096

# exp(x) is power(NAT * x): with AVX-512 NumPy raises 2 to a power in half the time that e takes, by
# a library of Intel's that it has on Linux alone. Otherwise e is faster. The factor costs nothing
# where x is multiplied by another one anyway. NumPy's description of a build without SIMD lacks the
# entry.
_SIMD = cast(dict[str, Any], np.show_config(mode="dicts")).get("SIMD Extensions", {})
_AVX512 = not {"X86_V4", "AVX512_SKX"}.isdisjoint(_SIMD.get("found", []))
_FAST_EXP2 = _AVX512 and sys.platform == "linux"
power, NAT = (np.exp2, 1 / math.log(2)) if _FAST_EXP2 else (np.exp, 1.0)


@lru_cache(maxsize=512)
def ones(n: int, dtype: np.dtype) -> np.ndarray:
    """(n,): `x @ ones` adds up the columns of x."""
    return _fixed(np.ones(n, dtype))


@lru_cache(maxsize=64)
def number(value: float, dtype: np.dtype) -> np.ndarray:
    """(), for the shortest loops: a Python number is converted again in every call."""
    return _fixed(np.array(value, dtype))


@lru_cache(maxsize=8)
def eye(n: int, dtype: np.dtype) -> np.ndarray:
    """(n, n), whose rows are the one-hot vectors."""
    return _fixed(np.eye(n, dtype=dtype))


@lru_cache(maxsize=64)
def triangles(n_head: int, n: int, dtype: np.dtype) -> np.ndarray:
    """(n_head, n, n), 1 on and below each diagonal: what each position may look at. Every head
    has its own, because NumPy multiplies arrays of equal shapes faster."""
    return _fixed(np.tile(np.tri(n, dtype=dtype), (n_head, 1, 1)))


@lru_cache(maxsize=8)
def _multiples(V: int) -> np.ndarray:
    return _fixed(np.arange(0, _KEPT_STARTS * V, V))


def starts(N: int, V: int) -> np.ndarray:
    """(N,): where each row of an array (N, V) begins, 0, V, 2 V, ..."""
    return _multiples(V)[:N] if N <= _KEPT_STARTS else np.arange(0, N * V, V)


def sum_rows(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """x (N, C) -> (C,): a product with ones, which BLAS adds faster than `x.sum(0)` does."""
    return ones(len(x), x.dtype).dot(x, out)


def one_hot(ids: np.ndarray, V: int, dtype: np.dtype) -> np.ndarray:
    """ids (...) -> (..., V), 1 at the place of each id, else 0."""
    if V <= _KEPT_ROWS:
        return eye(V, dtype).take(ids, axis=0)
    onehot = np.zeros((*ids.shape, V), dtype)
    np.put_along_axis(onehot, ids[..., None], 1, axis=-1)
    return onehot


def _fixed(a: np.ndarray) -> np.ndarray:
    a.flags.writeable = False
    return a
