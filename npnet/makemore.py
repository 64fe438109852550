"""Weights between makemore.py's torch models and npnet's, both ways.

    model = from_makemore(torch.load("out/model.pt"), "transformer")
    state_dict = {name: torch.from_numpy(a) for name, a in to_makemore(model).items()}

torch is left to the caller: here a weight is anything that NumPy can read, such as a tensor on the
CPU.

The names of makemore's entries stand beside npnet's in `_names`. Both ways go through one
dictionary of views of npnet's parameters, in makemore's names and layouts: torch's Linear holds
(fan_out, fan_in), makemore's GRU three of them, its initial state (1, H).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from npnet.checkpoint import fill
from npnet.layers import EmbeddingLinear, Linear
from npnet.model import Config, Model
from npnet.models import build
from npnet.random import TorchGenerator

# makemore's --type -> npnet's model
KINDS = {
    "bigram": "bigram",
    "mlp": "mlp_makemore",
    "rnn": "rnn",
    "gru": "gru",
    "bow": "bow",
    "transformer": "transformer",
}


def from_makemore(
    state_dict: Mapping[str, Any], type: str, *, n_head: int = 4, block_size: int = 16
) -> Model:
    """The npnet Model with the weights of makemore.py's model of that `--type`; its sizes come from
    the shapes.

    The shapes do not show n_head, nor the block_size of the bigram, the RNN and the GRU, on which
    their weights do not depend. The masks that makemore saves with the weights are ignored. An
    entry that is unknown, missing, misshapen or not finite is a ValueError that names it.
    """
    if type not in KINDS:
        raise ValueError(f"unknown type {type!r}; makemore has {', '.join(KINDS)}")
    arrays = {name: _array(name, value) for name, value in state_dict.items()}
    config, sources = _config(KINDS[type], arrays, n_head, block_size)
    model = build(KINDS[type], config, TorchGenerator(0))
    for name in _masks(model):
        arrays.pop(name, None)
    views = _views(model)
    for name in views.keys() & arrays.keys():
        if arrays[name].shape != views[name].shape:
            sizes = ", ".join(f"{source} {arrays[source].shape}" for source in sources)
            raise ValueError(
                f"{name} has shape {arrays[name].shape}, "
                f"expected {views[name].shape} beside {sizes}"
            )
    fill(views, arrays, f"makemore's {type}")
    return model


def to_makemore(model: Model) -> dict[str, np.ndarray]:
    """The entries of a state_dict for makemore.py's model of the same type, complete for
    load_state_dict: the masks are in it. Fresh C-contiguous arrays."""
    if model.kind not in KINDS.values():
        raise ValueError(f"makemore has no {model.kind}; it has {', '.join(KINDS.values())}")
    if model.config.style != "makemore":
        raise ValueError(f"makemore has no Transformer in the style of {model.config.style}")
    arrays = _views(model) | _masks(model)
    return {name: np.array(array, order="C") for name, array in arrays.items()}


def _names(config, kind):
    """npnet's layer or parameter -> makemore's, for all but the recurrent cells."""
    if kind == "bigram":
        return {"logits.weight": "logits"}
    if kind == "mlp_makemore":
        return {"embedding": "wte", "hidden": "mlp.0", "head": "mlp.2"}
    if kind in ("rnn", "gru"):
        return {"embedding": "wte", "head": "lm_head"}
    if kind == "bow":
        names = {"embedding.token": "wte", "embedding.position": "wpe.weight", "head": "lm_head"}
        return names | {"mlp.up": "context_block.mlp.c_fc", "mlp.down": "context_block.mlp.c_proj"}
    names = {"embedding.token": "transformer.wte", "embedding.position": "transformer.wpe.weight"}
    block = {
        "attention.norm": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.projection": "attn.c_proj",
        "mlp.norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    for i in range(config.n_layer):
        names |= {
            f"blocks.{i}.{ours}": f"transformer.h.{i}.{theirs}" for ours, theirs in block.items()
        }
    return names | {"norm": "transformer.ln_f", "head": "lm_head"}


def _views(model):
    """makemore's name -> view of npnet's parameter in makemore's layout."""
    names = _names(model.config, model.kind)
    linear = {
        prefix + "weight"
        for prefix, layer in model.network.walk()
        if isinstance(layer, (Linear, EmbeddingLinear))
    }
    views = {}
    for name, array in model.parameters().items():
        layer, _, last = name.rpartition(".")
        if name in names:
            views[names[name]] = array
        elif layer in names:
            views[f"{names[layer]}.{last}"] = array.T if name in linear else array
        elif last == "initial":
            views["start"] = array[None]
        else:
            H = model.config.n_embd2
            for i, gate in enumerate(
                ("xh_to_h",) if model.kind == "rnn" else ("xh_to_z", "xh_to_r", "xh_to_hbar")
            ):
                views[f"cell.{gate}.{last}"] = array[..., i * H : (i + 1) * H].T
    if model.config.tie_weights and model.kind == "transformer":
        views["lm_head.weight"] = views["transformer.wte.weight"]
    return views


def _masks(model):
    """The causal masks, which makemore keeps as buffers."""
    T = model.config.block_size
    mask = np.tri(T, dtype=model.config.dtype)
    if model.kind == "bow":
        return {"context_block.cbow.bias": mask.reshape(1, T, T)}
    if model.kind == "transformer":
        return {
            f"transformer.h.{i}.attn.bias": mask.reshape(1, 1, T, T)
            for i in range(model.config.n_layer)
        }
    return {}


def _array(name, value):
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
        return array.astype(np.float64 if array.dtype == np.float64 else np.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"makemore's {name} is not an array of numbers: {error}") from error


def _config(kind, arrays, n_head, block_size):
    """The sizes, each from one entry that shows it, and the names of these entries."""
    sources = []

    def size(name, axis):
        if name not in arrays:
            raise ValueError(f"makemore's {kind}: {name} is missing")
        if arrays[name].ndim != 2 or not arrays[name].size:
            raise ValueError(
                f"{name} has shape {arrays[name].shape}, expected two axes that are not empty"
            )
        sources.append(name)
        return arrays[name].shape[axis]

    sizes: dict[str, Any] = {
        "dtype": "float64"
        if any(array.dtype == np.float64 for array in arrays.values())
        else "float32"
    }
    if kind == "bigram":
        return Config(size("logits", 0), block_size, **sizes), sources
    prefix = "transformer." if kind == "transformer" else ""
    sizes["n_embd"] = size(f"{prefix}wte.weight", 1)
    vocab_size = size("mlp.2.weight" if kind == "mlp_makemore" else "lm_head.weight", 0)
    if kind == "mlp_makemore":
        block_size = max(1, size("mlp.0.weight", 1) // sizes["n_embd"])
    if kind in ("bow", "transformer"):
        block_size = size(f"{prefix}wpe.weight", 0)
    if kind == "transformer":
        blocks = {name.split(".")[2] for name in arrays if name.startswith("transformer.h.")}
        sizes |= {"n_layer": max(1, len(blocks)), "n_head": n_head}
        if n_head < 1 or sizes["n_embd"] % n_head:
            raise ValueError(
                f"n_head must divide the {sizes['n_embd']} channels of {prefix}wte.weight, "
                f"got {n_head}"
            )
    else:
        hidden = {
            "rnn": "cell.xh_to_h",
            "gru": "cell.xh_to_z",
            "bow": "context_block.mlp.c_fc",
            "mlp_makemore": "mlp.0",
        }
        sizes["n_embd2"] = size(f"{hidden[kind]}.weight", 0)
    return Config(vocab_size, block_size, **sizes), list(dict.fromkeys(sources))
