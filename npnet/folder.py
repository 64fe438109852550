"""The folder of one run: last.npz to go on from, model.npz to draw from, history.csv to look at.

last.npz is the run as it stands, saved now and then. model.npz is the model that the run ended
with, or the best so far where the original keeps that one. history.csv has one line for about every
thousandth of the steps, and one for each evaluation.
"""

import io
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np

from npnet import checkpoint
from npnet.data import DataError, open_regular
from npnet.model import Model
from npnet.presets import ENDLESS, Preset, fingerprint, restored
from npnet.ranks import ALONE, Alone
from npnet.runs import Run
from npnet.train import Diverged

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MODEL, LAST, HISTORY, LOCK = "model.npz", "last.npz", "history.csv", ".lock"
COLUMNS = "step,batch_loss,train_loss,val_loss,test_loss,learning_rate,seconds"
HEADER = COLUMNS.encode() + b"\n"
LONGEST_LINE = 1000  # of history.csv
SAVE_SECONDS = 10.0
ENDLESS_EVERY = 10  # steps from line to line of history.csv where a preset has no end


class Folder:
    """Open while the run is at work, `with Folder(path) as folder:`, and locked against a second.

    resume needs a run in the folder, overwrite replaces one; without either, a run that is already
    there is a ValueError. Of several ranks only rank 0 writes to it and locks it.
    """

    def __init__(
        self, path: str | Path, resume: bool = False, overwrite: bool = False, ranks: Alone = ALONE
    ):
        self.path, self.resume, self.overwrite = Path(path), resume, overwrite
        self.writes = ranks.rank == 0
        self.failed = False
        self.saved_step: int | None = None
        self.unkept: bytes | None = None  # a model.npz that could not be written yet

    def __enter__(self) -> "Folder":
        if self.resume and not (self.path / LAST).exists():
            raise ValueError(f"{self.path} holds no run to resume: there is no {LAST} in it")
        self._lock = None
        if self.writes:
            checkpoint.make_folder(self.path)
            self._lock = _locked(self.path)
        try:
            taken = [name for name in (LAST, MODEL) if (self.path / name).exists()]
            if taken and not self.resume and not self.overwrite:
                raise ValueError(
                    f"{self.path} holds a run; --overwrite replaces it; "
                    f"to go on: {command('train -o', self.path)} --resume"
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock:
            self._lock.close()

    def load(self) -> checkpoint.Checkpoint:
        """The Checkpoint to go on from."""
        return checkpoint.load(self.path / LAST)

    def begin(
        self,
        run: Run,
        data: Any,
        input_file: str | Path | None,
        saved: checkpoint.Checkpoint | None = None,
    ) -> int:
        """Put the run where the checkpoint left it, if there is one -> the step it starts with.

        It is saved at once, which shows that the folder can be written to.
        """
        start, seconds = 0, 0.0
        if saved:
            start, seconds = _restore(run, saved, self.path / LAST), saved.meta["seconds"]
        self.origin = {
            "preset": asdict(run.preset),
            "input_file": input_file and str(Path(input_file).resolve()),
            "words": fingerprint(data),
        }
        self.began = time.perf_counter() - seconds
        self.every = max(1, run.preset.steps // 1000) if run.preset.steps >= 0 else ENDLESS_EVERY
        self.history = History(self.path / HISTORY, start)
        if start > run.preset.last:
            raise ValueError(
                f"--max-steps {run.preset.last} lies before step {start}, "
                f"which the run in {self.path} has reached"
            )
        self.save(run, start)
        if not saved and self.writes:
            (self.path / MODEL).unlink(missing_ok=True)
        return start

    def record(self, run: Run, step: int, loss: float | None = None) -> None:
        """A line of the history, if the step or the run's evaluation deserves one."""
        if not self.writes or (loss is not None and step % self.every and not run.evaluation):
            return
        rate = run.schedule(step) if run.schedule and loss is not None else None
        losses = [run.evaluation.get(name) for name in ("train", "val", "test")]
        cells = [step, loss, *losses, rate, round(time.perf_counter() - self.began, 3)]
        self.history.add("" if cell is None else str(cell) for cell in cells)

    def save(self, run: Run, step: int) -> None:
        """last.npz, so that the run can go on with step `step`: after the best model so far, lest a
        resumed run begin beyond a model that nobody has kept."""
        optimizer = run.optimizer.state() if run.optimizer else {}
        generators = {name: generator.state() for name, generator in run.generators.items()}
        try:
            self.write_history()
        finally:  # the run matters more than its history
            self._keep_unkept()
            content = self._content(run, step, False, optimizer, generators)
            if self.writes:
                checkpoint.save(self.path / LAST, content)
        self.saved_step, self.saved_at, self.failed = step, time.perf_counter(), False

    def write_history(self) -> None:
        if self.writes:
            self.history.write()

    def save_now_and_then(self, run: Run, step: int, every: int | None = None) -> OSError | None:
        """The same every `every` steps, or every SAVE_SECONDS -> None, or the OSError of a save
        that failed for the first time; the next is tried a while later."""
        now = time.perf_counter()
        if step % every if every else now - self.saved_at < SAVE_SECONDS:
            return None
        try:
            self.save(run, step)
        except OSError as error:
            self.saved_at = now
            return self._unless_known(error)
        return None

    def _unless_known(self, error):
        first, self.failed = not self.failed, True
        return error if first else None

    def keep_best(self, run: Run, step: int) -> OSError | None:
        """model.npz -> None, or the OSError of a failure that is not yet known. The next `save`
        then tries again, with the model as it is now."""
        try:
            self.keep(run, step)
        except OSError as error:
            return self._unless_known(error)
        return None

    def keep(self, run: Run, step: int) -> Path:
        """model.npz -> its path."""
        content = self._content(run, step, True, {}, {})
        if self.writes:
            packed = io.BytesIO()
            checkpoint.write(packed, content)
            self.unkept = packed.getvalue()
            self._keep_unkept()
        return self.path / MODEL

    def _keep_unkept(self):
        if self.unkept is not None:
            content = self.unkept
            checkpoint.write_whole(self.path / MODEL, lambda file: file.write(content))
            self.unkept = None

    def _content(self, run, step, settled, optimizer, generators):
        if not np.isfinite(run.model.data).all():
            raise Diverged(f"a parameter is no finite number after {step} steps")
        seconds = round(time.perf_counter() - self.began, 3)
        meta = {"step": step, "best": run.best, "seconds": seconds, "settled": settled}
        meta |= self.origin
        return checkpoint.Checkpoint(run.model, run.vocabulary, meta, optimizer, generators)


def command(name: str, path: str | Path) -> str:
    """A command that can be pasted, as this program was called."""
    program = ["npnet"]
    if Path(sys.argv[0]).name == "__main__.py":
        program = [sys.executable, "-m", "npnet"]
    path = f"./{path}" if str(path).startswith("-") else str(path)
    words = [*program, *name.split(), path]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def _locked(path: Path) -> IO:
    """An open file with a lock that dies with this process."""
    file = open_regular(path / LOCK, "ab")
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        raise ValueError(f"{path}: another run is at work in this folder") from None
    return file


def _restore(run, saved, path):
    """Put the run where the checkpoint at `path` left it; returns the step it goes on with."""
    try:
        checkpoint.fill(run.model.parameters(), saved.model.parameters(), "the model")
        checkpoint.fill(run.model.buffers(), saved.model.buffers(), "the model")
        if run.optimizer:
            checkpoint.fill(run.optimizer.state(), saved.optimizer, "the optimiser")
        for name, generator in run.generators.items():
            generator.set_state(saved.generators[name])
        run.best = saved.meta["best"]
        return saved.meta["step"]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{path}: no run can go on from here ({error})") from None


class History:
    """history.csv: the lines of the steps before `start` stay, what follows them is replaced."""

    def __init__(self, path: Path, start: int):
        self.path, self.size = path, 0
        self.pending: list[str] = []
        if start and path.exists():
            with open_regular(path) as file:
                self.size = _until(start, file)

    def add(self, cells: Iterable[str]) -> None:
        self.pending.append(",".join(cells) + "\n")

    def write(self) -> None:
        """Append what is pending; after a failure the next call repairs the end. A file that has
        become shorter, or is gone, begins anew."""
        data = "".join(self.pending).encode()
        try:
            self.path.touch()
            with open_regular(self.path, "r+b") as file:
                if file.seek(0, os.SEEK_END) < self.size:
                    self.size = 0
                if self.size == 0:
                    data = HEADER + data
                file.truncate(self.size)
                file.seek(self.size)
                file.write(data)
        except OSError as error:
            error.filename = str(self.path)
            raise
        self.size += len(data)
        self.pending.clear()


def _until(start, file):
    """The bytes of a history's header and of its lines before step `start`; 0 for another file."""
    if file.readline(len(HEADER)) != HEADER:
        return 0
    size = len(HEADER)
    while (line := file.readline(LONGEST_LINE)).endswith(b"\n"):
        step = line.partition(b",")[0]
        if not step.isdigit() or int(step) >= start:
            break
        size += len(line)
    return size


@dataclass
class Trained:
    """A model as its run left it."""

    path: Path
    model: Model
    vocabulary: Any
    preset: Any
    step: int
    meta: dict
    input_file: str | None

    @cached_property
    def data(self) -> Any:
        """The words or the text that it was trained on, from input_file if one was named; None
        where they are gone."""
        path = self.input_file or self.meta["input_file"] or self.preset.data.default_file
        try:
            data = self.preset.data.read(path)
        except DataError:
            if self.input_file:
                raise
            return None
        if fingerprint(data) == self.meta["words"]:
            return data
        if self.input_file:
            another = self.preset.data.another
            raise ValueError(f"{self.input_file} is {another} than the model was trained on")
        return None


def open_model(path: str | Path, input_file: str | None = None) -> Trained:
    """The model of a run's folder, or in a file: Trained.

    A folder gives its model.npz, unless there is none or last.npz is another or a longer run; then
    last.npz, settled where that is needed (see npnet.runs).
    """
    place = Path(path)
    path, saved = _newest(place) if place.is_dir() else (place, checkpoint.load(place))
    preset, step = judged(saved, path)
    trained = Trained(path, saved.model, saved.vocabulary, preset, step, saved.meta, input_file)
    if input_file:
        _ = trained.data  # another than the run's is refused
    if preset.settles and not saved.meta["settled"]:
        if trained.data is None:
            raise ValueError(f"{path} needs the words of its run, which are gone: -i FILE")
        run = preset.prepare(trained.data)
        checkpoint.fill(run.model.parameters(), saved.model.parameters(), "the model")
        run.settle()
        trained.model = run.model
    return trained


def _newest(folder: Path) -> tuple[Path, checkpoint.Checkpoint]:
    files = [path for path in (folder / MODEL, folder / LAST) if path.exists()]
    if not files:
        raise ValueError(f"{folder} holds no model: there is no {MODEL} and no {LAST} in it")
    saved = {path: checkpoint.load(path) for path in files}
    path = files[0]
    if len(files) == 2:
        model, last = (saved[path].meta for path in files)
        (preset, step), (last_preset, last_step) = (judged(saved[path], path) for path in files)
        other = replace(preset, stop=None) != replace(last_preset, stop=None)
        if other or model["words"] != last["words"] or (last["best"] is None and last_step > step):
            path = files[1]
    return path, saved[path]


def judged(saved: checkpoint.Checkpoint, path: Path) -> tuple[Preset, int]:
    """(preset, step) of a checkpoint; one that npnet train did not write is refused."""
    meta = saved.meta
    try:
        preset = restored(meta["preset"])
        step, best, seconds, settled = (meta[key] for key in ("step", "best", "seconds", "settled"))
        words, input_file = meta["words"], meta["input_file"]
    except KeyError as error:  # npnet 0.1 wrote neither seconds nor settled
        reason = f"not a run of npnet train, or one of npnet 0.1 ({error} is missing)"
        raise checkpoint.CheckpointError(f"{path}: {reason}") from None
    except ValueError as error:
        raise checkpoint.CheckpointError(f"{path}: not a run of npnet train ({error})") from None
    wrong = (
        not (type(step) is int and 0 <= step <= ENDLESS)
        or not (best is None or (type(best) is float and math.isfinite(best)))
        or not (type(seconds) is float and math.isfinite(seconds))
        or type(settled) is not bool
        or not isinstance(words, str)
        or not (input_file is None or isinstance(input_file, str))
        or type(saved.vocabulary) is not preset.data.vocabulary
    )
    if wrong:
        raise checkpoint.CheckpointError(f"{path}: not a run of npnet train")
    return preset, step
