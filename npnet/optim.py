"""Optimisers as torch.optim defines them, and learning-rate schedules.

An optimiser updates one flat vector of parameters from the vector of their gradients:
`optimizer.step(lr)`. `state()` names the arrays that a resumed run needs. A schedule is a function
of the step, `schedule(step) -> lr`.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

Schedule = Callable[[int], float]


class Optimizer:
    """data and grad are a Model's flat vectors, of which `step` updates `part`."""

    data: np.ndarray
    grad: np.ndarray
    part = slice(None)

    def step(self, lr: float) -> None:
        raise NotImplementedError

    def state(self) -> dict[str, np.ndarray]:
        """Name -> array: those as long as data, and what counts steps."""
        raise NotImplementedError

    def move(
        self, data: np.ndarray, grad: np.ndarray, rows: Iterable[np.ndarray], part: slice
    ) -> None:
        """Update that part of `data` from now on, and keep each array of the state that is as long
        as data in a row."""
        vectors = {name: array for name, array in self.state().items() if array.ndim}
        for (name, array), row in zip(vectors.items(), rows, strict=True):
            row[...] = array
            setattr(self, name, row)
        self.data, self.grad, self.part = data, grad, part


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
        self.data, self.grad, self.momentum, self.nesterov = data, grad, momentum, nesterov
        self.velocity = np.zeros_like(data) if momentum else None

    def step(self, lr: float) -> None:
        data, update = self.data[self.part], self.grad[self.part]
        if self.velocity is not None:
            velocity = self.velocity[self.part]
            velocity *= self.momentum
            velocity += update
            update = update + self.momentum * velocity if self.nesterov else velocity
        data -= lr * update

    def state(self) -> dict[str, np.ndarray]:
        return {} if self.velocity is None else {"velocity": self.velocity}


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
        self.data, self.grad = data, grad
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        # As arrays, for a Python number is converted again in every call.
        self._shares = [np.asarray(b, data.dtype) for beta in betas for b in (beta, 1 - beta)]
        self.decayed = decayed
        self.mean, self.square = np.zeros_like(data), np.zeros_like(data)
        self.count = np.zeros((), np.int64)

    def step(self, lr: float) -> None:
        beta1, beta2 = self.betas
        self.count[...] = t = int(self.count) + 1
        root = math.sqrt(1 - beta2**t)
        if self.weight_decay:
            for part in self.decayed:
                decayed = self.data[part]
                decayed *= 1 - lr * self.weight_decay
        vectors = self.data, self.grad, self.mean, self.square
        data, grad, mean, square = (vector[self.part] for vector in vectors)
        keep1, add1, keep2, add2 = self._shares
        scratch = grad * add1
        mean *= keep1
        mean += scratch
        np.multiply(grad, grad, out=scratch)
        scratch *= add2
        square *= keep2
        square += scratch
        np.sqrt(square, out=scratch)
        scratch += self.eps * root
        np.divide(mean, scratch, out=scratch)
        scratch *= lr * root / (1 - beta1**t)
        data -= scratch

    def move(
        self, data: np.ndarray, grad: np.ndarray, rows: Iterable[np.ndarray], part: slice
    ) -> None:
        super().move(data, grad, rows, part)
        self.decayed = [_overlap(decayed, part, len(data)) for decayed in self.decayed]

    def state(self) -> dict[str, np.ndarray]:
        return {"mean": self.mean, "square": self.square, "count": self.count}


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


def clip_grad_norm(grad: np.ndarray, max_norm: float) -> float:
    """Scale grad in place so that its Euclidean norm is at most max_norm; returns the norm before.

    As in torch, the factor is max_norm / (norm + 1e-6) wherever that is below 1, so a norm that
    just meets the bound is scaled too.
    """
    norm = math.sqrt(float(np.dot(grad, grad)))
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        grad *= factor
    return norm
