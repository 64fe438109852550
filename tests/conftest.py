"""Hypothesis profiles (HYPOTHESIS_PROFILE names one), one thread for each library, the original
names file."""

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read once, when NumPy is imported

import pytest
import torch
from hypothesis import Phase, settings

torch.set_num_threads(1)

settings.register_profile("dev", max_examples=100, deadline=None)
settings.register_profile(
    "ci", max_examples=100, deadline=None, derandomize=True
)  # a red run is about the change
settings.register_profile("thorough", max_examples=2000, deadline=None, print_blob=True)
settings.register_profile(
    "mutmut",
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def makemore_names() -> Path:
    """The names file of makemore, to which the published figures belong and which the repository
    does not contain."""
    path = Path(__file__).parents[2] / "shared" / "makemore-names.txt"
    if not path.exists():
        pytest.skip(f"needs makemore's names.txt as {path}")
    return path
