"""The auxiliary model: a copy of a base, fine-tuned on other images (SIMS Algorithm 1, step 3)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.improve.settings import Improvement
from nomadiff.models.own_denoiser import DenoiserFacts
from nomadiff.models.train_parts import TRAIN_PARTS, trained_prefixes
from nomadiff.seeding import mixed_seed
from nomadiff.training.config import Facts, RunConfig
from nomadiff.training.presets import PRESETS
from nomadiff.training.settings import warn_of_more

__all__ = ["AuxiliaryConfig", "auxiliary_config", "budgets", "default_share"]

_TRAINING = 3  # keeps the fine-tuning's noise apart from that of the samples


class AuxiliaryConfig(RunConfig):
    """A recipe whose denoiser has the parts frozen that its method name says are not trained."""

    def build_denoiser(self) -> EDMDenoiser:
        """A denoiser with fresh weights, of which only those to train require gradients."""
        denoiser = super().build_denoiser()
        trained = trained_prefixes(self)
        for name, parameter in denoiser.network.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        if "" not in trained:
            first = denoiser.network.get_submodule(trained[0].removesuffix("."))
            first.register_forward_pre_hook(_with_gradient)
        return denoiser


def _with_gradient(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Require the gradient of the first trained layer's input, though it is not used.

    The backward pass of group norm crashes the process (torch 2.13, CPU, channels last) when its input needs none.
    """
    if torch.is_grad_enabled():
        inputs[0].requires_grad_()


def auxiliary_config(base: Facts, improvement: Improvement) -> AuxiliaryConfig:
    """The recipe of the fine-tuning.

    For a denoiser of a user's own, of which no recipe says how it was trained, budget and learning rate must be given;
    the rest is as in the preset "tiny", in fp32.

    Own samples carry source label 0 in the copy of a CASD model: base and auxiliary are evaluated at one label, and
    what is extrapolated is the difference between real images and the model's own at that label. The labels of the
    synthetic sources stay free: no image carries them, and the copy is never asked for them.

    The budget is rounded up so that all snapshots lie on optimizer steps; a warning says so where that is much.

    Raises:
        UsageError: budget or learning rate is missing, or a half-life is given that no average would have.
    """
    if not isinstance(base, RunConfig):
        base = _recipe_of(base, improvement)
    options = base.training
    if improvement.ema_half_life is not None and options.ema_stds and not improvement.keep_ema:
        raise UsageError(
            "this base keeps averages of relative widths, which have no half-life: --ema-half-life needs --keep-ema"
        )
    rate = improvement.learning_rate or options.learning_rate_after(options.budget)
    budget = improvement.budget or max(round(options.budget * default_share(base)), options.batch)
    apart = -(-budget // improvement.snapshots)
    states = -(-apart // options.snapshot_every)  # a state to resume from at least as often as in the base's training
    every = -(-apart // (states * options.batch)) * options.batch
    if improvement.budget is not None:
        parts = f"{improvement.snapshots} snapshots of whole batches of {options.batch}"
        warn_of_more(budget, every * states * improvement.snapshots, f"{parts}; pass fewer --snapshots")
    training = replace(
        options,
        budget=every * states * improvement.snapshots,
        learning_rate=rate,
        warmup=improvement.warmup,
        lr_decay=None,
        ema_half_life=options.ema_half_life if improvement.ema_half_life is None else improvement.ema_half_life,
        ema_rampup=None if improvement.keep_ema else options.ema_rampup,
        ema_stds=() if improvement.keep_ema else options.ema_stds,
        snapshot_every=every,
        log_every=min(options.log_every, every),
        seed=mixed_seed(improvement.seed, _TRAINING) % (1 << 31),
    )
    return AuxiliaryConfig(
        method=TRAIN_PARTS[improvement.train_part],
        network=base.network,
        training=training,
        sampler=base.sampler,
        sigma_data=base.sigma_data,
        source_names=("own", *base.source_names[1:]) if base.sources else ("own",),
        shares=(1.0, *[0.0] * (base.sources - 1)) if base.sources else (1.0,),
        sources=base.sources,
        classes=base.classes,
        latents=base.latents,
        class_names=base.class_names,
        class_counts=base.class_counts if base.sources else base.class_counts[:1],
    )


def _recipe_of(known: Facts, improvement: Improvement) -> RunConfig:
    """A recipe in the place of the one that a denoiser of a user's own does not have."""
    assert isinstance(known, DenoiserFacts) and known.network is not None
    if improvement.budget is None or improvement.learning_rate is None:
        raise UsageError(
            f"no recipe says how '{known.method}' was trained: give the fine-tuning a budget and a learning rate "
            "(--budget, --learning-rate)"
        )
    options = replace(
        PRESETS["tiny"].training,
        budget=improvement.budget,
        learning_rate=improvement.learning_rate,
        precision="fp32",
    )
    return RunConfig(
        method=known.method,
        network=known.network,
        training=options,
        sampler=known.sampler,
        sigma_data=0.5,
        source_names=known.source_names,
        shares=(1.0, *[0.0] * (len(known.source_names) - 1)),
        sources=known.sources,
        classes=known.classes,
        class_names=known.class_names,
    )


def default_share(base: RunConfig) -> float:
    """The default budget of a fine-tuning as a share of the base's: SIMS' own, by the kind of network.

    SIMS fine-tuned EDM's networks for CIFAR-10 and FFHQ on 17 to 20 % of the images they were trained on, and EDM2's
    for ImageNet on 5 % (56 of 1074 Mi at 64 pixels, 102 of 2147 Mi at 512); ADM is EDM's network for ImageNet.
    """
    return 0.05 if base.network.architecture in ("edm2", "adm") else 0.2


def budgets(config: RunConfig, snapshots: int) -> list[int]:
    """Images seen at the snapshots to choose from, ascending."""
    return [config.training.budget * (index + 1) // snapshots for index in range(snapshots)]
