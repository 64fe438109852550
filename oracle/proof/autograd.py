"""The reference by torch's autograd in float64, and how far rounding can move it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from oracle.proof.rounded import SIZE

# What only moves data rounds nothing. (Views are recognised by their schema.)
MOVES = {"_to_copy", "_unsafe_view", "cat", "clone", "copy", "copy_", "embedding", "fill_"}
MOVES |= {"gather", "index", "index_select", "masked_fill", "neg", "select_backward"}
MOVES |= {"slice_backward", "stack", "where", "zero_"}
# Fused primitives that round inside; they are taken apart, so that each step meets the noise.
FUSED: tuple[str, ...] = (
    "native_layer_norm",
    "native_batch_norm",
    "native_group_norm",
    "_fused_rms_norm",
)
FUSED += ("_softmax", "_log_softmax", "var", "std", "var_mean", "std_mean", "logsumexp")


class Rounding(TorchDispatchMode):
    """Monte Carlo arithmetic: each floating result of a primitive, forward and backward, times
    1 + size * N(0, 1)."""

    def __init__(self, size: float, seed: int):
        super().__init__()
        self.size = size
        self.generator = torch.Generator().manual_seed(seed)

    def perturb(self, value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(self.perturb, value))
        if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
            return value
        noise = torch.empty_like(value, dtype=torch.float64).normal_(generator=self.generator)
        return value * noise.mul_(self.size).add_(1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith(FUSED):
            from torch._decomp import decomposition_table

            if func in decomposition_table:
                with self:
                    return decomposition_table[func](*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        aliases = [out.alias_info for out in func._schema.returns if out.alias_info is not None]
        if name in MOVES or any(not alias.is_write for alias in aliases):
            return result
        return result.copy_(self.perturb(result)) if aliases else self.perturb(result)


def rounding_scale(
    function: Callable[..., Sequence[torch.Tensor]],
    arrays: Sequence[Any],
    runs: int = 8,
    seed: int = 0,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The values of a float64 torch function and, measured for each, the M of `compare`:
    ([value, ...], [M, ...]).

    The rule where no formula is known (Monte Carlo arithmetic, Parker 1997): run the function,
    autograd and all, again with every input and every result of a primitive multiplied by
    1 + 2^-40 N(0, 1). What the result moves by, in units of 2^-40, is what rounding can do to it,
    cancellation inside the forward and the backward included:
    M = |value| + 2^40 * mean |value of a run - value|.

    function  takes the arrays as tensors, calls `requires_grad_` and `torch.autograd.grad` itself
              and returns tensors
    """
    tensors = [tensor(a) for a in arrays]
    values = [v.detach().numpy() for v in function(*(t.clone() for t in tensors))]
    moved = [np.zeros(v.shape) for v in values]
    for run in range(runs):
        rounding = Rounding(SIZE, seed + run)
        inputs = [rounding.perturb(t).clone() for t in tensors]
        with rounding:
            result = function(*inputs)
        for total, value, perturbed in zip(moved, values, result, strict=True):
            total += np.abs(perturbed.detach().numpy() - value)
    scales = [np.abs(v) + m / (max(runs, 1) * SIZE) for v, m in zip(values, moved, strict=True)]
    return values, scales


def tensor(array: Any) -> torch.Tensor:
    """A float64 copy, or one of the integers as they are."""
    kind = np.float64 if np.asarray(array).dtype.kind == "f" else None
    return torch.from_numpy(np.array(array, kind, order="C"))
