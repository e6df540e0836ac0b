"""What a run will cost, before it starts: parameters, operations, memory, time on named hardware."""

from __future__ import annotations

import torch

from nomadiff.networks.flops import flops_of, parameters_of
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.config import RunConfig

__all__ = ["activation_bytes", "plan_sampling", "plan_training"]

# dense bf16 peak of one A100 (NVIDIA's data sheet) and the share of it that EDM-like U-Nets are assumed to reach
_A100_FLOPS = 312e12
_ASSUMED_SHARE = 0.3


def activation_bytes(config: RunConfig) -> float:
    """Bytes that one image's forward pass keeps for the backward pass, in the run's precision.

    Counted on shapes alone (torch's meta device): every tensor autograd saves, weights left out, once.
    """
    kept: dict[int, int] = {}
    with torch.device("meta"):
        denoiser = config.build_denoiser()
        weights = {parameter.data_ptr() for parameter in denoiser.parameters()} | {id(p) for p in denoiser.parameters()}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) not in weights and not tensor.is_leaf:
                kept[id(tensor)] = tensor.numel() * tensor.element_size()
                alive.append(tensor)  # so that no id is used twice
            return tensor

        alive: list[torch.Tensor] = []
        network = config.network
        x = torch.empty(1, network.channels, network.resolution, network.resolution)
        labels = torch.empty(1, config.sources + config.classes) if config.sources + config.classes else None
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            denoiser.network(x, torch.empty(1), labels, None)
    share = 1.0 if config.training.precision == "fp32" else 0.5
    return sum(kept.values()) * share


def _parameters(config: RunConfig) -> int:
    with torch.device("meta"):
        return parameters_of(config.build_denoiser())


def plan_training(config: RunConfig) -> str:
    """The plan of a training run, one fact a line."""
    options = config.training
    parameters = _parameters(config)
    forward = flops_of(config.network, config.sources + config.classes)
    total = 3 * forward * options.steps * options.batch
    microbatch = options.microbatch or options.batch
    # weights, gradients, two Adam moments and the moving average, fp32
    memory = 5 * 4 * parameters + microbatch * activation_bytes(config)
    labels = f"{config.sources or 'no'} source labels, {config.classes or 'no'} class labels"
    shares = ", ".join(f"{name} {share:.1%}" for name, share in zip(config.source_names, config.shares))
    hours = total / (_A100_FLOPS * _ASSUMED_SHARE) / 3600
    return "\n".join(
        [
            f"method:      {config.method} ({labels})",
            f"batches:     {shares}",
            f"parameters:  {parameters / 1e6:,.2f} M ({config.network.architecture})",
            f"budget:      {options.budget / 1e6:g} Mi = {options.steps:,} steps of {options.batch}",
            f"compute:     {forward / 1e9:,.3g} GFLOP an image forward, {total / 1e15:,.3g} PFLOP in all",
            f"GPU hours:   {hours:,.2g} on an A100 at {_ASSUMED_SHARE:.0%} of {_A100_FLOPS / 1e12:g} TFLOP/s (assumed)",
            f"memory:      about {memory / 2**30:,.2f} GiB for {microbatch} images at once ({options.precision})",
            f"sampling:    {_sampling_line(config.sampler, forward)}",
        ]
    )


def plan_sampling(config: RunConfig, sampler: SamplerConfig, count: int) -> str:
    """The plan of a sampling run, one fact a line."""
    forward = flops_of(config.network, config.sources + config.classes)
    total = forward * sampler.nfe * count
    return "\n".join(
        [
            f"model:       {config.method}, {_parameters(config) / 1e6:,.2f} M parameters",
            f"samples:     {count:,}",
            f"sampling:    {_sampling_line(sampler, forward)}",
            f"compute:     {total / 1e15:,.3g} PFLOP in all",
        ]
    )


def _sampling_line(sampler: SamplerConfig, forward: float) -> str:
    return (
        f"{sampler.solver}, {sampler.steps} steps, NFE {sampler.nfe}, {forward * sampler.nfe / 1e9:,.3g} GFLOP an image"
    )
