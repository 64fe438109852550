"""What the commands do that train: train, diagnose. Each takes the flags and the Console."""

import contextlib
import math
import sys
import time
import zlib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np

from npnet import __version__
from npnet import folder as folders
from npnet.presets import ENDLESS, LECTURE_SEED, PRESETS, TEXT_RUN, fingerprint, named
from npnet.progress import Console, Interrupted
from npnet.results import open_model, print_drawn
from npnet.text import TEXT, WORDS
from npnet.train import Diverged


def presets_text() -> str:
    return "presets:\n" + "\n".join(f"  {name:22}{p.about}" for name, p in PRESETS.items())


# train


def train(args: Namespace, console: Console) -> int:
    if not args.work_dir:
        for flag in ("resume", "overwrite", "sample_only", "save_every"):
            if getattr(args, flag):
                raise ValueError(f"{_spelled(flag)} needs a --work-dir")
    exclusive = [f for f in ("resume", "overwrite", "sample_only") if getattr(args, f)]
    if len(exclusive) > 1:
        raise ValueError(f"{' and '.join(map(_spelled, exclusive))} exclude each other")
    if args.sample_only:
        return _sample_only(args, console)
    if isinstance(args.text, str):
        if args.input_file:
            raise ValueError("--text FILE and --input-file exclude each other")
        args.input_file = args.text
    if args.resume:
        new = None
    else:
        preset = _chosen_preset(args)
        new = preset, _read(preset, args.input_file, console), args.input_file
    with contextlib.ExitStack() as stack:
        folder = saved = None
        if args.work_dir:
            folder = folders.Folder(args.work_dir, args.resume, args.overwrite, console.ranks)
            stack.enter_context(folder)
            console.stdout.survives = True
            saved = folder.load() if args.resume else None
        preset, data, source = new or _resumed(args, saved, console)
        console.stage("preparing")
        run = preset.prepare(data)
        run.stage, run.ranks = lambda what: console.stage(what).advance, console.ranks
        if console.several:
            run.ranks.agree(_facts(run, data, saved))
        with console.deferred():
            start = folder.begin(run, data, source, saved) if folder else 0
        _announce(run, data, source, start, console)
        try:
            _carry_out(run, start, folder, args.save_every, console)
        except FloatingPointError as error:
            raise Diverged(f"{error}{_last_good(folder)}; try a lower --learning-rate") from None
        except Interrupted as error:
            raise Interrupted(error.number, f"{error}{_hint(folder)}") from None
    return 0


def _facts(run, data, saved):
    """What has to be the same on every rank of a run."""
    return {
        "version of npnet": __version__,
        "version of NumPy": np.__version__,
        "preset": run.preset,
        run.preset.data.name: fingerprint(data),
        "first parameters": zlib.crc32(run.model.data),
        "checkpoint": saved and (saved.meta["step"], zlib.crc32(saved.model.data)),
    }


def _carry_out(run, start, folder, save_every, console):
    """Train from step `start` to the end. Everything is saved before it is printed."""
    losses = Losses()
    with console.deferred():
        done = _steps(run, start, folder, save_every, console, losses)
        if folder:
            folder.save(run, done)
        if run.ranks.stopping:
            console.signal = max(run.ranks.gather(console.signal))
        if console.signal:
            console.interrupt(f"interrupted after {done:,} steps")
        run.settle()
        if folder and run.best is None:
            print(f"npnet: saved to {folder.keep(run, done)}", file=sys.stderr)
    run.evaluation = {}
    run.finish()
    if folder and run.evaluation:
        folder.record(run, done)
        folder.write_history()
    if losses.exploded(len(run.vocabulary)):
        print(f"npnet: {losses.story()}; try a lower --learning-rate", file=sys.stderr)
    elif run.preset.original is None and not console.progress.quiet:
        print(_next_steps(run, folder), file=sys.stderr)


def _steps(run, start, folder, save_every, console, losses):
    """The steps from `start` to the last, or to a signal -> how many steps the run has done."""
    done, last = start, run.preset.last
    endless = last >= ENDLESS
    stage = console.stage("step", None if endless else last, start, "steps", losses.text)
    before = time.perf_counter()
    for step, loss in run.steps(start):
        done, now = step + 1, time.perf_counter()
        losses.add(float(loss))
        stage.advance(done)
        run.report(step, loss, now - before)
        if folder:
            folder.record(run, step, loss)
            if run.improved:
                _warn(folder.keep_best(run, done))
                best = f"test loss {run.best} is the best so far"
                print(f"{best}, saving model to {folder.path / folders.MODEL}", flush=True)
            if not console.signal:
                _warn(folder.save_now_and_then(run, done, save_every))
        if console.signal or (endless and console.stdout.error):
            run.ranks.stop()
        if run.ranks.stopping:
            break
        before = time.perf_counter()
    return done


def _next_steps(run, folder):
    """What to try after a run of our own."""
    if run.preset.data is TEXT:
        if folder:
            return f"next: {folders.command('sample', folder.path)} --prompt 'The '"
        return "next: npnet train --text -o out keeps the model"
    step, val = run.lowest
    if val < run.evaluation["val"] - 0.02:
        steps = f"the validation loss was lowest, {val:.3f}, at step {step:,}: --max-steps {step}; "
    else:
        steps = ""
    if folder:
        return f"next: {steps}{folders.command('sample', folder.path)} --prompt jo"
    return f"next: {steps}npnet train -o out keeps the model; npnet train --type transformer"


class Losses:
    """The first loss, and a running mean of about the last hundred."""

    def __init__(self):
        self.first, self.mean, self.count = 0.0, 0.0, 0

    def add(self, loss):
        if self.count == 0:
            self.first = loss
        self.count += 1
        self.mean += (loss - self.mean) / min(self.count, 100)

    def text(self):
        return f"loss {self.mean:.4f}"

    def story(self):
        return f"the loss rose from {self.first:.4g} to {self.mean:.4g}"

    def exploded(self, V):
        """Whether the model has become much worse than it was and than guessing among V."""
        return self.mean > 1.5 * max(self.first, math.log(V))


def _read(preset, path, console):
    path = path or preset.data.default_file
    console.stage(f"reading {Path(path).name}")
    return preset.data.read(path)


def _chosen_name(args):
    if args.preset and args.type:
        raise ValueError("--preset and --type exclude each other")
    family = "makemore-" if args.text is None else "text-"
    if args.type:
        types = [name.removeprefix(family) for name in PRESETS if name.startswith(family)]
        if args.type not in types:
            raise ValueError(
                f"unknown type {args.type!r}; there are {', '.join(types)} (see npnet train --help)"
            )
    usual = "notebook" if args.text is None else TEXT_RUN
    return family + args.type if args.type else args.preset or usual


def _chosen_preset(args):
    preset = _with_flags(named(_chosen_name(args), args.max_steps), args)
    if args.text is not None and preset.data is not TEXT:
        raise ValueError(f"--text has no meaning in {preset.name}, which reads a list of words")
    return preset


FLAGS = (
    "seed",
    "block_size",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "n_layer",
    "n_head",
    "n_embd",
    "n_embd2",
    "style",
    "dropout",
    "accumulate",
    "top_k",
)


def _with_flags(preset, args):
    given = {name: getattr(args, name) for name in FLAGS if getattr(args, name) is not None}
    if given.get("top_k") == -1:
        given["top_k"] = None
    return preset.changed(**given)


def _spelled(flag):
    return "--" + flag.replace("_", "-")


def _agree(args, preset, but):
    """Refuse flags that say something else than the run in --work-dir, a `preset`, was started
    with."""
    if args.text is not None and preset.data is not TEXT:
        raise ValueError(f"the run in {args.work_dir} is on a list of words, not on a text")
    if (args.preset or args.type) and named(_chosen_name(args)).name != preset.name:
        raise ValueError(f"the run in {args.work_dir} is {preset.name}, which no flag can change")
    if _with_flags(preset, args) != preset:
        raise ValueError(f"the run in {args.work_dir} was started with other settings; {but}")


def _resumed(args, saved, console):
    """preset, words or text and their file (None: our own) of the run that left the checkpoint."""
    path = Path(args.work_dir) / folders.LAST
    preset, _ = folders.judged(saved, path)
    _agree(args, preset, "--resume takes only --max-steps")
    source = args.input_file or saved.meta["input_file"]
    try:
        data = _read(preset, source, console)
    except ValueError as error:
        if args.input_file:
            raise
        moved = "words have moved, -i FILE finds them"
        if preset.data is TEXT:
            moved = "text has moved, -i FILE finds it"
        raise ValueError(f"{error}; if the {moved}") from None
    if fingerprint(data) != saved.meta["words"]:
        raise ValueError(
            f"{source or preset.data.default_file} is {preset.data.another} than the run in "
            f"{args.work_dir} was started with"
        )
    return (
        (preset if args.max_steps is None else replace(preset, stop=args.max_steps)),
        data,
        source,
    )


def _announce(run, data, source, start, console):
    """One line on what is trained, one on where a resumed run stands, one on a foreign list or
    text."""
    preset = run.preset
    lines = [
        f"{preset.kind}: {run.model.data.size:,} parameters, {len(data):,} {preset.data.unit} "
        f"from {Path(source or preset.data.default_file).name}"
    ]
    if start:
        end = f" to {preset.last:,}" if preset.last < ENDLESS else ""
        lines.append(f"from step {start:,}{end}{_rates(run, start)}")
    if preset.original and fingerprint(data) != preset.original[0]:
        lines.append(
            f"the published figures of {preset.name} belong to {preset.data.another}, "
            f"{preset.original[1]}"
        )
    if not console.progress.quiet:
        print(*lines, sep="\n", file=sys.stderr)


def _rates(run, start):
    """What the schedule, which the first --max-steps has fixed, gives a resumed run."""
    if run.schedule is None or run.preset.last <= start:
        return ""
    first, last = run.schedule(start), run.schedule(run.preset.last - 1)
    text = f"{first:g}" if first == last else f"{first:g}, at the end {last:g}"
    return f", learning rate {text}"


def _warn(error):
    if error:
        print(
            f"npnet: warning: {error.filename}: {error.strerror}; the run goes on, "
            "and will be saved when that is possible",
            file=sys.stderr,
        )


def _last_good(folder):
    if folder is None:
        return ""
    return (
        f"; the last good checkpoint is {folder.path / folders.LAST}, of step {folder.saved_step}"
    )


def _hint(folder):
    """How an interrupted run goes on: a command that can be pasted."""
    if folder is None:
        return ""
    return f"; to go on: {folders.command('train -o', folder.path)} --resume"


def _sample_only(args, console):
    trained = open_model(args.work_dir, console, args.input_file)
    for flag in ("max_steps", "save_every"):
        if getattr(args, flag) is not None:
            raise ValueError(f"--sample-only trains nothing, so {_spelled(flag)} has no meaning")
    seed, top_k = args.seed, args.top_k
    args.seed = args.top_k = None  # of sampling here, so they may differ from those of the run
    _agree(args, trained.preset, "--sample-only takes only --seed and --top-k")
    top_k = None if top_k == -1 else top_k
    seed = LECTURE_SEED if seed is None else seed
    n = 50 if trained.preset.data is WORDS else None
    print_drawn(trained, n, seed, "", 1.0, top_k, console)
    return 0


# diagnose


def diagnose(args: Namespace, console: Console) -> int:
    with console.deferred():
        from npnet import diagnose as diagnostics

    preset = named(args.preset, args.max_steps)
    words = _read(preset, args.input_file, console)
    diagnostics.diagnose(preset, words, args.plot, lambda what: console.stage(what).advance)
    return 0
