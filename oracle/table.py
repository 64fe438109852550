"""The notebook's table: every hand-written gradient of `npnet.chunked` beside autograd's, for one
minibatch."""

from dataclasses import replace

import numpy as np

from npnet import chunked
from npnet.data import NAMES, Vocabulary, build_dataset, read_words, split
from npnet.random import TorchGenerator
from oracle import chunked as reference
from oracle.proof.autograd import rounding_scale
from oracle.proof.compare import Result, compare

LEGEND = {
    "en": """
loss {loss:.4f}; {right} of {total} gradients are right.
exact, largest difference: against autograd in float32, bit for bit and in numbers.
approximate: the error against autograd in float64 is within its bound
(last column: error / bound, in roundings).""",
    "ko": """
손실 {loss:.4f}; 기울기 {total}개 중 {right}개가 맞습니다.
실제값, 최대차이값: float32 autograd와 비트까지 같은지, 그리고 그 차이.
추정값: float64 autograd에 대한 오차가 한계 안에 있는지. 마지막 열: 오차 / 한계 (반올림 단위).""",
}

HEADINGS = {
    "en": ("exact", "approximate", "largest difference"),
    "ko": ("실제값", "추정값", "최대차이값"),
}


def minibatch(path=NAMES, seed=2147483647, batch_size=32, n_embd2=64, with_b1=False):
    """The notebook's parameters and first minibatch, from one generator -> params, x (batch_size,
    3), y."""
    words = read_words(path)
    vocabulary = Vocabulary(words)
    x, y = build_dataset(split(words)[0], vocabulary)
    generator = TorchGenerator(seed)
    params = chunked.init_params(generator, len(vocabulary), n_embd2=n_embd2, with_b1=with_b1)
    ix = generator.randint(0, len(x), (batch_size,))
    return params, x[ix], y[ix]


def against_autograd(params, x, y, values, gradients, dloss=1.0, context="") -> dict[str, Result]:
    """Compare what `chunked.forward` and `chunked.backward` returned with float64 autograd ->
    Result by name.

    The reference is the whole network's, so an error has come through every step up to there, and
    so has M, which `rounding_scale` measures by independent errors. Examples that repeat have equal
    ones, which in a sum of K add up to sqrt(K) times as much: K, the length of the network's
    longest sum, is squared, and the limit for q is 4 K.
    """
    names: list[str] = []

    def evaluate(*tensors):
        *leaves, ids, targets = tensors
        found = reference.evaluate(dict(zip(params, leaves, strict=True)), ids, targets, dloss)
        names[:] = found
        return list(found.values())

    expected, scales = rounding_scale(evaluate, [*params.values(), x, y])
    scale = dict(zip(names, scales, strict=True))
    dtype = params["C"].dtype
    # M is of first order. In a constant column of hprebn bndiff is nothing but its error e, and
    # bndiff2 wrong by e^2, which reaches the variance and its inverse root.
    second_order = 16 * np.finfo(dtype).eps / 2 * scale["bndiff"] ** 2
    of_variance = second_order.sum(0, keepdims=True) / (len(x) - 1)
    scale["bndiff2"] += second_order
    scale["bnvar"] += of_variance
    scale["bnvar_inv"] += of_variance * expected[names.index("bnvar_inv")] ** 3 / 2
    got = values | gradients
    details = {
        "terms": max(x.size, *params["w1"].shape, *params["w2"].shape) ** 2,
        "upstream": abs(dloss),
        "dtype": dtype,
        "context": context,
    }
    return {
        name: compare(got.get(name), value, scale[name], name=name, **details)
        for name, value in zip(names, expected, strict=True)
    }


def table(params, x, y, language="en") -> tuple[str, bool]:
    """The printed comparison for one minibatch in float32, and whether all of it is right."""
    values = chunked.forward(params, x, y)
    gradients = chunked.backward(params, values)
    results = against_autograd(params, x, y, values, gradients)
    autograd = reference.gradients(params, x, y)
    rows = []
    for name, gradient in gradients.items():
        result = replace(
            results[name],
            name=name.removeprefix("d"),
            exact=np.array_equal(gradient, autograd[name]),
        )
        if gradient.shape == autograd[name].shape:
            result = replace(result, error=float(np.abs(gradient - autograd[name]).max()))
        rows.append(row(result, language))
    right = sum(results[name].ok for name in gradients)
    legend = LEGEND[language].format(loss=values["loss"], right=right, total=len(gradients))
    problems = [result.message for result in results.values() if not result.ok]
    return "\n".join([*rows, legend, *problems]), not problems


def row(result: Result, language: str = "en", width: int = 24) -> str:
    """One line: name, shape, exactly and approximately equal, largest difference, units of rounding
    / allowed."""
    exact, approximate, difference = HEADINGS[language]
    return (
        f"{result.name:{width}} {result.shape!s:>14}  {exact}: {result.exact!s:5} | "
        f"{approximate}: {result.ok!s:5} | "
        f"{difference}: {result.error:.2e} | {result.q:.2f} / {result.limit:.0f}"
    )
