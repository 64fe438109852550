"""npnet.memory."""

import subprocess
import sys
from pathlib import Path

import pytest

STEPS = """
import resource
import numpy as np
from npnet.models import Config, build
from npnet.random import TorchGenerator

model = build("transformer", Config(27, 32, n_embd=64), TorchGenerator(1))
x = np.zeros((64, 32), np.int64)
faults = []
for _ in range(6):
    model.loss_and_grad(x, x)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[2])
heap = open("/proc/self/smaps").read().split("[heap]")[1:]
print(any("hg" in part.split("VmFlags:")[1].split("\\n")[0].split() for part in heap))
"""

LIMITED = """
import resource
from npnet.memory import keep_freed_memory

def addresses():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

before = addresses()
resource.setrlimit(resource.RLIMIT_AS, (before + (128 << 20),) * 2)
keep_freed_memory()
print(addresses() - before)
"""


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the kernel has no huge pages"
)
def test_steps_reuse_memory_in_huge_pages():
    """Without keep_freed_memory three steps fault in some 10,000 pages, and NumPy's small arrays
    have ordinary ones."""
    found = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    faults, advised = found.stdout.split()
    assert int(faults) < 100
    assert advised == "True"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux counts addresses there")
def test_where_addresses_are_few_they_are_left_to_others():
    found = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < 32 << 20
