"""npnet's operations, forward only, in torch: torch's own wherever torch has one. The gradients
come from autograd.

    y = name(inputs..., options)                  float64 tensors in, a tensor out
    scales = name_scale(dy, inputs..., options)   M of proof.compare for y, then each gradient

The layout of the weights is npnet's, (fan_in, fan_out). An M is the sum of the |terms| that the
operation adds, with the errors of what it computed before. Where there is no `name_scale`,
`oracle.proof.autograd` measures M. npnet is never imported here.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# Half the machine epsilon of float32: an xhat that is 0 by cancellation has an error of this many
# times its terms.
UNIT = 2.0**-24


def embedding(ids, table):
    return F.embedding(ids, table)


def embedding_scale(dy, ids, table):
    rows = dy.abs().reshape(-1, table.shape[1])
    return embedding(ids, table.abs()), torch.zeros_like(table).index_add(0, ids.reshape(-1), rows)


def linear(x, w, b=None):
    return F.linear(x, w.t(), b)


def linear_scale(dy, x, w, b=None):
    x, w, dy = x.abs(), w.abs(), dy.abs()
    rows = dy.reshape(-1, w.shape[1])
    scales = (
        linear(x, w, None if b is None else b.abs()),
        linear(dy, w.t()),
        x.reshape(-1, w.shape[0]).t() @ rows,
    )
    return scales if b is None else (*scales, rows.sum(0))


def embedding_linear(ids, table, w, b):
    return linear(embedding(ids, table).flatten(-2), w, b)


def embedding_linear_scale(dy, ids, table, w, b):
    x = embedding(ids, table)
    y, dx, dw, db = linear_scale(dy, x.flatten(-2), w, b)
    return y, embedding_scale(dx.reshape(x.shape), ids, table)[1], dw, db


def tanh(x):
    return torch.tanh(x)


def tanh_scale(dy, x):
    return tanh(x).abs(), 2 * dy.abs()


def relu(x):
    return torch.relu(x)


def relu_scale(dy, x):
    return relu(x), dy.abs() * (x > 0)


def sigmoid(x):
    return torch.sigmoid(x)


def sigmoid_scale(dy, x):
    y = sigmoid(x)
    return 2 * y, 2 * dy.abs() * y


def gelu(x, approximate="tanh"):
    return F.gelu(x, approximate=approximate)


def gelu_scale(dy, x, approximate="tanh"):
    """x s(x): s is (1 + tanh)/2 here or (1 + erf)/2 in torch, and so has an absolute error of 1 u
    where it is nearly 0.

    In the tanh form 1 - s, and with it the slope's term, is exactly 0 beyond |x| = 8.
    """
    if approximate == "tanh":
        a = x.abs().clamp(max=8)
        slope = a * math.sqrt(2 / math.pi) * (1 + 0.134145 * a * a)
    else:
        slope = x.abs() * torch.exp(-x * x / 2) * (2 + x * x / 2) / math.sqrt(2 * math.pi)
    return x.abs(), dy.abs() * (1 + slope)


def softmax(x):
    return torch.softmax(x, dim=-1)


def softmax_scale(dy, x):
    p, relative = softmax(x), _softmax_relative(x)
    dy = dy.abs()
    return p * relative, p * (relative * (dy + _last(p * dy)) + _last(p * relative * dy))


def dropout(x, p, generator):
    """`generator` is a torch.Generator; F.dropout does not take one, and draws another mask on
    Intel's processors."""
    return x * (torch.rand(x.shape, generator=generator, dtype=torch.float64) < 1 - p) / (1 - p)


def cross_entropy(logits, targets, ignore_index=-1):
    return F.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=ignore_index
    )


def cross_entropy_scale(dloss, logits, targets, ignore_index=-1):
    counted = (targets != ignore_index)[..., None]
    n = counted.sum()
    onehot = F.one_hot(targets.where(counted[..., 0], 0), logits.shape[-1])
    p, relative = softmax(logits), _softmax_relative(logits)
    z = (logits - logits.amax(-1, keepdim=True)).abs()
    loss = (
        counted * (_last(onehot * z) + torch.logsumexp(-z, -1, keepdim=True) + _last(p * relative))
    ).sum() / n
    return loss, (p * relative + onehot) * counted * dloss.abs() / n


def cross_entropy_rows(logits, targets, rows, ignore_index=-1):
    return cross_entropy(logits[rows], targets, ignore_index)


def cross_entropy_rows_scale(dloss, logits, targets, rows, ignore_index=-1):
    loss, dlogits = cross_entropy_scale(dloss, logits[rows], targets, ignore_index)
    return loss, torch.zeros_like(logits).index_add_(0, rows.long(), dlogits)


def batch_norm(x, gain, bias, eps=1e-5, unbiased=True):
    rows = x.reshape(-1, x.shape[-1])
    if unbiased:
        y = (rows - rows.mean(0)) / torch.sqrt(rows.var(0, unbiased=True) + eps) * gain + bias
    else:
        y = F.batch_norm(rows, None, None, gain, bias, training=True, eps=eps)
    return y.reshape(x.shape)


def batch_norm_scale(dy, x, gain, bias, eps=1e-5, unbiased=True):
    C = x.shape[-1]
    rows, dy = x.reshape(-1, C), dy.abs().reshape(-1, C)
    xhat, dx = _centred_scales(dy * gain.abs(), rows, 0, len(rows) - unbiased, eps)
    return (
        (gain.abs() * xhat + bias.abs()).reshape(x.shape),
        dx.reshape(x.shape),
        (dy * xhat).sum(0),
        dy.sum(0),
    )


def batch_norm_inference(x, gain, bias, mean, var, eps=1e-5):
    """Not F.batch_norm, which takes the statistics for constants and gives them no gradient."""
    return (x - mean) / torch.sqrt(var + eps) * gain + bias


def layer_norm(x, gain, bias=None, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], gain, bias, eps)


def layer_norm_scale(dy, x, gain, bias=None, eps=1e-5):
    C = x.shape[-1]
    rows, dy = x.reshape(-1, C), dy.abs().reshape(-1, C)
    xhat, dx = _centred_scales(dy * gain.abs(), rows, 1, C, eps)
    y = gain.abs() * xhat + (0 if bias is None else bias.abs())
    scales = y.reshape(x.shape), dx.reshape(x.shape), (dy * xhat).sum(0)
    return scales if bias is None else (*scales, dy.sum(0))


def rms_norm(x, gain=None, eps=1e-5):
    return F.rms_norm(x, x.shape[-1:], gain, eps)


def causal_attention(qkv, n_head, scale=None, block=None):
    """`block` is how npnet goes about it, and no matter here."""
    q, k, v = _heads(qkv, n_head)
    # The flash kernel's backward takes exp(s - log sum exp s), which is rough for large s.
    with sdpa_kernel(SDPBackend.MATH):
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
    return y.transpose(1, 2).reshape(*qkv.shape[:-1], -1)


def causal_attention_dropout(qkv, n_head, p, generator, block=None):
    q, k, v = _heads(qkv, n_head)
    s = q @ k.mT / math.sqrt(q.shape[-1])
    s = s.masked_fill(torch.ones_like(s).triu(1) > 0, -math.inf)
    y = dropout(torch.softmax(s, -1), p, generator) @ v
    return y.transpose(1, 2).reshape(*qkv.shape[:-1], -1)


def _heads(qkv, n_head):
    """Queries, keys and values, each (B, n_head, T, D)."""
    T, C3 = qkv.shape[-2:]
    return qkv.reshape(-1, T, 3, n_head, C3 // (3 * n_head)).permute(2, 0, 3, 1, 4)


def along_time(operation):
    """Sequences with a common row at step 0 are computed one by one, each with its own copy."""

    @functools.wraps(operation)
    def computed(x, *others, sizes):
        common = sizes[1] if len(sizes) > 1 and sizes[0] == 1 else 1
        x = torch.cat([x[:1].expand(common, -1), x[1:]])
        y = operation(x, *others, [sizes[0] * common, *sizes[1:]])
        return torch.cat([y[:1], y[common:]])

    return computed


@along_time
def rnn(a, h0, w, sizes):
    """torch's own on a packed batch; the input's weight is the unit matrix, for a has met its
    own."""
    state = h0.expand(1, sizes[0], len(h0)).contiguous()
    parameters = [torch.eye(a.shape[1], dtype=a.dtype), w.t().contiguous()]
    options = False, 1, 0.0, False, False  # no biases, one layer, no dropout, ...
    return torch.rnn_tanh(a, torch.tensor(sizes), state, parameters, *options)[0]


@along_time
def gru(a, h0, w, sizes):
    """Not torch.gru, which applies the reset gate after the candidate's product."""
    H = len(h0)
    h, outputs = h0.expand(sizes[0], H), []
    for a_t in a.split(sizes):
        h = h[: len(a_t)]
        z, r = _gate(a_t[:, : 2 * H] + h @ w[:, : 2 * H]).chunk(2, -1)
        candidate = torch.tanh(a_t[:, 2 * H :] + (r * h) @ w[:, 2 * H :])
        h = (1 - z) * h + z * candidate
        outputs.append(h)
    return torch.cat(outputs)


@along_time
def lstm(a, h0, c0, w, sizes):
    """Not torch.lstm, whose gates are torch.sigmoid's."""
    h, c = (s.expand(sizes[0], len(s)) for s in (h0, c0))
    outputs = []
    for a_t in a.split(sizes):
        i, f, g, o = (a_t + h[: len(a_t)] @ w).chunk(4, -1)
        c = _gate(f) * c[: len(a_t)] + _gate(i) * torch.tanh(g)
        h = _gate(o) * torch.tanh(c)
        outputs.append(h)
    return torch.cat(outputs)


@along_time
def causal_mean(x, sizes):
    total, means = torch.zeros(sizes[0], x.shape[1], dtype=x.dtype), []
    for t, x_t in enumerate(x.split(sizes), 1):
        total = total[: len(x_t)] + x_t
        means.append(total / t)
    return torch.cat(means)


def flatten_consecutive(x, n):
    joined = x.unflatten(-2, (-1, n)).flatten(-2)
    return joined.squeeze(-2) if joined.shape[-2] == 1 else joined


def _gate(x):
    """The sigmoid. torch's own is 0 from x = -709 down, where exp(-x) overflows, though float64
    has numbers for it; a state multiplies that up."""
    e = torch.exp(x.clamp(max=80))  # from 80 on the result is 1
    return e / (1 + e)


def _last(terms):
    return terms.sum(-1, keepdim=True)


def _softmax_relative(x):
    """softmax's relative error in units of u: exp makes the absolute error of its argument, |z -
    m|, a relative one."""
    z = (x - x.amax(-1, keepdim=True)).abs()
    return 2 + z + _last(softmax(x) * z)


def _centred_scales(g, rows, dim, divisor, eps):
    """M of xhat = (x - mean) inv along an axis, and of dx for |dxhat| = g.

    S is what cancels in x - mean; k is what the statistics' own errors add.
    """
    n = rows.shape[dim]
    centred = rows - rows.mean(dim, keepdim=True)
    inv = ((centred * centred).sum(dim, keepdim=True) / divisor + eps).rsqrt()
    S = (rows.abs() + rows.abs().mean(dim, keepdim=True)) * inv
    xhat = centred.abs() * inv + UNIT * S

    def total(terms):
        return terms.sum(dim, keepdim=True)

    k = 1 + 2 * total(S * xhat) / divisor
    through_variance = S * total(g * xhat) + xhat * total(g * S)
    return S * k, inv / n * (n * g + total(g) + n / divisor * through_variance) * k
