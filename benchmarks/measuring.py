"""What the benchmarks share: a clock for CPUs and GPUs, the machine in words, its speed, and a table."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Mark:
    """A moment; on a GPU, a moment of the GPU's own time."""

    wall: float
    cpu: float
    event: Any = None

    def __lt__(self, other: Mark) -> bool:
        return self.wall < other.wall


@dataclass(frozen=True)
class Span:
    """What lies between two marks, in seconds."""

    start: Mark
    end: Mark

    @property
    def wall(self) -> float:
        """Seconds of the clock; on a GPU, of the GPU."""
        if self.start.event is None:
            return self.end.wall - self.start.wall
        self.end.event.synchronize()
        return self.start.event.elapsed_time(self.end.event) / 1000

    @property
    def cpu(self) -> float:
        """CPU seconds of this process, all its threads."""
        return self.end.cpu - self.start.cpu

    @property
    def busy(self) -> float:
        """CPU seconds, or the GPU's on a GPU: least affected by other programs."""
        return self.cpu if self.start.event is None else self.wall


class Clock:
    """Marks moments without making a GPU wait."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def mark(self) -> Mark:
        """This moment."""
        event = None
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
        return Mark(time.perf_counter(), time.process_time(), event)

    @contextmanager
    def span(self, into: list[Span]) -> Iterator[None]:
        """Append the time the block takes."""
        start = self.mark()
        yield
        into.append(Span(start, self.mark()))


def reachable_speed(device: torch.device, precision: str) -> float:
    """FLOP a second (of CPU time, or GPU time) of a large matrix product or convolution, whichever is faster here.

    Both, because a CPU's libraries differ: MKL's products reach less on AMD than oneDNN's convolutions do.
    """
    size, batch = (8192, 256) if device.type == "cuda" else (1024, 4)
    options: dict[str, Any] = {"device": device, "dtype": DTYPES[precision]}
    a = torch.randn(size, size, **options)
    x, kernel = torch.randn(batch, 256, 32, 32, **options), torch.randn(256, 256, 3, 3, **options)
    x, kernel = (value.to(memory_format=torch.channels_last) for value in (x, kernel))
    speeds = []
    for work, run in (
        (2 * size**3, lambda: a @ a),
        (2 * batch * 256 * 256 * 9 * 32 * 32, lambda: torch.nn.functional.conv2d(x, kernel, padding=1)),
    ):
        clock, spans = Clock(device), []
        for _ in range(6):
            with clock.span(spans):
                run()
        speeds.append(work / statistics.median(span.busy for span in spans[1:]))
    return max(speeds)


def describe_machine(device: torch.device) -> str:
    """Processor or GPU, threads, torch, load."""
    if device.type == "cuda":
        what = torch.cuda.get_device_name(device)
    else:
        what = f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads"
    load = f", load average {os.getloadavg()[0]:.1f} at the start" if hasattr(os, "getloadavg") else ""
    return f"{time.strftime('%Y-%m-%d')}, {what}, torch {torch.__version__}{load}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            names = [line.split(":")[1].strip() for line in handle if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table."""
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def digits(value: float) -> str:
    """Three digits, or all those before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
