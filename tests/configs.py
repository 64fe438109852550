"""One set of sizes for models that read different ones."""

from npnet.models import BUILDERS, Config


def config_for(kind, vocab_size, block_size, dtype="float32", **sizes):
    """A Config with those of the sizes that the model reads."""
    read = {name: size for name, size in sizes.items() if name in BUILDERS[kind].reads}
    return Config(vocab_size, block_size, dtype=dtype, **read)
