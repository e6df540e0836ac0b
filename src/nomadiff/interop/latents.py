"""Latent space: images to the latents that EDM2's ImageNet-512 networks draw, and back (diffusers' AutoencoderKL).

EDM2 keeps a set as mean and standard deviation of the encoder's posterior, eight channels an image, and draws a fresh
sample from it whenever the image is used. Latents are then brought to mean 0 and standard deviation 0.5 (Karras et al.
2024, appendix B.7). The autoencoder sees images in [0, 1], as EDM2's did.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.images import read_images
from nomadiff.data.writing import refuse_existing
from nomadiff.errors import DataError, UsageError
from nomadiff.files import atomic_path
from nomadiff.interop.diffusers_ import HUB_PREFIX
from nomadiff.interop.packing import origins
from nomadiff.methods.model import Model
from nomadiff.progress import progress_bar

__all__ = ["LatentCodec", "LatentStatistics", "codec_of", "encode_set"]

_DEFAULT_VAE = "hf:stabilityai/sd-vae-ft-mse"
_TILED_FROM = 1024  # pixels a side from which an image is decoded in tiles


@dataclass(frozen=True)
class LatentStatistics:
    """How raw latents are brought to the scale a network is trained on.

    Attributes:
        mean, std: of raw latents over the training set, by channel; the defaults are EDM2's, of ImageNet-512.
        final_std: standard deviation afterwards.
    """

    mean: tuple[float, ...] = (5.81, 3.25, 0.12, -2.15)
    std: tuple[float, ...] = (4.17, 4.62, 3.71, 3.28)
    final_std: float = 0.5

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=0) <= 0 or self.final_std <= 0:
            raise UsageError("latent statistics need a mean and a positive standard deviation for each channel")

    def normalised(self, raw: Tensor) -> Tensor:
        """Raw latents ``(N, C, h, w)`` on the network's scale."""
        mean, std = self._columns(raw)
        return (raw - mean) * (self.final_std / std)

    def raw(self, normalised: Tensor) -> Tensor:
        """The inverse of :meth:`normalised`."""
        mean, std = self._columns(normalised)
        return normalised * (std / self.final_std) + mean

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values).to(like).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        return mean, std


class LatentCodec:
    """Encodes images as EDM2 does, and decodes latents to images.

    Args:
        vae: an ``AutoencoderKL`` on its device, in evaluation mode.
        statistics: scale of the latents.
        batch_size: images at once; the rest of a batch waits.
    """

    def __init__(self, vae: Any, statistics: LatentStatistics | None = None, batch_size: int = 8) -> None:
        self.vae = vae
        self.statistics = statistics or LatentStatistics()
        self.batch_size = batch_size
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        if vae.config.latent_channels != len(self.statistics.mean):
            raise UsageError(
                f"the autoencoder has {vae.config.latent_channels} latent channels, its statistics "
                f"{len(self.statistics.mean)}"
            )

    @classmethod
    def load(
        cls,
        spec: str = _DEFAULT_VAE,
        statistics: LatentStatistics | None = None,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 8,
    ) -> LatentCodec:
        """Load an autoencoder, float32.

        Args:
            spec: its folder, a pipeline's folder that has one under ``vae/``, or ``hf:<user>/<name>``.
            statistics, batch_size: as for the class.
            device: where to compute.

        Raises:
            UsageError: diffusers is not installed.
            DataError: it cannot be loaded.
        """
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise UsageError("latents need an extra: pip install 'nomadiff[diffusers]'") from error
        name = spec.removeprefix(HUB_PREFIX)
        folder = {"subfolder": "vae"} if (Path(name) / "vae").is_dir() else {}
        try:
            vae = AutoencoderKL.from_pretrained(name, **folder).to(device).eval().requires_grad_(False)
        except Exception as error:  # files, network and settings fail in the ways of several libraries
            lines = str(error).strip().splitlines()
            raise DataError(f"{spec}: cannot be loaded ({lines[0] if lines else type(error).__name__})") from error
        return cls(vae, statistics, batch_size)

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
            posterior = self.vae.encode((chunk.float() / 255).to(self.vae.device)).latent_dist
            found.append(torch.cat([posterior.mean, posterior.std], dim=1).float().cpu())
        return torch.cat(found)

    def sampled(self, moments: Tensor, noise: Tensor) -> Tensor:
        """Latents to train on: a sample of each posterior, on the network's scale.

        Args:
            moments: from :meth:`encode`, ``(N, 2 C, h, w)``.
            noise: standard normal ``(N, C, h, w)``.
        """
        mean, std = moments.chunk(2, dim=1)
        return self.statistics.normalised(mean + std * noise)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images behind latents on the network's scale; from 1024 pixels a side on in tiles.

        Args:
            latents: float32 ``(N, C, h, w)``.

        Returns:
            uint8 ``(N, 3, h factor, w factor)`` on the CPU.
        """
        if max(latents.shape[-2:]) * self.factor >= _TILED_FROM:
            self.vae.enable_tiling()
        images = []
        for chunk in latents.float().split(self.batch_size):
            decoded = self.vae.decode(self.statistics.raw(chunk.to(self.vae.device))).sample
            images.append((decoded.float().clamp(0, 1) * 255).to(torch.uint8).cpu())
        return torch.cat(images)


def codec_of(model: Model, vae: str | None = None, *, device: torch.device | str = "cpu") -> LatentCodec:
    """The codec a model's latents belong to: what its file said, and EDM2's where it said nothing.

    Args:
        model: a model that draws latents.
        vae: the autoencoder, if it is to be another or lies elsewhere.
        device: where to compute.

    Raises:
        UsageError, DataError: as :meth:`LatentCodec.load`.
    """
    said: dict[str, Any] = {}
    for source in origins(model):
        said = said or (source.get("imported") or {}).get("latents") or {}
    mean, std = said.get("raw_mean"), said.get("raw_std")
    known = isinstance(mean, list) and isinstance(std, list)
    statistics = (
        LatentStatistics(tuple(map(float, mean)), tuple(map(float, std)), float(said.get("final_std", 0.5)))  # type: ignore[arg-type]
        if known
        else LatentStatistics()
    )
    spec = vae or (f"{HUB_PREFIX}{said['vae']}" if "vae" in said else _DEFAULT_VAE)
    return LatentCodec.load(spec, statistics, device=device)


def encode_set(source: str | Path, out: str | Path, codec: LatentCodec, *, resolution: int | None = None) -> Path:
    """Encode a set of images once, into the zip that EDM2's training reads.

    ``00000/img-mean-std-00000000.npy``, float32 ``(2 C, h, w)`` each, and ``dataset.json`` with the labels or null.

    Args:
        source: images, anything :func:`~nomadiff.data.images.read_images` reads.
        out: the zip; must be new.
        codec: how to encode.
        resolution: crop and resize the images to this many pixels first.

    Returns:
        ``out``.

    Raises:
        UsageError: ``out`` is taken, or the images do not fit the codec.
        DataError: the images cannot be read.
    """
    out = Path(out)
    refuse_existing(out)
    found = read_images(source, resolution=resolution)
    images = found.images.expand(-1, 3, -1, -1)
    with atomic_path(out) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        names = []
        with progress_bar("encode", total=len(images)) as advance:
            for index, moments in enumerate(_moments(images, codec)):
                names.append(f"{index // 1000:05d}/img-mean-std-{index:08d}.npy")
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, moments, allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(names[-1]), buffer.getvalue())
                advance(1)
        pairs = None if found.labels is None else [[name, int(label)] for name, label in zip(names, found.labels)]
        archive.writestr(zipfile.ZipInfo("dataset.json"), json.dumps({"labels": pairs}))
    return out


def _moments(images: Tensor, codec: LatentCodec) -> Iterator[np.ndarray]:
    chunks: Sequence[Tensor] = images.split(codec.batch_size)
    for chunk in chunks:
        yield from codec.encode(chunk).numpy()
