"""The detector for scikit-learn's digits: a small classifier of our own, shipped with the package.

It is trained by ``scripts/train_digits_classifier.py`` on the 1,000 digits of the pool only, never on the 797 of the
reference. A detector that had seen the reference would find a copy of a training image (seen) nearer to it than a new
digit (unseen), and so reward copying. Its distance is ``fd_digits``, never "FID".
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from nomadiff.metrics.detectors.protocol import check_images
from nomadiff.metrics.weights import load_weights, verified

__all__ = ["DigitsClassifier", "DigitsDetector"]

ASSET = Path(__file__).parents[1] / "assets" / "digits_classifier.safetensors"
SHA256 = "193ed7b2dc3ecab06738a0069740399121c6cae977cb841fe2a5d7b880ace7dd"


class DigitsClassifier(nn.Module):
    """Three convolutions, a 32-d feature layer and a linear head for 8x8 digits: 56,378 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 48, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(48, 48, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
        )
        self.feature = nn.Linear(48 * 4 * 4, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Features before the rectifier: float32 ``(N, 1, 8, 8)`` in [-1, 1] to float32 ``(N, 32)``."""
        return self.feature(self.body(x))

    def logits(self, features: Tensor) -> Tensor:
        """Class scores from features: float32 ``(N, 32)`` to float32 ``(N, 10)``."""
        return self.head(features.relu())


class DigitsDetector:
    """The shipped digits classifier as a detector: 32 features before the rectifier, classes 0-9.

    Args:
        device: where it computes.
        weights: another safetensors file of the same network; by default the shipped one, whose hash is checked.

    Raises:
        DataError: the weights are damaged or belong to another network.
    """

    name = "digits"
    version = "1"
    dimension = 32
    class_names = tuple("0123456789")

    def __init__(self, device: str | torch.device = "cpu", weights: str | Path | None = None) -> None:
        path = verified(ASSET, SHA256) if weights is None else Path(weights)
        self.device = torch.device(device)
        self.network = DigitsClassifier()
        self.sha256 = load_weights(self.network, path)
        self.network.eval().requires_grad_(False).to(self.device)

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 1, 8, 8)`` to float32 ``(N, 32)``."""
        check_images(images, "detector digits", channels=1, size=8)
        with torch.inference_mode():
            return self.network(images.to(self.device).float() / 127.5 - 1)

    def classes(self, images: Tensor) -> Tensor:
        """uint8 ``(N, 1, 8, 8)`` to the digit, int64 ``(N,)``."""
        return self.classes_of_features(self(images))

    def classes_of_features(self, features: Tensor) -> Tensor:
        """Features ``(N, 32)`` to the digit, int64 ``(N,)``."""
        with torch.inference_mode():
            return self.network.logits(features.to(self.device)).argmax(1)
