"""How many near-duplicates does the audit find, and how many pairs does it report that are none?

Real images are saved again, cropped and mirrored, and looked for among all of their set. The thresholds of
``metrics/same_picture.py`` were chosen on the first 10,000 test images of CIFAR-10, the first 6,000 EuroSAT tiles and a
random 1,000 of each emoji set; what is reported here are others, but for the emoji's false pairs.

Pairs found in the sets as they are may be real ones, so they are drawn, to be looked at: ``--pictures FOLDER``.

    python benchmarks/near_duplicates.py shared/data [--count 1000] [--pictures pairs/] [--within 50000]
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import describe_machine, print_table
from PIL import Image
from torch import Tensor

from nomadiff.data.images import read_images
from nomadiff.metrics.duplicates import near_duplicates
from nomadiff.pictures import image_grid

Picture = Image.Image
FLAT = 3.0  # grey levels: standard deviation of brightness, below which hardly any contrast is left to compare


def resaved(picture: Picture, random: np.random.Generator, quality: int) -> Picture:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


def cropped(picture: Picture, random: np.random.Generator) -> Picture:
    """95 % of each side, from a random place, enlarged to the old size."""
    side = picture.width
    kept = side - round(0.05 * side)
    left, top = random.integers(0, side - kept + 1, 2).tolist()
    return picture.crop((left, top, left + kept, top + kept)).resize((side, side), Image.Resampling.LANCZOS)


def resized(picture: Picture, random: np.random.Generator) -> Picture:
    """Three quarters of the side, and back."""
    small = picture.resize((picture.width * 3 // 4,) * 2, Image.Resampling.LANCZOS)
    return small.resize(picture.size, Image.Resampling.BICUBIC)


def mirrored(picture: Picture, random: np.random.Generator) -> Picture:
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def all_of_it(picture: Picture, random: np.random.Generator) -> Picture:
    return resaved(cropped(mirrored(picture, random), random), random, 75)


CHANGES: dict[str, Callable[[Picture, np.random.Generator], Picture]] = {
    "JPEG q90": partial(resaved, quality=90),
    "JPEG q60": partial(resaved, quality=60),
    "to 75 % and back": resized,
    "crop by 5 %": cropped,
    "mirrored": mirrored,
    "mirrored, crop, q75": all_of_it,
}


def each(images: Tensor, change: Callable[[Picture, np.random.Generator], Picture]) -> Tensor:
    random = np.random.default_rng(0)
    pictures = [change(Image.fromarray(image.permute(1, 2, 0).numpy()), random) for image in images]
    return torch.stack([torch.from_numpy(np.array(one.convert("RGB"))).permute(2, 0, 1) for one in pictures])


def found_share(changed: Tensor, everything: Tensor, of: Tensor) -> Tensor:
    """Which of the changed images are paired with the one they were made of: bool ``(N,)``.

    A pair with an identical image of the set counts as well.
    """
    pairs = near_duplicates(changed, everything).pairs
    same = (everything[pairs[:, 1]] == everything[of[pairs[:, 0]]]).flatten(1).all(1)
    found = torch.zeros(len(changed), dtype=torch.bool)
    found[pairs[same, 0]] = True
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="images of each set that are changed")
    parser.add_argument("--pictures", type=Path, help="where the pairs found in the sets themselves are drawn")
    parser.add_argument("--within", type=int, default=10_000, help="CIFAR images among which pairs are looked for")
    options = parser.parse_args()
    print(describe_machine(torch.device("cpu")), "\n")
    data = options.data
    cifar = read_images(data / "cifar10-32x32-train.zip").images[: max(options.within, 10_000)]
    tiles = [read_images(data / "eurosat" / f"{name}.zip").images for name in ("test-64-2k", "train-64-6k")]
    sets = {
        "CIFAR-10 (32)": (cifar, torch.arange(options.count)),
        "EuroSAT (64)": (torch.cat(tiles), torch.arange(min(options.count, len(tiles[0])))),
    }
    for name in ("noto", "twemoji"):
        emoji = read_images(data / "emoji" / f"{name}-64.zip").images
        chosen_on = np.random.default_rng(1).permutation(len(emoji))[:1000]
        rest = np.setdiff1d(np.arange(len(emoji)), chosen_on)
        sets[f"{name} emoji (64)"] = (
            emoji,
            torch.from_numpy(np.random.default_rng(2).permutation(rest))[: options.count],
        )
    rows = []
    for name, (images, chosen) in sets.items():
        some = images[chosen]
        light = some.float().mean(1).flatten(1).std(1)
        cells, flat_cells = [], []
        for change in CHANGES.values():
            found = found_share(each(some, change), images[:10_000], chosen).float()
            cells.append(f"{found.mean():.1%}")
            flat_cells.append(f"{found[light >= FLAT].mean():.1%}")
        rows.append([name, *cells])
        if (flat := int((light < FLAT).sum())) > len(some) // 100:
            rows.append([f"{name}, without the {flat / len(some):.0%} that are nearly flat", *flat_cells])
    print_table(["found", *CHANGES], rows)
    rows = []
    for name, (images, _) in sets.items():
        start = time.perf_counter(), time.process_time()
        found = near_duplicates(images)
        wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
        new = [k for k, kind in enumerate(found.kinds) if kind != "identical"]
        rows.append(
            [name, f"{len(images):,}", f"{len(found.kinds) - len(new):,}", f"{len(new):,}", f"{wall:.0f} ({cpu:.0f})"]
        )
        if options.pictures is not None and new:
            options.pictures.mkdir(parents=True, exist_ok=True)
            pairs = found.pairs[new].T
            rows_of = torch.stack([images[pairs[0]], images[pairs[1]]], 1).flatten(0, 1)
            image_grid(rows_of, 24).save(options.pictures / f"{name.split()[0]}.png")
    print_table(["within the set", "images", "identical pairs", "other pairs", "seconds (CPU)"], rows)


if __name__ == "__main__":
    main()
