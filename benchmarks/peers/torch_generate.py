"""Words drawn from the Transformer of torch_models: by the whole model at each character, as
makemore does it, and with keys and values kept."""

import torch
import torch.nn.functional as F

from benchmarks.peers.torch_models import build


@torch.inference_mode()
def plain(model, n, length, choose):
    """ids (n, length): every character by a forward pass over all before it, until the last word
    has ended."""
    ids, alive = torch.zeros(n, 1, dtype=torch.long), torch.ones(n, dtype=torch.bool)
    while ids.shape[1] <= length and alive.any():
        chosen = choose(model(ids)[:, -1])
        alive &= chosen != 0
        ids = torch.cat([ids, chosen[:, None]], 1)
    return ids[:, 1:]


@torch.inference_mode()
def cached(model, n, length, choose, drop):
    """The same with the keys and values of the characters before in one slab; with `drop`, words
    that have ended leave it."""
    blocks = model.blocks
    n_head, C = blocks[0].attention.heads.n_head, model.embedding.position.shape[1]
    slab = torch.empty(len(blocks), 2, n, n_head, length, C // n_head)
    ids, drawn = torch.zeros(n, dtype=torch.long), torch.zeros(n, length, dtype=torch.long)
    rows, alive = torch.arange(n), torch.ones(n, dtype=torch.bool)
    for t in range(length):
        x = model.embedding.token(ids) + model.embedding.position[t]
        for block, kept in zip(blocks, slab, strict=True):
            attention = block.attention
            qkv = attention.qkv(attention.norm(x)).view(len(x), 3, n_head, 1, -1)
            kept[:, :, :, t] = qkv[:, 1:, :, 0].transpose(0, 1)
            y = F.scaled_dot_product_attention(qkv[:, 0], *kept[:, :, :, : t + 1])
            x = x + attention.projection(y.flatten(1))
            x = block.mlp(x)
        ids = choose(model.head(model.norm(x)))
        drawn[rows, t] = ids
        going_on = ids != 0
        if drop:
            rows, ids, slab = rows[going_on], ids[going_on], slab[:, :, going_on]
        else:
            alive &= going_on
        if not (len(rows) if drop else alive.any()):
            break
    return drawn[:, : t + 1]


def peers(kind, config, parameters):
    """name -> generate(n, length, choose) -> ids (n, up to length)."""
    torch.set_num_threads(1)
    model = build(kind, config, parameters).eval()
    return {
        "torch plain": lambda *how: plain(model, *how),
        "torch cached": lambda *how: cached(model, *how, drop=False),
        "torch cached, dropping": lambda *how: cached(model, *how, drop=True),
    }


def sample(logits):
    return torch.multinomial(F.softmax(logits, -1), 1)[:, 0]


def likeliest(logits):
    return logits.argmax(-1)
