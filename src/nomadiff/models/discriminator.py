"""The discriminator of EDM-G++: is there a real image behind this noisy one, or one of the model's own?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import sha256_of_file
from nomadiff.networks.build import build_filled
from nomadiff.networks.unet import UNet
from nomadiff.training.config import RunConfig
from nomadiff.training.run_folder import load_tensors, save_tensors

__all__ = ["Discriminator"]


class Discriminator(nn.Module):
    """The encoder of a base model with a linear head (Kim et al. 2023 put theirs on a classifier's encoder).

    Args:
        config: recipe of the base model, whose network, labels and scale it takes over.
        start: the base's weights to start from; None draws fresh ones.
    """

    sha256: str = ""

    def __init__(self, config: RunConfig, start: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.config = config
        self.denoiser = config.build_denoiser()
        if start is not None:
            self.denoiser.load_state_dict(start)
        network = self.encoder
        for name, _ in list(network.named_children()):  # not part of the encoder
            if name == "dec":
                network.dec = nn.ModuleDict()
            elif name.startswith(("out_", "logvar_")):
                delattr(network, name)
        width = config.network.model_channels * config.network.channel_mult[-1]
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    @property
    def encoder(self) -> UNet:
        """The base's network without its decoder."""
        if not isinstance(self.denoiser.network, UNet):
            raise UsageError(f"a {self.config.network.architecture} network has no encoder to judge images by")
        return self.denoiser.network

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        *,
        source: Tensor | int | None = None,
        class_label: Tensor | int | None = None,
    ) -> Tensor:
        """The logit ``log(d / (1 - d))`` of "real": float32 ``(B, C, H, W)`` and ``(B,)`` to float32 ``(B,)``."""
        level = sigma.expand(len(x)).reshape(-1, 1, 1, 1)
        c_in = 1 / (level**2 + self.config.sigma_data**2).sqrt()
        labels = self.denoiser.label_vector(source, class_label, batch=len(x), device=x.device)
        emb = self.encoder.embed(level.flatten().log() / 4, labels)
        deepest = self.encoder.encode(c_in * x, emb)[-1]
        return self.head(F.silu(deepest).mean(dim=(2, 3)))[:, 0]

    def save(self, path: Path) -> None:
        """Write weights and recipe as safetensors."""
        save_tensors(path, self.state_dict(), {"discriminator": self.config.to_dict()})

    @classmethod
    def load(cls, path: Path, *, device: str | torch.device = "cpu") -> Discriminator:
        """Read what :meth:`save` wrote, in evaluation mode.

        Raises:
            DataError: absent, damaged or no discriminator.
        """
        tensors, metadata = load_tensors(path)
        if "discriminator" not in metadata:
            raise DataError(f"{path}: no discriminator (its metadata has no recipe of one)")
        try:
            config = RunConfig.from_dict(metadata["discriminator"])
            discriminator = build_filled(lambda: cls(config), tensors)
        except NomadiffError as error:
            raise DataError(f"{path}: its weights do not fit its recipe ({error})") from error
        discriminator.sha256 = sha256_of_file(path)
        return discriminator.to(device).eval().requires_grad_(False)
