"""Optimisers as torch.optim defines them, and learning-rate schedules.

An optimiser updates one flat vector of parameters from the vector of their gradients:
`optimizer.step(lr)`. `state()` names the arrays that a resumed run needs. A schedule is a function
of the step, `schedule(step) -> lr`.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

Schedule = Callable[[int], float]
Total = Callable[[np.ndarray], np.ndarray]


class Optimizer:
    """`step` updates data by grad: a Model's flat vectors, or after `move` a part of them. The
    state is that of the whole vectors; an attribute of the same name is the part. Where others
    update the other parts, total(array) adds up an array over all parts, in place."""

    def __init__(self, data: np.ndarray, grad: np.ndarray, **state: np.ndarray) -> None:
        self.data, self.grad, self._state = data, grad, state
        self.total: Total | None = None

    def step(self, lr: float) -> None:
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """Name -> array: those as long as the whole data, and a count of steps."""
        return self._state

    def move(
        self, data: np.ndarray, grad: np.ndarray, rows: Iterable[np.ndarray], part: slice
    ) -> None:
        """Update that part of `data` from now on, and keep each array of the state that is as long
        as data in a row."""
        vectors = [name for name, array in self._state.items() if array.ndim]
        for name, row in zip(vectors, rows, strict=True):
            row[...] = self._state[name]
            self._state[name] = row
            setattr(self, name, row[part])
        self.data, self.grad = data[part], grad[part]


class SGD(Optimizer):
    """p -= lr g, where momentum replaces g by v = momentum v + g, v = g at the first step, and
    Nesterov's momentum by g + momentum v, which looks ahead.

    data and grad are a Model's flat vectors. Nesterov without momentum is a ValueError, as in
    torch.
    """

    def __init__(
        self, data: np.ndarray, grad: np.ndarray, momentum: float = 0.0, nesterov: bool = False
    ) -> None:
        if momentum < 0 or (nesterov and momentum == 0):
            raise ValueError(
                f"momentum must be at least 0, and above 0 for Nesterov's, got {momentum}"
            )
        self.momentum, self.nesterov = momentum, nesterov
        self.velocity = np.zeros_like(data) if momentum else None
        state = {} if self.velocity is None else {"velocity": self.velocity}
        super().__init__(data, grad, **state)

    def step(self, lr: float) -> None:
        update = self.grad
        if self.velocity is not None:
            self.velocity *= self.momentum
            self.velocity += self.grad
            update = self.grad + self.momentum * self.velocity if self.nesterov else self.velocity
        self.data -= lr * update


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019); weight_decay=0 is Adam
    (Kingma and Ba, 2015).

        p -= lr weight_decay p
        m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
        p -= lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps),   t = 1, 2, ...

    Multiplied above and below by root = sqrt(1 - beta2^t), the last line needs one pass less:
        p -= (lr root / (1 - beta1^t)) m / (sqrt(v) + eps root).

    `decayed` are the parts of data that the first line is for, all of it unless told otherwise:
    Model.matrices() leaves out biases and gains, as GPT-2's users do.
    """

    def __init__(
        self,
        data: np.ndarray,
        grad: np.ndarray,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        decayed: Sequence[slice] = (slice(None),),
    ) -> None:
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        # As arrays, for a Python number is converted again in every call.
        self._shares = [np.asarray(b, data.dtype) for beta in betas for b in (beta, 1 - beta)]
        self._number = np.zeros((), data.dtype)
        self.mean, self.square = np.zeros_like(data), np.zeros_like(data)
        self.count = np.zeros((), np.int64)
        super().__init__(data, grad, mean=self.mean, square=self.square, count=self.count)
        self._decayed, self.decayed = decayed, [data[part] for part in decayed]

    def step(self, lr: float) -> None:
        beta1, beta2 = self.betas
        self.count[...] = t = self.count.item() + 1
        root = math.sqrt(1 - beta2**t)
        number = self._number
        if self.weight_decay:
            number[...] = 1 - lr * self.weight_decay
            for part in self.decayed:
                part *= number
        keep1, add1, keep2, add2 = self._shares
        scratch = self.grad * add1
        self.mean *= keep1
        self.mean += scratch
        np.multiply(self.grad, self.grad, out=scratch)
        scratch *= add2
        self.square *= keep2
        self.square += scratch
        np.sqrt(self.square, out=scratch)
        number[...] = self.eps * root
        scratch += number
        np.divide(self.mean, scratch, out=scratch)
        number[...] = lr * root / (1 - beta1**t)
        scratch *= number
        self.data -= scratch

    def move(
        self, data: np.ndarray, grad: np.ndarray, rows: Iterable[np.ndarray], part: slice
    ) -> None:
        super().move(data, grad, rows, part)
        self.decayed = [data[_overlap(decayed, part, len(data))] for decayed in self._decayed]


def _overlap(a: slice, b: slice, n: int) -> slice:
    """What two parts of a vector of n numbers have in common."""
    (start, stop, _), (other_start, other_stop, _) = a.indices(n), b.indices(n)
    return slice(max(start, other_start), min(stop, other_stop))


def constant(lr: float) -> Schedule:
    return lambda step: lr


def step_decay(lr: float, at: int, factor: float = 0.1) -> Schedule:
    """lr, and from step `at` on lr * factor: the lectures' rule."""
    return lambda step: lr if step < at else lr * factor


def linear_decay(lr: float, steps: int) -> Schedule:
    """From lr at step 0 in a straight line to 0 at `steps`."""
    return lambda step: lr * max(0.0, 1 - step / steps)


def cosine(lr: float, steps: int, warmup: int = 0, final: float = 0.0) -> Schedule:
    """Linear warm-up to lr at step `warmup`, from lr / (warmup + 1) at step 0, then half a cosine
    down to `final` at `steps`, where it stays: nanoGPT's rule."""

    def schedule(step: int) -> float:
        if step < warmup:
            return lr * (step + 1) / (warmup + 1)
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return final + (lr - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return schedule


def clip_grad_norm(grad: np.ndarray, max_norm: float, total: Total | None = None) -> float:
    """Scale grad in place so that its Euclidean norm is at most max_norm; returns the norm before.
    Where grad is one of several parts, total adds up an array over all of them, in place.

    As in torch, the factor is max_norm / (norm + 1e-6) wherever that is below 1, so a norm that
    just meets the bound is scaled too.
    """
    square = np.dot(grad, grad).reshape(1)
    norm = math.sqrt(square.item() if total is None else total(square).item())
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        grad *= factor
    return norm
