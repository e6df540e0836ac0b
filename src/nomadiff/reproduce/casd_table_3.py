"""CASD Table 3: replication and diversity with synthetic data of another style (SD3 and FLUX faces in the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nomadiff.data.mix_spec import MixSpec
from nomadiff.reproduce.casd_settings import (
    FFHQ,
    PHOTOGRAPHS,
    PHOTOGRAPHS_TEST,
    STABLE_DIFFUSION,
    digits_comparison,
    paper_comparison,
    photographs_comparison,
    synthetic_file,
)
from nomadiff.reproduce.study import Cell, NeededFile, Study, check_scale

__all__ = ["DESCRIPTION", "study"]

DESCRIPTION = "CASD Table 3: recall, coverage, replication and similarity with style-shifted synthetic data"

_NOTES = (
    "The paper does not say which pairs SSIM and LPIPS compare: both readings are printed, samples with one another "
    "and samples with their nearest training image. LPIPS needs weights and is left out here.",
)


def study(scale: str, data: Path | None, seeds: Sequence[int]) -> Study:
    """DM and CASD on 1,000 real images (100 digits) and style-shifted synthetic ones; SDA too on photographs."""
    check_scale(scale)
    files: tuple[NeededFile, ...] = ()
    if scale == "paper":
        folder = data or Path("DATA")
        files = (
            FFHQ,
            synthetic_file("ffhq-sd3.zip", "Stable Diffusion 3 faces from a prompt grid (CASD A.1.2, Table 7)"),
            synthetic_file("ffhq-flux.zip", "FLUX faces from the same prompts"),
        )
        mix = MixSpec(
            real=str(folder / FFHQ.name),
            synthetic=(f"sd3={folder / files[1].name}", f"flux={folder / files[2].name}"),
            real_subset="first:1000",
            synthetic_subset="first:10000",
        )
        whole = paper_comparison("ffhq64", mix, folder / FFHQ.name, seeds)
    elif scale == "medium":
        folder = data or Path("DATA")
        files = (PHOTOGRAPHS, PHOTOGRAPHS_TEST, STABLE_DIFFUSION)
        mix = MixSpec(
            real=str(folder / PHOTOGRAPHS.name),
            synthetic=(f"sd14={folder / STABLE_DIFFUSION.name}",),
            real_subset="first:1000",
            synthetic_subset="first:10000",
        )
        whole = photographs_comparison(folder, mix, seeds)
    else:
        mix = MixSpec(
            real="digits:pool",
            synthetic=("close=digits:close", "style=digits:style"),
            real_subset="random:40:{seed}" if scale == "smoke" else "random:100:{seed}",
            real_fraction=0.15,
        )
        whole = digits_comparison(scale, mix, seeds)
    methods = ("dm", "sda", "casd") if scale == "medium" else ("dm", "casd")
    whole = replace(whole, methods=methods, similarity=True)
    return Study(
        "casd-table-3",
        "CASD Table 3: replication and diversity",
        [Cell({"setting": "style"}, whole)],
        files,
        notes=_NOTES,
    )
