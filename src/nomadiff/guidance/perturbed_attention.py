"""Perturbed-attention guidance (Ahn et al. 2024): the worse model is the model itself with attention switched off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.strength import Interval
from nomadiff.networks.edm2 import normalise
from nomadiff.networks.unet import UNet

__all__ = ["PerturbedAttention", "attention_blocks", "perturbed_attention_guidance"]


class PerturbedAttention:
    """A network whose attention map is the identity in some blocks: every pixel attends to itself alone.

    Nothing is copied; the weights are the network's own.

    Args:
        denoiser: the network to perturb.
        blocks: names of residual blocks, see :func:`attention_blocks`; None takes those of the lowest resolution, as
            the paper takes the middle of the U-Net.

    Raises:
        UsageError: a block does not exist or does not attend.
    """

    def __init__(self, denoiser: EDMDenoiser, blocks: Sequence[str] | None = None) -> None:
        known = attention_blocks(denoiser)
        if blocks is None:
            lowest = min((int(name.split(".")[1].split("x")[0]) for name in known), default=0)
            blocks = [name for name in known if name.split(".")[1].startswith(f"{lowest}x")]
        if not blocks or set(blocks) - set(known):
            raise UsageError(
                f"no attention in {', '.join(blocks) or 'this network'}: it attends in {', '.join(known) or 'no block'}"
            )
        self.denoiser = denoiser
        self.blocks = tuple(blocks)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Denoise with the perturbed network; arguments as the network's."""
        with _identity_attention([self.denoiser.network.get_submodule(name) for name in self.blocks]):
            return self.denoiser(x, sigma, **condition)


def perturbed_attention_guidance(
    denoiser: EDMDenoiser, weight: float, *, blocks: Sequence[str] | None = None, interval: Interval | None = None
) -> Extrapolation:
    """``D + weight (D - D_perturbed)``: guidance without labels, training or a second network.

    Args:
        denoiser: the network.
        weight: strength; PAG's scale s.
        blocks: where attention is perturbed, see :class:`PerturbedAttention`.
        interval: noise levels at which it acts; None for all.
    """
    return Extrapolation(denoiser, PerturbedAttention(denoiser, blocks), weight, interval)


def attention_blocks(denoiser: EDMDenoiser) -> list[str]:
    """Names of the blocks that attend, such as ``dec.8x8_in0``, in the order they run."""
    network = denoiser.network
    if not isinstance(network, UNet):
        return []
    sides = (("enc", network.enc), ("dec", network.dec))
    return [f"{side}.{name}" for side, blocks in sides for name, block in blocks.items() if getattr(block, "heads", 0)]


@contextmanager
def _identity_attention(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """While the block runs, attention passes the values to its output layer unmixed."""
    handles = []
    try:
        for block in blocks:
            edm2 = hasattr(block, "attn_qkv")
            values = _Values(int(block.heads), edm2)  # type: ignore[arg-type]
            first, last = ("attn_qkv", "attn_proj") if edm2 else ("qkv", "proj")
            handles.append(block.get_submodule(first).register_forward_hook(values.keep))
            handles.append(block.get_submodule(last).register_forward_pre_hook(values.replace))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Values:
    """Takes the values out of a block's queries, keys and values, and puts them where attention's result would go."""

    def __init__(self, heads: int, normalised: bool) -> None:
        self.heads, self.normalised = heads, normalised
        self.values: Tensor | None = None

    def keep(self, module: nn.Module, args: Any, qkv: Tensor) -> None:
        value = qkv[:, 2::3]  # the order of channels is that of nomadiff.networks.layers.attend
        if self.normalised:  # EDM2 brings the values of each head to unit magnitude first
            heads = value.reshape(len(value), self.heads, -1, *value.shape[2:])
            value = normalise(heads, dim=2).reshape(value.shape)
        self.values = value

    def replace(self, module: nn.Module, args: Any) -> tuple[Any, ...]:
        value, self.values = self.values, None
        return (value, *args[1:])
