"""npnet's models in torch.nn as its experienced user writes them, under npnet's names.

Modules that look along time come first in each Sequential; ALONG_TIME says how many there are, so
that a caller may keep the scored positions alone for what follows.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import PackedSequence

ALONG_TIME = {"bigram": 0, "mlp_makemore": 1, "bow": 2, "transformer": 2}


def build(kind, config, parameters, module=False):
    """The model with npnet's parameters (arrays by name). `module` asks for torch's own BatchNorm1d
    and GRU where npnet follows an original that defines them otherwise."""
    model = named(NETWORKS[kind](config, module)).to(getattr(torch, config.dtype))
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, array in parameters.items():
            owner, _, last = name.rpartition(".")
            value = torch.from_numpy(array)
            if hasattr(modules[owner], "take"):
                modules[owner].take(last, value)
            else:
                linear = isinstance(modules[owner], nn.Linear) and last == "weight"
                getattr(modules[owner], last).copy_(value.T if linear else value)
    return model


def named(modules):
    return nn.Sequential(OrderedDict(modules))


class Residual(nn.Sequential):
    def __init__(self, **modules):
        super().__init__(OrderedDict(modules))

    def forward(self, x):
        return x + super().forward(x)


class Positional(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.token = nn.Embedding(c.vocab_size, c.n_embd)
        self.position = nn.Parameter(torch.empty(c.block_size, c.n_embd))

    def forward(self, x):
        return self.token(x) + self.position[: x.shape[-1]]


class CausalMean(nn.Module):
    def __init__(self, c):
        super().__init__()
        T = c.block_size
        self.register_buffer("weight", torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None])

    def forward(self, x):
        T = x.shape[-2]
        return self.weight[:T, :T] @ x


class Window(nn.Module):
    """ids (B, T) -> the last block_size of them at each position, newest first."""

    def __init__(self, c):
        super().__init__()
        self.c = c

    def forward(self, x):
        padded = F.pad(x, (self.c.block_size - 1, 0), value=self.c.vocab_size)
        return padded.unfold(-1, self.c.block_size, 1).flip(-1)


class NotebookNorm(nn.Module):
    """Batch norm with the unbiased variance, of the batch or the given (variance, mean)."""

    statistics = None

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        var, mean = self.statistics or torch.var_mean(x, 0)
        return self.weight * ((x - mean) * torch.rsqrt(var + 1e-5)) + self.bias


class RowNorm(NotebookNorm):
    """The same over all axes but the last."""

    def forward(self, x):
        return super().forward(x.flatten(0, -2)).view(x.shape)


class Join(nn.Module):
    def forward(self, x):
        return x.view(len(x), x.shape[1] // 2, -1)


class Recurrent(nn.Module):
    """torch's nn.RNN, nn.LSTM or nn.GRU from a learned initial state. Its second bias, which npnet
    does not have, stays 0."""

    def __init__(self, cell, c):
        super().__init__()
        self.cell = cell(c.n_embd, c.n_embd2, batch_first=True)
        self.initial = nn.Parameter(torch.zeros(c.n_embd2))
        self.initial_cell = nn.Parameter(torch.zeros(c.n_embd2)) if cell is nn.LSTM else None
        self.c = c
        with torch.no_grad():
            self.cell.bias_hh_l0.zero_().requires_grad_(False)

    def take(self, name, value):
        C, H = self.c.n_embd, self.c.n_embd2
        if name == "weight":
            self.cell.weight_ih_l0.copy_(value[:C].T)
            self.cell.weight_hh_l0.copy_(value[C:].T)
        elif name == "bias":
            self.cell.bias_ih_l0.copy_(value)
        else:
            getattr(self, name).copy_(value.view(H))

    def forward(self, x):
        packed = isinstance(x, PackedSequence)
        B = int(x.batch_sizes[0]) if packed else len(x)
        state = self.initial.expand(1, B, -1).contiguous()
        if self.initial_cell is not None:
            state = state, self.initial_cell.expand(1, B, -1).contiguous()
        return self.cell(x, state)[0]


class MakemoreGRU(nn.Module):
    """makemore's cell, which resets the state before the product; the input's part is taken for all
    steps at once."""

    def __init__(self, c):
        super().__init__()
        C, self.H = c.n_embd, c.n_embd2
        self.initial = nn.Parameter(torch.zeros(self.H))
        self.input = nn.Linear(C, 3 * self.H)
        self.gates = nn.Linear(self.H, 2 * self.H, bias=False)
        self.candidate = nn.Linear(self.H, self.H, bias=False)

    def take(self, name, value):
        if name == "initial":
            self.initial.copy_(value)
        elif name == "bias":
            self.input.bias.copy_(value)
        else:
            C = self.input.in_features
            self.input.weight.copy_(value[:C].T)
            self.gates.weight.copy_(value[C:, : 2 * self.H].T)
            self.candidate.weight.copy_(value[C:, 2 * self.H :].T)

    def forward(self, x):
        h, out = self.initial.expand(len(x), -1), []
        zr, candidate = self.input(x).split([2 * self.H, self.H], -1)
        for zr_t, candidate_t in zip(zr.unbind(1), candidate.unbind(1), strict=True):
            z, r = torch.sigmoid(zr_t + self.gates(h)).chunk(2, 1)
            h = torch.lerp(h, torch.tanh(candidate_t + self.candidate(r * h)), z)
            out.append(h)
        return torch.stack(out, 1)


class Heads(nn.Module):
    def __init__(self, n_head):
        super().__init__()
        self.n_head = n_head

    def forward(self, qkv):
        q, k, v = qkv.unflatten(-1, (3, self.n_head, -1)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return y.transpose(1, 2).flatten(-2)


def _mlp(c, module):
    width = c.n_embd2
    norm = nn.BatchNorm1d(width, track_running_stats=False) if module else NotebookNorm(width)
    return {
        "embedding": nn.Embedding(c.vocab_size, c.n_embd),
        "flatten": nn.Flatten(),
        "hidden": nn.Linear(c.block_size * c.n_embd, width, bias=False),
        "norm": norm,
        "tanh": nn.Tanh(),
        "head": nn.Linear(width, c.vocab_size),
    }


def _wavenet(c, module):
    widths = [c.n_embd] + [c.n_embd2] * (c.block_size.bit_length() - 2)
    stages = (
        {
            "join": Join(),
            "linear": nn.Linear(2 * width, c.n_embd2, bias=False),
            "norm": RowNorm(c.n_embd2),
            "tanh": nn.Tanh(),
        }
        for width in widths
    )
    return {
        "embedding": nn.Embedding(c.vocab_size, c.n_embd),
        "stages": nn.Sequential(*map(named, stages)),
        "flatten": nn.Flatten(),
        "head": nn.Linear(c.n_embd2, c.vocab_size),
    }


def _bow(c, module):
    up, down = nn.Linear(c.n_embd, c.n_embd2), nn.Linear(c.n_embd2, c.n_embd)
    return {
        "embedding": Positional(c),
        "bag": Residual(mean=CausalMean(c)),
        "mlp": Residual(up=up, tanh=nn.Tanh(), down=down),
        "head": nn.Linear(c.n_embd, c.vocab_size),
    }


def _mlp_makemore(c, module):
    return {
        "window": Window(c),
        "embedding": nn.Embedding(c.vocab_size + 1, c.n_embd),
        "flatten": nn.Flatten(-2),
        "hidden": nn.Linear(c.block_size * c.n_embd, c.n_embd2),
        "tanh": nn.Tanh(),
        "head": nn.Linear(c.n_embd2, c.vocab_size),
    }


def _recurrent(c, cell):
    return {
        "embedding": nn.Embedding(c.vocab_size, c.n_embd),
        "cell": cell,
        "head": nn.Linear(c.n_embd2, c.vocab_size),
    }


def _block(c, norm, activation, bias):
    C = c.n_embd
    return named(
        {
            "attention": Residual(
                norm=norm(),
                qkv=nn.Linear(C, 3 * C, bias),
                heads=Heads(c.n_head),
                projection=nn.Linear(C, C, bias),
            ),
            "mlp": Residual(
                norm=norm(),
                up=nn.Linear(C, 4 * C, bias),
                activation=activation,
                down=nn.Linear(4 * C, C, bias),
            ),
        }
    )


def _transformer(c, module):
    norm = lambda: nn.LayerNorm(c.n_embd)
    blocks = (_block(c, norm, nn.GELU("tanh"), True) for _ in range(c.n_layer))
    return {
        "embedding": Positional(c),
        "blocks": nn.Sequential(*blocks),
        "norm": norm(),
        "head": nn.Linear(c.n_embd, c.vocab_size, bias=False),
    }


def _microgpt(c, module):
    norm = lambda: nn.RMSNorm(c.n_embd, eps=1e-5, elementwise_affine=False)
    return {
        "embedding": Positional(c),
        "norm": norm(),
        "blocks": nn.Sequential(*(_block(c, norm, nn.ReLU(), False) for _ in range(c.n_layer))),
        "head": nn.Linear(c.n_embd, c.vocab_size, bias=False),
    }


NETWORKS = {
    "bigram": lambda c, module: {"logits": nn.Embedding(c.vocab_size, c.vocab_size)},
    "bow": _bow,
    "mlp": _mlp,
    "mlp_makemore": _mlp_makemore,
    "rnn": lambda c, module: _recurrent(c, Recurrent(nn.RNN, c)),
    "gru": lambda c, module: _recurrent(c, Recurrent(nn.GRU, c) if module else MakemoreGRU(c)),
    "lstm": lambda c, module: _recurrent(c, Recurrent(nn.LSTM, c)),
    "wavenet": _wavenet,
    "transformer": _transformer,
    "microgpt": _microgpt,
}
