"""The two guarded borders, each in a fresh interpreter, each with the proof that its guard can
fail."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
REFERENCE = ("oracle.ops", "oracle.models", "oracle.chunked", "oracle.optim")

# Prints every top-level module that importing these names brings in; a package brings its modules,
# but not __main__, which would run.
PROBE = """
import importlib, pkgutil, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""


def brought_in(root: Path, *names: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *names], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def planted(tmp_path: Path, package: str, file: str, line: str) -> Path:
    """A copy of the packages in which one file has one more line."""
    for name in ("npnet", "oracle"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.txt")
        )
    path = tmp_path / package / file
    path.write_text(path.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    return tmp_path


def test_npnet_imports_numpy_and_the_standard_library():
    found = brought_in(ROOT, "npnet")
    assert "npnet" in found
    assert found - sys.stdlib_module_names <= {"npnet", "numpy"}


def test_what_is_imported_later_is_listed_already():
    code = "import npnet, sys; print(*dir(npnet), 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = done.stdout.split()
    assert {"AdamW", "Config", "build", "generate", "read_words", "__version__"} <= set(names)
    assert names[-1] == "False"


def reference_modules(root: Path) -> list[str]:
    return [name for name in REFERENCE if (root / (name.replace(".", "/") + ".py")).exists()]


def test_the_reference_does_not_import_npnet():
    found = brought_in(ROOT, *reference_modules(ROOT))
    assert {"oracle", "torch"} <= found
    assert "npnet" not in found


def test_the_judge_imports_numpy_and_hypothesis():
    """Torch and JAX only where a reference or a style asks for them: `autograd` is torch's."""
    names = [name for name in judges_modules(ROOT) if name != "oracle.proof.autograd"]
    found = brought_in(ROOT, *names)
    assert {"numpy", "hypothesis", "oracle"} <= found
    assert not found & {"npnet", "torch", "jax"}


def judges_modules(root: Path) -> list[str]:
    return [
        f"oracle.proof.{path.stem}" for path in sorted((root / "oracle" / "proof").glob("*.py"))
    ]


@pytest.mark.parametrize("forbidden", ["torch", "npnet"])
def test_the_third_guard_can_fail(tmp_path, forbidden):
    root = planted(tmp_path, "oracle", "proof/draw.py", f"import {forbidden}")
    assert forbidden in brought_in(root, "oracle.proof.check")


@pytest.mark.parametrize("forbidden", ["torch", "oracle"])
def test_the_first_guard_can_fail(tmp_path, forbidden):
    root = planted(tmp_path, "npnet", "ops/linear.py", f"import {forbidden}")
    assert forbidden in brought_in(root, "npnet") - sys.stdlib_module_names - {"npnet", "numpy"}


@pytest.mark.parametrize("module", ["ops", "chunked"])
def test_the_second_guard_can_fail(tmp_path, module):
    root = planted(tmp_path, "oracle", f"{module}.py", "import npnet.ops")
    assert "npnet" in brought_in(root, *reference_modules(root))
