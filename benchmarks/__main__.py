"""python -m benchmarks [step | generate | import | scale | runs]: npnet beside its peers, on one
core."""

import argparse
import json
import os
import sys

if __name__ == "__main__":  # before NumPy starts its threads
    for _library in ("OPENBLAS", "OMP", "MKL"):
        os.environ[f"{_library}_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

from benchmarks import measure, step
from benchmarks.rows import ROWS
from npnet.data import NAMES, DataError, read_words


def parse(argv):
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", metavar="FILE", help="write the figures to this file too")
    common.add_argument(
        "-i", "--input-file", default=NAMES, help="words, one a line (default: npnet's names.txt)"
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, parents=[common]
    )
    commands = parser.add_subparsers(dest="command")
    steps = commands.add_parser("step", parents=[common], help=step.__doc__)
    steps.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)} (default: all)"
    )
    steps.add_argument(
        "--seconds", type=float, default=1.0, help="for each peer of a row (default: 1)"
    )
    steps.add_argument(
        "--only", action="append", metavar="PEER", choices=list(step.COLUMNS),
        help="time npnet and this peer alone; may be repeated",
    )  # fmt: skip
    steps.add_argument("--compile", action="store_true", help="torch.compile too, slow to build")
    steps.add_argument("--peer", metavar="DIR", help="a copy of microgpt-efficiency, for microgpt")
    args = parser.parse_args(argv)
    if unknown := set(getattr(args, "rows", [])) - set(ROWS):
        steps.error(f"unknown row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    return args


def main(argv=None):
    args = parse(argv)
    try:
        words = read_words(args.input_file)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    machine = measure.machine()
    print(measure.describe(machine), end="\n\n", flush=True)
    found = {"machine": machine}
    options = {}
    if args.command == "step":
        options = {
            "names": args.rows, "seconds": args.seconds, "only": args.only,
            "compiled": args.compile, "folder": args.peer,
        }  # fmt: skip
    found["step"] = step.measure(words, **options)
    step.show(found["step"])
    if args.json:
        with open(args.json, "w") as file:
            json.dump(found, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
