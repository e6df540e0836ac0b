"""What the CASD recipes share: the four scales, and their data: digits, photographs, the paper's images.

==========  ========================================================================================================
``smoke``   seconds on digits, in CI: shows that the recipe runs, nothing else
``small``   within an hour on two cores, on digits
``medium``  32x32 photographs and images of real generators: hours on two cores, minutes on a GPU; needs ``--data``
``paper``   the paper's configuration; needs its files in ``--data`` and many GPU hours (``--dry-run`` prints both)
==========  ========================================================================================================

The photographs are CIFAR-10's. They come from CIFAKE (Bird and Lotfi 2023), which has images of the same classes by
Stable Diffusion 1.4 beside them and stores both as the same JPEG: with CIFAR-10's own PNGs, the codec would tell real
from synthetic as well as the generator does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nomadiff.data.mix_spec import MixSpec
from nomadiff.reproduce.data_files import (
    CIFAR10,
    CIFAR10_TEST,
    PHOTOGRAPHS,
    PHOTOGRAPHS_TEST,
    NeededFile,
    photograph_weights,
)
from nomadiff.reproduce.recipe import Request
from nomadiff.reproduce.study import Cell
from nomadiff.workflows.arms import Arm
from nomadiff.workflows.compare import Comparison

__all__ = ["Images", "close_photographs", "digits", "paper_images", "photographs", "real_part", "synthetic_file"]


@dataclass(frozen=True)
class Images:
    """Real and synthetic images, and how models of them are trained and judged.

    Attributes:
        comparison: all settings but the methods; its mix holds all images.
        files: what is read from ``--data``.
        generators: models of the study's own that draw synthetic images.
    """

    comparison: Comparison
    files: tuple[NeededFile, ...] = ()
    generators: tuple[Arm, ...] = ()

    @property
    def synthetic(self) -> tuple[Any, ...]:
        """The synthetic sources, as a mix names them."""
        return self.comparison.mix_spec.synthetic

    def cell(self, fields: Mapping[str, str | int], mix: Mapping[str, Any], **changes: Any) -> Cell:
        """A setting of a study: these images but for ``mix``, and this comparison but for ``changes``."""
        mixed = replace(self.comparison.mix_spec, **mix)
        return Cell(fields, replace(self.comparison, mix=mixed, **changes))


def synthetic_file(name: str, origin: str) -> NeededFile:
    """A file of at least 10,000 generated images."""
    return NeededFile(name, f"10,000 or more images: {origin}")


def real_part(request: Request, count: int) -> str:
    """The subset of so many real images; of digits another one for each seed."""
    return f"first:{count}" if request.scale in ("medium", "paper") else f"random:{count}:{{seed}}"


def digits(request: Request, synthetic: Mapping[str, str] | None = None) -> Images:
    """Digits, trained on in seconds at "smoke" and as the demo does at "small".

    Args:
        request: what is asked for.
        synthetic: sets of generated digits by the name of the source; a close and a style-shifted one by default.
    """
    smoke = request.scale == "smoke"
    sources = synthetic or {"close": "digits:close", "style": "digits:style"}
    return Images(
        Comparison(
            mix=MixSpec(real="digits:pool", synthetic=tuple(f"{name}={spec}" for name, spec in sources.items())),
            reference="digits:reference",
            out=Path(),
            preset="digits",
            seeds=request.seeds or ((0,) if smoke else (0, 1, 2)),
            changes={"budget": 1_024, "warmup": 256} if smoke else {"budget": 100_000},
            count=100 if smoke else 1000,
            detector="digits",
            workers=1 if smoke else None,  # starting a process costs more than these models
            device="cpu",
        )
    )


def photographs(request: Request, synthetic: Mapping[str, NeededFile]) -> Images:
    """32x32 photographs and generated images, judged by held-out photographs in the features of a classifier."""
    return _photographs(request, PHOTOGRAPHS, PHOTOGRAPHS_TEST, synthetic)


def close_photographs(request: Request, sources: Mapping[str, str | None] | None = None) -> Images:
    """CIFAR-10 and close sources: 20,000 samples each of a model of its training images.

    Args:
        request: what is asked for.
        sources: the classes that each source's model learns from, None for all; one of all by default.
    """
    images = _photographs(request, CIFAR10, CIFAR10_TEST, {})
    sources = sources or {"close": None}
    mix = images.comparison.mix_spec
    generators = tuple(
        Arm(
            method="dm",
            source="",
            seed=100,
            mix=replace(mix, real_classes=classes),
            out=Path(name),
            preset="compact32",
            count=20_000,
        )
        for name, classes in sources.items()
    )
    mixed = replace(mix, synthetic=tuple(f"{name}={{sources}}/{name}/samples.zip" for name in sources))
    return replace(images, comparison=replace(images.comparison, mix=mixed), generators=generators)


def _photographs(
    request: Request, real: NeededFile, reference: NeededFile, synthetic: Mapping[str, NeededFile]
) -> Images:
    return Images(
        Comparison(
            mix=_mix(request, real, synthetic),
            reference=str(reference.path(request.data)),
            out=Path(),
            preset="compact32",
            seeds=request.seeds or (0, 1, 2),
            count=1000,
            detector="cifar10-resnet56",
            detector_weights=photograph_weights(request.data),
            notes=(
                f"Real images: CIFAR-10's photographs ({real.name}). The distance is taken in the features "
                "of a CIFAR-10 classifier (64 values); it is not FID.",
            ),
        ),
        (real, reference, *dict.fromkeys(synthetic.values())),  # one file may be several sources
    )


def paper_images(request: Request, preset: str, real: NeededFile, synthetic: Mapping[str, NeededFile]) -> Images:
    """The paper's size: Table 9's training, 50,000 samples, FID against the full real set (A.2)."""
    return Images(
        Comparison(
            mix=_mix(request, real, synthetic),
            reference=str(real.path(request.data)),
            out=Path(),
            preset=preset,
            seeds=request.seeds or (0,),
            count=50_000,
            detector="inception",
        ),
        (real, *synthetic.values()),
    )


def _mix(request: Request, real: NeededFile, synthetic: Mapping[str, NeededFile]) -> MixSpec:
    named = tuple(f"{name}={file.path(request.data)}" for name, file in synthetic.items())
    return MixSpec(real=str(real.path(request.data)), synthetic=named)
