"""The table: every operation of npnet with how to draw an example of it.

An example is a flat dictionary of plain values, seed and sizes and options, from which `Case.draw`
makes the arrays; so a printed example reproduces a failure. `oracle.prove` puts it to the judge.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from npnet import ops
from npnet.random import TorchGenerator
from oracle import ops as torch_ops
from oracle.proof.draw import COMMON, Draw

# Mostly small, so that an example is quick; the large ones are for what goes wrong from some size
# on. Where M is measured, hundreds of equal terms with errors in common would need more runs; there
# the large sizes are edges.
SMALL = (3, 1, 2, 4, 5, 7)
SIZE = (*SMALL, 33)
LEAD = ((4,), (), (1,), (2,), (3,), (7,), (2, 3), (3, 1), (1, 4), (2, 1, 3), (70,))
EPS = (None, 1e-5, 1e-3, 0.5)  # None: the default of the operation


@dataclass(frozen=True)
class Case:
    """One operation: `draw(draws, **choices)` gives its inputs by name, in argument order, and its
    options.

    batched    the inputs with a batch axis in front, and "y" if the result has one; empty: the
               batch has an order (a backward's `out` is for the gradients of all the others)
    separable  whether the gradients of two halves of a batch add up to those of the whole
    """

    name: str
    draw: Callable[..., tuple[dict[str, np.ndarray], dict[str, Any]]]
    choices: dict[str, tuple]
    batched: tuple[str, ...] = ("x", "y")
    separable: bool = True
    forward: Callable = field(default=None, repr=False)  # type: ignore[assignment]
    backward: Callable = field(default=None, repr=False)  # type: ignore[assignment]
    oracle: Callable = field(default=None, repr=False)  # type: ignore[assignment]

    def __post_init__(self):
        for role, module, name in (
            ("forward", ops, ""),
            ("backward", ops, "_backward"),
            ("oracle", torch_ops, ""),
        ):
            if getattr(self, role) is None:
                object.__setattr__(self, role, getattr(module, self.name + name))

    @functools.cached_property
    def all_choices(self) -> dict[str, tuple]:
        return self.choices | {
            name: options for name, options in COMMON.items() if name not in self.choices
        }

    def example(self, rng: np.random.Generator) -> dict[str, Any]:
        """A random example."""
        drawn = {
            name: options[rng.integers(len(options))] for name, options in self.all_choices.items()
        }
        return {"seed": int(rng.integers(2**32)), **drawn}

    def plain(self, **chosen: Any) -> dict[str, Any]:
        """The plainest example but for what is chosen: how an edge is written down."""
        return {
            "seed": 0,
            **{name: options[0] for name, options in self.all_choices.items()},
            **chosen,
        }

    def strategy(self):
        """hypothesis' way to draw an example."""
        from hypothesis import strategies as st

        drawn = {name: st.sampled_from(options) for name, options in self.all_choices.items()}
        return st.fixed_dictionaries({"seed": st.integers(0, 2**32 - 1), **drawn})


# The table. A draw gives the inputs, in argument order, and the options.


def given(**options: Any) -> dict[str, Any]:
    """Options that are not left to their defaults."""
    return {name: value for name, value in options.items() if value is not None}


def draw_embedding(d: Draw, lead, V, C):
    return {"ids": d.indices(V, lead), "table": d.normal(V, C)}, {}


def draw_linear(d: Draw, lead, C, H, bias):
    inputs = {"x": d.x(*lead, C), "w": d.normal(C, H)}
    return inputs | ({"b": d.normal(H)} if bias else {}), {}


def draw_embedding_linear(d: Draw, lead, V, K, C, H):
    return {
        "ids": d.indices(V, (*lead, K)),
        "table": d.normal(V, C),
        "w": d.normal(K * C, H),
        "b": d.normal(H),
    }, {}


def draw_x(d: Draw, lead, C, **options):
    return {"x": d.x(*lead, C)}, given(**options)


def draw_dropout(d: Draw, lead, C, p):
    return {"x": d.x(*lead, C)}, {"p": p, "seed": int(d.rng.integers(2**32))}


def draw_cross_entropy(d: Draw, lead, V, ignored, ignore_index):
    ignore_index = None if ignore_index == 0 and V == 1 else ignore_index
    ignore = -1 if ignore_index is None else ignore_index
    targets = np.asarray(d.indices(V, lead)).reshape(-1)
    if ignored != "none":
        targets[d.rng.random(targets.shape) < (0.5 if ignored == "some" else 1)] = ignore
    if np.all(targets == ignore):
        targets[d.rng.integers(targets.size)] = V - 1
    return {"logits": d.x(*lead, V), "targets": targets.reshape(lead)}, given(
        ignore_index=ignore_index
    )


def draw_cross_entropy_rows(d: Draw, lead, R, V, ignored, ignore_index):
    """Several targets a row, and rows without any."""
    inputs, options = draw_cross_entropy(d, lead, V, ignored, ignore_index)
    targets = inputs["targets"].ravel()
    return {"logits": d.x(R, V), "targets": targets, "rows": d.indices(R, targets.shape)}, options


def draw_norm(d: Draw, lead, C, **options):
    return {"x": d.x(*lead, C), "gain": d.normal(C), "bias": d.normal(C)}, given(**options)


def draw_batch_norm_inference(d: Draw, lead, C, eps):
    inputs, options = draw_norm(d, lead, C, eps=eps)
    return inputs | {"mean": d.normal(C), "var": d.normal(C) ** 2}, options


def draw_rms_norm(d: Draw, lead, C, gain, eps):
    return {"x": d.x(*lead, C)} | ({"gain": d.normal(C)} if gain else {}), given(eps=eps)


def draw_layer_norm(d: Draw, lead, C, bias, eps):
    inputs, options = draw_norm(d, lead, C, eps=eps)
    return inputs if bias else {name: inputs[name] for name in ("x", "gain")}, options


def draw_attention(d: Draw, lead, T, n_head, D, slope=None, **options):
    """`slope` is the option `scale`, whose name is taken by that of the values."""
    return {"qkv": d.x(*lead, T, 3 * n_head * D)}, given(n_head=n_head, scale=slope, **options)


def draw_attention_dropout(d: Draw, lead, T, n_head, D, **options):
    inputs, options = draw_attention(d, lead, T, n_head, D, **options)
    return inputs, options | {"seed": int(d.rng.integers(2**32))}


def draw_sizes(d: Draw, lead, T, lengths):
    """How many of the packed sequences are alive at each step: of any lengths up to T, or of one
    length, or with a common row at step 0."""
    (B,) = lead
    drawn = np.full(B, T) if lengths == "equal" else d.rng.integers(1, T + 1, B)
    drawn[0] = T
    sizes = [int(np.count_nonzero(drawn > t)) for t in range(T)]
    return [1, *sizes[1:]] if lengths == "common start" else sizes


def draw_recurrent(d: Draw, lead, T, H, lengths, gates, states):
    sizes = draw_sizes(d, lead, T, lengths)
    initial = {name: d.normal(H) for name in states}
    return {"a": d.x(sum(sizes), gates * H), **initial, "w": d.normal(H, gates * H)}, {
        "sizes": sizes
    }


def draw_causal_mean(d: Draw, lead, T, C, lengths):
    sizes = draw_sizes(d, lead, T, lengths)
    return {"x": d.x(sum(sizes), C)}, {"sizes": sizes}


def draw_joined(d: Draw, lead, T, C, n):
    return {"x": d.x(*lead, T * n, C)}, {"n": n}


def recurrent(name: str, gates: int, states: tuple[str, ...] = ("h0",)) -> Case:
    draw = functools.partial(draw_recurrent, gates=gates, states=states)
    return Case(name, draw, PACKED | {"T": (3, 1, 2, 4), "H": SMALL}, batched=())


ROWS = {"lead": LEAD, "C": SIZE}
BATCHES = ((4,), (2,), (3,), (7,), (2, 3), (3, 1, 2), (1, 4), (70,))  # at least two rows
PACKED = {"lead": ((3,), (1,), (2,), (4,), (7,)), "lengths": ("any", "common start", "equal")}
SEQUENCES = ((3,), (), (1,), (4,), (2, 3))
HEADS: dict[str, tuple] = {"lead": SEQUENCES, "T": SMALL, "n_head": (2, 1, 3), "D": (3, 1, 2, 4)}
HEADS |= {"block": (None, 2, 1, 3)}  # None: longer than the sequence

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "embedding",
            draw_embedding,
            {"lead": LEAD, "V": (3, 1, 2, 5, 7, 600), "C": SIZE},
            batched=("ids", "y"),
        ),
        Case(
            "linear", draw_linear, {"lead": LEAD, "C": SIZE, "H": SIZE, "bias": (True, True, False)}
        ),
        Case(
            "embedding_linear",
            draw_embedding_linear,
            {"lead": LEAD, "V": (3, 1, 2, 5, 7, 600), "K": (2, 1, 3), "C": SIZE, "H": SIZE},
            batched=("ids", "y"),
        ),
        Case("tanh", draw_x, ROWS),
        Case("relu", draw_x, ROWS),
        Case("sigmoid", draw_x, ROWS),
        Case("gelu", draw_x, ROWS | {"approximate": (None, "tanh", "none")}),
        Case("softmax", draw_x, ROWS),
        Case(
            "dropout",
            draw_dropout,
            ROWS | {"p": (0.5, 0.0, 0.1, 0.9)},
            batched=(),
            forward=lambda x, p, seed: ops.dropout(x, p, TorchGenerator(seed)),
            oracle=lambda x, p, seed: torch_ops.dropout(x, p, torch.Generator().manual_seed(seed)),
        ),
        Case(
            "cross_entropy",
            draw_cross_entropy,
            {
                "lead": LEAD,
                "V": SIZE,
                "ignored": ("none", "some", "all but one"),
                "ignore_index": (None, -100, 0),
            },
            batched=("logits", "targets"),
            separable=False,
        ),
        Case(
            "cross_entropy_rows",
            draw_cross_entropy_rows,
            {
                "lead": LEAD,
                "R": SIZE,
                "V": SIZE,
                "ignored": ("none", "some", "all but one"),
                "ignore_index": (None, -100, 0),
            },
            batched=(),
            separable=False,
            forward=lambda logits, targets, rows, **options: ops.cross_entropy(
                logits, targets, rows=rows, **options
            ),
            backward=ops.cross_entropy_backward,
        ),
        Case(
            "batch_norm",
            draw_norm,
            {"lead": BATCHES, "C": SIZE, "eps": EPS, "unbiased": (None, True, False)},
            separable=False,
        ),
        Case("batch_norm_inference", draw_batch_norm_inference, ROWS | {"eps": EPS}),
        Case("layer_norm", draw_layer_norm, ROWS | {"bias": (True, True, False), "eps": EPS}),
        Case("rms_norm", draw_rms_norm, ROWS | {"gain": (True, False), "eps": EPS}),
        Case(
            "causal_attention",
            draw_attention,
            HEADS | {"slope": (None, None, 0.3, 1.0)},
            batched=("qkv", "y"),
        ),
        Case(
            "causal_attention_dropout",
            draw_attention_dropout,
            HEADS | {"p": (0.5, 0.1, 0.9)},
            batched=(),
            forward=lambda qkv, n_head, p, seed, block=None: ops.causal_attention(
                qkv, n_head, None, p, TorchGenerator(seed), block
            ),
            backward=ops.causal_attention_backward,
            oracle=lambda qkv, n_head, p, seed, block=None: torch_ops.causal_attention_dropout(
                qkv, n_head, p, torch.Generator().manual_seed(seed)
            ),
        ),
        recurrent("rnn", 1),
        recurrent("gru", 3),
        recurrent("lstm", 4, ("h0", "c0")),
        Case("causal_mean", draw_causal_mean, PACKED | {"T": SIZE, "C": SIZE}, batched=()),
        Case(
            "flatten_consecutive",
            draw_joined,
            {"lead": SEQUENCES, "T": SIZE, "C": SIZE, "n": (2, 1, 3)},
        ),
    )
}

# What hypothesis may not draw often enough: the same property at the places where backward passes
# break.
EDGES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("embedding", "one index fills the batch", {"values": "constant", "lead": (7,), "V": 5}),
    ("embedding", "a vocabulary of one", {"lead": (2, 3), "V": 1}),
    ("embedding", "a large table, a small batch", {"lead": (3,), "V": 600}),
    ("linear", "one row", {"lead": (1,)}),
    ("linear", "an outer product of one", {"lead": (3,), "C": 1, "H": 1}),
    ("embedding_linear", "more positions than rows", {"lead": (70,), "V": 3, "C": 5}),
    ("embedding_linear", "fewer positions than rows", {"lead": (3,), "V": 600}),
    ("embedding_linear", "one row for all", {"lead": (7,), "V": 1}),
    ("tanh", "saturated", {"values": "extreme", "upstream": 1e4}),
    ("tanh", "nearly saturated", {"scale": 1e1}),
    ("relu", "ties at zero", {"values": "ties", "lead": (7,), "C": 7}),
    ("sigmoid", "saturated", {"values": "extreme", "upstream": 1e4}),
    ("sigmoid", "nearly saturated", {"scale": 1e2}),
    ("gelu", "saturated", {"values": "extreme"}),
    ("gelu", "saturated, exact", {"values": "extreme", "approximate": "none"}),
    ("softmax", "ties at the maximum", {"values": "ties", "lead": (7,), "C": 5}),
    ("softmax", "logits of +-1e3", {"values": "extreme", "C": 5}),
    ("softmax", "one class", {"C": 1}),
    ("cross_entropy", "ties at the maximum", {"values": "ties", "lead": (7,), "V": 5}),
    ("cross_entropy", "logits of +-1e3", {"values": "extreme", "lead": (7,), "V": 5}),
    ("cross_entropy", "one class", {"V": 1}),
    ("cross_entropy", "one target that counts", {"lead": (2, 3), "V": 5, "ignored": "all but one"}),
    ("cross_entropy", "one position", {"lead": (1,), "V": 5}),
    ("cross_entropy_rows", "one row for all", {"lead": (7,), "R": 1, "V": 5}),
    ("cross_entropy_rows", "more rows than targets", {"lead": (3,), "R": 33, "V": 5}),
    ("cross_entropy_rows", "some ignored", {"lead": (70,), "V": 5, "ignored": "some"}),
    ("batch_norm", "two rows", {"lead": (2,)}),
    ("batch_norm", "two rows with ties", {"lead": (2,), "values": "ties", "C": 7}),
    ("batch_norm", "a constant column", {"values": "constant", "lead": (7,)}),
    ("batch_norm", "a large constant column", {"values": "constant", "lead": (3,), "scale": 1e4}),
    ("batch_norm", "small values, where eps counts", {"scale": 1e-2, "unbiased": False}),
    ("batch_norm_inference", "small values, where eps counts", {"scale": 1e-2}),
    ("layer_norm", "a constant row", {"values": "constant", "lead": (7,), "C": 5}),
    ("layer_norm", "one channel", {"C": 1}),
    ("layer_norm", "no bias", {"bias": False, "lead": (7,), "C": 5}),
    ("layer_norm", "small values, where eps counts", {"scale": 1e-2}),
    ("rms_norm", "a constant row", {"values": "constant", "C": 5}),
    ("rms_norm", "one channel", {"C": 1, "values": "ties"}),
    ("rms_norm", "small values, where eps counts", {"scale": 1e-2}),
    ("causal_attention", "one position", {"T": 1}),
    ("causal_attention", "one channel a head", {"D": 1, "n_head": 3, "T": 5}),
    ("causal_attention", "ties", {"values": "ties", "T": 7}),
    ("causal_attention", "scores beyond exp", {"scale": 1e2, "T": 5}),
    ("causal_attention", "scores beyond exp in float32 alone", {"scale": 1e1, "T": 5}),
    ("causal_attention", "long, with wide heads", {"lead": (2,), "T": 33, "D": 17}),
    ("causal_attention", "long, in blocks", {"lead": (2,), "T": 33, "D": 4, "block": 8}),
    ("causal_attention", "large scores, in blocks", {"scale": 1e1, "T": 7, "block": 3}),
    ("causal_attention_dropout", "one position", {"T": 1}),
    (
        "causal_attention_dropout",
        "scores beyond exp, in blocks",
        {"scale": 1e2, "T": 5, "block": 2},
    ),
    ("rnn", "one step", {"T": 1}),
    ("rnn", "one step of one sequence", {"lead": (1,), "T": 1}),
    ("rnn", "one length", {"lead": (7,), "T": 4, "lengths": "equal"}),
    ("rnn", "a common start", {"lead": (7,), "T": 4, "lengths": "common start"}),
    ("rnn", "long and wide", {"lead": (20,), "T": 19, "H": 20, "scale": 0.1}),
    ("rnn", "saturated", {"values": "extreme"}),
    ("gru", "one step", {"T": 1}),
    ("gru", "one step of one sequence", {"lead": (1,), "T": 1}),
    ("gru", "one length", {"lead": (7,), "T": 4, "lengths": "equal"}),
    ("gru", "a common start", {"lead": (7,), "T": 4, "lengths": "common start"}),
    ("gru", "long and wide", {"lead": (20,), "T": 19, "H": 20, "scale": 0.1}),
    ("gru", "saturated", {"values": "extreme"}),
    ("lstm", "one step", {"T": 1}),
    ("lstm", "one step of one sequence", {"lead": (1,), "T": 1}),
    ("lstm", "one length", {"lead": (7,), "T": 4, "lengths": "equal"}),
    ("lstm", "a common start", {"lead": (7,), "T": 4, "lengths": "common start"}),
    ("lstm", "long and wide", {"lead": (20,), "T": 19, "H": 20, "scale": 0.1}),
    ("lstm", "saturated", {"values": "extreme"}),
    ("causal_mean", "one position", {"T": 1}),
    ("flatten_consecutive", "all of the time at once", {"T": 1, "n": 3}),
)
