"""The commands `npnet train`, `sample` and `diagnose`. Flags are named as makemore.py names them
where it has them.

What a user got wrong is one line on stderr and exit status 2.
"""

import argparse
import hashlib
import os
import signal
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path

# At these sizes a second BLAS thread costs more than it gives, and it must be said before NumPy is
# imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from npnet import checkpoint, train
from npnet.data import NAMES, DataError, read_words
from npnet.presets import LECTURE_SEED, PRESETS, notebook
from npnet.random import TorchGenerator
from npnet.sample import generate, sort_by_novelty

MODEL, LAST = "model.npz", "last.npz"
NOTEBOOK_STEPS = 80000
SAVE_SECONDS = 60


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv=None):
    args = _parser().parse_args(argv)
    try:
        return args.command(args)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError) as error:
        named = isinstance(error, OSError) and error.filename
        print(
            f"npnet: {error.filename}: {error.strerror}" if named else f"npnet: {error}",
            file=sys.stderr,
        )
        return 2


def _parser():
    parser = Parser(
        prog="npnet",
        description="Train small character models on a list of words, with NumPy alone.",
    )
    commands = parser.add_subparsers(required=True, metavar="train | sample | diagnose")
    presets = "presets:\n" + "\n".join(
        f"  {name:22}{preset.about}" for name, preset in PRESETS.items()
    )

    p = commands.add_parser(
        "train",
        help="train a model, print its losses and new words",
        epilog=presets,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.set_defaults(command=_train)
    p.add_argument(
        "-i",
        "--input-file",
        metavar="FILE",
        help="words, one a line (default: the names.txt of npnet)",
    )
    p.add_argument(
        "-o",
        "--work-dir",
        metavar="DIR",
        help="leave the model here, for npnet sample and --resume",
    )
    p.add_argument(
        "--resume", action="store_true", help="go on with the run in --work-dir, bit for bit"
    )
    p.add_argument(
        "--sample-only",
        action="store_true",
        help="print 50 words of the model in --work-dir and stop",
    )
    p.add_argument(
        "--preset", metavar="NAME", help="a published run, see below (default: the notebook's MLP)"
    )
    p.add_argument("--type", metavar="TYPE", help="short for --preset makemore-TYPE")
    p.add_argument(
        "--max-steps", type=int, metavar="N", help="stop after N steps; a preset takes -1 for never"
    )
    p.add_argument("--seed", type=int, metavar="N", help="seed of the random stream")
    p.add_argument("-b", "--batch-size", type=_positive, metavar="N", help="examples a step")
    p.add_argument("-l", "--learning-rate", type=_rate, metavar="X", help="learning rate")
    p.add_argument(
        "-w",
        "--weight-decay",
        type=_rate,
        metavar="X",
        help="weight decay, where the preset has it",
    )
    p.add_argument("--n-layer", type=_positive, metavar="N", help="layers")
    p.add_argument("--n-head", type=_positive, metavar="N", help="heads of attention")
    p.add_argument("--n-embd", type=_positive, metavar="N", help="channels of an embedding")
    p.add_argument("--n-embd2", type=_positive, metavar="N", help="channels of the hidden layer")
    p.add_argument(
        "--top-k",
        type=_top_k,
        metavar="K",
        help="draw among the K likeliest characters; -1 for all",
    )
    p.add_argument(
        "-n", "--num-workers", type=int, metavar="N", help="makemore.py's; changes nothing here"
    )
    p.add_argument("--device", choices=["cpu"], help="makemore.py's; there is only the cpu here")

    p = commands.add_parser("sample", help="draw words from a trained model")
    p.set_defaults(command=_sample)
    p.add_argument("work_dir", metavar="DIR", help="the --work-dir of a training run")
    p.add_argument(
        "-n",
        "--num-samples",
        type=_positive,
        default=20,
        metavar="N",
        help="how many words (default: 20)",
    )
    p.add_argument("--prompt", default="", metavar="TEXT", help="what each word begins with")
    p.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="X",
        help="below 1 plainer words; 0 the likeliest one",
    )
    p.add_argument(
        "--top-k", type=_positive, metavar="K", help="draw among the K likeliest characters"
    )
    p.add_argument(
        "--seed", type=int, default=LECTURE_SEED, metavar="N", help="seed of the random stream"
    )
    p.add_argument(
        "-i",
        "--input-file",
        metavar="FILE",
        help="the words of the training run, if they have moved",
    )

    p = commands.add_parser(
        "diagnose", help="activations, gradients and updates, layer by layer, as in lecture 3"
    )
    p.set_defaults(command=_diagnose)
    p.add_argument(
        "-i",
        "--input-file",
        metavar="FILE",
        help="words, one a line (default: the names.txt of npnet)",
    )
    p.add_argument(
        "--preset",
        default="part3-deep",
        metavar="NAME",
        help="a lecture's run (default: %(default)s)",
    )
    p.add_argument(
        "--max-steps", type=int, metavar="N", help="look at step N - 1 (default: the preset's last)"
    )
    p.add_argument(
        "--plot", metavar="DIR", help="draw histograms and the sizes of the updates as PNG files"
    )
    return parser


def _positive(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _top_k(text):
    return -1 if text == "-1" else _positive(text)


def _rate(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, got {text!r}")
    return value


def _train(args):
    if (args.resume or args.sample_only) and not args.work_dir:
        raise ValueError("--resume and --sample-only need the --work-dir of an earlier run")
    if args.sample_only:
        top_k = None if args.top_k in (None, -1) else args.top_k
        seed = LECTURE_SEED if args.seed is None else args.seed
        return _print_words(args.work_dir, args.input_file, 50, seed, top_k=top_k)
    path = Path(args.input_file or NAMES)
    words = read_words(path)
    saved = checkpoint.load(Path(args.work_dir) / LAST) if args.resume else None
    preset = _resumed_preset(args, saved, words) if saved else _chosen_preset(args)
    run = preset.prepare(words)
    start = _restore(run, saved, Path(args.work_dir) / LAST) if saved else 0
    meta = {
        "preset": asdict(preset),
        "input_file": str(path.resolve()),
        "words": _fingerprint(words),
    }
    if start > preset.last:
        raise ValueError(
            f"--max-steps {preset.last} lies before step {start}, "
            f"which the run in {args.work_dir} has reached"
        )

    def save(name, step=None):
        if not args.work_dir:
            return
        target = Path(args.work_dir) / name
        state = {}
        if step is not None:
            state["optimizer"] = run.optimizer.state()
            state["generators"] = {
                key: generator.state() for key, generator in run.generators.items()
            }
        content = checkpoint.Checkpoint(
            run.model, run.vocabulary, meta | {"step": step, "best": run.best}, **state
        )
        checkpoint.save(target, content)
        return target

    if args.work_dir:
        Path(args.work_dir).mkdir(parents=True, exist_ok=True)
    print(
        f"{preset.kind}: {run.model.data.size:,} parameters, {len(words):,} words from {path.name}",
        file=sys.stderr,
    )
    progress = Progress(start, preset.last) if preset.name == "notebook" else None
    interrupted = Interrupt()
    before = saved_at = time.perf_counter()
    step = start - 1
    for step, loss in train.loop(
        run.model, run.batches(start), run.optimizer, run.schedule, preset.last, start
    ):
        now = time.perf_counter()
        if progress:
            progress.update(step, loss, now)
        else:
            run.report(step, loss, now - before)
            if run.improved and (target := save(MODEL)):
                print(
                    f"test loss {run.best} is the best so far, saving model to {target}", flush=True
                )
        if interrupted.signal or now - saved_at > SAVE_SECONDS:
            save(LAST, step + 1)
            saved_at = now
            if interrupted.signal:
                break
        before = time.perf_counter()
    if progress:
        progress.close()
    if interrupted.signal:
        hint = f"; npnet train -o {args.work_dir} --resume goes on" if args.work_dir else ""
        print(f"\nnpnet: interrupted after {step + 1} steps{hint}", file=sys.stderr)
        return 128 + interrupted.signal
    save(LAST, step + 1)
    run.finish()
    if run.best is None and (target := save(MODEL)):
        print(f"saved to {target}", file=sys.stderr)
    return 0


def _chosen_preset(args):
    if args.preset and args.type:
        raise ValueError("--preset and --type exclude each other")
    name = f"makemore-{args.type}" if args.type else args.preset
    if name is None:
        steps = NOTEBOOK_STEPS if args.max_steps is None else args.max_steps
        if steps < 1:
            raise ValueError(f"--max-steps must be at least 1, got {steps}")
        return _with_flags(notebook(steps), args)
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    preset = (
        PRESETS[name] if args.max_steps is None else replace(PRESETS[name], stop=args.max_steps)
    )
    return _with_flags(preset, args)


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
    for name in given:
        if not hasattr(preset, name):
            raise ValueError(f"--{name.replace('_', '-')} has no meaning in {preset.name}")
    if given.get("top_k") == -1:
        given["top_k"] = None
    return replace(preset, **given)


def _resumed_preset(args, saved, words):
    last = Path(args.work_dir) / LAST
    preset = _saved_preset(saved.meta, last)
    if saved.meta["words"] != _fingerprint(words):
        raise ValueError(
            f"{args.input_file or NAMES} has other words "
            f"than the run in {args.work_dir} was started with"
        )
    if (args.preset or args.type) and _chosen_preset(args).name != preset.name:
        raise ValueError(f"the run in {args.work_dir} is {preset.name}; --resume cannot change it")
    if _with_flags(preset, args) != preset:
        raise ValueError(
            f"the run in {args.work_dir} was started with other settings; "
            "--resume takes only --max-steps"
        )
    return preset if args.max_steps is None else replace(preset, stop=args.max_steps)


def _saved_preset(meta, path):
    """The preset of the run that left the file at `path`."""
    try:
        saved = meta["preset"]
        base = PRESETS["part4" if saved["name"] == "notebook" else saved["name"]]
        values = {
            f.name: tuple(saved[f.name]) if f.name == "splits" else saved[f.name]
            for f in fields(base)
        }
        meta["words"], meta["step"], meta["best"]
    except (KeyError, TypeError) as error:
        raise checkpoint.CheckpointError(f"{path}: not a run of npnet train ({error})") from None
    return replace(base, **values)


def _restore(run, saved, path):
    """Put the run where the checkpoint at `path` left it; returns the step it goes on with."""
    checkpoint.fill(run.model.parameters(), saved.model.parameters(), "the model")
    checkpoint.fill(run.model.buffers(), saved.model.buffers(), "the model")
    checkpoint.fill(run.optimizer.state(), saved.optimizer, "the optimiser")
    try:
        for name, generator in run.generators.items():
            generator.set_state(saved.generators[name])
        run.best, start = saved.meta["best"], int(saved.meta["step"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise checkpoint.CheckpointError(f"{path}: no run can go on from here ({error})") from None
    return start


def _fingerprint(words):
    return hashlib.sha256("\n".join(words).encode()).hexdigest()


def _sample(args):
    how = {"prompt": args.prompt, "temperature": args.temperature, "top_k": args.top_k}
    return _print_words(args.work_dir, args.input_file, args.num_samples, args.seed, **how)


def _print_words(work_dir, input_file, n, seed, **how):
    """Words of the model in work_dir, marked "in train", "in test" or "new" where the words of its
    run are at hand."""
    path = Path(work_dir) / MODEL
    loaded = checkpoint.load(path)
    words = generate(loaded.model, loaded.vocabulary, TorchGenerator(seed), n, **how)
    known = _training_words(loaded.meta, input_file)
    if known is None:
        print(*words, sep="\n")
        return 0
    heaps = sort_by_novelty(words, *_saved_preset(loaded.meta, path).divide(known))
    for heap, mark in zip(heaps, ("in train", "in test", "new"), strict=True):
        for word in heap:
            print(f"{word:<20} {mark}")
    return 0


def _training_words(meta, input_file):
    """The words that the run was started with, or None where they are gone and no file was
    given."""
    path = input_file or meta.get("input_file", "")
    try:
        words = read_words(path)
    except DataError:
        if input_file:
            raise
        return None
    if _fingerprint(words) == meta.get("words"):
        return words
    if input_file:
        raise ValueError(f"{input_file} has other words than the model was trained on")
    return None


def _diagnose(args):
    from npnet import diagnose

    if args.preset not in PRESETS:
        raise ValueError(f"unknown preset {args.preset!r}; there are {', '.join(PRESETS)}")
    preset = PRESETS[args.preset]
    if args.max_steps is not None:
        preset = replace(preset, stop=args.max_steps)
    diagnose.diagnose(preset, read_words(args.input_file or NAMES), args.plot)
    return 0


class Interrupt:
    """The first SIGINT or SIGTERM is noted, for the loop to stop between two steps; the second one
    acts as ever."""

    def __init__(self):
        self.signal = 0
        self.previous = {
            number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)
        }

    def _note(self, number, frame):
        self.signal = number
        for known, handler in self.previous.items():
            signal.signal(known, handler)


class Progress:
    """Step, loss, steps a second and time left, on stderr: redrawn in place on a terminal, else a
    line now and then.

    tqdm draws it where it is installed and stderr is a terminal. The loss is a running mean of
    about a hundred steps.
    """

    def __init__(self, start, steps):
        self.start, self.steps, self.mean = start, steps, 0.0
        self.began = time.perf_counter()
        self.terminal = sys.stderr.isatty()
        self.pause = 0.1 if self.terminal else 2.0
        self.due = self.began + self.pause
        self.bar = None
        if self.terminal:
            try:
                from tqdm import tqdm
            except ImportError:
                return
            self.bar = tqdm(total=steps, initial=start, unit="step", leave=False)

    def update(self, step, loss, now):
        done = step + 1 - self.start
        self.mean += (float(loss) - self.mean) / min(done, 100)
        if now < self.due and step + 1 < self.steps:
            return
        self.due = now + self.pause
        if self.bar is not None:
            self.bar.set_postfix(loss=f"{self.mean:.4f}", refresh=False)
            self.bar.update(step + 1 - self.bar.n)
            return
        rate = done / (now - self.began)
        left = (self.steps - step - 1) / rate
        line = (
            f"step {step + 1:,}/{self.steps:,}  loss {self.mean:.4f}  "
            f"{rate:,.0f} steps/s  {left:.0f} s left"
        )
        print(
            f"\r{line}\x1b[K" if self.terminal else line,
            end="" if self.terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def close(self):
        if self.bar is not None:
            self.bar.close()
        elif self.terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
