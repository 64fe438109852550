"""1,000 names from makemore's Transformer after 500 steps, 500 characters from lecture 7's."""

from functools import partial

import npnet
from benchmarks.apart import Apart
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
    with Apart() as apart:
        found = {f"{N:,} names": names(words, apart, seconds, steps, progress)}
        progress.advance()
        progress.say("timing running text")
        found[f"{characters} characters"] = text(apart, seconds, characters)
        progress.advance()
    return found


def names(words, apart, seconds, steps, progress):
    progress.say(f"training the Transformer for {steps} steps")
    task, vocabulary = Task("transformer", ROWS["transformer"], words), npnet.Vocabulary(words)
    npnet_peer(task).train(steps)
    progress.advance()
    model, generator = task.model, npnet.TorchGenerator(1)

    def draw(n, **how):
        return npnet.generate(model, vocabulary, generator, n, **how)

    progress.say("timing each way in turn")
    return in_turn(
        Peer(partial(repeat, partial(draw, N)), partial(draw, 3, temperature=0)),
        apart.makers(names_in_torch, task.config, model.parameters(), vocabulary),
        seconds,
    )


def names_in_torch(config, parameters, vocabulary):
    """name -> a function that makes the Peer."""
    if not installed("torch"):
        return {}
    from benchmarks.peers import torch_generate

    def words(draw, n, choose):
        ids = draw(n, config.block_size - 1, choose)
        return [vocabulary.decode(row).partition(".")[0] for row in ids.numpy()]

    ways = torch_generate.peers("transformer", config, parameters)
    return {
        name: partial(
            Peer,
            partial(repeat, partial(words, draw, N, torch_generate.sample)),
            partial(words, draw, 3, torch_generate.likeliest),
        )
        for name, draw in ways.items()
    }


def text(apart, seconds, characters):
    """With the parameters as they are drawn, which the time does not depend on."""
    task = TextTask("part7")
    vocabulary, generator = read_text().vocabulary, npnet.TorchGenerator(1)

    def draw(**how):
        drawn = npnet.generate_text(task.model, vocabulary, generator, characters, **how)
        return "".join(drawn)

    return in_turn(
        Peer(partial(repeat, draw), partial(draw, temperature=0)),
        apart.makers(text_in_torch, task, vocabulary, characters),
        seconds,
    )


def text_in_torch(task, vocabulary, characters):
    """name -> a function that makes the Peer."""
    if not installed("torch"):
        return {}
    from benchmarks.peers import torch_generate, torch_text

    ways = torch_text.generators(task, vocabulary.start, characters)
    return {
        name: partial(
            Peer,
            partial(repeat, partial(draw, torch_generate.sample)),
            lambda draw=draw: vocabulary.decode(draw(torch_generate.likeliest)),
        )
        for name, draw in ways.items()
    }


def in_turn(ours, others, seconds):
    """The summary of all, once the likeliest words or text are the same in each."""
    peers, expected = {"npnet": ours}, ours.check()
    for name, make in others.items():
        peers[name] = make()
        found = peers[name].check()
        if found != expected:
            raise AssertionError(f"the likeliest are {found!r} in {name}, not {expected!r}")
    return summary(interleave(peers, seconds))


def repeat(draw, n):
    for _ in range(n):
        draw()


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
