"""What the commands do that look at a finished run: sample, evaluate, compare, plot, export."""

import sys
from argparse import Namespace
from pathlib import Path

from npnet import checkpoint, score
from npnet import folder as folders
from npnet.progress import Console
from npnet.random import TorchGenerator
from npnet.sample import generate, generate_text, mark_words
from npnet.text import WORDS

MOST_AT_ONCE = 1000  # words drawn side by side, fewer where they are long
LARGEST_STATE = 1 << 26  # positions times channels times layers of those
LARGEST_PROMPT = 1_000_000  # bytes
SHOWN = 24  # characters of a text whose attention is drawn


def sample(args: Namespace, console: Console) -> int:
    trained = open_model(args.model, console, args.input_file)
    print_drawn(
        trained, args.num_samples, args.seed, args.prompt, args.temperature, args.top_k, console
    )
    return 0


def open_model(
    path: str | Path, console: Console, input_file: str | None = None
) -> folders.Trained:
    """folders.open_model, said where it takes its time: it reads what the model was trained on."""
    console.stage(f"reading {path}")
    return folders.open_model(path, input_file)


def print_drawn(
    trained: folders.Trained,
    n: int | None,
    seed: int,
    prompt: str,
    temperature: float,
    top_k: int | None,
    console: Console,
) -> None:
    """n words (None: 20), or n characters of text (None: 500)."""
    draw = _print_words if trained.preset.data is WORDS else _print_text
    draw(trained, n, seed, prompt, temperature, top_k, console)


def _print_words(trained, n, seed, prompt, temperature, top_k, console):
    """n words (None: 20), marked "in train", "in test" or "new" where those of its run are at
    hand."""
    generator = TorchGenerator(seed)
    n = n or 20
    known = trained.data and trained.preset.divide(trained.data)
    stage = console.stage("drawing words", n)
    c = trained.model.config
    at_once = max(1, min(MOST_AT_ONCE, LARGEST_STATE // (c.block_size * c.n_embd * c.n_layer)))
    for done in range(0, n, at_once):

        def watch(ended, before=done):
            stage.advance(before + ended)

        words = generate(
            trained.model,
            trained.vocabulary,
            generator,
            min(at_once, n - done),
            prompt=prompt,
            temperature=temperature,
            top_k=top_k,
            watch=watch,
            ranks=console.ranks,
        )
        if done == 0:
            _name_checkpoint(trained, console)
        if known is None:
            print(*words, sep="\n")
        else:
            for word, mark in mark_words(words, *known):
                print(f"{word:<20} {mark}")
        stage.advance(done + len(words))


def _name_checkpoint(trained, console):
    """Say so where what is drawn does not come from a model that its run has finished."""
    if trained.path.name != folders.MODEL and not console.progress.quiet:
        print(f"npnet: drawn from {trained.path}, of step {trained.step:,}", file=sys.stderr)


def _print_text(trained, n, seed, prompt, temperature, top_k, console):
    """The prompt, "-" for standard input, and n characters (None: 500) as they are drawn."""
    if console.ranks.rank > 0:  # one character after the other leaves nothing to share
        return
    n = n or 500
    prompt = _standard_input() if prompt == "-" else prompt
    characters = generate_text(
        trained.model,
        trained.vocabulary,
        TorchGenerator(seed),
        n,
        prompt=prompt,
        temperature=temperature,
        top_k=top_k,
    )
    _name_checkpoint(trained, console)
    print(prompt, end="", flush=True)
    stage = console.stage("reading the prompt")
    for done, character in enumerate(characters, 1):
        if done == 1:
            stage = console.stage("drawing characters", n)
        print(character, end="", flush=True)
        stage.advance(done)
    print()


def _standard_input():
    """The prompt as it comes, its line ends included; only a byte order mark is dropped."""
    data = sys.stdin.buffer.read(LARGEST_PROMPT + 1) if sys.stdin else b""
    if len(data) > LARGEST_PROMPT:
        raise ValueError(f"the prompt has more than {LARGEST_PROMPT:,} bytes")
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        byte = data[error.start]
        raise ValueError(
            f"the prompt: byte 0x{byte:02x} at position {error.start:,} is not UTF-8"
        ) from error


def evaluate(args: Namespace, console: Console) -> int:
    trained = open_model(args.model, console)
    data = trained.preset.data
    if args.input_file:
        console.stage(f"reading {Path(args.input_file).name}")
        read = data.read(args.input_file)
        parts = {data.name: read if data is WORDS else read.ids_in(trained.vocabulary)}
    else:
        parts = _own_parts(trained, "; -i FILE names others")
    found = {
        name: _evaluated(trained, name, part, console, args.per_word)
        for name, part in parts.items()
    }
    print(*score.table(found), sep="\n")
    if args.per_word:
        extremes = score.extremes if data is WORDS else score.line_extremes
        print(*extremes(found), sep="\n")
    return 0


def _own_parts(trained, advice):
    if trained.data is None:
        data = trained.preset.data
        source = trained.meta["input_file"] or data.default_file
        raise ValueError(f"the {data.unit} of {trained.path} are gone or changed, {source}{advice}")
    parts = trained.preset.parts(trained.data)
    if trained.preset.data is WORDS and not trained.model.windowed:
        parts = {name: _with_room(trained, name, part) for name, part in parts.items()}
    return parts


def _with_room(trained, name, words):
    """The words that the model can read to their end; of longer ones microgpt is trained on the
    beginning."""
    size = trained.model.config.block_size
    kept = [word for word in words if len(word) < size]
    if not kept:
        raise ValueError(f"{trained.path}: no word of {name} has room in a block of {size}")
    if len(kept) < len(words):
        left = f"left out {len(words) - len(kept):,} of {len(words):,} words of {name}"
        print(f"npnet: {trained.path}: {left}: no room in a block of {size}", file=sys.stderr)
    return kept


def _evaluated(trained, name, part, console, lines=False):
    watch = console.stage(f"evaluating {name}").advance
    more = watch, console.ranks
    if trained.preset.data is WORDS:
        return score.score_words(trained.model, trained.vocabulary, part, *more)
    return score.score_text(trained.model, trained.vocabulary, part, *more, lines)


def compare(args: Namespace, console: Console) -> int:
    with console.deferred():
        from npnet import plot

    plot.figure_class()
    trained = {name: open_model(name, console) for name in args.folders}
    histories = {name: plot.read_history(Path(name) / folders.HISTORY) for name in trained}
    parts = {name: _own_parts(t, "") for name, t in trained.items()}
    print(f"{'run':<20} {'model':<12} {'parameters':>10} {'steps':>9}  loss on whole sets")
    for name, t in trained.items():
        losses = [
            f"{n} {_evaluated(t, n, part, console).loss:.4f}" for n, part in parts[name].items()
        ]
        sizes = f"{t.model.data.size:>10,} {t.step:>9,}"
        print(f"{name:<20} {t.preset.kind:<12} {sizes}  {'  '.join(losses)}")
    plot.save(plot.comparison(histories), args.output)
    return 0


def plot(args: Namespace, console: Console) -> int:
    with console.deferred():
        from npnet import plot as pictures

    pictures.figure_class()
    trained = open_model(args.model, console, args.input_file)
    target = Path(args.output or trained.path.parent)
    model, vocabulary = trained.model, trained.vocabulary
    train = _own_parts(trained, "; if they have moved, -i FILE finds them")["train"]
    if args.word is not None:
        word = args.word
    else:
        word = train[0] if trained.preset.data is WORDS else vocabulary.decode(train[:SHOWN])
    drawn = {
        "embedding": lambda: pictures.embedding(model, vocabulary),
        "dlogits": lambda: pictures.dlogits(model, vocabulary, train),
        "layers": lambda: pictures.layers(model, vocabulary, train),
    }
    if args.word is not None or pictures.attention_layers(model):  # a word may be refused
        drawn = {"attention": lambda: pictures.attention(model, vocabulary, word), **drawn}
    history = trained.path.parent / folders.HISTORY
    if history.exists():
        curves = pictures.read_history(history)
        if curves["step"].size:
            drawn["loss"] = lambda: pictures.loss_curves(curves)
    stage = console.stage("drawing pictures", len(drawn))
    for done, (name, draw) in enumerate(drawn.items(), 1):
        pictures.save(draw(), target / f"{name}.{args.format}")
        stage.advance(done)
    return 0


def export(args: Namespace, console: Console) -> int:
    with console.deferred():
        from npnet import export

    source, target = Path(args.source), Path(args.target)
    back = source.suffix == export.SUFFIX
    if back == (target.suffix == export.SUFFIX):
        raise ValueError(f"one of {source} and {target} has to end in {export.SUFFIX}")
    if back and target.suffix != ".npz":
        target /= folders.MODEL
    if target.exists() and not args.overwrite:
        raise ValueError(f"{target} exists; --overwrite replaces it")
    if back:
        loaded = export.load_safetensors(source)
        folders.judged(loaded, source)
        checkpoint.save(target, loaded)
    else:
        trained = open_model(source, console)
        content = checkpoint.Checkpoint(trained.model, trained.vocabulary, trained.meta)
        export.save_safetensors(target, content)
    print(f"saved to {target}")
    return 0
