"""npnet side by side with what its user would pick instead, on one core."""

import argparse
import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":  # before NumPy starts its threads
    for _library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{_library}_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

from benchmarks import bounds, generate, imports, measure, ranks, runs, scale, step
from benchmarks.peers import numpy_microgpt
from benchmarks.rows import ROWS, TEXT_ROWS
from npnet.data import NAMES, DataError, read_words

MODULES = {
    "step": step,
    "generate": generate,
    "import": imports,
    "scale": scale,
    "runs": runs,
    "bounds": bounds,
}
DEFAULT = ("step", "generate", "import")


def arguments():
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", metavar="FILE", help="write the figures to this file too")
    common.add_argument("-i", "--input-file", help="words, one per line (default: npnet's)")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__} Without a command: {', '.join(DEFAULT)}.",
        parents=[common],
    )
    parser.set_defaults(json=None, input_file=NAMES)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    made = {
        name: commands.add_parser(
            name,
            parents=[common],
            help=module.__doc__.partition("\n\n")[0],
            description=module.__doc__,
        )
        for name, module in MODULES.items()
    }
    add = made["step"].add_argument
    rows = ", ".join([*ROWS, *TEXT_ROWS])
    add("names", nargs="*", metavar="ROW", help=f"of {rows} (default: all)")
    add("--seconds", type=float, default=0.6, help="for each peer of a row (default: 0.6)")
    add(
        "--only", action="append", metavar="PEER", choices=list(step.COLUMNS),
        help="time npnet and this peer alone; may be repeated",
    )  # fmt: skip
    add("--compile", action="store_true", help="torch.compile too, which is slow to build")
    add("--peer", metavar="DIR", help="a copy of microgpt-efficiency, for the row microgpt")
    add = made["bounds"].add_argument
    add("names", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)")
    add = made["scale"].add_argument
    add("names", nargs="*", metavar="SERIES", help=f"of {', '.join(scale.SERIES)} (default: all)")
    add("--plot", metavar="FILE", help="draw the picture too, .png or .svg")
    add(
        "--ranks", nargs="?", type=int, const=os.cpu_count(), metavar="N",
        help="instead: 2, 4, ... N processes under mpiexec (default: as many as cores)",
    )  # fmt: skip
    add = made["runs"].add_argument
    add("names", nargs="*", metavar="ROW", help=f"of {', '.join(runs.STEPS)} (default: all)")
    add("--steps", type=int, help="instead of each row's own")
    return parser


def measured(args, words):
    if args.command == "step":
        compiled = args.compile or "torch compile" in (args.only or ())
        return step.measure(words, args.names, args.seconds, args.only, compiled, args.peer)
    if args.command == "generate":
        return generate.measure(words)
    if args.command == "import":
        return imports.measure()
    if args.command == "scale":
        if args.ranks:
            return ranks.measure(args.input_file, args.ranks)
        return scale.measure(args.names)
    if args.command == "bounds":
        return bounds.measure(words, args.names)
    return runs.measure(args.input_file, args.names, args.steps)


def mistake(args):
    """What is wrong with the arguments, in one line, or None."""
    known = {
        "step": [*ROWS, *TEXT_ROWS],
        "bounds": ROWS,
        "scale": scale.SERIES,
        "runs": runs.STEPS,
    }.get(args.command, ())
    if unknown := sorted(set(getattr(args, "names", [])) - set(known)):
        return f"unknown name {', '.join(unknown)}; {args.command} has {', '.join(known)}"
    if getattr(args, "plot", None) and not measure.installed("matplotlib"):
        return '--plot needs matplotlib: pip install ".[plot]"'
    if getattr(args, "ranks", None) is not None:
        if args.ranks < 2 or args.names or args.plot:
            return "--ranks wants a number of at least 2, and neither series nor --plot"
        if not measure.installed("mpi4py"):
            return '--ranks needs mpi4py: pip install ".[mpi]"'
    if getattr(args, "peer", None) and not numpy_microgpt.source(args.peer).exists():
        return f"--peer {args.peer}: there is no {numpy_microgpt.source(args.peer)}"
    for file in (args.json, getattr(args, "plot", None)):
        try:
            if file:
                open(file, "a").close()
        except OSError as error:
            return f"{file}: {error.strerror}"
    return None


def main(argv=None):
    parser = arguments()
    args = parser.parse_args(argv)
    if wrong := mistake(args):
        parser.error(wrong)
    try:
        words = read_words(args.input_file)
    except DataError as error:
        parser.error(str(error))
    machine = measure.machine()
    used = "all" if getattr(args, "ranks", None) else "one"
    print(measure.describe(machine, used), flush=True)
    found = {"machine": machine}
    for each in [args] if args.command else [parser.parse_args([name]) for name in DEFAULT]:
        found[each.command] = measured(each, words)
        print()
        module = ranks if getattr(each, "ranks", None) else MODULES[each.command]
        module.show(found[each.command])
        sys.stdout.flush()
        if args.json:
            Path(args.json).write_text(json.dumps(found, indent=1) + "\n")
    if getattr(args, "plot", None):
        scale.plot(found["scale"], args.plot)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
