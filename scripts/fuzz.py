"""Fuzz what nomadiff reads, guided by coverage: a clean read or a ``NomadiffError`` of one line, else a find.

    python3.11 -m venv fuzz-venv && fuzz-venv/bin/pip install atheris==3.0.0 .
    fuzz-venv/bin/python scripts/fuzz.py configs --minutes 2

atheris has wheels for some Pythons only and is no dependency of the project. The seeds are those of
``tests/hostile_corpus.py``; each find is printed once, with the file that makes it; 30 seconds or 1 GB more than at the
start end the fuzzing. Exits with 1 if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ.setdefault("OMP_NUM_THREADS", "1")

TARGETS = ("pickles", "statistics", "safetensors", "zips", "npz", "configs")
# what a configuration is when it lies in a file of this name; the first byte of an input chooses
CONFIGS = (
    *("config.json", "guidance.json", "dataset.json", "manifest.json", "latents.json", "sources.json", "log.jsonl"),
    "validation.jsonl",
)
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 10**9, 1 << 62, 1 << 64, 10**400, 1e308, float("nan"), float("inf"), 0.5, "", "x"),
    *("\x1b[2J", "\ud800", "a\nb", "a\0b", "..", "/dev/zero", [], {}, [1], [[1]], ["x"], {"": None}, [0] * 1000),
)


def odd_value(value: Any, chance: random.Random) -> Any:
    """A JSON value with one part of it, at any depth, made odd or taken away."""
    if isinstance(value, (dict, list)) and value and chance.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        changed = dict(value) if isinstance(value, dict) else list(value)
        if chance.random() < 0.05:
            del changed[key]
        else:
            changed[key] = odd_value(value[key], chance)
        return changed
    return chance.choice(ODD)


def _header_end(weights: bytes) -> int:
    return 8 + int.from_bytes(weights[:8], "little")


def reader(target: str, folder: Path) -> Callable[[bytes], object]:
    """What is called with every input."""
    from nomadiff.data.image_source import ImageSource
    from nomadiff.interop.torch_files import read_torch_file
    from nomadiff.metrics.statistics_files import read_statistics
    from nomadiff.models.guided_model import GuidanceConfig
    from nomadiff.models.model import Model
    from nomadiff.monitoring.history import History
    from nomadiff.monitoring.words import findings
    from nomadiff.training.run_folder import RunFolder
    from tests import hostile_corpus as corpus

    corpus.small_model(folder / "run")
    weights = (folder / "run" / "model.safetensors").read_bytes()
    tensors = weights[_header_end(weights) :]
    corpus._images(folder / "images", 2)

    def write(name: str, data: bytes) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    def images(path: Path) -> object:
        return ImageSource.open(str(path), name="images", synthetic=False, resolution=8)

    def npz(data: bytes) -> object:
        path = write("x.npz", data)
        try:
            read_statistics(path)
        finally:
            images(path)

    def configs(data: bytes) -> object:
        name, data = CONFIGS[data[0] % len(CONFIGS)] if data else CONFIGS[0], data[1:]
        if name == "guidance.json":
            return GuidanceConfig.read(write(name, data).parent)
        if name == "validation.jsonl":
            return findings(History(write(f"run/{name}", data).parent))
        if name in ("config.json", "sources.json", "log.jsonl"):
            write(f"run/{name}", data)
            run = RunFolder(folder / "run")
            if name == "config.json":
                return run.config().network.validate()
            return run.read_log() if name == "log.jsonl" else run.read_sources()
        path = write(f"images/{name}", data)
        try:
            return images(path.parent)
        finally:
            path.unlink()

    return {
        "pickles": lambda data: read_torch_file(data, "x"),
        "statistics": lambda data: read_statistics(write("x.pkl", data)),
        "safetensors": lambda data: Model.load(
            write("x.safetensors", len(data).to_bytes(8, "little") + data + tensors), device="cpu"
        ),
        "zips": lambda data: images(write("x.zip", data)),
        "npz": npz,
        "configs": configs,
    }[target]


def seeds(target: str, folder: Path) -> dict[str, bytes]:
    """Inputs to begin with, out of the hostile corpus and its good files."""
    from tests import hostile_corpus as corpus

    cases = [case for case in corpus.make(folder) if case.path.is_file() and case.path.stat().st_size < 1 << 16]
    files = [case.path for case in cases if not case.path.is_symlink()]
    if target == "configs":
        files = [path for name in CONFIGS for path in folder.rglob(name) if path.is_file() and not path.is_symlink()]
        return {
            f"{number}": bytes([CONFIGS.index(path.name)]) + path.read_bytes()
            for number, path in enumerate(files)
            if path.stat().st_size < 1 << 16
        }
    if target == "safetensors":
        files += [folder / "good" / "run" / "model.safetensors"]
    kept = {
        "pickles": lambda path: path.parent.name in ("weights", "statistics") and path.suffix != ".npz",
        "statistics": lambda path: path.parent.name == "statistics" and path.suffix == ".pkl",
        "safetensors": lambda path: path.suffix == ".safetensors",
        "zips": lambda path: path.suffix == ".zip",
        "npz": lambda path: path.suffix == ".npz",
    }[target]
    found = {f"{path.parent.name}-{path.name}": path.read_bytes() for path in files if kept(path)}
    if target == "safetensors":
        found = {name: content[8 : _header_end(content)] for name, content in found.items()}
    return found


def mutated_json(data: bytes, longest: int, seed: int) -> bytes:
    """A part of the JSON changed, or a few bytes; nomadiff's JSON within a safetensors header counts as a part."""
    chance = random.Random(seed)
    head = data[:1] if data[:1] < b" " else b""  # which configuration it is
    try:
        value = json.loads(data[len(head) :])
        inner = value["__metadata__"]["nomadiff"] if "__metadata__" in value and chance.random() < 0.7 else None
        if inner is not None:
            value = {**value, "__metadata__": {"nomadiff": json.dumps(odd_value(json.loads(inner), chance))}}
        elif chance.random() < 0.9:
            value = odd_value(value, chance)
        else:
            raise ValueError("bytes this time")
        data = head + json.dumps(value).encode()
    except (ValueError, TypeError, LookupError, RecursionError):
        place = chance.randrange(len(data) + 1)
        data = data[:place] + chance.randbytes(chance.randrange(4)) + data[place + chance.randrange(4) :]
    return data[:longest]


def fuzz(target: str, minutes: float, scratch: Path) -> None:
    """Fuzz in this process, which ends with it; finds are files in ``scratch / "finds"``."""
    import atheris
    import torch

    from nomadiff.errors import NomadiffError

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with atheris.instrument_imports(include=["nomadiff"]):
        read = reader(target, scratch)
    for name, content in seeds(target, scratch / "made").items():
        (scratch / "corpus" / name).write_bytes(content)
    known: set[tuple[str, str]] = set()

    def one(data: bytes) -> None:
        try:
            read(data)
        except Exception as error:
            told = str(error)
            if isinstance(error, NomadiffError) and len(told.splitlines()) == 1 and len(told) < 2000:
                return
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "nomadiff" in frame.filename]
            find = type(error).__name__, f"{frames[-1].filename}:{frames[-1].lineno}"
            if find not in known:
                known.add(find)
                (scratch / "finds" / f"{len(known)}").write_bytes(data)
                print(f"FIND {len(known)}: {' at '.join(find)}: {told[:200]!r}", flush=True)

    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    words = [f"-max_total_time={60 * minutes:.0f}", "-timeout=30", f"-rss_limit_mb={resident + 1024}"]
    words += ["-max_len=65536", "-print_final_stats=1", f"-artifact_prefix={scratch}/finds/", f"{scratch}/corpus"]
    mutator = {"custom_mutator": mutated_json} if target in ("configs", "safetensors") else {}
    atheris.Setup([sys.argv[0], *words], one, **mutator)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=Path("fuzz-finds"), help="folder for the inputs that are finds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("corpus", "finds"):
            (Path(scratch) / name).mkdir()
        if (child := os.fork()) == 0:  # libFuzzer ends its process
            fuzz(options.target, options.minutes, Path(scratch))
        status = os.waitpid(child, 0)[1]
        finds = list((Path(scratch) / "finds").iterdir())
        for find in finds:
            options.out.mkdir(parents=True, exist_ok=True)
            shutil.copy(find, options.out / f"{options.target}-{find.name}")
    print(f"{options.target}: {len(finds)} finds{f' in {options.out}' if finds else ''}, status {status}")
    return 1 if finds or status else 0


if __name__ == "__main__":
    sys.exit(main())
