"""How this process takes memory from the system: the command line's choice, never an import's; and its lack."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from nomadiff.errors import NomadiffError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["explained", "gathered", "is_lack", "keep_freed_memory"]


def keep_freed_memory() -> None:
    """Let glibc keep the memory of a freed tensor for the next one.

    By default it returns blocks of some megabytes to the system and gets them back zeroed, page by page: a third of the
    CPU time of sampling 8x8 images in batches of 1,000. Blocks above 32 MiB, glibc's limit, still go back.
    """
    trim_threshold, mmap_threshold = -1, -3  # numbers of the options in malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:  # musl has none
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, (1 << 31) - 1)


def gathered(batches: Iterable[Tensor], count: int) -> Tensor:
    """Batches as one tensor of ``count`` rows, which ``torch.cat`` would hold twice for a moment."""
    whole, done = None, 0
    for batch in batches:
        if whole is None:
            whole = batch.new_empty((count, *batch.shape[1:]))
        whole[done : done + len(batch)] = batch
        done += len(batch)
    assert whole is not None and done == count
    return whole


def is_lack(error: RuntimeError) -> bool:
    """Whether an allocator says that memory has run out: torch.OutOfMemoryError is one, a CPU's is a plain error."""
    text = str(error).lower()
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in text or "can't allocate memory" in text


def explained(error: RuntimeError, microbatch: int) -> Exception:
    """Out-of-memory as an error that says what to change; anything else as it is."""
    if is_lack(error):
        smaller = max(1, microbatch // 2)
        return NomadiffError(f"{microbatch} images at once do not fit into memory: pass --microbatch {smaller}")
    return error
