"""CASD Figure 2: the distance as the synthetic set grows from nothing, at a fixed number of real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nomadiff.data.mix_spec import MixSpec
from nomadiff.reproduce.casd_settings import (
    CIFAR10,
    CIFAR10_TEST,
    FFHQ,
    close_generator,
    digits_comparison,
    paper_comparison,
    photographs_comparison,
    synthetic_file,
)
from nomadiff.reproduce.study import Cell, NeededFile, Study, check_scale
from nomadiff.workflows.arms import Arm

__all__ = ["DESCRIPTION", "study"]

DESCRIPTION = "CASD Figure 2: SDA and CASD against the number of synthetic images"


def study(scale: str, data: Path | None, seeds: Sequence[int]) -> Study:
    """The grid: m synthetic images of two sources; m = 0 is DM. The share of real images is the union's (eq. 5)."""
    check_scale(scale)
    files: tuple[NeededFile, ...] = ()
    generators: tuple[Arm, ...] = ()
    if scale == "paper":
        folder = data or Path("DATA")
        sizes: tuple[int, ...] = (0, 1_000, 2_000, 4_000, 6_000, 8_000, 10_000)
        files = (
            FFHQ,
            synthetic_file("ffhq-stylegan.zip", "StyleGAN samples resized to 64x64 (CASD A.1.2)"),
            synthetic_file("ffhq-edm.zip", "EDM samples (CASD A.1.2)"),
        )
        mix = MixSpec(
            real=str(folder / FFHQ.name),
            synthetic=(f"stylegan={folder / files[1].name}", f"edm={folder / files[2].name}"),
            real_subset="first:2000",
        )
        whole = paper_comparison("ffhq64", mix, folder / FFHQ.name, seeds)
    elif scale == "medium":
        folder = data or Path("DATA")
        sizes = (0, 2_000, 10_000)
        files = (CIFAR10, CIFAR10_TEST)
        generators = (close_generator(folder),)
        mix = MixSpec(
            real=generators[0].mix.real,
            synthetic=("close={sources}/close/samples.zip",),
            real_subset="first:2000",
        )
        whole = photographs_comparison(folder, mix, seeds, CIFAR10_TEST)
    else:
        sizes = (0, 50) if scale == "smoke" else (0, 250, 500, 1_000, 2_000)
        mix = MixSpec(
            real="digits:pool",
            synthetic=("close=digits:close", "style=digits:style"),
            real_subset="random:40:{seed}" if scale == "smoke" else "random:200:{seed}",
        )
        whole = digits_comparison(scale, mix, seeds)
    cells = [Cell({"m": 0}, replace(whole, methods=("dm",)))]
    for m in sizes[1:]:
        grown = replace(whole.mix_spec, synthetic_subset=f"first:{m}")
        cells.append(Cell({"m": m}, replace(whole, mix=grown, methods=("sda", "casd"))))
    title = "CASD Figure 2: distance against the number of synthetic images"
    return Study("casd-figure-2", title, cells, files, generators, ("m", "distance"))
