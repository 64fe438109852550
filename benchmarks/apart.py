"""Peers in a process of their own, as their users have them. npnet tells the C library and the
kernel how to hand out memory, and whatever works in its process works in that memory too."""

import gc
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

from benchmarks.measure import Peer


class Apart:
    """Another process; it lasts as long as the `with` statement."""

    def __init__(self):
        self._pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_start)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._pool.shutdown()

    def call(self, function, *arguments):
        return self._pool.submit(function, *arguments).result()

    def makers(self, function, *arguments):
        """What function(*arguments) returns there, name -> a function that makes a Peer, with peers
        that work there. The peers made before are forgotten."""
        return {
            name: partial(_Elsewhere, self, name)
            for name in self.call(_begin, function, *arguments)
        }


class _Elsewhere(Peer):
    def __init__(self, apart, name):
        checks, chunk = apart.call(_make, name)
        check = partial(apart.call, _check, name) if checks else None
        super().__init__(partial(apart.call, _train, name), check, chunk)
        self.seconds = partial(apart.call, _seconds, name)


# In the other process

_makers, _peers = {}, {}


def _start():
    gc.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the one that it works for


def _begin(function, *arguments):
    _peers.clear()
    _makers.clear()
    _makers.update(function(*arguments))
    gc.collect()
    return list(_makers)


def _make(name):
    peer = _peers[name] = _makers[name]()
    return peer.check is not None, peer.chunk


def _train(name, n):
    _peers[name].train(n)


def _check(name, *inputs):
    return _peers[name].check(*inputs)


def _seconds(name, n):
    return _peers[name].seconds(n)
