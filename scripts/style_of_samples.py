"""Score sets of images in one feature space, with the share of each that looks like a synthetic source.

python scripts/style_of_samples.py test.zip sd14.zip@:10000 --train photos.zip@:1000 --detector wavelets \\
    "other photographs=photos.zip@1000:2000" "DM=study/runs/dm-seed0/samples.zip"

Behind @ stands a slice of a file's images.
"""

import argparse

import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.reference import ReferenceSet


def images_of(spec: str) -> Tensor:
    """The images of ``FILE`` or ``FILE@START:STOP``."""
    path, _, places = spec.partition("@")
    bounds = [int(place) if place else None for place in (places or ":").split(":")]
    return ImageSource.open(path, name="shown", synthetic=True).images[slice(*bounds)]


def main() -> None:
    """Print a line a set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference")
    parser.add_argument("synthetic", help="the source whose style is looked for")
    parser.add_argument("sets", nargs="+", metavar="NAME=IMAGES")
    parser.add_argument("--train", help="for replication")
    parser.add_argument("--detector", default="wavelets")
    parser.add_argument("--weights", help="file of the detector's weights")
    given = parser.parse_args()
    torch.set_num_threads(1)
    detector = load_detector(given.detector, **({"weights": given.weights} if given.weights else {}))
    train = images_of(given.train) if given.train else None
    reference, synthetic = (
        ReferenceSet(images_of(given.reference), train=train, detector=detector),
        images_of(given.synthetic),
    )
    for text in given.sets:
        name, _, spec = text.partition("=")
        samples = images_of(spec)
        found = reference.evaluate(samples, extra=(), interval=None)
        told = [f"{key} {value:.3f}" for key, value in found.items() if isinstance(value, float)]
        print(f"{name}: style {reference.style(samples, synthetic)}, {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
