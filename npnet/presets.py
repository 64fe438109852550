"""The published runs as declarations: a model, its sizes, a seed, a learning-rate rule.

`preset.prepare(words)` makes the npnet.runs.Run that carries it out.

Sources: the notebooks of Karpathy's "Neural Networks: Zero to Hero" (2022), makemore.py (2022),
nanoGPT (2022), microgpt (2026).
"""

import hashlib
import math
import os
import reprlib
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from npnet.data import DataError, split
from npnet.model import Config
from npnet.models import BUILDERS
from npnet.random import TorchGenerator
from npnet.runs import BigramRun, LectureRun, MakemoreRun, MicrogptRun, NotebookRun, Run
from npnet.text import TEXT, WORDS, Text, split_text
from npnet.text_runs import NanoGPTRun, ShakespeareBigramRun, ShownTextRun, TextRun

LECTURE_SEED = 2147483647
TEXT_RUN = "text-gru"  # what --text alone trains
NOTEBOOK_STEPS = 40000  # more than that, and the validation loss rises again
ENDLESS = 1 << 62
# The fingerprint of makemore's list, to which the published figures belong.
MAKEMORE_NAMES = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
# And that of the lectures' text.
TINYSHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
LEAST = {
    "block_size": 1, "eval_every": 1, "eval_batches": 1, "characters": 0, "accumulate": 1,
    "steps": -1, "stop": -1, "drop_at": 0, "log_every": 1, "batch_size": 1, "top_k": 1,
    "learning_rate": 0, "weight_decay": 0, "seed": -(2**63), "names_seed": -(2**63),
}  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """What all families declare. The original has `steps`; `stop`, if given, is this run's (below
    0: no end). `settings` are the fields, beside the sizes that the model reads, that a caller may
    change."""

    settings: ClassVar[tuple[str, ...]] = ("seed", "batch_size", "learning_rate")
    settles: ClassVar = False  # the model needs its words once more after the last step
    data: ClassVar = WORDS
    run: ClassVar[Any]  # the class of its Run
    # The fingerprint and the name of what the published figures belong to, if there are any.
    original: ClassVar[tuple[str, str] | None] = (MAKEMORE_NAMES, "the names.txt of makemore")
    name: str
    about: str
    kind: str
    seed: int
    steps: int
    learning_rate: float
    stop: int | None = None
    batch_size: int = 32
    n_layer: int = 4
    n_head: int = 4
    n_embd: int = 64
    n_embd2: int = 64

    def __post_init__(self):
        for name, least in LEAST.items():
            value = getattr(self, name, None)
            most = math.inf if isinstance(value, float) else 2**63
            if value is not None and not least <= value < most:
                below = f" and below {most}" if value > least else ""
                raise ValueError(
                    f"{name} must be a number of at least {least}{below}, got {value!r:.60}"
                )

    def prepare(self, data) -> Run:
        """Its Run on words or a text."""
        return self.run(self, data)

    def parts(self, words):
        """Name -> the words of that part: "train", and those that are held out."""
        return {"train": words}

    def divide(self, words):
        """(training words, other known words), to tell the new ones among those drawn."""
        train, *others = self.parts(words).values()
        return train, [word for part in others for word in part]

    def config(self, vocab_size, block_size, **others):
        """The sizes of the model; a batch that the memory of this machine cannot hold is a
        ValueError."""
        config = Config(
            vocab_size, block_size, self.n_layer, self.n_embd, self.n_embd2, self.n_head, **others
        )
        needed, there = self.batch_size * _bytes_per_example(self.kind, config), _memory()
        if needed > there:
            raise ValueError(
                f"a step with batch_size = {self.batch_size} needs about {needed / 1e9:,.0f} GB; "
                f"this machine has {there / 1e9:,.0f} GB of memory"
            )
        return config

    def lasting(self, max_steps):
        """This preset stopped after so many steps."""
        return replace(self, stop=max_steps)

    def changed(self, **values):
        """This preset with other values; one that the run would not read is a ValueError."""
        known = [field.name for field in fields(self)]
        sizes = [name for name in BUILDERS[self.kind].reads if name in known]
        reads = [*self.settings, *sizes]
        for name in values:
            if name not in reads:
                raise ValueError(
                    f"{name} has no meaning in {self.name}, which reads {', '.join(reads)}"
                )
        return replace(self, **values)

    @property
    def last(self):
        """One past the last step."""
        stop = self.steps if self.stop is None else self.stop
        return stop if stop >= 0 else ENDLESS


@dataclass(frozen=True)
class Lecture(Preset):
    """Windows of block_size characters, plain SGD, lr a tenth from step drop_at on, one generator
    for everything.

    names_seed starts a generator of its own for the twenty names; None goes on with the run's.
    """

    run = LectureRun
    settles = True
    block_size: int = 3
    drop_at: int | None = None
    log_every: int = 10000
    names_seed: int | None = LECTURE_SEED + 10
    splits: tuple[str, ...] = ("train", "val")

    def parts(self, words):
        return dict(zip(("train", "val", "test"), split(words), strict=True))


@dataclass(frozen=True)
class Notebook(Lecture):
    """The same, shown as it learns."""

    run = NotebookRun
    original = None

    def lasting(self, max_steps):
        """The notebook's run of that length: its rate falls in the middle."""
        _require_a_step(max_steps)
        return replace(self, steps=max_steps, drop_at=max_steps // 2)


@dataclass(frozen=True)
class Bigram(Preset):
    """The first lecture: a table of counts, five names by either rule of torch.multinomial, and the
    average loss."""

    run = BigramRun
    settings, settles = ("seed",), True

    @property
    def last(self):
        """Counting takes no steps, whatever --max-steps says."""
        return 0


@dataclass(frozen=True)
class Makemore(Preset):
    """makemore.py: whole words, masked targets, AdamW; log every 10 steps, samples every 200,
    evaluation every 500."""

    run = MakemoreRun
    settings = (*Preset.settings, "weight_decay", "top_k")
    weight_decay: float = 0.01
    top_k: int | None = None

    def parts(self, words, generator=None):
        """The run's own generator makes the permutation, its first draw."""
        n_test = min(1000, int(len(words) * 0.1))
        if n_test == 0:
            raise DataError(
                f"{len(words)} words leave no test set; makemore's split needs at least 10"
            )
        order = (generator or TorchGenerator(self.seed)).randperm(len(words))
        train, test = order[:-n_test].tolist(), order[-n_test:].tolist()
        return {"train": [words[i] for i in train], "test": [words[i] for i in test]}


@dataclass(frozen=True)
class Microgpt(Preset):
    """microgpt: one word a step, Adam with a falling rate, 20 samples at temperature 0.5, Python's
    random."""

    run = MicrogptRun
    settings = ("seed", "learning_rate")


@dataclass(frozen=True)
class RunningText(Preset):
    """Random windows of a text, AdamW, and a look at it as it learns.

    Every eval_every steps (None: never), and at the last one, the mean loss of eval_batches batches
    of each part is taken, drawn from the run's own generator, before the step's own batch, or with
    batch_first as in nanoGPT after it. Every log_every steps the loss of the step is printed. A
    step is the mean of `accumulate` batches.
    """

    run: ClassVar[Any] = ShownTextRun
    settings = (*Preset.settings, "block_size", "weight_decay", "accumulate")
    data = TEXT
    original: ClassVar[tuple[str, str] | None] = None
    batch_size: int = 16
    block_size: int = 64
    weight_decay: float = 0.01
    eval_every: int | None = 200
    eval_batches: int = 20
    batch_first: bool = False
    log_every: int | None = None
    characters: int = 500  # drawn in the end
    accumulate: int = 1
    tie_weights: bool = False
    style: str = "makemore"
    dropout: float = 0.0

    def lasting(self, max_steps):
        """A run of that length, at the end of which the rate is lowest."""
        _require_a_step(max_steps)
        return replace(self, steps=max_steps)

    def parts(self, text):
        return split_text(text, self.block_size)


@dataclass(frozen=True)
class Shakespeare(RunningText):
    """A published run on Tiny Shakespeare, which prints what the original prints."""

    run = TextRun
    original = (TINYSHAKESPEARE, "tinyshakespeare")

    def lasting(self, max_steps):
        return Preset.lasting(self, max_steps)


@dataclass(frozen=True)
class ShakespeareBigram(Shakespeare):
    """The beginning of lecture 7: a bigram model before and after training."""

    run = ShakespeareBigramRun


@dataclass(frozen=True)
class NanoGPT(Shakespeare):
    """nanoGPT's train.py, and what its configurations for characters have in common: weight decay
    for matrices alone, clipping at 1, 100 steps of warm-up, and a cosine down to a tenth."""

    run = NanoGPTRun
    batch_first: bool = True
    tie_weights: bool = True
    style: str = "nanogpt"
    weight_decay: float = 0.1


def _bytes_per_example(kind, c):
    """About what one example holds between forward and backward: the token's number and target, and
    every activation with its gradient."""
    n_layer = c.n_layer if "n_layer" in BUILDERS[kind].reads else 1
    scores = 4 * c.n_head * c.block_size if "n_head" in BUILDERS[kind].reads else 0
    window = c.block_size * min(3 * c.n_embd, 2 * c.vocab_size) if kind == "mlp_makemore" else 0
    numbers = n_layer * (24 * c.n_embd + 12 * c.n_embd2 + scores) + window + 5 * c.vocab_size
    return c.block_size * (16 + numbers * (8 if c.dtype == "float64" else 4))


def _memory():
    """Bytes of memory of this machine; 16 GB where it cannot be asked."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 16 << 30


def _makemore(kind, about, name=None):
    return Makemore(
        f"makemore-{name or kind}",
        f"makemore.py --type {name or kind}: {about}",
        kind,
        3407,
        -1,
        5e-4,
    )


def _text(kind, about, learning_rate, steps, name=None, **sizes):
    name = f"text-{name or kind}"
    about = f"running text: {about}"
    return RunningText(name, about, kind, 1337, steps, learning_rate, **sizes)


_PRESETS = (
    Bigram("part1", "lecture 1: bigrams by counting", "bigram", LECTURE_SEED, 0, 0.0),
    Lecture(
        "part3", "lecture 3: the MLP with BatchNorm, running mean and standard deviation",
        "mlp_running", LECTURE_SEED, 200000, 0.1, n_embd=10, n_embd2=200, drop_at=100000,
    ),
    Lecture(
        "part3-deep", "lecture 3: six linear layers with BatchNorm, stopped after step 1000",
        "mlp_deep", LECTURE_SEED, 200000, 0.1, stop=1001,
        n_layer=6, n_embd=10, n_embd2=100, drop_at=150000,
    ),
    Lecture(
        "part4",
        "lecture 4: gradients by hand; gain and bias drawn by the same generator (there: unseeded)",
        "mlp", LECTURE_SEED, 200000, 0.1, n_embd=10, n_embd2=200, drop_at=100000,
    ),
    Lecture(
        "part5", "lecture 5: the WaveNet-like network",
        "wavenet", 42, 200000, 0.1,
        n_embd=24, n_embd2=128, block_size=8, drop_at=150000, names_seed=None,
    ),
    _makemore("bigram", "a table"),
    _makemore("mlp_makemore", "an MLP at each position", "mlp"),
    _makemore("bow", "a causal bag of words"),
    _makemore("rnn", "a recurrent network"),
    _makemore("gru", "a gated recurrent network"),
    _makemore("lstm", "long short-term memory, which makemore's README names and its code lacks"),
    _makemore("transformer", "a GPT"),
    ShakespeareBigram(
        "part7-bigram", "lecture 7: a bigram model of running text",
        "bigram", 1337, 10000, 1e-3, batch_size=32,
        block_size=8, eval_every=None, log_every=1000, characters=300,
    ),
    Shakespeare(
        "part7", "lecture 7: a GPT", "transformer", 1337, 5000, 1e-3,
        block_size=32, eval_every=100, eval_batches=200, characters=2000, style="lecture",
    ),
    NanoGPT(
        "nanogpt-cpu", "nanoGPT's run for a laptop", "transformer", 1337, 2001, 1e-3,
        batch_size=12, n_embd=128, eval_every=250, log_every=1,
    ),
    _text("bigram", "a table", 0.05, 2000),
    _text(
        "mlp_makemore", "an MLP at each position", 3e-3, 2000, "mlp",
        block_size=12, batch_size=64, n_embd=24, n_embd2=192,
    ),
    _text("bow", "a causal bag of words", 3e-3, 2000, block_size=16),
    _text("rnn", "a recurrent network", 3e-3, 1000, n_embd2=128),
    _text("gru", "a gated recurrent network, which --text alone trains", 5e-3, 1000, n_embd2=128),
    _text("lstm", "long short-term memory", 5e-3, 1000, n_embd2=128),
    _text("transformer", "a GPT", 3e-3, 1000, n_layer=2),
    _text(
        "wavenet", "the WaveNet-like network of lecture 5", 3e-3, 2000,
        block_size=16, batch_size=64, n_embd=24, n_embd2=128,
    ),
    Microgpt(
        "microgpt", "microgpt: a GPT in plain Python",
        "microgpt", 42, 1000, 0.01, batch_size=1, n_layer=1, n_embd=16,
    ),
)  # fmt: skip
PRESETS = {preset.name: preset for preset in _PRESETS}


def notebook(steps):
    """The main job: the notebook's MLP for `steps` steps, the rate a tenth from their half on."""
    values = {field.name: getattr(PRESETS["part4"], field.name) for field in fields(Lecture)}
    values |= {"name": "notebook", "splits": ("train", "val", "test")}
    return Notebook(**values).lasting(steps)


def _require_a_step(max_steps):
    if max_steps < 1:
        raise ValueError(f"--max-steps must be at least 1, got {max_steps}")


def named(name, max_steps=None):
    """The preset of that name, or "notebook", with max_steps as its `lasting` has it.

    An unknown name is a ValueError that lists them.
    """
    if name != "notebook" and name not in PRESETS:
        raise ValueError(
            f"unknown preset {name!r}; there are {', '.join(PRESETS)} (see npnet train --help)"
        )
    preset = notebook(NOTEBOOK_STEPS) if name == "notebook" else PRESETS[name]
    return preset if max_steps is None else preset.lasting(max_steps)


def restored(saved):
    """The preset whose `dataclasses.asdict` is `saved`; anything else is a ValueError."""
    if not isinstance(saved, dict) or not isinstance(saved.get("name"), str):
        raise ValueError("the checkpoint names no preset")
    preset = named(saved["name"])
    values = {}
    for field in fields(preset):
        value, known = saved.get(field.name), getattr(preset, field.name)
        if field.name == "splits" and isinstance(value, list):
            value = tuple(value)
        optional = field.type == int | None and (value is None or type(value) is int)
        fixed = field.name in ("name", "kind", "splits")
        if (fixed and value != known) or not (optional or type(value) is type(known)):
            raise ValueError(f"the checkpoint's preset has {field.name} = {reprlib.repr(value)}")
        values[field.name] = value
    return replace(preset, **values)


def fingerprint(data):
    """The SHA-256 of a Text, or of words, one per line, in hexadecimal."""
    if isinstance(data, Text):
        return data.fingerprint
    words = data
    return hashlib.sha256("\n".join(words).encode()).hexdigest()
