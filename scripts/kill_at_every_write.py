"""Kill every verb at each of its writes, go on with the same command, and compare with the unbroken run.

    python scripts/kill_at_every_write.py                 # all verbs
    python scripts/kill_at_every_write.py train sample    # some
    python scripts/kill_at_every_write.py loop --every 5  # each fifth write

A write is whatever Python does to the file system below the working folder: opening a file to write, making, renaming
or deleting a file or folder, changing a mode. The process gets SIGKILL just before it; the last bytes of what was being
written are cut off as well, as if the kill had come within the write. Then the command is run again, and the folder
must be that of the unbroken run: byte for byte, but for what tells the time. Nothing else may be left.

Commands run in forks of a process that has imported everything, which takes a second off each.
"""

import argparse
import csv
import io
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

TIMES = ("images_per_second", "seconds_per_image")
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink")


def verbs(given: Path) -> dict[str, str]:
    """The command of every verb; all are run in an empty folder."""
    model, samples = given / "model", given / "samples.zip"
    small = "--preset smallest --batch 32 --device cpu --out out"
    own = "--synthetic-count 64 --budget 64 --count 40 --device cpu --out out"
    draw = "--count 12 --steps 2 --batch-size 4 --device cpu --out"
    reference = "--reference digits:reference --detector digits"
    return {
        "train": "train --real digits:pool --real-subset first:64 --synthetic digits:close --budget 128 "
        f"--snapshot-every 64 --log-every 32 {small}",
        "improve": f"improve {model} {reference} --snapshots 2 --evaluations 1 --confirmations 2 --keep-synthetic "
        f"{own}",
        "shift": f"shift {model} --target 4=0.5 --weight 1 --weight 2 {own}",
        "sample": f"sample {model} {draw} out.zip",
        "sample-npz": f"sample {model} {draw} out.npz",
        "sample-folder": f"sample {model} {draw} out",
        "evaluate": f"evaluate {samples} {reference} --save-reference reference.npz --device cpu --out out.json",
        "synthesize": f"synthesize --from {model} {draw} out.zip",
        "synthesize-folder": f"synthesize --from {model} {draw} out",
        "encode": f"encode {samples} --resolution 16 --vae {given / 'vae'} --device cpu --out out.zip",
        "loop": f"loop --real digits:pool {reference} --algorithm standard --algorithm sims --generations 2 --seeds 0 "
        f"--count 40 --real-count 64 --synthetic-count 32 --budget 64 {small}",
    }


class Changes:
    """Counts what a process does to the files below a folder, and kills the process before the one of a number."""

    def __init__(self, folder: Path, kill_at: int | None) -> None:
        self.folder, self.kill_at, self.count = f"{folder}{os.sep}", kill_at, 0
        self.last: str | None = None

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """As :func:`sys.addaudithook` calls it."""
        if event == "open":
            path, _, flags = arguments
            if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in CHANGES:
            path = arguments[0]
        else:
            return
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        path = os.path.join(os.getcwd(), os.fsdecode(path))  # a folder is emptied by names relative to it
        if not path.startswith(self.folder):
            return
        self.count += 1
        if self.count == self.kill_at:
            self._tear()
            os.kill(os.getpid(), signal.SIGKILL)
        if event == "open":
            self.last = path

    def _tear(self) -> None:
        # a whole file that has its name was flushed before; the log is the one that grows instead of it
        if self.last and os.path.isfile(self.last) and (".nomadiff-" in self.last or self.last.endswith(".jsonl")):
            descriptor = os.open(self.last, os.O_WRONLY)
            os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - 5))
            os.close(descriptor)


def forked(work: Callable[[], int], workdir: Path) -> tuple[int, str]:
    """Run ``work`` in a child in the folder ``workdir``; its status (negative: the signal) and what it said."""
    said = workdir.with_name(f"{workdir.name}.said")
    child = os.fork()
    if child == 0:
        status = 99
        try:
            with open(said, "w") as handle:
                os.dup2(handle.fileno(), 1)
                os.dup2(handle.fileno(), 2)
            workdir.mkdir(exist_ok=True)
            os.chdir(workdir)
            os.environ["NOMADIFF_CACHE"] = str(workdir / "cache")
            status = work()
        finally:
            sys.stdout.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status, said.read_text(errors="replace")


def run(command: list[str], workdir: Path, kill_at: int | None = None) -> tuple[int, str, int]:
    """Run a command in ``workdir``; its status, what it said, and the number of its writes."""
    from nomadiff.cli import main

    counted = workdir.with_name(f"{workdir.name}.count")

    def work() -> int:
        changes = Changes(workdir, kill_at)
        sys.addaudithook(changes)
        sys.argv = ["nomadiff", *command]
        status = main(command)
        counted.write_text(str(changes.count))
        return status

    status, said = forked(work, workdir)
    return status, said, int(counted.read_text()) if status == 0 else 0


def contents(workdir: Path) -> dict[str, Any]:
    """Every file and folder below ``workdir``, without what tells the time."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name = str(path.relative_to(workdir))
        if path.name == ".lock":
            continue
        if path.is_dir():
            found[name] = None
        elif path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = [untimed(json.loads(line)) for line in lines]
        elif path.suffix == ".csv":
            found[name] = untimed(list(csv.DictReader(io.StringIO(path.read_text()))))
        elif path.suffix == ".html":
            found[name] = None  # shows times; is made from the tables
        else:
            found[name] = path.read_bytes()
    return found


def untimed(value: Any) -> Any:
    """A value read from JSON or CSV without the fields that tell the time, and without hashes of files that do."""
    if isinstance(value, dict):
        left = {key: untimed(one) for key, one in value.items() if key not in TIMES and not key.endswith("log.jsonl")}
        return left if "parent_sha256" not in left else {**left, "parent_sha256": None}
    return [untimed(one) for one in value] if isinstance(value, list) else value


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """What differs between two folders, in words."""
    told = [f"missing: {name}" for name in one.keys() - other.keys()]
    told += [f"left over: {name}" for name in other.keys() - one.keys()]
    told += [f"differs: {name}" for name in one.keys() & other.keys() if one[name] != other[name]]
    return "; ".join(sorted(told))


def prepare(given: Path) -> None:
    """A model, a set of its samples and a small autoencoder; made here, so that forks find everything imported."""
    from nomadiff.cli import main

    given.mkdir(exist_ok=True)
    os.chdir(given)
    os.environ["NOMADIFF_CACHE"] = str(given / "cache")
    for folder in ("model", "warm"):
        shutil.rmtree(folder, ignore_errors=True)
    Path("samples.zip").unlink(missing_ok=True)
    Path("samples.zip-grid.png").unlink(missing_ok=True)
    commands = (
        "train --real digits:pool --method dm --budget 1920 --preset smallest --batch 64 --device cpu --out model",
        "sample model --count 40 --device cpu --out samples.zip",
        "evaluate samples.zip --reference digits:reference --detector digits --device cpu",
        verbs(given)["improve"].replace("--out out", "--out warm"),
    )
    for command in commands:
        if main(shlex.split(command)):
            sys.exit(f"cannot prepare: {command}")
    try:
        import diffusers
    except ImportError:
        return
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = diffusers.AutoencoderKL(block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, **blocks)
    vae.save_pretrained("vae")


def check(name: str, command: list[str], folder: Path, every: int) -> bool:
    """Kill one verb at each write; says how it went."""
    started = time.monotonic()
    status, said, writes = run(command, folder / f"{name}-whole")
    if status:
        print(f"{name}: the unbroken run fails: {said}", flush=True)
        return False
    print(f"{name}: {writes} writes in {time.monotonic() - started:.1f} s", flush=True)
    whole, failed = contents(folder / f"{name}-whole"), 0
    points = range(1, writes + 1, every)
    for number in points:
        workdir = folder / f"{name}-{number}"
        status, said, _ = run(command, workdir, number)
        if status != -signal.SIGKILL:
            told = f"was not killed (status {status}): {said}"
        else:
            status, said, _ = run(command, workdir)
            told = f"status {status}: {said}" if status else difference(whole, contents(workdir))
        if told:
            failed += 1
            print(f"{name}, killed at write {number}: {told}", flush=True)
        else:
            for path in sorted(folder.glob(f"{name}-{number}*")):
                remove(path)
    spent = time.monotonic() - started
    print(f"{name}: killed at {len(points)} of {writes} writes, {failed} not as unbroken ({spent:.0f} s)", flush=True)
    return not failed


def remove(path: Path) -> None:
    """Delete a file or folder."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def main() -> None:
    """Run the experiment and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verbs", nargs="*", help=", ".join(verbs(Path())))
    parser.add_argument("--every", type=int, default=1, help="kill at each N-th write only")
    parser.add_argument("--keep", type=Path, help="work in this folder, and keep what differs")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    import nomadiff.interop.synthesis
    import nomadiff.workflows.improve
    import nomadiff.workflows.loop
    import nomadiff.workflows.shift  # noqa: F401 - imported once for all forks
    from nomadiff.networks.config import NetworkConfig
    from nomadiff.sampling.sampler import SamplerConfig
    from nomadiff.training.presets import PRESETS, Preset

    torch.set_num_threads(1)
    PRESETS["smallest"] = Preset(
        NetworkConfig("ddpmpp", 8, 1, 8, (1, 2), 1, (4,)),
        replace(PRESETS["digits"].training, warmup=64),
        SamplerConfig(steps=2),
        0.75,
        "this script's",
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        prepare(folder / "given")
        commands = verbs(folder / "given")
        good = [check(name, shlex.split(commands[name]), folder, options.every) for name in options.verbs or commands]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
