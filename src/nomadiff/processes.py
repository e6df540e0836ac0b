"""One process or many: the same code, started plainly or by ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import atexit
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nomadiff.errors import NomadiffError, UsageError

__all__ = ["Processes", "join_processes", "partner_lost"]


@dataclass(frozen=True)
class Processes:
    """A process and its group.

    Attributes:
        rank: number of this process, 0 is the one that writes files and shows progress.
        count: number of processes.
        device: where this process computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Make a module average its gradients over the processes; itself when there is one process."""
        if self.count == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        with _partners():
            return nn.parallel.DistributedDataParallel(module, device_ids=devices)

    def barrier(self) -> None:
        """Wait until every process has called this."""
        if self.count > 1:
            with _partners():
                torch.distributed.barrier()

    def total(self, value: Tensor) -> Tensor:
        """Sum of a tensor over the processes, on every process."""
        if self.count > 1:
            value = value.clone()
            with _partners():
                torch.distributed.all_reduce(value)
        return value

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate same-shaped tensors of all processes along dimension 0, in order of rank, on every process."""
        if self.count == 1:
            return value
        parts = [torch.empty_like(value) for _ in range(self.count)]
        with _partners():
            torch.distributed.all_gather(parts, value.contiguous())
        return torch.cat(parts)


_lost: list[str] = []  # why other processes are known to have ended


def partner_lost(error: RuntimeError) -> NomadiffError | None:
    """The error to raise where a step failed because another process has ended; None where it failed otherwise."""
    words = r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket"
    if not isinstance(error, torch.distributed.DistError) and not re.search(words, str(error), re.IGNORECASE):
        return None
    _lost.append(str(error))
    return NomadiffError(
        "another process of this run has ended, so this one ends too: its message or the launcher's says why; "
        "run the same command again to go on"
    )


@contextmanager
def _partners() -> Iterator[None]:
    """Report in one line that a process which this one waits for has ended."""
    try:
        yield
    except RuntimeError as error:
        raise partner_lost(error) or error from error


def _leave() -> None:
    """Close the group at exit: without this gloo aborts a process, now and then, whose partner has left before."""
    if _lost:  # gloo aborts now and then when it is closed without its partner
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        # gloo's threads outlive the group where DistributedDataParallel was used; one that has yet to let go of a
        # tensor needs Python for it, and aborts the process when Python is gone
        time.sleep(0.2)


def join_processes(device: str | torch.device | None = None) -> Processes:
    """This process among those that a launcher started; one process unless ``WORLD_SIZE`` is set.

    Several processes meet through ``accelerate``.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps"; None takes a GPU if there is one.

    Raises:
        UsageError: the device does not exist here.
        NomadiffError: the processes do not find one another.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch_device = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{device}': use cpu, cuda, cuda:0, mps ...") from error
    if torch_device.type == "cuda" and (
        not torch.cuda.is_available() or (torch_device.index or 0) >= torch.cuda.device_count()
    ):
        raise UsageError(f"device '{device}' is not there: torch sees {torch.cuda.device_count()} CUDA device(s)")
    if torch_device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device 'mps' is not there")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(rank=0, count=1, device=torch_device)
    from accelerate import PartialState

    try:
        state = PartialState(cpu=torch_device.type == "cpu")
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        raise NomadiffError(f"the processes of this run do not find one another ({reason}): start all again") from error
    atexit.register(_leave)
    return Processes(rank=state.process_index, count=state.num_processes, device=state.device)
