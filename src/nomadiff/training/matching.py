"""Check that images match a trained model: size, channels, classes, sources."""

from __future__ import annotations

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.training.config import RunConfig

__all__ = ["require_match"]


def require_match(config: RunConfig, mix: SourceMix) -> None:
    """Refuse images, or latents, that a model of this recipe cannot be trained on.

    Args:
        config: the model's recipe.
        mix: what it is to be trained on.

    Raises:
        UsageError: another size, other channels or another latent space; no class labels for a class-conditional
            model, or a class that it does not know; more sources than it has labels for.
    """
    names = " and ".join(mix.names)
    model, data = config.latents, mix.latents
    if (model is None) != (data is None):
        kinds = "latents, the model is one of images" if model is None else "images, the model is one of latents"
        raise UsageError(f"the data are {kinds}")
    if model is not None and data is not None and (difference := model.difference(data)):
        raise UsageError(f"the data and the model's latents are of {difference}")
    network = config.network
    if mix.resolution != network.resolution:
        ours, theirs = f"{network.resolution}x{network.resolution}", f"{mix.resolution}x{mix.resolution}"
        raise UsageError(
            f"{names}: {theirs} images, the model draws {ours}; read them with --resolution {network.resolution}"
        )
    if mix.channels != network.channels:
        colours = {1: "grey", 3: "RGB"}
        ours, theirs = (colours.get(count, f"of {count} channels") for count in (network.channels, mix.channels))
        raise UsageError(f"{names}: images are {theirs}, the model's are {ours}; convert them")
    if config.sources and len(mix.sources) > config.sources:
        raise UsageError(f"{len(mix.sources)} sources for a model with labels for {config.sources}")
    if config.classes:
        mix.with_class_names(config.vocabulary)  # for its UsageError; by name, since label numbers differ between sets
