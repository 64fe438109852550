"""What the commands do: train, sample, diagnose. Each takes the flags and the Console."""

import contextlib
import math
import sys
import time
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from npnet import folder as folders
from npnet.data import NAMES, read_words
from npnet.presets import ENDLESS, LECTURE_SEED, MAKEMORE_NAMES, PRESETS, fingerprint, named
from npnet.progress import Console, Interrupted
from npnet.random import TorchGenerator
from npnet.sample import generate, mark_words
from npnet.train import Diverged

MOST_AT_ONCE = 1000  # words drawn side by side by `sample`


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
    if args.resume:
        new = None
    else:
        new = _chosen_preset(args), _words(args.input_file or NAMES, console), args.input_file
    with contextlib.ExitStack() as stack:
        folder = saved = None
        if args.work_dir:
            folder = stack.enter_context(folders.Folder(args.work_dir, args.resume, args.overwrite))
            console.stdout.survives = True
            saved = folder.load() if args.resume else None
        preset, words, source = new or _resumed(args, saved, console)
        console.stage("preparing")
        run = preset.prepare(words)
        run.stage = lambda what: console.stage(what).advance
        with console.deferred():
            start = folder.begin(run, words, source, saved) if folder else 0
        _announce(run, words, source, start, console)
        try:
            _carry_out(run, start, folder, args.save_every, console)
        except FloatingPointError as error:
            raise Diverged(f"{error}{_last_good(folder)}; try a lower --learning-rate") from None
        except Interrupted as error:
            raise Interrupted(error.number, f"{error}{_hint(folder)}") from None
    return 0


def _carry_out(run, start, folder, save_every, console):
    """Train from step `start` to the end. Everything is saved before it is printed."""
    losses = Losses()
    with console.deferred():
        done = _steps(run, start, folder, save_every, console, losses)
        if folder:
            folder.save(run, done)
        if console.signal:
            console.interrupt(f"interrupted after {done:,} steps")
        run.settle()
        if folder and run.best is None:
            print(f"npnet: saved to {folder.keep(run, done)}", file=sys.stderr)
    run.evaluation = {}
    run.finish()
    if folder and run.evaluation:
        folder.record(run, done)
        folder.history.write()
    if losses.exploded(len(run.vocabulary)):
        print(f"npnet: {losses.story()}; try a lower --learning-rate", file=sys.stderr)
    elif run.preset.name == "notebook" and not console.progress.quiet:
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
            break
        before = time.perf_counter()
    return done


def _next_steps(run, folder):
    """What to try after the default run."""
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


def _words(path, console):
    console.stage(f"reading {Path(path).name}")
    return read_words(path)


def _chosen_preset(args):
    if args.preset and args.type:
        raise ValueError("--preset and --type exclude each other")
    if args.type:
        types = [name.removeprefix("makemore-") for name in PRESETS if name.startswith("makemore-")]
        if args.type not in types:
            raise ValueError(
                f"unknown type {args.type!r}; there are {', '.join(types)} (see npnet train --help)"
            )
        return _with_flags(named(f"makemore-{args.type}", args.max_steps), args)
    return _with_flags(named(args.preset or "notebook", args.max_steps), args)


FLAGS = (
    "seed",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "n_layer",
    "n_head",
    "n_embd",
    "n_embd2",
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
    if (args.preset or args.type) and _chosen_preset(args).name != preset.name:
        raise ValueError(f"the run in {args.work_dir} is {preset.name}, which no flag can change")
    if _with_flags(preset, args) != preset:
        raise ValueError(f"the run in {args.work_dir} was started with other settings; {but}")


def _resumed(args, saved, console):
    """preset, words and their file (None: our own) of the run that left the checkpoint."""
    path = Path(args.work_dir) / folders.LAST
    preset, _ = folders.judged(saved.meta, path)
    _agree(args, preset, "--resume takes only --max-steps")
    source = args.input_file or saved.meta["input_file"]
    try:
        words = _words(source or NAMES, console)
    except ValueError as error:
        if args.input_file:
            raise
        raise ValueError(f"{error}; if the words have moved, -i FILE finds them") from None
    if fingerprint(words) != saved.meta["words"]:
        raise ValueError(
            f"{source or NAMES} has other words than the run in {args.work_dir} was started with"
        )
    return (
        (preset if args.max_steps is None else replace(preset, stop=args.max_steps)),
        words,
        source,
    )


def _announce(run, words, source, start, console):
    """One line on what is trained, one on where a resumed run stands, one on foreign words."""
    preset = run.preset
    lines = [
        f"{preset.kind}: {run.model.data.size:,} parameters, {len(words):,} words "
        f"from {Path(source or NAMES).name}"
    ]
    if start:
        end = f" to {preset.last:,}" if preset.last < ENDLESS else ""
        lines.append(f"from step {start:,}{end}{_rates(run, start)}")
    if preset.name != "notebook" and fingerprint(words) != MAKEMORE_NAMES:
        lines.append(
            f"the published figures of {preset.name} belong to another list of words, "
            "the names.txt of makemore"
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


# sample


def sample(args: Namespace, console: Console) -> int:
    trained = folders.open_model(args.model, args.input_file)
    _print_words(
        trained, args.num_samples, args.seed, args.prompt, args.temperature, args.top_k, console
    )
    return 0


def _sample_only(args, console):
    trained = folders.open_model(args.work_dir, args.input_file)
    for flag in ("max_steps", "save_every"):
        if getattr(args, flag) is not None:
            raise ValueError(f"--sample-only trains nothing, so {_spelled(flag)} has no meaning")
    seed, top_k = args.seed, args.top_k
    args.seed = args.top_k = None  # of sampling here, so they may differ from those of the run
    _agree(args, trained.preset, "--sample-only takes only --seed and --top-k")
    top_k = None if top_k == -1 else top_k
    seed = LECTURE_SEED if seed is None else seed
    _print_words(trained, 50, seed, "", 1.0, top_k, console)
    return 0


def _print_words(trained, n, seed, prompt, temperature, top_k, console):
    """n words, marked "in train", "in test" or "new" where the words of its run are at hand."""
    generator = TorchGenerator(seed)
    known = trained.words and trained.preset.divide(trained.words)
    stage = console.stage("drawing words", n)
    for done in range(0, n, MOST_AT_ONCE):

        def watch(ended, before=done):
            stage.advance(before + ended)

        words = generate(
            trained.model,
            trained.vocabulary,
            generator,
            min(MOST_AT_ONCE, n - done),
            prompt=prompt,
            temperature=temperature,
            top_k=top_k,
            watch=watch,
        )
        if done == 0 and trained.path.name != folders.MODEL and not console.progress.quiet:
            print(f"npnet: drawn from {trained.path}, of step {trained.step:,}", file=sys.stderr)
        if known is None:
            print(*words, sep="\n")
        else:
            for word, mark in mark_words(words, *known):
                print(f"{word:<20} {mark}")
        stage.advance(done + len(words))


# diagnose


def diagnose(args: Namespace, console: Console) -> int:
    with console.deferred():
        from npnet import diagnose as diagnostics

    preset = named(args.preset, args.max_steps)
    words = _words(args.input_file or NAMES, console)
    diagnostics.diagnose(preset, words, args.plot, lambda what: console.stage(what).advance)
    return 0
