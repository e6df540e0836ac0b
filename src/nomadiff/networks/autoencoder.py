"""Images to raw latents and back: diffusers' AutoencoderKL, used as EDM2 uses it (images in [0, 1])."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.hub import PREFIX
from nomadiff.data.latents import LatentSpace
from nomadiff.errors import DataError, UsageError
from nomadiff.extras import install_command
from nomadiff.files import read_json, require_regular
from nomadiff.networks.config import check_settings

__all__ = ["Autoencoder"]

_TILED_FROM = 1024  # pixels a side from which an image is decoded in tiles


def _plan(folder: Path, kind: Any) -> None:
    """Check, before an autoencoder is built, that it is no larger than its files.

    Raises:
        NomadiffError: it is.
    """
    settings = read_json(folder / "config.json", dict)
    check_settings(settings)
    with torch.device("meta"):
        needed = sum(value.numel() for value in kind.from_config(settings).parameters())
    held = sum(require_regular(path) for path in folder.glob("*.safetensors"))
    if needed > held:
        raise DataError(f"{needed:,} parameters in {held:,} bytes of weights")


class Autoencoder:
    """Encodes images to latents and decodes them, a few at a time.

    Args:
        vae: an ``AutoencoderKL`` on its device, in evaluation mode.
        spec: where it came from.
        batch_size: images at once; the rest of a batch waits.

    Attributes:
        factor: pixels a side for one latent.
        channels: of a latent.
    """

    def __init__(self, vae: Any, spec: str, batch_size: int = 8) -> None:
        self.vae = vae
        self.spec = spec
        self.batch_size = batch_size
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        self.channels = int(vae.config.latent_channels)

    @classmethod
    def load(
        cls, spec: str, *, sha256: str | None = None, device: torch.device | str = "cpu", batch_size: int = 8
    ) -> Autoencoder:
        """Load an autoencoder, float32.

        Args:
            spec: its folder, a pipeline's folder that has one under ``vae/``, or ``hf:<user>/<name>``.
            sha256: what :attr:`sha256` must be, if that is known.
            device: where to compute.
            batch_size: as for the class.

        Raises:
            UsageError: diffusers is not installed.
            DataError: it cannot be loaded, or is another one.
        """
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise UsageError(f"latents need an extra: {install_command('diffusers')}") from error
        name = spec.removeprefix(PREFIX)
        folder = {"subfolder": "vae"} if (Path(name) / "vae").is_dir() else {}
        try:
            if Path(name).is_dir():
                _plan(Path(name) / folder.get("subfolder", ""), AutoencoderKL)
            vae = AutoencoderKL.from_pretrained(name, use_safetensors=True, torch_dtype=torch.float32, **folder)
            vae = vae.to(device).eval().requires_grad_(False)
        except Exception as error:  # files, network and settings fail in the ways of several libraries
            lines = str(error).strip().splitlines()
            reason = lines[0] if lines else type(error).__name__
            raise DataError(
                f"{spec}: this autoencoder cannot be loaded ({reason}); give its folder with --vae"
            ) from error
        loaded = cls(vae, str(Path(name).resolve()) if Path(name).is_dir() else spec, batch_size)
        if sha256 is not None and loaded.sha256 != sha256:
            raise DataError(f"{spec}: another autoencoder than the one these latents belong to (its weights differ)")
        return loaded

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the weights, by name: 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, value in sorted(self.vae.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def space(self, mean: tuple[float, ...], std: tuple[float, ...]) -> LatentSpace:
        """The space of its latents at a scale.

        Raises:
            UsageError: there is not one mean and standard deviation for each channel.
        """
        if len(mean) != self.channels:
            raise UsageError(f"{self.spec}: has {self.channels} latent channels, the scale is of {len(mean)}")
        return LatentSpace(self.spec, self.sha256, self.factor, mean, std)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of each image's posterior.

        Args:
            images: uint8 ``(N, 3, S, S)``, S a multiple of :attr:`factor`.

        Returns:
            Raw, float32 ``(N, 2 C, S / factor, S / factor)`` on the CPU: means, then standard deviations.

        Raises:
            UsageError: images of another kind or size.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(f"images must be uint8 (N, 3, S, S), got {images.dtype} {tuple(images.shape)}")
        if images.shape[2] % self.factor or images.shape[3] % self.factor:
            raise UsageError(f"images of {images.shape[3]}x{images.shape[2]} pixels do not divide by {self.factor}")
        found = []
        for chunk in images.split(self.batch_size):
            posterior = self.vae.encode(chunk.to(self.vae.device).float() / 255).latent_dist
            found.append(torch.cat([posterior.mean, posterior.std], dim=1).float().cpu())
        return torch.cat(found)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images behind raw latents; from 1024 pixels a side on in tiles.

        Args:
            latents: float32 ``(N, C, h, w)``.

        Returns:
            uint8 ``(N, 3, h factor, w factor)`` on the autoencoder's device.
        """
        if max(latents.shape[-2:]) * self.factor >= _TILED_FROM:
            self.vae.enable_tiling()
        images = []
        for chunk in latents.float().split(self.batch_size):
            decoded = self.vae.decode(chunk.to(self.vae.device)).sample
            images.append((decoded.float().clamp(0, 1) * 255).to(torch.uint8))
        return torch.cat(images)
