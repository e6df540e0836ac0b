"""SSCD (Pizzi et al. 2022), a descriptor for copy detection: edited copies stay near, other images of a thing do not.

The authors publish the networks as TorchScript files, under a licence for non-commercial use (CC-NC 4.0), so that
nothing is fetched here: give the file. Images are resized to 288x288 by antialiased bilinear interpolation and
normalised with ImageNet's mean and spread; descriptors have unit length (512-d for ``sscd_disc_mixup``). Two images
at a distance below 0.7 (a cosine above 0.75) are copies with 90 % precision, as the authors found on DISC.
"""

from __future__ import annotations

from pathlib import Path

import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors.torchscript import SCRIPTS
from nomadiff.metrics.detectors.vision import VisionDetector

__all__ = ["SSCD"]

ADDRESS = "https://dl.fbaipublicfiles.com/sscd-copy-detection/sscd_disc_mixup.torchscript.pt"


class SSCD(VisionDetector):
    """Descriptors of unit length.

    Args:
        device: where it computes.
        weights: a TorchScript file of the authors.

    Raises:
        UsageError: no such file is given.
        DataError: it is absent, damaged, or refused.
    """

    name = "sscd"
    default = ""
    size = 288
    mode = "bilinear"
    unit_length = True

    def __init__(self, device: str | torch.device = "cpu", weights: str | Path | None = None) -> None:
        if not str(weights or "").endswith(SCRIPTS):
            raise UsageError(
                f"detector sscd needs its TorchScript file (--detector-weights or --copies-weights): {ADDRESS}, for "
                "non-commercial use only"
            )
        super().__init__(device, weights)
