"""Any TorchScript file as a detector or classifier: preprocessing included, nothing guessed."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from nomadiff.errors import DataError, UsageError
from nomadiff.files import sha256_of_file
from nomadiff.metrics.detectors.protocol import check_images

__all__ = ["TorchScriptClassifier", "TorchScriptDetector", "load_script"]


def load_script(path: Path, device: torch.device) -> tuple[torch.jit.ScriptModule, dict[str, bool]]:
    """The module of a TorchScript file, and the options to call it with for features.

    Raises:
        DataError: the file is truncated, or no TorchScript.
    """
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # torch >= 2.13 announces its end
            network = torch.jit.load(path, map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise DataError(f"{path}: not a TorchScript file, or damaged ({str(error).splitlines()[0][:200]})") from error
    asked = {argument.name for argument in network.forward.schema.arguments}
    return network, {"return_features": True} if "return_features" in asked else {}


class TorchScriptDetector:
    """A module saved by ``torch.jit.save`` that maps uint8 images ``(N, C, H, W)`` to float features ``(N, D)``.

    It gets the images as they are; whatever resizing and scaling it needs is its own. A module that can be asked for
    features (``forward(images, return_features=True)``, as NVIDIA's detectors can) is asked for them. Only
    TorchScript's own instructions run, no Python; still, take such files from people you trust. Its distance is
    ``fd_<file name>``.

    Args:
        path: the file.
        device: where it computes.

    Raises:
        DataError: the file is absent, truncated, or no TorchScript.
    """

    version = "1"
    dimension = None

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path}: no such detector file")
        self.name = path.stem
        self.sha256 = sha256_of_file(path)
        self.device = torch.device(device)
        self.network, self.options = load_script(path, self.device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, H, W)`` to float32 ``(N, D)``.

        Raises:
            UsageError: the module fails on these images, or gives something else.
        """
        check_images(images, f"detector {self.name}")
        try:
            with torch.inference_mode():
                output = self.network(images.to(self.device), **self.options)
        except RuntimeError as error:  # the last line of a TorchScript trace says what went wrong
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"detector {self.name} fails on images {tuple(images.shape)}: {reason[:200]}") from error
        if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(images):
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise UsageError(f"detector {self.name} must give ({len(images)}, D) features, it gives {got}")
        return output.float()


class TorchScriptClassifier(TorchScriptDetector):
    """A TorchScript file whose output ``(N, D)`` are the scores of D classes, named 0..D-1."""

    def __init__(self, path: str | Path, device: str | torch.device = "cpu") -> None:
        super().__init__(path, device)
        self.options = {}  # scores, not features

    @property
    def class_names(self) -> tuple[str, ...]:
        """Known once an image was classified."""
        return tuple(str(index) for index in range(self._count))

    _count = 0

    def classes(self, images: Tensor) -> Tensor:
        """uint8 ``(N, C, H, W)`` to the class, int64 ``(N,)``."""
        return self.classes_of_features(self(images))

    def classes_of_features(self, features: Tensor) -> Tensor:
        """Scores ``(N, D)`` to the class of the highest, int64 ``(N,)``."""
        self._count = features.shape[1]
        return features.argmax(1)
