"""Source guidance: CASD's labels instead of SIMS' second network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from nomadiff.data.sources import SourceMix, union
from nomadiff.improve.auxiliary import auxiliary_config
from nomadiff.improve.own_samples import OwnSamples
from nomadiff.improve.settings import Improvement
from nomadiff.methods.sims import SIMS, fit_base
from nomadiff.models.guided_model import GUIDANCE_NAME, GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.processes import join_processes
from nomadiff.seeding import mixed_seed
from nomadiff.training.config import RunConfig
from nomadiff.training.loop import train
from nomadiff.training.run_folder import RunFolder

__all__ = ["SourceGuided", "with_source_labels"]

_OWN_SAMPLES = 2


class SourceGuided(SIMS):
    """``(1 + w) D(., real) - w D(., own)`` of one network.

    The base draws samples; a copy that gets source labels is fine-tuned on the real images (label 0) and the samples
    (label 1), half of each batch; guidance moves away from label 1. Unlike SIMS it needs the real images for the
    fine-tuning, and it keeps one network in memory. ``improvement`` is read as for SIMS; weight and budget are not
    searched.
    """

    name: ClassVar[str] = "source-guidance"
    default: ClassVar[Improvement] = Improvement(weight=1.0, snapshots=1)

    def fit(
        self, mix: SourceMix, out: str | Path, *, device: str | None = None, description: str | None = None
    ) -> Model:
        """Train the base in ``out/base``, fine-tune the labelled copy in ``out/labelled``; continue what is half done.

        Raises:
            UsageError, NomadiffError, Interrupted: see :func:`~nomadiff.training.loop.train`.
        """
        out = Path(out)
        base = fit_base(self, mix, out / "base", device=device, description=description)
        processes = join_processes(device)
        settings = self.improvement
        count = settings.synthetic_count or len(mix.sources[0])
        own = OwnSamples(base, out, count, mixed_seed(settings.seed, _OWN_SAMPLES) % (1 << 31))
        own.draw(processes)
        given = union("real", mix.sources) if len(mix.sources) > 1 else mix.sources[0]
        labelled = SourceMix(given, [own.open()], real_fraction=0.5)
        config = _labelled(base.config, settings, labelled)
        folder = RunFolder(out / "labelled")
        start = with_source_labels(base.network.state_dict(), config)
        train(config, labelled, folder, processes, start_from=start, description="fine-tune a labelled copy")
        guidance = GuidanceConfig(
            "source",
            1.0 if settings.weight is None else settings.weight,
            "labelled/model.safetensors",
            interval=settings.interval,
            method=self.name,
        )
        if processes.is_main:
            own.drop(keep=settings.keep_synthetic)
            guidance.write(out)
        processes.barrier()
        return Model.guided(guidance, Model.load(folder.path, device=processes.device), path=out / GUIDANCE_NAME)


def _labelled(base: RunConfig, settings: Improvement, mix: SourceMix) -> RunConfig:
    training = auxiliary_config(base, settings).training
    counts = mix.with_class_names(base.vocabulary).class_counts if base.classes else ()
    return replace(
        base,
        method="casd",
        training=training,
        source_names=("real", "own"),
        shares=(0.5, 0.5),
        sources=2,
        class_counts=counts,
    )


def with_source_labels(state: dict[str, Tensor], config: RunConfig) -> dict[str, Tensor]:
    """A network's weights with room for source labels that do nothing yet.

    Args:
        state: weights of a denoiser without source labels.
        config: recipe of the same network with them.

    Returns:
        Weights that fit ``config``. What the labels feed begins at zero, so with any source it is the network it was
        (EDM2 normalises those weights: there they begin as fresh ones, and the network begins only near).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        fresh = config.build_denoiser().state_dict()
    zero = config.network.architecture != "edm2"
    result = {}
    for name, value in fresh.items():
        old = state.get(name)
        if old is not None and old.shape == value.shape:
            result[name] = old.detach().cpu()
            continue
        grown = torch.zeros_like(value) if zero else value.clone()
        if old is not None:  # labels it had come behind the sources
            grown[:, -old.shape[1] :] = old.detach().cpu()
        result[name] = grown
    return result
