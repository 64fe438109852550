"""The registry: wrong backward passes, each an edit of npnet's own source and the mistake a person
makes that way.

`planted(wrong)` puts an edit into effect while it lasts: the function is compiled again from its
edited source and takes the place of the original wherever that is called, in an operation, a layer
or a model. An edit whose text no longer stands in its function is an error, so the registry cannot
silently empty itself.
"""

import importlib
import inspect
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from oracle.cases import EDGES, Case
from oracle.proof.compare import Mismatch
from oracle.prove import ALL_CASES, prove

MODULES = [
    importlib.import_module(f"npnet.{name}")
    for name in (
        *(
            f"ops.{family}"
            for family in (
                "activation",
                "attention",
                "constants",
                "linear",
                "loss",
                "norm",
                "recurrent",
                "sequence",
            )
        ),
        "layers",
        "model",
        "models",
        "packing",
    )
]


@dataclass(frozen=True)
class Wrong:
    """In the function `where`, `old` becomes `new`; `says` is what the rejection has to name."""

    case: str
    kind: str
    says: str
    where: str
    old: str
    new: str
    mistake: str

    @property
    def name(self) -> str:
        return f"{self.case}: {self.mistake}"


@contextmanager
def planted(wrong: Wrong) -> Iterator[None]:
    """Inside this context the function has the mistake."""
    function = find(wrong.where)
    lines = textwrap.dedent(inspect.getsource(function)).splitlines(keepends=True)
    source = "".join(line for line in lines if not line.startswith("@"))
    if source.count(wrong.old) != 1:
        raise LookupError(
            f"{wrong.name}: {wrong.old!r} has to stand once in {wrong.where}; update the registry"
        )
    source = source.replace(wrong.old, wrong.new)
    made: dict[str, Any] = {}
    for name in function.__code__.co_freevars:  # __class__, for super()
        source = f"def around({name}):\n{textwrap.indent(source, '    ')}\n    return {function.__name__}\n"
        source += f"{function.__name__} = around(None)"
    exec(compile(source, f"<{wrong.where}>", "exec"), function.__globals__, made)
    original, attributes = function.__code__, dict(vars(function))
    function.__code__ = made[function.__name__].__code__
    try:
        yield
    finally:
        function.__code__ = original
        vars(function).clear()
        vars(function).update(attributes)


def find(where: str) -> Any:
    """The function of that name in npnet's operations, layers or models."""
    first, *rest = where.split(".")
    found = next(getattr(module, first) for module in MODULES if hasattr(module, first))
    for name in rest:
        found = vars(found)[name]
    return found


def rejection(wrong: Wrong, examples: int = 100, seed: int = 0) -> tuple[str, int]:
    """The property's sentence against it, and after how many examples; ("", examples) where there
    is none.

    The examples are random, and then the written edges, as the tests of the operations and the
    models have them.
    """
    case: Case = ALL_CASES[wrong.case]
    rng = np.random.default_rng(seed)
    drawn = [case.example(rng) for _ in range(examples)]
    edges = [
        case.plain(seed=k, **chosen)
        for name, _, chosen in EDGES
        if name == case.name
        for k in range(5)
    ]
    with planted(wrong):
        for k, example in enumerate([*drawn, *edges], 1):
            try:
                prove(case, example)
            except Mismatch as mismatch:
                return str(mismatch), k
    return "", len(drawn) + len(edges)


# The kinds of mistake.
TERM = "a term dropped"
FACTOR = "a wrong factor"
MEAN = "a mean for a sum, n for n - 1"
SIGN = "a wrong sign"
VALUE = "the wrong value read"
UPSTREAM = "the upstream gradient ignored"
DUPLICATES = "lost duplicates"
ORDER = "a wrong axis, order or transpose"
SHAPE = "a wrong shape"
MASK = "a wrong mask or tie"
RANGE = "overflow or cancellation"
EPSILON = "a misplaced eps"
DTYPE = "a promoted dtype"
MEMORY = "aliasing or in-place"
STATE = "stale state or a result not placed"


def of(case: str, *rows: tuple[str, str, str, str, str, str]) -> tuple[Wrong, ...]:
    """Rows are (kind, says, where, old, new, mistake); where "backward" and "forward" stand for the
    operation's own."""
    own = {"backward": f"{case}_backward", "forward": case}
    return tuple(
        Wrong(case, kind, says, own.get(where, where), *edit) for kind, says, where, *edit in rows
    )


WRONG: tuple[Wrong, ...] = (
    *of(
        "embedding",
        (DUPLICATES, "dtable", "backward", "return _transposed_product(one_hot(ids, V, dy.dtype), dy, out)",
         "dtable = np.empty((V, C), dy.dtype) if out is None else out; dtable[:] = 0; dtable[ids] += dy; return dtable",
         "indexed += keeps one of the repeated rows"),
        (DUPLICATES, "dtable", "backward", "np.add.at(dtable, ids, dy)", "dtable[ids] += dy",
         "indexed += keeps one of the repeated rows, in the branch for large tables"),
        (DUPLICATES, "dtable", "backward", "np.add.at(dtable, ids, dy)", "dtable[ids] = dy",
         "the last of the repeated rows wins"),
        (MEAN, "dtable", "backward", "one_hot(ids, V, dy.dtype)",
         "(one_hot(ids, V, dy.dtype) / np.maximum(one_hot(ids, V, dy.dtype).sum(0), 1))", "the repeated rows are averaged"),
        (UPSTREAM, "dtable", "backward", ", dy, out)", ", np.ones_like(dy), out)",
         "the rows are counted, the upstream forgotten"),
        (ORDER, "dtable", "backward", "as_rows(dy)", "dy.reshape(C, -1).T", "flattened with the channels first"),
        (STATE, "dtable", "backward", "dtable.fill(0)", "pass", "rows that no id names are left as the memory was"),
        (STATE, "dtable", "backward", ", dy, out)", ", dy, None)",
         "`out` is ignored"),
        (STATE, "dtable", "backward", "dtable.fill(0)", "dtable.fill(0) if out is None else None",
         "adds to what stood in `out`"),
        (DTYPE, "dtable", "backward", "one_hot(ids, V, dy.dtype)", "one_hot(ids, V, float)", "a float64 one-hot promotes float32"),
    ),
    *of(
        "linear",
        (ORDER, "dx", "_product_with_transposed", "else w.T", "else w.reshape(w.shape[::-1])",
         "reshape in the place of the transpose, dx"),
        (ORDER, "dw", "backward", "_transposed_product(x, dy,", "_transposed_product(x.reshape(x.shape[::-1]).T, dy,",
         "reshape in the place of the transpose, dw"),
        (MEAN, "dw", "backward", "_transposed_product(x, dy,", "_transposed_product(x / len(x), dy,", "dw averaged over the batch"),
        (MEAN, "db", "backward", "sum_rows(dy, out[1])", "sum_rows(dy / len(dy), out[1])",
         "db averaged over the batch"),
        (TERM, "db", "backward", "sum_rows(dy, out[1])",
         "sum_rows(dy[:1], out[1])", "db from the first row of the batch"),
        (SHAPE, "db", "backward", "sum_rows(dy, out[1])", "sum_rows(dy)[None]",
         "db kept its first axis"),
        (SHAPE, "dx", "backward", "if len(shape) != 2:", "if False:", "dx left with its leading axes flattened"),
        (UPSTREAM, "dw", "backward", "_transposed_product(x, dy,", "_transposed_product(x, np.ones_like(dy),",
         "dw without the upstream"),
        (DTYPE, "db", "sum_rows", "ones(len(x), x.dtype)", "np.ones(len(x))",
         "a float64 vector of ones promotes float32"),
        (STATE, "dw", "backward", "dw = _transposed_product(x, dy, out[0])",
         "dw = np.matmul(x.T, dy) if out[0] is None else np.add(out[0], np.matmul(x.T, dy), out=out[0])",
         "dw added to what stood in `out`"),
        (ORDER, "dx", "backward", "as_rows(upstream(\"linear\", dy, y_shape, x.dtype))",
         "upstream(\"linear\", dy, y_shape, x.dtype).reshape(w.shape[1], -1).T",
         "flattened with the outputs first"),
    ),
    *of(
        "embedding_linear",
        (DUPLICATES, "d", "backward", "onehot.T.dot(dy)", "onehot.T.dot(dy) / np.maximum(onehot.sum(0), 1)[:, None]", "the repeated rows are averaged"),
        (TERM, "dtable", "backward", "np.add.reduce(transposed.swapaxes(1, 2), axis=0, out=out[0])",
         "np.add.reduce(transposed.swapaxes(1, 2)[:1], axis=0, out=out[0])", "the table's gradient from the first place alone"),
        (ORDER, "dw", "backward", "out=dw.reshape(K, C, H)", "out=dw.reshape(K, C, H)[::-1]",
         "the blocks of the weight in reverse"),
        (UPSTREAM, "d", "backward", "onehot.T.dot(dy)", "onehot.T.dot(np.ones_like(dy))",
         "the rows are counted, the upstream forgotten"),
        (MEAN, "db", "backward", "sum_rows(dr[0], out[2])", "sum_rows(dr[0] / len(dy), out[2])", "db averaged over the batch"),
        (VALUE, "y", "forward", "rows[0] += b", "rows += b", "the bias once for each place"),
        (VALUE, "dtable", "backward", "dx.reshape(*ids.shape, C)",
         "dx[::-1].reshape(*ids.shape, C)", "the positions in reverse, where the look-up comes first"),
        (STATE, "dw", "backward", "np.empty_like(w) if out[1] is None else out[1]", "np.empty_like(w)", "`out` is ignored"),
        (DTYPE, "d", "backward", "one_hot(ids, V, dy.dtype)", "one_hot(ids, V, float)", "a float64 one-hot promotes float32"),
        (ORDER, "y", "forward", "rows[k].take(columns[k], axis=0)", "rows[0].take(columns[k], axis=0)", "the first block for every place"),
    ),
    *of(
        "tanh",
        (FACTOR, "dx", "backward", "np.asarray(y * y)", "y.copy()", "1 - y for 1 - y^2"),
        (VALUE, "dx", "backward", "np.asarray(y * y)", "np.tanh(y) ** 2",
         "the slope at the result, which is kept, not at x"),
        (UPSTREAM, "dx", "backward", "dx *= dy", "pass", "the slope alone, without the upstream"),
        (MEMORY, "read-only", "backward", "np.asarray(y * y)", "np.multiply(y, y, out=y)", "squares the cache in place"),
        (STATE, "dx", "backward", "np.asarray(y * y)",
         "vars(tanh_backward).setdefault(f'{y.shape} {y.dtype}', y * y).copy()",
         "y^2 kept from the first call of that shape"),
        (DTYPE, "dx", "backward", "np.subtract(number(1, dx.dtype), dx, out=dx)", "dx = np.float64(1) - dx",
         "a float64 scalar promotes float32"),
    ),
    *of(
        "relu",
        (MASK, "dx", "backward", "y > number", "y >= number", "slope 1 at the tie, and left of it"),
        (VALUE, "dx", "backward", "dy * (y > number(0, y.dtype))", "np.maximum(dy, 0)", "relu of the upstream"),
        (MASK, "dx", "backward", "dy * (y > number(0, y.dtype))", "np.where(y > 0, dy, dy.dtype.type(0.01) * dy)",
         "the leaky relu's slope"),
        (DTYPE, "dx", "backward", "(y > number(0, y.dtype))", "np.where(y > 0, 1.0, 0.0)", "a float64 mask promotes float32"),
        (MEMORY, "dx", "backward", "return dy *", "return dy if (y > 0).all() else dy *",
         "hands dy itself on where nothing is cut"),
    ),
    *of(
        "sigmoid",
        (TERM, "dx", "backward", "dx *= y\n", "pass\n", "the first factor of y (1 - y) dropped"),
        (SIGN, "dx", "backward", "dx = 1 - y", "dx = 1 + y", "1 + y for 1 - y"),
        (FACTOR, "dx", "backward", "dx *= y\n", "dx *= 1 + y\n", "tanh's slope, (1 - y)(1 + y)"),
        (UPSTREAM, "dx", "backward", "dx *= dy", "pass", "the slope alone, without the upstream"),
        (RANGE, "y", "forward", "np.minimum(x, number(80, x.dtype))", "np.clip(x, -30, 30)",
         "x clipped on both sides"),
        (RANGE, "overflow", "forward", "np.minimum(x, number(80, x.dtype))", "x.copy()", "an overflow that warns"),
    ),
    *of(
        "gelu",
        (FACTOR, "dx", "backward", "3 * _GELU_CUBIC", "3 * 0.44715", "0.44715 for 0.044715"),
        (FACTOR, "dx", "backward", "3 * _GELU_CUBIC", "_GELU_CUBIC", "the 3 of x^3's slope missing"),
        (FACTOR, "dx", "backward", "number(2 * _SQRT_2_OVER_PI, slope.dtype)", "1.702",
         "the constant of the sigmoid form"),
        (TERM, "dx", "backward", "slope += s\n", "pass\n", "half of the product rule"),
        (TERM, "dx", "backward", "slope *= x\n", "pass\n", "the factor x of x s'(x) missing"),
        (TERM, "dx", "backward", "tail *= s\n", "pass\n", "tanh's slope with one factor"),
        (FACTOR, "", "_normal", "-0.5 * NAT", "-NAT", "exp(-x^2) for exp(-x^2/2)"),
        (FACTOR, "dx", "_normal", "_SQRT_1_OVER_2PI", "_SQRT_2_OVER_PI",
         "sqrt(2/pi) for 1/sqrt(2 pi)"),
        (VALUE, "dx", "forward", "(None, None, slope)", "gelu(x)[1]",
         "the tanh form's slope under the exact forward"),
        (FACTOR, "y", "_gelu_argument", "number(_SQRT_2_OVER_PI, u.dtype)", "0.7979", "sqrt(2/pi) rounded to four digits"),
        (VALUE, "", "_normal", "x > 0", "x < 0", "the tail on the wrong side"),
        (TERM, "", "_normal", "np.subtract(", "np.add(", "1 + tail for 1 - tail"),
        (VALUE, "dx", "_exact_gelu", "slope_now *= x_now", "slope_now *= x_now ** 2",
         "the factor x of x s'(x) twice"),
        (TERM, "dx", "_exact_gelu", "slope_now *= x_now", "pass", "the factor x of x s'(x) missing, the exact form"),
        (TERM, "dx", "_exact_gelu", "slope_now += y_now", "pass",
         "half of the product rule of the exact form"),
        (MEMORY, "read-only", "backward", "return upstream(\"gelu\", dy, slope.shape, slope.dtype) * slope",
         "slope *= upstream(\"gelu\", dy, slope.shape, slope.dtype)\n        return slope",
         "the cached slope as scratch"),
        (RANGE, "y", "_normal", "if x.dtype == np.float64 else _TAIL32", "if x.dtype != np.float64 else _TAIL32",
         "nine terms where there should be 23"),
        (MEMORY, "read-only", "backward", "np.asarray(quietly(np.multiply, x, x))", "np.multiply(x, x, out=s)",
         "a cached array as scratch"),
    ),
    *of(
        "softmax",
        (TERM, "dx", "backward", "dy - np.vecdot(dy, y)[..., None]", "dy.copy()", "the sum over the row dropped"),
        (TERM, "dx", "backward", "dy - np.vecdot(dy, y)[..., None]", "dy * (1 - y)",
         "only the diagonal of the Jacobian"),
        (MEAN, "dx", "backward", "np.vecdot(dy, y)[..., None]", "(dy * y).mean(-1, keepdims=True)",
         "the mean over the row for the sum"),
        (ORDER, "dx", "backward", "np.vecdot(dy, y)[..., None]", "(dy * y).sum(0)", "the sum over the batch"),
        (SHAPE, "", "backward", "np.vecdot(dy, y)[..., None]", "np.vecdot(dy, y)",
         "keepdims missing: fits only where rows and columns are as many"),
        (SIGN, "dx", "backward", "dy - np.vecdot", "dy + np.vecdot", "the row's sum added"),
        (VALUE, "dx", "backward", "np.vecdot(dy, y)[..., None]", "dy.sum(-1, keepdims=True)",
         "the upstream summed without its weights"),
        (RANGE, "overflow", "forward", "x - x.max(axis=-1, keepdims=True)", "x.copy()", "exp without the row maximum"),
        (RANGE, "", "forward", "x.max(axis=-1, keepdims=True)", "x.max()",
         "the maximum of the whole batch: a low row underflows"),
        (DTYPE, "dx", "backward", "np.vecdot(dy, y)", "np.vecdot(dy.astype(float), y)",
         "a sum in float64 promotes float32"),
    ),
    *of(
        "dropout",
        (FACTOR, "dx", "backward", "dy * mask", "dy * (mask > 0)", "1 / (1 - p) missing in the backward"),
        (FACTOR, "y", "forward", "/ x.dtype.type(1 - p)", "* x.dtype.type(1 - p)", "multiplied by 1 - p"),
        (TERM, "dx", "backward", "dy * mask", "dy.copy()", "the mask forgotten"),
        (MASK, "y", "kept", "return generator.bernoulli(1 - p,", "return generator.bernoulli(p,",
         "keeps what is to be dropped"),
        (DTYPE, "y", "forward", "x.dtype.type(1 - p)", "(1 - p)", "a float64 mask promotes float32"),
        (MEMORY, "dx", "backward", "return dy * mask", "return dy if mask.all() else dy * mask",
         "hands dy itself on where nothing is dropped"),
        (STATE, "dx", "backward", "(mask,) = cache",
         "(mask,) = vars(dropout_backward).setdefault(str(cache[0].shape), cache)", "the mask of an earlier call"),
    ),
    *of(
        "cross_entropy",
        (UPSTREAM, "dlogits", "backward", "np.array(dloss / n, e.dtype)", "np.array(1 / n, e.dtype)",
         "the loss taken for the last value"),
        (MEAN, "dlogits", "backward", "dloss / n,", "dloss / len(e),", "the mean over all positions, ignored ones too"),
        (MEAN, "dlogits", "backward", "dloss / n,", "dloss,", "the sum for the mean"),
        (MASK, "dlogits", "backward", "e * share[:, None]", "e / total[:, None]",
         "ignored positions not zeroed"),
        (MASK, "dlogits", "backward", "one_hot(targets, V, e.dtype)",
         "one_hot(targets, V, e.dtype) * (targets != 0)[:, None]", "target 0 taken for padding"),
        (TERM, "dlogits", "backward", "dlogits -= one_hot(targets, V, e.dtype)", "pass", "the one-hot term dropped"),
        (FACTOR, "dlogits", "backward", "one_hot(targets, V, e.dtype)",
         "one_hot(targets, V, e.dtype) / scale", "the one-hot term not scaled"),
        (SIGN, "dlogits", "backward", "dlogits -= one_hot", "dlogits += one_hot", "the one-hot term added"),
        (ORDER, "dlogits", "backward", "one_hot(targets, V, e.dtype)", "one_hot(targets, V, e.dtype).sum(0)",
         "the targets' columns in every row"),
        (MEMORY, "read-only", "backward", "e / total[:, None]", "np.divide(e, total[:, None], out=e)",
         "the cached exponentials as scratch"),
        (SHAPE, "dlogits", "backward", "dlogits.reshape(shape)", "dlogits", "the leading axes left flattened"),
        (DTYPE, "dlogits", "backward", "dlogits *= scale", "dlogits = dlogits * np.float64(scale)",
         "a float64 scalar promotes float32"),
        (RANGE, "overflow", "_exponentials", "z = z - largest[:, None]", "z = z.copy()",
         "exp without the row maximum"),
        (MEAN, "y", "forward", "len(targets) if n is None", "len(z) if n is None", "the mean over all positions, ignored ones too, in both passes"),
    ),
    *of(
        "cross_entropy_rows",
        (DUPLICATES, "dlogits", "cross_entropy_backward", "np.bincount(places, minlength=e.size)",
         "np.isin(np.arange(e.size), places)", "a target that two positions have in common counted once"),
        (TERM, "dlogits", "cross_entropy_backward", "e * share[:, None]", "e / total[:, None]",
         "the softmax of a row taken once for all its positions"),
        (SIGN, "dlogits", "cross_entropy_backward", "dlogits -= count", "dlogits += count", "the targets' term added"),
        (VALUE, "y", "cross_entropy", "nll.take(rows)", "nll[:1].repeat(len(rows))", "the sum of the first row for all"),
        (ORDER, "y", "cross_entropy", "rows[counted]", "rows[: len(counted)]", "the rows of others, where some positions are ignored"),
    ),
    *of(
        "batch_norm",
        (MEAN, "dx", "backward", "dgain / (divisor * std)", "dgain / (n * std)", "n for n - 1 in the variance's term"),
        (MEAN, "dx", "backward", "dgain / (divisor * std)", "dgain / ((n - 1) * std)", "n - 1 for n under the biased variance"),
        (MEAN, "dx", "backward", "dbias / n", "dbias / divisor", "n - 1 for n in the mean's term"),
        (TERM, "dx", "backward", "dx -= dbias / n", "pass", "the gradient through the mean dropped"),
        (TERM, "dx", "backward", "dx = dy - centred * (dgain / (divisor * std))", "dx = dy.copy()",
         "the gradient through the variance dropped"),
        (TERM, "dx", "backward", "dx = dy - centred * (dgain / (divisor * std))  # directly and through the variance\n"
         "    dx -= dbias / n", "dx = dy.copy()", "the statistics taken for constants"),
        (FACTOR, "dx", "backward", "dx *= slope", "dx /= std", "gain missing"),
        (FACTOR, "dx", "backward", "dx *= slope", "dx *= slope * std", "1 / sqrt(var) missing"),
        (SIGN, "dx", "backward", "dy - centred", "dy + centred", "the variance's term added"),
        (MEAN, "dbias", "backward", "dx.reshape(shape)), dgain, dbias",
         "dx.reshape(shape)), dgain, dbias / n", "dbias averaged over the batch"),
        (SHAPE, "dgain", "backward", "dx.reshape(shape)), dgain,", "dx.reshape(shape)), dgain[None],",
         "dgain as (1, C), as keepdims leaves it"),
        (STATE, "dgain", "backward", "sum_rows(dy * centred, out[0])", "sum_rows(dy * centred)", "dgain not placed in `out`"),
        (MEMORY, "read-only", "backward", "dx = dy - centred * (dgain / (divisor * std))",
         "dx = dy - np.multiply(centred, dgain / (divisor * std), out=centred)", "the cache as scratch"),
        (DTYPE, "", "sum_rows", "ones(len(x), x.dtype)", "np.ones(len(x))", "a float64 vector of ones promotes float32"),
        (EPSILON, "dx", "backward", "dx *= slope", "dx *= slope * std / np.sqrt(std * std + dy.dtype.type(1e-5))",
         "eps added a second time"),
        (EPSILON, "y", "forward", "std += number(eps, x.dtype)\n    np.sqrt(std, out=std)\n",
         "np.sqrt(std, out=std)\n    std += number(eps, x.dtype)\n",
         "eps beside the root, not under it"),
        (RANGE, "", "forward", "sum_rows(centred * centred)", "sum_rows(rows * rows) - n * mean * mean",
         "E[x^2] - E[x]^2, which cancels"),
    ),
    *of(
        "batch_norm_inference",
        (SIGN, "dmean", "backward", "-dbias * slope", "dbias * slope", "dmean with the sign of dx"),
        (MEAN, "dmean", "backward", "-dbias * slope", "-dbias * slope / len(flat)", "dmean averaged over the batch"),
        (TERM, "dmean", "backward", "-dbias * slope", "np.zeros_like(dbias)", "the mean taken for a constant"),
        (FACTOR, "dvar", "backward", "slope * inv * -0.5", "slope * -0.5", "one power of 1 / sqrt(var) too few"),
        (FACTOR, "dvar", "backward", "inv * -0.5", "-inv", "the half of the root's slope missing"),
        (VALUE, "dgain", "backward", "flat * as_rows(xhat)", "flat * as_rows(xhat) / inv",
         "dgain from x - mean, not normalised"),
        (TERM, "dx", "backward", "dy * slope,", "(dy - dbias / len(flat)) * slope,",
         "the gradient through a batch mean that is not there"),
        (MEMORY, "read-only", "forward", "inv = var + eps", "inv = np.add(var, eps, out=var)",
         "eps added to the caller's variance"),
    ),
    *of(
        "layer_norm",
        (TERM, "dx", "backward", "dx -= mean[:, None]", "pass", "the gradient through the mean dropped"),
        (TERM, "dx", "backward", "dx -= xhat * projection[:, None]", "pass",
         "the gradient through the variance dropped"),
        (TERM, "dx", "backward", "inv.dot(gain[None])", "inv * np.ones_like(gain)", "gain missing in dx"),
        (MEAN, "dx", "backward", "projection /= C", "projection /= max(C - 1, 1)",
         "C - 1 for C: the biased variance taken for the unbiased"),
        (MEAN, "dgain", "backward", "sum_rows(dy * xhat, out[0])", "sum_rows(dy * xhat, out[0]) / len(dy)",
         "dgain averaged over the rows"),
        (ORDER, "dx", "backward", "dx -= mean[:, None]", "dx -= dx.sum(0) / len(dx)",
         "the mean over the batch, as in batch norm"),
        (FACTOR, "dx", "backward", "inv.dot(gain[None])", "np.ones_like(inv).dot(gain[None])", "1 / sqrt(var) missing"),
        (VALUE, "dbias", "backward", "sum_rows(dy, out[1])", "sum_rows(dy * gain, out[1])", "dbias with the gain"),
        (SIGN, "dx", "backward", "dx -= xhat * projection", "dx += xhat * projection", "the variance's term added"),
        (SHAPE, "", "backward", "if with_bias else (dx, dgain)", "if True else (dx, dgain)",
         "the gradient of a bias that is not there"),
        (MEMORY, "read-only", "backward", "    dx *= dy\n", "    dx = np.multiply(dy, dx, out=dy)\n",
         "the upstream as scratch"),
        (EPSILON, "y", "_inverse_rms", "inv += number(eps, inv.dtype)\n    np.sqrt(inv, out=inv)\n",
         "np.sqrt(inv, out=inv)\n    inv += number(eps, inv.dtype)\n", "eps beside the root, not under it"),
        (EPSILON, "y", "_inverse_rms", "inv += number(eps, inv.dtype)", "pass", "eps forgotten"),
    ),
    *of(
        "rms_norm",
        (TERM, "dx", "backward", "g - xhat * projection[:, None]", "g + 0", "the gradient through the scale dropped"),
        (TERM, "dx", "backward", "g - xhat * projection[:, None]",
         "g - xhat * projection[:, None] - g.mean(-1, keepdims=True)", "layer norm's mean subtracted"),
        (MEAN, "dx", "backward", "projection /= number(dy.shape[1], dy.dtype)", "pass", "the sum for the mean"),
        (TERM, "dx", "backward", "dy if gain is None else dy * gain", "dy", "gain missing in dx"),
        (VALUE, "dgain", "backward", "sum_rows(dy * xhat", "sum_rows(g * xhat", "dgain with the gain"),
        (FACTOR, "dx", "backward", "dx *= inv", "dx *= inv * inv", "one power of 1 / rms too many"),
        (EPSILON, "y", "_inverse_rms", "number(eps, inv.dtype)", "number(1e-5, inv.dtype)", "eps a constant, whatever is asked for"),
        (MEMORY, "read-only", "backward", "dx = g - xhat * projection[:, None]",
         "dx = np.subtract(g, xhat * projection[:, None], out=xhat)", "xhat overwritten and returned"),
    ),
    *of(
        "causal_attention",
        (FACTOR, "dqkv", "backward", "ds *= number(scale, ds.dtype)", "pass", "the scale missing in the backward"),
        (FACTOR, "dqkv", "backward", "number(scale, ds.dtype)", "number(scale * scale, ds.dtype)", "the scale applied twice"),
        (FACTOR, "dqkv", "backward", "number(scale, ds.dtype)", "1 / math.sqrt(q.shape[-1])", "the usual scale, whatever is asked for"),
        (FACTOR, "y", "forward", "1 / math.sqrt(C // n_head)", "1 / math.sqrt(C)",
         "the scale of all channels, not of a head"),
        (TERM, "dqkv", "backward", "ds -= _row_sums(ds * p)", "pass", "softmax's sum dropped"),
        (ORDER, "dqkv", "backward", "dq, dk, dv = _heads", "dk, dq, dv = _heads", "dq and dk swapped"),
        (ORDER, "", "backward", "np.matmul(ds.mT, q", "np.matmul(ds, q", "dk without the transpose"),
        (ORDER, "", "backward", "np.matmul(pm.mT, dy", "np.matmul(pm, dy", "dv without the transpose"),
        (TERM, "dqkv", "backward", "dk[..., seen, :] += ", "dk[..., seen, :] = ", "the keys' gradient from the first block that sees them"),
        (TERM, "dqkv", "backward", "dv[..., seen, :] += ", "dv[..., seen, :] = ", "the values' gradient from the first block that sees them"),
        (ORDER, "dqkv", "backward", "reversed(weights)", "weights", "the block that writes comes last and wipes out the others"),
        (VALUE, "y", "forward", "k_t[..., seen]", "k_t[..., -seen.stop :]", "the last keys for the first"),
        (MASK, "y", "_softmax", "p[..., start:] if", "p[..., :q.shape[-2]] if", "the triangle at the first keys of a block"),
        (MASK, "y", "_softmax", "triangles(*q.shape[-3:-1], p.dtype)", "np.tri(q.shape[-2], k=1, dtype=p.dtype)",
         "each position sees the next one"),
        (MASK, "y", "_softmax", "triangles(*q.shape[-3:-1], p.dtype)", "1", "no mask"),
        (MASK, "", "_large_scores", "np.tri(n, m, start,", "np.tri(n, m, 0,", "large scores of a later block see too little"),
        (ORDER, "y", "_heads", "parts, n_head, C // (parts * n_head)).transpose(2, 0, 3, 1, 4)",
         "n_head, parts, C // (parts * n_head)).transpose(3, 0, 2, 1, 4)", "q, k, v side by side in each head"),
        (RANGE, "", "_large_scores", "shift = s.max(axis", "shift = scores.max(axis",
         "the maximum taken before the mask: what is seen underflows"),
        (RANGE, "", "_softmax", "-p.item(p.argmin())) <= _SAFE_SCORE", "-p.min()) <= 600",
         "scores called safe that are so only in float64"),
        (DTYPE, "dqkv", "backward", "np.empty_like(dy, shape=x.shape)", "np.empty(x.shape)",
         "a float64 array to fill"),
        (MEMORY, "dqkv", "backward", "dqkv = np.empty_like(dy, shape=x.shape)",
         "kept = vars(causal_attention_backward)\n"
         "    dqkv = kept.setdefault(f'{shape} {dy.dtype}', np.empty(x.shape, dy.dtype))",
         "a result kept to be filled again by the next call"),
    ),
    *of(
        "causal_attention_dropout",
        (TERM, "dqkv", "causal_attention_backward", "ds *= mask", "pass", "the mask missing on the way to the weights"),
        (TERM, "dqkv", "causal_attention_backward", "pm = p if mask is None else p * mask", "pm = p",
         "the mask missing on the way to the values"),
        (ORDER, "dqkv", "causal_attention_backward", "        ds -= _row_sums(ds * p)\n",
         "        ds -= _row_sums(ds * pm)\n", "softmax's sum with what the mask left"),
        (TERM, "dqkv", "causal_attention_backward", "        ds *= p\n", "        ds *= pm\n", "the mask twice"),
        (FACTOR, "y", "causal_attention", "left[..., now, seen] / p.dtype.type(1 - dropout)",
         "left[..., now, seen].astype(p.dtype)", "the rest not scaled up"),
        (VALUE, "y", "causal_attention", "left[..., now, seen]", "left[..., : now.stop - now.start, seen]",
         "every block takes the masks of the first"),
        (ORDER, "y", "causal_attention", "left.reshape(", "left.swapaxes(0, 1).reshape(",
         "drawn head by head"),
    ),
    *of(
        "rnn",
        (TERM, "da", "backward", "hand_down(dp, dh_t)", "dh_t[: len(dp)] = dp if len(dp) <= len(dh_t) else sum_rows(dp)",
         "the output's own gradient overwritten by what is handed down"),
        (TERM, "da", "backward", "hand_down(dp, dh_t)", "pass", "what later steps hand down dropped"),
        (ORDER, "da", "backward", "hand_down(dp, dh_t)", "hand_down(dp, dh_t[max(len(dh_t) - len(dp), 0) :])",
         "handed down to the last sequences of the step, the first of which have ended"),
        (MASK, "da", "backward", "hand_down(dp, dh_t)", "dh_t += 0 if len(dp) < len(dh_t) else dp if len(dp) == len(dh_t) else sum_rows(dp)",
         "nothing is handed down where a sequence ends"),
        (ORDER, "d", "backward", "w.T.copy()", "w.copy()", "the square weight not transposed"),
        (VALUE, "da", "backward", "da = h * h", "da = np.concatenate(before) ** 2", "the slope at the state before"),
        (VALUE, "dw", "backward", "np.concatenate(before)", "h", "dw from the state after the step"),
        (VALUE, "dw", "backward", "np.concatenate(before)", "np.concatenate([before[0], h])[: len(h)]",
         "dw from the row B places before, which is the state before only where no sequence has ended"),
        (ORDER, "d", "backward", "reversed(steps)", "steps", "the loop run forwards"),
        (MEAN, "dh0", "_state_gradient", "sum_rows(d)", "sum_rows(d) / len(d)", "dh0 averaged over the batch"),
        (SHAPE, "dh0", "backward", "_state_gradient(dp, ndim)", "dp", "dh0 for each sequence, not summed"),
        (MEMORY, "dh0", "_state_gradient", "sum_rows(d)",
         "np.add(vars(_state_gradient).setdefault(f'{d.shape} {d.dtype}', 0 * sum_rows(d)), sum_rows(d),"
         " out=vars(_state_gradient)[f'{d.shape} {d.dtype}'])", "dh0 adds up over the calls"),
        (ORDER, "y", "forward", "continued(p, len(h_t))", "p[::-1][: len(h_t)] if len(h_t) <= len(p) else continued(p, len(h_t))",
         "the last rows of the step before: another sequence's state"),
        (VALUE, "y", "forward", "continued(p, len(h_t))", "continued(first, len(h_t))", "every step starts from the initial states"),
        (MASK, "y", "forward", "p = np.tanh(h_t, out=h_t)", "p[...] = np.tanh(h_t, out=h_t)",
         "the initial states overwritten by the first step's"),
        (ORDER, "dw", "forward", "before.append(p)", "before.append(p[::-1])",
         "dw from another sequence's state"),
        (VALUE, "", "steps_of", "list(map(slice, [0, *ends], ends))",
         "[slice(max(e - s - 1, 0), max(e - 1, s)) for e, s in zip(ends, sizes)]",
         "off by one where a step begins"),
        (VALUE, "", "steps_of", "[0, *ends], ends", "[0, *ends], ends[: len(sizes) - 1 or 1]",
         "the rows of the last step lost"),
        (TERM, "da", "hand_down", "sum_rows(d)", "d[0]", "of the sequences that begin alike one alone hands down"),
        (MEAN, "da", "hand_down", "sum_rows(d)", "sum_rows(d) / len(d)", "what they hand down averaged"),
        (STATE, "", "steps_of", "list(map(slice, [0, *ends], ends))",
         "vars(steps_of).setdefault((len(sizes), len(x)), list(map(slice, [0, *ends], ends)))",
         "the sizes of an earlier batch with as many steps and rows"),
    ),
    *of(
        "gru",
        (VALUE, "da", "backward", "da_c *= z", "da_c *= 1 - z", "1 - z for z at the candidate"),
        (VALUE, "da", "backward", "keep = 1 - z", "keep = z", "z for 1 - z at the state"),
        (VALUE, "dw", "backward", "np.matmul(rp.T, da_c", "np.matmul(p.T, da_c", "the candidate's weight meets the state before its reset"),
        (TERM, "da", "backward", "dp *= r[now]", "dp *= 0", "the path through the reset state dropped"),
        (TERM, "da", "backward", "dp += dh_t\n", "pass\n", "the straight path dropped"),
        (TERM, "da", "backward", "da_zr[now].dot(wzr_back)", "da_zr[now, H:] @ wzr_back[H:]", "the path through the update gate dropped"),
        (FACTOR, "da", "backward", "dp *= r[now]", "pass", "the reset gate missing on the way down"),
        (TERM, "da", "backward", "da_zr[now].dot(wzr_back)", "da_zr[now, :H] @ wzr_back[:H]", "the path through the reset gate dropped"),
        (FACTOR, "da", "backward", "da_r *= p", "pass", "the state missing in the reset gate's gradient"),
        (FACTOR, "da", "_slopes", "slope *= gates\n", "pass\n", "half of the gates' slope"),
        (FACTOR, "da", "_slopes", "slope = 1 - gates\n", "slope = 1 + gates\n", "tanh's slope for a sigmoid"),
        (FACTOR, "da", "_slopes", "1 - gates[2] * gates[2]", "gates[2] * (1 - gates[2])", "sigmoid's slope for a tanh"),
        (SIGN, "da", "backward", "da_z *= c - p", "da_z *= p - c", "the update gate pulls the wrong way"),
        (ORDER, "da", "backward", "p, (z, r, c) =", "p, (r, z, c) =", "the gates' columns swapped"),
        (ORDER, "da", "backward", "hand_down(dp, dh_t)", "hand_down(dp[::-1], dh_t)",
         "handed down to the sequences in reverse"),
        (VALUE, "y", "forward", "continued(p, len(h_t))", "p[::-1][: len(h_t)] if len(h_t) <= len(p) else continued(p, len(h_t))",
         "the last rows of the step before: another sequence's state"),
        (VALUE, "", "forward", "np.multiply(r[now], p, out=rp_t)", "np.multiply(r[now], p[:1], out=rp_t)",
         "the first sequence's state reset for all"),
    ),
    *of(
        "lstm",
        (TERM, "da", "backward", "hand_down(dbefore, dc_t)", "pass", "the cell's own hand-down dropped"),
        (TERM, "da", "backward", "hand_down(dp, dh_t)", "pass", "the state's hand-down dropped"),
        (ORDER, "da", "backward", "hand_down(dbefore, dc_t)", "hand_down(dbefore[::-1], dc_t)",
         "the cell's hand-down goes to the last sequences of the step"),
        (TERM, "da", "backward", "dc_t * f[now]", "dc_t.copy()", "the forget gate missing on the way down"),
        (FACTOR, "da", "backward", "o * (1 - u * u)", "o + 0", "the slope of tanh(c) missing"),
        (FACTOR, "da", "_slopes", "slope[2] = 1 - gates[2] * gates[2]", "pass", "sigmoid's slope for the candidate"),
        (VALUE, "da", "backward", "np.concatenate(c_before)", "cache.cell", "the forget gate meets the new cell"),
        (VALUE, "da", "backward", "dgates[3] *= u", "dgates[3] *= cache.cell", "the output gate meets the cell, not its tanh"),
        (ORDER, "da", "backward", "i, f, g, o = gates", "i, f, o, g = gates", "the columns of g and o swapped"),
        (ORDER, "dh0", "backward", "_state_gradient(dp, h_ndim), _state_gradient(dbefore, c_ndim)",
         "_state_gradient(dbefore, h_ndim), _state_gradient(dp, c_ndim)", "dh0 and dc0 swapped"),
        (TERM, "dc0", "backward", "_state_gradient(dbefore, c_ndim)", "_state_gradient(0 * dbefore, c_ndim)",
         "the first cell taken for a constant"),
        (VALUE, "dw", "backward", "np.concatenate(h_before).T", "np.concatenate(c_before).T",
         "dw from the cell, not the state"),
        (VALUE, "y", "forward", "continued(c, len(h_t))", "continued(c[::-1], len(h_t))",
         "the last cells of the step before"),
    ),
    *of(
        "causal_mean",
        (TERM, "dx", "backward", "hand_down(now, last)", "pass", "only its own mean"),
        (ORDER, "dx", "backward", "pairwise([dx[step] for step in reversed(steps)])",
         "list(pairwise([dx[step] for step in reversed(steps)]))[::-1]",
         "every sum ends with the next step"),
        (ORDER, "dx", "backward", "hand_down(now, last)",
         "now += last[: len(now)]", "the forward's sum, not transposed"),
        (MEAN, "dx", "backward", "/ count", "/ count[-1]", "every sum divided by the whole length"),
        (UPSTREAM, "dx", "backward", "/ count", "* 0 + 1 / count", "the upstream forgotten"),
        (MASK, "y", "forward", "np.arange(1, len(sizes) + 1,", "np.arange(2, len(sizes) + 2,",
         "divided by one more than there are"),
        (DTYPE, "dx", "backward", "/ count", "/ count.astype(float)", "a float64 array promotes float32"),
        (ORDER, "y", "forward", "np.repeat(np.arange(1, len(sizes) + 1, dtype=x.dtype), sizes)",
         "np.sort(np.repeat(np.arange(1, len(sizes) + 1, dtype=x.dtype), sizes))[::-1]", "the counts from the end"),
        (ORDER, "y", "forward", "continued(last, len(now))", "continued(last[::-1], len(now))",
         "the sum of another sequence"),
        (VALUE, "", "steps_of", "[0, *ends], ends", "[0, *ends], ends[:-1]", "the rows of the last step lost"),
        (STATE, "", "backward", "steps, count, shape = cache",
         "steps, count, shape = (vars(causal_mean_backward).setdefault(str(cache[2]), cache)[0], *cache[1:])",
         "the steps of an earlier batch with as many rows"),
    ),
    *of(
        "flatten_consecutive",
        (ORDER, "dx", "backward", "dy.reshape(shape)", "dy.reshape(shape, order='F')", "columns before rows"),
        (ORDER, "dx", "backward", "dy.reshape(shape).copy()",
         "dy.reshape(*shape[:-2], shape[-1], shape[-2]).swapaxes(-1, -2).copy()",
         "channels before time in what was joined"),
        (ORDER, "dx", "backward", "dy.reshape(shape).copy()", "dy.reshape(shape)[..., ::-1, :].copy()",
         "time reversed"),
        (MEMORY, "dx", "backward", ".reshape(shape).copy()", ".reshape(shape)", "a view of dy"),
        (MEMORY, "y", "forward", ".copy()", "", "a view of x"),
    ),
    *of(
        "models.bigram",
        (UPSTREAM, "dlogits.weight", "Model.loss_and_grad", "cross_entropy_backward(dloss, cache)",
         "cross_entropy_backward(1.0, cache)", "the loss taken for the last value"),
        (STATE, "dlogits.weight", "Embedding.backward", "ops.embedding_backward(dy, cache, out=self.weight.grad)",
         "self.weight.grad += ops.embedding_backward(dy, cache)", "gradients add up over the steps"),
        (DUPLICATES, "dlogits.weight", "Embedding.backward", "ops.embedding_backward(dy, cache, out=self.weight.grad)",
         "self.weight.grad[...] = 0; self.weight.grad[cache[0]] += dy", "indexed += keeps one of the repeated rows"),
        (ORDER, "", "Model.packed", "x[counts], y[counts]", "x[counts], y.T[counts.T]", "the targets step by step, the ids word by word"),
    ),
    *of(
        "models.bow",
        (TERM, "d", "Residual.backward", " + dy", "", "the residual's straight path dropped"),
        (MEAN, "dembedding.position", "PositionalEmbedding.backward", "by_step_backward(dy,",
         "by_step_backward(dy / np.bincount(packing.steps)[packing.steps, None].astype(dy.dtype),",
         "the positions' gradient averaged over the batch"),
        (STATE, "dembedding.position", "PositionalEmbedding.backward", "by_step_backward(dy, position, self.position.grad)",
         "by_step_backward(dy, position, self.position.grad); self.position.grad[len(packing.sizes) :] += 1",
         "positions beyond the sequence not zeroed"),
        (ORDER, "y", "PositionalEmbedding.forward", "packing.add_by_step(self.position.data, y)",
         "packing.add_by_step(self.position.data, y.copy()); y += self.position.data.take(np.arange(sum(packing.sizes)) % len(packing.sizes), 0)", "the positions as if a word's rows lay together"),
        (TERM, "d", "CausalMean.backward", "ops.causal_mean_backward(dy, cache)", "dy.copy()",
         "the average taken for the identity"),
    ),
    *of(
        "models.mlp",
        (TERM, "d", "BatchNorm.backward",
         "return ops.batch_norm_backward(dy, cache, out=(self.weight.grad, self.bias.grad))[0]",
         "ops.batch_norm_backward(dy, cache, out=(self.weight.grad, self.bias.grad))\n"
         "    return dy * cache.slope",
         "the batch's statistics taken for constants"),
        (MEAN, "y", "BatchNorm.forward", "self.eps, self.unbiased,", "self.eps, False,", "the biased variance"),
        (STATE, "dhead.bias", "Linear.backward", "if self.bias is None else (self.weight.grad, self.bias.grad)",
         "if self.bias is None else (self.weight.grad, self.bias.grad.copy())", "the bias's gradient placed in a copy"),
    ),
    *of(
        "models.mlp_running",
        (EPSILON, "", "BatchNorm.forward", "ops.batch_norm(x, weight, bias, self.eps,",
         "ops.batch_norm(x, weight, bias, 1e-5,", "the usual eps where there is to be none"),
        (FACTOR, "d", "Tanh.backward", "ops.tanh_backward(dy, cache)", "dy * (1 - cache[0])", "1 - y for 1 - y^2"),
    ),
    *of(
        "models.mlp_deep",
        (ORDER, "d", "BatchNorm.backward", "out=(self.weight.grad, self.bias.grad)",
         "out=(self.bias.grad, self.weight.grad)", "gain's and bias's gradients swapped"),
        (TERM, "d", "Linear.backward", "return ops.linear_backward(dy, cache, out)[0]",
         "dx = ops.linear_backward(dy, cache, out)[0]; return dx * (abs(dx) < 1)",
         "gradients clipped inside the network"),
    ),
    *of(
        "models.mlp_makemore",
        (ORDER, "y", "Window.forward", "np.arange(before, -1, -1)", "np.arange(before + 1)", "the oldest token first"),
        (VALUE, "y", "Window.forward", "self.blank, x.dtype", "0, x.dtype",
         "token 0 for the blank before the start"),
        (STATE, "dhidden.weight", "EmbeddingLinear.backward", "self.table.grad, self.weight.grad, self.bias.grad",
         "self.table.grad, None, self.bias.grad", "the weight's gradient never written"),
        (VALUE, "y", "Window.forward", "first[:, None]", "first[::-1, None]", "every position has the window of another"),
    ),
    *of(
        "models.rnn",
        (TERM, "dembedding.weight", "Recurrent.backward", "out = self.table.grad,", "out = None,",
         "nothing handed on to the embedding"),
        (TERM, "dcell.initial", "Recurrent.backward", "zip(self.states, dstates, strict=True)", "()",
         "the learned first state forgotten"),
        (VALUE, "y", "Packing.targets", "take(self._positions)", "take(np.concatenate([self._places[:1].repeat(B), self._places[1:]]))",
         "the first target of one sequence for all that begin alike"),
        (VALUE, "y", "Packing.targets", "rows[:B] = 0", "rows = np.abs(rows)", "the first targets scored in the rows of others"),
        (VALUE, "y", "Packing.__init__", "self._positions[B - 1 :]", "self._positions[: 1 - B]",
         "the first rows taken for those after the common one"),
        (ORDER, "y", "Packing.pack", "take(self._places, axis=0)", "take(np.sort(self._places), axis=0)",
         "the rows word by word, not step by step"),
        (ORDER, "y", "Packing.__init__", "(-lengths).argsort(kind=\"stable\")", "np.arange(B)",
         "the sequences not sorted by length"),
        (ORDER, "y", "Packing.__init__", "(-lengths).argsort", "lengths.argsort",
         "the shortest sequence first"),
        (VALUE, "y", "Packing.__init__", "lengths[order] > step", "lengths[order] > step + 1",
         "the last position of every sequence left out"),
    ),
    *of(
        "models.gru",
        (STATE, "dcell", "Recurrent.backward", "grad[...] = gradient", "grad[...] += gradient",
         "gradients add up over the steps"),
        (VALUE, "", "Model.packed", "scored_lengths(y != -1)", "(y != -1).sum(axis=1)",
         "the number of scored positions taken for the length, though there are holes"),
        (VALUE, "", "Model.packed", "scored_lengths(y != -1)", "scored_lengths(y > 0)", "a word taken to end before its '.'"),
    ),
    *of(
        "models.lstm",
        (ORDER, "dcell.initial", "Recurrent.backward", "zip(self.states, dstates, strict=True)",
         "zip(self.states, dstates[::-1], strict=True)",
         "the gradients of first state and first cell swapped"),
    ),
    *of(
        "models.wavenet",
        (ORDER, "d", "FlattenConsecutive.backward", "ops.flatten_consecutive_backward(dy, cache)",
         "ops.flatten_consecutive_backward(dy, cache)[..., ::-1, :]", "neighbours swapped"),
        (ORDER, "", "BatchNorm.forward", "ops.batch_norm(x, weight",
         "ops.batch_norm(x[0] if x.ndim == 3 else x, weight",
         "statistics of the first example where there is a time axis"),
    ),
    *of(
        "models.transformer",
        (STATE, "dembedding.token.weight", "Embedding.backward",
         "self.weight.grad += ops.embedding_backward(dy, cache)",
         "self.weight.grad[...] = ops.embedding_backward(dy, cache)", "the tied head's gradient overwritten"),
        (STATE, "dembedding.token.weight", "TiedLinear.backward",
         "ops.linear_backward(dy, cache, out=(self.weight.grad.T,))[0]", "ops.linear_backward(dy, cache)[0]",
         "the tied head's gradient never written"),
        (TERM, "d", "Residual.backward", " + dy", "", "the residual's straight path dropped"),
        (FACTOR, "d", "GELU.backward", "ops.gelu_backward(dy, cache)", "ops.gelu_backward(dy, (None, None, cache[1]))",
         "the slope of a factor that is held fixed"),
        (TERM, "d", "LayerNorm.backward",
         "return ops.layer_norm_backward(dy, cache, out)[0]",
         "return ops.layer_norm_backward(dy, cache, out=[a.copy() for a in out])[0]",
         "gain's and bias's gradients never written"),
        (VALUE, "y", "GELU.forward", "ops.gelu(x, self.approximate)", "ops.gelu(x)", "the tanh form whatever is asked for"),
        (VALUE, "", "CausalAttention.forward", "self.n_head, self.scale, dropout", "self.n_head, None, dropout",
         "the usual scale whatever is asked for"),
        (ORDER, "", "CausalAttention.forward", "return packing.pack(y)",
         "return y.reshape(-1, y.shape[-1])[: len(x)].copy()", "rows word by word where they are to be step by step"),
        (VALUE, "d", "Packing.pack_backward", "np.zeros((B * T, *rest), dy.dtype)", "np.ones((B * T, *rest), dy.dtype)",
         "a gradient where a sequence has ended"),
        (TERM, "d", "Packing.spread_backward", "sum_rows(dx[:, 0], drows[0])", "pass",
         "keys and values of the common start learn from one sequence alone"),
        (VALUE, "y", "Packing.spread", "x[:, 0] = rows[0]", "pass", "one sequence alone has a start"),
    ),
    *of(
        "models.transformer_dropout",
        (TERM, "d", "Dropout.backward", "ops.dropout_backward(packing.pack_backward(dy), cache)", "packing.pack_backward(dy)",
         "the mask forgotten on the way back"),
        (ORDER, "y", "Dropout.forward", "ops.dropout(packing.spread(x), self.p, self.generator)",
         "ops.dropout(x, self.p, self.generator); y = packing.spread(y)", "drawn in the order of the rows, time first"),
        (MASK, "y", "CausalAttention.forward", "self.dropout if training else 0.0", "0.0",
         "nothing dropped from the weights"),
    ),
    *of(
        "models.microgpt",
        (TERM, "d", "RMSNorm.backward", "ops.rms_norm_backward(dy, cache)",
         "(dy.reshape(cache[0].shape) * cache[2]).reshape(dy.shape)", "the root mean square taken for a constant"),
        (MASK, "d", "ReLU.backward", "ops.relu_backward(dy, cache)", "dy.copy()", "relu taken for the identity"),
        (MEAN, "dembedding.position", "PositionalEmbedding.backward", "by_step_backward(dy,",
         "by_step_backward(dy / np.bincount(packing.steps)[packing.steps, None].astype(dy.dtype),",
         "the positions' gradient averaged over the batch"),
        (MEAN, "dembedding.position", "Rectangle.add_by_step_backward", "out[T:] = 0", "out[:T] /= B; out[T:] = 0",
         "the positions' gradient averaged over sequences of one length"),
        (STATE, "dembedding.position", "Rectangle.add_by_step_backward", "out[T:] = 0", "out[T:] += 1",
         "positions beyond sequences of one length not zeroed"),
    ),
)  # fmt: skip


# Edits that look wrong and are not; `mistake` is the reason why.
EQUIVALENT: tuple[Wrong, ...] = (
    *of(
        "relu",
        ("", "", "backward", "y > number(0, y.dtype)", "np.sign(y)", "y is never negative, so its sign is 1 or 0"),
    ),
    *of(
        "sigmoid",
        ("", "", "backward", "dx = 1 - y\n    dx *= y\n", "dx = y - y * y\n",
         "y - y^2 = y (1 - y), and both round alike"),
    ),
    *of(
        "softmax",
        ("", "", "backward", "    return dx",
         "    dx -= dx.sum(-1, keepdims=True) * (y == y.max(-1, keepdims=True)) * dy.dtype.type(0.5)\n    return dx",
         "the subtracted maximum's own gradient: a row of dx adds up to 0, so there is nothing to hand it"),
        ("", "", "backward", "dx = dy - np.vecdot(dy, y)[..., None]",
         "dx = dy - dy[..., :1]; dx -= np.vecdot(dx, y)[..., None]",
         "a constant added to a row of dy cancels against its own weighted mean"),
    ),
    *of(
        "cross_entropy",
        ("", "", "backward", "    dlogits *= scale",
         "    dlogits -= dlogits.sum(-1, keepdims=True) * (e == e.max(-1, keepdims=True)) / 2\n"
         "    dlogits *= scale",
         "the row maximum's own gradient: p - onehot adds up to 0 in every row"),
    ),
    *of(
        "batch_norm",
        ("", "", "backward", "dx -= dbias / n", "dx -= dbias / n; dx += 2 / divisor * dgain * sum_rows(centred / std) / n",
         "the variance's gradient through the mean: the differences from a mean add up to 0"),
    ),
    *of(
        "layer_norm",
        ("", "", "backward", "    projection = np.vecdot(dx, xhat)\n    projection /= C\n    dx -= mean[:, None]",
         "    dx -= mean[:, None]\n    projection = np.vecdot(dx, xhat)\n    projection /= C",
         "xhat adds up to 0 in every row, so the subtracted mean is not seen by it"),
    ),
    *of(
        "causal_attention",
        ("", "", "_softmax", "p.size and max(p.item(p.argmax()), -p.item(p.argmin())) <= _SAFE_SCORE", "False",
         "the maximum subtracted always: softmax does not see it"),
    ),
    *of(
        "embedding",
        ("", "", "backward", "V <= _ONE_HOT_ROWS", "False", "np.add.at for every table: the same sums"),
    ),
    *of(
        "dropout",
        ("", "", "backward", "dy * mask", "np.where(mask > 0, dy * mask, 0)", "the mask is 0 or positive"),
    ),
    *of(
        "causal_mean",
        ("", "", "hand_down", "goes_on += d\n", "goes_on[...] = d + goes_on\n",
         "a sum does not depend on which of two comes first"),
    ),
)  # fmt: skip
