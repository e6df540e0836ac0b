"""Speed of two-dimensional loops, and a grid killed at random.

    python benchmarks/loops.py speed        CPU seconds of one SIMS generation: a plain PyTorch loop against ours, and
                                            against the speed of this processor's matrix products
    python benchmarks/loops.py scaling      wall seconds of one grid with 1 and 2 processes
    python benchmarks/loops.py kill 20      kill a grid 20 times, continue it, compare its tables byte by byte
    python benchmarks/loops.py gpu 1000     seconds of a generation of 1000 runs together on the GPU

Run it on an idle machine; `speed` counts CPU time of one thread, and both sides run in the same process.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nomadiff.loops.algorithm import LoopData
from nomadiff.plane.algorithms import plane_algorithm
from nomadiff.plane.grid import Cell, Grid
from nomadiff.plane.learner import PRESETS, Learner, LearnerConfig, learner_config
from nomadiff.plane.network import LAYERS
from nomadiff.plane.schedule import CLEAN, NOISE, STEP_NOISE, STEP_PREDICTION, STEP_SCALE, STEPS
from nomadiff.plane.training_plan import TrainingPlan
from nomadiff.plane.worlds import world


class PlainNetwork(nn.Module):
    """The residual network, written directly."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 64)
        self.linear = nn.ModuleList(nn.Linear(65 if layer % 2 == 0 else 64, 64) for layer in range(LAYERS))
        self.norm = nn.ModuleList(nn.LayerNorm(64) for _ in range(LAYERS))
        self.last = nn.Linear(64, 2)

    def forward(self, points: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        state = self.first(torch.hstack([points, times]))
        for block in (0, 2):
            inner = self.norm[block](self.linear[block](torch.hstack([state, times]))).relu()
            state = state + self.norm[block + 1](self.linear[block + 1](inner)).relu()
        return self.last(state)


def plain_training(network: PlainNetwork, points: torch.Tensor, plan: TrainingPlan) -> None:
    """Adam and mean squared error, one optimiser step after the other."""
    optimiser = torch.optim.Adam(network.parameters(), lr=plan.rate)
    clean, spread = torch.from_numpy(CLEAN), torch.from_numpy(NOISE)
    for _ in range(plan.epochs):
        for batch in points[torch.randperm(len(points))].split(plan.batch):
            times, noise = torch.randint(0, STEPS, (len(batch), 1)), torch.randn_like(batch)
            loss = nn.functional.mse_loss(network(clean[times] * batch + spread[times] * noise, times.float()), noise)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


@torch.no_grad()
def plain_sampling(base: PlainNetwork, auxiliary: PlainNetwork | None, weight: float, count: int) -> torch.Tensor:
    """DDPM's ancestral sampler with the SIMS score."""
    points = torch.randn(count, 2)
    for time_step in range(STEPS - 1, 0, -1):
        times = torch.full((count, 1), float(time_step))
        noise = base(points, times)
        if auxiliary is not None:
            noise = (1 + weight) * noise - weight * auxiliary(points, times)
        points = float(STEP_SCALE[time_step]) * (points - float(STEP_PREDICTION[time_step]) * noise)
        points = points + float(STEP_NOISE[time_step]) * torch.randn_like(points)
    return points


def plain_generation(points: np.ndarray, config: LearnerConfig) -> torch.Tensor:
    """One SIMS generation, w = 1: base, own samples, auxiliary, 2000 samples to measure and 125 for the successor."""
    data = torch.from_numpy(points)
    base = PlainNetwork()
    plain_training(base, data, config.base)
    own = plain_sampling(base, None, 0.0, config.synthetic_count)
    auxiliary = PlainNetwork()
    auxiliary.load_state_dict(base.state_dict())
    plain_training(auxiliary, own, config.auxiliary)
    return plain_sampling(base, auxiliary, 1.0, 2000 + 125)


def speed() -> None:
    """The table of the issue: CPU seconds of a whole SIMS generation, one run, one thread."""
    torch.set_num_threads(1)
    points = world("gaussian").sample(1125, seed=1)
    # three products of 64 x 64 a network evaluation; the input layer and the first hidden one are multiplied beforehand
    evaluations = (STEPS - 1) * (2000 + 2 * (2000 + 125))
    products = 3 * 2 * 64**2 * (3 * (100 * 1125 + 50 * 2000) + evaluations) / 1e9
    print(f"A generation's matrix products are {products:.1f} GFLOP; BLAS does {blas():.0f} GFLOP/s here.\n")
    print("| batch | plain PyTorch, CPU-s | ours, CPU-s | faster | GFLOP/s, all counted |")
    print("|---|---|---|---|---|")
    for batch in (2048, 128):
        plans = {"base": TrainingPlan(100, batch, 2e-3), "auxiliary": TrainingPlan(50, batch, 3e-4)}
        config = LearnerConfig("speed", "", PRESETS["P2"].network, **plans)
        algorithm = plane_algorithm("sims", Learner(config), 1.0)

        def ours(algorithm=algorithm) -> None:
            model = algorithm.fit(LoopData(points[None]), seed=(1,))
            model.sample(2000, (2,))
            model.sample(125, (3,))

        ours()  # compiles
        fast = min(cpu_seconds(ours) for _ in range(5))
        slow = min(cpu_seconds(lambda config=config: plain_generation(points, config)) for _ in range(2))
        print(f"| {batch} | {slow:.2f} | {fast:.3f} | {slow / fast:.1f}x | {products / fast:.0f} |", flush=True)


def blas() -> float:
    """GFLOP/s of PyTorch's product of two large float32 matrices, one thread: what the processor can do."""
    left, right = torch.randn(2, 1024, 1024)
    left @ right
    return 2 * 1024**3 / 1e9 / min(cpu_seconds(lambda: left @ right) for _ in range(20))


def cpu_seconds(action) -> float:
    """CPU seconds of this process, all threads."""
    before = time.process_time()
    action()
    return time.process_time() - before


def scaling(runs: int) -> None:
    """Wall seconds of one grid with 1 and 2 processes; the start of the workers (imports) is counted."""
    seconds = {}
    for processes in (1, 2):
        grid = Grid((Cell("P2", "sims", 1.0, n_s=125),), runs=runs, generations=6, seed=1)
        with tempfile.TemporaryDirectory() as folder:
            before = time.perf_counter()
            grid.run(folder, processes=processes)
            seconds[processes] = time.perf_counter() - before
        print(f"{processes} process(es): {runs} runs x 6 generations in {seconds[processes]:.1f} s", flush=True)
    print(f"1 -> 2 processes: {seconds[1] / seconds[2]:.2f}x")


_GRID = """
import sys
from nomadiff.plane.grid import Cell, Grid
if __name__ == "__main__":
    cells = tuple(Cell("P2", "sims", weight, n_s=125) for weight in (0.0, 1.0))
    Grid(cells, runs=60, generations=2, seed=7).run(sys.argv[1], processes=int(sys.argv[2]))
"""


def kill(times: int) -> None:
    """Kill a grid with SIGKILL at random moments, continue it every time, compare with an uninterrupted one."""
    random.seed(1)
    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder)
        (workdir / "grid.py").write_text(_GRID)

        def start(name: str, processes: int) -> subprocess.Popen:
            return subprocess.Popen([sys.executable, workdir / "grid.py", workdir / name, str(processes)])

        start("whole", 1).wait()
        journal = workdir / "killed" / "generations.journal.jsonl"
        killed = 0
        while killed < times:
            process = start("killed", random.choice([1, 2]))
            lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
            # wait until it does its work, then a little; a grid of 120 units outlasts 20 such kills
            while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") <= lines):
                time.sleep(0.02)
            time.sleep(random.random())
            if process.poll() is not None:
                sys.exit(f"the grid was finished after {killed} kills: make it larger")
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
            print(f"kill {killed}: {journal.read_bytes().count(bytes([10])) - 1} of 120 loops kept", flush=True)
        start("killed", 2).wait()
        for name in ("generations.json", "generations.csv"):
            same = (workdir / "whole" / name).read_bytes() == (workdir / "killed" / name).read_bytes()
            print(f"{name}: {'the same, byte for byte' if same else 'DIFFERS'}")


def gpu(runs: int) -> None:
    """Seconds of one SIMS generation of many runs together, noise drawn on the host included."""
    gaussian, seeds = world("gaussian"), tuple(range(runs))
    data = LoopData(np.stack([gaussian.sample(1125, seed) for seed in seeds]))
    algorithm = plane_algorithm("sims", Learner(learner_config("P2"), "cuda"), 1.0)
    for attempt in ("first", "second"):
        before = time.perf_counter()
        model = algorithm.fit(data, seed=seeds)
        model.sample(2125, seeds)
        print(f"{attempt} generation of {runs} runs: {time.perf_counter() - before:.1f} s", flush=True)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "scaling", "kill", "gpu"])
    parser.add_argument("count", type=int, nargs="?", help="runs of scaling (40) and gpu (1000), number of kills (20)")
    arguments = parser.parse_args()
    if arguments.what == "speed":
        speed()
    else:
        action, default = {"scaling": (scaling, 40), "kill": (kill, 20), "gpu": (gpu, 1000)}[arguments.what]
        action(arguments.count or default)


if __name__ == "__main__":
    main()
