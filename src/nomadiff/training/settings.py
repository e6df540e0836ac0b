"""The settings of a training, as plain values."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from nomadiff.errors import NomadiffWarning, UsageError

__all__ = ["TrainingConfig", "warn_of_more"]


@dataclass(frozen=True)
class TrainingConfig:
    """How a denoiser is trained. Every length is counted in images seen, never in steps.

    Attributes:
        budget: Images to see in all, such as 150k or 5Mi (million) on the command line.
        batch: Images per optimizer step, over all processes.
        microbatch: Images per forward pass and process; by default the whole share of the batch at once, auto as much
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
        compile: Compile the network's blocks with torch.compile. Results are the same but for rounding.
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
    compile: bool = False
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
        if not self.learning_rate > 0 or self.warmup < 0 or self.ema_half_life < 0 or self.seed < 0:
            raise UsageError("learning_rate must be positive; warmup, ema_half_life and seed must not be negative")
        if not 0 < self.adam_beta2 < 1:
            raise UsageError(f"adam_beta2 must lie in 0..1 (both excluded), got {self.adam_beta2}")
        from nomadiff.training.phema import exponent_of_std
        from nomadiff.training.precision import PRECISIONS

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
