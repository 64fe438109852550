"""Several processes at work on one run: the ranks of MPI.

Every rank draws the same minibatches from the same streams and holds the same model. It computes
loss and gradient of its share of the rows; the sums over all ranks are those of the batch, and
every rank makes the same update with them. On one node the ranks have a memory in common: there
each adds up a part of the gradients and updates that part of the parameters, which nobody copies.
A process alone is the one rank of `Alone`, for which all of this is nothing.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import numpy as np

from npnet.layers import BatchNorm, CausalAttention, Dropout
from npnet.model import Model
from npnet.optim import Optimizer
from npnet.packing import scored_lengths
from npnet.random import Generator

PATIENCE = 1.0  # seconds that a rank which has failed waits for the others to fail as well
HEARD = 0.5  # seconds in which a launcher has surely read what a rank has written
PIECE = 1 << 20  # numbers added at a time: beyond, MPICH takes three times as long for each
# Attention looks at pairs of positions and a recurrence takes a step for each of the longest row,
# so a long row costs more than its positions: measured, about length (LONG + length).
LONG = 30
# Environment variables in which launchers tell a process its rank and how many there are. MPICH,
# Intel MPI and srun --mpi=pmi2 set the first pair, Open MPI the second, srun --mpi=pmix the third.
LAUNCHERS = {
    "PMI_RANK": "PMI_SIZE",
    "OMPI_COMM_WORLD_RANK": "OMPI_COMM_WORLD_SIZE",
    "PMIX_RANK": "SLURM_STEP_NUM_TASKS",
}


class Alone:
    """One process, rank 0 of 1.

    stopping says that the run ends after this step, on every rank; `stop` asks for it, and where
    there are several ranks they agree in the next step.
    """

    rank, size = 0, 1
    stopping = wants_to_stop = False
    batch: tuple[int, int] = 0, 0  # rows and longest row of the batch at work
    rows: slice | np.ndarray = slice(None)  # those of this rank

    def add(self, array: np.ndarray) -> np.ndarray:
        """array becomes its sum over all ranks, in place, and is returned; every rank calls."""
        return array

    def memory(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
        """An array that all ranks see, to be filled; None where they have no memory in common or
        no room in it; every rank calls."""
        return None

    def meet(self) -> None:
        """Wait until all ranks have written what they will into such memory; every rank calls."""

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order, on every rank; every rank calls."""
        return [value]

    def stop(self) -> None:
        self.wants_to_stop = True
        self.stopping |= self.size == 1

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """function(item) for every item, the ranks taking turns; every rank gets all results."""
        turns = islice(items, self.rank, None, self.size)
        parts = self.gather([function(item) for item in turns])
        return [parts[i % self.size][i // self.size] for i in range(sum(map(len, parts)))]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """ValueError, unless every rank has the same facts, name -> value."""
        first, *others = self.gather(dict(facts))
        for rank, found in enumerate(others, 1):
            for name, value in first.items():
                if found.get(name) != value:
                    raise ValueError(
                        f"rank {rank} and rank 0 differ in {name}: "
                        f"{found.get(name)!s:.60} and {value!s:.60}"
                    )


ALONE = Alone()


class Ranks(Alone):
    """The ranks of one communicator of mpi4py."""

    def __init__(self, communicator: Any) -> None:
        from mpi4py import MPI

        self._mpi, self._world = MPI, communicator
        self._failed = communicator.Dup()
        self.rank, self.size = communicator.rank, communicator.size
        node = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        self._one_node = node.size == self.size
        self._windows: list[Any] = []

    def add(self, array: np.ndarray) -> np.ndarray:
        flat = array.reshape(-1)
        for start in range(0, flat.size, PIECE):
            self._world.Allreduce(self._mpi.IN_PLACE, flat[start : start + PIECE])
        return array

    def memory(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray | None:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not all(self.gather(self._one_node and size < _room())):
            return None
        own = size if self.rank == 0 else 0
        window = self._mpi.Win.Allocate_shared(own, comm=self._world)
        window.Lock_all(self._mpi.MODE_NOCHECK)
        self._windows.append(window)
        buffer: Any = window.Shared_query(0)[0]
        return np.ndarray(shape, dtype, buffer)

    def meet(self) -> None:
        if self._windows:
            self._windows[-1].Sync()
            self._world.Barrier()
            self._windows[-1].Sync()

    def gather(self, value: Any) -> list[Any]:
        return self._world.allgather(value)

    def all_failed(self) -> bool:
        """Whether every other rank comes here too within PATIENCE seconds."""
        everybody, began = self._failed.Ibarrier(), time.monotonic()
        while not everybody.Test():
            if time.monotonic() - began > PATIENCE:
                return False
            time.sleep(0.01)
        return True

    def abort(self, status: int) -> None:
        """End all ranks; mpiexec returns the status. What MPI itself prints then is dropped, but
        not this rank's last line, which mpiexec must have read before it is told to end."""
        time.sleep(HEARD)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        self._world.Abort(status)


def _room() -> float:
    """How many bytes of common memory can still be had."""
    try:
        room = os.statvfs("/dev/shm")
    except (AttributeError, OSError):
        return math.inf
    return room.f_bavail * room.f_frsize


def launched() -> int | None:
    """The rank that a launcher has given to this process; None where none has started it."""
    for name in LAUNCHERS:
        with contextlib.suppress(KeyError, ValueError):
            return int(os.environ[name])
    return None


def join() -> Alone:
    """The ranks that mpiexec or srun has started together with this process, else ALONE, and then
    nothing of MPI is imported.

    Without mpi4py, or with one of another MPI than the launcher's, ValueError.
    """
    if launched() is None:
        return ALONE
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ValueError(
            f'started by mpiexec, which needs mpi4py: pip install "npnet-trainer[mpi]" ({error})'
        ) from None
    world = MPI.COMM_WORLD
    counts = [os.environ[size] for size in LAUNCHERS.values() if size in os.environ]
    if world.size == 1:
        if counts and counts[0] != "1":
            raise ValueError(
                f"{counts[0]} processes were started by another MPI than mpi4py's, which is "
                f"{MPI.get_vendor()[0]}"
            )
        return ALONE
    return Ranks(world)


def share(lengths: np.ndarray, rank: int, size: int) -> slice | np.ndarray:
    """Which rows of a batch this rank computes, by the length of each, (B,).

    Rows of different lengths are sorted, the longest first, and cut where each rank gets as much
    work, by LONG, to within one row. Rows of a share are thus of similar length, which makes
    attention's rectangle of (rows, longest row) small. Rows may be fewer than ranks.
    """
    B = len(lengths)
    if lengths.min() == lengths.max():
        return _part(B, rank, size)
    order = np.argsort(-lengths, kind="stable")
    work = (lengths * (LONG + lengths))[order]
    ends = 2 * work.cumsum()
    middles = ends - work
    return order[middles * size // ends[-1] == rank]


def _part(n: int, rank: int, size: int) -> slice:
    """The rank's part of n things, as large as those of the others to within one."""
    return slice(n * rank // size, n * (rank + 1) // size)


class Masks:
    """Draws the masks of a whole batch, as one process does, and hands out the rows of a share."""

    def __init__(self, generator: Generator, ranks: Alone) -> None:
        self.generator, self.ranks = generator, ranks

    def bernoulli(self, p: float, shape: Sequence[int]) -> np.ndarray:
        """shape (b, t, C), or (b, n_head, t, t) for the weights of attention."""
        (B, T), t = self.ranks.batch, shape[-2]
        if len(shape) == 3:
            return self.generator.bernoulli(p, (B, T, shape[2]))[self.ranks.rows, :t]
        return self.generator.bernoulli(p, (B, shape[1], T, T))[self.ranks.rows, :, :t, :t]


def connect(model: Model, ranks: Alone) -> None:
    """Let the layers of a model that look at a batch as a whole look at all shares of it."""
    if ranks.size == 1:
        return
    for _, layer in model.network.walk():
        if isinstance(layer, BatchNorm):
            layer.total = ranks.add
        if isinstance(layer, Dropout | CausalAttention):
            drawn = layer.generator
            if drawn is not None and not isinstance(drawn, Masks):
                layer.generator = cast(Generator, Masks(drawn, ranks))


def share_update(model: Model, optimizer: Optimizer, ranks: Alone) -> None:
    """Where the ranks have a memory in common, keep the gradients of each there for `add_up`, and
    one copy of the parameters and of the optimiser's state, of which each rank updates a part."""
    if ranks.size == 1:
        return
    vectors = [array for array in optimizer.state().values() if array.ndim]
    rows = ranks.memory((ranks.size + 1 + len(vectors), len(model.row)), model.row.dtype)
    if rows is None:
        return
    data, *state = rows[ranks.size :, :-2]
    model.move(data, rows[: ranks.size], ranks.rank)
    optimizer.move(data, model.grad, state, _part(len(data), ranks.rank, ranks.size))
    optimizer.total = ranks.add


def share_loss_and_grad(
    model: Model, x: np.ndarray, y: np.ndarray, ranks: Alone, dloss: float = 1.0
) -> np.floating:
    """model.loss_and_grad of this rank's share of a batch, (x, y); the model is one that `connect`
    has seen. `add_up` then makes both whole."""
    if ranks.size == 1:
        return model.loss_and_grad(x, y, dloss)
    counts = y != -1
    lengths = scored_lengths(counts if counts.ndim > 1 else counts[:, None])
    ranks.rows, ranks.batch = share(lengths, ranks.rank, ranks.size), (len(y), int(lengths.max()))
    n = int(np.count_nonzero(counts))
    return model.loss_and_grad(x[ranks.rows], y[ranks.rows], dloss, n)


def add_up(model: Model, loss: np.floating, ranks: Alone) -> np.floating:
    """The sum of the losses of all ranks, on every rank, and whether one of them wants to stop. In
    model.grad the gradients are added up, or of those in common memory the part that this rank
    updates."""
    if ranks.size == 1:
        return loss
    model.row[-2:] = loss, ranks.wants_to_stop
    if len(model.sums) == 1:
        loss, wanted = ranks.add(model.row)[-2:]
    else:
        add_rows(model.sums[:, :-2], ranks)
        loss, wanted = np.add.reduce(model.sums[:, -2:], axis=0)
    ranks.stopping = bool(wanted > 0)
    return loss


def add_rows(rows: np.ndarray, ranks: Alone) -> None:
    """Of rows in common memory, one for each rank, a part of this rank's becomes the sum of that
    part of all. Nobody else reads it; all may write their rows again when they have met."""
    ranks.meet()
    part = _part(rows.shape[1], ranks.rank, ranks.size)
    for rank, row in enumerate(rows):
        if rank != ranks.rank:
            rows[ranks.rank, part] += row[part]
