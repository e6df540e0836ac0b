"""CLIP (Radford et al. 2021) as a detector: the image embeddings that CMMD is a distance of (Jayasumana et al. 2024).

Needs the ``transformers`` package (the extra "dino"), or a TorchScript file of the network. Images are resized to
336x336 by antialiased bicubic interpolation in float32 and normalised as CLIP's are; the feature is the projected
embedding at unit length (768-d for ViT-L/14 at 336 pixels, the default).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from nomadiff.metrics.detectors.vision import VisionDetector, from_transformers

__all__ = ["CLIP"]


class CLIP(VisionDetector):
    """Image embeddings of unit length."""

    name = "clip"
    default = "openai/clip-vit-large-patch14-336"
    size = 336
    normalisation = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    unit_length = True

    def read(self, source: str) -> tuple[Callable[[Tensor], Tensor], int, str]:
        model, sha256 = from_transformers("CLIPVisionModelWithProjection", source, "CLIP", self.device)
        self.size = int(model.config.image_size)  # others of the family were trained at 224
        return lambda x: model(pixel_values=x).image_embeds, int(model.config.projection_dim), sha256
