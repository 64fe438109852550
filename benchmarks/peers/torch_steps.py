"""A training step in torch: eager, with trimmed batches, packed, compiled, and the notebook's
backward by hand.

Examples are tensors; a minibatch is drawn by torch.randint. All use the fused optimisers.
"""

from itertools import cycle

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from benchmarks.measure import Peer
from benchmarks.peers.torch_models import ALONG_TIME, build


def peers(task, compiled=False):
    """name -> a function that makes the Peer."""
    torch.set_num_threads(1)
    made = {"torch": lambda: eager(task)}
    if task.lengths is not None and task.batch_size > 1:
        made["torch trimmed"] = lambda: eager(task, trim=True)
        if task.row.kind in ("rnn", "lstm") or (task.row.kind == "gru" and task.row.other):
            made["torch packed"] = lambda: eager(task, trim=True, loss=_packed_sequence)
        elif task.row.kind in ALONG_TIME:
            made["torch packed"] = lambda: eager(task, trim=True, loss=_scored_alone)
    if task.name == "mlp":
        made["torch by hand"] = lambda: by_hand(task)
    if compiled:
        made["torch compile"] = lambda: compiled_eager(task)
    return made


class Eager:
    """A model, its optimiser and its way to draw."""

    def __init__(self, task, trim=False, loss=None, compiled=False):
        self.task, self.trim, self.loss = task, trim, loss or _everywhere
        self.model = build(task.row.kind, task.config, task.parameters, module=bool(task.row.other))
        trained = [p for p in self.model.parameters() if p.requires_grad]
        rule = task.rule
        if rule.betas is None:
            self.optimizer = torch.optim.SGD(trained, rule.lr, fused=True)
        else:
            self.optimizer = torch.optim.AdamW(
                trained, rule.lr, rule.betas, weight_decay=rule.weight_decay, fused=True
            )
        if compiled:
            self.loss = torch.compile(self.loss)
        self.draw = _in_order(task) if task.batch_size == 1 else _drawing(task, trim)

    def step(self, x, y, lengths):
        loss = self.loss(self.model, self.task.row.kind, x, y, lengths)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss

    def train(self, n):
        for _ in range(n):
            self.step(*next(self.draw))

    def check(self, x, y):
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        lengths = (y != -1).sum(-1) if y.ndim == 2 else None
        if self.trim:
            T = int(lengths.max())
            x, y = x[:, :T], y[:, :T]
        return [self.step(x, y, lengths).item() for _ in range(2)]

    @torch.inference_mode()
    def evaluate(self, x, y, chunk=4096):
        """Mean loss over the scored positions; the notebook's norm with the statistics of all
        examples."""
        if self.task.row.kind == "mlp":
            before_norm = self.model[:3](torch.from_numpy(self.task.x))
            self.model.norm.statistics = torch.var_mean(before_norm, 0)
        total, parts = 0.0, zip(*(torch.from_numpy(a).split(chunk) for a in (x, y)), strict=True)
        for xs, ys in parts:
            total += float(_everywhere(self.model, None, xs, ys, None)) * int((ys != -1).sum())
        return total / (y != -1).sum()


def eager(task, **how):
    made = Eager(task, **how)
    return Peer(made.train, made.check)


def compiled_eager(task):
    """An OSError where torch finds no compiler that works."""
    made = Eager(task, compiled=True)
    try:
        made.loss(made.model, task.row.kind, *next(made.draw))
    except Exception as error:
        raise OSError(f"torch.compile fails here: {str(error).splitlines()[0]}") from error
    return Peer(made.train, made.check)


def _drawing(task, trim):
    x, y = torch.from_numpy(task.x), torch.from_numpy(task.y)
    N, B = len(x), task.batch_size
    lengths = None if task.lengths is None else torch.from_numpy(task.lengths)
    while True:
        ix = torch.randint(N, (B,))
        if trim:
            n = lengths[ix]
            T = int(n.max())
            yield x[ix, :T], y[ix, :T], n
        else:
            yield x[ix], y[ix], None


def _in_order(task):
    parts = zip(task.x, task.y, task.lengths, strict=True)
    tensors = [(torch.from_numpy(x[None, :n]), torch.from_numpy(y[None, :n])) for x, y, n in parts]
    return ((x, y, None) for x, y in cycle(tensors))


def _everywhere(model, kind, x, y, lengths):
    """Logits at every position; cross_entropy ignores those that are not scored."""
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten(), ignore_index=-1)


def _scored_alone(model, kind, x, y, lengths):
    """What does not look along time sees the scored positions alone."""
    scored = y != -1
    h = model[: ALONG_TIME[kind]](x)[scored]
    return F.cross_entropy(model[ALONG_TIME[kind] :](h), y[scored])


def _packed_sequence(model, kind, x, y, lengths):
    """The recurrence over a PackedSequence: nowhere a position that is not scored."""
    ids = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    h = PackedSequence(model.embedding(ids.data), *ids[1:])
    targets = pack_padded_sequence(y, lengths, batch_first=True, enforce_sorted=False).data
    return F.cross_entropy(model.head(model.cell(h).data), targets)


@torch.no_grad()
def by_hand(task):
    """The notebook's last cell: loss and gradients by formulas, no autograd."""
    names = ("embedding.weight", "hidden.weight", "norm.weight", "norm.bias", "head.weight")
    values = [torch.from_numpy(task.parameters[name].copy()) for name in (*names, "head.bias")]
    table, w1, gain, bias, w2, b2 = values
    lr = task.rule.lr

    @torch.no_grad()
    def step(x, y):
        n = len(x)
        rows = torch.arange(n)
        flat = table[x].view(n, -1)
        pre = flat @ w1
        var, mean = torch.var_mean(pre, 0)
        inv = torch.rsqrt(var + 1e-5)
        raw = (pre - mean) * inv
        h = torch.tanh(torch.addcmul(bias, gain, raw))
        logp = F.log_softmax(torch.addmm(b2, h, w2), 1)
        loss = -logp[rows, y].mean()

        dlogits = logp.exp()
        dlogits[rows, y] -= 1
        dlogits /= n
        dw2, db2 = h.T @ dlogits, dlogits.sum(0)
        da = (dlogits @ w2.T) * (1 - h * h)
        dgain, dbias = (raw * da).sum(0), da.sum(0)
        dpre = gain * inv / n * (n * da - dbias - n / (n - 1) * raw * dgain)
        dw1 = flat.T @ dpre
        drows = (dpre @ w1.T).view(-1, table.shape[1])
        dtable = torch.zeros_like(table).index_add_(0, x.flatten(), drows)
        gradients = (dtable, dw1, dgain, dbias, dw2, db2)
        for value, dvalue in zip(values, gradients, strict=True):
            value.sub_(dvalue, alpha=lr)
        return loss

    draw = _drawing(task, trim=False)

    def train(n):
        for _ in range(n):
            x, y, _ = next(draw)
            step(x, y)

    def check(x, y):
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        return [step(x, y).item() for _ in range(2)]

    return Peer(train, check)
