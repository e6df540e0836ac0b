"""Joining processes; the launchers themselves are tried where training is."""

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.processes import join_processes


def test_alone_unless_launched(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = join_processes("cpu")
    assert (alone.rank, alone.count, alone.device, alone.is_main) == (0, 1, torch.device("cpu"), True)
    assert torch.equal(alone.gather(torch.arange(3)), torch.arange(3))


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(UsageError, match=device):
        join_processes(device)
