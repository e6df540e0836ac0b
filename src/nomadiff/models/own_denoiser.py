"""What is known of a denoiser that no recipe describes, how it is told from others, and how it is built again."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from nomadiff.data.latents import LatentSpace
from nomadiff.denoiser import Denoiser, EDMDenoiser, LabelTensors, OwnDenoiser
from nomadiff.errors import DataError, UsageError
from nomadiff.networks.build import build_denoiser, build_filled
from nomadiff.networks.config import NetworkConfig
from nomadiff.plain import from_plain
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.seeding import SampleNoise
from nomadiff.training.config import Facts

__all__ = ["DenoiserFacts", "described", "fingerprint", "require_copyable", "with_contract"]

_LEVELS = 3  # noise levels at which a denoiser is asked who it is


@dataclass(frozen=True)
class DenoiserFacts(Facts):
    """What is known of a denoiser without a recipe; see :class:`~nomadiff.training.config.Facts`.

    Attributes:
        method: what tables and manifests call it.
        drawn_shape: ``(C, S, S)`` of one image.
        sampler: how to sample it unless told otherwise; its range of noise levels is the denoiser's.
        network: its class and the settings to build it with, for what fine-tunes a copy; None if no other process could
            build it.
        source_names, sources, classes, latents, class_names, class_counts: as in a recipe.
    """

    method: str
    drawn_shape: tuple[int, int, int]
    sampler: SamplerConfig
    network: NetworkConfig | None = None
    source_names: tuple[str, ...] = ("real",)
    sources: int = 0
    classes: int = 0
    latents: LatentSpace | None = None
    class_names: tuple[str, ...] = ()
    class_counts: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        channels, height, width = self.drawn_shape
        if channels not in (1, 3) or height != width or height < 1:
            raise UsageError(f"shape must be (1 or 3, S, S), got {self.drawn_shape}")
        self.check_labels()
        if not self.source_names or self.sources not in (0, len(self.source_names)):
            raise UsageError(f"{self.sources} source labels need as many names, got {len(self.source_names)}")
        if self.network and self.drawn_shape != (self.network.channels, *[self.network.resolution] * 2):
            raise UsageError(f"its network draws another shape than {self.drawn_shape}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, S, S)`` of one image."""
        return self.drawn_shape

    @classmethod
    def of(
        cls,
        method: str,
        shape: tuple[int, int, int],
        sigma: tuple[float, float],
        sources: Sequence[str],
        classes: int | Sequence[str],
        network: NetworkConfig | None,
    ) -> DenoiserFacts:
        """From what :meth:`nomadiff.models.model.Model.from_denoiser` is told.

        Raises:
            UsageError: names that are not different, or no such range of noise levels.
        """
        names = () if isinstance(classes, int) else tuple(classes)
        count = classes if isinstance(classes, int) else len(names)
        if count < 0 or len(set(names)) < len(names) or len(set(sources)) < len(sources):
            raise UsageError("sources and classes need names that differ")
        sampler = SamplerConfig(sigma_min=sigma[0], sigma_max=sigma[1])
        (channels, height, width), known = shape, tuple(sources) or ("real",)
        return cls(method, (channels, height, width), sampler, network, known, len(sources), count, class_names=names)

    def build_denoiser(self) -> EDMDenoiser:
        """The denoiser with fresh weights.

        Raises:
            UsageError: no other process could build it, or the module of its class was not imported.
        """
        if self.network is None:
            raise UsageError(f"the denoiser '{self.method}' is not described by a class and its settings")
        return build_denoiser(self.network, sources=self.sources, classes=self.classes, sigma_data=0.5)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "sampler": self.sampler.to_dict()}

    @classmethod
    def from_dict(cls, values: Any) -> DenoiserFacts:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: a field is missing, unknown or of the wrong kind; the message names it.
            UsageError: it contradicts itself, or the module of its class was not imported.
        """
        known = from_plain(cls, values, "this denoiser's facts")
        if known.network is None or not known.network.is_own:
            raise DataError("this denoiser's facts name no class")
        known.network.validate()
        if not known.network.is_own_denoiser:
            raise DataError(f"{known.network.architecture} is no denoiser D(x, sigma)")
        return known


def described(denoiser: nn.Module, shape: Sequence[int], settings: Mapping[str, Any] | None) -> NetworkConfig:
    """A denoiser by its class and the keywords that build it again.

    Raises:
        UsageError: no recipe can name the class, its ``forward`` does not begin with ``x, sigma``, or it needs other
            settings.
    """
    return NetworkConfig.own(type(denoiser), resolution=shape[-1], channels=shape[0], **(settings or {}))


def with_contract(denoiser: Denoiser, sources: int, classes: int) -> Denoiser:
    """A user's own denoiser, which gets ``x``, ``sigma`` and labels as :class:`~nomadiff.denoiser.Denoiser` says."""
    if isinstance(denoiser, nn.Module) and not isinstance(denoiser, EDMDenoiser):
        return OwnDenoiser(denoiser, sources=sources, classes=classes)
    return LabelTensors(denoiser) if sources or classes else denoiser


def require_copyable(denoiser: OwnDenoiser, known: DenoiserFacts, device: torch.device, verb: str) -> None:
    """Check that a copy can be built from class, settings and weights, that it does the same, and can be trained.

    Raises:
        UsageError: says what is missing; ``verb`` is what needs it.
    """
    needs = f"{verb} needs a denoiser that is built again from its class and weights"
    hint = "pass the keywords of its constructor as settings= to Model.from_denoiser"
    try:
        if known.network is None:
            described(denoiser.network, known.shape, None)  # says why
        built = copy.deepcopy(build_filled(known.build_denoiser, denoiser.state_dict())).to(device)
    except UsageError as error:
        raise UsageError(f"{needs}: {error} ({hint}, if that is it)") from error
    except (DataError, TypeError, RuntimeError) as error:
        raise UsageError(f"{needs}; its weights do not fit what is built ({error}): {hint}") from error
    built.eval()
    if fingerprint(built, known, device) != fingerprint(denoiser, known, device):
        raise UsageError(f"{needs}; what is built gives other estimates: {hint}, and keep nothing else outside weights")
    with torch.enable_grad():
        x = torch.zeros(1, *known.shape, device=device)
        labels = {name: 0 for name, count in (("source", known.sources), ("class_label", known.classes)) if count}
        is_trainable = built(x, torch.ones(1, device=device), **labels).requires_grad
    if not is_trainable:
        raise UsageError(f"{verb} fine-tunes a copy, and the estimates of this denoiser depend on no parameter")


@torch.no_grad()
def fingerprint(denoiser: Denoiser, known: Facts, device: torch.device) -> str:
    """SHA-256 of what a denoiser makes of fixed noise at a few noise levels, on this machine: 64 hexadecimal digits.

    Raises:
        UsageError: it is no denoiser: it fails, or gives something else than float32 of the shape it was given.
    """
    zeros = torch.zeros(2, dtype=torch.int64, device=device)
    condition = {name: zeros for name, count in (("source", known.sources), ("class_label", known.classes)) if count}
    low, high = known.sampler.sigma_min, known.sampler.sigma_max
    noise = SampleNoise(0, [0, 1]).normal(known.shape).to(device)
    digest = hashlib.sha256()
    for index in range(_LEVELS):
        sigma = math.exp(math.log(low) + (math.log(high) - math.log(low)) * index / (_LEVELS - 1))
        try:
            estimate = denoiser(noise * sigma, torch.full((2,), sigma, device=device), **condition)
        except Exception as error:
            asked = "".join(f", {name}" for name in condition)
            raise UsageError(
                f"this denoiser fails when it is called as D(x, sigma{asked}) with x (2, "
                f"{', '.join(map(str, known.shape))}) and the others (2,): {type(error).__name__}: {error}"
            ) from error
        if not isinstance(estimate, torch.Tensor) or estimate.dtype != torch.float32 or estimate.shape != noise.shape:
            kind = type(estimate).__name__
            got = f"{estimate.dtype} {tuple(estimate.shape)}" if isinstance(estimate, torch.Tensor) else f"a {kind}"
            raise UsageError(f"a denoiser gives float32 of the shape of x, {tuple(noise.shape)}; this one gave {got}")
        digest.update(estimate.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
