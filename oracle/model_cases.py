"""The models as cases of the same table: loss and every parameter's gradient, under the one
property of `oracle.cases`.

A model's inputs are its ids, the targets and its parameters by name, all of them random; its
forward gives the loss. A model that is added to npnet.models is a case as soon as `oracle.models`
has it.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from npnet.models import BUILDERS, Config, build
from npnet.random import TorchGenerator
from oracle import models as reference
from oracle.cases import Case

SIZES = {"C": (3, 1, 2, 5), "H": (4, 1, 3, 7), "V": (5, 2, 3, 7)}
SEQUENCES = {
    "lead": ((3,), (1,), (2,), (4,)),
    "T": (3, 1, 2, 4),
    "block_size": (4, 5),
    "lengths": ("equal", "any"),
    "ignored": (0.0, 0.3),
    "common_start": (False, True),
} | SIZES
# Batch norm needs two rows.
WINDOWS = {"lead": ((4,), (2,), (3,), (7,)), "block_size": (3, 1, 2, 4)} | SIZES
# Layer norm maps any two channels to -1 and 1: nothing but rounding would be left to compare below
# it.
MORE: dict[str, dict[str, tuple]] = {
    "wavenet": {"block_size": (4, 2, 8)},
    "mlp_deep": {"n_layer": (2, 1, 3)},
    "transformer": {
        "C": (3, 4),
        "n_layer": (1, 2),
        "n_head": (2, 1, 3),
        "tie_weights": (False, True),
        "style": ("makemore", "lecture", "nanogpt"),
    },
    "microgpt": {"n_layer": (1, 2), "n_head": (2, 1, 3)},
}


def draw(
    d,
    kind,
    lead,
    block_size,
    C,
    H,
    V,
    T=None,
    lengths="equal",
    ignored=0.0,
    common_start=False,
    n_head=1,
    **options,
):
    """ids, targets (with some -1 if `ignored`, and nothing else behind a sequence that has ended),
    parameters; C is the width of one head."""
    sizes = {"n_embd": C * n_head, "n_embd2": H, "n_head": n_head, **options}
    read = {name: size for name, size in sizes.items() if name in BUILDERS[kind].reads}
    config = Config(V, block_size, dtype="float64", **read)
    ids = d.indices(V, (*lead, T or block_size))
    if T is None:
        ids[:2, 0] = 0, 1  # equal rows have no variance, and mlp_running has no eps
    if common_start:
        ids[:, 0] = ids[0, 0]
    targets = d.rng.integers(0, V, lead if T is None else ids.shape)
    masked = d.rng.random(targets.shape) < ignored
    if lengths == "any":
        masked |= np.arange(T) >= d.rng.integers(0, T + 1, lead)[..., None]
    masked.flat[0] = False  # one has to count
    targets[masked] = -1
    params = {
        name: d.normal(*p.shape)
        for name, p in build(kind, config, TorchGenerator(0)).parameters().items()
    }
    return {"ids": ids, "targets": targets, **params}, {"config": config}


def forward(ids, targets, *params, kind, config):
    """The loss of a model with these parameters, and the model for `backward`. What it drops is
    drawn from a generator of seed 0."""
    generator = TorchGenerator(0)
    model = build(kind, replace(config, dtype=params[0].dtype.name), generator)
    model.data[...] = np.concatenate([p.ravel() for p in params])
    generator.manual_seed(0)
    return model.loss_and_grad(ids, targets), (model, ids, targets, generator)


def backward(dloss, cache):
    model, ids, targets, generator = cache
    generator.manual_seed(0)
    model.loss_and_grad(ids, targets, dloss)
    return tuple(gradient.copy() for gradient in model.gradients().values())


def oracle(ids, targets, *params, kind, config):
    names = build(kind, config, TorchGenerator(0)).parameters()
    z = reference.logits(kind, config, dict(zip(names, params, strict=True)), ids)
    return reference.cross_entropy(z, targets)


def model_case(kind, name=None, batched=("ids", "targets"), **more):
    """The case of one model; its name is models.KIND, for an operation may have the same."""
    choices = (WINDOWS if BUILDERS[kind].windowed else SEQUENCES) | MORE.get(kind, {}) | more
    return Case(
        name or f"models.{kind}",
        partial(draw, kind=kind),
        choices | {"values": ("normal",), "scale": (1.0, 0.3)},
        batched=batched,
        separable=False,
        forward=partial(forward, kind=kind),
        backward=backward,
        oracle=partial(oracle, kind=kind),
    )


# Masks are drawn for the whole of a batch, in its order.
DROPOUT = model_case(
    "transformer",
    "models.transformer_dropout",
    batched=(),
    dropout=(0.3, 0.1),
    lengths=("equal",),
    ignored=(0.0,),
)
MODEL_CASES = {f"models.{kind}": model_case(kind) for kind in BUILDERS} | {DROPOUT.name: DROPOUT}
