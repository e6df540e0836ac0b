"""All settings of a training run, as plain frozen values that go to ``config.json`` and back."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass, replace
from typing import Any

from nomadiff.data.labels import is_number
from nomadiff.data.latents import LatentSpace
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.networks.build import build_denoiser
from nomadiff.networks.config import NetworkConfig
from nomadiff.plain import from_plain
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.phema import exponent_of_std
from nomadiff.training.precision import PRECISIONS

__all__ = ["COMPILE", "Facts", "RunConfig", "TrainingConfig", "ValidationImages", "warn_of_more"]

COMPILE = ("auto", "on", "off")

_MOST_LABELS = 1_000_000


@dataclass(frozen=True)
class TrainingConfig:
    """How a denoiser is trained. Every length is counted in images seen, never in steps.

    Attributes:
        budget: Images to see in all, such as 5Mi or 150k on the command line.
        batch: Images per optimizer step, over all processes.
        microbatch: Images per forward pass and process; None takes the whole share of the batch at once, auto as much
            of it as fits into memory. Smaller needs less memory; the gradient is the same up to the randomness drawn
            per pass.
        checkpoint_gradients: Keep only the inputs of the network's blocks and compute the rest again in the backward
            pass: far less memory, for a third more computation; the same results.
        learning_rate: Adam's, after warm-up.
        warmup: Images over which the learning rate rises linearly from 0.
        lr_decay: Images after which the learning rate falls as one over the square root of the images seen (Karras et
            al. 2024); None keeps it constant.
        adam_beta2: Decay of Adam's second moment; the first moment's is 0.9.
        ema_half_life: Images after which an old weight counts half in the exponential moving average.
        ema_rampup: The half-life is at most this share of the images seen so far; None switches the ramp off.
        ema_stds: Relative widths of power-function averages (Karras et al. 2024) to keep instead of the one with a
            half-life. The last is the model; every snapshot holds all, so that
            :func:`~nomadiff.training.post_hoc.rebuild_average` can make any other.
        augment: Probability of each non-leaky augmentation (0 switches them off); the network needs ``augment_dim``.
        class_dropout: Share of images whose class label is hidden, for classifier-free guidance.
        precision: fp32, bf16 or fp16 (autocast of the network), or auto: the fastest of them on the machine;
            weights and everything else stay fp32.
        compile: Compile the network's blocks with torch.compile: on, off, or auto: on a GPU, where a run is long enough
            to pay for the start. Results are the same but for rounding.
        p_mean, p_std: Mean and standard deviation of ln(sigma) in training.
        snapshot_every: Images between snapshots (and states to resume from).
        log_every: Images between lines of ``log.jsonl``.
        seed: Seed of initialisation, data order and noise.
    """

    budget: int
    batch: int = 512
    microbatch: int | str | None = None
    checkpoint_gradients: bool = False
    learning_rate: float = 1e-3
    warmup: int = 10_000_000
    lr_decay: int | None = None
    adam_beta2: float = 0.999
    ema_half_life: int = 500_000
    ema_rampup: float | None = 0.05
    ema_stds: tuple[float, ...] = ()
    augment: float = 0.0
    class_dropout: float = 0.0
    precision: str = "fp32"
    compile: str = "auto"
    p_mean: float = -1.2
    p_std: float = 1.2
    snapshot_every: int = 2_500_000
    log_every: int = 50_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("budget", "batch", "snapshot_every", "log_every"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("microbatch", "lr_decay"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        if isinstance(self.microbatch, str) and self.microbatch != "auto":
            raise UsageError(f"microbatch must be a number of images or auto, got {self.microbatch}")
        if self.compile not in COMPILE:
            raise UsageError(f"compile must be one of {', '.join(COMPILE)}, got {self.compile}")
        if not self.learning_rate > 0 or self.warmup < 0 or self.ema_half_life < 0 or self.seed < 0:
            raise UsageError("learning_rate must be positive; warmup, ema_half_life and seed must not be negative")
        if not 0 < self.adam_beta2 < 1:
            raise UsageError(f"adam_beta2 must lie in 0..1 (both excluded), got {self.adam_beta2}")
        for std in self.ema_stds:
            exponent_of_std(std)
        if len(set(self.ema_stds)) < len(self.ema_stds):
            raise UsageError(f"ema_stds must differ, got {', '.join(map(str, self.ema_stds))}")
        if not 0 <= self.augment <= 1 or not 0 <= self.class_dropout < 1:
            raise UsageError("augment must lie in 0..1 and class_dropout in 0..1 (1 excluded)")
        if self.precision not in PRECISIONS:
            raise UsageError(f"unknown precision '{self.precision}': choose one of {', '.join(PRECISIONS)}")

    def learning_rate_after(self, images_seen: int) -> float:
        """The learning rate of the step that follows ``images_seen`` images: the ramp, the plateau, the decay."""
        ramp = min(images_seen / self.warmup, 1.0) if self.warmup else 1.0
        decay = max(images_seen / self.lr_decay, 1.0) ** -0.5 if self.lr_decay else 1.0
        return self.learning_rate * ramp * decay

    @property
    def inside_warmup(self) -> str:
        """A sentence that says so where the whole budget lies inside the warm-up; empty otherwise."""
        if self.budget >= self.warmup:
            return ""
        return (
            f"the budget of {self.budget:,} images lies inside the warm-up of {self.warmup:,}: the learning rate never "
            f"reaches its value; pass a larger --budget, or --warmup {self.budget // 10}"
        )

    def warn_of_budget(self) -> None:
        """Warn where the budget is too small for what it is to do: once a process, whoever calls.

        Warns:
            NomadiffWarning: the budget lies inside the warm-up, or is much less than whole batches.
        """
        warn_of_more(self.budget, self.steps * self.batch, f"a step takes {self.batch}; pass a smaller --batch")
        if self.inside_warmup:
            warnings.warn(self.inside_warmup, NomadiffWarning, stacklevel=1)

    @property
    def steps(self) -> int:
        """Optimizer steps that see at least ``budget`` images."""
        return -(-self.budget // self.batch)


def warn_of_more(asked: int, made: int, why: str) -> None:
    """Warn where a training sees far more images, by a tenth at least, than it was asked to.

    Warns:
        NomadiffWarning: it does.
    """
    if made > 1.1 * asked:
        warnings.warn(f"the budget of {asked:,} images becomes {made:,}: {why}", NomadiffWarning, stacklevel=1)


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
