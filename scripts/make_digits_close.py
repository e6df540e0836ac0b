"""Make the demo's close synthetic source: 2,000 samples of a model trained on the pool of 1,000 real digits.

    python scripts/make_digits_close.py

It plays the part of the CASD paper's section 4.2, "synthetic models pre-trained on data following the real
distribution". The held-out reference is never seen. The result is committed, so that the demo downloads and trains
nothing for it; running this again gives the same bytes on the same machine and library versions.
"""

import tempfile
from pathlib import Path

import nomadiff
from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.writing import write_images
from nomadiff.methods.dm import DM
from nomadiff.metrics.detectors.loading import load_classifier

BUDGET = 400_000
COUNT = 2_000
SEED = 20_000
TARGET = Path(nomadiff.__file__).parent / "data" / "assets" / "digits_close.npz"


def main() -> None:
    """Train on the pool, draw the samples, write them where the package keeps them."""
    with tempfile.TemporaryDirectory() as folder:
        model = DM("digits", budget=BUDGET, seed=SEED).fit(
            MixSpec(real="digits:pool").open(), Path(folder) / "run", device="cpu"
        )
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.unlink(missing_ok=True)
        images = model.sample(COUNT, SEED)
        manifest = {**model.manifest(COUNT, SEED), "labels": "predicted by nomadiff's digits classifier"}
        write_images(TARGET, [images], COUNT, labels=load_classifier("digits").classes(images), manifest=manifest)
    print(f"wrote {TARGET}: {COUNT} samples, {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
