"""What does a detector see? Distances of real images, degraded in known ways, beside those of fresh ones.

The degraded images are the fresh ones themselves, as many as the reference: a ratio of 1 is not seen at all, and one
below 1 rewards the damage. Detectors are compared with the CIFAR-10 classifier ResNet-56 by the rank correlation
(Spearman) of their distances over all degradations. Precision and recall of one step of each damage follow.

    python benchmarks/detectors.py shared/data [--count 1000] [--detector wavelets --detector pixels]
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from measuring import describe_machine, print_table
from PIL import Image, ImageFilter
from torch import Tensor

from nomadiff.data.images import ImageSet, read_images
from nomadiff.metrics.detectors.features import extract_features
from nomadiff.metrics.detectors.loading import load_detector
from nomadiff.metrics.detectors.protocol import Detector
from nomadiff.metrics.frechet import frechet_distance_from_features as frechet
from nomadiff.metrics.manifold import prdc

Change = Callable[[Tensor, Tensor], Tensor]  # images and their labels to images


def pictures(change: Callable[[Image.Image], Image.Image]) -> Change:
    """A change of Pillow images, made on uint8 ``(N, 3, S, S)``."""

    def changed(images: Tensor, labels: Tensor) -> Tensor:
        each = [change(Image.fromarray(image.permute(1, 2, 0).numpy())).convert("RGB") for image in images]
        return torch.stack([torch.from_numpy(np.array(one)).permute(2, 0, 1) for one in each])

    return changed


def jpeg(quality: int) -> Change:
    """Saved as JPEG and read again."""

    def saved(picture: Image.Image) -> Image.Image:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality)
        return Image.open(file)

    return pictures(saved)


def blur(radius: float) -> Change:
    """Gaussian blur; the radius in pixels."""
    return pictures(lambda picture: picture.filter(ImageFilter.GaussianBlur(radius)))


def cast(levels: float) -> Change:
    """Red raised and blue lowered by so many grey levels."""
    tint = torch.tensor([levels, 0, -levels])[:, None, None]
    return lambda images, labels: (images + tint).round().clamp(0, 255).to(torch.uint8)


def noise(levels: float) -> Change:
    """Gaussian noise with this standard deviation in grey levels."""

    def noisy(images: Tensor, labels: Tensor) -> Tensor:
        random = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        return (images + levels * random).round().clamp(0, 255).to(torch.uint8)

    return noisy


def without(classes: int) -> Change:
    """The images of some classes replaced by others of the kept ones."""

    def dropped(images: Tensor, labels: Tensor) -> Tensor:
        kept = torch.nonzero(labels >= classes)[:, 0]
        return images[kept[torch.arange(len(images)) % len(kept)]]

    return dropped


def repeats(times: int) -> Change:
    """The first of the images, each so many times."""
    return lambda images, labels: images[torch.arange(len(images)) % (len(images) // times)]


def patchwork(images: Tensor, labels: Tensor) -> Tensor:
    """Left halves with right halves of other images: no object is whole."""
    half = images.shape[-1] // 2
    return torch.cat([images[..., :half], images.roll(1, 0)[..., half:]], -1)


DAMAGE: dict[str, tuple[Change, ...]] = {
    "blur 0.4, 0.7, 1 px": (blur(0.4), blur(0.7), blur(1.0)),
    "colour cast 4, 8, 16 levels": (cast(4), cast(8), cast(16)),
    "JPEG q90, 75, 50": (jpeg(90), jpeg(75), jpeg(50)),
    "noise 2, 5, 10 levels": (noise(2), noise(5), noise(10)),
    "without 1, 3, 5 classes of 10": (without(1), without(3), without(5)),
    "each image 2, 5, 20 times": (repeats(2), repeats(5), repeats(20)),
    "halves of two images": (patchwork,),
}

JUDGED: dict[str, Change] = {
    "fresh": lambda images, labels: images,
    "blur 0.7 px": blur(0.7),
    "colour cast 8 levels": cast(8),
    "JPEG q75": jpeg(75),
    "noise 5 levels": noise(5),
    "without 3 classes of 10": without(3),
    "each image 5 times": repeats(5),
    "halves of two images": patchwork,
}
"""One step of each damage, whose precision and recall are shown."""


def ranks(values: list[float]) -> np.ndarray:
    """The place of each value in ascending order."""
    return np.argsort(np.argsort(values)).astype(float)


def distances(
    detector: Detector, fresh: ImageSet, reference: Tensor, more: dict[str, Tensor]
) -> dict[str, list[float]]:
    """Frechet distances to the reference: of fresh images, of each damage to them, and of further sets."""
    against = extract_features(detector, reference)
    assert fresh.labels is not None
    found = {"fresh": [frechet(against, extract_features(detector, fresh.images))]}
    for name, changes in DAMAGE.items():
        found[name] = [
            frechet(against, extract_features(detector, change(fresh.images, fresh.labels))) for change in changes
        ]
    for name, images in more.items():
        found[name] = [frechet(against, extract_features(detector, images))]
    return found


def main() -> None:
    """Score every kind of damage with every detector and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--detector", action="append", help="another choice than wavelets and pixels")
    options = parser.parse_args()
    data, count = options.data, options.count
    print(describe_machine(torch.device("cpu")), "\n")
    sets: dict[str, tuple[ImageSet, dict[str, Tensor], list[str]]] = {
        "CIFAR-10 (32)": (read_images(data / "cifar10-32x32-test.zip"), {}, ["cifar10-resnet56"]),
        "EuroSAT (64)": (read_images(data / "eurosat" / "train-64-6k.zip"), {}, []),
        "CIFAKE's real side, JPEG (32)": (
            read_images(data / "cifake" / "real-test-10k.zip"),
            {"Stable Diffusion 1.4": read_images(data / "cifake" / "sd14-20k.zip").images[:count]},
            ["cifar10-resnet56"],
        ),
    }
    weights = {"cifar10-resnet56": data / "detectors" / "resnet56-4bfd9763.th"}
    for title, (real, more, others) in sets.items():
        assert real.labels is not None
        part = slice(count, 2 * count)
        fresh = ImageSet(real.images[part], real.labels[part], None)
        found, seconds = {}, {}
        for name in [*others, *(options.detector or ["wavelets", "pixels"])]:
            start = time.process_time()
            found[name] = distances(load_detector(name, weights=weights.get(name)), fresh, real.images[:count], more)
            seconds[name] = time.process_time() - start
        print(f"**{title}**, {count:,} against {count:,} images; times the distance of fresh ones:\n")
        rows = []
        for row in next(iter(found.values())):
            cells = [", ".join(f"{each / scores['fresh'][0]:.3g}" for each in scores[row]) for scores in found.values()]
            if row == "fresh":
                cells = [f"{scores['fresh'][0]:.3g} itself" for scores in found.values()]
            rows.append([row, *cells])
        if others:
            flat = {name: [each for many in scores.values() for each in many] for name, scores in found.items()}
            best = ranks(flat[others[0]])
            rows.append(
                ["ranks as ResNet-56", *(f"{np.corrcoef(best, ranks(flat[name]))[0, 1]:.2f}" for name in found)]
            )
        rows.append(["CPU seconds", *(f"{seconds[name]:.0f}" for name in found)])
        print_table(["", *found], rows)
        judges = [load_detector(name, weights=weights.get(name)) for name in found]
        against = [extract_features(detector, real.images[:count]) for detector in judges]
        rows = []
        for what, change in JUDGED.items():
            images = change(fresh.images, fresh.labels)
            scores = [prdc(one, extract_features(detector, images)) for one, detector in zip(against, judges)]
            rows.append([what, *(f"{each['precision']:.2f} / {each['recall']:.2f}" for each in scores)])
        print_table(["precision / recall", *found], rows)


if __name__ == "__main__":
    main()
