"""Learning curves of a study's runs: the distance of every snapshot to held-out images, against the images it has seen.

python scripts/learning_curves.py study/ held-out.zip curves/ --detector cifar10-resnet56 --weights resnet56-4bfd9763.th

STUDY holds run folders at any depth; the arms of several seeds (``dm-seed0``, ``dm-seed1``) become one line. A drawing
that was stopped goes on, and features are cached: with more snapshots at hand, only those are drawn. Where networks of
several sizes are compared, ``--cost ARM=SECONDS`` an image, once for every arm, puts minutes on the axis instead.
"""

import argparse
from pathlib import Path

import nomadiff as nd
from nomadiff.files import write_text
from nomadiff.reports.plots import metric_lines
from nomadiff.tables import Table
from nomadiff.workflows.evaluate import evaluate_files

_OF_A_FILE = '<svg xmlns="http://www.w3.org/2000/svg" style="background: white" '  # reports have figures inside a page


def _count(samples: Path) -> int:
    return len(nd.ImageSource.open(samples, name="samples", synthetic=True))


def main() -> None:
    """Draw, score and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("reference")
    parser.add_argument("out", type=Path)
    parser.add_argument("--detector", default="wavelets")
    parser.add_argument("--weights", help="file of the detector's weights")
    parser.add_argument("--count", type=int, default=1000, help="samples of each snapshot")
    parser.add_argument("--every", type=int, default=1, help="take every so many snapshots, the last among them")
    parser.add_argument("--cost", action="append", default=[], metavar="ARM=SECONDS", help="of an image of training")
    given = parser.parse_args()
    costs = {arm: float(seconds) for arm, _, seconds in (text.partition("=") for text in given.cost)}
    sets = []
    for run in sorted(folder.parent for folder in given.study.rglob("snapshots")):
        files = sorted((run / "snapshots").glob("*.safetensors"), reverse=True)
        for file in files[:: given.every]:
            samples = given.out / "samples" / f"{run.name}-{file.stem}.zip"
            drawn = run / "samples.zip"  # by the study itself; of another number of samples distances differ
            if file == files[0] and drawn.exists() and _count(drawn) == given.count:
                samples = drawn
            elif not samples.exists():
                nd.Model.load(file).write_samples(samples, given.count)
            sets.append(f"{run.name}-{int(file.stem)}={samples}")
    scored = evaluate_files(sets, given.reference, detector=given.detector, detector_weights=given.weights)
    rows = []
    for row in scored.rows:
        run, _, seen = row["set"].rpartition("-")
        arm, _, seed = run.rpartition("-seed")
        minutes = {"minutes": int(seen) * costs[arm] / 60} if costs else {}
        rows.append({"arm": arm, "seed": int(seed), "images_seen": int(seen), **minutes, **row})
    table = Table(rows=rows, meta=scored.meta)
    table.write(given.out / "curves.json")
    for metric in dict.fromkeys(row["metric"] for row in rows):
        shown = [row for row in rows if row["metric"] == metric]
        x, told = ("minutes", "CPU minutes of training") if costs else ("images_seen", "images seen")
        svg = metric_lines(shown, x, "value", by="arm", label=metric, x_label=told)
        write_text(given.out / f"{metric}.svg", svg.replace("<svg ", _OF_A_FILE, 1))
        print(f"{metric}: {given.out / f'{metric}.svg'}")


if __name__ == "__main__":
    main()
