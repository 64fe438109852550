"""What the commands do that look at a finished run: evaluate, compare, plot, export."""

from argparse import Namespace
from pathlib import Path

from npnet import checkpoint, score
from npnet import folder as folders
from npnet.data import NAMES, read_words
from npnet.progress import Console


def evaluate(args: Namespace, console: Console) -> int:
    trained = folders.open_model(args.model)
    if args.input_file:
        parts = {"words": read_words(args.input_file)}
    else:
        parts = trained.preset.parts(_own_words(trained, "; -i FILE names others"))
    found = {name: _evaluated(trained, name, words, console) for name, words in parts.items()}
    print(*score.table(found), sep="\n")
    if args.per_word:
        print(*score.extremes(found), sep="\n")
    return 0


def _own_words(trained, advice):
    if trained.words is None:
        source = trained.meta["input_file"] or NAMES
        raise ValueError(f"the words of {trained.path} are gone or changed, {source}{advice}")
    return trained.words


def _evaluated(trained, name, words, console):
    watch = console.stage(f"evaluating {name}").advance
    return score.score_words(trained.model, trained.vocabulary, words, watch)


def compare(args: Namespace, console: Console) -> int:
    with console.deferred():
        from npnet import plot

    plot.figure_class()
    trained = {name: folders.open_model(name) for name in args.folders}
    histories = {name: plot.read_history(Path(name) / folders.HISTORY) for name in trained}
    words = {name: _own_words(t, "") for name, t in trained.items()}
    print(f"{'run':<20} {'model':<12} {'parameters':>10} {'steps':>9}  loss on whole sets")
    for name, t in trained.items():
        parts = t.preset.parts(words[name])
        losses = [f"{n} {_evaluated(t, n, w, console).loss:.4f}" for n, w in parts.items()]
        sizes = f"{t.model.data.size:>10,} {t.step:>9,}"
        print(f"{name:<20} {t.preset.kind:<12} {sizes}  {'  '.join(losses)}")
    plot.save(plot.comparison(histories), args.output)
    return 0


def plot(args: Namespace, console: Console) -> int:
    with console.deferred():
        from npnet import plot as pictures

    pictures.figure_class()
    trained = folders.open_model(args.model, args.input_file)
    target = Path(args.output or trained.path.parent)
    model, vocabulary = trained.model, trained.vocabulary
    words = _own_words(trained, "; if they have moved, -i FILE finds them")
    words = trained.preset.parts(words)["train"]
    word = words[0] if args.word is None else args.word
    drawn = {
        "embedding": lambda: pictures.embedding(model, vocabulary),
        "dlogits": lambda: pictures.dlogits(model, vocabulary, words),
        "layers": lambda: pictures.layers(model, vocabulary, words),
    }
    history = trained.path.parent / folders.HISTORY
    if history.exists():
        curves = pictures.read_history(history)
        drawn["loss"] = lambda: pictures.loss_curves(curves)
    if args.word is not None or pictures.attention_layers(model):
        drawn["attention"] = lambda: pictures.attention(model, vocabulary, word)
    for name, draw in drawn.items():
        console.stage(f"drawing {name}")
        pictures.save(draw(), target / f"{name}.{args.format}")
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
        folders.judged(loaded.meta, source)
        checkpoint.save(target, loaded)
    else:
        trained = folders.open_model(source)
        content = checkpoint.Checkpoint(trained.model, trained.vocabulary, trained.meta)
        export.save_safetensors(target, content)
    print(f"saved to {target}")
    return 0
