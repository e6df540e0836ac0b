"""CASD Table 2: synthetic data whose classes contain, lie inside, or overlap those of the real data."""

from __future__ import annotations

from typing import Any

from nomadiff.reproduce.casd_settings import close_photographs, digits, paper_images, photographs, synthetic_file
from nomadiff.reproduce.data_files import CIFAR10, STABLE_DIFFUSION
from nomadiff.reproduce.recipe import Request
from nomadiff.reproduce.study import Study, study_recipe

__all__ = ["CASES", "RECIPE", "study"]

CASES = {1: "0-9", 2: "2-9", 3: "2-7"}
"""Classes of the synthetic images in the paper's three cases; the real ones are 0-7 (section 4.3)."""

_PER_CLASS = {"smoke": 5, "small": 12, "medium": 125, "paper": 125}


def study(request: Request) -> Study:
    """The three cases; DM, which sees no synthetic image, is trained once (case 0).

    In the paper every case has a generator trained on its classes. On digits the cases are filters of one synthetic set
    (labels predicted by the digits classifier), on photographs of the images that Stable Diffusion drew by class name.
    A folder that has CIFAR-10 and not those images gives the paper's cases: models of the study's own draw them.
    """
    changes: dict[str, Any] = {}
    mix: dict[str, Any] = {"synthetic_subset": "first:10000"}
    if request.scale == "paper":
        files = {
            f"case{case}": synthetic_file(
                f"cifar10-edm-classes-{classes}.zip", f"an EDM model trained on classes {classes} (A.1.2)"
            )
            for case, classes in CASES.items()
        }
        images, changes = paper_images(request, "cifar10", CIFAR10, files), {"classifier": "cifar10-resnet56"}
    elif request.scale == "medium" and CIFAR10.is_in(request.data) and not STABLE_DIFFUSION.is_in(request.data):
        images = close_photographs(request, {f"case{case}": classes for case, classes in CASES.items()})
    elif request.scale == "medium":
        images = photographs(request, {f"case{case}": STABLE_DIFFUSION for case in CASES})
    else:
        images, mix = digits(request, {f"case{case}": "digits:close" for case in CASES}), {"real_fraction": 0.15}
    mix |= {"real_classes": "0-7", "real_subset": f"each:{_PER_CLASS[request.scale]}"}
    cells = []
    for source, (case, classes) in zip(images.synthetic, CASES.items(), strict=True):
        of_these_classes = request.scale == "paper" or images.generators  # what drew them knows no others
        own = {**mix, "synthetic": (source,), "synthetic_classes": None if of_these_classes else classes}
        if case == 1:
            cells.append(images.cell({"case": 0}, own, methods=("dm",), **changes))
        cells.append(images.cell({"case": case}, own, methods=("sda", "casd"), **changes))
    title = "CASD Table 2: mismatch of real and synthetic classes"
    return Study(title, cells, images.files, images.generators)


RECIPE = study_recipe(
    "casd-table-2", "CASD Table 2: mismatch of the classes of real and synthetic images (cases 1 to 3)", study
)
