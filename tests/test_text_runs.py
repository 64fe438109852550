"""Runs on running text beside the lecture's own code in torch: what is drawn in which order, what
is printed, and what the models see."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from npnet.data import DataError
from npnet.models import BUILDERS, build
from npnet.presets import PRESETS, RunningText, Shakespeare, named
from npnet.random import TorchGenerator
from npnet.sample import FEW, chooser, continued, generate, generate_text
from npnet.score import line_extremes, score_text, table
from npnet.text import Text, TextVocabulary, read_text
from npnet.train import evaluate

TYPES = [name for name, preset in PRESETS.items() if type(preset) is RunningText]
SMALL = {"n_embd": 8, "n_embd2": 8, "n_layer": 1, "n_head": 2}


@pytest.fixture(scope="module")
def play():
    return read_text()


def small(name, **settings):
    """That run with the sizes that its model reads made small."""
    preset = PRESETS[name]
    sizes = {size: n for size, n in SMALL.items() if size in BUILDERS[preset.kind].reads}
    return replace(preset, **{"block_size": 8, "batch_size": 4} | sizes | settings)


def losses_of(run):
    return [float(loss) for _, loss in run.steps()]


# ---- lecture 7's bigram model


class Bigram(torch.nn.Module):
    """As the lecture writes it."""

    def __init__(self, V):
        super().__init__()
        self.table = torch.nn.Embedding(V, V)

    def forward(self, ids, targets=None):
        logits = self.table(ids)
        if targets is None:
            return logits, None
        B, T, C = logits.shape
        return logits, F.cross_entropy(logits.view(B * T, C), targets.view(B * T))

    def generate(self, ids, n):
        for _ in range(n):
            probs = F.softmax(self(ids)[0][:, -1], dim=-1)
            ids = torch.cat((ids, torch.multinomial(probs, 1)), dim=1)
        return ids


def get_batch(data, block_size, batch_size):
    ix = torch.randint(len(data) - block_size, (batch_size,))
    x = torch.stack([data[i : i + block_size] for i in ix])
    return x, torch.stack([data[i + 1 : i + block_size + 1] for i in ix])


def lecture_in_torch(text, steps):
    """first loss, the hundred characters, the loss of each step, the three hundred."""
    data = torch.tensor(text.ids, dtype=torch.long)[: int(0.9 * len(text))]
    torch.manual_seed(1337)
    x, y = get_batch(data, 8, 4)
    torch.manual_seed(1337)
    model = Bigram(len(text.vocabulary))
    first = model(x, y)[1].item()
    start = torch.zeros((1, 1), dtype=torch.long)
    before = text.vocabulary.decode(model.generate(start, 100)[0])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        loss = model(*get_batch(data, 8, 32))[1]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return first, before, losses, text.vocabulary.decode(model.generate(start, 300)[0])


def test_part7_bigram_is_the_lectures(play, capsys):
    run = replace(PRESETS["part7-bigram"], stop=60).prepare(play)
    losses = losses_of(run)
    printed = capsys.readouterr().out
    run.finish()
    first, before, expected, after = lecture_in_torch(play, 60)
    assert printed == f"loss before training {first:.4f}\n{before}\n"
    assert np.abs(np.subtract(losses, expected)).max() < 2e-6
    assert capsys.readouterr().out == after + "\n"


BEFORE = (
    "\nSKIcLT;AcELMoTbvZv C?nq-QE33:CJqkOKH-q;:la!oiywkHjgChzbQ?u!3bLIgwevmyFJGUGp\n"
    "wnYWmnxKWWev-tDqXErVKLgJ"
)
AFTER = (
    "\nlso br. ave aviasurf my, yxMPZI ivee iuedrd whar ksth y h bora s be hese, woweee; the! "
    "KI 'de, ulseecherd d o blllando;LUCEO,"
)


@pytest.mark.parametrize("steps", [100, pytest.param(10000, marks=pytest.mark.slow)])
def test_part7_bigram_prints_what_was_published(steps, tinyshakespeare, capsys):
    run = replace(PRESETS["part7-bigram"], stop=steps).prepare(read_text(tinyshakespeare))
    losses = []
    for step, loss in run.steps():
        run.report(step, loss, 0.0)
        losses.append(float(loss))
    printed = capsys.readouterr().out
    assert printed.startswith(f"loss before training 4.8786\n{BEFORE}\n")
    for step, loss in ((99, 4.656306), (999, 3.704137), (9999, 2.382369)):
        if step < steps:
            assert losses[step] == pytest.approx(loss, abs=2e-6)
    if steps == 10000:
        step, loss = re.findall(r"step (\d+): loss (\S+)\n", printed)[-1]
        assert step == "9999" and float(loss) == pytest.approx(2.382369, abs=2e-6)
        run.finish()
        assert capsys.readouterr().out.startswith(AFTER)


# ---- evaluations along the way


def evaluated_in_torch(text, steps, every, batches, batch_first):
    """(step, train, val) as estimate_loss has them, and the loss of each step."""
    n = int(0.9 * len(text))
    ids = torch.tensor(text.ids, dtype=torch.long)
    parts = ids[:n], ids[n:]
    torch.manual_seed(1337)
    model = Bigram(len(text.vocabulary))
    with torch.no_grad():
        model.table.weight.zero_()
    torch.manual_seed(1337)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.01)
    found, losses = [], []
    for step in range(steps):
        batch = get_batch(parts[0], 8, 4) if batch_first else None
        if step % every == 0 or step == steps - 1:
            with torch.no_grad():
                means = [
                    torch.tensor(
                        [model(*get_batch(part, 8, 4))[1].item() for _ in range(batches)]
                    ).mean()
                    for part in parts
                ]
            found.append((step, *(mean.item() for mean in means)))
        loss = model(*(batch or get_batch(parts[0], 8, 4)))[1]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return found, losses


@pytest.mark.parametrize("batch_first", [False, True])
def test_evaluations_are_drawn_where_the_originals_draw_them(play, batch_first, capsys):
    preset = Shakespeare(
        "any", "", "bigram", 1337, 12, 0.01, batch_size=4, block_size=8, eval_every=5,
        eval_batches=3, batch_first=batch_first, log_every=4, characters=0,
    )  # fmt: skip
    expected, losses = evaluated_in_torch(play, 12, 5, 3, batch_first)
    run, got, seen = preset.prepare(play), [], []
    for step, loss in run.steps():
        run.report(step, loss, 0.25)
        got.append(float(loss))
        if run.evaluation:
            seen.append((step, *run.evaluation.values()))
    run.finish()
    assert [step for step, *_ in expected] == [0, 5, 10, 11]
    np.testing.assert_allclose(seen, expected, atol=2e-6)
    np.testing.assert_allclose(got, losses, atol=2e-6)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"step 0: train loss {seen[0][1]:.4f}, val loss {seen[0][2]:.4f}"
    assert lines[1] == f"iter 0: loss {got[0]:.4f}, time 250.00ms"
    assert len(lines) == 4 + 3


@pytest.mark.parametrize("name", TYPES)
def test_every_type_trains_on_a_text(name, play, capsys):
    run = small(name, steps=6, eval_every=3, eval_batches=2, learning_rate=0.01).prepare(play)
    losses = losses_of(run)
    run.settle()
    run.finish()
    lines = capsys.readouterr().out.splitlines()
    evaluations = [line for line in lines if re.fullmatch(r"step \d: train loss .*, val .*", line)]
    assert [line[:6] for line in evaluations] == ["step 0", "step 3", "step 6"]
    assert len(losses) == 6 and run.evaluation.keys() == {"train", "val"}
    assert lines[2].startswith("    ")  # some text, from a generator of its own
    undisturbed = small(name, steps=6, eval_every=3, eval_batches=2, learning_rate=0.01)
    again = undisturbed.prepare(play)
    again.text = lambda *args: ""
    assert losses_of(again) == losses


@pytest.mark.parametrize("name", TYPES)
def test_every_type_learns(name, play):
    preset = small(name, steps=100, eval_every=None, learning_rate=0.03, batch_size=16)
    losses = losses_of(preset.prepare(play))
    assert np.mean(losses[-5:]) < losses[0] - 0.3


def test_the_length_of_a_run_of_ours_is_its_max_steps():
    assert named("text-gru", 70).steps == 70 and named("text-gru", 70).stop is None
    assert named("part7-bigram", 70).stop == 70 and named("part7-bigram", 70).steps == 10000
    with pytest.raises(ValueError, match="--max-steps must be at least 1"):
        named("text-gru", 0)


# ---- what comes next, as the text grows


def model_of(name, V=7):
    preset = small(name)
    model = build(preset.kind, preset.config(V, 8, dtype="float64"), TorchGenerator(5))
    rng = np.random.default_rng(0)
    model.data[...] = rng.standard_normal(model.data.size)
    return model


def last_logits(model, ids):
    """Of the model without a cache, for the last of the ids."""
    if model.windowed:
        ids = [0] * model.config.block_size + ids
    if model.windowed or model.kind in ("transformer", "bow"):
        ids = ids[-model.config.block_size :]
    logits = model.logits(np.array([ids]))
    return logits if model.windowed else logits[:, -1]


@pytest.mark.parametrize("few", [0, FEW])
@pytest.mark.parametrize("n_prompt", [1, 3, 8, 9, 20])
@pytest.mark.parametrize("name", TYPES)
def test_the_context_slides_as_without_a_cache(name, n_prompt, few, monkeypatch):
    """mlp_makemore's window and the recurrent states have seen more than the last block: they are
    asked about everything. A small Transformer reads the whole context from the beginning."""
    monkeypatch.setattr("npnet.sample.FEW", few)
    model, steps = model_of(name), []
    step = model.step
    model.step = lambda *args: steps.append(1) or step(*args)
    prompt = np.random.default_rng(1).integers(0, 7, n_prompt)
    ids, seen, rng = prompt.tolist(), [], np.random.default_rng(2)

    def choose(logits):
        seen.append(logits)
        return rng.integers(0, 7, 1)

    drawn = list(continued(model, choose, prompt, 25))
    assert len(drawn) == len(seen) == 25
    for logits, number in zip(seen, drawn, strict=True):
        np.testing.assert_allclose(logits, last_logits(model, ids), rtol=1e-9, atol=1e-9)
        ids.append(number)
    assert bool(steps) != (model.kind == "transformer" and few > 0)


def test_characters_come_one_by_one():
    """Nothing is drawn before it is asked for."""
    generator = TorchGenerator(3)
    model, state = model_of("text-gru"), generator.state()
    ids = continued(model, chooser(generator), np.array([0]), 5)
    assert np.array_equal(generator.state(), state)
    next(ids)
    once = generator.state()
    assert not np.array_equal(once, state)
    assert len(list(ids)) == 4 and not np.array_equal(generator.state(), once)


def test_a_word_is_not_drawn_from_a_text():
    model, vocabulary = model_of("text-gru"), TextVocabulary("abcdef\n")
    with pytest.raises(ValueError, match="generate_text draws that"):
        generate(model, vocabulary, TorchGenerator(0))
    drawn = generate_text(model, vocabulary, TorchGenerator(0), 30, prompt="ab")
    assert not isinstance(drawn, str) and set(drawn) <= set(vocabulary.characters)
    with pytest.raises(DataError, match="'x' in 'ax' is not in the vocabulary"):
        generate_text(model, vocabulary, TorchGenerator(0), prompt="ax")  # at once


# ---- how well a model knows a text


def ids_of(n, V=7):
    return np.random.default_rng(n).integers(0, V, n).astype(np.uint8)


@pytest.mark.parametrize("n", [2, 9, 10, 16, 17, 18, 100])
@pytest.mark.parametrize("name", TYPES)
def test_the_loss_of_a_text_is_that_of_its_blocks(name, n, monkeypatch):
    monkeypatch.setattr("npnet.score.AT_ONCE", 24)
    model, vocabulary, ids = model_of(name), TextVocabulary("abcdef\n"), ids_of(n)
    if model.windowed and n < 9:
        with pytest.raises(DataError, match=f"the text has {n} characters; at least 9"):
            score_text(model, vocabulary, ids)
        return
    told = []
    found = score_text(model, vocabulary, ids, lambda *done: told.append(done), lines=True)
    assert told[-1] == (n, n)
    losses = []
    if model.windowed:
        for i in range(8, n):
            losses.append(evaluate(model, ids[None, i - 8 : i], ids[None, i][None][:, 0]))
    else:
        for start in range(0, n - 1, 8):
            stop = min(start + 8, n - 1)
            x, y = ids[None, start:stop], ids[None, start + 1 : stop + 1]
            losses += [evaluate(model, x, y)] * (stop - start)
    assert found.characters == len(losses) == (n - 8 if model.windowed else n - 1)
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-10)
    assert found.perplexity == pytest.approx(np.exp(np.mean(losses)), rel=1e-10)


@pytest.mark.parametrize("name", ["text-bow", "text-wavenet"])
def test_the_logits_of_a_text_are_bounded(name, monkeypatch):
    monkeypatch.setattr("npnet.score.LARGEST_LOGITS", 7 * 16)
    model, seen = model_of(name), []
    logits = model.logits

    def counted(x):
        found = logits(x)
        seen.append(found.size)
        return found

    monkeypatch.setattr(model, "logits", counted)
    score_text(model, TextVocabulary("abcdef\n"), ids_of(100))
    assert max(seen) == 7 * 16


def test_the_likeliest_lines(monkeypatch):
    """The losses of a bigram model can be added by hand; the first line has no beginning, an empty
    one says nothing."""
    monkeypatch.setattr("npnet.score.AT_ONCE", 16)
    model, vocabulary = model_of("text-bigram", V=4), TextVocabulary("\nabc")
    text = "ab\n\nab\ncab\nab\nbbbb\nc"
    found = score_text(model, vocabulary, vocabulary.encode(text), lines=True)
    table_ = model.parameters()["logits.weight"]
    logp = table_ - np.log(np.exp(table_).sum(1, keepdims=True))
    expected = {}
    for line in ("ab", "cab", "bbbb"):
        path = vocabulary.encode(f"\n{line}\n")
        nats = -logp[path[:-1], path[1:]].sum()
        expected[line] = (nats / (len(line) + 1), nats)
    assert found.likeliest.keys() == found.unlikeliest.keys() == expected.keys()
    for line, values in expected.items():
        assert found.likeliest[line] == pytest.approx(values)
        assert found.unlikeliest[line] == pytest.approx(values)
    header, row = table({"val": found})
    assert "words" not in header and row.split()[:2] == ["val", str(len(text) - 1)]
    lines = list(line_extremes({"val": found}))
    assert len(lines) == 2 * (1 + 3) and lines[1].split()[0] == min(expected, key=expected.get)
    assert lines[5].split()[0] == max(expected, key=expected.get)


def test_only_the_best_of_many_lines_are_kept():
    vocabulary = TextVocabulary("\nab")
    rng = np.random.default_rng(0)
    lines = ["".join(rng.choice(list("ab"), rng.integers(1, 14))) for _ in range(3000)]
    ids = vocabulary.encode("\n".join(["", *lines, ""]))
    found = score_text(model_of("text-bigram", V=3), vocabulary, ids, lines=True)
    every = {}
    logp = model_of("text-bigram", V=3).parameters()["logits.weight"]
    logp = logp - np.log(np.exp(logp).sum(1, keepdims=True))
    for line in lines:
        path = vocabulary.encode(f"\n{line}\n")
        every[line] = -logp[path[:-1], path[1:]].mean()
    first = sorted(every, key=every.get)
    assert len(found.likeliest) <= 1000
    assert sorted(found.likeliest, key=found.likeliest.get)[:10] == first[:10]
    assert sorted(found.unlikeliest, key=found.unlikeliest.get)[-10:] == first[-10:]


def test_a_text_too_short_for_the_run_is_refused():
    vocabulary = TextVocabulary("ab")
    text = Text(vocabulary.encode("ab" * 100), vocabulary, "")
    with pytest.raises(DataError, match="200 characters, 180 to train on and 20 held out"):
        replace(PRESETS["text-gru"], block_size=20).prepare(text)
    replace(PRESETS["text-gru"], block_size=19).prepare(text)
