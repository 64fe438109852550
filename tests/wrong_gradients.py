"""Wrong gradients of real operations, each with a part of the hint that has to come; and the
operations, as dy, inputs -> gradients."""

import math
import re

import numpy as np

from npnet import ops

SIZES = {"n": 5, "m": 9, "i": 3, "o": 7, "t": 6, "v": 11, "c": 4, "h": 13, "k": 3}


def fused(name, **options):
    """npnet's forward and backward as one function, (dy, inputs...) -> the gradients."""

    def gradients(dy, *inputs):
        _, cache = getattr(ops, name)(*inputs, **options)
        return getattr(ops, f"{name}_backward")(dy, cache)

    return gradients


def over_time(name):
    """A recurrent operation from x @ w[:c] + b, for sequences (n, t, c) of one length."""

    def gradients(dy, x, h0, w, b):
        n, t, c = x.shape
        packed = [a.swapaxes(0, 1).reshape(n * t, -1) for a in (dy, x @ w[:c] + b)]
        da, dh0, dw = fused(name, sizes=[n] * t)(*packed, h0, w[c:])
        da = da.reshape(t, n, -1).swapaxes(0, 1)
        dw = np.concatenate([np.einsum("ntc,ntg->cg", x, da), dw])
        return da @ w[:c].T, dh0, dw, da.sum((0, 1))

    return gradients


def conv(dy, x, w):
    """Of y[n, t] = sum over k of x[n, t + k] w[k]."""
    t, dx, dw = dy.shape[1], np.zeros_like(x), np.zeros_like(w)
    for k in range(len(w)):
        dx[:, k : k + t] += dy * w[k]
        dw[k] = (dy * x[:, k : k + t]).sum()
    return dx, dw


def p(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def s(x):
    return 1 / (1 + np.exp(-x))


def phi(x, a=(2 / math.pi) ** 0.5, b=0.044715):
    """The slope of GELU by tanh."""
    th = np.tanh(a * (x + b * x**3))
    return 0.5 * (1 + th) + 0.5 * x * (1 - th * th) * a * (1 + 3 * b * x * x)


# The shapes of the inputs, a letter a size, and of dy; the right gradients.
OPERATIONS = {
    "linear": ("x:n,i w:i,o b:o", "n,o", fused("linear")),
    "embedding": ("ids:n,t table:v,c", "n,t,c", fused("embedding")),
    "softmax": ("x:n,v", "n,v", fused("softmax")),
    "log_softmax": ("x:n,v", "n,v", lambda dy, x: dy - p(x) * dy.sum(1, keepdims=True)),
    "cross_entropy": ("x:n,v ids:n", "", fused("cross_entropy")),
    "layer_norm": ("x:n,o gain:o bias:o", "n,o", fused("layer_norm")),
    "rms_norm": ("x:n,o gain:o", "n,o", fused("rms_norm")),
    "batch_norm": ("x:m,c gain:c bias:c", "m,c", fused("batch_norm")),
    "attention": ("qkv:n,t,12", "n,t,4", fused("causal_attention", n_head=2)),
    "gru": ("x:n,t,c h0:h w:c+h,3h b:3h", "n,t,h", over_time("gru")),
    "rnn": ("x:n,t,c h0:h w:c+h,h b:h", "n,t,h", over_time("rnn")),
    "gelu": ("x:n,c", "n,c", fused("gelu")),
    "gelu_erf": ("x:n,c", "n,c", fused("gelu", approximate="none")),
    "tanh": ("x:n,c", "n,c", fused("tanh")),
    "sigmoid": ("x:n,c", "n,c", fused("sigmoid")),
    "relu": ("x:n,c", "n,c", fused("relu")),
    "leaky_relu": ("x:n,c", "n,c", lambda dy, x: dy * np.where(x > 0, 1, 0.1)),
    "abs": ("x:n,c", "n,c", lambda dy, x: dy * np.sign(x)),
    "cube": ("x:n,c", "n,c", lambda dy, x: dy * 3 * x * x),
    "log2": ("x:n,c", "n,c", lambda dy, x: dy / (x * np.log(2))),
    "scale": ("x:n,c a:", "n,c", lambda dy, x, a: (dy * a, (dy * x).sum())),
    "mean": ("x:n,c", "n", lambda dy, x: np.repeat(dy[:, None], x.shape[1], 1) / x.shape[1]),
    "sum": ("x:n,c", "n", lambda dy, x: np.repeat(dy[:, None], x.shape[1], 1)),
    "max": ("x:n,c", "n", lambda dy, x: dy[:, None] * (x == x.max(1, keepdims=True))),
    "conv": ("x:n,t+k-1 w:k", "n,t", conv),
}


def extent(shape, sizes):
    """The shape "c+h,3h" in numbers."""
    spelt = re.sub(r"(\d)([a-z])", r"\1*\2", shape)
    return [int(eval(part, {}, sizes)) for part in spelt.split(",") if part]


def draw(operation, rng, sizes):
    """Inputs, dy, and the sizes that the operation has."""
    inputs, after, _ = OPERATIONS[operation]
    found = {}
    for name, shape in (part.split(":") for part in inputs.split()):
        extents = extent(shape, sizes)
        high = sizes["v"]
        found[name] = np.asarray(
            rng.integers(high, size=extents) if name == "ids" else rng.normal(size=extents)
        )
    letters = set(re.findall("[a-z]", ",".join(part.split(":")[1] for part in inputs.split())))
    known = {letter: size for letter, size in sizes.items() if letter in letters}
    return found, np.asarray(rng.normal(size=extent(after, sizes))), known


def right_gradients(operation, inputs, dy):
    found = OPERATIONS[operation][2](dy, *inputs.values())
    found = found if isinstance(found, tuple) else (found,)
    names = [name for name, a in inputs.items() if a.dtype.kind == "f"]
    return {f"d{name}": np.asarray(a) for name, a in zip(names, found, strict=True)}


def lost(dy, ids, table):
    d = np.zeros_like(table)
    d[ids] += dy
    return d


def per_count(g, ids):
    count = np.bincount(ids.ravel(), minlength=len(g))
    return g / np.maximum(count, 1)[:, None]


def first(g):
    """Zeros at the first step, ones after it."""
    keep = np.ones_like(g)
    keep[:, 0] = 0
    return keep


def onehot(e):
    return np.eye(e.x.shape[1])[e.ids]


def norm_dx(e, axis, by=None, less=0, gain=1, mean=1, variance=1):
    """A normalisation's dx, with gain, a term, or its divisor `by` other than right."""
    n = e.x.shape[axis]
    centre = e.x - e.x.mean(axis, keepdims=True)
    inv = 1 / np.sqrt((centre**2).sum(axis, keepdims=True) / max(n - less, 1) + 1e-5)
    g = e.dy * e.gain**gain
    through = centre * (g * centre).sum(axis, keepdims=True) * inv**2 / max(n - less, 1)
    through *= 1 if by is None else (n - less) / by
    return inv * (g - mean * g.mean(axis, keepdims=True) - variance * through)


def layer(e, **wrong):
    return norm_dx(e, 1, **wrong)


def batch(e, **wrong):
    return norm_dx(e, 0, less=1, **wrong)


def spread(g):
    return g * np.linspace(1.3, 2.9, len(g))[:, None]


def single(a):
    return a.astype(np.float32).astype(float)


PASSES = "a test with y.sum() passes"
# (operation, gradient, a part of the hint, the wrong gradient)
TABLE = [
    ("linear", "dx", "the sign is wrong", lambda e: -e.g),
    ("linear", "dw", "divided by n: the mean over n", lambda e: e.g / len(e.x)),
    ("linear", "db", "divided by n: the mean over n", lambda e: e.dy.mean(0)),
    ("linear", "dw", "divided by (n o): the mean", lambda e: e.g / e.dy.size),
    ("linear", "dx", "a factor 1/sqrt(i) too many", lambda e: e.g / e.x.shape[1] ** 0.5),
    ("linear", "dw", "the right gradient times 2", lambda e: 2 * e.g),
    ("linear", "dw", "the sign is wrong, and it is", lambda e: -0.5 * e.g),
    ("linear", "dw", "it is all zeros", lambda e: 0 * e.g),
    ("linear", "dw", "it is transposed", lambda e: e.g.T.copy()),
    ("linear", "dw", "upstream gradient is ignored", lambda e: e.x.T @ np.ones_like(e.dy)),
    ("linear", "dw", "upstream gradient is used twice", lambda e: e.x.T @ e.dy**2),
    ("linear", "db", PASSES, lambda e: (e.dy**2).sum(0)),
    ("linear", "db", "the sum over axis 0 is missing", lambda e: e.dy),
    ("linear", "db", "keepdims=True", lambda e: e.dy.sum(0, keepdims=True)),
    ("linear", "dx", "it is summed over axis 0", lambda e: e.g.sum(0)),
    ("linear", "dw", "this is dx: two gradients", lambda e: e.d["dx"]),
    ("linear", "dw", "it is clipped at 0.5", lambda e: e.g.clip(-0.5, 0.5)),
    ("linear", "dw", "it is scaled to norm 1", lambda e: e.g / np.linalg.norm(e.g)),
    ("linear", "dw", "weight decay", lambda e: e.g + 0.01 * e.w),
    ("linear", "dw", "in reversed order along axis 1", lambda e: e.g[:, ::-1]),
    ("linear", "dw", "another order along axis 1", lambda e: e.g[:, np.argsort(e.w[0])]),
    ("linear", "dw", "a reshape stands", lambda e: e.g.T.reshape(e.g.shape)),
    ("linear", "dw", "its signs are lost", lambda e: np.abs(e.g)),
    ("linear", "dw", "times 1.37: only a factor", lambda e: 1.37 * e.g),
    ("linear", "dw", "another one for each", lambda e: spread(e.g)),
    ("linear", "dw", "exactly such ones", lambda e: single(e.g)),
    ("linear", "dx", "something inside is float32", lambda e: e.dy @ single(e.w).T),
    ("embedding", "dtable", "duplicates are lost", lambda e: lost(e.dy, e.ids, e.table)),
    ("embedding", "dtable", "a mean for a sum", lambda e: per_count(e.g, e.ids)),
    ("embedding", "dtable", "shifted by one along axis 0", lambda e: np.roll(e.g, 1, 0)),
    ("embedding", "dtable", "it is divided by t", lambda e: e.g / e.ids.shape[1]),
    ("softmax", "dx", "divided by n: the mean over n", lambda e: e.g / len(e.x)),
    ("softmax", "dx", PASSES, lambda e: e.g / len(e.x)),
    ("softmax", "dx", "-p sum(dy p), is missing", lambda e: p(e.x) * e.dy),
    ("softmax", "dx", "only the diagonal of", lambda e: p(e.x) * (1 - p(e.x)) * e.dy),
    ("softmax", "dx", "a factor p is missing", lambda e: e.g / p(e.x)),
    ("softmax", "dx", "along axis 0", lambda e: fused("softmax")(e.dy.T, e.x.T).T),
    ("softmax", "dx", "not of dy p", lambda e: p(e.x) * (e.dy - e.dy.sum(1, keepdims=True))),
    ("log_softmax", "dx", "p is not multiplied by", lambda e: e.dy - p(e.x)),
    ("log_softmax", "dx", "not by the sum of dy", lambda e: e.dy * (1 - p(e.x))),
    ("log_softmax", "dx", "the term through the normal", lambda e: e.dy),
    ("cross_entropy", "dx", "it is not divided by n", lambda e: e.g * len(e.x)),
    ("cross_entropy", "dx", "upstream gradient is ignored", lambda e: e.g / e.dy),
    ("cross_entropy", "dx", "upstream gradient is used twice", lambda e: e.g * e.dy),
    ("cross_entropy", "dx", "right for dy = 1", lambda e: e.g * e.dy),
    ("cross_entropy", "dx", "is not subtracted", lambda e: p(e.x) * e.dy / len(e.x)),
    ("cross_entropy", "dx", "the softmax is missing", lambda e: -onehot(e) * e.dy / len(e.x)),
    ("cross_entropy", "dx", "the logits stand", lambda e: (e.x - onehot(e)) * e.dy / len(e.x)),
    ("cross_entropy", "dx", "is added", lambda e: (p(e.x) + onehot(e)) * e.dy / len(e.x)),
    ("cross_entropy", "dx", "only the targets have", lambda e: onehot(e) * e.g),
    ("layer_norm", "dx", "mean over axis 1 is missing", lambda e: layer(e, mean=0)),
    ("layer_norm", "dx", "variance over axis 1 is missing", lambda e: layer(e, variance=0)),
    ("layer_norm", "dx", "it is right for gain = 1", lambda e: layer(e, gain=0)),
    ("layer_norm", "dx", "it is right for gain = 1", lambda e: layer(e, gain=2)),
    ("layer_norm", "dgain", "right for bias = 0", lambda e: e.g + (e.dy * e.bias).sum(0)),
    ("layer_norm", "dgain", "a factor gain is too many", lambda e: e.g * e.gain),
    ("layer_norm", "dgain", "it is right for gain = 1", lambda e: e.g * e.gain),
    ("layer_norm", "dbias", "divided by n: the mean over n", lambda e: e.dy.mean(0)),
    ("layer_norm", "dx", "digits are right", lambda e: layer(e) * (1 + 1e-5 * e.x)),
    (
        "rms_norm",
        "dx",
        "the mean square over axis 1",
        lambda e: e.dy * e.gain / np.sqrt((e.x**2).mean(1, keepdims=True) + 1e-5),
    ),
    ("batch_norm", "dx", "mean over axis 0 is missing", lambda e: batch(e, mean=0)),
    ("batch_norm", "dx", "variance over axis 0 is missing", lambda e: batch(e, variance=0)),
    ("batch_norm", "dx", "n/(n - 1) is missing in", lambda e: batch(e, by=len(e.x))),
    ("batch_norm", "dgain", "a factor gain is missing", lambda e: e.g / e.gain),
    ("attention", "dqkv", "in reversed order along axis 1", lambda e: e.g[:, ::-1]),
    ("attention", "dqkv", "axes 0 and 1 are swapped", lambda e: e.g.swapaxes(0, 1)),
    ("attention", "dqkv", "the right gradient times 0.5", lambda e: e.g / 2),
    ("rnn", "dx", "shifted by one along axis 1", lambda e: np.roll(e.g, 1, 1)),
    ("rnn", "dx", "in reversed order along axis 1", lambda e: e.g[:, ::-1]),
    ("rnn", "dx", "the first along axis 1 is missing", lambda e: e.g * first(e.g)),
    ("rnn", "dx", "only the first along axis 1", lambda e: e.g * (1 - first(e.g))),
    ("gru", "dx", "the last along axis 1 is missing", lambda e: e.g * first(e.g)[:, ::-1]),
    (
        "gelu",
        "dx",
        "the slope of GELU by erf",
        lambda e: fused("gelu", approximate="none")(e.dy, e.x),
    ),
    ("gelu", "dx", "0.0447 stands for 0.044715", lambda e: e.dy * phi(e.x, b=0.0447)),
    ("gelu", "dx", "0.79788 stands for sqrt(2/pi)", lambda e: e.dy * phi(e.x, a=0.79788)),
    ("gelu_erf", "dx", "the slope of GELU by tanh", lambda e: fused("gelu")(e.dy, e.x)),
    ("tanh", "dx", "taken as 1 - x**2", lambda e: e.dy * (1 - e.x**2)),
    (
        "tanh",
        "dx",
        "taken as 1 - tanh(tanh(x))**2",
        lambda e: e.dy * (1 - np.tanh(np.tanh(e.x)) ** 2),
    ),
    ("tanh", "dx", "the slope of sigmoid", lambda e: e.dy * s(e.x) * (1 - s(e.x))),
    ("sigmoid", "dx", "taken as x (1 - x)", lambda e: e.dy * e.x * (1 - e.x)),
    ("sigmoid", "dx", "used twice", lambda e: e.g * e.dy),
    ("relu", "dx", "it is dy unchanged", lambda e: e.dy),
    ("leaky_relu", "dx", "this is dy times the slope of ReLU", lambda e: e.dy * (e.x > 0)),
    (
        "leaky_relu",
        "dx",
        "wrong only where the input is neg",
        lambda e: e.dy * np.where(e.x > 0, 1, 0.27),
    ),
    ("abs", "dx", "sign(x) is missing", lambda e: e.dy),
    ("cube", "dx", "a factor x is missing", lambda e: 3 * e.dy * e.x),
    ("cube", "dx", "a factor x is too many", lambda e: 3 * e.dy * e.x**3),
    ("log2", "dx", "0.6931 stands for ln 2", lambda e: e.dy / (e.x * 0.6931)),
    ("tanh", "dx", "a factor is right to about 7 digits", lambda e: e.g * 1.0000001234),
    ("scale", "dx", "a factor a is missing", lambda e: e.dy),
    ("mean", "dx", "it is not divided by c", lambda e: e.g * e.x.shape[1]),
    ("mean", "dx", "it is divided by n", lambda e: e.g / len(e.x)),
    ("sum", "dx", "it is divided by c", lambda e: e.g / e.x.shape[1]),
    ("sum", "dx", "upstream gradient is ignored", lambda e: np.ones_like(e.g)),
    ("conv", "dw", "in reversed order along axis 0", lambda e: e.g[::-1]),
    ("conv", "dx", "shifted by one along axis 1", lambda e: np.roll(e.g, -1, 1)),
]
