"""Two networks that agree in everything but the end of the decoder are one network with two ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.guidance.guided import Guided
from nomadiff.guidance.strength import Interval
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.unet import UNet

__all__ = ["SharedEncoder", "decoder_end", "end_share", "own_share", "shared_layers"]


class SharedEncoder(Guided):
    """:class:`~nomadiff.guidance.extrapolation.Extrapolation` of two networks that share what they have in common.

    The embedding, the encoder and the decoder's layers up to the first that differs run once (SIMS appendix A, "NFE
    2x to 1.5x"). What is shared is equal, so the result is the extrapolation of the two, up to rounding.

    Args:
        base: the denoiser to improve.
        auxiliary: one whose weights differ in the end of the decoder only, such as a decoder-only fine-tune.
        weight: SIMS' omega.
        interval: noise levels at which the auxiliary's end runs; None for all.

    Raises:
        UsageError: the two share no encoder.
    """

    def __init__(
        self, base: EDMDenoiser, auxiliary: EDMDenoiser, weight: float, interval: Interval | None = None
    ) -> None:
        shared = shared_layers(base, auxiliary)
        if shared is None:
            raise UsageError("these two networks differ before the decoder: there is no encoder to share")
        super().__init__(base, weight, interval)
        self.denoiser = base
        self.shared = shared
        self._auxiliary = _unet(auxiliary)
        ends = _TwoEnds(_unet(base), self._auxiliary, shared, weight)
        # D is affine in the network's output F with coefficients that depend on sigma alone, so extrapolating F inside
        # the preconditioning is extrapolating D
        self._both = EDMDenoiser(ends, sources=base.sources, classes=base.classes, sigma_data=base.sigma_data)

    def guided(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """The extrapolated estimate."""
        self._both.autocast = self.denoiser.autocast
        return self._both(x, sigma, **condition)

    def guided_evaluations(self, sigma: float) -> float:
        """One and the share of a forward pass that runs twice."""
        return 1 + self._share

    @property
    def own_parameters(self) -> int:
        """Parameters of the auxiliary that are not the base's."""
        network = self._auxiliary
        shared = {f"dec.{name}" for name in _layers(network)[: self.shared]}
        ends = ("dec.", "out_")
        return sum(
            value.numel()
            for name, value in network.named_parameters()
            if name.startswith(ends) and ".".join(name.split(".")[:2]) not in shared
        )

    @cached_property
    def _share(self) -> float:
        network = _unet(self.denoiser)
        return own_share(network.config, network.label_dim, self.shared)


class _TwoEnds(nn.Module):
    """``F_base + weight (F_base - F_aux)`` with one trunk; called as any network."""

    def __init__(self, base: UNet, auxiliary: UNet, shared: int, weight: float) -> None:
        super().__init__()
        self.base, self.auxiliary, self.shared, self.weight = base, auxiliary, shared, weight

    def label_scale(self, count: int) -> float:
        return self.base.label_scale(count)

    def forward(
        self, x: Tensor, noise_label: Tensor, labels: Tensor | None = None, augment: Tensor | None = None
    ) -> Tensor:
        emb = self.base.embed(noise_label, labels, augment)
        skips = self.base.encode(x, emb)
        names = _layers(self.base)
        trunk, left = _run(self.base, names[: self.shared], skips[-1], skips, emb)
        ends = [
            network._output(_run(network, names[self.shared :], trunk, left, emb)[0]).float()
            for network in (self.base, self.auxiliary)
        ]
        return ends[0] + self.weight * (ends[0] - ends[1])


def _run(
    network: UNet, names: Sequence[str], x: Tensor, skips: Sequence[Tensor], emb: Tensor
) -> tuple[Tensor, Sequence[Tensor]]:
    """Some consecutive layers of a decoder, and the skips they have left over; :meth:`UNet.decode` runs all."""
    left = list(skips)
    for name in names:
        x = network.dec[name](network._join(x, left.pop()) if "_block" in name else x, emb)
    return x, left


def _unet(denoiser: EDMDenoiser) -> UNet:
    if not isinstance(denoiser.network, UNet):
        raise UsageError(f"a {type(denoiser.network).__name__} has no encoder and decoder to tell apart")
    return denoiser.network


def _layers(network: UNet) -> list[str]:
    """Names of the decoder's layers in the order they run."""
    return [name for name in network.dec if "_aux_" not in name]


def shared_layers(base: EDMDenoiser, auxiliary: EDMDenoiser) -> int | None:
    """How many of the decoder's first layers two denoisers share, given that they share all before; else None.

    Returns:
        The number of layers with equal weights before the first that differs; all of them if the networks are equal or
        differ in the output layers alone. None if they differ in architecture, labels, embedding or encoder.
    """
    one, other = base.network, auxiliary.network
    if not (isinstance(one, UNet) and isinstance(other, UNet)) or one.config != other.config:
        return None
    same_labels = (base.sources, base.classes) == (auxiliary.sources, auxiliary.classes)
    if not same_labels or base.sigma_data != auxiliary.sigma_data:
        return None
    theirs = other.state_dict()
    different = [name for name, value in one.state_dict().items() if not _equal(value, theirs[name])]
    if any(not name.startswith(("dec.", "out_")) for name in different):
        return None
    touched = {name.split(".")[1] for name in different if name.startswith("dec.")}
    layers = _layers(one)
    return next((index for index, name in enumerate(layers) if name in touched), len(layers))


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other.to(one.device))


def own_share(config: NetworkConfig, label_dim: int, shared: int) -> float:
    """Share of a forward pass's operations that lies behind the decoder's first ``shared`` layers, 0..1."""
    layers, total = _operations(config, label_dim)
    return 1 - sum(layers[: shared + 1]) / total


def decoder_end(config: NetworkConfig, label_dim: int = 0, most: float = 0.5) -> tuple[str, ...]:
    """The last layers of a network whose operations are at most the share ``most`` of a forward pass.

    The SIMS paper trains "only the decoder", takes it for half of the network, and so counts a guided step as 1.5
    evaluations. Counted, the decoder is 67 % of EDM's CIFAR-10 network and 71 to 75 % of the others: a guided step
    would cost 1.7. Training the end of the decoder only costs what the paper says.

    Args:
        config: architecture.
        label_dim: width of the label vector.
        most: share that must not be exceeded.

    Returns:
        Prefixes of the parameters of these layers, output layers included, as in the network's state dict.

    Raises:
        UsageError: this architecture is not made of an encoder and a decoder that can be called apart.
    """
    with torch.device("meta"):
        network = build_network(config, label_dim)
    if not isinstance(network, UNet):
        raise UsageError(f"a {config.architecture} network's decoder cannot be trained apart: train all of it")
    names = _layers(network)
    shared = _shared_before_end(config, label_dim, most)
    output = [f"dec.{name}" for name in network.dec if "_aux_" in name]
    output += [name for name, _ in network.named_children() if name.startswith("out_")]
    output += [name for name, _ in network.named_parameters(recurse=False) if name.startswith("out_")]
    return (*(f"dec.{name}" for name in names[shared:]), *output)


def end_share(config: NetworkConfig, label_dim: int = 0, most: float = 0.5) -> float:
    """Share of a forward pass's operations that lies in :func:`decoder_end`: what a guided step costs beside one pass.

    Raises:
        UsageError: as :func:`decoder_end`.
    """
    decoder_end(config, label_dim, most)
    return own_share(config, label_dim, _shared_before_end(config, label_dim, most))


def _shared_before_end(config: NetworkConfig, label_dim: int, most: float) -> int:
    layers, _ = _operations(config, label_dim)
    return next(count for count in range(len(layers)) if own_share(config, label_dim, count) <= most)


@lru_cache
def _operations(config: NetworkConfig, label_dim: int) -> tuple[list[int], int]:
    """Operations of the network before the decoder and in each of the decoder's layers, and of the whole network."""
    with torch.device("meta"):
        network = build_network(config, label_dim)
        x = torch.empty(1, config.channels, config.resolution, config.resolution)
        labels = torch.empty(1, label_dim) if label_dim else None
        noise_label = torch.empty(1)

        with torch.no_grad():
            emb, before = _counted(lambda: network.embed(noise_label, labels))
            skips, encoder = _counted(lambda: network.encode(x, emb))
            _, decoder = _counted(lambda: network.decode(skips, emb))
            layers, current, left = [before + encoder], skips[-1], list(skips)
            for name in _layers(network):
                (current, left), cost = _counted(
                    lambda name=name, x=current, left=left: _run(network, [name], x, left, emb)
                )
                layers.append(cost)
    return layers, before + encoder + decoder


def _counted(call: Any) -> tuple[Any, int]:
    with FlopCounterMode(display=False) as counter:
        result = call()
    return result, counter.get_total_flops()
