"""What detectors are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nomadiff.registry import modules_of_parts

if TYPE_CHECKING:
    from nomadiff.metrics.detectors.protocol import Detector

    AnyDetector = str | Detector
else:  # as data/reading.py does
    AnyDetector = Any

__all__ = ["DEFAULT_DETECTOR", "DETECTORS", "AnyDetector", "names_detector"]

# each with the module that is imported when it is first used
DETECTORS = {
    "digits": "digits:DigitsDetector",
    "wavelets": "wavelets:WaveletDetector",
    "pixels": "pixels:PixelDetector",
    "inception": "inception:Inception",
    "dinov2": "dinov2:DINOv2",
    "dinov2-small": "dinov2:DINOv2Small",
    "dinov2-base": "dinov2:DINOv2Base",
    "dinov2-giant": "dinov2:DINOv2Giant",
    "clip": "clip:CLIP",
    "sscd": "sscd:SSCD",
    "cifar10-resnet56": "cifar10_resnet56:Cifar10ResNet56",
}
DEFAULT_DETECTOR = "wavelets"


def names_detector(spec: str) -> bool:
    """Whether it is the name of a detector: one of the library's, or in a module that the user imported as a plugin."""
    return spec in DETECTORS or spec.partition(":")[0] in modules_of_parts()
