"""Damaged and random files: refused in one line, or read; nothing else ever happens.

``python tests/interop/test_pickle_fuzz.py --minutes 10`` runs it for longer, each round with another seed.
"""

from __future__ import annotations

import argparse
import io
import pickle
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from nomadiff.errors import DataError, NomadiffError
from nomadiff.interop.importing import import_model
from nomadiff.interop.torch_files import Module, read_torch_file
from nomadiff.safe_pickle import _INSTRUCTIONS

OPCODES = bytes(_INSTRUCTIONS)


def seeds() -> list[bytes]:
    """Good files to damage: plain values, tensors in each container."""
    tensors = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2, dtype=torch.float16), "n": [1, (2, "x")]}
    files = [pickle.dumps(tensors, protocol) for protocol in (2, 4, 5)]
    for zipped in (True, False):
        handle = io.BytesIO()
        torch.save(tensors, handle, _use_new_zipfile_serialization=zipped)
        files.append(handle.getvalue())
    return files


def damaged(data: bytes, random: random.Random) -> bytes:
    """``data`` with a few bytes changed, cut, doubled or moved; or something random that begins like it."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        if not changed:
            break
        position, kind = random.randrange(len(changed)), random.randrange(7)
        if kind == 0:
            changed[position] = random.randrange(256)
        elif kind == 1:
            changed[position] = random.choice(OPCODES)
        elif kind == 2:
            changed[position] ^= 1 << random.randrange(8)
        elif kind == 3:
            del changed[position : position + random.choice((1, 2, 8, 1000))]
        elif kind == 4:
            changed[position:position] = changed[position : position + random.choice((1, 8, 100))]
        elif kind == 5:
            changed[position : position + 8] = random.choice((b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f"))
        else:
            changed[position:] = bytes(random.choice(OPCODES) for _ in range(random.randrange(200)))
    return bytes(changed)


def fuzz(path: Path, files: list[bytes], seed: int, rounds: int) -> Counter[str]:
    """Read ``rounds`` damaged files; anything but an answer or a refusal is raised."""
    chance = random.Random(seed)
    outcomes: Counter[str] = Counter()
    for _ in range(rounds):
        if chance.random() < 0.1:
            content = b"\x80" + bytes([chance.choice((2, 3, 4, 5))]) + chance.randbytes(chance.randrange(300))
        else:
            content = damaged(chance.choice(files), chance)
        path.write_bytes(content)
        try:
            found = read_torch_file(path)
            for value in [found, *(found.values() if type(found) is dict else [])]:
                if type(value) is Module:
                    value.state_dict()
            outcomes["read"] += 1
        except DataError as error:
            assert str(error).isprintable(), repr(content)
            outcomes[str(error).removeprefix(f"{path}: ").split(" ")[0].rstrip(":")] += 1
        except BaseException:
            print(f"seed {seed}: {content!r}", file=sys.stderr)
            raise
    return outcomes


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_are_read_or_refused(seed: int, tmp_path: Path, watch: Any) -> None:
    files = seeds()
    read_torch_file_once(files, tmp_path)
    watch.on = True
    outcomes = fuzz(tmp_path / "f.pkl", files, seed, 500)
    watch.on = False
    # the fuzzer itself writes its file; nothing else may have happened
    assert [event for event in watch.events if "f.pkl" not in event] == []
    assert outcomes["read"] > 20 and outcomes["refused"] > 20 and outcomes["damaged"] > 20


def test_damaged_snapshots_become_models_or_nothing(
    lookalikes: Any, tiny_network: Any, tmp_path: Path, canary: Path
) -> None:
    network, arguments = tiny_network("edm2", 2)
    snapshot = lookalikes.pickle(lookalikes.edm2(network, **arguments))
    start = snapshot.index(b"img_resolution")  # the arguments, and what surrounds them
    chance = random.Random(0)
    made = 0
    for number in range(60):
        window = slice(max(start - 500, 0), start + 500) if number % 2 else slice(0, len(snapshot))
        damage = damaged(snapshot[window], chance)
        (tmp_path / "f.pkl").write_bytes(snapshot[: window.start] + damage + snapshot[window.stop :])
        try:
            import_model(tmp_path / "f.pkl", tmp_path / f"model{number}")
            made += 1
        except NomadiffError as error:
            assert str(error).isprintable()
            assert not (tmp_path / f"model{number}").exists()
    assert 0 < made < 60 and not canary.exists()


def read_torch_file_once(files: list[bytes], folder: Path) -> None:
    """So that what Python imports on first use is imported."""
    for content in files:
        (folder / "f.pkl").write_bytes(content)
        read_torch_file(folder / "f.pkl")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--file", type=Path, nargs="*", default=[], help="more good files to damage")
    options = parser.parse_args()
    torch.set_num_threads(1)
    total: Counter[str] = Counter()
    started, seed = time.monotonic(), 1000
    good = seeds() + [file.read_bytes() for file in options.file]
    scratch = Path(f"/dev/shm/nomadiff-fuzz-{seed}.pkl") if Path("/dev/shm").is_dir() else Path("nomadiff-fuzz.pkl")
    while time.monotonic() - started < options.minutes * 60:
        total += fuzz(scratch, good, seed, 200)
        seed += 1
    scratch.unlink()
    print(f"{sum(total.values()):,} files, seeds 1000..{seed - 1}: {dict(total)}")
