"""The notebook's exercise: an MLP with batch norm, cut into one-operation lines, and the backward
pass of each line by hand.

`forward(params, x, y)` names every intermediate, `backward(params, values)` the gradient of each:
d<name> is the gradient of the loss with respect to <name> and has its shape. Read `backward` beside
`forward`, from the last line up.

Sizes: n examples, T characters of context, E numbers for each, H hidden units, V characters.
Parameters: C (V, E), w1 (T E, H), w2 (H, V), b2 (V,), bngain and bnbias (1, H); b1 (H,) is
optional.

Three rules derive every line:
    An elementwise step y = f(x): dx = dy * f'(x).
    What was broadcast in the forward collects a sum in the backward, over the axis along which it
    was repeated, and what was summed is broadcast back.
    A value that is used twice has two paths to the loss: its gradient is the sum of both.

Left out on purpose: speed, and care for logits so far apart that a probability underflows to 0
(dprobs divides by it). `npnet.ops` has the long stretches in one fused step each, fast and safe:
`batch_norm` from hprebn to hpreact, `cross_entropy` from logits to the loss.
"""

import numpy as np

from npnet.random import TorchGenerator

EPS = 1e-5


def init_params(
    rng: TorchGenerator,
    vocab_size: int = 27,
    n_embd: int = 10,
    block_size: int = 3,
    n_embd2: int = 64,
    with_b1: bool = False,
    dtype: type = np.float32,
) -> dict[str, np.ndarray]:
    """Random parameters, drawn from `rng` in the notebook's order.

    Nothing is 0 or 1, not even the biases, the gain and the last layer, because a gradient that is
    wrong by such a factor would look right. The default sizes make 4073 numbers, 4137 with b1,
    which is useless: see db1 below.
    """
    fan_in = n_embd * block_size
    params = {}
    params["C"] = rng.randn(vocab_size, n_embd, dtype=dtype)
    params["w1"] = rng.randn(fan_in, n_embd2, dtype=dtype) * (5 / 3) / fan_in**0.5
    if with_b1:
        params["b1"] = rng.randn(n_embd2, dtype=dtype) * 0.1
    params["w2"] = rng.randn(n_embd2, vocab_size, dtype=dtype) * 0.1
    params["b2"] = rng.randn(vocab_size, dtype=dtype) * 0.1
    params["bngain"] = rng.randn(1, n_embd2, dtype=dtype) * 0.1 + 1.0
    params["bnbias"] = rng.randn(1, n_embd2, dtype=dtype) * 0.1
    return params


def forward(params: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """x (n, T) the numbers of the context's characters, y (n,) that of the one that follows
    -> x, y and every intermediate by name.

    The loss is the mean negative log-likelihood in nats. The variance is the unbiased one, so n = 1
    is a ValueError.
    """
    n = len(x)
    if n < 2:
        raise ValueError(
            f"a batch of {n} has no unbiased variance: the forward needs at least 2 examples"
        )
    C, w1, b1 = params["C"], params["w1"], params.get("b1", 0.0)
    bngain, bnbias = params["bngain"], params["bnbias"]
    w2, b2 = params["w2"], params["b2"]

    # embedding and first linear layer
    emb = C[x]  # (n, T, E)
    embconcat = emb.reshape(n, -1)  # (n, T E)
    hprebn = embconcat @ w1 + b1  # (n, H)
    # batch norm
    bnmean = 1 / n * hprebn.sum(0, keepdims=True)  # (1, H)
    bndiff = hprebn - bnmean
    bndiff2 = bndiff**2
    bnvar = 1 / (n - 1) * bndiff2.sum(0, keepdims=True)  # (1, H)
    bnvar_inv = (bnvar + EPS) ** -0.5
    bnraw = bndiff * bnvar_inv
    hpreact = bngain * bnraw + bnbias
    # non-linearity and second linear layer
    h = np.tanh(hpreact)
    logits = h @ w2 + b2  # (n, V)
    # cross-entropy
    logit_maxes = logits.max(1, keepdims=True)  # (n, 1)
    norm_logits = logits - logit_maxes
    counts = np.exp(norm_logits)
    counts_sum = counts.sum(1, keepdims=True)  # (n, 1)
    counts_sum_inv = counts_sum**-1
    probs = counts * counts_sum_inv
    logprobs = np.log(probs)
    loss = -logprobs[np.arange(n), y].mean()

    return {
        "x": x, "y": y,
        "emb": emb, "embconcat": embconcat, "hprebn": hprebn,
        "bnmean": bnmean, "bndiff": bndiff, "bndiff2": bndiff2, "bnvar": bnvar,
        "bnvar_inv": bnvar_inv, "bnraw": bnraw, "hpreact": hpreact,
        "h": h, "logits": logits,
        "logit_maxes": logit_maxes, "norm_logits": norm_logits, "counts": counts,
        "counts_sum": counts_sum, "counts_sum_inv": counts_sum_inv, "probs": probs,
        "logprobs": logprobs, "loss": loss,
    }  # fmt: skip


def backward(
    params: dict[str, np.ndarray], values: dict[str, np.ndarray], dloss: float = 1.0
) -> dict[str, np.ndarray]:
    """`values` as `forward` returned them -> the gradient d<name> of every intermediate and
    parameter.

    The forward read upwards. `dloss` is the gradient of the loss itself, 1 where nothing follows.
    """
    C, w1, w2, bngain = params["C"], params["w1"], params["w2"], params["bngain"]
    x, y, emb, embconcat = values["x"], values["y"], values["emb"], values["embconcat"]
    bndiff, bndiff2, bnvar = values["bndiff"], values["bndiff2"], values["bnvar"]
    bnvar_inv, bnraw = values["bnvar_inv"], values["bnraw"]
    h, logits, counts, probs = values["h"], values["logits"], values["counts"], values["probs"]
    counts_sum, counts_sum_inv = values["counts_sum"], values["counts_sum_inv"]
    n, V = logits.shape
    onehot = np.eye(V, dtype=logits.dtype)

    # loss = -sum_i logprobs[i, y[i]] / n: each row's target has slope -1/n; no other entry is read.
    dlogprobs = onehot[y] * (-float(dloss) / n)

    # logprobs = log(probs), slope 1 / probs: the less likely the true character seemed, the harder
    # the push.
    dprobs = dlogprobs / probs

    # probs = counts * counts_sum_inv, the (n, 1) column repeated over its row of V: what was
    # repeated adds up.
    dcounts_sum_inv = (dprobs * counts).sum(1, keepdims=True)

    # counts_sum_inv = counts_sum^-1, slope -counts_sum^-2.
    dcounts_sum = -(counts_sum**-2) * dcounts_sum_inv

    # counts is used twice: in probs, with slope counts_sum_inv, and in counts_sum, with slope 1 for
    # every entry of the row. A larger count raises its own probability and, through the sum, lowers
    # all of its row.
    dcounts = counts_sum_inv * dprobs + dcounts_sum

    # counts = exp(norm_logits), and exp is its own slope.
    # (All of it so far simplifies to (probs - onehot[y]) / n.)
    dnorm_logits = counts * dcounts

    # norm_logits = logits - logit_maxes, the maximum repeated over its row. A constant added to a
    # whole row changes no probability, so in exact arithmetic this is 0; what is left is the
    # rounding of the terms, about 1e-9 in float32.
    dlogit_maxes = -dnorm_logits.sum(1, keepdims=True)

    # logits is used twice: as itself, and in the maximum of its row, with slope 1 where the maximum
    # is and 0 elsewhere.
    dlogits = dnorm_logits + onehot[logits.argmax(1)] * dlogit_maxes

    # logits[i, v] = sum_k h[i, k] w2[k, v] + b2[v].
    # Each h[i, k] takes part in every v, with slope w2[k, v].
    dh = dlogits @ w2.T
    # Each w2[k, v] takes part in every example i, with slope h[i, k]. No other product has the
    # shape of w2.
    dw2 = h.T @ dlogits
    # b2 was repeated over the n rows.
    db2 = dlogits.sum(0)

    # h = tanh(hpreact), slope 1 - tanh^2, which the forward's own result gives: a saturated unit
    # passes nothing on.
    dhpreact = (1.0 - h**2) * dh

    # hpreact = bngain * bnraw + bnbias: gain and bias are (1, H), repeated over the rows and so
    # summed over them.
    dbngain = (bnraw * dhpreact).sum(0, keepdims=True)
    dbnbias = dhpreact.sum(0, keepdims=True)
    dbnraw = bngain * dhpreact

    # bnraw = bndiff * bnvar_inv, the (1, H) factor repeated over the rows.
    # (bndiff waits for its other use.)
    dbnvar_inv = (bndiff * dbnraw).sum(0, keepdims=True)

    # bnvar_inv = (bnvar + eps)^(-1/2), slope -1/2 (bnvar + eps)^(-3/2).
    dbnvar = -0.5 * (bnvar + EPS) ** -1.5 * dbnvar_inv

    # bnvar = sum_i bndiff2[i] / (n - 1): every term gets the sum's gradient, over n - 1 as in the
    # forward (Bessel): of n differences from their own mean only n - 1 are free, and dividing by n
    # would make the variance too small.
    dbndiff2 = 1 / (n - 1) * np.ones_like(bndiff2) * dbnvar

    # bndiff is used twice: in bnraw, with slope bnvar_inv, and squared in bndiff2, with slope
    # 2 bndiff.
    dbndiff = bnvar_inv * dbnraw + 2.0 * bndiff * dbndiff2

    # bndiff = hprebn - bnmean, the (1, H) mean repeated over the rows, with slope -1.
    # (What came through the variance adds up to 0 here, as the differences from a mean do: the sum
    # of squares has its minimum at the mean.)
    dbnmean = -dbndiff.sum(0, keepdims=True)

    # hprebn is used twice: as itself in bndiff, and with weight 1/n in the mean, which every row
    # shares.
    dhprebn = dbndiff + 1 / n * dbnmean

    # hprebn = embconcat @ w1 + b1, as for logits: the input's gradient sums over the units, the
    # weight's over the rows.
    dembconcat = dhprebn @ w1.T
    dw1 = embconcat.T @ dhprebn
    # b1 was repeated over the rows. But the mean that batch norm subtracts contains it too, so it
    # has no effect at all: from the lines of dbnmean and dhprebn,
    #     sum_i dhprebn[i] = sum_i dbndiff[i] + dbnmean = 0.
    # What is left is rounding.
    db1 = dhprebn.sum(0)

    # embconcat is emb with the T vectors of an example side by side: the same numbers in another
    # shape.
    demb = dembconcat.reshape(emb.shape)

    # emb[i, t] = C[x[i, t]]: a row of C collects from every place where its character stands;
    # `dC[x] += demb` would keep only one of them.
    dC = np.zeros_like(C)
    np.add.at(dC, x, demb)

    gradients = {
        "dlogprobs": dlogprobs, "dprobs": dprobs, "dcounts_sum_inv": dcounts_sum_inv,
        "dcounts_sum": dcounts_sum, "dcounts": dcounts, "dnorm_logits": dnorm_logits,
        "dlogit_maxes": dlogit_maxes, "dlogits": dlogits,
        "dh": dh, "dw2": dw2, "db2": db2,
        "dhpreact": dhpreact, "dbngain": dbngain, "dbnbias": dbnbias, "dbnraw": dbnraw,
        "dbnvar_inv": dbnvar_inv, "dbnvar": dbnvar, "dbndiff2": dbndiff2, "dbndiff": dbndiff,
        "dbnmean": dbnmean, "dhprebn": dhprebn,
        "dembconcat": dembconcat, "dw1": dw1, "db1": db1, "demb": demb, "dC": dC,
    }  # fmt: skip
    if "b1" not in params:
        del gradients["db1"]
    return gradients
