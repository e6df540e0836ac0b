"""CASD Table 1: the distance for n real images and 10,000 synthetic ones from a good and a biased generator."""

from __future__ import annotations

from collections.abc import Sequence
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
from nomadiff.reproduce.study import Cell, Study, check_scale

__all__ = ["DESCRIPTION", "study"]

DESCRIPTION = "CASD Table 1: DM, SDA and CASD for n real images and a fixed synthetic set"

_STYLEGAN = "StyleGAN2-ADA samples, 5,000 a class (CASD A.1.2)"
_EDM = "EDM samples (CASD A.1.2)"


def study(scale: str, data: Path | None, seeds: Sequence[int]) -> Study:
    """The grid: data set x n, each with two synthetic sources.

    On digits the close source stands for EDM's samples and the style-shifted one for StyleGAN's biased FFHQ samples. On
    photographs there is one source, a model of our own trained on all 50,000 images.
    """
    check_scale(scale)
    name, title = "casd-table-1", "CASD Table 1: distance against the number of real images"
    if scale == "paper":
        folder = data or Path("DATA")
        files, cells = [], []
        for dataset, preset, real, generated in (
            ("cifar10", "cifar10", CIFAR10, ("cifar10-stylegan.zip", "cifar10-edm.zip")),
            ("ffhq", "ffhq64", FFHQ, ("ffhq-stylegan.zip", "ffhq-edm.zip")),
        ):
            files += [real, synthetic_file(generated[0], _STYLEGAN), synthetic_file(generated[1], _EDM)]
            for n in (1_000, 2_000, 5_000, 10_000):
                mix = MixSpec(
                    real=str(folder / real.name),
                    synthetic=(f"stylegan={folder / generated[0]}", f"edm={folder / generated[1]}"),
                    real_subset=f"first:{n}",
                    synthetic_subset="first:10000",
                )
                cells.append(
                    Cell({"dataset": dataset, "n": n}, paper_comparison(preset, mix, folder / real.name, seeds))
                )
        return Study(name, title, cells, files, line=("n", "distance"))
    if scale == "medium":
        folder = data or Path("DATA")
        generator = close_generator(folder)
        cells = []
        for n in (1_000, 2_000, 5_000):
            mix = MixSpec(
                real=generator.mix.real,
                synthetic=("close={sources}/close/samples.zip",),
                real_subset=f"first:{n}",
                synthetic_subset="first:10000",
            )
            cells.append(Cell({"dataset": "cifar10", "n": n}, photographs_comparison(folder, mix, seeds, CIFAR10_TEST)))
        return Study(name, title, cells, (CIFAR10, CIFAR10_TEST), (generator,), ("n", "distance"))
    cells = [
        Cell(
            {"dataset": "digits", "n": n},
            digits_comparison(
                scale,
                MixSpec(
                    real="digits:pool",
                    synthetic=("close=digits:close", "style=digits:style"),
                    real_subset=f"random:{n}:{{seed}}",
                    real_fraction=0.15,
                ),
                seeds,
            ),
        )
        for n in ((40,) if scale == "smoke" else (100, 200, 500))
    ]
    return Study(name, title, cells, line=("n", "distance"))
