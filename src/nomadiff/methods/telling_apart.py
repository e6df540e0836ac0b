"""How real does each synthetic image look, under how much noise? Judged by networks that have not seen it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from nomadiff.data.image_source import ImageSource
from nomadiff.data.mapped import rows
from nomadiff.data.selection import shuffled
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.models.discriminator import Discriminator
from nomadiff.networks.unet import UNet
from nomadiff.processes import Processes
from nomadiff.seeding import mixed_seed
from nomadiff.training.config import RunConfig
from nomadiff.training.fitting import Fitting, fit
from nomadiff.training.loss import training_levels
from nomadiff.training.run_folder import load_tensors, save_tensors
from nomadiff.training.settings import TrainingConfig

__all__ = ["Judged", "image_rows", "judge_levels", "judge_sources", "judges", "require_judge"]

_LEVELS, _DRAWS = 16, 2  # noise levels of equal probability, and noises at each
_TAIL = (0.99, 0.997, 0.999)  # places of rarer levels above them
_CHUNK = 256  # images judged together; their noise is that of the chunk
_FOLD, _NOISE, _START = 11, 12, 13  # keep these streams apart from those of training


@dataclass(frozen=True)
class Judged:
    """What the judges say of one synthetic source beside the real one.

    Attributes:
        levels: noise levels sigma, ascending: float32 ``(L,)``.
        real: log-odds "real" of every real image at every level, by a judge that has not seen it, mean over several
            noises: float32 ``(N, L)``. 0 is chance: judges see as many real as synthetic images.
        synthetic: likewise of every synthetic image.
    """

    levels: Tensor
    real: Tensor
    synthetic: Tensor

    def accuracy(self) -> Tensor:
        """Probability that a real image looks more real than a synthetic one, at each level: float64 ``(L,)``.

        That is the area under the ROC curve; 0.5 is chance. It needs no threshold, so a judge that takes too many or
        too few images for real does not move it.
        """
        found = []
        for real, synthetic in zip(self.real.double().T, self.synthetic.double().T.contiguous()):
            order = real.sort().values
            below = torch.searchsorted(order, synthetic, right=False) + torch.searchsorted(order, synthetic, right=True)
            found.append(1 - float(below.double().mean()) / 2 / len(real))
        return torch.tensor(found, dtype=torch.float64)

    def probability(self) -> Tensor:
        """How likely each synthetic image is a real one, at each level: float64 ``(N, L)``; 0.5 is chance.

        Judges of few images are biased on images they have not seen. So one offset a level is added to all log-odds,
        under which a real and a synthetic image at random are together as likely real as synthetic.
        """
        real, synthetic = self.real.double(), self.synthetic.double()
        reach = float(torch.cat([real, synthetic]).abs().max()) + 1
        low, high = torch.full((2, len(self.levels)), reach, dtype=torch.float64) * torch.tensor([[-1.0], [1.0]])
        for _ in range(60):
            middle = (low + high) / 2
            more = (real + middle).sigmoid().mean(0) + (synthetic + middle).sigmoid().mean(0) > 1
            low, high = torch.where(more, low, middle), torch.where(more, middle, high)
        return (synthetic + (low + high) / 2).sigmoid()


def judge_levels(options: TrainingConfig) -> Tensor:
    """Noise levels of equal probability in a training, and some rarer ones above them: ascending, float32 ``(L,)``."""
    places = (torch.arange(_LEVELS, dtype=torch.float64) + 0.5) / _LEVELS
    places = torch.cat([places, torch.tensor(_TAIL, dtype=torch.float64)])
    return (torch.special.ndtri(places) * options.p_std + options.p_mean).exp().float()


def require_judge(config: RunConfig, method: str) -> None:
    """Check that a network has an encoder to judge images by.

    Raises:
        UsageError: it is one of a user's own.
    """
    with torch.device("meta"):
        known = not config.network.is_own and isinstance(config.build_denoiser().network, UNet)
    if not known:
        raise UsageError(
            f"{method} judges images by the network's encoder, and a {config.network.architecture} network has none "
            "that nomadiff knows: choose another preset or method"
        )


def image_rows(source: ImageSource, **columns: Tensor) -> list[dict[str, Any]]:
    """A row for each image of a source: ``source``, ``index``, ``file`` if it has names, and a field a column."""
    files: dict[str, Any] = {} if source.names is None else {"file": source.names}
    found = {**files, **{name: column.tolist() for name, column in columns.items()}}
    return [
        {"source": source.name, "index": index, **{name: column[index] for name, column in found.items()}}
        for index in range(len(source))
    ]


def judges(recipe: RunConfig) -> int:
    """How many classifiers judge the sources of a recipe: two for each synthetic one."""
    return 2 * (len(recipe.source_names) - 1)


def judge_sources(mix: SourceMix, recipe: RunConfig, folder: Path, budget: int, processes: Processes) -> list[Judged]:
    """Judge every synthetic source against the real one.

    Images are dealt into two halves. For each source and half a classifier (the encoder of the recipe's network with a
    linear head, conditioned on sigma; :class:`~nomadiff.models.discriminator.Discriminator`) learns to tell real from
    synthetic images of that half under the noise levels of training, half of each batch real, by cross-entropy; and
    judges the images of the other half. So nothing is judged by a network that has seen it.

    Args:
        mix: real and synthetic images.
        recipe: of the model that is to be trained: network, noise levels, batch, learning rate, seed, classes.
        folder: where results are kept; what is there is not done again.
        budget: images that all classifiers see together.
        processes: who takes part.

    Raises:
        UsageError: the network has no encoder to judge by, there are fewer than two images in a source, or the batch
            does not divide among the processes.
        NomadiffError: as training does.
    """
    options = recipe.training
    if options.batch % processes.count:
        raise UsageError(f"batch {options.batch} does not divide among {processes.count} processes")
    if small := next((source.name for source in mix.sources if len(source) < 2), None):
        raise UsageError(f"{small}: one image cannot be dealt into a half to learn from and a half to judge")
    if recipe.classes:
        mix = mix.with_class_names(recipe.vocabulary)
    share = budget // judges(recipe)
    levels = judge_levels(options)
    found = []
    for number, source in enumerate(mix.sources[1:], start=1):
        pair = (mix.sources[0], source)
        places = [shuffled(len(each), _FOLD, options.seed, k) for k, each in zip((0, number), pair)]
        logits = [torch.empty(len(each), len(levels)) for each in pair]
        for half in (0, 1):
            learnt, judged = ([np.sort(place[side::2]) for place in places] for side in (half, 1 - half))
            path, state = (folder / f"{kind}-{number}-{half}.safetensors" for kind in ("judged", "classifier"))
            done = path.exists()
            processes.barrier()  # every process has looked before the main one writes
            if not done:
                parts = [each.chosen(indices, f"half:{half}") for each, indices in zip(pair, learnt)]
                seed = mixed_seed(options.seed, _FOLD, number, half)
                judge = _trained(
                    SourceMix(parts[0], parts[1:], real_fraction=0.5), recipe, state, share, seed, processes
                )
                told = [
                    _judged(judge, each, recipe, indices, levels, mixed_seed(seed, _NOISE, k), processes)
                    for k, (each, indices) in enumerate(zip(pair, judged))
                ]
                if processes.is_main:
                    save_tensors(path, dict(zip(("real", "synthetic"), told)), {"levels": levels.tolist()})
                processes.barrier()
            if processes.is_main:
                state.unlink(missing_ok=True)  # also of a process that was killed once the result was written
            stored, _ = load_tensors(path)
            for whole, indices, name in zip(logits, judged, ("real", "synthetic")):
                whole[torch.from_numpy(indices)] = stored[name]
        found.append(Judged(levels, *logits))
    return found


def _trained(
    mix: SourceMix, recipe: RunConfig, state: Path, budget: int, seed: int, processes: Processes
) -> Discriminator:
    """A classifier of one half of the images: a new network each time."""
    device, training = processes.device, recipe.training
    if recipe.classes:
        mix = mix.with_class_names(recipe.vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mixed_seed(seed, _START))
        judge = Discriminator(replace(recipe, sources=0)).to(device)
    options = Fitting(
        budget=budget,
        batch=training.batch,
        learning_rate=training.learning_rate,
        ema_half_life=training.ema_half_life,
        save_every=training.snapshot_every,
        seed=seed % (1 << 31),
    )
    size = options.batch // processes.count

    def loss(images_seen: int, generator: torch.Generator) -> Tensor:
        batch = mix.batch(images_seen + processes.rank * size, size, options.seed)
        clean = mix.clean(batch.images.to(device), generator)
        sigma = training_levels(len(clean), training.p_mean, training.p_std, generator)
        noisy = clean + sigma.reshape(-1, 1, 1, 1) * torch.randn(clean.shape, generator=generator, device=device)
        is_real = (batch.source == 0).float().to(device)
        logits = judge(noisy, sigma, **_condition(recipe, batch.labels, slice(None)))
        return F.binary_cross_entropy_with_logits(logits, is_real)

    told = f"learn to tell {mix.names[1]}"
    return fit(judge, loss, options, state, device=device, description=told, processes=processes)


def _condition(recipe: RunConfig, labels: Tensor | None, part: slice) -> dict[str, Any]:
    if not recipe.classes:
        return {}
    assert labels is not None
    return {"class_label": labels[part]}


@torch.no_grad()
def _judged(
    judge: Discriminator,
    source: ImageSource,
    recipe: RunConfig,
    indices: np.ndarray,
    levels: Tensor,
    seed: int,
    processes: Processes,
) -> Tensor:
    """Log-odds "real" of some images at every level: float32 ``(len(indices), L)``; the processes share the work."""
    device = processes.device
    images, chosen = source.images, torch.from_numpy(indices)
    labels = source.labels_among(recipe.vocabulary)[chosen] if recipe.classes else None
    mix = SourceMix(source)
    logits = torch.zeros(len(indices), len(levels), device=device)
    for number, start in enumerate(range(0, len(indices), _CHUNK)):
        if number % processes.count != processes.rank:
            continue
        part = slice(start, start + _CHUNK)
        generator = torch.Generator(device).manual_seed(mixed_seed(seed, number))
        for column, level in enumerate(levels.tolist()):
            for _ in range(_DRAWS):
                clean = mix.clean(rows(images, chosen[part]).to(device), generator)
                noisy = clean + level * torch.randn(clean.shape, generator=generator, device=device)
                sigma = torch.full((len(clean),), level, device=device)
                logits[part, column] += judge(noisy, sigma, **_condition(recipe, labels, part)) / _DRAWS
    return processes.total(logits).cpu()
