"""Memory that a training takes, counted on shapes alone, and how many images at once fit into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nomadiff.devices import free_memory
from nomadiff.errors import UsageError
from nomadiff.memory import is_lack
from nomadiff.networks.flops import parameters_of
from nomadiff.networks.own import Unplannable
from nomadiff.networks.unet import UNet
from nomadiff.training.config import RunConfig
from nomadiff.training.precision import AUTOCAST

__all__ = ["Activations", "activations_of", "part_by_trial", "part_that_fits", "parts_of", "training_memory"]

_SCRATCH = 1.5  # of a CPU's kernels: the peak of a process was 1.3 to 1.4 times the count (docs/benchmarks.md)
_USED = 0.8  # share of the free memory to plan with


@dataclass(frozen=True)
class Activations:
    """Memory that the forward pass keeps for the backward pass.

    Attributes:
        per_image: bytes for each image of the batch.
        fixed: bytes for the batch whatever its size: weights as the network computes with them (half-precision copies,
            EDM2's normalised weights).
    """

    per_image: int
    fixed: int

    def need(self, images: int) -> int:
        """Bytes for so many images at once."""
        return self.fixed + images * self.per_image


def activations_of(config: RunConfig, precision: str | None = None) -> Activations:
    """Memory that one training pass keeps, in the run's precision unless another is given.

    Every block of memory that autograd saves is counted once, weights left out, on shapes alone (nothing is computed).
    Where gradients are checkpointed these are the inputs of the blocks, and what the largest of them keeps.
    In fp32 the count is what a process grows by; the allocator's rounding and the kernels' scratch memory come on top.

    Raises:
        Unplannable: a network of a user's own cannot be followed on shapes alone.
    """
    try:
        one, two = _kept_bytes(config, 1, precision), _kept_bytes(config, 2, precision)
    except Exception as error:
        if config.network.is_own:
            raise Unplannable(f"network {config.network.architecture} needs more than shapes") from error
        raise
    return Activations(per_image=two - one, fixed=2 * one - two)


def training_memory(config: RunConfig, precision: str | None = None) -> Activations:
    """As :func:`activations_of`; ``fixed`` with weights, gradients, two Adam moments and the averages, all fp32."""
    activations = activations_of(config, precision)
    with torch.device("meta"):
        parameters = parameters_of(config.build_denoiser())
    tensors = 4 + max(1, len(config.training.ema_stds))
    return Activations(activations.per_image, tensors * 4 * parameters + activations.fixed)


class _Kept:
    """Blocks of memory, each counted once."""

    def __init__(self) -> None:
        self.storages: dict[int, Any] = {}

    def note(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()  # views share one; kept alive, so that no address is used twice
        self.storages[storage._cdata] = storage
        return tensor

    def bytes(self, apart_from: set[int]) -> int:
        return sum(storage.nbytes() for address, storage in self.storages.items() if address not in apart_from)


def _saved_in(kept: _Kept) -> Any:
    return torch.autograd.graph.saved_tensors_hooks(kept.note, lambda tensor: tensor)


def _kept_bytes(config: RunConfig, batch: int, precision: str | None) -> int:
    dtype = {**AUTOCAST, "auto": torch.bfloat16}[precision or config.training.precision]
    kept, largest = _Kept(), 0
    with FakeTensorMode():
        if config.network.is_own_denoiser:
            raise Unplannable(f"denoiser {config.network.architecture} is not planned")
        network = config.build_denoiser().network.train()
        weights = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}

        def recomputed(block: nn.Module, x: Tensor, emb: Tensor) -> Tensor:
            nonlocal largest
            kept.note(x), kept.note(emb)
            inside = _Kept()
            with _saved_in(inside):
                output = block(x, emb)
            largest = max(largest, inside.bytes(weights | kept.storages.keys()))
            return output.detach().requires_grad_()

        if config.training.checkpoint_gradients and isinstance(network, UNet):
            network.block_call = recomputed
        shape = config.network.channels, config.network.resolution, config.network.resolution
        labels = torch.empty(batch, config.sources + config.classes) if config.sources + config.classes else None
        autocast = torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None)
        with autocast, _saved_in(kept):
            # the output is alive while the backward pass runs
            output = network(torch.empty(batch, *shape), torch.empty(batch), labels)
    del output
    return kept.bytes(weights) + largest


def parts_of(share: int) -> list[int]:
    """The sizes that a process' share of a batch can be worked on in: what divides it, largest first."""
    return [size for size in range(share, 0, -1) if share % size == 0]


def part_by_trial(denoiser: nn.Module, sizes: Sequence[int], attempt: Callable[[int], None]) -> int:
    """The first of some sizes, in descending order, that ``attempt`` does not run out of memory with; the last if none.

    Args:
        denoiser: what is trained; it is left as it was, since a pass in training mode changes some networks.
        sizes: images at once.
        attempt: a forward and backward pass of so many.

    Raises:
        RuntimeError: as ``attempt`` for another reason.
    """
    before = {name: value.to("cpu", copy=True) for name, value in denoiser.state_dict().items()}
    moments = [torch.empty_like(parameter) for parameter in denoiser.parameters() for _ in range(2)]  # Adam's, to come
    try:
        for size in sizes:
            try:
                attempt(size)
                return size
            except RuntimeError as error:
                if not is_lack(error):
                    raise
            if torch.cuda.is_available():  # not in the handler, whose error keeps tensors alive
                torch.cuda.empty_cache()
        return sizes[-1]
    finally:
        del moments
        denoiser.load_state_dict(before)


def part_that_fits(
    config: RunConfig, precision: str, device: torch.device, sizes: Sequence[int], processes: int = 1
) -> int:
    """The first of some sizes, in descending order, that free memory is planned to hold; the last if none.

    Args:
        config: the recipe.
        precision: of the training.
        device: where it runs.
        sizes: images at once.
        processes: how many share the memory.

    Raises:
        UsageError: the memory of this network, or of the device, is not known.
    """
    free = free_memory(device)
    try:
        memory = training_memory(config, precision)
    except Unplannable as error:
        raise UsageError(f"--microbatch auto: {error}: give a number of images") from error
    if free is None:
        raise UsageError(f"--microbatch auto: the memory of this {device.type} is not known: give a number of images")
    room = _USED * free / processes / _SCRATCH
    return next((size for size in sizes if memory.need(size) <= room), sizes[-1])
