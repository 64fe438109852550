"""npnet: networks whose every backward pass is derived by hand, in NumPy alone.

    data -> models -> train -> sample        words in, a model, trained, and words drawn from it
    ops                                      the forward and backward passes, one file a family
    chunked                                  the notebook's exercise, one operation a line

The names below are imported from their modules when they are first used, so that `import npnet`
costs nothing and the command line can choose the number of BLAS threads before NumPy starts.
"""

import importlib

__version__ = "0.2.0"

_HOME = {
    "checkpoint": ["Checkpoint", "load", "save"],
    "data": ["Vocabulary", "build_dataset", "build_sequences", "read_words", "split"],
    "makemore": ["from_makemore", "to_makemore"],
    "model": ["Config", "Model"],
    "models": ["build"],
    "optim": ["SGD", "AdamW"],
    "random": ["TorchGenerator"],
    "sample": ["generate", "generate_text"],
    "text": ["Text", "TextVocabulary", "random_windows", "read_text", "split_text"],
    "train": ["calibrate", "evaluate", "fit", "minibatches"],
}
__all__ = sorted(name for names in _HOME.values() for name in names)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return getattr(importlib.import_module(f"npnet.{module}"), name)
    raise AttributeError(f"module 'npnet' has no attribute {name!r}")
