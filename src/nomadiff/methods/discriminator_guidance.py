"""Discriminator guidance (EDM-G++): a base corrected by a discriminator between real images and its own."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.files import read_json, write_json
from nomadiff.guidance.strength import Interval
from nomadiff.improve.own_samples import OwnSamples
from nomadiff.methods.guided import GuidedMethod, joined
from nomadiff.models.discriminator import Discriminator
from nomadiff.models.guided_model import GUIDANCE_NAME, GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.monitoring.settings import Monitoring
from nomadiff.plain import differences
from nomadiff.processes import Processes, join_processes
from nomadiff.seeding import mixed_seed
from nomadiff.training.config import RunConfig
from nomadiff.training.fitting import Fitting, fit
from nomadiff.training.loss import training_levels
from nomadiff.training.matching import require_match
from nomadiff.training.presets import AnyPreset

__all__ = ["DiscriminatorGuided", "train_discriminator"]

_OWN_SAMPLES = 2
_SETTINGS = "discriminator.json"


class DiscriminatorGuided(GuidedMethod):
    """A base trained on the images, and a discriminator that tells them from the base's samples (Kim et al. 2023).

    Args:
        preset, options: as for every method that guides a base: class_labels, base, and fields of the training.
        discriminator: how the discriminator is trained; by default on a fifth as many images as the base.
        synthetic_count: own samples to train it on; as many as there are real images by default.
        weight: weight of its gradient.
        interval: noise levels at which it acts; None for all.
    """

    name = "discriminator-guidance"
    shares_work = False
    description = "Discriminator guidance: a base and the gradient of a discriminator between real and own images."

    def __init__(
        self,
        preset: AnyPreset = "cifar10",
        *,
        discriminator: Fitting | None = None,
        synthetic_count: int | None = None,
        weight: float = 1.0,
        interval: Interval | None = None,
        **options: Any,
    ) -> None:
        super().__init__(preset, **options)
        training = self.training
        self.discriminator = discriminator or Fitting(
            budget=self.part_of_budget(0.2),
            batch=training.batch,
            save_every=training.snapshot_every,
            seed=training.seed,
        )
        self.synthetic_count, self.weight, self.interval = synthetic_count, weight, interval

    def second_budget(self, recipe: RunConfig) -> int:
        """Images of the discriminator's training."""
        options = self.discriminator
        return -(-options.budget // options.batch) * options.batch

    def check_folder(self, out: Path, recipe: RunConfig, mix: SourceMix) -> None:
        """As for every method that guides a base; and refuse a discriminator that was trained otherwise.

        Raises:
            UsageError: the folder holds one.
        """
        super().check_folder(out, recipe, mix)
        if (out / _SETTINGS).exists():
            found, wanted = read_json(out / _SETTINGS, dict), self._settings_on(mix)
            if changed := differences({name: found.get(name) for name in wanted}, wanted):
                told = f"{out} holds another discriminator (differs in {changed})"
                raise UsageError(f"{told}; choose another --out")

    def _settings_on(self, mix: SourceMix) -> dict[str, Any]:
        """What a discriminator depends on beside the base."""
        options = {name: value for name, value in asdict(self.discriminator).items() if name != "save_every"}
        return {**options, "synthetic_count": self.synthetic_count or len(mix.sources[0])}

    def guide(
        self, base: Model, mix: SourceMix, out: Path, *, budget: int | None = None, device: str | None = None
    ) -> Model:
        """Train the discriminator beside the base; ``budget`` is the discriminator's own.

        Raises:
            UsageError: there are several processes (the discriminator trains in one).
        """
        path = out / "discriminator.safetensors"
        processes = _one_process(device)
        seed = mixed_seed(self.discriminator.seed, _OWN_SAMPLES) % (1 << 31)
        settings = self._settings_on(mix)
        own = OwnSamples(base, out, settings["synthetic_count"], seed)
        if not path.exists():
            write_json(out / _SETTINGS, settings)
            own.draw(processes)
            real = mix.sources[0] if base.config.sources else joined(mix)
            train_discriminator(base, SourceMix(real, [own.open()], real_fraction=0.5), path, self.discriminator)
        own.drop(keep=False)  # also of a process that was killed once the discriminator was written
        _state_path(path).unlink(missing_ok=True)
        guidance = GuidanceConfig(
            "discriminator", self.weight, "base/model.safetensors", path.name, self.interval, method=self.name
        )
        guidance.write(out)
        return Model.guided(guidance, base, Discriminator.load(path, device=base.device), path=out / GUIDANCE_NAME)

    def fit(
        self,
        mix: SourceMix,
        out: str | Path,
        *,
        device: str | None = None,
        description: str | None = None,
        monitoring: Monitoring | None = None,
    ) -> Model:
        """As for every method that guides a base; in one process.

        Raises:
            UsageError: there are several processes (the discriminator trains in one), or as for other methods.
            NomadiffError, Interrupted: see :func:`~nomadiff.training.loop.train`.
        """
        _one_process(device)
        return super().fit(mix, out, device=device, description=description, monitoring=monitoring)


def _one_process(device: str | None) -> Processes:
    processes = join_processes(device)
    if processes.count > 1:
        raise UsageError("a discriminator trains in one process: start it without torchrun")
    return processes


def train_discriminator(base: Model, mix: SourceMix, path: Path, options: Fitting) -> Discriminator:
    """Train a discriminator between real images (source 0) and a model's own (source 1), both noisy.

    Cross-entropy over the noise levels of the base's training; the encoder starts at the base's weights.

    Args:
        base: the model whose samples they are; its class labels are passed on.
        mix: real and own images, half each.
        path: where it is written.
        options: how it is trained.

    Raises:
        UsageError: the base is guided and has no single network, or the images are not what it draws.
        NomadiffError: the loss is not finite any more.
    """
    require_match(base.config, mix)
    state = {name: value.cpu() for name, value in base.network.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed_seed(options.seed, 1))
        discriminator = Discriminator(base.config, state).to(base.device)
    if base.config.classes:
        mix = mix.with_class_names(base.config.vocabulary)
    training = base.config.training
    constant: dict[str, Any] = {"source": 0} if base.config.sources else {}

    def loss(images_seen: int, generator: torch.Generator) -> Tensor:
        batch = mix.batch(images_seen, options.batch, options.seed)
        clean = mix.clean(batch.images.to(base.device), generator)
        sigma = training_levels(len(clean), training.p_mean, training.p_std, generator)
        noisy = clean + sigma.reshape(-1, 1, 1, 1) * torch.randn(clean.shape, generator=generator, device=base.device)
        condition = dict(constant)
        if base.config.classes:
            assert batch.labels is not None
            condition["class_label"] = batch.labels
        is_real = (batch.source == 0).float().to(base.device)
        return F.binary_cross_entropy_with_logits(discriminator(noisy, sigma, **condition), is_real)

    description = "train a discriminator"
    trained = fit(discriminator, loss, options, _state_path(path), device=base.device, description=description)
    trained.save(path)
    return trained


def _state_path(path: Path) -> Path:
    """Path of the state from which the training of the discriminator at ``path`` continues."""
    return path.with_name("discriminator-state.safetensors")
