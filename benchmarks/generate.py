"""1,000 names from makemore's Transformer after 500 steps, 500 characters from lecture 7's."""

from functools import partial

import npnet
from benchmarks.measure import Peer, Progress, installed, interleave, summary, table
from benchmarks.rows import ROWS, Task, TextTask
from benchmarks.step import npnet_peer
from npnet.text import read_text

N, STEPS, CHARACTERS = 1000, 500, 500
ABOUT = {
    "torch plain": "the whole model at each character, as makemore generates",
    "torch cached": "keys and values kept, until the last word has ended",
    "torch cached, dropping": "and words that have ended no longer computed",
    "lecture": "the whole context at each character, by the lecture's own code in torch",
    "lecture, inference": "the same in torch.inference_mode, which the lecture does not use",
}


def measure(words, seconds=0.4, steps=STEPS, characters=CHARACTERS):
    """what is drawn -> name -> {"seconds", "ratio"}."""
    progress = Progress("generate", 3)
    found = {f"{N:,} names": names(words, seconds, steps, progress)}
    progress.advance()
    progress.say("timing running text")
    found[f"{characters} characters"] = text(seconds, characters)
    progress.advance()
    return found


def names(words, seconds, steps, progress):
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
    return summary(interleave(peers, seconds))


def text(seconds, characters):
    """With the parameters as they are drawn, which the time does not depend on."""
    task = TextTask("part7")
    vocabulary, generator = read_text().vocabulary, npnet.TorchGenerator(1)

    def ours(n, **how):
        for _ in range(n):
            drawn = npnet.generate_text(task.model, vocabulary, generator, characters, **how)
            found = "".join(drawn)
        return found

    peers = {"npnet": Peer(ours)}
    if installed("torch"):
        from benchmarks.peers import torch_generate, torch_text

        expected = ours(1, temperature=0)
        for name, draw in torch_text.generators(task, vocabulary.start, characters).items():
            if vocabulary.decode(draw(torch_generate.likeliest)) != expected:
                raise AssertionError(f"the likeliest text in {name} is not {expected!r}")
            peers[name] = Peer(partial(several, draw, torch_generate.sample))
    return summary(interleave(peers, seconds))


def several(draw, choose, n):
    for _ in range(n):
        draw(choose)


def repeat(draw, vocabulary, length, choose, n):
    for _ in range(n):
        decode(vocabulary, draw(N, length, choose))


def decode(vocabulary, ids):
    return [vocabulary.decode(row).partition(".")[0] for row in ids.numpy()]


def show(found):
    for i, (what, row) in enumerate(found.items()):
        if i:
            print()
        columns = [name for name in row if name != "npnet"]
        ratios = [f"{row[name]['ratio']:.2f}" for name in columns]
        times = [f"{row[name]['seconds'] * 1e3:.0f}" for name in row]
        print(table([what, "npnet", *columns], [["ms", *times], ["npnet / peer", "1", *ratios]]))
        print()
        for name in columns:
            print(f"{name}: {ABOUT[name]}")
