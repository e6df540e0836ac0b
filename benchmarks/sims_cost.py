"""What SIMS keeps of its gain where it costs less: an interval, a shared encoder, both, on digits.

    python benchmarks/sims_cost.py OUT --seeds 10 11 12 13

For every seed the short-trained base of `nomadiff reproduce sims-figure-4` is improved at the weight that was fixed
there, once with a copy that is trained whole and once with one whose decoder's end is trained. All ways of a seed are
scored on the same fresh noise against held-out digits. OUT keeps every score: the same command continues. Three core
minutes a seed.

x base: operations of an image over the base's, counted; CPU: CPU seconds of drawing over the base's, by turns in this
process. Means over seeds; of the distance also the gain of every seed, and its mean with the 95 % interval (Student's
t).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from measuring import describe_machine, digits, print_table

from nomadiff.improve.confirmation import paired_gain
from nomadiff.models.model import Model
from nomadiff.reproduce.sims_settings import SHORT, improving
from nomadiff.reproduce.trials import Trial

INTERVAL = (0.05, 5.0)
WAYS = {
    "two passes": ("all", None),
    "interval": ("all", INTERVAL),
    "shared encoder": ("decoder", None),
    "interval and shared encoder": ("decoder", INTERVAL),
}


def candidates(trial: Trial) -> dict[str, Any]:
    """A function that makes the model of every way."""
    made: dict[str, Any] = {"base": lambda: trial.base}
    for way, (part, interval) in WAYS.items():

        def make(part: str = part, interval: Any = interval) -> Model:
            found = trial.improved(part, train_part=part).candidates
            return found.make(found.budgets[-1], trial.subject.weight, interval=interval)

        made[way] = make
    return made


def seconds(made: dict[str, Any], count: int, rounds: int = 5) -> dict[str, float]:
    """CPU seconds of an image by every way over the base's: the median of rounds in which they take turns."""
    found: dict[str, list[float]] = {way: [] for way in made}
    models = {way: make() for way, make in made.items()}
    for _ in range(rounds + 1):
        for way, model in models.items():
            start = time.process_time()
            model.sample(count, batch_size=count)
            found[way].append(time.process_time() - start)
    return {way: median(one / base for one, base in zip(times[1:], found["base"][1:])) for way, times in found.items()}


def main() -> None:
    """Score what is not scored yet, and print the table of all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13])
    parser.add_argument("--toy", action="store_true", help="a handful of images, to rehearse")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{describe_machine(torch.device('cpu'))}; digits, weight {SHORT.weight:g}, interval {INTERVAL}", flush=True)
    subject = SHORT
    if options.toy:
        subject = improving(replace(SHORT, count=64, base_budget=256), synthetic_count=64, budget=256)
    rows: dict[str, list[dict[str, Any]]] = {way: [] for way in ("base", *WAYS)}
    for seed in options.seeds:
        trial = Trial(subject, seed, options.out / f"seed-{seed}", device="cpu")
        score = trial.scorer()
        for way, make in candidates(trial).items():
            rows[way].append(score(partial(make), way=way, seed=seed))
            print(f"seed {seed}, {way}: {rows[way][-1]['fd_digits']:.2f}", flush=True)
    times = seconds(candidates(trial), 16 if options.toy else 64)
    table = []
    base = rows["base"]
    for way, found in rows.items():
        distances = [row["fd_digits"] for row in found]
        gains = [1 - one / other["fd_digits"] for one, other in zip(distances, base)]
        gain = paired_gain([row["fd_digits"] for row in base], distances) if way != "base" and len(base) > 1 else None
        table.append(
            [
                *(way, f"{found[0]['nfe']:.1f}", f"{found[0]['gflop'] / base[0]['gflop']:.2f}", f"{times[way]:.2f}"),
                digits(fmean(distances)),
                "" if way == "base" else ", ".join(f"{each:+.0%}" for each in gains),
                "" if gain is None else f"{gain.mean:+.1%} [{gain.low:+.1%} to {gain.high:+.1%}]",
                *(f"{fmean(row[name] for row in found):.3f}" for name in ("precision", "recall", "coverage")),
            ]
        )
    columns = ["", "NFE", "x base, operations", "x base, CPU", "fd_digits", "gain, each seed", "mean gain"]
    print_table([*columns, "precision", "recall", "coverage"], table)


if __name__ == "__main__":
    main()
