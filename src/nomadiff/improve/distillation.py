"""Distillation of a guided model: its quality at the cost of one network."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.files import write_json
from nomadiff.models.model import Model
from nomadiff.models.provenance import SOURCES_NAME, origins
from nomadiff.plain import differences
from nomadiff.processes import Processes
from nomadiff.training.fitting import Fitting, fit
from nomadiff.training.loss import training_levels
from nomadiff.training.matching import require_match
from nomadiff.training.run_folder import RunFolder, images_seen_by, load_metadata, save_tensors

__all__ = ["distil", "teacher_of"]


def distil(
    model: Model, images: ImageSource, out: str | Path, options: Fitting, *, processes: Processes | None = None
) -> Model:
    """Teach one network what a guided model computes at every noise level.

    The student starts at the base's weights and minimises ``lambda(sigma) |D_student(x) - D_guided(x)|^2`` over the
    noise levels of training, EDM's loss with the guided estimate instead of the clean image. The target carries no
    noise of its own, so a short training suffices.

    Args:
        model: a guided model whose base is a single network.
        images: what noise is added to: real images or the model's own. For a class-conditional model with labels.
        out: run folder of the student; a finished one is only read.
        options: how it is trained.
        processes: who trains it together; None for this one alone.

    Returns:
        The student: a plain model of one network, method "distilled".

    Raises:
        UsageError: the model is not guided, its base has no single network, the images are not what it draws, the
            batch does not divide among the processes, or ``out`` holds the student of another model or training.
        NomadiffError: the loss is not finite any more.
    """
    if model.guidance is None:
        raise UsageError("only a guided model can be distilled; this one is a single network already")
    group = processes or Processes(0, 1, model.device)
    if options.batch % group.count:
        raise UsageError(f"batch {options.batch} does not divide among {group.count} processes")
    base = model.parts[0]
    assert isinstance(base, Model)
    mix = SourceMix(images)
    if model.config.classes:
        mix = mix.with_class_names(model.config.vocabulary)
    require_match(model.config, mix)
    folder = RunFolder(out)
    teacher_sha256 = model.sha256
    settings = {**asdict(options), "images": images.content_hash}
    settings.pop("save_every")
    digest = hashlib.sha256(json.dumps([teacher_sha256, settings], sort_keys=True).encode()).hexdigest()
    state = (
        folder.path / f"student-of-{digest[:16]}.safetensors"
    )  # no other teacher's goes on from it, or other training
    if (found := teacher_of(folder.path)) is not None:
        if found != teacher_sha256:
            raise UsageError(f"{folder.path} holds the student of another model; choose another folder")
        trained_with = load_metadata(folder.model_path).get("settings", settings)  # none before it was written
        if changed := differences(trained_with, settings):
            told = f"{folder.path} holds a student that was trained otherwise (differs in {changed})"
            raise UsageError(f"{told}; choose another folder")
        _forget_states(folder.path, group)  # of a process that was killed once the model was written
        return Model.load(folder.path, device=model.device)
    config = replace(base.config, method="distilled")
    with torch.random.fork_rng(devices=[]):
        student = config.build_denoiser()
    student.load_state_dict(base.network.state_dict())
    student.to(model.device)
    teacher = model.sampling_denoiser()
    training = config.training
    source: dict[str, Any] = {"source": 0} if config.sources else {}
    share = options.batch // group.count

    def loss(images_seen: int, generator: torch.Generator) -> Tensor:
        batch = mix.batch(images_seen + group.rank * share, share, options.seed)
        clean = mix.clean(batch.images.to(model.device), generator)
        sigma = training_levels(len(clean), training.p_mean, training.p_std, generator)
        level = sigma.reshape(-1, 1, 1, 1)
        noisy = clean + level * torch.randn(clean.shape, generator=generator, device=model.device)
        condition: dict[str, Any] = {}
        if config.classes:
            assert batch.labels is not None
            condition["class_label"] = batch.labels  # on the host, where its range is checked without waiting
        with torch.no_grad():
            target = teacher(noisy, sigma, **condition)
        weight = (level**2 + config.sigma_data**2) / (level * config.sigma_data) ** 2
        return (weight * (student(noisy, sigma, **source, **condition) - target) ** 2).mean()

    trained: EDMDenoiser = fit(
        student, loss, options, state, device=model.device, description="distil", processes=processes
    )
    if group.is_main:
        if known := origins(base):  # its licence and what it was trained on go with it
            write_json(folder.path / SOURCES_NAME, known)
        metadata = {"recipe": config.to_dict(), "images_seen": options.budget}
        metadata |= {"teacher_sha256": teacher_sha256, "settings": settings}
        save_tensors(folder.model_path, trained.state_dict(), metadata)
    _forget_states(folder.path, group)
    group.barrier()
    return Model.load(folder.path, device=model.device)


def teacher_of(folder: Path) -> str | None:
    """SHA-256 of the model whose finished student lies in a folder; None where there is none."""
    path = RunFolder(folder).model_path
    return load_metadata(path).get("teacher_sha256", "") if images_seen_by(path) is not None else None


def _forget_states(folder: Path, group: Processes) -> None:
    if group.is_main:
        for path in folder.glob("student-of-*.safetensors"):
            path.unlink(missing_ok=True)
