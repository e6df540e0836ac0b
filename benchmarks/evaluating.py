"""What an evaluation costs, and what `--dry-run` says it will: samples against a reference in `pixels`, with intervals.

    python benchmarks/evaluating.py cifar10-train.zip cifar10-test.zip
    python benchmarks/evaluating.py cifar10-train.zip cifar10-test.zip --samples 5000 --reference 2000

The first file stands for the samples, the second for the reference: real images of 32x32x3 both. CPU-s counts the CPU
time of all threads.
"""

from __future__ import annotations

import argparse
import time


def main() -> None:
    """Parse the command, evaluate, print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("made")
    parser.add_argument("real")
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--reference", type=int, default=400)
    options = parser.parse_args()
    from nomadiff.data.image_source import ImageSource
    from nomadiff.workflows.evaluate import evaluate_sets

    made = ImageSource.open(options.made, name="made", synthetic=True, subset=f"first:{options.samples}")
    real = ImageSource.open(options.real, name="real", synthetic=False, subset=f"first:{options.reference}")
    said = evaluate_sets(made, real, detector="pixels", device="cpu", only_check=True).table.meta["cost"]
    start = time.process_time()
    rows = {row["metric"]: row for row in evaluate_sets(made, real, detector="pixels", device="cpu").table.rows}
    spent = time.process_time() - start
    distance = rows["fd_pixels"]
    print(f"{options.samples:,} against {options.reference:,}: {spent:.2f} CPU-s; --dry-run says {said}")
    ends = f"[{distance['low']:.4g}, {distance['high']:.4g}]"
    print(f"fd_pixels {distance['value']:.4g} {ends}, FDr {rows['fdr']['value']:.3f}")


if __name__ == "__main__":
    main()
