"""What bounds npnet's step: the NumPy calls that compute or copy, the bytes they read and write,
the matrix products.

Calls and bytes are counted in a few steps that are not timed. The model's parameters become arrays
of a class that counts; so does whatever is computed from them, or created meanwhile by np.empty and
its like. Views are free here, as they nearly are.
"""

from collections import Counter
from contextlib import contextmanager

import numpy as np

from benchmarks.measure import Progress, interleave, summary, table
from benchmarks.peers import products
from benchmarks.rows import ROWS, Task
from benchmarks.step import npnet_peer
from npnet.ops import constants
from npnet.train import loop

CREATE = ("empty", "zeros", "ones", "full", "eye", "tri", "arange")
counted: Counter = Counter()


def note(*arrays):
    counted["calls"] += 1
    counted["bytes"] += sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))


def plain(array):
    return array.view(np.ndarray) if isinstance(array, Counted) else array


class Counted(np.ndarray):
    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **options):
        if out:
            options["out"] = tuple(map(plain, out))
        result = getattr(ufunc, method)(*map(plain, inputs), **options)
        note(*inputs, *(out or (result,)))
        if out:
            return out[0] if len(out) == 1 else out
        return result.view(Counted) if isinstance(result, np.ndarray) else result

    def __array_function__(self, function, types, arguments, options):
        result = super().__array_function__(function, types, arguments, options)
        note(result)
        return result

    def __getitem__(self, key):
        result = super().__getitem__(key)
        if isinstance(result, np.ndarray) and not np.may_share_memory(plain(result), plain(self)):
            note(result, result)
        return result

    def __setitem__(self, key, value):
        note(value, value)
        super().__setitem__(key, value)

    def take(self, *arguments, **options):
        result = super().take(*arguments, **options)
        note(result, result)
        return result

    def copy(self, *arguments):
        note(self, self)
        return super().copy(*arguments)

    def dot(self, other, out=None):
        result = super().dot(other, out)
        note(self, other, result)
        return result

    def argmax(self, *arguments, **options):
        note(self)
        return super().argmax(*arguments, **options)


@contextmanager
def counting_arrays():
    """np.empty and its like create arrays that count."""
    kept = {name: getattr(np, name) for name in CREATE}

    def made(create):
        def counting(*arguments, **options):
            result = create(*arguments, **options).view(Counted)
            note(result)
            return result

        return counting

    try:
        for name, create in kept.items():
            setattr(np, name, made(create))
        yield
    finally:
        for name, create in kept.items():
            setattr(np, name, create)


def forget_constants():
    """Those that npnet keeps are made anew: they count as long as new arrays do, and no longer."""
    for kept in vars(constants).values():
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


def count(task, steps=10):
    """{"calls", "bytes"}: means over some steps of npnet, the drawing of the minibatch included."""
    model = task.model
    holders = [model, *model.network.parameters().values()]
    for holder in holders:
        holder.data, holder.grad = holder.data.view(Counted), holder.grad.view(Counted)
    taken = loop(model, task.batches(), task.optimizer(), task.schedule(), steps + 1)
    forget_constants()
    with counting_arrays():
        next(taken)
        counted.clear()
        for _ in taken:
            pass
    forget_constants()
    for holder in holders:
        holder.data, holder.grad = holder.data.view(np.ndarray), holder.grad.view(np.ndarray)
    return {name: total / steps for name, total in counted.items()}


def measure(words, names=None, seconds=0.6):
    """row -> {"npnet" and "products" in seconds, "calls", "bytes"}."""
    names = names or [name for name, row in ROWS.items() if not row.other]
    progress, found = Progress("bounds", len(names)), {}
    for name in names:
        progress.say(name)
        task = Task(name, ROWS[name], words)
        counts = count(task)
        turns = interleave({"npnet": npnet_peer(task), "products": products.peer(task)}, seconds)
        found[name] = {k: v["seconds"] for k, v in summary(turns).items()} | counts
        progress.advance()
    return found


def show(found):
    lines = [
        [
            name,
            f"{row['npnet'] * 1e6:.0f}",
            f"{row['products'] * 1e6:.0f}",
            f"{row['calls']:.0f}",
            f"{row['bytes'] / 1e6:.1f}",
        ]
        for name, row in found.items()
    ]
    print(table(["a step of npnet", "us", "products alone us", "NumPy calls", "MB"], lines))
