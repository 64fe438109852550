"""The command line: flags, named as makemore.py names them where it has them, and how a command
ends.

Exit status: 0; 2 for a user's mistake, with one line on stderr; 3 for a model whose loss or
probabilities are not finite; 129, 130 and 143 for SIGHUP, SIGINT and SIGTERM.
"""

import argparse
import contextlib
import os
import sys
import traceback

from npnet import __version__
from npnet.progress import Console, Interrupted

# At these sizes a second BLAS thread costs more than it gives, and it must be said before NumPy is
# imported, which is left to `main`, where a signal is caught.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

MOST = 10**15
ended_by = 0  # the signal that ended the command, once it is to be said
SHARED = ("train", "sample", "evaluate")  # the commands whose work several ranks share


class UsageError(ValueError):
    """A command line that says nothing we understand."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UsageError(f"{self.prog}: {message} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> int:
    """Run a command, sys.argv by default -> its exit status."""
    with Console() as console:
        status = _run(argv, console)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        if console.stdout.error and not status:
            status = _failed(console.stdout.error, console)
    return status


def _run(argv, console):
    try:
        try:
            with console.deferred():
                import numpy as np

                from npnet import commands, results

                console.join()
                args = _parse(argv, commands, results)
                console.progress.quiet |= args.quiet
            if console.ranks.rank > 0 and args.name not in SHARED:
                return 0
            with np.errstate(all="ignore"):
                return args.command(args, console)
        finally:
            console.close()
    except Interrupted as error:
        global ended_by  # for the handler that gets the signals back
        ended_by = error.number
        return console.complain(f"npnet: {error}", 128 + error.number)
    except FloatingPointError as error:
        return console.complain(f"npnet: {error}", 3)
    except UsageError as error:
        return console.complain(one_line(str(error)), 2)
    except (ValueError, OSError, MemoryError) as error:
        return _failed(error, console)
    except Exception:
        if not console.several:
            raise
        return console.complain(traceback.format_exc(), 1)  # the others would wait for this rank


def _failed(error, console):
    """Say in one line what was wrong -> exit status."""
    if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough
        return console.complain("", 0)
    if isinstance(error, OSError) and error.filename:
        error = f"{error.filename}: {error.strerror or error}"
    elif isinstance(error, MemoryError):
        error = "not enough memory; a smaller batch, model or list of words needs less"
    return console.complain(one_line(f"npnet: {error}"), 2)


def one_line(text: str) -> str:
    """The text with its control characters escaped, cut where it is very long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= 600 else text[:400] + " ... " + text[-180:]


def _parse(argv, commands, results):
    parser, subparsers = _parsers(commands, results)
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        subparsers[args.name].error(f"unrecognized arguments: {' '.join(unknown)}")
    return args


def _parsers(commands, results):
    """The parser of everything, and the parser of each command by name."""
    parser = Parser(
        prog="npnet",
        description="Train small character models on words or running text, with NumPy alone.",
    )
    parser.add_argument("--version", action="version", version=f"npnet {__version__}")
    group = parser.add_subparsers(required=True, dest="name", metavar="COMMAND", title="commands")
    subparsers = {}

    def command(run, add_flags, help, **options):
        name = run.__name__
        about = f"{help[0].upper()}{help[1:]}."
        p = subparsers[name] = group.add_parser(name, help=help, description=about, **options)
        p.set_defaults(command=run)
        add_flags(p)
        p.add_argument("-q", "--quiet", action="store_true", help="no progress lines")

    command(
        commands.train,
        _train_flags,
        "train a model, print its losses and what it invents",
        epilog=commands.presets_text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command(results.sample, _sample_flags, "draw words or text from a trained model")
    command(
        commands.diagnose,
        _diagnose_flags,
        "activations, gradients and updates, layer by layer, as in lecture 3",
    )
    command(
        results.evaluate,
        _evaluate_flags,
        "loss and perplexity of a trained model on words or a text",
    )
    command(results.compare, _compare_flags, "several runs in one table and one figure")
    command(results.plot, _plot_flags, "pictures of a run: losses, embedding, layers, attention")
    command(results.export, _export_flags, "a model as a .safetensors file, and back")
    return parser, subparsers


def _train_flags(p):
    def flag(*names, metavar="N", type=None, help=None):
        p.add_argument(*names, metavar=metavar, type=type, help=help)

    def switch(name, help):
        p.add_argument(name, action="store_true", help=help)

    _input_file(p, "words, one per line (default: the names.txt of npnet)")
    p.add_argument(
        "--text",
        metavar="FILE",
        nargs="?",
        const=True,
        type=not_empty,
        help="running text instead of words (without FILE: the play.txt of npnet)",
    )
    flag("-o", "--work-dir", metavar="DIR", type=folder_name, help="keep the run in this folder")
    switch("--resume", "go on with the run in --work-dir, bit for bit")
    switch("--overwrite", "replace the run in --work-dir by this one")
    switch("--sample-only", "print 50 words or 500 characters of the model in --work-dir and stop")
    flag(
        "--save-every",
        type=positive,
        help="steps from save to save (default: one every 10 seconds)",
    )
    flag(
        "--preset",
        metavar="NAME",
        type=not_empty,
        help="a published run, see below (default: the notebook's MLP)",
    )
    flag(
        "--type",
        metavar="TYPE",
        type=not_empty,
        help="short for --preset makemore-TYPE, or with --text for --preset text-TYPE",
    )
    flag("--max-steps", type=steps, help="stop after N steps; a preset takes -1 for never")
    flag("--seed", type=int, help="seed of the random stream")
    flag("--block-size", type=positive, help="characters of text that a model sees at once")
    flag("-b", "--batch-size", type=positive, help="examples per step")
    flag("-l", "--learning-rate", metavar="X", type=rate, help="learning rate")
    flag(
        "-w", "--weight-decay", metavar="X", type=rate, help="weight decay, where the preset has it"
    )
    flag("--n-layer", type=positive, help="layers")
    flag("--n-head", type=positive, help="heads of attention")
    flag("--n-embd", type=positive, help="channels of an embedding")
    flag("--n-embd2", type=positive, help="channels of the hidden layer")
    flag(
        "--style",
        metavar="NAME",
        help="the Transformer of makemore, lecture, lecture-file, nanogpt",
    )
    flag(
        "--dropout",
        type=rate,
        metavar="P",
        help="share of activations that the Transformer drops in training",
    )
    flag("--accumulate", type=positive, metavar="N", help="batches of running text per step")
    flag(
        "--top-k", metavar="K", type=top_k, help="draw among the K likeliest characters; -1 for all"
    )
    flag("-n", "--num-workers", type=int, help="makemore.py's; changes nothing here")
    p.add_argument("--device", choices=["cpu"], help="makemore.py's; there is only the cpu here")


def _sample_flags(p):
    from npnet.presets import LECTURE_SEED

    _model(p)
    p.add_argument(
        "-n",
        "--num-samples",
        type=positive,
        metavar="N",
        help="how many words (default: 20), or characters of text (default: 500)",
    )
    p.add_argument(
        "--prompt",
        default="",
        metavar="TEXT",
        help="what each word or the text begins with; for a text - reads standard input",
    )
    p.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="below 1 plainer words; 0 the likeliest one",
    )
    p.add_argument(
        "--top-k", type=positive, metavar="K", help="draw among the K likeliest characters"
    )
    p.add_argument(
        "--seed", type=int, default=LECTURE_SEED, metavar="N", help="seed of the random stream"
    )
    _input_file(p, "the words or the text of the training run, if moved")


def _diagnose_flags(p):
    _input_file(p, "words, one per line (default: the names.txt of npnet)")
    p.add_argument(
        "--preset",
        default="part3-deep",
        type=not_empty,
        metavar="NAME",
        help="a lecture's run (default: %(default)s)",
    )
    p.add_argument(
        "--max-steps",
        type=steps,
        metavar="N",
        help="look at step N - 1 (default: the preset's last)",
    )
    p.add_argument(
        "--plot",
        metavar="DIR",
        type=folder_name,
        help="draw histograms and the sizes of the updates as PNG files",
    )


def _evaluate_flags(p):
    _model(p)
    _input_file(p, "other words or another text than those of the training run")
    p.add_argument(
        "--per-word",
        action="store_true",
        help="also the likeliest and the unlikeliest words, or lines of a text",
    )


def _compare_flags(p):
    p.add_argument(
        "folders", metavar="DIR", nargs="+", type=folder_name, help="a --work-dir of a training run"
    )
    p.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=picture,
        default="compare.png",
        help="the figure, .png or .svg (default: %(default)s)",
    )


def _plot_flags(p):
    _model(p)
    p.add_argument(
        "-o", "--output", metavar="DIR", type=folder_name, help="put them here (default: the run's)"
    )
    p.add_argument("--format", choices=["png", "svg"], default="png", help="default: %(default)s")
    p.add_argument("--word", metavar="TEXT", help="the word or text whose attention is drawn")
    _input_file(p, "the words or the text of the training run, if moved")


def _export_flags(p):
    p.add_argument(
        "source",
        metavar="SOURCE",
        type=not_empty,
        help="the --work-dir of a training run, a .npz file in it, or a .safetensors file",
    )
    p.add_argument(
        "target",
        metavar="TARGET",
        type=folder_name,
        help="a .safetensors file, or for one as SOURCE a folder or a .npz file",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def _model(p):
    p.add_argument(
        "model",
        metavar="DIR",
        type=not_empty,
        help="the --work-dir of a training run, or a .npz file in it",
    )


def _input_file(p, help):
    p.add_argument("-i", "--input-file", metavar="FILE", type=not_empty, help=help)


# What a flag may hold


def not_empty(text):
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"must not be empty, got {text!r}")
    return text


def picture(text):
    if not text.endswith((".png", ".svg")):
        raise argparse.ArgumentTypeError(f"must end in .png or .svg, got {text!r}")
    return folder_name(text)


def folder_name(text):
    """A name that can be printed, in a hint that works when it is pasted."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be a printable name, got {text!r}")
    return text


def positive(text):
    value = _whole(text)
    if value is None or not 1 <= value <= MOST:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 1, at most {MOST}, got {text!r}"
        )
    return value


def steps(text):
    value = _whole(text)
    if value is None or not -1 <= value <= MOST:
        raise argparse.ArgumentTypeError(
            f"must be a whole number of at least 0, at most {MOST}, or -1, got {text!r}"
        )
    return value


def _whole(text):
    try:
        return int(text)
    except ValueError:
        return None


def top_k(text):
    return -1 if text == "-1" else positive(text)


def rate(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value
