"""An optimiser that does nothing but look, for layers that hand their gradients to one."""

from typing import Any

import numpy as np


class Spy:
    """Stands for an optimiser and keeps the gradients that it is given; no parameter moves.

    Whatever its method is called, update(w, dw), step("W", w, dw) or spy(w, dw), the first two
    arrays are taken for a parameter and its gradient, and the parameter is returned.
    """

    learning_rate = lr = 1.0

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Any]] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        arrays = [
            a for a in (*arguments, *named.values()) if isinstance(a, np.ndarray | np.generic)
        ]
        if len(arrays) < 2:
            return None
        self.seen.append((arrays[0], arrays[1]))
        return arrays[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __copy__(self) -> "Spy":
        return self

    def __deepcopy__(self, memo: Any) -> "Spy":
        return self

    def gradient(self, parameter: Any) -> Any:
        """The last one that came with this parameter."""
        for same in (lambda w: w is parameter, lambda w: np.array_equal(w, parameter)):
            for w, gradient in reversed(self.seen):
                if same(w):
                    return gradient
        return None
