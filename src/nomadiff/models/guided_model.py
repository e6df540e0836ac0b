"""A guided model on disk: ``guidance.json`` names the models it is made of and how they are combined."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from nomadiff.denoiser import Denoiser, EDMDenoiser, OwnDenoiser
from nomadiff.errors import UsageError
from nomadiff.files import read_json, write_json
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.gradient import DiscriminatorGuidance
from nomadiff.guidance.label_guidance import ClassifierFreeGuidance, SourceGuidance
from nomadiff.guidance.merge import merged
from nomadiff.guidance.perturbed_attention import perturbed_attention_guidance
from nomadiff.guidance.shared_encoder import SharedEncoder, shared_layers
from nomadiff.guidance.strength import Interval, check_guidance
from nomadiff.models.discriminator import Discriminator
from nomadiff.models.partial_copy import with_frozen_part_of
from nomadiff.plain import from_plain
from nomadiff.training.config import Facts, RunConfig

__all__ = ["GUIDANCE_NAME", "KINDS", "GuidanceConfig", "combine"]

GUIDANCE_NAME = "guidance.json"

KINDS = {
    "extrapolation": "base and auxiliary in function space (SIMS eq. 5, autoguidance)",
    "merge": "base and auxiliary merged into one network (SIMS eq. 6, Neon)",
    "source": "the source labels of one CASD model",
    "classifier-free": "the class labels of one model trained with some hidden",
    "perturbed-attention": "one model with and without attention",
    "discriminator": "a base and a discriminator (EDM-G++)",
}

_WITH_AUXILIARY = ("extrapolation", "merge", "discriminator")


@dataclass(frozen=True)
class GuidanceConfig:
    """How a guided model is made.

    Attributes:
        kind: one of :data:`KINDS`.
        weight: guidance weight; 0 is the base.
        base: the base model, a path relative to the folder of ``guidance.json``.
        auxiliary: the second model or the discriminator, likewise; None for kinds that have none.
        interval: lowest and highest sigma at which it acts; None for all.
        source: the synthetic source to move away from, for kind "source".
        method: what tables and manifests call the model; the kind unless given.

    Raises:
        UsageError: the kind is unknown, an auxiliary is missing or superfluous, or an interval is given to "merge".
    """

    kind: str
    weight: float
    base: str
    auxiliary: str | None = None
    interval: Interval | None = None
    source: int = 1
    method: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown guidance '{self.kind}': choose one of {', '.join(KINDS)}")
        if (self.auxiliary is not None) != (self.kind in _WITH_AUXILIARY):
            needs = "needs an auxiliary" if self.auxiliary is None else "takes no auxiliary"
            raise UsageError(f"guidance '{self.kind}' {needs}")
        check_guidance(self.weight, self.interval)
        if self.kind == "merge" and self.interval is not None:
            raise UsageError("merged weights act at every noise level: an interval needs function space")

    @property
    def name(self) -> str:
        """The model's method name."""
        return self.method or self.kind

    def write(self, folder: str | Path) -> None:
        """Write ``guidance.json``: from then on the folder is a model that ``Model.load`` reads."""
        write_json(Path(folder) / GUIDANCE_NAME, asdict(self))

    @classmethod
    def read(cls, folder: str | Path) -> GuidanceConfig:
        """Read ``guidance.json``.

        Raises:
            DataError: it is damaged or says something unknown; the message names it.
        """
        path = Path(folder) / GUIDANCE_NAME
        return from_plain(cls, read_json(path), str(path))

    def facts(self) -> dict[str, Any]:
        """Its entry in a manifest: everything but the paths."""
        facts: dict[str, Any] = {"kind": self.kind, "weight": self.weight, "interval": self.interval}
        return {**facts, "source": self.source} if self.kind == "source" else facts


class Part(Protocol):
    """The interface of a part of a guided model; see :class:`~nomadiff.models.model.Model`."""

    denoiser: Denoiser
    known: Facts
    guidance: GuidanceConfig | None

    @property
    def config(self) -> RunConfig: ...

    @property
    def network(self) -> EDMDenoiser: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...


def combine(guidance: GuidanceConfig, base: Part, auxiliary: Part | Discriminator | None) -> tuple[Denoiser, Facts]:
    """The denoiser of a guided model and what is known of it: the base's recipe, under its own name.

    Args:
        guidance: how to combine.
        base: the base model.
        auxiliary: the second model, the discriminator, or None.

    Raises:
        UsageError: the parts do not fit together.
    """
    recipe = _renamed(base.known, guidance.name)
    weight, interval = guidance.weight, guidance.interval
    if isinstance(auxiliary, Discriminator):
        return DiscriminatorGuidance(base.denoiser, auxiliary, weight, interval=interval), recipe
    if auxiliary is not None:
        return _with_auxiliary(guidance, base, auxiliary), recipe
    if guidance.kind == "source":
        # the source is part of the guidance: what is left takes none
        guided = SourceGuidance(base.network, weight, source=guidance.source, interval=interval)
        return guided, replace(base.config, method=guidance.name, sources=0)
    if guidance.kind == "perturbed-attention":
        return perturbed_attention_guidance(base.network, weight, interval=interval), recipe
    if base.config.training.class_dropout == 0:
        raise UsageError("classifier-free guidance needs a model trained with --class-dropout above 0")
    return ClassifierFreeGuidance(base.network, weight, interval=interval), recipe


def _renamed(known: Facts, method: str) -> Facts:
    assert is_dataclass(known)
    renamed: Facts = replace(known, method=method)
    return renamed


def _with_auxiliary(guidance: GuidanceConfig, base: Part, auxiliary: Part) -> Denoiser:
    for name in ("sources", "classes"):
        known = getattr(base.known, name), getattr(auxiliary.known, name)
        if known[0] != known[1]:
            raise UsageError(f"base and auxiliary get the same labels, but they know {known[0]} and {known[1]} {name}")
    for mine, theirs in zip(base.known.class_names, auxiliary.known.class_names):
        if mine != theirs:
            told = f"the class '{mine}' of one is the other's '{theirs}'"
            raise UsageError(f"base and auxiliary get the same labels, and {told}")
    if base.shape != auxiliary.shape:
        raise UsageError(f"base and auxiliary must draw images of one shape, got {base.shape} and {auxiliary.shape}")
    networks = all(isinstance(part.denoiser, EDMDenoiser) for part in (base, auxiliary))
    plain = networks and not any(part.guidance or isinstance(part.denoiser, OwnDenoiser) for part in (base, auxiliary))
    if guidance.kind == "extrapolation" and not plain:
        return Extrapolation(base.denoiser, auxiliary.denoiser, guidance.weight, guidance.interval)
    one, other = base.network, with_frozen_part_of(base.network, auxiliary.network, auxiliary.config)
    if _identical(one, other):
        warnings.warn("base and auxiliary have identical weights: the guidance weight has no effect", stacklevel=2)
    if guidance.kind == "merge":
        return merged(one, (other, guidance.weight))
    if shared_layers(one, other) is not None:
        return SharedEncoder(one, other, guidance.weight, guidance.interval)
    return Extrapolation(one, other, guidance.weight, guidance.interval)


def _identical(one: EDMDenoiser, other: EDMDenoiser) -> bool:
    theirs = other.state_dict()
    return one.state_dict().keys() == theirs.keys() and all(
        value.shape == theirs[name].shape and torch.equal(value, theirs[name].to(value.device))
        for name, value in one.state_dict().items()
    )
