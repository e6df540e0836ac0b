"""Do the audit's shares hold? Folders of known shares of real photographs and of Stable Diffusion 1.4's images.

Trusted images, the source's images and the folder are drawn anew in every trial, from CIFAKE (32x32, both sides through
the same JPEG). "copied": the folder's synthetic images are the very images that are given as the source's.

    python benchmarks/audit.py shared/data [--trials 60] [--detector wavelets]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from measuring import describe_machine, print_table

from nomadiff.data.images import read_images
from nomadiff.metrics.detectors.features import extract_features
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.mixture import bound_on_share, shares_of_sources

FOLDER, GIVEN = 1000, 500  # images in the folder, and of trusted ones and of the source's


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--detector", default="wavelets")
    options = parser.parse_args()
    print(describe_machine(torch.device("cpu")), "\n")
    detector = load_detector(options.detector)
    pools = []
    for name in ("real-train-10k", "sd14-20k"):
        images = read_images(options.data / "cifake" / f"{name}.zip").images[:5000]
        pools.append(extract_features(detector, images))
    real, made = pools
    rows = []
    for share, copied in ((0.0, False), (0.05, False), (0.2, False), (0.455, False), (0.2, True), (0.455, True)):
        found, bounds = [], []
        for trial in range(options.trials):
            random = np.random.default_rng(trial)
            r, s = (torch.from_numpy(random.permutation(len(pool))) for pool in pools)
            count = round(share * FOLDER)
            trusted, source = r[:GIVEN], s[:GIVEN]
            photos, others = r[GIVEN : GIVEN + FOLDER - count], s[:count] if copied else s[GIVEN : GIVEN + count]
            folder = torch.cat([real[photos], made[others]])
            of_folder = torch.cat([photos, len(real) + others])
            groups = trusted, len(real) + source, of_folder
            one = shares_of_sources(folder, {"s": made[source]}, real[trusted], groups=groups)["s"]
            assert one.share is not None
            found.append((one.share - share, one.low <= share <= one.high, one.high - one.low))
            bounds.append(bound_on_share(folder, made[source], groups=(of_folder, len(real) + source)).high)
        error, holds, width = np.mean(found, 0)
        name = f"{share:.1%}{', copied' * copied}"
        bound = f"{np.mean(np.array(bounds) >= share):.0%} ({np.median(bounds):.0%})"
        rows.append([name, f"{holds:.0%}", f"{error:+.1%}", f"{width:.1%}", bound])
    print(f"{options.trials} trials, {GIVEN} trusted images, {GIVEN} of the source, a folder of {FOLDER}.\n")
    columns = ("true share", "interval holds", "mean error", "mean width", "without trusted: bound holds (its median)")
    print_table(columns, rows)


if __name__ == "__main__":
    main()
