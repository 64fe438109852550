"""The judge for a backward pass of your own: in a test, in a notebook, in three lines.

    def torch_linear(x, w, b):
        return x @ w + b

    oracle.check_backward(my_linear, my_linear_backward, torch_linear, "(n,i),(i,o),(o)->(n,o)")

hypothesis draws examples, sizes and a seed and kinds of values, and for each the property of
`oracle.proof.examine` has to hold. With a torch expression autograd is the reference; without one
the forward itself is differentiated, by the complex step or, where it is not analytic as it is
written, by central differences with a measured bound.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from oracle.proof import fuzz
from oracle.proof.proof import Proof
from oracle.proof.report import Report
from oracle.proof.subject import Subject


def check_backward(*arguments: Any, **details: Any) -> Report:
    """`judge`, raising an AssertionError that says what is wrong where anything is.

    Its `report` is what `judge` returns.
    """
    __tracebackhide__ = True
    report = judge(*arguments, **details)
    report.raise_if_wrong()
    return report


def judge(
    forward: Callable | Subject,
    backward: Callable | None = None,
    reference: Callable | None = None,
    signature: str = "",
    *,
    ids: Mapping[str | int, Any] | None = None,
    positive: Sequence[str | int] = (),
    between: Mapping[str | int, tuple[float, float]] | None = None,
    wrt: Sequence[str | int] | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    options: Mapping[str, Any] | None = None,
    draw: Mapping[str, Sequence] | None = None,
    allow: Iterable[str] = (),
    max_examples: int | None = None,
    seed: int | None = None,
    dtype: Any = np.float64,
    magnitude: float = 1.0,
    example: dict[str, Any] | None = None,
) -> Report:
    """Whether `backward` gives the gradients of `forward`: a verdict for every gradient.

    forward    (inputs..., **options) -> (y, cache), and backward(dy, cache) -> the gradients; or
               -> y alone, and then backward(dy, inputs..., **options). One gradient for each
               floating input, in order, None for one that nobody wants; or a dictionary by name.
               Without a backward, -> (loss, gradients). Or a `layer` or another style of oracle
    reference  the same expression on torch tensors; without it the forward is differentiated
    signature  the shapes, "(n,i),(i,o),(o)->(n,o)": a letter is a size to be drawn, a number is
               itself, () a scalar, and 3c, c+h, h-k+1 or h//2 a size made of others
    ids        {input: high} or {input: (low, high)} for integer inputs from low to high - 1, each a
               number or a letter; an input goes by its name in the forward or its place from 0
    positive   inputs whose values are to be positive
    between    {input: (low, high)} for values between these two, (0, 1) for probabilities
    wrt        the inputs whose gradients the backward returns, where they are not all floating ones
    sizes      {letter: (low, high)} where 1 to 6 will not do; a letter may be one that only the
               results, `ids` or `options` use
    options    {name: value, or a hypothesis strategy, or a letter, which stands for its size} for
               the forward's keyword arguments
    draw       choices that replace those of oracle.proof.draw.COMMON, {"layout": ["C"]} for code
               that takes contiguous arrays alone, {"values": ["normal"]} for tame numbers
    allow      the kinds of verdict that the project's own policy permits, "view", "dtype", "write"
               or any of oracle.proof.finding.KINDS; the formula is judged anyway
    max_examples, seed   without them hypothesis' current settings decide
    dtype      float64 proves the formula, float32 that it can be computed so; or several
    magnitude  of ordinary values; saturated ones are 1000, or 50 without a torch expression
    example    check this one only, as a failure prints it

    A call that does not fit what it is about is a ValueError, an exception of the judged functions
    a verdict.
    """
    proof = Proof(
        forward,
        backward,
        reference,
        signature,
        ids=ids,
        positive=positive,
        between=between,
        wrt=wrt,
        sizes=sizes,
        options=options,
        draw=draw,
        allow=allow,
        dtype=dtype,
        magnitude=magnitude,
    )
    if max_examples is not None and max_examples < 1:
        raise ValueError(f"max_examples must be positive, got {max_examples}")
    with proof.reference.at_work():
        if example is None:
            fuzz.search_all(proof, max_examples, seed)
        else:
            for failure in proof.failures(example):
                proof.keep(failure)
        return proof.report()
