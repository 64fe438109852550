"""Hypothesis profiles (HYPOTHESIS_PROFILE names one), one thread for each library, and the data of
the published runs, which the repository does not contain."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read once, when NumPy is imported

import pytest
import torch
from command_line import WORDS, good
from hypothesis import Phase, settings

torch.set_num_threads(1)

# Tests send these; a shell that starts pytest in the background or under nohup has them ignored.
for number, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    known = getattr(signal, number, None)
    if known is not None and signal.getsignal(known) is signal.SIG_IGN:
        signal.signal(known, usual)

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


# Environment variable -> the file whose path it is. Tests ask for the fixture of that name in small
# letters.
PUBLISHED = {
    "MAKEMORE_NAMES": "the names.txt of github.com/karpathy/makemore",
    "TINYSHAKESPEARE": "the input.txt of github.com/karpathy/char-rnn, data/tinyshakespeare",
}


def published(variable):
    @pytest.fixture(scope="session")
    def file() -> Path:
        if variable not in os.environ:
            pytest.skip(f"needs {variable}")
        path = Path(os.environ[variable]).absolute()
        assert path.is_file(), f"{variable}: there is no file {path}"
        return path

    return file


globals().update({variable.lower(): published(variable) for variable in PUBLISHED})


def pytest_terminal_summary(terminalreporter):
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    missing = {v: sum(f"needs {v}'" in reason for reason in skipped) for v in PUBLISHED}
    if n := sum(missing.values()):
        files = ", ".join(f"{v} to the path of {PUBLISHED[v]}" for v, k in missing.items() if k)
        terminalreporter.write_line(
            f"tests of published runs skipped: {n}; to run them, set {files}"
        )


@pytest.fixture(scope="session")
def names(tmp_path_factory):
    """A file of 300 words."""
    path = tmp_path_factory.mktemp("words") / "some.txt"
    path.write_text(WORDS + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(names, tmp_path_factory):
    """A work directory that nobody may write to: read it, or copy it."""
    out = tmp_path_factory.mktemp("trained") / "out"
    good("train", "-i", names, "-o", out, "--max-steps", 200)
    return out
