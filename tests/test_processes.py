"""Joining processes; the launchers themselves are tried where training is."""

import subprocess
import sys

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.processes import join_processes

FAULTS = """
import resource, torch
from torch import nn
from nomadiff.processes import join_processes
if {join}:
    join_processes("cpu")
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


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
def test_freed_memory_is_used_again():
    def faults(join):
        return int(subprocess.check_output([sys.executable, "-c", FAULTS.format(join=join)]))

    # here about 2,000 and 90,000 or more
    assert faults(True) < 20_000 < faults(False)


def test_alone_unless_launched(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join_processes("cpu")
    assert (alone.rank, alone.count, alone.device, alone.is_main) == (0, 1, torch.device("cpu"), True)
    assert torch.equal(alone.gather(torch.arange(3)), torch.arange(3))


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(UsageError, match=device):
        join_processes(device)
