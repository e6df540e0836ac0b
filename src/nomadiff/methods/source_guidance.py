"""Source guidance: CASD's labels instead of SIMS' second network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.improve.auxiliary import auxiliary_config
from nomadiff.improve.own_samples import OwnSamples
from nomadiff.improve.settings import Improvement
from nomadiff.methods.guided import joined
from nomadiff.methods.sims import SIMS
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

    The base draws samples; a copy that gets source labels is fine-tuned on the base's images (label 0) and the samples
    (label 1), half of each batch; guidance moves away from the samples' label. A CASD base keeps its labels, and the
    samples get one more. Unlike SIMS it needs the base's images for the fine-tuning, and it keeps one network in
    memory. ``improvement`` is read as for SIMS; weight and budget are not searched.
    """

    name = "source-guidance"
    description = "Source guidance: one network fine-tuned on real and own images with labels, guided away from own."

    def guide(
        self, base: Model, mix: SourceMix, out: Path, *, budget: int | None = None, device: str | None = None
    ) -> Model:
        """Fine-tune the labelled copy in ``out/labelled``."""
        processes = join_processes(device)
        settings = self.improvement if budget is None else replace(self.improvement, budget=budget)
        count = settings.synthetic_count or len(mix.sources[0])
        own = OwnSamples(base, out, count, mixed_seed(settings.seed, _OWN_SAMPLES) % (1 << 31))
        folder = RunFolder(out / "labelled")
        if not _finished(folder, own, settings):
            own.draw(processes)
            labelled = _with_own(base, mix, own.open())
            config = _labelled(base.config, settings, labelled)
            start = with_source_labels(base.network.state_dict(), config, base.config.sources)
            train(config, labelled, folder, processes, start_from=start, description="fine-tune a labelled copy")
        model = Model.load(folder.path, device=processes.device)
        guidance = GuidanceConfig(
            "source",
            1.0 if settings.weight is None else settings.weight,
            "labelled/model.safetensors",
            interval=settings.interval,
            source=model.config.sources - 1,
            method=self.name,
        )
        if processes.is_main:
            own.drop(keep=settings.keep_synthetic)
            guidance.write(out)
        processes.barrier()
        return Model.guided(guidance, model, path=out / GUIDANCE_NAME)


def _finished(folder: RunFolder, own: OwnSamples, settings: Improvement) -> bool:
    """Whether the copy was trained on these samples with these settings, so that they need not be drawn again."""
    if not folder.model_path.exists() or (settings.keep_synthetic and not own.archive.exists()):
        return False
    training = auxiliary_config(own.model.config, settings).training
    return folder.config().training == training and folder.read_sources()[-1].get("manifest") == own.manifest()


def _with_own(base: Model, mix: SourceMix, own: ImageSource) -> SourceMix:
    """Half a base's images, half its own samples. A CASD base goes on telling its sources apart."""
    if not base.config.sources:
        return SourceMix(joined(mix), [own], real_fraction=0.5)
    real, *synthetic = (float(share) / 2 for share in mix.shares)
    return SourceMix(mix.sources[0], [*mix.sources[1:], own], real_fraction=real, weights=[*synthetic, 0.5])


def _labelled(base: RunConfig, settings: Improvement, mix: SourceMix) -> RunConfig:
    training = auxiliary_config(base, settings).training
    counts = mix.with_class_names(base.vocabulary).class_counts if base.classes else ()
    return replace(
        base,
        method="casd",
        training=training,
        source_names=mix.names,
        shares=tuple(float(share) for share in mix.shares),
        sources=len(mix.names),
        class_counts=counts,
    )


def with_source_labels(state: dict[str, Tensor], config: RunConfig, sources: int = 0) -> dict[str, Tensor]:
    """A network's weights with room for more source labels, which change nothing yet.

    Args:
        state: weights of a denoiser without source labels, or with fewer.
        config: recipe of the same network with them.
        sources: source labels that the weights know already.

    Returns:
        Weights that fit ``config``. What new labels feed begins at zero, or as the real source's where there is one, so
        with any source it is the network it was (EDM2 normalises those weights: there they begin as fresh ones, and the
        network begins only near).

    Raises:
        UsageError: it is a network of a user's own: nobody knows where its labels enter.
    """
    if config.network.is_own:
        raise UsageError(
            f"source labels cannot be added to network {config.network.architecture}, which is not one of nomadiff's: "
            "train it with casd"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = config.build_denoiser()
    fresh = built.state_dict()
    zero = config.network.architecture != "edm2"
    result = {}
    for name, value in fresh.items():
        old = state.get(name)
        if old is not None and old.shape == value.shape:
            result[name] = old.detach().cpu()
            continue
        grown = torch.zeros_like(value) if zero else value.clone()
        if old is not None:
            known = old.detach().cpu()
            if classes := known.shape[1] - sources:  # they come behind the sources
                grown[:, -classes:] = known[:, sources:]
            if sources:
                label_scale: Any = built.network.label_scale
                scale = label_scale(sources) / label_scale(config.sources)
                grown[:, :sources] = known[:, :sources] * scale
                grown[:, sources : config.sources] = grown[:, :1]
        result[name] = grown
    return result
