"""The ladder, simplest first: bigram, bow, mlp, mlp_running, mlp_deep, mlp_makemore, rnn, gru,
lstm, wavenet, transformer, microgpt.

Every builder has one signature, `name(config, generator) -> Sequential`, and draws its parameters
from the generator in the order in which the original draws them. `build("name", config, generator)`
wraps the network in a Model. A further model is one more function marked @builder(...) with the
number of its parameters, so that too large a model is refused before anything is drawn, and with
the names of the sizes that it reads from the Config.

Two kinds of input: the mlps of the lectures and wavenet read a window of the last block_size
tokens, ids (B, block_size) -> logits (B, V), and are marked windowed=True; the others read
sequences, ids (B, T) with T <= block_size -> logits (B, T, V), the logits at t depending on the
tokens up to t alone.
"""

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any, NamedTuple, cast

import numpy as np

from npnet.layers import (
    GRU,
    LSTM,
    RNN,
    BatchNorm,
    CausalAttention,
    CausalMean,
    Dropout,
    Embedding,
    EmbeddingLinear,
    Flatten,
    FlattenConsecutive,
    Layer,
    LayerNorm,
    Linear,
    PositionalEmbedding,
    Recurrent,
    ReLU,
    Residual,
    RMSNorm,
    Sequential,
    Table,
    Tanh,
    TiedLinear,
    Window,
)
from npnet.memory import keep_freed_memory
from npnet.model import LARGEST_MODEL, STYLES, Config, Model, Style
from npnet.random import Generator, linear_init

ALWAYS_READ = ("vocab_size", "block_size", "dtype")
_SMALL = 0.02  # GPT-2's deviation


class Builder(NamedTuple):
    """How a model is built, how many parameters that makes, the sizes of the Config that it reads
    beside vocab_size and block_size, and whether it reads windows."""

    network: Callable[[Config, Generator], Sequential]
    count: Callable[[Config], int]
    reads: tuple[str, ...]
    windowed: bool


BUILDERS: dict[str, Builder] = {}


def builder(count: Callable[[Config], int], *reads: str, windowed: bool = False) -> Callable:
    """Register a function (config, generator) -> Sequential under its own name."""

    def register(function):
        BUILDERS[function.__name__] = Builder(function, count, reads, windowed)
        return function

    return register


def parameter_count(kind: str, config: Config) -> int:
    """How many parameters the model of that name has, by arithmetic alone. An unknown name is a
    ValueError."""
    if kind not in BUILDERS:
        raise ValueError(f"unknown model {reprlib.repr(kind)}; there are {', '.join(BUILDERS)}")
    return BUILDERS[kind].count(config)


def build(kind: str, config: Config, generator: Generator) -> Model:
    """The Model of that name with parameters drawn from `generator`.

    An unknown name is a ValueError, and so are a size that this model does not read and that
    differs from its default, and more than LARGEST_MODEL parameters.
    """
    n = parameter_count(kind, config)
    network, _, reads, windowed = BUILDERS[kind]
    for size in fields(Config):
        value = getattr(config, size.name)
        if size.name not in (*ALWAYS_READ, *reads) and value != size.default:
            raise ValueError(
                f"{size.name} has no meaning in {kind}, which reads {', '.join(reads) or 'none'}; "
                f"got {value}"
            )
    if n > LARGEST_MODEL:
        raise ValueError(f"{kind}: {n:,} parameters; {LARGEST_MODEL:,} are the most")
    keep_freed_memory()
    return Model(network(config, generator), config, kind, windowed)


def _linear_count(fan_in: int, fan_out: int) -> int:
    return fan_in * fan_out + fan_out


@builder(lambda c: c.vocab_size**2)
def bigram(c: Config, g: Generator) -> Sequential:
    """A table of logits (V, V), zero at the start, one row for each last token.

    train.count_bigrams fills it.
    """
    return Sequential(logits=Embedding(np.zeros((c.vocab_size, c.vocab_size), c.dtype)))


def _bow_count(c: Config) -> int:
    mlp = _linear_count(c.n_embd, c.n_embd2) + _linear_count(c.n_embd2, c.n_embd)
    tables = (c.vocab_size + c.block_size) * c.n_embd
    return tables + mlp + _linear_count(c.n_embd, c.vocab_size)


@builder(_bow_count, "n_embd", "n_embd2")
def bow(c: Config, g: Generator) -> Sequential:
    """makemore's bag of words: embeddings, averaged over everything before, then a small MLP."""
    token, position = (_randn(g, c, rows, c.n_embd) for rows in (c.vocab_size, c.block_size))
    return Sequential(
        embedding=PositionalEmbedding(token, position),
        bag=Residual(mean=CausalMean()),
        mlp=Residual(
            up=_linear(g, c, c.n_embd, c.n_embd2),
            tanh=Tanh(),
            down=_linear(g, c, c.n_embd2, c.n_embd),
        ),
        head=_linear(g, c, c.n_embd, c.vocab_size),
    )


def _mlp_count(c: Config) -> int:
    hidden = c.block_size * c.n_embd * c.n_embd2 + 2 * c.n_embd2
    return c.vocab_size * c.n_embd + hidden + _linear_count(c.n_embd2, c.vocab_size)


@builder(_mlp_count, "n_embd", "n_embd2", windowed=True)
def mlp(c: Config, g: Generator) -> Sequential:
    """The notebook's (after Bengio et al., 2003): embedding, linear without bias, which BatchNorm
    would remove, BatchNorm, tanh, linear.

    Nothing starts at exactly 0 or 1, which would hide a wrong backward. Its BatchNorm keeps no
    running statistics: it is calibrated on the whole training set afterwards, by train.calibrate.
    """
    fan_in = c.block_size * c.n_embd
    table = _randn(g, c, c.vocab_size, c.n_embd)
    w1 = _randn(g, c, fan_in, c.n_embd2) * ((5 / 3) / fan_in**0.5)
    w2 = _randn(g, c, c.n_embd2, c.vocab_size) * 0.1
    b2 = _randn(g, c, c.vocab_size) * 0.1
    gain, bias = _randn(g, c, c.n_embd2) * 0.1 + 1, _randn(g, c, c.n_embd2) * 0.1
    norm = BatchNorm(gain, bias, running="calibrated")
    return _mlp(table, w1, norm, w2, b2)


@builder(_mlp_count, "n_embd", "n_embd2", windowed=True)
def mlp_running(c: Config, g: Generator) -> Sequential:
    """The third lecture's: the same with a smaller last layer, the running mean and standard
    deviation, and no eps."""
    fan_in = c.block_size * c.n_embd
    table = _randn(g, c, c.vocab_size, c.n_embd)
    w1 = _randn(g, c, fan_in, c.n_embd2) * ((5 / 3) / fan_in**0.5)
    w2 = _randn(g, c, c.n_embd2, c.vocab_size) * 0.01
    b2 = _randn(g, c, c.vocab_size) * 0
    norm = BatchNorm(*_ones_zeros(c, c.n_embd2), momentum=0.001, eps=0.0, running="std")
    return _mlp(table, w1, norm, w2, b2)


def _mlp(
    table: np.ndarray, w1: np.ndarray, norm: BatchNorm, w2: np.ndarray, b2: np.ndarray
) -> Sequential:
    return Sequential(
        embedding=Embedding(table),
        flatten=Flatten(),
        hidden=Linear(w1),
        norm=norm,
        tanh=Tanh(),
        head=Linear(w2, b2),
    )


def _mlp_deep_count(c: Config) -> int:
    layers = (fan_in * fan_out + 2 * fan_out for fan_in, fan_out in pairwise(_widths(c)))
    return c.vocab_size * c.n_embd + sum(layers)


def _widths(c: Config) -> list[int]:
    return [c.block_size * c.n_embd, *[c.n_embd2] * (c.n_layer - 1), c.vocab_size]


@builder(_mlp_deep_count, "n_layer", "n_embd", "n_embd2", windowed=True)
def mlp_deep(c: Config, g: Generator) -> Sequential:
    """The third lecture's deeper network: n_layer linear layers, each with a BatchNorm, and a tanh
    after each but the last."""
    embedding = Embedding(_randn(g, c, c.vocab_size, c.n_embd))
    layers: list[Layer] = []
    for fan_in, fan_out in pairwise(_widths(c)):
        linear = Linear(_randn(g, c, fan_in, fan_out) / fan_in**0.5)
        norm = BatchNorm(*_ones_zeros(c, fan_out))
        layers += [linear, norm, Tanh()]
    layers.pop()
    norm.weight.data *= 0.1  # make the first predictions less confident
    return Sequential(embedding=embedding, flatten=Flatten(), layers=Sequential(*layers))


def _mlp_makemore_count(c: Config) -> int:
    hidden = _linear_count(c.block_size * c.n_embd, c.n_embd2)
    return (c.vocab_size + 1) * c.n_embd + hidden + _linear_count(c.n_embd2, c.vocab_size)


@builder(_mlp_makemore_count, "n_embd", "n_embd2")
def mlp_makemore(c: Config, g: Generator) -> Sequential:
    """makemore's: at each position the embeddings of the last block_size tokens, newest first.

    Row V of the table is the blank before the first token.
    """
    table = Table(_randn(g, c, c.vocab_size + 1, c.n_embd))
    hidden = _gates(g, c, 1, c.block_size * c.n_embd)
    return Sequential(
        window=Window(c.block_size, blank=c.vocab_size),
        embedding=table,
        hidden=EmbeddingLinear(table.weight, *hidden),
        tanh=Tanh(),
        head=_linear(g, c, c.n_embd2, c.vocab_size),
    )


def _recurrent_count(c: Config, gates: int, states: int) -> int:
    cell = states * c.n_embd2 + gates * _linear_count(c.n_embd + c.n_embd2, c.n_embd2)
    return c.vocab_size * c.n_embd + cell + _linear_count(c.n_embd2, c.vocab_size)


@builder(lambda c: _recurrent_count(c, 1, 1), "n_embd", "n_embd2")
def rnn(c: Config, g: Generator) -> Sequential:
    """makemore's RNN: one tanh cell on [x_t, h_{t-1}]."""
    return _recurrent(c, g, RNN, 1)


@builder(lambda c: _recurrent_count(c, 3, 1), "n_embd", "n_embd2")
def gru(c: Config, g: Generator) -> Sequential:
    """makemore's GRU: three Linear layers drawn one after the other, z, r and the candidate."""
    return _recurrent(c, g, GRU, 3)


@builder(lambda c: _recurrent_count(c, 4, 2), "n_embd", "n_embd2")
def lstm(c: Config, g: Generator) -> Sequential:
    """The same around an LSTM, its four gates drawn in the order i, f, g, o."""
    return _recurrent(c, g, LSTM, 4)


def _recurrent(c: Config, g: Generator, cell: type[Recurrent], gates: int) -> Sequential:
    table = Table(_randn(g, c, c.vocab_size, c.n_embd))
    states = [np.zeros(c.n_embd2, c.dtype) for _ in cell.states]
    return Sequential(
        embedding=table,
        cell=cell(table.weight, *states, *_gates(g, c, gates, c.n_embd + c.n_embd2)),
        head=_linear(g, c, c.n_embd2, c.vocab_size),
    )


def _wavenet_count(c: Config) -> int:
    n_stage = c.block_size.bit_length() - 1
    stages = 2 * (c.n_embd + (n_stage - 1) * c.n_embd2) * c.n_embd2 + 2 * n_stage * c.n_embd2
    return c.vocab_size * c.n_embd + stages + _linear_count(c.n_embd2, c.vocab_size)


@builder(_wavenet_count, "n_embd", "n_embd2", windowed=True)
def wavenet(c: Config, g: Generator) -> Sequential:
    """The fifth lecture's: neighbours joined two by two until one is left.

    block_size must be a power of two and at least 2.
    """
    n_stage = c.block_size.bit_length() - 1
    if c.block_size != 2**n_stage or n_stage == 0:
        raise ValueError(
            f"wavenet: block_size must be a power of two of at least 2, got {c.block_size}"
        )
    embedding = Embedding(_randn(g, c, c.vocab_size, c.n_embd))
    stages = []
    for i in range(n_stage):
        fan_in = 2 * (c.n_embd if i == 0 else c.n_embd2)
        linear = Linear(_randn(g, c, fan_in, c.n_embd2) / fan_in**0.5)
        norm = BatchNorm(*_ones_zeros(c, c.n_embd2))
        stages.append(Sequential(join=FlattenConsecutive(2), linear=linear, norm=norm, tanh=Tanh()))
    weight = _randn(g, c, c.n_embd2, c.vocab_size) / c.n_embd2**0.5
    head = Linear(weight * 0.1, np.zeros(c.vocab_size, c.dtype))
    return Sequential(embedding=embedding, stages=Sequential(*stages), head=head)


def _transformer_count(c: Config) -> int:
    style, C = STYLES[c.style], c.n_embd
    block = 12 * C + 2 + 2 * style.norm_bias + 3 * style.qkv_bias + 6 * style.bias
    rows = c.vocab_size + c.block_size + (0 if c.tie_weights else c.vocab_size)
    head_bias = c.vocab_size if style.head_bias and not c.tie_weights else 0
    return (rows + c.n_layer * block + 1 + style.norm_bias) * C + head_bias


@builder(_transformer_count, "n_layer", "n_embd", "n_head", "tie_weights", "style", "dropout")
def transformer(c: Config, g: Generator) -> Sequential:
    """GPT-2's (Radford et al., 2019), pre-norm blocks of attention and an MLP, in the style of
    makemore, of lecture 7 ("lecture" is the notebook, "lecture-file" the file that followed it) or
    of nanoGPT.

    With tie_weights the head is the table of tokens itself, which has the values that are drawn for
    the head last. Dropout is where GPT-2 has it: after the embedding, in the attention's weights
    and at the end of each branch; in lecture 7 not after the embedding.
    """
    style = STYLES[c.style]
    network = _transformer(c, g, style, small=False)
    if style.small:  # torch draws its own first values, to throw them away
        network = _transformer(c, g, style, small=True)
    if style.shrunk:
        std = _SMALL / (2 * c.n_layer) ** 0.5
        for name, weight in network.parameters().items():
            if name.endswith((".projection.weight", ".down.weight")):
                n_in, n_out = weight.data.shape
                weight.data = np.ascontiguousarray(g.normal(0.0, std, (n_out, n_in), c.dtype).T)
    return network


def _transformer(c: Config, g: Generator, style: Style, small: bool) -> Sequential:
    """The same with first values by one rule: torch's, or with `small` GPT-2's."""
    C = c.n_embd

    def table(rows):
        return g.normal(0.0, _SMALL if small else 1.0, (rows, C), c.dtype)

    def linear(fan_in, fan_out, bias):
        if not small:
            return linear_init(g, fan_in, fan_out, bias, dtype=c.dtype)
        weight = np.ascontiguousarray(g.normal(0.0, _SMALL, (fan_out, fan_in), c.dtype).T)
        return weight, np.zeros(fan_out, c.dtype) if bias else None

    def qkv():
        if not style.heads_apart:
            return linear(C, 3 * C, style.qkv_bias)
        D = C // c.n_head
        heads = [[linear(C, D, False)[0] for _ in range(3)] for _ in range(c.n_head)]
        keys, queries, values = zip(*heads, strict=True)
        return (np.concatenate([*queries, *keys, *values], axis=1),)

    def norm():
        return LayerNorm(np.ones(C, c.dtype), np.zeros(C, c.dtype) if style.norm_bias else None)

    def dropout():
        return {"dropout": Dropout(c.dropout, g)} if c.dropout else {}

    def block():
        masks = cast(Generator, HeadByHead(g)) if style.heads_apart else g
        heads = _heads(c, C**-0.5 if style.scale_by_width else None, c.dropout, masks)
        return Sequential(
            attention=Residual(
                norm=norm(),
                qkv=Linear(*qkv()),
                heads=heads,
                projection=Linear(*linear(C, C, style.bias)),
                **dropout(),
            ),
            mlp=Residual(
                norm=norm(),
                up=Linear(*linear(C, 4 * C, style.bias)),
                activation=style.activation(),
                down=Linear(*linear(4 * C, C, style.bias)),
                **dropout(),
            ),
        )

    embedding = PositionalEmbedding(table(c.vocab_size), table(c.block_size), tied=c.tie_weights)
    blocks = Sequential(*(block() for _ in range(c.n_layer)))
    head = linear(C, c.vocab_size, style.head_bias)
    if c.tie_weights:
        embedding.token.weight.data = np.ascontiguousarray(head[0].T)
    return Sequential(
        embedding=embedding,
        **(dropout() if style.drop_embedding else {}),
        blocks=blocks,
        norm=norm(),
        head=TiedLinear(embedding.token.weight) if c.tie_weights else Linear(*head),
    )


class HeadByHead:
    """Draws the masks of attention's weights one head after the other, each for all sequences."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator

    def bernoulli(self, p: float, shape: Sequence[int]) -> np.ndarray:
        """shape (B, n_head, T, T)."""
        B, n_head, T, _ = shape
        return np.stack([self.generator.bernoulli(p, (B, T, T)) for _ in range(n_head)], axis=1)


def _microgpt_count(c: Config) -> int:
    return (2 * c.vocab_size + c.block_size + 12 * c.n_layer * c.n_embd) * c.n_embd


@builder(_microgpt_count, "n_layer", "n_embd", "n_head")
def microgpt(c: Config, g: Generator) -> Sequential:
    """microgpt (Karpathy, 2026): rms norm without gain, relu, no biases, every weight normal with
    deviation 0.08.

    The original numbers the characters from 0 and the boundary last, and draws each matrix as
    (n_out, n_in), row by row. Here the boundary is token 0, so the rows that belong to tokens are
    rolled by one.
    """
    C, V = c.n_embd, c.vocab_size

    def draw(n_out, n_in):
        return g.normal(0.0, 0.08, (n_out, n_in), dtype=c.dtype)

    token = np.roll(draw(V, C), 1, axis=0)
    position = draw(c.block_size, C)
    head = np.roll(draw(V, C), 1, axis=0)

    def block():
        qkv = np.concatenate([draw(C, C) for _ in range(3)])
        return Sequential(
            attention=Residual(
                norm=RMSNorm(),
                qkv=Linear(qkv.T),
                heads=_heads(c),
                projection=Linear(draw(C, C).T),
            ),
            mlp=Residual(
                norm=RMSNorm(),
                up=Linear(draw(4 * C, C).T),
                relu=ReLU(),
                down=Linear(draw(C, 4 * C).T),
            ),
        )

    return Sequential(
        embedding=PositionalEmbedding(token, position),
        norm=RMSNorm(),
        blocks=Sequential(*(block() for _ in range(c.n_layer))),
        head=Linear(head.T),
    )


def _randn(g: Generator, c: Config, *shape: int) -> np.ndarray:
    """What torch.randn draws, and what a torch.nn.Embedding of that shape starts with."""
    return g.normal(0.0, 1.0, shape, c.dtype)


def _linear(g: Generator, c: Config, fan_in: int, fan_out: int, bias: bool = True) -> Linear:
    """A Linear with torch.nn.Linear's first values."""
    return Linear(*linear_init(g, fan_in, fan_out, bias, dtype=c.dtype))


def _heads(c: Config, *more: Any) -> CausalAttention:
    """Attention whose heads share the channels evenly."""
    if c.n_embd % c.n_head:
        raise ValueError(
            f"n_head must divide n_embd, got n_head = {c.n_head} and n_embd = {c.n_embd}"
        )
    return CausalAttention(c.n_head, *more)


def _gates(g: Generator, c: Config, n: int, fan_in: int) -> list[np.ndarray]:
    """n torch.nn.Linear to n_embd2 each, drawn in turn, side by side in one weight and one bias."""
    drawn = [linear_init(g, fan_in, c.n_embd2, dtype=c.dtype) for _ in range(n)]
    return [np.concatenate(arrays, axis=-1) for arrays in zip(*drawn, strict=True)]


def _ones_zeros(c: Config, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What a normalisation's gain and bias start with."""
    return np.ones(size, c.dtype), np.zeros(size, c.dtype)
