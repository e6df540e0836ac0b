"""EDM's networks (Karras et al. 2022): snapshots and training states as NVIDIA's code writes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nomadiff.errors import DataError
from nomadiff.interop.imported import Imported, Settings, default_sampler, is_plain
from nomadiff.interop.torch_files import Module
from nomadiff.networks.config import NetworkConfig
from nomadiff.safe_pickle import printable

__all__ = [
    "attending",
    "constructor_arguments",
    "data_facts",
    "edm_network",
    "ema_of",
    "from_edm",
    "images_in",
    "training_facts",
]

_OTHER_PRECONDITIONING = ("VPPrecond", "VEPrecond", "iDDPMPrecond")


def from_edm(module: Module, contents: dict[str, Any]) -> Imported:
    """Translate an ``EDMPrecond`` object.

    Args:
        module: the object.
        contents: the whole file; its loss, augmentation and data set say how the network was trained.

    Raises:
        DataError: a network that nomadiff does not have.
    """
    if module.class_name in _OTHER_PRECONDITIONING:
        raise DataError(
            f"{module.class_name} is one of EDM's baselines, with another preconditioning; "
            "the files without 'baseline' in their name have EDM's"
        )
    settings = Settings(constructor_arguments(module), "EDMPrecond")
    sigma_data = settings.number("sigma_data", 0.5)
    precision = "fp16" if settings.flag("use_fp16", False) else "fp32"
    dropout_of_labels = settings.number("label_dropout", 0.0)
    network, classes = edm_network(settings)
    return Imported(
        network=network,
        weights=module.state_dict(),
        classes=classes,
        sigma_data=sigma_data,
        sampler=default_sampler(network.architecture, network.resolution),
        images=images_in(contents),
        training={"precision": precision, "class_dropout": dropout_of_labels, **training_facts(contents)},
        facts={"network": module.class_name, **data_facts(contents)},
    )


def edm_network(settings: Settings) -> tuple[NetworkConfig, int]:
    """Architecture and number of labels from the arguments of ``EDMPrecond``, by name as NVIDIA's and physicsnemo's.

    Raises:
        DataError: a combination nomadiff does not have.
    """
    resolution, channels = settings.integer("img_resolution"), settings.integer("img_channels")
    classes = settings.integer("label_dim", 0)
    kind = settings.text("model_type", "DhariwalUNet")
    settings.ignore("sigma_min", "sigma_max", "use_fp16", "label_dropout")
    if kind == "SongUNet":
        architecture = {"positional": "ddpmpp", "fourier": "ncsnpp"}.get(settings.text("embedding_type", "positional"))
        if architecture is None:
            raise DataError("EDMPrecond: embedding_type is none of positional (DDPM++) and fourier (NCSN++)")
        ncsnpp = architecture == "ncsnpp"
        # absent arguments have DDPM++'s values, whatever the embedding is
        settings.require("encoder_type", "residual" if ncsnpp else "standard", default="standard")
        settings.require("decoder_type", "standard", default="standard")
        settings.require("channel_mult_noise", 2 if ncsnpp else 1, default=1)
        settings.require("resample_filter", [1, 3, 3, 1] if ncsnpp else [1, 1], default=[1, 1])
        usual = NetworkConfig(architecture, resolution, channels, 128, (1, 2, 2, 2), 4, (16,))
    elif kind == "DhariwalUNet":
        architecture = "adm"
        usual = NetworkConfig(architecture, resolution, channels, 192, (1, 2, 3, 4), 3, (32, 16, 8))
    else:
        raise DataError(f"EDMPrecond: model_type is {printable(kind)}; nomadiff has SongUNet and DhariwalUNet")
    mults = settings.integers("channel_mult", usual.channel_mult)
    network = replace(
        usual,
        model_channels=settings.integer("model_channels", usual.model_channels),
        channel_mult=mults,
        blocks=settings.integer("num_blocks", usual.blocks),
        attention=attending(settings.integers("attn_resolutions", usual.attention), resolution, len(mults)),
        dropout=settings.number("dropout", 0.10),
        channel_mult_embedding=settings.integer("channel_mult_emb", 4),
        augment_dim=settings.integer("augment_dim", 0),
    )
    settings.finish()
    return network, classes


def attending(resolutions: tuple[int, ...], resolution: int, levels: int) -> tuple[int, ...]:
    """The resolutions with attention that exist: NVIDIA's networks accept others, and do nothing with them."""
    existing = [resolution >> level for level in range(min(levels, 16))]
    return tuple(size for size in resolutions if size in existing)


def constructor_arguments(module: Module) -> dict[str, Any]:
    """The keyword arguments a persistent object was made with.

    Raises:
        DataError: it was made with positional ones, whose names the file does not hold.
    """
    if module.attribute("_init_args"):
        raise DataError(
            f"{printable(module.class_name)} was made with positional arguments: their names are not in the file"
        )
    arguments = module.attribute("_init_kwargs")
    if type(arguments) is not dict:
        raise DataError(f"{printable(module.class_name)} does not hold the arguments it was made with")
    return arguments


def training_facts(contents: dict[str, Any]) -> dict[str, Any]:
    """Training options from the loss and augmentation objects in the file."""
    facts: dict[str, Any] = {}
    loss, augment = contents.get("loss_fn"), contents.get("augment_pipe")
    if isinstance(loss, Module):
        for ours, theirs in (("p_mean", "P_mean"), ("p_std", "P_std")):
            value = loss.attribute(theirs)
            if is_plain(value) and type(value) in (int, float):
                facts[ours] = float(value)
    share = augment.attribute("p") if isinstance(augment, Module) else None
    if isinstance(share, (int, float)) and is_plain(share):
        facts["augment"] = min(max(float(share), 0.0), 1.0)
    return facts


def data_facts(contents: dict[str, Any]) -> dict[str, Any]:
    """The training data recorded in the file."""
    data = contents.get("dataset_kwargs")
    if type(data) is not dict:
        return {}
    return {"dataset": {str(name): value for name, value in data.items() if is_plain(value)}}


def images_in(contents: dict[str, Any]) -> int | None:
    """Size of the training set: NVIDIA's training writes it as the set's ``max_size``."""
    data = contents.get("dataset_kwargs")
    count = data.get("max_size") if type(data) is dict else None
    return count if type(count) is int and count > 0 else None


def ema_of(contents: Any) -> Module | None:
    """The averaged network of a snapshot, or the raw one of a training state; None if there is neither."""
    if type(contents) is dict:
        for name in ("ema", "net"):
            if isinstance(contents.get(name), Module):
                return contents[name]
    return contents if isinstance(contents, Module) else None
