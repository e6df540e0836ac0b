"""Drain a study of thirteen jobs by three workers, kill them thirty times, and compare with one undisturbed worker.

    python scripts/kill_workers.py [--kills 30] [--seed 0]

The study trains, samples and scores small models of digits. Its tables, samples and weights must be those of the
undisturbed worker, byte for byte.
"""

import argparse
import os
import random
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMPARE = (
    "compare --real digits:pool --synthetic close=digits:close --synthetic style=digits:style --real-subset first:100 "
    "--real-fraction 0.3 --seeds 0 1 --method dm sda casd sims --reference digits:reference --detector digits "
    "--preset digits --budget 4k --batch 64 --warmup 64 --snapshot-every 1k --count 60 --device cpu --workers 0"
)


def nomadiff(*words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "nomadiff", *words],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        one, many = Path(temporary) / "one", Path(temporary) / "many"
        for study in (one, many):
            assert nomadiff(*shlex.split(COMPARE), "--out", str(study)).wait() == 0
        began = time.time()
        assert nomadiff("work", str(one), "--jobs", "1").wait() == 0
        alone = time.time() - began
        work = ("work", str(many), "--jobs", "1")
        workers = [nomadiff(*work) for _ in range(3)]
        for _ in range(options.kills):
            time.sleep(draw.uniform(0, 2.5 * alone / options.kills))
            index = draw.randrange(3)
            workers[index].kill()
            workers[index].wait()
            workers[index] = nomadiff(*work)
        assert [worker.wait() for worker in workers] == [0, 0, 0]
        names = [path.relative_to(one) for path in one.rglob("*") if path.suffix in (".safetensors", ".zip", ".csv")]
        different = [str(name) for name in names if (one / name).read_bytes() != (many / name).read_bytes()]
        left = [str(path) for path in many.rglob("*") if "claim-" in path.name or path.name.endswith((".tmp", ".part"))]
        jobs = len(list((many / "jobs").glob("*/done.json")))
        print(f"{jobs} jobs, {options.kills} kills: {len(names)} files, different: {different}, left behind: {left}")
        return 1 if different or left else 0


if __name__ == "__main__":
    sys.exit(main())
