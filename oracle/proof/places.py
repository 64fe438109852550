"""Where a wrong gradient is wrong: its numbers are in another order, or right at some places and
not at others."""

import itertools

import numpy as np

from oracle.proof.wrong import Wrong, distinct, evidence, near, same


def order(wrong: Wrong) -> str:
    """All the right numbers, or all but those at an edge, at other places."""
    got, want = wrong.got, wrong.want
    if distinct(want) < 2:
        return ""
    for i, j in itertools.combinations(range(got.ndim), 2):
        if wrong.is_(want.swapaxes(i, j)):
            return "it is transposed" if got.ndim == 2 else f"axes {i} and {j} are swapped"
    for axis in range(got.ndim):
        if got.shape[axis] > 1 and wrong.is_(np.flip(want, axis)):
            return f"it is in reversed order along axis {axis}"
    for axis in range(got.ndim):
        g, w = np.moveaxis(got, axis, 0), np.moveaxis(want, axis, 0)
        if len(w) < 3 or near(w[1:], w[:-1], wrong.tolerance).mean() > 0.5:
            continue
        for a, b in ((g[1:], w[:-1]), (g[:-1], w[1:])):
            if distinct(b) > 1 and same(a, b, wrong.tolerance):
                return f"it is shifted by one along axis {axis}"
    if distinct(want) < 3:
        return ""
    for axes in itertools.permutations(range(got.ndim)):
        shuffled = np.ascontiguousarray(want.transpose(axes))
        back = want.reshape([got.shape[i] for i in axes]).transpose(np.argsort(axes))
        if wrong.is_(shuffled.reshape(got.shape)) or wrong.is_(back):
            return "its numbers are right but in another order: a reshape stands for a transpose"
    for axis in range(got.ndim):
        rows, right = (np.moveaxis(a, axis, 0).reshape(got.shape[axis], -1) for a in (got, want))
        if len(rows) > 2 and len(rows) * rows.size < 1e6 and permuted(rows, right, wrong):
            return f"its numbers are right but in another order along axis {axis}"
    return ""


def permuted(got: np.ndarray, want: np.ndarray, wrong: Wrong) -> bool:
    allowed = wrong.tolerance * (np.abs(want) + 0.01 * np.abs(wrong.want).max())
    equal = (np.abs(got[:, None] - want) <= allowed).all(2)
    rows, columns = np.nonzero(equal)
    return len(rows) == len(got) == len(set(columns)) == len(set(rows))


def signs(wrong: Wrong) -> str:
    got, want, x = wrong.got, wrong.want, wrong.x
    if not same(np.abs(got), np.abs(want), wrong.tolerance) or distinct(want) < 3:
        return ""
    if wrong.is_(np.abs(want)):
        return "its signs are lost: this is the absolute value of the right gradient"
    if (
        x is not None
        and x.min() < 0 < x.max()
        and distinct(want) > 7
        and wrong.is_(want * np.sign(x))
    ):
        return "sign(x) is missing, or too many: it is right where x is positive"
    count = int((~wrong.right()).sum())
    return f"all its numbers are right but for the sign of {count} of {got.size}"


def clipped(wrong: Wrong) -> str:
    limit = np.abs(wrong.got).max()
    cut = np.abs(wrong.want) > limit * (1 + 1e-3)
    if evidence(wrong.want[~cut]) > 1 < cut.sum() and wrong.is_(wrong.want.clip(-limit, limit)):
        return f"it is clipped at {limit:.6g}: clipping belongs to the optimiser"
    return ""


def place(wrong: Wrong) -> str:
    """Which elements are right, and which are not."""
    got, want, right = wrong.got, wrong.want, wrong.right()
    count = int(right.sum())
    if not (right & (want != 0)).any() or count == got.size:
        return ""
    found = at_values(wrong, right) or at_edges(wrong, right) or on_diagonal(right)
    if found:
        return found
    if not got[~right].any() and got.size > 2:
        return (
            f"{got.size - count} of its {got.size} elements are 0 and should not be, "
            "the others are right"
        )
    return f"{count} of its {got.size} elements are right"


def at_values(wrong: Wrong, right: np.ndarray) -> str:
    """Elements whose input is zero, negative, positive, or not unique."""
    x = wrong.x
    if x is None or x.shape != right.shape or x.dtype.kind != "f" or right.size < 3:
        return ""
    if np.array_equal(~right, x == 0):
        return "it is wrong only where the input is 0"
    for text, there in (("negative", x < 0), ("positive", x > 0)):
        if np.array_equal(~right, there) and min(right.sum(), (~right).sum()) > 3:
            what = "0, and not right," if not wrong.got[there].any() else "wrong only"
            return f"it is {what} where the input is {text}"
    return ""


def at_edges(wrong: Wrong, right: np.ndarray) -> str:
    got, want = wrong.got, wrong.want
    for axis in range(got.ndim):
        n = got.shape[axis]
        others = tuple(i for i in range(got.ndim) if i != axis)
        bad = np.flatnonzero((~right).any(others))
        good = np.delete(want, bad, axis)
        if len(bad) == n or evidence(good) < 2:
            continue
        zero = not np.take(got, bad, axis).any()
        edge = {0: "the first", n - 1: "the last"}
        if len(bad) == 1 and bad[0] in edge and (zero or n > 3):
            missing = "missing (zeros)" if zero else "wrong"
            return f"{edge[bad[0]]} along axis {axis} is {missing}, the rest is right"
        if zero and n > 2 and len(bad) == n - 1:
            there = edge.get(int(np.setdiff1d(np.arange(n), bad)[0]))
            if there:
                return f"only {there} along axis {axis} is there, the rest is zeros"
    return ""


def on_diagonal(right: np.ndarray) -> str:
    n = len(right) if right.ndim else 0
    if right.shape != (n, n) or n < 3:
        return ""
    diagonal = np.eye(n, dtype=bool)
    if np.array_equal(right, diagonal):
        return "only its diagonal is right"
    if np.array_equal(right, ~diagonal):
        return "only its diagonal is wrong"
    lower = np.tri(n, dtype=bool)
    for text, there in (("below", lower), ("above", lower.T)):
        if np.array_equal(right, there):
            return f"it is right only on the diagonal and {text} it"
    return ""


def not_finite(got: np.ndarray, want: np.ndarray, x: np.ndarray | None, dtype: np.dtype) -> str:
    """What makes NaN or infinity of a gradient that is finite."""
    bad = ~np.isfinite(got)
    if x is None or x.shape != got.shape or x.dtype.kind != "f" or got.size < 3:
        return ""
    if not np.isfinite(want).all() or not np.isfinite(x).all():
        return ""
    if np.array_equal(bad, x == 0):
        return "it divides by the input, or by a power of it, where that is 0"
    if got.ndim and got.shape[-1] > 1:
        rows = bad.all(-1) if np.array_equal(bad.any(-1), bad.all(-1)) else None
        if rows is not None and np.array_equal(rows, ~x.any(-1)):
            return "it divides by the length of a row, which is 0 where the row is all zeros"
        if rows is not None and np.array_equal(rows, np.ptp(x, -1) == 0):
            return "it divides by the spread of a row, which is 0 where the row is constant"
    if np.abs(x[bad]).min() < 0.4 * np.log(np.finfo(dtype).max):
        return ""
    for text, size in (("", np.abs(x)), ("positive and ", x), ("negative and ", -x)):
        least = size[bad].min()
        if least > max(0, size[~bad].max(initial=0)):
            return f"it overflows where the input is {text}large, from {least:.3g}: exp or a power"
    return ""
