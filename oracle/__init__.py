"""The reference: what npnet computes, once more in torch, where autograd finds the gradients, and
the comparison."""

import sys

try:
    import torch  # noqa: F401
except ImportError as error:
    message = (
        f"oracle compares npnet with PyTorch, which cannot be imported ({error}): "
        'pip install "npnet-trainer[oracle]"'
    )
    if (
        sys.argv[:1] == ["-m"] and "oracle" in sys.orig_argv
    ):  # `python -m oracle`, still looking for its __main__
        print(message, file=sys.stderr)
        sys.exit(2)
    raise ImportError(message, name="torch") from None


def __getattr__(name):
    """check_backward and makemore's two, imported when asked for: they know npnet, which the
    reference must not."""
    if name in ("from_makemore", "to_makemore"):
        from oracle import makemore

        return getattr(makemore, name)
    if name == "check_backward":
        from oracle.check import check_backward

        return check_backward
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
