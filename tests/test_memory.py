"""Freed memory is used again where the command line asks for it, and nowhere by itself."""

import subprocess
import sys

import pytest
import torch

from nomadiff.memory import gathered

FAULTS = """
import resource, torch
from torch import nn
from nomadiff.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
torch.set_num_threads(1)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
layers = [nn.Sequential(nn.GroupNorm(4, 32), nn.SiLU(), nn.Conv2d(32, 32, 3, padding=1)) for _ in range(3)]
network = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), *layers).requires_grad_(False)
images = torch.randn(1024, 1, 8, 8)
for _ in range(3):
    network(images)
before = faults()
for _ in range(10):
    network(images)
print(faults() - before)
"""


def test_batches_become_one_tensor():
    whole = torch.arange(24, dtype=torch.uint8).reshape(8, 3)
    assert torch.equal(gathered(iter(whole.split(3)), 8), whole) and gathered([whole], 8).dtype == torch.uint8


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_freed_memory_is_used_again():
    def faults(keep):
        return int(subprocess.check_output([sys.executable, "-c", FAULTS.format(keep=keep)]))

    # here about 2,000 and 90,000 or more
    assert faults(True) < 20_000 < faults(False)
