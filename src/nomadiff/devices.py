"""What a device has room for, and how tensors reach it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

__all__ = ["free_memory", "sent"]


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. What is sent from the host to a GPU is copied while both go on with their work."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def free_memory(device: torch.device) -> int | None:
    """Bytes that this process can still take on a device; None where the system does not say."""
    if device.type == "cuda":
        # what torch's allocator holds and does not use is free too
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    if device.type != "cpu":
        return None
    known = [_of_system("/proc/meminfo"), _of_group("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")]
    return min((count for count in known if count is not None), default=None)


def _of_system(path: str) -> int | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _of_group(limit: str, used: str) -> int | None:
    """What a container's limit leaves."""
    try:
        most, taken = Path(limit).read_text().strip(), int(Path(used).read_text())
    except (OSError, ValueError):
        return None
    return max(0, int(most) - taken) if most.isdigit() else None
