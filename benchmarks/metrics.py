"""Speed and memory of the metrics beside the usual ways to compute them.

    python benchmarks/metrics.py
    python benchmarks/metrics.py --counts 2000 10000 50000 --contenders frechet prdc kid
    python benchmarks/metrics.py --dimension 64 --threads 2

Features are random with variances that fall like 1/i, as those of images roughly do, or with --flat all alike, which is
the worst case for neighbour search; N real and N generated, float32. Every measurement runs in a
process of its own, so that its peak of memory is its own; `extra MB` is the growth of the resident set above the
features. CPU-s counts the CPU time of all threads, which other programs disturb least; nothing is asserted.

moments: Frechet distance of means and covariances known before. moments-scipy: the same with scipy's sqrtm, as in EDM
and pytorch-fid. frechet, frechet-scipy: the same from features, the sums included. prdc: precision, recall, density and
coverage, k = 5; prdc-package: Naeem et al.'s package (`pip install prdc`; left out where it is missing). prdc-intervals
and kid come without a peer.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import resource
import subprocess
import sys
import time

CONTENDERS = ("moments", "moments-scipy", "frechet", "frechet-scipy", "prdc", "prdc-package", "prdc-intervals", "kid")
PEERS = {"moments": "moments-scipy", "frechet": "frechet-scipy", "prdc": "prdc-package"}


def measure(contender: str, count: int, dimension: int, flat: bool) -> dict[str, float]:
    """One measurement in this process: seconds, memory, and the values found."""
    import numpy as np
    import torch

    random = np.random.default_rng(0)
    scale = (1 / np.sqrt(np.arange(1, dimension + 1))).astype(np.float32) if not flat else np.float32(1)
    real, fake = (random.standard_normal((count, dimension), dtype=np.float32) for _ in range(2))
    real *= scale  # in place: a copy would count as memory that was there before
    fake *= np.float32(0.95) * scale
    run = _prepared(contender, real, fake)
    torch.randn(64, 64) @ torch.randn(64, 64)  # libraries set up their buffers at first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wall, cpu = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        value = run()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"wall": wall, "cpu": cpu, "extra": (peak - before) / 1024, "value": value}


def _prepared(contender: str, real, fake):
    """The function to time, with everything imported and computed that is not to be timed."""
    import torch

    from nomadiff.metrics.frechet import Statistics, frechet_distance, frechet_distance_from_features

    if contender == "moments":
        statistics = [Statistics.from_features(x) for x in (real, fake)]
        a, b = (Statistics(one.mean, one.covariance) for one in statistics)
        return lambda: frechet_distance(a, b)
    if contender == "moments-scipy":
        moments = _moments(real, fake)
        return lambda: _frechet_by_scipy(*moments)
    if contender == "frechet":
        return lambda: frechet_distance_from_features(real, fake)
    if contender == "frechet-scipy":
        return lambda: _frechet_by_scipy(*_moments(real, fake))
    if contender == "prdc":
        from nomadiff.metrics.manifold import prdc

        return lambda: prdc(real, fake)["density"]
    if contender == "prdc-package":
        import prdc as package

        return lambda: float(package.compute_prdc(real, fake, nearest_k=5)["density"])
    if contender == "prdc-intervals":
        from nomadiff.metrics.intervals import random_groups
        from nomadiff.metrics.manifold import prdc_left_out

        return lambda: prdc_left_out(real, fake, random_groups(len(fake)))[0]["density"]
    from nomadiff.metrics.kid import kid

    return lambda: kid(torch.from_numpy(real), torch.from_numpy(fake))


def _moments(real, fake) -> list:
    import numpy as np

    return [moment for x in (real, fake) for moment in (x.mean(0, dtype=np.float64), np.cov(x, rowvar=False))]


def _frechet_by_scipy(mean1, covariance1, mean2, covariance2) -> float:
    import numpy as np
    from scipy.linalg import sqrtm

    gap = mean1 - mean2
    shared = np.trace(sqrtm(covariance1 @ covariance2).real)
    return float(gap @ gap + np.trace(covariance1) + np.trace(covariance2) - 2 * shared)


def products(dimension: int) -> str:
    """How many operations a second matrix products reach here, by number type."""
    import torch

    speeds = []
    for kind in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.ones(1024, dimension, dtype=kind)
        times = []
        for _ in range(5):
            start = time.process_time()
            x @ x.T
            times.append(time.process_time() - start)
        speeds.append(f"{2 * 1024 * 1024 * dimension / min(times) / 1e9:.0f} in {str(kind).removeprefix('torch.')}")
    return f"GFLOP a CPU-second: {', '.join(speeds)}"


def compare(contenders: list[str], counts: list[int], dimension: int, threads: int, flat: bool) -> None:
    """Measure each contender at each count in turn and print the tables."""
    import torch
    from measuring import describe_machine, digits, print_table

    torch.set_num_threads(threads)
    print(f"{describe_machine(torch.device('cpu'))}; features of dimension {dimension}{', flat' * flat}\n")
    print(f"products of 1,024 x {dimension:,} matrices: {products(dimension)}\n")
    environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    rows, found = [], {}
    for count in counts:
        for contender in contenders:
            command = [
                sys.executable,
                __file__,
                "--one",
                contender,
                "--counts",
                str(count),
                "--dimension",
                str(dimension),
                *["--flat"] * flat,
            ]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                rows.append([contender, f"{count:,}", "failed", "", "", done.stderr.strip().splitlines()[-1][:60]])
                continue
            result = found[contender, count] = json.loads(done.stdout.splitlines()[-1])
            cells = [digits(result[name]) for name in ("cpu", "wall", "extra")]
            rows.append([contender, f"{count:,}", *cells, f"{result['value']:.9g}"])
    print_table(["", "N", "CPU-s", "wall s", "extra MB", "value"], rows)
    rows = []
    for (contender, count), result in found.items():
        if peer := found.get((PEERS.get(contender, ""), count)):
            row = [
                contender,
                f"{count:,}",
                f"{peer['cpu'] / result['cpu']:.1f}x",
                f"{peer['wall'] / result['wall']:.1f}x",
            ]
            rows.append([*row, f"{peer['extra'] / max(result['extra'], 1):.1f}x"])
    print_table(["against its peer", "N", "CPU", "wall", "memory"], rows)


def main() -> None:
    """Parse the command and do it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--counts", type=int, nargs="+", default=[2000, 10000], help="N")
    parser.add_argument("--dimension", type=int, default=2048)
    parser.add_argument("--flat", action="store_true", help="the same variance in every direction")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one, arguments.counts[0], arguments.dimension, arguments.flat)))
        return
    contenders = arguments.contenders
    if "prdc-package" in contenders and importlib.util.find_spec("prdc") is None:
        contenders = [name for name in contenders if name != "prdc-package"]
        print("the package prdc is not installed: its rows are left out")
    compare(contenders, arguments.counts, arguments.dimension, arguments.threads, arguments.flat)


if __name__ == "__main__":
    main()
