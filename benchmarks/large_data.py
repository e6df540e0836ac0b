"""A set larger than memory: what its decoding costs once, and what training from it costs then.

    python benchmarks/large_data.py                          1,300,000 images of 64 x 64 in WebDataset's tar shards
    python benchmarks/large_data.py --count 5000 --held 1000000 --batches 20     the same, small

The images are made up: 1,009 distinct JPEGs, over and over, image i with the label i mod 1000. In turn

* made:    two processes open the set, of which nothing is decoded yet; one decodes, the other waits;
* opened:  two new processes open it and draw batches, of which every pixel and label is compared with what it must be;
* cold:    the same after the system has forgotten the file's pages, as on the morning after;
* killed:  a process is killed amid its batches, and another goes on where it was: the digests of all must be equal;
* memory:  as many images as fit, held in memory, for comparison.

A row: seconds until the set is open, and until the first batch is there (after Python and torch are imported); images a
second of wall clock and of CPU time, for each process, the first batch left out; resident memory of both processes
together at the end, and the sum of their peaks.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import describe_machine, digits, print_table
from PIL import Image

from nomadiff.data import image_cache
from nomadiff.data.image_source import ImageSource
from nomadiff.data.interleave import ShuffledEpochs
from nomadiff.data.source_mix import SourceMix

BODIES, CLASSES, SHARD, SIDE = 1009, 1000, 10_000, 64


def bodies() -> list[bytes]:
    """Distinct JPEGs: smooth random pictures."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(BODIES):
        small = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=80)
        found.append(buffer.getvalue())
    return found


def write_shards(folder: Path, count: int) -> None:
    """``shard-000000.tar``, ...: ten thousand samples each, an image and its label."""
    folder.mkdir(parents=True, exist_ok=True)
    images = bodies()
    for start in range(0, count, SHARD):
        with open(folder / f"shard-{start // SHARD:06d}.tar", "wb") as archive:
            for index in range(start, min(start + SHARD, count)):
                for ending, content in (("cls", str(index % CLASSES).encode()), ("jpg", images[index % BODIES])):
                    archive.write(header(f"{index:08d}.{ending}", len(content)))
                    archive.write(content + bytes(-len(content) % 512))
            archive.write(bytes(1024))


def header(name: str, size: int) -> bytes:
    """A tar entry's header; tarfile takes five times as long to make one."""
    block = bytearray(512)
    block[: len(name)] = name.encode()
    block[100:157] = b"0000644\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"%011o\0" % 0 + b" " * 8 + b"0"
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def memory() -> tuple[int, int]:
    """Resident bytes of this process, now and at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS")), (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    )


def work(spec: str, rank: int, count: int, batch: int, batches: int, first: int, subset: str | None, held: int) -> None:
    """One process: open, draw every second batch, check each, print a line of JSON for every one and for the whole."""
    torch.set_num_threads(1)
    image_cache.LARGEST_HELD = held
    began = time.perf_counter()
    source = ImageSource.open(spec, name="real", synthetic=False, subset=subset)
    mix = SourceMix(source)
    opened = time.perf_counter() - began
    order = ShuffledEpochs(len(source), 0)
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(io.BytesIO(each)))) for each in bodies()])
    pixels = pixels.permute(0, 3, 1, 2)
    waited = wall = cpu = 0.0
    for number in range(first, first + batches):
        position = (2 * number + rank) * batch
        at, used = time.perf_counter(), time.process_time()
        found = mix.batch(position, batch, seed=1)
        spent = time.perf_counter() - at
        if number == first:
            waited = opened + spent
        else:
            wall, cpu = wall + spent, cpu + time.process_time() - used
        index = order.indices(np.arange(position, position + batch), 1)
        assert torch.equal(found.images, pixels[index % BODIES]), "other pixels than those of the files"
        assert found.labels is not None and np.array_equal(found.labels.numpy(), index % CLASSES), "other labels"
        digest = hashlib.sha256(found.images.numpy().tobytes() + found.labels.numpy().tobytes()).hexdigest()
        print(json.dumps({"batch": number, "digest": digest}), flush=True)
    now, peak = memory()
    drawn = (batches - 1) * batch
    print(
        json.dumps(
            {
                "count": len(source),
                "opened": opened,
                "first": waited,
                "speed": drawn / wall if drawn else 0.0,
                "cpu_speed": drawn / cpu if drawn else 0.0,
                "resident": now,
                "peak": peak,
                "cpu": sum(os.times()[:2]),
            }
        )
    )


def pair(spec: str, cache: Path, count: int, *, ranks: int = 2, **options: Any) -> list[dict[str, Any]]:
    """Run processes side by side; gives what each says of the whole."""
    words = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, __file__, "--spec", spec, "--count", str(count), *words]
    environment = {**os.environ, "NOMADIFF_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, "--rank", str(rank)], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(ranks)
    ]
    found = []
    for process in started:
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"a process failed ({process.returncode})")
        found.append(json.loads(out.splitlines()[-1]) | {"lines": out.splitlines()[:-1]})
    return found


def killed_and_continued(spec: str, cache: Path, count: int, batch: int, held: int) -> bool:
    """Whether batches drawn by a process that was killed, and by another that went on, are those of one."""
    (whole,) = pair(spec, cache, count, ranks=1, batch=batch, batches=40, held=held)
    command = [sys.executable, __file__, "--spec", spec, "--count", str(count), "--batch", str(batch)]
    command += ["--held", str(held)]
    environment = {**os.environ, "NOMADIFF_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--batches", "1000000"], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline().strip() for _ in range(17)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (rest,) = pair(spec, cache, count, ranks=1, batch=batch, batches=23, first=17, held=held)
    return lines + rest["lines"] == whole["lines"]


def forget(cache: Path) -> None:
    """Have the system drop the pages of the decoded images."""
    for file in cache.rglob("images.bin"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_300_000, help="images")
    parser.add_argument("--batch", type=int, default=256, help="images of a batch and process")
    parser.add_argument("--batches", type=int, default=200, help="of every process")
    parser.add_argument("--folder", type=Path, help="where to work (16 GB and 4 GB of shards for all images)")
    parser.add_argument("--in-memory", type=int, default=80_000, help="images held in memory for comparison")
    for name in ("--spec", "--subset"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--held", type=int, default=image_cache.LARGEST_HELD, help="bytes that count as small")
    for name in ("--rank", "--first"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.spec:
        subset, held = given.subset, given.held
        return work(given.spec, given.rank, given.count, given.batch, given.batches, given.first, subset, held)
    image_bytes = given.count * 3 * SIDE**2
    print(
        f"{describe_machine(torch.device('cpu'))}; {given.count:,} images, {image_bytes / 1e9:.1f} GB decoded",
        flush=True,
    )
    folder = Path(tempfile.mkdtemp(prefix="large-data-", dir=given.folder))
    shards, cache = folder / "shards", folder / "cache"
    try:
        began = time.perf_counter()
        write_shards(shards, given.count)
        size = sum(file.stat().st_size for file in shards.iterdir())
        print(f"shards written: {time.perf_counter() - began:,.0f} s, {size / 1e9:.1f} GB", flush=True)
        options = {"batch": given.batch, "batches": given.batches, "held": given.held}
        rows = []

        def row(name: str, found: list[dict[str, Any]]) -> None:
            slow, first = (max(each[key] for each in found) for key in ("opened", "first"))
            now, peak = (sum(each[key] for each in found) / 1e9 for key in ("resident", "peak"))
            speed, cpu = (min(each[key] for each in found) for key in ("speed", "cpu_speed"))
            memories = (f"{now:.2f} GB", f"{peak:.2f} GB")
            rows.append(
                [name, f"{found[0]['count']:,}", f"{slow:.2f}", f"{first:.2f}", digits(speed), digits(cpu), *memories]
            )
            print(f"{name}: {rows[-1]}, CPU seconds {[round(each['cpu']) for each in found]}", flush=True)

        if image_bytes <= given.held:
            raise SystemExit(f"so few images are held in memory: --count {given.held // 3 // SIDE**2 + 1} or more")
        row("made", pair(str(shards), cache, given.count, **options))
        row("opened", pair(str(shards), cache, given.count, **options))
        forget(cache)
        row("cold", pair(str(shards), cache, given.count, **options))
        equal = killed_and_continued(str(shards), cache, given.count, given.batch, given.held)
        few = f"first:{min(given.in_memory, given.count)}"
        row("memory", pair(str(shards), cache, given.count, **(options | {"subset": few, "held": 1 << 50})))
        columns = ["", "images", "open s", "first batch s", "images/s", "images/CPU-s", "resident", "peak"]
        print_table(columns, rows)
        print(f"batches after a kill: {'equal' if equal else 'NOT EQUAL'}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
