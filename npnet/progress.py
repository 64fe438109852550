"""What surrounds a command: progress on stderr, signals, and an output that may fail.

    with Console() as console:
        stage = console.stage("evaluating", total)
        stage.advance(done)

The code at work only says how far it is. A thread shows that: on a terminal one line that is
redrawn, elsewhere a new line now and then.
"""

import contextlib
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

PATIENCE = 2.0  # seconds that a command may take without a word
FORCE = 1.0  # seconds after which a second signal no longer waits for a safe place to stop


class Interrupted(BaseException):
    """A signal ended the command; str() says what it left behind."""

    def __init__(self, number: int, message: str = "interrupted"):
        super().__init__(message)
        self.number = number


class Stage:
    """Something that takes its time: what it is, how far it is, and a function whose text is shown
    as a detail. total None: it runs until Ctrl-C; 0: nobody knows how long it will take."""

    def __init__(
        self,
        what: str,
        total: int | None = 0,
        start: int = 0,
        unit: str = "",
        detail: Callable[[], str] | None = None,
    ):
        self.what, self.total, self.start, self.done = what, total, start, start
        self.unit, self.detail, self.began = unit, detail, time.perf_counter()

    def advance(self, done: int, total: int | None = None) -> None:
        self.done = done
        if total is not None:
            self.total = total

    def line(self, now: float) -> str:
        """The progress line at the time `now`, in the seconds of time.perf_counter."""
        parts = [self.what]
        if self.total:
            parts[0] += f" {self.done:,}/{self.total:,}"
        elif self.done:
            parts[0] += f" {self.done:,}"
        if self.detail and self.done > self.start:
            parts.append(self.detail())
        rate = (self.done - self.start) / max(now - self.began, 1e-9)
        if self.unit and rate:
            parts.append(f"{rate:,.0f} {self.unit}/s" if rate >= 1 else f"{1 / rate:,.1f} s each")
        if self.total is None:
            parts.append("until Ctrl-C")
        elif self.total and rate:
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        return "  ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{rest} s"


class Progress:
    """Draws the current stage on a stream. tqdm does it where it is installed and the stream is a
    terminal."""

    def __init__(self, stream: "TextIO | Output", quiet: bool = False):
        self.stream, self.quiet = stream, quiet
        self.terminal = stream.isatty()
        self.current: Stage | None = None
        self.mid_line: Output | None = None  # the stream that is in the middle of a line
        self._drawn = False
        self._bar: Any = None  # tqdm's
        self._thread: threading.Thread | None = None
        self._lock, self._closed = threading.Lock(), threading.Event()

    def stage(self, *args: Any, **options: Any) -> Stage:
        """What the command is doing from now on: a Stage made from these arguments."""
        self._end_stage()
        self.current = Stage(*args, **options)
        if self._thread is None and not self.quiet:
            self._thread = threading.Thread(target=self._tick, daemon=True)
            self._thread.start()
        return self.current

    def _tick(self) -> None:
        pause = 0.1 if self.terminal else PATIENCE
        while not self._closed.wait(pause):
            with self._lock:
                stage = self.current
                if stage and not self.mid_line:
                    self._draw(stage)
            if not self.terminal:
                pause = min(60.0, pause * 1.2)

    def _draw(self, stage: Stage) -> None:
        if not self.terminal:
            self.stream.write(stage.line(time.perf_counter()) + "\n")
            self.stream.flush()
            return
        self._drawn = True
        if stage.unit and stage.total and self._tqdm(stage):
            return
        line = stage.line(time.perf_counter())[: shutil.get_terminal_size().columns - 1]
        self.stream.write(f"\r{line}\x1b[K")
        self.stream.flush()

    def _tqdm(self, stage: Stage) -> bool:
        try:
            from tqdm import tqdm
        except ImportError:
            return False
        if self._bar is None:
            self._bar = tqdm(
                total=stage.total,
                initial=stage.start,
                desc=stage.what,
                unit=" " + stage.unit,
                leave=False,
                file=self.stream,
            )
        self._bar.n = stage.done
        if stage.detail and stage.done > stage.start:
            self._bar.set_postfix_str(stage.detail(), refresh=False)
        self._bar.refresh()
        return True

    @contextlib.contextmanager
    def erased(self) -> Iterator[None]:
        """Nothing is drawn while the block writes to the same terminal."""
        with self._lock:
            self._erase()
            yield

    def _erase(self) -> None:
        if self._drawn:
            if self._bar is not None:
                self._bar.clear()
            else:
                self.stream.write("\r\x1b[K")
                self.stream.flush()
            self._drawn = False

    def _end_stage(self) -> None:
        with self._lock:
            stage, self.current = self.current, None
            self._erase()
            if self._bar is not None:
                self._bar.close()
                self._bar = None
        now = time.perf_counter()
        if stage and not self.terminal and not self.quiet and now - stage.began > PATIENCE:
            self._draw(stage)

    def close(self) -> None:
        self._end_stage()
        self._closed.set()


class Output:
    """A standard stream whose failure can be survived: what cannot be written is dropped, and a
    character that its encoding lacks is escaped, as is one that could command a terminal.

    error is the first failure. With survives False it is raised as well, for a command that has
    nothing to keep.
    """

    def __init__(
        self,
        stream: "TextIO | Output",
        name: str,
        progress: Progress | None = None,
        survives: bool = False,
    ):
        self.stream, self.name, self.progress, self.survives = stream, name, progress, survives
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        with self._careful():
            if not text or self.progress is None or not self.stream.isatty():
                self._write(text)
                return len(text)
            from npnet.text import visible  # not before NumPy may be imported

            if not self.progress.terminal:
                self._write(visible(text))
            else:
                with self.progress.erased():
                    if self.progress.mid_line not in (None, self):
                        self._write("\n")
                    self._write(visible(text))
                    self.progress.mid_line = None if text.endswith("\n") else self
        return len(text)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError as error:
            known = error.encoding
            self.stream.write(text.encode(known, "backslashreplace").decode(known))

    def flush(self) -> None:
        with self._careful():
            self.stream.flush()

    @contextlib.contextmanager
    def _careful(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self.error is None:
                error.filename = self.name
                self.error = error
                # What is still in the buffer must go somewhere when Python ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())
            if not self.survives:
                raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Console:
    """Signals and standard streams of one command, restored at its end.

    SIGINT, SIGTERM and SIGHUP raise Interrupted; inside `with console.deferred():` the first one is
    only noted in `signal`, and raised at the end of the block. Further ones change nothing, unless
    they come more than a second later: then the command ends at once. A signal that is ignored
    (nohup) stays ignored.

    ranks are the processes that run the same command; `join` finds them.
    """

    ranks: Any = None

    def __init__(self) -> None:
        self.signal = 0
        self._since = 0.0  # when the last signal was noted or raised that counted
        self._deferred, self._closed = 0, False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Console":
        self._streams = sys.stdout, sys.stderr
        stdout, stderr = (
            stream or open(os.devnull, "w")  # noqa: SIM115
            for stream in self._streams
        )
        raw = self._stderr = Output(stderr, "standard error", survives=True)
        self.progress = Progress(raw)
        self.stdout = Output(stdout, "standard output", self.progress)
        sys.stdout, sys.stderr = self.stdout, Output(raw, "standard error", self.progress)
        self.stage = self.progress.stage
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number and signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._previous[number] = signal.signal(number, self._note)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
        sys.stdout, sys.stderr = self._streams
        sys.unraisablehook = self._hook
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def join(self) -> None:
        """Find the other ranks; of all these only rank 0 is heard from here on."""
        from npnet import ranks

        if ranks.launched():
            self.progress.quiet = True
            self.stdout.stream = self._stderr.stream = open(os.devnull, "w")  # noqa: SIM115
        self.ranks = ranks.join()

    @property
    def several(self) -> bool:
        return self.ranks is not None and self.ranks.size > 1

    def complain(self, line: str, status: int) -> int:
        """The command ends with this line on stderr and this exit status. Where all of several
        ranks end so, rank 0 says it; a rank that fails alone says it itself and ends the others."""
        alone = self.several and not self.ranks.all_failed()
        if line:
            with contextlib.suppress(OSError):
                print(line, file=self._streams[1] if alone else sys.stderr, flush=True)
        if alone:
            self.ranks.abort(status)
        return status

    def close(self) -> None:
        """The command has ended: from now on no progress is drawn and no signal raised."""
        self._closed = True
        self.progress.close()

    def _note(self, number: int, frame: object) -> None:
        again = self.signal != 0
        late = time.monotonic() - self._since > FORCE
        self.signal = self.signal or number
        if not again:
            self._since = time.monotonic()
        if (late if again else not self._deferred) and not self._closed:
            self.interrupt()

    def _swallowed(self, unraisable: Any) -> None:
        """Python drops what is raised in a destructor, so an interrupt there is sent once more."""
        if isinstance(unraisable.exc_value, Interrupted):
            again = threading.Timer(0.01, self._send_again)
            again.daemon = True
            again.start()
        else:
            self._hook(unraisable)

    def _send_again(self) -> None:
        if not self._closed:
            number, self.signal = self.signal, 0
            signal.raise_signal(number)

    def interrupt(self, message: str = "interrupted") -> None:
        """End the command for the signal that was noted."""
        self._since = time.monotonic()
        raise Interrupted(self.signal, message)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Signals wait for the end of this block."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if self.signal and not self._deferred:
            self.interrupt()
