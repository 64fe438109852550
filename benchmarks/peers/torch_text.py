"""The GPTs of lecture 7 and of nanoGPT, written once more with torch.nn, which draw in the order of
their originals, and a training step of each as the original takes it.

`config` is anything with vocab_size, block_size, n_layer, n_head, n_embd and dropout.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.measure import Peer


class Head(nn.Module):
    """One head of lecture 7; the notebook scales by the width of the model, not of the head."""

    def __init__(self, c, later):
        super().__init__()
        size = c.n_embd // c.n_head
        self.key = nn.Linear(c.n_embd, size, bias=False)
        self.query = nn.Linear(c.n_embd, size, bias=False)
        self.value = nn.Linear(c.n_embd, size, bias=False)
        self.register_buffer("tril", torch.tril(torch.ones(c.block_size, c.block_size)))
        self.dropout = nn.Dropout(c.dropout)
        self.scale = (size if later else c.n_embd) ** -0.5

    def forward(self, x):
        T = x.shape[1]
        scores = self.query(x) @ self.key(x).transpose(-2, -1) * self.scale
        scores = scores.masked_fill(self.tril[:T, :T] == 0, -math.inf)
        return self.dropout(F.softmax(scores, dim=-1)) @ self.value(x)


class Heads(nn.Module):
    def __init__(self, c, later):
        super().__init__()
        self.heads = nn.ModuleList([Head(c, later) for _ in range(c.n_head)])
        self.proj = nn.Linear(c.n_embd, c.n_embd)
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, x):
        return self.dropout(self.proj(torch.cat([head(x) for head in self.heads], dim=-1)))


class LectureBlock(nn.Module):
    def __init__(self, c, later):
        super().__init__()
        C = c.n_embd
        self.sa = Heads(c, later)
        self.ffwd = nn.Sequential(
            nn.Linear(C, 4 * C), nn.ReLU(), nn.Linear(4 * C, C), nn.Dropout(c.dropout)
        )
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)

    def forward(self, x):
        x = x + self.sa(self.ln1(x))
        return x + self.ffwd(self.ln2(x))


class LectureGPT(nn.Module):
    """`later` is the file that followed the notebook: scaled by the head's width, every weight
    N(0, 0.02)."""

    def __init__(self, c, later=False):
        super().__init__()
        self.token = nn.Embedding(c.vocab_size, c.n_embd)
        self.position = nn.Embedding(c.block_size, c.n_embd)
        self.blocks = nn.Sequential(*[LectureBlock(c, later) for _ in range(c.n_layer)])
        self.ln_f = nn.LayerNorm(c.n_embd)
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size)
        if later:
            self.apply(small_normal)

    def forward(self, x):
        x = self.token(x) + self.position(torch.arange(x.shape[1]))
        return self.lm_head(self.ln_f(self.blocks(x)))


def small_normal(module):
    """GPT-2's first values."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, mean=0.0, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class NanoBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        C = c.n_embd
        self.c, self.p = c, c.dropout
        self.ln_1, self.ln_2 = nn.LayerNorm(C, bias=False), nn.LayerNorm(C, bias=False)
        self.c_attn = nn.Linear(C, 3 * C, bias=False)
        self.attention_proj = nn.Linear(C, C, bias=False)
        self.c_fc = nn.Linear(C, 4 * C, bias=False)
        self.mlp_proj = nn.Linear(4 * C, C, bias=False)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            a.view(B, T, self.c.n_head, -1).transpose(1, 2)
            for a in self.c_attn(self.ln_1(x)).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=self.p if self.training else 0.0
        )
        y = self.attention_proj(y.transpose(1, 2).reshape(B, T, C))
        x = x + F.dropout(y, self.p, self.training)
        y = self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x))))
        return x + F.dropout(y, self.p, self.training)


class NanoGPT(nn.Module):
    """nanoGPT's with bias=False: the head is the table of tokens."""

    def __init__(self, c):
        super().__init__()
        self.p = c.dropout
        self.wte = nn.Embedding(c.vocab_size, c.n_embd)
        self.wpe = nn.Embedding(c.block_size, c.n_embd)
        self.h = nn.ModuleList([NanoBlock(c) for _ in range(c.n_layer)])
        self.ln_f = nn.LayerNorm(c.n_embd, bias=False)
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        self.apply(small_normal)
        for name, parameter in self.named_parameters():
            if name.endswith("_proj.weight"):
                nn.init.normal_(parameter, mean=0.0, std=0.02 / math.sqrt(2 * c.n_layer))

    def forward(self, x):
        x = self.wte(x) + self.wpe(torch.arange(x.shape[1]))
        x = F.dropout(x, self.p, self.training)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def lecture_optimizer(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


def nanogpt_optimizer(model):
    """Weight decay for matrices alone; fused only where there is a GPU."""
    shaped = [[p for p in model.parameters() if (p.ndim > 1) == many] for many in (True, False)]
    groups = [{"params": p, "weight_decay": d} for p, d in zip(shaped, (0.1, 0.0), strict=True)]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))


def nanogpt_rate(step, steps=2000, warmup=100):
    if step < warmup:
        return 1e-3 * (step + 1) / (warmup + 1)
    done = min(1, (step - warmup) / (steps - warmup))
    return 1e-4 + 0.5 * (1 + math.cos(math.pi * done)) * 9e-4


def get_batch(part, block_size, batch_size):
    """x and y from random places of a tensor of ids."""
    starts = torch.randint(len(part) - block_size, (batch_size,))
    x = torch.stack([part[i : i + block_size] for i in starts])
    return x, torch.stack([part[i + 1 : i + block_size + 1] for i in starts])


def next_token_loss(model, x, y):
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def lecture_step(model, optimizer, x, y, step):
    loss = next_token_loss(model, x, y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss


def nanogpt_step(model, optimizer, x, y, step):
    for group in optimizer.param_groups:
        group["lr"] = nanogpt_rate(step)
    loss = next_token_loss(model, x, y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


ORIGINALS = {
    "part7": (LectureGPT, lecture_optimizer, lecture_step),
    "nanogpt": (NanoGPT, nanogpt_optimizer, nanogpt_step),
}


def peer(task):
    """The original's own code on the text and the sizes of a TextTask, from the same seed."""
    torch.set_num_threads(1)
    build, make_optimizer, take_step = ORIGINALS[task.name]
    torch.manual_seed(task.preset.seed)
    model = build(task.config)
    optimizer = make_optimizer(model)
    ids = torch.from_numpy(task.ids.astype("int64"))

    def train(n):
        for step in range(n):
            x, y = get_batch(ids, task.preset.block_size, task.preset.batch_size)
            take_step(model, optimizer, x, y, step)

    def check(x, y):
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        return [take_step(model, optimizer, x, y, step).item() for step in range(2)]

    return Peer(train, check)


def generators(task, start, n):
    """name -> draw(choose) -> n ids after `start`, as the lecture draws them."""
    torch.set_num_threads(1)
    build, _, _ = ORIGINALS[task.name]
    torch.manual_seed(task.preset.seed)
    model = build(task.config)

    def draw(choose):
        ids = torch.full((1, 1), start)
        for _ in range(n):
            logits = model(ids[:, -task.config.block_size :])[:, -1]
            ids = torch.cat([ids, choose(logits)[:, None]], 1)
        return ids[0, 1:].tolist()

    return {"lecture": draw, "lecture, inference": torch.inference_mode()(draw)}
