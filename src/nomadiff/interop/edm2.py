"""EDM2's networks (Karras et al. 2024): snapshots, and averages of any width rebuilt from a folder of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from nomadiff.data.hub import PREFIX
from nomadiff.data.latents import LatentSpace
from nomadiff.errors import DataError, UsageError
from nomadiff.interop.edm import (
    attending,
    constructor_arguments,
    data_facts,
    ema_of,
    images_in,
    training_facts,
)
from nomadiff.interop.imported import Imported, Settings, default_sampler
from nomadiff.interop.torch_files import Module, read_torch_file
from nomadiff.networks.config import NetworkConfig
from nomadiff.progress import progress_bar
from nomadiff.safe_pickle import printable
from nomadiff.training.phema import combine, post_hoc_factors

__all__ = ["from_edm2", "images_in_name", "reconstruct", "snapshots_in"]

_BATCH = 2048
_LEARNING_RATES = {64: 0.017, 128: 0.012, 192: 0.010, 256: 0.009, 320: 0.008, 384: 0.007, 448: 0.0065}

_SNAPSHOT = re.compile(r".*?-(\d{6,9})-(0\.\d+)\.pkl")
_STATE = re.compile(r".*?(?:network-snapshot|training-state)-(\d{6,9})[-.].*")


def from_edm2(module: Module, contents: dict[str, Any]) -> Imported:
    """Translate a ``Precond`` object of EDM2.

    Args:
        module: the object.
        contents: the whole file; its loss, encoder and data set say how the network was trained.

    Raises:
        DataError: a network that nomadiff does not have.
    """
    settings = Settings(constructor_arguments(module), "Precond")
    resolution, mults = settings.integer("img_resolution"), settings.integers("channel_mult", (1, 2, 3, 4))
    if not mults:
        raise DataError("Precond: channel_mult is empty")
    settings.drop_none("channel_mult_noise", "channel_mult_emb")  # None chooses these:
    settings.require("channel_mult_noise", mults[0], default=mults[0])
    embedding = settings.integer("channel_mult_emb", max(mults))
    for name, value in (("label_balance", 0.5), ("concat_balance", 0.5), ("res_balance", 0.3), ("attn_balance", 0.3)):
        settings.require(name, value, default=value)
    settings.require("clip_act", 256, default=256)
    settings.require("logvar_channels", 128, default=128)
    settings.require("resample_filter", [1, 1], default=[1, 1])
    network = NetworkConfig(
        architecture="edm2",
        resolution=resolution,
        channels=settings.integer("img_channels"),
        model_channels=settings.integer("model_channels", 192),
        channel_mult=mults,
        blocks=settings.integer("num_blocks", 3),
        attention=attending(settings.integers("attn_resolutions", (16, 8)), resolution, len(mults)),
        dropout=settings.number("dropout", 0.0),
        channel_mult_embedding=embedding,
        channels_per_head=settings.integer("channels_per_head", 64),
    )
    classes, sigma_data = settings.integer("label_dim", 0), settings.number("sigma_data", 0.5)
    precision = "fp16" if settings.flag("use_fp16", True) else "fp32"
    settings.finish()
    return Imported(
        network=network,
        weights=module.state_dict(),
        classes=classes,
        sigma_data=sigma_data,
        sampler=default_sampler("edm2", resolution),
        images=images_in(contents),
        training={"precision": precision, **_published_training(network), **training_facts(contents)},
        facts={"network": module.class_name, **data_facts(contents)},
        latents=_latent_space(contents),
    )


def _published_training(network: NetworkConfig) -> dict[str, Any]:
    """How EDM2's authors trained a network of this width (Karras et al. 2024, table 6); the files do not say it."""
    rate = _LEARNING_RATES.get(network.model_channels)
    if rate is None:
        return {}
    decay = _BATCH * (70_000 if network.channels == 4 else 35_000)
    return {"batch": _BATCH, "learning_rate": rate, "lr_decay": decay, "adam_beta2": 0.99, "ema_stds": (0.05, 0.10)}


def _latent_space(contents: dict[str, Any]) -> LatentSpace | None:
    """The latent space the network works in, if it does: EDM2's own where the file does not say otherwise."""
    encoder = contents.get("encoder")
    if not isinstance(encoder, Module) or encoder.class_name != "StabilityVAEEncoder":
        return None
    arguments = encoder.attribute("_init_kwargs")
    arguments = arguments if type(arguments) is dict else {}
    said = {name: value for name, value in arguments.items() if name in _OF_ENCODER}
    values: dict[str, Any] = {_OF_ENCODER[name]: value for name, value in said.items()}
    if (
        type(name := arguments.get("vae_name", encoder.attribute("vae_name"))) is str
        and len(name) <= 200
        and name.isprintable()
    ):
        values["vae"] = PREFIX + name
    if arguments.get("final_mean", 0) != 0:
        raise DataError(f"its encoder has final_mean {printable(arguments['final_mean'])}; nomadiff's has 0")
    try:
        return LatentSpace.from_dict({**LatentSpace().to_dict(), **values})
    except (DataError, UsageError) as error:
        raise DataError(f"its encoder: {error}") from error


_OF_ENCODER = {"raw_mean": "mean", "raw_std": "std", "final_std": "final_std"}


def images_in_name(path: str | Path) -> int | None:
    """Images seen in training, which NVIDIA's files carry in their names in thousands; None if it is not there.

    Of other names nothing is taken: their numbers may be dates.
    """
    match = _STATE.fullmatch(Path(path).name) or _SNAPSHOT.fullmatch(Path(path).name)
    return int(match[1]) * 1000 if match else None


def snapshots_in(folder: str | Path) -> list[tuple[int, float, Path]]:
    """The stored averages in a folder: images seen, relative width and file of each, in order.

    Raises:
        UsageError: there are none (``...-<thousands of images>-<width>.pkl``).
    """
    found = []
    for path in sorted(Path(folder).glob("*.pkl")):
        if match := _SNAPSHOT.fullmatch(path.name):
            found.append((int(match[1]) * 1000, float(match[2]), path))
    if not found:
        raise UsageError(f"{folder}: no EDM2 snapshots in it (network-snapshot-<thousands of images>-<width>.pkl)")
    return sorted(found)


def reconstruct(folder: str | Path, std: float, *, at: int | None = None) -> Imported:
    """The average of relative width ``std`` out of the stored ones (Karras et al. 2024, section 3.2).

    Files are read one after the other; two copies of the weights are in memory.

    Args:
        folder: snapshots as EDM2's training writes them.
        std: relative width of the wanted average, such as 0.130.
        at: images seen at its end; None takes the last snapshot's. Snapshots after it are not used.

    Raises:
        UsageError: no snapshots, or a width out of range.
        DataError: a snapshot cannot be read, or belongs to another network.
    """
    stored = snapshots_in(folder)
    last = at if at is not None else stored[-1][0]
    used = [item for item in stored if item[0] <= last]
    if not used:
        raise UsageError(f"{folder}: its first snapshot is at {stored[0][0]:,} images, after {last:,}")
    factors = post_hoc_factors([time for time, _, _ in used], [width for _, width, _ in used], last, std)
    newest: list[Imported] = []

    def states() -> Iterator[dict[str, Tensor]]:
        with progress_bar("read snapshots", total=len(used), unit="files") as advance:
            for _, _, path in used:
                contents = read_torch_file(path)
                module = ema_of(contents)
                if module is None or module.class_name != "Precond" or type(contents) is not dict:
                    raise DataError(f"{path}: not a snapshot of EDM2")
                found = from_edm2(module, contents)
                if newest and (newest[0].network != found.network or newest[0].weights.keys() != found.weights.keys()):
                    raise DataError(f"{path}: another network than the snapshots before it")
                newest[:] = [found]
                yield found.weights
                advance(1)

    weights = combine(states(), factors)
    facts = {
        "post_hoc_ema": {
            "std": std,
            "images_seen": last,
            "snapshots": [path.name for _, _, path in used],
            "factors": [float(factor) for factor in factors],
        }
    }
    result = newest[0]
    return replace(
        result,
        weights=weights,
        facts={**result.facts, **facts},
        training={**result.training, "budget": last},
    )
