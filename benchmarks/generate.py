"""1,000 names drawn from makemore's Transformer after 500 steps."""

from functools import partial

import npnet
from benchmarks.measure import Peer, Progress, installed, interleave, summary, table
from benchmarks.rows import ROWS, Task
from benchmarks.step import npnet_peer

N, STEPS = 1000, 500
ABOUT = {
    "torch plain": "the whole model at each character, as makemore generates",
    "torch cached": "keys and values kept, until the last word has ended",
    "torch cached, dropping": "and words that have ended no longer computed",
}


def measure(words, seconds=0.4, steps=STEPS):
    """name -> {"seconds", "ratio"}."""
    progress = Progress("generate", 2)
    progress.say(f"training the Transformer for {steps} steps")
    task, vocabulary = Task("transformer", ROWS["transformer"], words), npnet.Vocabulary(words)
    npnet_peer(task).train(steps)
    progress.advance()
    model, generator = task.model, npnet.TorchGenerator(1)

    def ours(n):
        for _ in range(n):
            npnet.generate(model, vocabulary, generator, N)

    peers = {"npnet": Peer(ours)}
    if installed("torch"):
        from benchmarks.peers import torch_generate

        length = task.config.block_size - 1
        made = torch_generate.peers("transformer", task.config, model.parameters())
        expected = npnet.generate(model, vocabulary, generator, 3, temperature=0)
        for name, draw in made.items():
            found = decode(vocabulary, draw(3, length, torch_generate.likeliest))
            if found != expected:
                raise AssertionError(f"the likeliest words are {found} in {name}, not {expected}")
            peers[name] = Peer(partial(repeat, draw, vocabulary, length, torch_generate.sample))
    progress.say(f"timing {len(peers)} ways in turn")
    found = summary(interleave(peers, seconds))
    progress.advance()
    return found


def repeat(draw, vocabulary, length, choose, n):
    for _ in range(n):
        decode(vocabulary, draw(N, length, choose))


def decode(vocabulary, ids):
    return [vocabulary.decode(row).partition(".")[0] for row in ids.numpy()]


def show(found):
    columns = [name for name in found if name != "npnet"]
    ratios = [f"{found[name]['ratio']:.2f}" for name in columns]
    times = [f"{found[name]['seconds'] * 1e3:.0f}" for name in found]
    print(
        table(["1,000 names", "npnet", *columns], [["ms", *times], ["npnet / peer", "1", *ratios]])
    )
    print()
    for name in columns:
        print(f"{name}: {ABOUT[name]}")
