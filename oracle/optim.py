"""torch.optim behind the interface of npnet.optim: made from two flat arrays, of which a step
updates the first."""

import functools

import torch


class Optimizer:
    """`data` and `grad` as arrays; step(lr) lets torch read the second and update the first."""

    def __init__(self, rule, data, grad, **options):
        self.parameter = torch.nn.Parameter(torch.from_numpy(data))
        self.parameter.grad = torch.from_numpy(grad)
        self.rule = rule([self.parameter], **options)

    def step(self, lr):
        self.rule.param_groups[0]["lr"] = lr
        self.rule.step()


SGD = functools.partial(Optimizer, torch.optim.SGD)
AdamW = functools.partial(Optimizer, torch.optim.AdamW)
Adam = functools.partial(Optimizer, torch.optim.Adam)
