"""Which part of a copy of a model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nomadiff.training.config import RunConfig

__all__ = ["TRAIN_PARTS", "trained_prefixes"]

TRAIN_PARTS = {"all": "auxiliary", "decoder": "auxiliary-decoder"}
"""Parts of a copy that can be trained, with the method name that records each in the recipe."""


def trained_prefixes(config: RunConfig) -> tuple[str, ...]:
    """Prefixes of the network's parameters that such an auxiliary trains."""
    if config.method != TRAIN_PARTS["decoder"]:
        return ("",)
    from nomadiff.guidance.shared_encoder import decoder_end

    end = decoder_end(config.network, config.sources + config.classes)
    # "dec.8x8_block1" must not take "dec.8x8_block10" with it; single parameters (EDM2's out_gain) have no dot
    return tuple(f"{name}." for name in end) + tuple(name for name in end if name.startswith("out_"))
