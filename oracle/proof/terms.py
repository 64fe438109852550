"""Wrong gradients of operations that everybody writes: which slope or which term it is that stands
for another, or is missing."""

from collections.abc import Callable, Iterator

import numpy as np

from oracle.proof.factors import REPEATED_MEAN, gelu_slope, gelu_tanh_slope, ratio
from oracle.proof.wrong import Wrong, near, same


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def silu_slope(x: np.ndarray) -> np.ndarray:
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


Slope = Callable[[np.ndarray], np.ndarray]
SLOPES: dict[str, Slope] = {
    "tanh": lambda x: 1 - np.tanh(x) ** 2,
    "sigmoid": lambda x: sigmoid(x) * (1 - sigmoid(x)),
    "exp": np.exp,
    "GELU by erf": gelu_slope,
    "GELU by tanh": gelu_tanh_slope,
    "SiLU": silu_slope,
    "softplus": sigmoid,
    "ReLU": lambda x: (x > 0).astype(float),
}
# What gives a slope where the wrong array stands in it.
MISPLACED: dict[str, dict[str, Slope]] = {
    "tanh": {
        "1 - x**2": lambda x: 1 - x * x,
        "1 - tanh(tanh(x))**2": lambda x: 1 - np.tanh(np.tanh(x)) ** 2,
        "1 - tanh(x)": lambda x: 1 - np.tanh(x),
    },
    "sigmoid": {
        "x (1 - x)": lambda x: x * (1 - x),
        "the slope at sigmoid(x)": lambda x: SLOPES["sigmoid"](sigmoid(x)),
    },
    "SiLU": {"sigmoid(x)": sigmoid},
}


def other_slope(wrong: Wrong) -> str:
    """The slope of another function, or y in it where x belongs, or the other way round."""
    if wrong.elementwise is None:
        return ""
    x, dy = wrong.elementwise
    if not (x.min() < 0 < x.max()):
        return ""
    fitting = {name for name in SLOPES if wrong.would_be_right(dy * SLOPES[name](x))}
    for name in fitting & MISPLACED.keys():
        for text, slope in MISPLACED[name].items():
            if wrong.is_(dy * slope(x)):
                return f"the slope of {name} is taken as {text}"
    for name, slope in SLOPES.items():
        if wrong.is_(dy * slope(x)):
            return f"this is dy times the slope of {name}" + (
                f", but that of {min(fitting)} is right" if fitting else ""
            )
    return ""


def softmax_term(wrong: Wrong) -> str:
    """Softmax along an axis, dx = p (dy - sum(dy p)), or log_softmax, dx = dy - p sum(dy)."""
    if wrong.elementwise is None:
        return ""
    x, dy = wrong.elementwise
    axes = [axis for axis in range(x.ndim) if x.shape[axis] > 1]
    p = {axis: softmax(x, axis) for axis in axes}

    def gradient(axis, along):
        return p[axis] * (dy - (dy * p[axis]).sum(along, keepdims=True))

    for axis in axes:
        if wrong.would_be_right(gradient(axis, axis)):
            for other in axes:
                if other != axis and (
                    wrong.is_(gradient(other, other)) or wrong.is_(gradient(axis, other))
                ):
                    return f"softmax is along axis {axis}, but its gradient along axis {other}"
            for text, value in {
                "the term through the sum, -p sum(dy p), is missing": p[axis] * dy,
                "only the diagonal of softmax's Jacobian is there: p (1 - p) dy": p[axis]
                * (1 - p[axis])
                * dy,
                "a factor p is missing": gradient(axis, axis) / p[axis],
                "a factor p is too many": gradient(axis, axis) * p[axis],
                "the sum is of dy, and not of dy p": p[axis] * (dy - dy.sum(axis, keepdims=True)),
                "the mean of dy p stands for their sum": p[axis]
                * (dy - (dy * p[axis]).mean(axis, keepdims=True)),
            }.items():
                if wrong.is_(value):
                    return f"{text} along axis {axis}" if "axis" not in text else text
        if wrong.would_be_right(dy - p[axis] * dy.sum(axis, keepdims=True)):
            if wrong.is_(dy - p[axis]):
                return f"p is not multiplied by the sum of dy along axis {axis}"
            if wrong.is_(dy * (1 - p[axis])):
                return f"p is multiplied by dy, and not by the sum of dy along axis {axis}"
            if wrong.is_(dy):
                return "the term through the normalisation, -p sum(dy), is missing"
    return ""


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def cross_entropy_term(wrong: Wrong) -> str:
    """Softmax with cross-entropy: dx = (p - onehot) dloss / n."""
    x, dy = wrong.x, wrong.dy
    if x is None or dy is None or x.shape != wrong.got.shape or x.ndim < 1 or x.shape[-1] < 2:
        return ""
    for ids in wrong.inputs.values():
        if ids.dtype.kind not in "iu" or ids.shape != x.shape[:-1] or ids.size == 0:
            continue
        if ids.min() < 0 or ids.max() >= x.shape[-1]:
            continue
        onehot = (ids[..., None] == np.arange(x.shape[-1])).astype(float)
        if dy.shape not in ((), ids.shape):
            continue
        p, upstream = softmax(x, -1), dy[..., None]
        for scale in (upstream, upstream / ids.size):
            if not wrong.would_be_right((p - onehot) * scale):
                continue
            for text, value in {
                "the onehot of the targets is not subtracted": p,
                "the softmax is missing: only the onehot of the targets is there": -onehot,
                "the logits stand for their softmax": x - onehot,
                "the onehot of the targets is added, not subtracted": p + onehot,
                "exp without its sum stands for the softmax": np.exp(x) - onehot,
                "only the targets have a gradient: softmax reaches every logit": (p - 1) * onehot,
            }.items():
                if any(wrong.is_(value * s) for s in (scale, upstream / ids.size, upstream)):
                    return text
    return ""


def indexed_rows(wrong: Wrong) -> str:
    """Rows that an index picks: what happens where it picks one twice."""
    got, want, dy = wrong.got, wrong.want, wrong.dy
    if got.ndim == 0:
        return ""
    for ids in wrong.inputs.values():
        if ids.dtype.kind not in "iu" or not ids.size or ids.min() < 0 or ids.max() >= len(got):
            continue
        count = np.bincount(ids.ravel(), minlength=len(got))
        wrong_rows = np.any(~wrong.right().reshape(len(got), -1), axis=1)
        if not wrong_rows.any() or wrong_rows[count < 2].any():
            continue
        times = count.reshape(-1, *(1,) * (got.ndim - 1))
        if ratio(wrong) is None and wrong.is_(want / np.maximum(times, 1)):
            return REPEATED_MEAN
        lost = False
        if dy is not None and dy.shape == ids.shape + got.shape[1:]:
            flat = dy.reshape(-1, *got.shape[1:])
            last, first = np.zeros_like(got), np.zeros_like(got)
            last[ids.ravel()], first[ids.ravel()[::-1]] = flat, flat[::-1]
            lost = wrong.is_(last) or wrong.is_(first)
        elif np.any(count == 0) and not want[count == 0].any():
            lost = bool(np.any(wrong.right()[count == 1] & (want[count == 1] != 0)))
        if lost:
            return (
                "duplicates are lost: only rows whose index is repeated are wrong; "
                "use np.add.at, not d[ids] += dy"
            )
    return ""


def normalisation_term(wrong: Wrong) -> str:
    """A normalisation's gradient is a multiple of the centred g, less a multiple of the centred x,
    along an axis; g is dy, or dy times the gain."""
    error, want, x = wrong.got - wrong.want, wrong.want, wrong.x
    for axis in range(error.ndim):
        n = error.shape[axis]
        if n < 3 or error.size == n:  # one line proves little
            continue
        sums = np.asarray(np.abs(want.sum(axis)) <= 1e-9 * np.abs(want).sum(axis).max())
        line = np.ones_like(error)
        if sums.all() and along(error, line, axis, wrong) and not same_multiple(error, line):
            return (
                f"the term through the mean over axis {axis} is missing or wrong: the sum along "
                "it has to be 0, as adding a number to the input changes nothing"
            )
        if x is None or x.shape != error.shape:
            continue
        if along(error, x, axis, wrong) and not same_multiple(error, x):
            if any(along(wrong.got, g, axis, wrong) for g in upstreams(wrong)):
                return f"the term through the mean square over axis {axis} is missing"
            continue
        if not along(error, centred(x, axis), axis, wrong):
            continue
        where = f"in the term through the variance over axis {axis}"
        for g in upstreams(wrong):
            g = centred(g, axis)
            if along(wrong.got, g, axis, wrong):
                return f"the term through the variance over axis {axis} is missing"
            if along(want + n * error, g, axis, wrong):
                return f"a factor n/(n - 1) is missing {where}: n = {n} stands for n - 1"
            if along(want - (n - 1) * error, g, axis, wrong):
                return f"a factor n/(n - 1) is too many {where}: n - 1 stands for n = {n}"
        if sums.all():
            return f"something is wrong {where}: the error is proportional to the centred x"
    return ""


def upstreams(wrong: Wrong) -> Iterator[np.ndarray]:
    if wrong.dy is not None and wrong.dy.shape == wrong.got.shape:
        yield wrong.dy
        for a in wrong.inputs.values():
            if a.dtype.kind == "f" and a.shape == wrong.got.shape[-1:]:
                yield wrong.dy * a


def centred(x: np.ndarray, axis: int) -> np.ndarray:
    return x - x.mean(axis, keepdims=True)


def along(a: np.ndarray, b: np.ndarray, axis: int, wrong: Wrong) -> bool:
    """Whether a is a multiple of b in every line along the axis, and not 0."""
    scale = (a * b).sum(axis, keepdims=True) / np.maximum((b * b).sum(axis, keepdims=True), 1e-300)
    largest = np.abs(a).max()
    return bool(
        largest > 1e3 * wrong.tolerance * np.abs(wrong.want).max()
        and np.abs(a - scale * b).max() <= 10 * wrong.tolerance * largest
    )


def same_multiple(a: np.ndarray, b: np.ndarray) -> bool:
    return same(a, np.vdot(a, b) / np.vdot(b, b) * b, 1e-6)


def decay(wrong: Wrong) -> str:
    """A multiple of the parameter itself that is added to its gradient."""
    x, error = wrong.x, wrong.got - wrong.want
    if x is None or x.shape != error.shape or x.size < 3 or not x.any():
        return ""
    r = float(np.vdot(error, x) / np.vdot(x, x))
    if r and bool(near(error, r * x, 10 * wrong.tolerance).all()) and same_multiple(error, x):
        return "a multiple of the input itself is added: weight decay, or a term through its norm"
    return ""
