"""A run shared among ranks, here threads of one process: the same sums as alone, whoever has which
rows."""

import subprocess
import sys
import threading

import numpy as np
import pytest
from command_line import ENVIRONMENT
from hypothesis import given
from hypothesis import strategies as st
from shared_runs import KINDS, T, batch, distance, small

from npnet import ops
from npnet import ranks as module
from npnet.data import Vocabulary
from npnet.optim import AdamW, clip_grad_norm
from npnet.random import TorchGenerator
from npnet.ranks import (
    ALONE,
    LONG,
    Alone,
    add_up,
    connect,
    join,
    share,
    share_loss_and_grad,
    share_update,
)
from npnet.sample import generate
from npnet.score import score_words


class Thread(Alone):
    """One of several threads that meet to add up and to gather."""

    def __init__(self, rank, meeting, values):
        self.rank, self.size, self.meeting, self.values = rank, len(values), meeting, values

    def meet(self):
        self.meeting.wait(60)

    def gather(self, value):
        self.values[self.rank] = value
        self.meeting.wait(60)
        found = list(self.values)
        self.meeting.wait(60)
        return found

    def add(self, array):
        array[...] = sum(self.gather(array.copy()))
        return array


class OneMemory(Thread):
    """With the memory that threads have in common."""

    def memory(self, shape, dtype):
        return self.gather(np.full(shape, np.nan, dtype))[0]  # as good as anything to begin with


def in_threads(size, work, kind=Thread):
    """work(ranks) in `size` threads at once -> the result of each."""
    meeting, values, results, errors = threading.Barrier(size), [None] * size, [None] * size, []

    def run(rank):
        try:
            with np.errstate(all="ignore"):
                results[rank] = work(kind(rank, meeting, values))
        except threading.BrokenBarrierError:
            pass  # another thread has failed
        except BaseException as error:
            errors.append(error)
            meeting.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


def one_step(kind, ranks, B, seed):
    """Loss, norm of the gradient, clipped gradient and running statistics of one batch, parameters
    and moments after it."""
    model = small(kind)
    optimizer = AdamW(model.data, model.grad, eps=1e-2)
    connect(model, ranks)
    share_update(model, optimizer, ranks)
    x, y = batch(model, B, np.random.default_rng(seed))
    loss = add_up(model, share_loss_and_grad(model, x, y, ranks), ranks)
    norm = clip_grad_norm(optimizer.grad, 0.1, optimizer.total)
    grad = optimizer.grad
    if optimizer.total:
        grad = np.concatenate(ranks.gather(grad))
    optimizer.step(0.1)
    ranks.meet()
    statistics = np.concatenate([[0.0], *model.buffers().values()])
    return np.array([loss, norm]), grad, statistics, model.data, *optimizer.state().values()


@pytest.mark.parametrize("threads", [Thread, OneMemory])
@given(st.sampled_from(KINDS), st.integers(1, 4), st.integers(1, 9), st.integers(0, 999))
def test_a_shared_step_is_the_step_of_one(threads, kind, size, B, seed):
    B += small(kind).windowed  # BatchNorm needs two rows
    expected = one_step(kind, ALONE, B, seed)
    for found in in_threads(size, lambda ranks: one_step(kind, ranks, B, seed), threads):
        assert distance(found, expected) < 1e-12


@pytest.mark.parametrize("scale", [1e-18, 1e25])
def test_a_shared_batch_norm_has_the_range_of_one(scale):
    """1e25 squared is infinite in float32; a rank without rows takes part."""
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32) * np.float32(scale)
    dy = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)

    def passes(total, rows):
        gain, bias = np.full(3, 2, np.float32), np.ones(3, np.float32)
        y, cache = ops.batch_norm(x[rows], gain, bias, total=total)
        return y, *ops.batch_norm_backward(dy[rows], cache)

    shares = [slice(0, 4), slice(4, 5), slice(5, 5)]
    with np.errstate(over="ignore", invalid="ignore"):
        expected = passes(None, slice(None))
    found = in_threads(3, lambda ranks: passes(ranks.add, shares[ranks.rank]))
    y, dx, dgain, dbias = zip(*found, strict=True)
    joined = np.concatenate(y), np.concatenate(dx), sum(dgain), sum(dbias)
    assert all(np.isfinite(whole).all() for whole in expected)
    assert distance(joined, expected) < 1e-5


@given(st.lists(st.integers(1, T), min_size=1, max_size=40), st.integers(1, 7))
def test_every_row_is_in_one_share_and_the_work_is_even(lengths, size):
    lengths = np.array(lengths)
    rows = [np.arange(len(lengths))[share(lengths, rank, size)] for rank in range(size)]
    together = np.concatenate(rows)
    assert sorted(together) == list(range(len(lengths)))
    if lengths.min() < lengths.max():
        assert (np.diff(lengths[together]) <= 0).all()  # those of a share are alike
        work = lengths * (LONG + lengths)
        loads = [work[part].sum() for part in rows]
        assert all(abs(load - work.sum() / size) <= work.max() for load in loads)


def test_rows_of_one_length_are_shared_evenly_too():
    for B, size in ((12, 2), (7, 3), (2, 4), (1, 2)):
        rows = [np.arange(B)[share(np.full(B, 5), rank, size)] for rank in range(size)]
        np.testing.assert_array_equal(np.concatenate(rows), np.arange(B))
        assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize("kind", ["mlp", "lstm", "transformer"])
@pytest.mark.parametrize("n", [1, 7])
def test_ranks_draw_and_judge_the_words_of_one(kind, n):
    model, vocabulary = small(kind), Vocabulary(["abcd"])
    words = ["ab", "dcba", "c"] * 5

    def work(ranks):
        return (
            generate(model, vocabulary, TorchGenerator(5), n, ranks=ranks, max_length=6),
            score_words(model, vocabulary, words, ranks=ranks).losses.tolist(),
        )

    expected = work(ALONE)
    assert in_threads(3, work) == [expected] * 3


def test_ranks_agree_or_say_who_differs():
    facts = [{"color": "red", "step": 1}, {"color": "red", "step": 1}, {"color": "red", "step": 2}]

    def work(ranks):
        ranks.agree(facts[ranks.rank % 2])
        with pytest.raises(ValueError, match="rank 2 and rank 0 differ in step: 2 and 1"):
            ranks.agree(facts[ranks.rank])

    in_threads(3, work)


def test_a_process_alone_imports_nothing_of_mpi():
    code = "import sys, npnet.ranks as r; print(r.join() is r.ALONE, 'mpi4py' in sys.modules)"
    environment = {n: v for n, v in ENVIRONMENT.items() if n not in module.LAUNCHERS}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "True False\n", done.stderr


def test_a_launcher_needs_mpi4py(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ValueError, match=r"needs mpi4py: pip install .*\[mpi\]"):
        join()
