"""The denoising loss of every snapshot of runs, on images they learnt from and on others: the gap is memorisation.

python scripts/held_out_losses.py losses.json study/runs/dm-seed0 study/runs/casd-made-seed0 \\
    --set "real, trained on=photos.zip@0:1000:2" --set "real, held out=photos.zip@5000:5500" \\
    --set "made, held out=made.zip@15000:15500@made"

The images of a set are a slice of a file; behind a second @ stands their source, "real" by default. A model that knows
that source is told it, one that knows none is told nothing. Noise levels and noise are fixed, so that changes are the
model's; the levels have the probabilities of training.
"""

import argparse
from pathlib import Path

import torch

import nomadiff as nd
from nomadiff.processes import Processes
from nomadiff.tables import Table
from nomadiff.training.held_out_loss import FixedImages, fixed_noise_losses


def main() -> None:
    """Measure and print, snapshot by snapshot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--set", action="append", required=True, dest="sets", metavar="NAME=IMAGES@SLICE[@SOURCE]")
    given = parser.parse_args()
    sets = []
    for text in given.sets:
        name, _, spec = text.partition("=")
        path, places, source = (*spec.split("@"), "real")[:3]
        images = nd.ImageSource.open(path, name=name, synthetic=source != "real").images
        sets.append((name, source, images[slice(*map(int, places.split(":")))]))
    table = Table()
    for run in given.runs:
        for file in sorted((run / "snapshots").glob("*.safetensors")):
            model = nd.Model.load(file)
            for name, source, images in sets:
                known = model.recipe.source_names
                label = known.index(source) if model.recipe.sources and source in known else 0
                mix = nd.SourceMix(nd.ImageSource.from_array(images, name="real", synthetic=False))
                alone = Processes(0, 1, torch.device("cpu"))
                losses = fixed_noise_losses(
                    model.denoiser, FixedImages(images, label, None), mix, model.recipe, alone
                ).mean(1)
                row = {"run": run.name, "images_seen": int(file.stem), "set": name, "loss": float(losses.mean())}
                row["standard_error"] = float(losses.std() / len(losses) ** 0.5)
                print(f"{run.name} {int(file.stem):,} {name}: {row['loss']:.4f} ± {row['standard_error']:.4f}")
                table.rows.append(row)
                table.write(given.out)


if __name__ == "__main__":
    main()
