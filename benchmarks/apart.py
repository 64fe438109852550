"""Peers in a process of their own, as their users have them. npnet tells the C library and the
kernel how to hand out memory, and whatever works in its process works in that memory too."""

import gc
import signal
import traceback
from functools import partial
from multiprocessing import Pipe, get_context

from benchmarks.measure import Peer


class Apart:
    """Another process; it ends with the `with` statement, or with this process."""

    def __enter__(self):
        self._pipe, theirs = Pipe()
        self._process = get_context("spawn").Process(target=_serve, args=(theirs,), daemon=True)
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # and so it is in the child
        try:
            self._process.start()
        finally:
            signal.signal(signal.SIGINT, handler)
        theirs.close()
        return self

    def __exit__(self, *error):
        self._process.kill()
        self._process.join()

    def call(self, function, *arguments):
        """function(*arguments), called there. An OSError comes back as one, anything else as a
        RuntimeError with the traceback."""
        try:
            self._pipe.send((function, arguments))
            error, result = self._pipe.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError("the process of torch and JAX has died") from None
        if error:
            raise error(result)
        return result

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
        self._ask = partial(apart.call, _ask, name)
        check = partial(self._ask, "check") if checks else None
        super().__init__(partial(self._ask, "train"), check, chunk)

    def seconds(self, n):
        return self._ask("seconds", n)


# In the other process

_makers, _peers = {}, {}


def _serve(pipe):
    gc.disable()  # garbage is collected between rows, where nothing is timed
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        try:
            answer = None, function(*arguments)
        except OSError as error:
            answer = OSError, str(error)
        except Exception:
            answer = RuntimeError, traceback.format_exc()
        pipe.send(answer)


def _begin(function, *arguments):
    _peers.clear()
    _makers.clear()
    gc.collect()
    _makers.update(function(*arguments))
    return list(_makers)


def _make(name):
    peer = _peers[name] = _makers[name]()
    return peer.check is not None, peer.chunk


def _ask(name, method, *arguments):
    return getattr(_peers[name], method)(*arguments)
