"""SIMS and Neon as algorithms ``G = A(D)``: a base model, improved by its own samples."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, ClassVar

from nomadiff.data.sources import SourceMix
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.methods.dm import DM
from nomadiff.methods.method import Method
from nomadiff.methods.sda import SDA
from nomadiff.metrics.evaluate import ReferenceSet
from nomadiff.models.model import Model
from nomadiff.training.presets import Preset

__all__ = ["SIMS", "Neon", "fit_base"]


class SIMS(Method):
    """Self-improving diffusion models with synthetic data (Alemohammad et al. 2024, Algorithm 1).

    The base is trained on all images as if they were real (in a self-consuming loop some are not, and SIMS is what
    keeps that from doing harm); then :func:`~nomadiff.improve.improve.improve` does the rest.

    Args:
        preset, class_labels, **training: as for every method: the base's.
        improvement: settings of the improvement; by default weight 1 and no search, so that no reference is needed.
        reference: what to choose weight and budget by, where the improvement leaves them open.
    """

    name: ClassVar[str] = "sims"
    default: ClassVar[Improvement] = Improvement(weight=1.0, snapshots=1)

    def __init__(
        self,
        preset: str | Preset = "cifar10",
        *,
        class_labels: bool = False,
        improvement: Improvement | None = None,
        reference: ReferenceSet | None = None,
        **training: Any,
    ) -> None:
        super().__init__(preset, class_labels=class_labels, **training)
        self.improvement = improvement or self.default
        self.reference = reference

    def fit(
        self, mix: SourceMix, out: str | Path, *, device: str | None = None, description: str | None = None
    ) -> Model:
        """Train the base in ``out/base`` and improve it; continue what is half done.

        Raises:
            UsageError, NomadiffError, Interrupted: see :func:`~nomadiff.improve.improve.improve`.
        """
        base = fit_base(self, mix, Path(out) / "base", device=device, description=description)
        settings = self.improvement_of(base)
        return improve(base, out, settings, reference=self.reference, device=device).model

    def improvement_of(self, base: Model) -> Improvement:
        """The settings for this base."""
        return replace(self.improvement, space="function")


class Neon(SIMS):
    """Neon (Alemohammad et al. 2025): the same two sets of weights, extrapolated in parameter space.

    One network is sampled, at the base's cost. The copy must stay near the base, so the fine-tuning takes a tenth of
    the base's learning rate unless told otherwise, as Neon does on CIFAR-10.
    """

    name: ClassVar[str] = "neon"

    def improvement_of(self, base: Model) -> Improvement:
        """The settings for this base."""
        options = base.config.training
        rate = self.improvement.learning_rate or options.learning_rate_after(options.budget) / 10
        return replace(self.improvement, space="parameters", learning_rate=rate)


def fit_base(
    method: Method, mix: SourceMix, out: str | Path, *, device: str | None = None, description: str | None = None
) -> Model:
    """The base model of a method that builds on one: trained on everything in the mix as if it were real.

    Args:
        method: gives preset, training options and class labels.
        mix: images.
        out: its run folder.
        device, description: as for ``fit``.
    """
    plain = SDA if len(mix.sources) > 1 else DM
    options = {field.name: getattr(method.training, field.name) for field in fields(method.training)}
    base = plain(method.preset, class_labels=method.class_labels, **options)
    return base.fit(mix, out, device=device, description=description)
