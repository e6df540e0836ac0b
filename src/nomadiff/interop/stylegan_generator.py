"""Images of a generator of StyleGAN2 or StyleGAN3, as a source for :func:`~nomadiff.interop.synthesis.synthesize`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.downloads import download
from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import sha256_of_file
from nomadiff.interop.gan_cards import GAN_CARDS
from nomadiff.interop.generators import Drawn
from nomadiff.interop.stylegan_file import read_stylegan
from nomadiff.models.class_choice import class_weights
from nomadiff.models.own_denoiser import DenoiserFacts
from nomadiff.sampling.sampler import SamplerConfig, drawn_classes, to_uint8
from nomadiff.seeding import SampleNoise, checked_seed, mixed_seed

__all__ = ["NOISES", "StyleGANGenerator", "is_stylegan"]

NOISES = ("const", "random", "none")
_PIXELS = {"cpu": 1 << 16, "cuda": 1 << 20}  # drawn at once
_LARGEST_BATCH = 256


def is_stylegan(spec: str) -> bool:
    """Whether a source is a card or a pickle, in a file or at an address, rather than a model of nomadiff."""
    return spec in GAN_CARDS or spec.lower().endswith(".pkl")


class StyleGANGenerator:
    """Draws from a pickle of StyleGAN2-ADA or StyleGAN3 for PyTorch; nothing in the file is run.

    With ``seed`` 0 image ``i`` is the one of seed ``i`` of the authors' scripts (``z`` is
    ``RandomState(i).randn(1, z_dim)``), up to rounding: they draw in half precision on a GPU, here it is float32. Any
    other seed is another set, of which no image is in that one. Random noise, and classes where several are drawn, come
    from streams of nomadiff's own.

    Args:
        spec: a file, an address that ends in ``.pkl``, or a name in :data:`~nomadiff.interop.gan_cards.GAN_CARDS`.
        seed: seed of the set, 0 <= seed < 2**64.
        psi: truncation: 1 draws what was learned; less draws closer to the average image, with less variety.
        cutoff: truncate only this many of the first layers; None truncates all.
        noise: "const", stored with the network, the authors' default; "random", other noise for each image; "none".
            StyleGAN3 has no noise: None, and for it nothing else; None is "const" for StyleGAN2.
        class_label: the one class to draw, by number.
        classes: "uniform", the default, or shares such as ``0=0.3,1=0.7``.
        batch_size: images drawn together; None chooses.
        device: where to compute.

    Raises:
        DataError: the file cannot be read, or is not the card's.
        NomadiffError: it cannot be downloaded, or draws images that are not finite.
        UsageError: an option makes no sense, or not for this network.
    """

    class_names: tuple[str, ...] | None = None

    def __init__(
        self,
        spec: str,
        seed: int = 0,
        *,
        psi: float = 1.0,
        cutoff: int | None = None,
        noise: str | None = None,
        class_label: int | str | None = None,
        classes: str | None = None,
        batch_size: int | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._spec, self._seed, self._psi, self._cutoff = spec, checked_seed(seed), psi, cutoff
        if not math.isfinite(psi) or abs(psi) > 10:
            raise UsageError(f"truncation: psi lies between 0 and 1 as a rule, and in -10..10, got {psi}")
        if cutoff is not None and cutoff < 0:
            raise UsageError(f"truncation: the number of layers cannot be {cutoff}")
        if cutoff is not None and psi == 1:
            raise UsageError(f"psi 1 truncates nothing: the first {cutoff} layers need another (--psi 0.7)")
        if noise not in (None, *NOISES):
            raise UsageError(f"unknown noise '{noise}': choose one of {', '.join(NOISES)}")
        if batch_size is not None and batch_size < 1:
            raise UsageError(f"images are drawn together in ones at least, got {batch_size}")
        card = GAN_CARDS.get(spec)
        path = download(card.url if card else spec) if card or "://" in spec else Path(spec)
        network, said = read_stylegan(path)
        if card is not None and (network.resolution, network.classes) != (card.resolution, card.classes):
            raise DataError(
                f"{card.url}: draws {network.resolution} pixels of {network.classes} classes, the card says "
                f"{card.resolution} and {card.classes}: another file?"
            )
        if noise is not None and network.kind == "stylegan3":
            raise UsageError(f"{spec}: StyleGAN3 has no noise: leave --noise out")
        if psi != 1 and network.mapping.average is None:
            raise UsageError(f"{spec}: this generator does not know its average w: it cannot be truncated")
        self._network, self._device = network.to(device), torch.device(device)
        self._noise = noise or "const"
        shape = (network.channels, network.resolution, network.resolution)
        known = DenoiserFacts(network.kind, shape, SamplerConfig(), classes=network.classes)
        self._weights = class_weights(known, class_label=class_label, classes=classes)
        budget = _PIXELS.get(self._device.type, _PIXELS["cpu"])
        self.batch_size = batch_size or max(1, min(_LARGEST_BATCH, budget // network.resolution**2))
        if card is not None:
            origin = {"card": spec, "url": card.url, "licence": card.licence}
        else:
            origin = {"url": spec} if "://" in spec else {"file": path.resolve().name}
        drawn = {"classes": class_label if class_label is not None else classes or "uniform"} if self._weights else {}
        self._facts = {
            "generator": network.kind,
            **origin,
            "sha256": sha256_of_file(path),
            **said,
            "seed": seed,
            "z": "RandomState(index)" if seed == 0 else "RandomState of a hash of (seed, index)",
            "psi": psi,
            "psi_cutoff": cutoff,
            **({"noise": self._noise} if network.kind == "stylegan2" else {}),
            **drawn,
        }

    @property
    def summary(self) -> str:
        """One line about the network."""
        network = self._network
        classes = f"{network.classes} classes" if network.classes else "no classes"
        return f"{network.kind}, {network.resolution}x{network.resolution}x{network.channels}, {classes}"

    def draw(self, indices: Sequence[int]) -> list[Drawn]:
        """As :class:`~nomadiff.interop.generators.ImageGenerator`."""
        stream = SampleNoise(self._seed, indices)
        classes = drawn_classes(stream, self._weights, len(indices)) if self._weights else None
        # TF32 would round to 10 bits: images of one seed would differ from a CPU's
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            images = self._network(
                self._latents(indices).to(self._device),
                None if classes is None else classes.to(self._device),
                psi=self._psi,
                cutoff=self._cutoff,
                noise=stream.normal if self._noise == "random" else None,
                const=self._noise == "const",
            )
        if not images.isfinite().all():
            raise NomadiffError(f"{self._spec}: the network gives images that are not finite")
        pixels = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
        labels = [None] * len(indices) if classes is None else classes.tolist()
        return [
            Drawn(image, {"seed": self._seed, "index": index}, label)
            for index, image, label in zip(indices, pixels, labels)
        ]

    def _latents(self, indices: Sequence[int]) -> Tensor:
        rows = [_stream(self._seed, index).randn(1, self._network.z_dim) for index in indices]
        return torch.from_numpy(np.concatenate(rows)).float()

    def facts(self) -> dict[str, Any]:
        """As :class:`~nomadiff.interop.generators.ImageGenerator`."""
        return dict(self._facts)


def _stream(seed: int, index: int) -> np.random.RandomState:
    """numpy's old generator, which the authors' scripts seed with the number of the image."""
    if seed == 0:
        return np.random.RandomState(checked_seed(index, 1 << 32))
    mixed = mixed_seed(seed, index)
    return np.random.RandomState([mixed & 0xFFFFFFFF, mixed >> 32])
