"""CASD Table 1: the distance for n real images and 10,000 synthetic ones from a good and a biased generator."""

from __future__ import annotations

from typing import Any

from nomadiff.reproduce.casd_settings import close_photographs, digits, paper_images, real_part, synthetic_file
from nomadiff.reproduce.data_files import CIFAR10, FFHQ
from nomadiff.reproduce.recipe import Request
from nomadiff.reproduce.study import Study, study_recipe

__all__ = ["RECIPE", "study"]

_STYLEGAN = "StyleGAN2-ADA samples, 5,000 a class (CASD A.1.2)"
_EDM = "EDM samples (CASD A.1.2)"
_COUNTS = {
    "smoke": (40,),
    "small": (100, 200, 500),
    "medium": (1_000, 2_000, 5_000),
    "paper": (1_000, 2_000, 5_000, 10_000),
}


def study(request: Request) -> Study:
    """The grid: data set x n, each with two synthetic sources.

    On digits the close source stands for EDM's samples and the style-shifted one for StyleGAN's biased FFHQ samples. On
    photographs there is one source, a model of our own trained on all 50,000 images.
    """
    mix: dict[str, Any] = {"synthetic_subset": "first:10000"}
    if request.scale == "paper":
        sets = {
            dataset: paper_images(
                request,
                preset,
                real,
                {
                    "stylegan": synthetic_file(f"{dataset}-stylegan.zip", _STYLEGAN),
                    "edm": synthetic_file(f"{dataset}-edm.zip", _EDM),
                },
            )
            for dataset, preset, real in (("cifar10", "cifar10", CIFAR10), ("ffhq", "ffhq64", FFHQ))
        }
    elif request.scale == "medium":
        sets = {"cifar10": close_photographs(request)}
    else:
        sets = {"digits": digits(request)}
        mix = {"real_fraction": 0.15}
    return Study(
        "CASD Table 1: distance against the number of real images",
        [
            images.cell({"dataset": dataset, "n": n}, {"real_subset": real_part(request, n), **mix})
            for dataset, images in sets.items()
            for n in _COUNTS[request.scale]
        ],
        [file for images in sets.values() for file in images.files],
        [arm for images in sets.values() for arm in images.generators],
        line="n",
    )


RECIPE = study_recipe(
    "casd-table-1", "CASD Table 1: DM, SDA and CASD for n real images and a fixed synthetic set", study
)
