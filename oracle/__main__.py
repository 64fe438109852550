"""`python -m oracle`: the gradients of the notebook's network beside autograd's, as a table; and
the other proofs."""

import argparse
import os
import sys
from pathlib import Path

from npnet.data import NAMES
from oracle.exercise import EXERCISES


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is in --help."""

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message}\n")


def integer(low, high):
    """An argparse type: an integer in [low, high]."""

    def parse(text):
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {low} to {high}")
        return value

    return parse


def parser():
    p = Parser(
        prog="python -m oracle",
        description="Compare every gradient of the notebook's network, derived by hand in NumPy, "
        "with torch's autograd for one minibatch. The exit status is 1 if one of them is wrong.",
    )
    seed, size, width = integer(-(2**63), 2**64 - 1), integer(2, 10_000), integer(1, 10_000)
    p.add_argument(
        "-i",
        "--input-file",
        default=NAMES,
        metavar="FILE",
        help="words, one per line (default: npnet's own)",
    )
    p.add_argument(
        "--seed",
        type=seed,
        default=2147483647,
        help="of parameters and minibatch (default: %(default)s)",
    )
    p.add_argument(
        "-b",
        "--batch-size",
        type=size,
        default=32,
        help="examples, 2 or more (default: %(default)s)",
    )
    p.add_argument("--n-embd2", type=width, default=64, help="hidden units (default: %(default)s)")
    p.add_argument(
        "--with-b1",
        action="store_true",
        help="give the first layer the bias that batch norm makes useless",
    )
    p.add_argument(
        "--lang",
        choices=("en", "ko"),
        default="en",
        help="language of the labels (default: %(default)s)",
    )
    p.set_defaults(command=show_table)
    commands = p.add_subparsers(
        metavar="certify | exercise", help="or another command; each has its own --help"
    )

    c = commands.add_parser(
        "certify", help="fuzz every operation and model on fresh random examples"
    )
    c.set_defaults(command=certify)
    c.add_argument(
        "--examples",
        type=integer(1, 10**9),
        default=100,
        help="for each of them (default: %(default)s)",
    )
    c.add_argument(
        "--op",
        action="append",
        default=[],
        metavar="NAME",
        help="only this one; may be given again",
    )
    c.add_argument(
        "--jobs", type=integer(1, 1024), default=1, metavar="N", help="processes (default: 1)"
    )

    e = commands.add_parser(
        "exercise", help="derive the gradients yourself and be told which are right"
    )
    steps = e.add_subparsers(required=True, metavar="new | check")
    new = steps.add_parser("new", help="write a file with the gradients left to fill")
    new.set_defaults(command=new_exercise)
    new.add_argument("file", type=Path)
    new.add_argument(
        "--exercise",
        choices=EXERCISES,
        default="chunked",
        help="which one (default: the notebook's)",
    )
    new.add_argument("--solution", action="store_true", help="with npnet's own lines filled in")
    check = steps.add_parser(
        "check", help="print which gradients of the file are done, wrong or not yet done"
    )
    check.set_defaults(command=check_exercise)
    check.add_argument("file", type=Path)
    check.add_argument(
        "--examples",
        type=integer(0, 10**9),
        default=50,
        help="of other sizes (default: %(default)s)",
    )
    check.add_argument(
        "--seed",
        type=integer(0, 2**64 - 1),
        help="of those, as a failure prints it (default: a new one)",
    )
    return p


def new_exercise(args):
    from oracle.exercise.answers import new

    new(args.file, args.exercise, args.solution)
    return 0


def check_exercise(args):
    from oracle.exercise.answers import check

    return 0 if check(args.file, args.examples, args.seed) else 1


def certify(args):
    from oracle.certify import certify

    return 0 if certify(args.op, args.examples, args.jobs) else 1


def show_table(args):
    from oracle.table import minibatch, table

    params, x, y = minibatch(
        args.input_file, args.seed, args.batch_size, args.n_embd2, args.with_b1
    )
    text, right = table(params, x, y, args.lang)
    print(text)
    return 0 if right else 1


def main(argv=None):
    p = parser()
    args = p.parse_args(argv)
    try:
        return args.command(args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ImportError as error:
        install = 'in a clone of npnet, pip install ".[oracle]" brings it'
        p.error(f"this needs PyTorch, which cannot be imported ({error}): {install}")
    except OSError as error:
        p.error(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        p.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
