"""How this process takes memory from the system: the command line's choice, never an import's."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]


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
