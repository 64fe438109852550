"""A run from start to end in one library, called in a fresh process: -> the mean loss over the
validation words."""

import npnet
from benchmarks.rows import ROWS, Task


def in_npnet(name, steps, file):
    from benchmarks.step import npnet_peer

    task = Task(name, ROWS[name], npnet.read_words(file))
    npnet_peer(task).train(steps)
    if task.row.kind == "mlp":
        npnet.calibrate(task.model, task.x)
    return npnet.evaluate(task.model, *task.validation)


def in_torch(name, steps, file):
    import torch

    from benchmarks.peers.torch_steps import Eager

    torch.set_num_threads(1)
    task = Task(name, ROWS[name], npnet.read_words(file))
    trim = task.lengths is not None and task.batch_size > 1
    made = Eager(task, trim=trim)
    made.train(steps)
    return made.evaluate(*task.validation)
