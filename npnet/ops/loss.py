"""Softmax and cross-entropy fused: together both passes are simpler, and safer, than apart."""

import numpy as np

from npnet.ops.checks import as_rows, floating, within
from npnet.ops.constants import one_hot, ones, starts


def cross_entropy(
    logits: np.ndarray, targets: np.ndarray, ignore_index: int = -1, n: int | None = None
) -> tuple[np.floating, tuple]:
    """Mean negative log-likelihood in nats:
        loss = mean over n of (log sum_v exp(z[n, v]) - z[n, targets[n]]).

    logits z (..., V), targets (...) integers in [0, V), or `ignore_index` where a position does not
    count -> loss, a scalar of the logits' dtype. The mean is over the positions that count; if
    there is none, or a target is out of range, ValueError. The row maximum is subtracted before
    exp, which changes nothing in exact arithmetic and cannot overflow.

    n is given where the positions are a share of a batch in which n count: the losses of all shares
    then add up to the mean, and so do their gradients. A share may have none that counts.
    """
    floating("cross_entropy", logits, axes=1)
    shape = logits.shape
    if targets.shape != shape[:-1]:
        raise ValueError(
            f"cross_entropy: logits {shape} need targets {shape[:-1]}, got {targets.shape}"
        )
    V = shape[-1]
    targets = targets.ravel()
    ignored, counted = None, len(targets)
    if 0 <= ignore_index < V or not within(targets, V):
        ignored = targets == ignore_index
        targets = targets * ~ignored
        if not within(targets, V):
            raise ValueError(
                f"cross_entropy: targets must be integers from 0 to {V - 1}, "
                f"or {ignore_index} to be ignored"
            )
        counted -= int(np.count_nonzero(ignored))
    n = counted if n is None else n
    if n == 0:
        raise ValueError(
            f"cross_entropy: every target is {ignore_index}, so there is nothing to average"
        )
    z = as_rows(logits)
    row = starts(len(z), V)
    # In rows as short as these the largest is found sooner by argmax than by max.
    z = z - z.take(row + z.argmax(axis=1))[:, None]
    target_z = z.take(row + targets)
    p = np.exp(z, out=z)
    total = p.dot(ones(V, p.dtype))
    p /= total[:, None]
    nll = np.log(total)
    nll -= target_z
    if ignored is not None:
        nll[ignored] = 0
    return np.add.reduce(nll) / n, (p, targets, ignored, n, shape)


def cross_entropy_backward(dloss: float, cache: tuple) -> np.ndarray:
    """dlogits (..., V) = dloss / n (p - onehot(targets)), and 0 at ignored positions; dloss is a
    number.

    For one position loss = log sum_v exp(z_v) - z_t. The first term's slope in z_v is
    exp(z_v) / sum exp = p_v, the second's is -1 at v = t: what the model believed minus what was
    true. Each row adds up to 0.
    """
    p, targets, ignored, n, shape = cache
    scale = np.array(dloss / n, p.dtype)
    if scale.ndim:
        raise ValueError(f"cross_entropy_backward: dloss must be a number, got {np.shape(dloss)}")
    dlogits = p - one_hot(targets, p.shape[1], p.dtype)
    dlogits *= scale
    if ignored is not None:
        dlogits[ignored] = 0
    return dlogits if len(shape) == 2 else dlogits.reshape(shape)
