"""The chunked forward of `npnet.chunked` once more in torch, with the gradients left to autograd.

Parameters are used in their own dtype: float64 for the reference, float32 to see which bits agree.
Weights are (fan_in, fan_out), as in the notebook.
"""

import torch


def forward(params, x, y):
    """Tensors; x (n, T), y (n,) -> dict of every intermediate by the notebook's names, up to the
    loss."""
    n = len(x)
    v = {}
    # Times 1, an operation: `oracle.proof.autograd` then gives equal rows errors of their own.
    v["emb"] = params["C"][x] * 1
    v["embconcat"] = v["emb"].view(n, -1)
    v["hprebn"] = v["embconcat"] @ params["w1"]
    if "b1" in params:
        v["hprebn"] = v["hprebn"] + params["b1"]
    v["bnmean"] = v["hprebn"].mean(0, keepdim=True)
    v["bndiff"] = v["hprebn"] - v["bnmean"]
    v["bndiff2"] = v["bndiff"] ** 2
    v["bnvar"] = v["bndiff2"].sum(0, keepdim=True) / (n - 1)
    v["bnvar_inv"] = (v["bnvar"] + 1e-5) ** -0.5
    v["bnraw"] = v["bndiff"] * v["bnvar_inv"]
    v["hpreact"] = params["bngain"] * v["bnraw"] + params["bnbias"]
    v["h"] = torch.tanh(v["hpreact"])
    v["logits"] = v["h"] @ params["w2"] + params["b2"]
    v["logit_maxes"] = v["logits"].max(1, keepdim=True).values
    v["norm_logits"] = v["logits"] - v["logit_maxes"]
    v["counts"] = v["norm_logits"].exp()
    v["counts_sum"] = v["counts"].sum(1, keepdim=True)
    v["counts_sum_inv"] = v["counts_sum"] ** -1
    v["probs"] = v["counts"] * v["counts_sum_inv"]
    v["logprobs"] = v["probs"].log()
    v["loss"] = -v["logprobs"][torch.arange(n), y].mean()
    return v


def evaluate(params, x, y, dloss=1.0):
    """Tensors -> one dict: the intermediates by name, then d<name> for each of them but the loss
    and each parameter."""
    params = {name: p.detach().requires_grad_() for name, p in params.items()}
    values = forward(params, x, y)
    wanted = {name: v for name, v in values.items() if name != "loss"} | params
    upstream = torch.full_like(values["loss"], dloss)
    gradients = torch.autograd.grad(values["loss"], list(wanted.values()), upstream)
    return {name: v.detach() for name, v in values.items()} | {
        f"d{n}": g for n, g in zip(wanted, gradients, strict=True)
    }


def gradients(params, x, y, dloss=1.0):
    """Arrays -> dict of arrays, the gradients of `evaluate`, in the parameters' dtype."""
    tensors = {name: torch.as_tensor(p) for name, p in params.items()}
    found = evaluate(tensors, torch.as_tensor(x), torch.as_tensor(y), dloss)
    return {name: found[name].numpy() for name in found if name.startswith("d")}
