"""What an examination is about, one example as arrays, and what it can find."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.proof.compare import Result
from oracle.proof.draw import Arrays

WRONG_VALUE = "wrong value"
WRONG_SHAPE = "wrong shape"
WRONG_FORWARD = "wrong forward"
OVERFLOW = "overflow"
PRECISION = "precision"
DTYPE = "dtype"
ALIASING = "aliasing"
WRITES = "writes into its inputs"
STATE = "state"
RANDOM = "random"
CRASH = "crash"
KINDS = (
    WRONG_VALUE, WRONG_SHAPE, WRONG_FORWARD, OVERFLOW, PRECISION, DTYPE, ALIASING, WRITES, STATE,
    RANDOM, CRASH,
)  # fmt: skip
# What says that a gradient's numbers are wrong, so that no further comparison of them is needed.
FORMULA = {WRONG_VALUE, WRONG_SHAPE, OVERFLOW, PRECISION}


@dataclass(frozen=True)
class Finding:
    """One thing that is not right with `name`, "y" or "dx" or a function, in one example."""

    name: str
    kind: str
    sentence: str
    culprit: str
    result: Result | None = None
    got: Any = None

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.kind


@dataclass
class Problem:
    """One example as arrays: read-only inputs as the subject gets them, in one dtype.

    batched    the inputs with a batch axis in front, and "y" where the result has one
    batch      its length; below 2 there is nothing to permute or to halve
    separable  whether the gradients of two halves of a batch add up to those of the whole
    strict     whether overflow and division by zero are errors, however the result looks
    """

    inputs: Arrays
    dys: tuple[np.ndarray, ...]
    options: Mapping[str, Any]
    dtype: np.dtype
    rng: np.random.Generator
    batched: tuple[str, ...] = ()
    batch: int = 0
    separable: bool = False
    strict: bool = False
