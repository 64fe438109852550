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
} | SIZES
# Batch norm needs two rows.
WINDOWS = {"lead": ((4,), (2,), (3,), (7,)), "block_size": (3, 1, 2, 4)} | SIZES
# Layer norm maps any two channels to -1 and 1: nothing but rounding would be left
# to compare below it.
MORE: dict[str, dict[str, tuple]] = {
    "wavenet": {"block_size": (4, 2, 8)},
    "mlp_deep": {"n_layer": (2, 1, 3)},
    "transformer": {
        "C": (3, 4),
        "n_layer": (1, 2),
        "n_head": (2, 1, 3),
        "tie_weights": (False, True),
    },
    "microgpt": {"n_layer": (1, 2), "n_head": (2, 1, 3)},
}


def draw(
    d, kind, lead, block_size, C, H, V, T=None, lengths="equal", ignored=0.0, n_head=1, **options
):
    """ids, targets (with some -1 if `ignored`, and nothing else behind a sequence that has ended),
    parameters; C is the width of one head."""
    sizes = {"n_embd": C * n_head, "n_embd2": H, "n_head": n_head, **options}
    read = {name: size for name, size in sizes.items() if name in BUILDERS[kind].reads}
    config = Config(V, block_size, dtype="float64", **read)
    ids = d.indices(V, (*lead, T or block_size))
    if T is None:
        ids[:2, 0] = 0, 1  # equal rows have no variance, and mlp_running has no eps
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
    """The loss of a model with these parameters, and the model for `backward`."""
    model = build(kind, replace(config, dtype=params[0].dtype.name), TorchGenerator(0))
    model.data[...] = np.concatenate([p.ravel() for p in params])
    return model.loss_and_grad(ids, targets), (model, ids, targets)


def backward(dloss, cache):
    model, ids, targets = cache
    model.loss_and_grad(ids, targets, dloss)
    return tuple(gradient.copy() for gradient in model.gradients().values())


def oracle(ids, targets, *params, kind, config):
    names = build(kind, config, TorchGenerator(0)).parameters()
    z = reference.logits(kind, config, dict(zip(names, params, strict=True)), ids)
    return reference.cross_entropy(z, targets)


def model_case(kind):
    """The case of one model; its name is models.KIND, for an operation may have the same."""
    choices = (WINDOWS if BUILDERS[kind].windowed else SEQUENCES) | MORE.get(kind, {})
    return Case(
        f"models.{kind}",
        partial(draw, kind=kind),
        choices | {"values": ("normal",), "scale": (1.0, 0.3)},
        batched=("ids", "targets"),
        separable=False,
        forward=partial(forward, kind=kind),
        backward=backward,
        oracle=partial(oracle, kind=kind),
    )


MODEL_CASES = {f"models.{kind}": model_case(kind) for kind in BUILDERS}
