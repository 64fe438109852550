"""Every model of npnet.models once more in torch, forward only, from npnet's parameters by name.

    z = logits(kind, config, params, x)           tensors: ids (B, T) -> (B, V) or (B, T, V)
    loss, gradients = loss_and_grad(kind, config, params, x, y)   gradients by the names of params

`config` is anything with the sizes of npnet's Config. Weights are in npnet's layout, (fan_in,
fan_out). Batch norm takes the statistics of the batch, or, where `buffers` are given, the running
ones in them. npnet is never imported.

The operations are those of oracle.ops, but the fused ones, whose inside loses digits, are written
out: `oracle.proof.autograd` can only measure what it sees as an operation of its own.
"""

import math

import torch
import torch.nn.functional as F

from oracle import ops


def logits(kind, config, params, x, buffers=None):
    """The logits of the model of that name for ids x."""
    return MODELS[kind](Weights(params, buffers), x, config)


def loss_and_grad(kind, config, params, x, y, dloss=1.0, buffers=None):
    """Mean cross-entropy over the targets that are not -1, and its gradient times dloss by each
    parameter."""
    leaves = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    loss = cross_entropy(logits(kind, config, leaves, x, buffers), y)
    gradients = torch.autograd.grad(
        loss, list(leaves.values()), torch.full_like(loss, float(dloss))
    )
    return loss.detach(), dict(zip(leaves, gradients, strict=True))


class Weights:
    """Parameters by name, and the operations that find theirs under a prefix."""

    def __init__(self, params, buffers=None):
        self.params, self.buffers = params, buffers

    def __getitem__(self, name):
        return self.params[name]

    def linear(self, name, x):
        return ops.linear(x, self[f"{name}.weight"], self.params.get(f"{name}.bias"))

    def batch_norm(self, name, x, eps=1e-5):
        gain, bias = self[f"{name}.weight"], self[f"{name}.bias"]
        if self.buffers is None:
            return ops.batch_norm(x, gain, bias, eps)
        mean, var = self.buffers[f"{name}.running_mean"], self.buffers[f"{name}.running_var"]
        return ops.batch_norm_inference(x, gain, bias, mean, var, eps)

    def layer_norm(self, name, x):
        y = rms_norm(x - x.mean(-1, keepdim=True)) * self[f"{name}.weight"]
        bias = self.params.get(f"{name}.bias")
        return y if bias is None else y + bias

    def embedding(self, ids):
        return ops.embedding(ids, self["embedding.weight"])

    def positions(self, ids):
        """Token and position together."""
        return (
            ops.embedding(ids, self["embedding.token.weight"])
            + self["embedding.position"][: ids.shape[-1]]
        )


def rms_norm(x):
    return x * (x.square().mean(-1, keepdim=True) + 1e-5) ** -0.5


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def exact_gelu(x):
    return 0.5 * x * torch.erfc(-math.sqrt(0.5) * x)


def _whole(x):
    return x


def causal_attention(qkv, n_head, scale=None, dropout=_whole):
    # Each (B, n_head, T, D).
    q, k, v = qkv.unflatten(-1, (3, n_head, -1)).movedim((-3, -2), (0, -3))
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -math.inf)
    weights = torch.exp(scores - scores.detach().amax(-1, keepdim=True))
    weights = dropout(weights / weights.sum(-1, keepdim=True))
    return (weights @ v).transpose(-3, -2).flatten(-2)


def cross_entropy(logits, targets):
    counted = targets != -1
    z, targets = logits[counted], targets[counted]
    z = z - z.detach().amax(-1, keepdim=True)
    return (z.exp().sum(-1).log() - z.gather(-1, targets[:, None])[:, 0]).mean()


def bigram(w, x, c):
    return ops.embedding(x, w["logits.weight"])


def bow(w, x, c):
    x = w.positions(x)
    x = x + x.cumsum(-2) / torch.arange(1, x.shape[-2] + 1, dtype=x.dtype)[:, None]
    x = x + w.linear("mlp.down", ops.tanh(w.linear("mlp.up", x)))
    return w.linear("head", x)


def mlp(w, x, c, eps=1e-5):
    h = w.linear("hidden", w.embedding(x).flatten(-2))
    return w.linear("head", ops.tanh(w.batch_norm("norm", h, eps)))


def mlp_running(w, x, c):
    return mlp(w, x, c, eps=0.0)


def mlp_deep(w, x, c):
    h = w.embedding(x).flatten(-2)
    for i in range(c.n_layer):
        h = w.batch_norm(
            f"layers.{3 * i + 1}", w.linear(f"layers.{3 * i}", h if i == 0 else ops.tanh(h))
        )
    return h


def mlp_makemore(w, x, c):
    newest_last = F.pad(x, (c.block_size - 1, 0), value=c.vocab_size).unfold(-1, c.block_size, 1)
    h = w.embedding(newest_last.flip(-1)).flatten(-2)
    return w.linear("head", ops.tanh(w.linear("hidden", h)))


def rnn(w, x, c):
    return _recurrent(w, x, ops.rnn, w["cell.initial"])


def gru(w, x, c):
    return _recurrent(w, x, ops.gru, w["cell.initial"])


def lstm(w, x, c):
    return _recurrent(w, x, ops.lstm, w["cell.initial"], w["cell.initial_cell"])


def wavenet(w, x, c):
    h, i = w.embedding(x), 0
    while h.ndim == 3:
        h = w.linear(f"stages.{i}.linear", ops.flatten_consecutive(h, 2))
        h = ops.tanh(w.batch_norm(f"stages.{i}.norm", h))
        i += 1
    return w.linear("head", h)


def transformer(w, x, c):
    """Dropout draws from a generator of seed 0, as oracle.model_cases has npnet's. The lecture has
    none after the embedding, and draws for the weights of one head after the other."""
    activation = {"makemore": gelu, "nanogpt": exact_gelu}.get(c.style, ops.relu)
    scale = c.n_embd**-0.5 if c.style == "lecture" else None
    generator = torch.Generator().manual_seed(0)

    def dropout(x):
        return ops.dropout(x, c.dropout, generator) if c.dropout else x

    def by_head(weights):
        return torch.stack([dropout(head) for head in weights.unbind(-3)], -3)

    x = w.positions(x)
    lecture = c.style.startswith("lecture")
    x, of_weights = (x, by_head) if lecture else (dropout(x), dropout)
    for i in range(c.n_layer):
        x = _block(w, f"blocks.{i}", x, c, w.layer_norm, activation, scale, dropout, of_weights)
    x = w.layer_norm("norm", x)
    return ops.linear(x, w["embedding.token.weight"].t()) if c.tie_weights else w.linear("head", x)


def microgpt(w, x, c):
    x = rms_norm(w.positions(x))
    for i in range(c.n_layer):
        x = _block(w, f"blocks.{i}", x, c, lambda name, x: rms_norm(x), ops.relu)
    return w.linear("head", x)


def _recurrent(w, x, cell, *states):
    """Every sequence at its full length: packed, that is the two axes exchanged. The first rows of
    the weight read the input, the others the state."""
    B, T = x.shape
    weight = w["cell.weight"]
    read = len(weight) - len(states[0])
    a = ops.linear(w.embedding(x), weight[:read], w["cell.bias"]).transpose(0, 1).flatten(0, 1)
    h = cell(a, *states, weight[read:], sizes=[B] * T)
    return w.linear("head", h.unflatten(0, (T, B)).transpose(0, 1))


def _block(w, name, x, c, norm, activation, scale=None, dropout=_whole, of_weights=_whole):
    """Pre-norm attention and MLP, each added to its input."""
    qkv = w.linear(f"{name}.attention.qkv", norm(f"{name}.attention.norm", x))
    y = causal_attention(qkv, c.n_head, scale, of_weights)
    x = x + dropout(w.linear(f"{name}.attention.projection", y))
    h = activation(w.linear(f"{name}.mlp.up", norm(f"{name}.mlp.norm", x)))
    return x + dropout(w.linear(f"{name}.mlp.down", h))


MODELS = {
    model.__name__: model
    for model in (
        bigram,
        bow,
        mlp,
        mlp_running,
        mlp_deep,
        mlp_makemore,
        rnn,
        gru,
        lstm,
        wavenet,
        transformer,
        microgpt,
    )
}
