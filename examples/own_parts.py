"""Parts of one's own (my_parts.py) all the way: trained, loaded elsewhere, sampled, judged, improved, compared.

    python examples/own_parts.py out/

Sizes are chosen to take a minute on a CPU; what is drawn after so little training looks like nothing yet.
"""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import my_parts
import torch

import nomadiff as nd
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement

SMALL = {"budget": 2048, "batch": 64, "warmup": 256, "ema_half_life": 512}


def main(out: Path) -> None:
    # an own network, trained by CASD
    network = partial(my_parts.Plain, width=16)
    real = nd.ImageSource.open("digits:pool", name="real", synthetic=False).first(200)
    made = nd.ImageSource.open("digits:style", name="style", synthetic=True)
    held_out = nd.ImageSource.open("digits:reference", name="reference", synthetic=False).first(200).images
    model = nd.CASD(network, **SMALL).fit(nd.SourceMix(real, [made]), out / "run")
    print(f"network {model.config.network.architecture}, settings {model.config.network.settings}")

    # loaded in a fresh process, drawn with an own solver: both found by their names
    words = ["sample", out / "run", "--solver", "my_parts:midpoint", "--steps", "6", "--count", "64"]
    command = [sys.executable, "-m", "nomadiff", *map(str, words), "--out", str(out / "drawn"), "--plugin", "my_parts"]
    subprocess.run(command, cwd=Path(my_parts.__file__).parent, check=True, stdout=subprocess.DEVNULL)
    print(f"drawn in a fresh process: NFE {json.loads((out / 'drawn' / 'manifest.json').read_text())['nfe']}")

    # the same images here, judged by an own detector, which is a classifier too
    images = model.sample(64, sampler=nd.SamplerConfig(solver=my_parts.midpoint, steps=6))
    same = (nd.ImageSource.open(str(out / "drawn"), name="drawn", synthetic=True).images.int() - images.int()).abs()
    print(f"the same images in both processes: {int(same.max()) <= 1}")
    scores = nd.evaluate(images, held_out, detector=my_parts.Means())
    print(f"fd_means {scores['fd_means']:.3f}, composition {scores['composition_tv']:.2f}")

    # improved by its own samples; the weight is chosen by the own detector
    reference = nd.ReferenceSet(held_out, detector=my_parts.Means())
    settings = Improvement(budget=512, synthetic_count=64, snapshots=1, evaluations=2, count=64, confirmations=2)
    print(f"improve: {improve(model, out / 'improved', settings, reference=reference).sentence}")

    # a denoiser by itself, which no method trained, improved likewise
    torch.manual_seed(0)
    smooth = nd.Model.from_denoiser(my_parts.Smooth(width=8), shape=(1, 8, 8), settings={"width": 8})
    asked = Improvement(weight=1, budget=512, learning_rate=1e-3, synthetic_count=64, snapshots=1)
    better = improve(smooth, out / "smoother", asked).model
    print(f"a denoiser improved: NFE {better.nfe()}, copy {better.parts[1].config.network.architecture}")

    # an own method beside the papers'
    study = nd.Comparison(
        mix=nd.MixSpec(real="digits:pool", synthetic=("style=digits:style",), real_subset="random:100"),
        reference="digits:reference",
        out=out / "study",
        methods=("dm", "sda", "casd", "sims", my_parts.FewSynthetic),
        preset=network,
        changes=SMALL,
        seeds=(0,),
        count=64,
        detector=my_parts.Means(),
        workers=1,
    )
    for row in nd.compare(study).rows:
        print(f"{row['method']:<14} fd_means {row['fd_means']:.3f}")
    print(f"report: {out / 'study' / 'report.html'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
