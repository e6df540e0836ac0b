"""Kill an improvement at random moments and show that the result does not change.

    python scripts/kill_and_resume_improve.py --kills 20

Improves a small model once undisturbed; then the same command is started again and again, killed by SIGKILL at a random
moment each time (in the drawing of own samples, the fine-tuning, the search or the confirmation), and at last left to
finish. Models and scores must be equal, the weights bit for bit.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from nomadiff.methods.model import Model
from nomadiff.training.run_folder import load_tensors

SILENT = {"check": True, "stdout": subprocess.DEVNULL}


def nomadiff(*words: str) -> list[str]:
    """A command line."""
    return [sys.executable, "-m", "nomadiff", *words]


def improvement(base: Path, out: Path) -> list[str]:
    """The improvement: 4 shards of own samples, 3 snapshots, 10 scored candidates, 4 fresh sets."""
    return nomadiff(
        *("improve", str(base), "--out", str(out), "--reference", "digits:reference", "--detector", "digits"),
        *("--synthetic-count", "4000", "--budget", "3840", "--snapshots", "3", "--lr", "5e-4", "--keep-synthetic"),
        *("--count", "200", "--evaluations", "3", "--confirmations", "2", "--device", "cpu"),
    )


def stage(out: Path) -> str:
    """Where an interrupted improvement is."""
    scores = json.loads((out / "improve.json").read_text())["rows"] if (out / "improve.json").exists() else []
    if scores:
        return f"{len(scores)} scores"
    if snapshots := list((out / "auxiliary" / "snapshots").glob("*.safetensors")):
        return f"{len(snapshots)} snapshots"
    return f"{len(list((out / 'own').glob('*.npz')))} shards of own samples"


def result(out: Path) -> tuple:
    """Everything that must not depend on how often it was killed."""
    table = json.loads((out / "improve.json").read_text())
    rows = [{name: value for name, value in row.items() if name != "seconds_per_image"} for row in table["rows"]]
    return (out / "guidance.json").read_text(), rows, table["meta"]["best"], (out / "own.zip").read_bytes()


def main() -> None:
    """Run the experiment and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        base, whole, broken = (Path(folder) / name for name in ("base", "whole", "broken"))
        training = ["train", "--real", "digits:pool", "--method", "dm", "--preset", "digits", "--budget", "2560"]
        subprocess.run(nomadiff(*training, "--device", "cpu", "--out", str(base)), env=environment, **SILENT)
        started = time.monotonic()
        subprocess.run(improvement(base, whole), env=environment, **SILENT)
        duration = time.monotonic() - started
        print(f"undisturbed: {duration:.0f} s", flush=True)
        kills = 0
        while kills < options.kills and not (broken / "guidance.json").exists():
            process = subprocess.Popen(improvement(base, broken), env=environment, stdout=subprocess.DEVNULL)
            # wait until this start has done something new, or for a random while, then for a random moment more
            before, deadline = (stage(broken) if broken.exists() else ""), time.monotonic() + dice.uniform(1, duration)
            while (
                process.poll() is None
                and time.monotonic() < deadline
                and (not broken.exists() or stage(broken) == before)
            ):
                time.sleep(0.05)
            time.sleep(dice.uniform(0, 1))
            if process.poll() is not None:
                break
            process.kill()
            process.wait()
            kills += 1
            print(f"kill {kills:2d}: {stage(broken) if broken.exists() else 'nothing yet'}", flush=True)
        subprocess.run(improvement(base, broken), env=environment, **SILENT)
        one, other = (load_tensors(out / "auxiliary" / "model.safetensors")[0] for out in (whole, broken))
        weights = one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
        same = result(whole) == result(broken)
        models = [Model.load(out, device="cpu") for out in (whole, broken)]
        samples = torch.equal(models[0].sample(16), models[1].sample(16)) and models[0].sha256 == models[1].sha256
        print(
            f"{kills} kills; weights equal bit for bit: {weights}; own samples, scores and choice equal: {same}; "
            f"models and their samples equal: {samples}"
        )
        sys.exit(0 if weights and same and samples else 1)


if __name__ == "__main__":
    main()
