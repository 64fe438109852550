"""makemore.py's models, written once more with torch.nn under makemore's names.

`config` is anything with vocab_size, block_size, n_layer, n_head, n_embd and n_embd2.
"""

import math

import torch
from torch import nn


class Bigram(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(c.vocab_size, c.vocab_size))

    def forward(self, x):
        return self.logits[x]


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.wte = nn.Embedding(c.vocab_size + 1, c.n_embd)
        hidden = nn.Linear(c.block_size * c.n_embd, c.n_embd2)
        self.mlp = nn.Sequential(hidden, nn.Tanh(), nn.Linear(c.n_embd2, c.vocab_size))

    def forward(self, x):
        blank = torch.full((len(x), self.c.block_size), self.c.vocab_size)
        padded = torch.cat([blank, x], 1)
        T = x.shape[1]
        shifted = [padded[:, self.c.block_size - k :][:, :T] for k in range(self.c.block_size)]
        return self.mlp(torch.cat([self.wte(s) for s in shifted], -1))


class Recurrent(nn.Module):
    def __init__(self, c, names):
        super().__init__()
        self.start = nn.Parameter(torch.zeros(1, c.n_embd2))
        self.wte = nn.Embedding(c.vocab_size, c.n_embd)
        self.cell = nn.ModuleDict(
            {name: nn.Linear(c.n_embd + c.n_embd2, c.n_embd2) for name in names}
        )
        self.lm_head = nn.Linear(c.n_embd2, c.vocab_size)

    def forward(self, x):
        h, outputs = self.start.expand(len(x), -1), []
        for e in self.wte(x).unbind(1):
            h = self.step(e, h)
            outputs.append(h)
        return self.lm_head(torch.stack(outputs, 1))


class RNN(Recurrent):
    def __init__(self, c):
        super().__init__(c, ["xh_to_h"])

    def step(self, e, h):
        return torch.tanh(self.cell["xh_to_h"](torch.cat([e, h], 1)))


class GRU(Recurrent):
    def __init__(self, c):
        super().__init__(c, ["xh_to_z", "xh_to_r", "xh_to_hbar"])

    def step(self, e, h):
        both = torch.cat([e, h], 1)
        z, r = torch.sigmoid(self.cell["xh_to_z"](both)), torch.sigmoid(self.cell["xh_to_r"](both))
        return (1 - z) * h + z * torch.tanh(self.cell["xh_to_hbar"](torch.cat([e, r * h], 1)))


def mask(c, *lead):
    return torch.ones(c.block_size, c.block_size).tril().reshape(*lead, c.block_size, c.block_size)


class BoW(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.wte, self.wpe = (
            nn.Embedding(c.vocab_size, c.n_embd),
            nn.Embedding(c.block_size, c.n_embd),
        )
        self.context_block = nn.Module()
        self.context_block.cbow = nn.Module()
        self.context_block.cbow.register_buffer("bias", mask(c, 1))
        self.context_block.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(c.n_embd, c.n_embd2), "c_proj": nn.Linear(c.n_embd2, c.n_embd)}
        )
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size)

    def forward(self, x):
        T = x.shape[1]
        x = self.wte(x) + self.wpe.weight[:T]
        x = x + torch.stack([x[:, : t + 1].mean(1) for t in range(T)], 1)
        block = self.context_block.mlp
        return self.lm_head(x + block["c_proj"](torch.tanh(block["c_fc"](x))))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, C = c, c.n_embd
        self.ln_1, self.ln_2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(C, 3 * C), "c_proj": nn.Linear(C, C)})
        self.attn.register_buffer("bias", mask(c, 1, 1))
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(C, 4 * C), "c_proj": nn.Linear(4 * C, C)})

    def forward(self, x):
        (B, T, C), n = x.shape, self.c.n_head
        q, k, v = (
            a.view(B, T, n, C // n).transpose(1, 2)
            for a in self.attn["c_attn"](self.ln_1(x)).split(C, -1)
        )
        scores = (q @ k.mT / math.sqrt(C // n)).masked_fill(
            self.attn.bias[:, :, :T, :T] == 0, -math.inf
        )
        x = x + self.attn["c_proj"]((scores.softmax(-1) @ v).transpose(1, 2).reshape(B, T, C))
        return x + self.mlp["c_proj"](
            nn.functional.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        )


class Transformer(nn.Module):
    def __init__(self, c):
        super().__init__()
        parts = {
            "wte": nn.Embedding(c.vocab_size, c.n_embd),
            "wpe": nn.Embedding(c.block_size, c.n_embd),
        }
        blocks = nn.ModuleList([Block(c) for _ in range(c.n_layer)])
        self.transformer = nn.ModuleDict(parts | {"h": blocks, "ln_f": nn.LayerNorm(c.n_embd)})
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)

    def forward(self, x):
        t = self.transformer
        x = t["wte"](x) + t["wpe"].weight[: x.shape[1]]
        for block in t["h"]:
            x = block(x)
        return self.lm_head(t["ln_f"](x))


MAKEMORE = {
    "bigram": Bigram,
    "mlp": MLP,
    "rnn": RNN,
    "gru": GRU,
    "bow": BoW,
    "transformer": Transformer,
}
