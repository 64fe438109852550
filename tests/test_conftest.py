"""Without the published data a test run says so in one line; a wrong path is an error."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN = [sys.executable, "-m", "pytest", "-q", "tests/test_presets.py::test_part1"]


def outcome(**environment):
    kept = {name: value for name, value in os.environ.items() if name != "MAKEMORE_NAMES"}
    return subprocess.run(RUN, cwd=ROOT, env=kept | environment, capture_output=True, text=True)


def test_what_is_skipped_for_want_of_published_data_is_said():
    done = outcome()
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if "published runs" in line]
    assert lines == [
        "tests of published runs skipped: 1; to run them, "
        "set MAKEMORE_NAMES to the path of the names.txt of github.com/karpathy/makemore"
    ]


def test_a_wrong_path_to_published_data_is_an_error(tmp_path):
    done = outcome(MAKEMORE_NAMES=str(tmp_path / "names.txt"))
    assert done.returncode == 1
    assert f"MAKEMORE_NAMES: there is no file {tmp_path}" in done.stdout
    assert "published runs" not in done.stdout
