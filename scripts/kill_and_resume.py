"""Kill a training run at random moments and show that the result does not change.

    python scripts/kill_and_resume.py --kills 30

Trains once undisturbed; then the same command is started again and again, killed by SIGKILL at a random moment each
time, and at last left to finish. The weights of both must be equal bit for bit.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from nomadiff.training.run_folder import RunFolder, load_tensors


def command(out: Path, budget: int) -> list[str]:
    """The training run: CASD on digits with a snapshot every 640 images."""
    return [
        *(sys.executable, "-m", "nomadiff", "train", "--real", "digits:pool", "--real-subset", "first:100"),
        *("--synthetic", "digits:close", "--method", "casd", "--preset", "digits", "--budget", str(budget)),
        *("--snapshot-every", "640", "--log-every", "640", "--device", "cpu", "--out", str(out)),
    ]


def main() -> None:
    """Run the experiment and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--budget", type=int, default=64_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = RunFolder(Path(folder) / "whole"), RunFolder(Path(folder) / "broken")
        subprocess.run(command(whole.path, options.budget), check=True, env=environment, stdout=subprocess.DEVNULL)
        kills = 0
        while kills < options.kills:
            process = subprocess.Popen(command(broken.path, options.budget), env=environment, stdout=subprocess.DEVNULL)
            before = broken.snapshots()
            # most of a start is imports: wait for the first new snapshot, or less, then a random moment more
            deadline = time.monotonic() + dice.uniform(0.5, 30)
            while process.poll() is None and time.monotonic() < deadline and broken.snapshots() == before:
                time.sleep(0.02)
            time.sleep(dice.uniform(0, 0.5))
            if process.poll() is not None:
                print(f"finished after {kills} kills: use a larger --budget for more")
                break
            process.kill()
            process.wait()
            kills += 1
            seen = broken.snapshots()
            print(f"kill {kills:2d}: last snapshot at {seen[-1] if seen else 0:,} images", flush=True)
        subprocess.run(command(broken.path, options.budget), check=True, env=environment, stdout=subprocess.DEVNULL)
        one, other = load_tensors(whole.model_path)[0], load_tensors(broken.model_path)[0]
        equal = one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
        same_log = [r["images_seen"] for r in whole.read_log()] == [r["images_seen"] for r in broken.read_log()]
        print(f"{kills} kills; weights equal bit for bit: {equal}; log has the same lines: {same_log}")
        sys.exit(0 if equal and same_log else 1)


if __name__ == "__main__":
    main()
