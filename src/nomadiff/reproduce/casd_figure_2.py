"""CASD Figure 2: the distance as the synthetic set grows from nothing, at a fixed number of real images."""

from __future__ import annotations

from nomadiff.reproduce.casd_settings import close_photographs, digits, paper_images, real_part, synthetic_file
from nomadiff.reproduce.data_files import FFHQ
from nomadiff.reproduce.recipe import Request
from nomadiff.reproduce.study import Study, study_recipe

__all__ = ["RECIPE", "study"]

_SIZES = {
    "smoke": (50,),
    "small": (250, 500, 1_000, 2_000),
    "medium": (2_000, 10_000),
    "paper": (1_000, 2_000, 4_000, 6_000, 8_000, 10_000),
}
_REAL = {"smoke": 40, "small": 200, "medium": 2_000, "paper": 2_000}


def study(request: Request) -> Study:
    """The grid: m synthetic images of two sources; m = 0 is DM. The share of real images is the union's (eq. 5)."""
    if request.scale == "paper":
        stylegan = synthetic_file("ffhq-stylegan.zip", "StyleGAN samples resized to 64x64 (CASD A.1.2)")
        edm = synthetic_file("ffhq-edm.zip", "EDM samples (CASD A.1.2)")
        images = paper_images(request, "ffhq64", FFHQ, {"stylegan": stylegan, "edm": edm})
    else:
        images = close_photographs(request) if request.scale == "medium" else digits(request)
    real = {"real_subset": real_part(request, _REAL[request.scale])}
    cells = [images.cell({"m": 0}, real, methods=("dm",))]
    cells += [
        images.cell({"m": m}, {**real, "synthetic_subset": f"first:{m}"}, methods=("sda", "casd"))
        for m in _SIZES[request.scale]
    ]
    title = "CASD Figure 2: distance against the number of synthetic images"
    return Study(title, cells, images.files, images.generators, line="m")


RECIPE = study_recipe("casd-figure-2", "CASD Figure 2: SDA and CASD against the number of synthetic images", study)
