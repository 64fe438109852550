"""Hypothesis profiles (environment variable HYPOTHESIS_PROFILE), one thread for each library, the original names file."""

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read once, when NumPy is imported

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("dev", max_examples=100, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=False, print_blob=True)
settings.register_profile("thorough", max_examples=2000, deadline=None, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def makemore_names() -> Path:
    """The names file of makemore and the lectures, which the published figures belong to and the repository does not contain."""
    path = Path(__file__).parents[2] / "shared" / "makemore-names.txt"
    if not path.exists():
        pytest.skip(f"needs makemore's names.txt as {path}")
    return path
