"""CASD Table 3: replication and diversity with synthetic data of another style (SD3 and FLUX faces in the paper)."""

from __future__ import annotations

from typing import Any

from nomadiff.reproduce.casd_settings import digits, paper_images, photographs, real_part, synthetic_file
from nomadiff.reproduce.data_files import FFHQ, STABLE_DIFFUSION
from nomadiff.reproduce.recipe import Request
from nomadiff.reproduce.study import Study, study_recipe

__all__ = ["RECIPE", "study"]

_REAL = {"smoke": 40, "small": 100, "medium": 1_000, "paper": 1_000}
_NOTES = (
    "The paper does not say which pairs SSIM and LPIPS compare: both readings are printed, samples with one another "
    "and samples with their nearest training image. LPIPS needs weights and is left out here.",
)


def study(request: Request) -> Study:
    """DM and CASD on 1,000 real images (100 digits) and style-shifted synthetic ones; SDA too on photographs."""
    mix: dict[str, Any] = {"synthetic_subset": "first:10000"}
    methods: tuple[str, ...] = ("dm", "casd")
    if request.scale == "paper":
        sd3 = synthetic_file("ffhq-sd3.zip", "Stable Diffusion 3 faces from a prompt grid (CASD A.1.2, Table 7)")
        flux = synthetic_file("ffhq-flux.zip", "FLUX faces from the same prompts")
        images = paper_images(request, "ffhq64", FFHQ, {"sd3": sd3, "flux": flux})
    elif request.scale == "medium":
        images, methods = photographs(request, {"sd14": STABLE_DIFFUSION}), ("dm", "sda", "casd")
    else:
        images, mix = digits(request), {"real_fraction": 0.15}
    mix["real_subset"] = real_part(request, _REAL[request.scale])
    cell = images.cell({"setting": "style"}, mix, methods=methods, similarity=True)
    return Study("CASD Table 3: replication and diversity", [cell], images.files, notes=_NOTES)


RECIPE = study_recipe(
    "casd-table-3",
    "CASD Table 3: recall, coverage, replication and similarity with style-shifted synthetic data",
    study,
)
