"""Write an imported network as a model folder; the folder is renamed to its name only after a self-check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nomadiff.data.writing import refuse_existing
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import DataError, UsageError
from nomadiff.files import atomic_folder
from nomadiff.interop.imported import Imported
from nomadiff.interop.weight_files import unwrapped
from nomadiff.models.model import Model
from nomadiff.networks.build import load_edm_state
from nomadiff.networks.unet2d import UNet2D
from nomadiff.seeding import SampleNoise
from nomadiff.training.config import RunConfig
from nomadiff.training.run_folder import RunFolder, save_tensors
from nomadiff.training.settings import TrainingConfig

__all__ = ["check_denoiser", "write_model"]

_BUDGET = 200_000_000  # EDM's own, where a file does not say how long it was trained
_LEVELS = (0.002, 0.5, 80.0)
_LARGEST_CHANGE = 0.05
_LARGEST_CHECKED = 128  # pixels a side; at 4096 one check takes minutes and gigabytes


def write_model(
    imported: Imported,
    out: str | Path,
    provenance: dict[str, Any],
    *,
    method: str,
    source_names: tuple[str, ...] = (),
) -> Model:
    """Write a model folder, load it as any other, and check that it denoises.

    Args:
        imported: the network.
        out: the folder; it must not exist, or be empty.
        provenance: where the file came from, plain values fit for JSON.
        method: what made the model, such as "edm".
        source_names: names of the sources that the network's labels stand for, the real one first; empty if the labels
            are classes.

    Returns:
        The model, on the CPU.

    Raises:
        UsageError: ``out`` is taken, or ``source_names`` are not one for each label.
        DataError: the weights do not fit, or the self-check fails; nothing is left in ``out``.
    """
    out = Path(out)
    refuse_existing(out)
    labels = imported.classes
    if source_names and len(source_names) != labels:
        raise UsageError(f"the network has {labels} labels, but {len(source_names)} sources are named")
    # a batch for one GPU: the published batches were divided over many
    known = {"budget": _BUDGET, "microbatch": 64 if imported.network.resolution <= 32 else 32, **imported.training}
    if not imported.network.augment_dim:
        known["augment"] = 0.0
    config = RunConfig(
        method=method,
        network=imported.network,
        training=TrainingConfig(**known),
        sampler=imported.sampler,
        sigma_data=imported.sigma_data,
        source_names=source_names or ("real",),
        shares=tuple(1 / max(len(source_names), 1) for _ in source_names or ("real",)),
        sources=len(source_names),
        classes=0 if source_names else labels,
        latents=imported.latents,
    )
    try:
        denoiser = _filled(config, imported)
        check_denoiser(denoiser, config)
    except (DataError, UsageError) as error:
        raise DataError(f"{provenance.get('file') or provenance.get('url') or method}: {error}") from error
    facts = {**provenance, **imported.facts, "training": sorted(imported.training)}
    sources = [
        {
            "label": label,
            "name": name,
            "share": share,
            "kind": "imported",
            "spec": provenance.get("file") or provenance.get("url"),
            "count": imported.images if label == 0 else None,
            "imported": facts,
        }
        for label, (name, share) in enumerate(zip(config.source_names, config.shares))
    ]
    metadata = {"recipe": config.to_dict(), "images_seen": imported.training.get("budget"), "imported": facts}
    with atomic_folder(out) as staging:
        folder = RunFolder(staging)
        folder.begin(config, sources)
        save_tensors(folder.model_path, denoiser.state_dict(), metadata)
        Model.load(staging, device="cpu")  # an error here leaves no folder
    return Model.load(out, device="cpu")


def _filled(config: RunConfig, imported: Imported) -> EDMDenoiser:
    """The denoiser with the imported weights. Nothing is allocated unless the file has as many numbers as it needs."""
    with torch.device("meta"):
        denoiser = config.build_denoiser()
    needed = sum(value.numel() for value in denoiser.network.state_dict().values())
    given = sum(value.numel() for value in imported.weights.values())
    if needed > given:
        raise DataError(f"these weights do not fit the network: it has {needed:,} numbers, the file {given:,}")
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn and thrown away: the generator is restored
        denoiser = config.build_denoiser()
    inner = denoiser.network.unet if isinstance(denoiser.network, UNet2D) else denoiser.network
    load_edm_state(inner, unwrapped(imported.weights))
    return denoiser.eval().requires_grad_(False)


@torch.no_grad()
def check_denoiser(denoiser: EDMDenoiser, config: RunConfig) -> None:
    """Call the denoiser on an image of noise: right shape, finite, and almost the image itself at sigma 0.002.

    At that noise level the estimate of a clean image is the image within a few thousandths, whatever the network was
    trained on, unless preconditioning or weights are wrong.

    Raises:
        DataError: says what is wrong.
    """
    network = config.network
    side, least = network.resolution, 1 << (len(network.channel_mult) - 1)
    while side > _LARGEST_CHECKED and side % (2 * least) == 0:  # networks of convolutions take images of any such size
        side //= 2
    shape = (network.channels, side, side)
    noise = SampleNoise(0, range(1))
    clean = (noise.normal(shape) * config.sigma_data).clip(-1, 1)
    condition: dict[str, Any] = {}
    if config.sources:
        condition["source"] = 0
    if config.classes:
        condition["class_label"] = 0
    for level in _LEVELS:
        estimate = denoiser(clean + level * noise.normal(shape), torch.tensor(level), **condition)
        if estimate.shape != clean.shape or not bool(torch.isfinite(estimate).all()):
            raise DataError(f"self-check failed: the imported network does not give finite images at sigma {level}")
        change = float((estimate - clean).square().mean().sqrt())
        if level == _LEVELS[0] and change > _LARGEST_CHANGE:
            raise DataError(
                f"self-check failed: at sigma {level} the imported network changes an image by {change:.3g} on average "
                f"(expected at most {_LARGEST_CHANGE}); its preconditioning is another than EDM's, or it is damaged"
            )
