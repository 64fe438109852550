"""Is a gradient right? The judge of any backward pass, and npnet's operations in PyTorch.

    check_backward, judge           compare a backward with a reference, over many examples
    each_gradient                   the same as a pytest test, one item for each gradient
    inputs                          what they draw, as a hypothesis strategy
    layer, tensors, vjp, ...        what they judge besides plain functions

The names are imported when they are first used: the judge needs NumPy and hypothesis alone, the
rest of this package PyTorch.
"""

import importlib

_HOME = {
    "oracle.proof.check": ["check_backward", "judge"],
    "oracle.proof.compare": ["Mismatch"],
    "oracle.proof.fuzz": ["inputs"],
    "oracle.proof.pytest_plugin": ["each_gradient"],
    "oracle.proof.layer": ["layer"],
    "oracle.proof.spy": ["Spy"],
    "oracle.proof.styles": ["jax_function", "tensors", "torch_function", "torch_module", "vjp"],
    "oracle.proof.report": ["Report", "Verdict"],
}
__all__ = sorted(name for names in _HOME.values() for name in names)


def __getattr__(name):
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
