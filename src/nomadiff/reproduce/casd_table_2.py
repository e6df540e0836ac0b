"""CASD Table 2: synthetic data whose classes contain, lie inside, or overlap those of the real data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nomadiff.data.mix_spec import MixSpec
from nomadiff.reproduce.casd_settings import (
    CIFAR10,
    PHOTOGRAPHS,
    PHOTOGRAPHS_TEST,
    STABLE_DIFFUSION,
    digits_comparison,
    paper_comparison,
    photographs_comparison,
    synthetic_file,
)
from nomadiff.reproduce.study import Cell, NeededFile, Study, check_scale

__all__ = ["CASES", "DESCRIPTION", "study"]

DESCRIPTION = "CASD Table 2: mismatch of the classes of real and synthetic images (cases 1 to 3)"

CASES = {1: "0-9", 2: "2-9", 3: "2-7"}
"""Classes of the synthetic images in the paper's three cases; the real ones are 0-7 (section 4.3)."""

_REAL = "0-7"


def study(scale: str, data: Path | None, seeds: Sequence[int]) -> Study:
    """The three cases; DM, which sees no synthetic image, is trained once (case 0).

    In the paper every case has a generator trained on its classes. On digits the cases are filters of one synthetic set
    (labels predicted by the digits classifier), on photographs of the images that Stable Diffusion drew by class name.
    """
    check_scale(scale)
    files: tuple[NeededFile, ...] = ()
    if scale == "paper":
        folder = data or Path("DATA")
        cases = {case: f"cifar10-edm-classes-{classes}.zip" for case, classes in CASES.items()}
        files = (
            CIFAR10,
            *(
                synthetic_file(file, f"an EDM model trained on classes {CASES[case]} (A.1.2)")
                for case, file in cases.items()
            ),
        )
        mix = MixSpec(
            real=str(folder / CIFAR10.name), real_classes=_REAL, real_subset="each:125", synthetic_subset="first:10000"
        )
        whole = paper_comparison("cifar10", mix, folder / CIFAR10.name, seeds)
        mixes = {case: replace(mix, synthetic=(f"case{case}={folder / file}",)) for case, file in cases.items()}
        whole = replace(whole, classifier="cifar10-resnet56")
    elif scale == "medium":
        folder = data or Path("DATA")
        files = (PHOTOGRAPHS, PHOTOGRAPHS_TEST, STABLE_DIFFUSION)
        mix = MixSpec(
            real=str(folder / PHOTOGRAPHS.name),
            real_classes=_REAL,
            real_subset="each:125",
            synthetic_subset="first:10000",
        )
        whole = photographs_comparison(folder, mix, seeds)
        mixes = {
            case: replace(mix, synthetic=(f"case{case}={folder / STABLE_DIFFUSION.name}",), synthetic_classes=classes)
            for case, classes in CASES.items()
        }
    else:
        mix = MixSpec(
            real="digits:pool",
            real_classes=_REAL,
            real_subset="each:5" if scale == "smoke" else "each:12",
            real_fraction=0.15,
        )
        whole = digits_comparison(scale, mix, seeds)
        mixes = {
            case: replace(mix, synthetic=(f"case{case}=digits:close",), synthetic_classes=classes)
            for case, classes in CASES.items()
        }
    cells = [Cell({"case": 0}, replace(whole, mix=mixes[1], methods=("dm",)))]
    cells += [Cell({"case": case}, replace(whole, mix=mix, methods=("sda", "casd"))) for case, mix in mixes.items()]
    return Study("casd-table-2", "CASD Table 2: mismatch of real and synthetic classes", cells, files)
