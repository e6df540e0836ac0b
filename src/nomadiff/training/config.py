"""The recipe of a model: plain frozen values that go to ``config.json`` and back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from nomadiff.data.labels import is_number
from nomadiff.data.latents import LatentSpace
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.networks.build import build_denoiser
from nomadiff.networks.config import NetworkConfig
from nomadiff.plain import from_plain
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.settings import TrainingConfig

__all__ = ["Facts", "RunConfig", "ValidationImages"]

_MOST_LABELS = 1_000_000


class Facts:
    """What is known of a model that can be drawn from, whatever made it; a recipe (:class:`RunConfig`) knows it too.

    The attributes are those of the same names there.
    """

    method: str
    sampler: SamplerConfig
    source_names: tuple[str, ...]
    sources: int
    classes: int
    latents: LatentSpace | None
    class_names: tuple[str, ...]
    class_counts: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of what is drawn: an image, or a latent."""
        raise NotImplementedError

    def check_labels(self) -> None:
        """Raise UsageError unless there can be so many labels, and classes have names that differ or none."""
        if not 0 <= self.sources <= _MOST_LABELS or not 0 <= self.classes <= _MOST_LABELS:
            raise UsageError(f"a network of {self.sources:,} source and {self.classes:,} class labels cannot be built")
        names = self.class_names
        if len(names) != (self.classes if names else 0) or len(set(names)) < len(names):
            raise UsageError(f"{self.classes} classes need as many different names, got {len(names)}")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The name of every class; the numbers as text if the names are unknown."""
        return self.class_names or tuple(map(str, range(self.classes)))

    @property
    def stored_class_names(self) -> tuple[str, ...] | None:
        """The names that a set of samples is stored with; None if its classes are known by their numbers."""
        return None if all(map(is_number, self.vocabulary)) else self.class_names


@dataclass(frozen=True)
class ValidationImages:
    """The real images that a run's held-out loss is measured on, as its recipe tells them.

    Attributes:
        count: how many.
        content_hash: of the images, as :class:`~nomadiff.data.image_source.ImageSource` has it.
    """

    count: int
    content_hash: str


@dataclass(frozen=True, repr=False)
class RunConfig(Facts):
    """The whole recipe of a model: what it is, what it was trained on, how it is sampled.

    Attributes:
        method: "dm", "sda", "casd" or the name of what made the model.
        network: the network.
        training: how it was trained.
        sampler: how to sample it unless told otherwise.
        sigma_data: standard deviation of the training data in [-1, 1] units.
        source_names: sources of the training data, "real" first.
        shares: share of each source among the images seen.
        sources: number of source labels the network knows; 0 for an unlabelled network.
        classes: number of class labels; 0 for none.
        class_names: name of every class; empty if there are none, or if only their number is known.
        class_counts: for each source how many of its training images each class has; empty if unknown.
        latents: the space of the latents it draws; None for a model of images.
        validation: the images of its held-out loss; None where none was measured.
    """

    method: str
    network: NetworkConfig
    training: TrainingConfig
    sampler: SamplerConfig
    sigma_data: float
    source_names: tuple[str, ...]
    shares: tuple[float, ...]
    sources: int = 0
    classes: int = 0
    latents: LatentSpace | None = None
    class_names: tuple[str, ...] = ()
    class_counts: tuple[tuple[int, ...], ...] = ()
    validation: ValidationImages | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma_data < 1e6:
            raise UsageError(f"sigma_data must be positive, got {self.sigma_data}")
        if not self.source_names or len(self.shares) != len(self.source_names):
            raise UsageError(f"{len(self.source_names)} sources need a share each, got {len(self.shares)}")
        self.check_labels()
        rows = self.class_counts
        if rows and (len(rows) != len(self.source_names) or any(len(row) != self.classes for row in rows)):
            raise UsageError("every source needs the number of images of each class")
        if rows and (min(map(min, rows), default=0) < 0 or not sum(rows[0])):
            raise UsageError("numbers of images must not be negative, nor all 0")

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        sources = f", sources {', '.join(self.source_names)}" if self.sources else ""
        classes = f", {self.classes} classes" if self.classes else ""
        told = f"{self.training.budget:,} images, seed {self.training.seed}"
        return f"RunConfig({self.method}: {self.network.architecture} {size}, {told}{sources}{classes})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape ``(C, H, W)`` of what the network draws: an image, or a latent."""
        return self.network.channels, self.network.resolution, self.network.resolution

    def build_denoiser(self) -> EDMDenoiser:
        """A denoiser with this configuration and fresh weights from torch's global generator."""
        return build_denoiser(self.network, sources=self.sources, classes=self.classes, sigma_data=self.sigma_data)

    def with_budget(self, budget: int) -> RunConfig:
        """The same recipe for another number of images."""
        return replace(self, training=replace(self.training, budget=budget))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        values["network"] = self.network.to_dict()
        values["sampler"] = self.sampler.to_dict()
        for name in ("compile", "checkpoint_gradients"):  # left out unless they were asked for, as before they existed
            if values["training"][name] == getattr(TrainingConfig, name):
                values["training"].pop(name)
        values.pop("latents")
        if self.latents is not None:  # left out of the recipe of a model of images
            values["latents"] = self.latents.to_dict()
        if not self.class_names:  # and classes of one without
            values.pop("class_names")
        if not self.class_counts:
            values.pop("class_counts")
        if self.validation is None:
            values.pop("validation")
        return {**values, "source_names": list(self.source_names), "shares": list(self.shares)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> RunConfig:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: a field is missing, unknown or of the wrong kind; the message names it.
        """
        return from_plain(cls, values, "this model's recipe")
