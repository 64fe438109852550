"""`python -m npnet` and the console script `npnet`."""

import os
import signal
import sys


def run():
    """cli.main, with the signals taken before anything else is imported, and with no standard
    stream closed, whose number a file of ours would get."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _leave)
    from npnet.cli import main

    return main()


def _leave(number, frame):
    """Before main takes the signals and after it has given them back; a second one, after it has
    ended for the first, changes nothing."""
    ended = getattr(sys.modules.get("npnet.cli"), "ended_by", 0)
    if not ended:
        os.write(2, b"npnet: interrupted\n")
    os._exit(128 + (ended or number))


if __name__ == "__main__":
    raise SystemExit(run())
