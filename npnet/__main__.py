"""`python -m npnet` and the console script `npnet`."""

import os
import signal


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
    """Before main takes the signals and after it has given them back."""
    os.write(2, b"npnet: interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    raise SystemExit(run())
