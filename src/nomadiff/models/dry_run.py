"""The cost of a run before it starts: parameters, operations, memory, time on named hardware."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from nomadiff.data.image_source import ImageSource
from nomadiff.data.labels import listed
from nomadiff.models.own_denoiser import DenoiserFacts
from nomadiff.networks.flops import flops_of, parameters_of
from nomadiff.networks.own import Unplannable
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.config import Facts, RunConfig
from nomadiff.training.footprint import parts_of, training_memory

__all__ = [
    "NFE_MEANS",
    "class_lines",
    "core_hours",
    "gpu_hours",
    "millions",
    "parameters_planned",
    "plan_sampling",
    "plan_training",
    "three_digits",
]

NFE_MEANS = "NFE: evaluations of the network for one image"

# dense peak of one A100 (NVIDIA's data sheet; TF32 for fp32, torch's default for convolutions) and the share of it that
# EDM-like U-Nets are assumed to reach
_A100_FLOPS = {"fp32": 156e12, "bf16": 312e12, "fp16": 312e12, "auto": 312e12}
_ASSUMED_SHARE = 0.3
_A100_BYTES = 80 << 30
_CORE_FLOPS = (
    100e9  # what one core with 512-bit vectors reaches in these networks in fp32; half of it with 256-bit ones
)


def parameters_planned(config: RunConfig | DenoiserFacts) -> float:
    """Trainable values of a recipe's network; NaN where one of a user's own cannot be built without computing."""
    try:
        with torch.device("meta"):
            return parameters_of(config.build_denoiser())
    except Unplannable:
        return math.nan


def plan_training(config: RunConfig, published: str = "", sources: Sequence[ImageSource] = ()) -> str:
    """The plan of a training run, one fact a line.

    Args:
        config: the recipe.
        published: what a paper says of this setting, to be read beside the figures.
        sources: the images, to be counted.
    """
    options = config.training
    parameters = parameters_planned(config)
    forward = flops_of(config.network, config.sources + config.classes)
    total = 3 * forward * options.steps * options.batch
    labels = f"{config.sources or 'no'} source labels, {config.classes or 'no'} class labels"
    shares = ", ".join(f"{name} {share:.1%}" for name, share in zip(config.source_names, config.shares))
    counts = ", ".join(f"{source.name} {len(source):,}" for source in sources)
    return "\n".join(
        [
            f"method:      {config.method} ({labels})",
            *([f"images:      {counts}"] if sources else []),
            f"batches:     {shares}",
            *(f"classes:     {line}" for line in class_lines(config)),
            f"parameters:  {millions(parameters)} ({config.network.architecture})",
            f"budget:      {options.budget:,} images: {options.steps:,} steps of {options.batch}",
            *([f"warning:     {options.inside_warmup}"] if options.inside_warmup else []),
            f"compute:     {three_digits(forward / 1e9)} GFLOP an image forward, "
            f"{three_digits(total / 1e15)} PFLOP in all",
            f"GPU hours:   {gpu_hours({options.precision: total})}",
            f"core hours:  {core_hours(total)}; nomadiff suggest measures this machine",
            f"memory:      {_memory_line(config)}",
            f"sampling:    {_sampling_line(config.sampler, forward)}",
            *([f"papers:      {published}"] if published else []),
        ]
    )


def class_lines(config: Facts) -> list[str]:
    """For each source how many images of which class were trained on: a line each, none without classes."""
    return [
        f"{source}, {listed(f'{name}: {count:,}' for name, count in zip(config.vocabulary, row) if count)}"
        for source, row in zip(config.source_names, config.class_counts)
    ]


def gpu_hours(operations: Mapping[str, float]) -> str:
    """Hours of one GPU, with what is assumed about it.

    Args:
        operations: how many are done in each precision: "fp32", "bf16", "fp16", "auto" (half precision on a GPU).
    """
    hours = sum(total / (_A100_FLOPS[precision] * _ASSUMED_SHARE) for precision, total in operations.items()) / 3600
    peaks = " and ".join(f"{peak:g}" for peak in sorted({_A100_FLOPS[name] / 1e12 for name in operations}))
    return f"{three_digits(hours)} on an A100 at {_ASSUMED_SHARE:.0%} of {peaks} TFLOP/s (assumed)"


def core_hours(operations: float) -> str:
    """Hours of one CPU core, with what is assumed about it; ``operations`` in any precision."""
    hours = operations / _CORE_FLOPS / 3600
    return f"{three_digits(hours)} on one CPU core at {_CORE_FLOPS / 1e9:g} GFLOP/s (assumed)"


def plan_sampling(config: RunConfig | DenoiserFacts, sampler: SamplerConfig, count: int) -> str:
    """The plan of a sampling run, one fact a line."""
    assert config.network is not None
    forward = flops_of(config.network, config.sources + config.classes)
    total = forward * sampler.nfe * count
    return "\n".join(
        [
            f"model:       {config.method}, {millions(parameters_planned(config))} parameters",
            f"samples:     {count:,}",
            f"sampling:    {_sampling_line(sampler, forward)}",
            f"compute:     {three_digits(total / 1e15)} PFLOP in all",
        ]
    )


def _memory_line(config: RunConfig) -> str:
    options = config.training
    try:
        memory = training_memory(config)
    except Unplannable:
        return "unknown"
    most = max((size for size in parts_of(options.batch) if memory.need(size) <= _A100_BYTES), default=0)
    at_once = (most or 1) if options.microbatch == "auto" else options.microbatch or options.batch
    assert isinstance(at_once, int)
    line = f"about {memory.need(at_once) / 2**30:,.2f} GiB for {at_once} images at once ({options.precision})"
    if memory.need(at_once) > _A100_BYTES > memory.need(1):
        line += f"; 80 GiB hold --microbatch {int(_A100_BYTES - memory.fixed) // memory.per_image}"
    return line


def _sampling_line(sampler: SamplerConfig, forward: float) -> str:
    flops = three_digits(forward * sampler.nfe / 1e9)
    return f"{sampler.solver}, {sampler.steps} steps, NFE {sampler.nfe}, {flops} GFLOP an image ({NFE_MEANS})"


def three_digits(value: float) -> str:
    """A readable number: three digits, or all digits before the point: 0.00941, 42.4, 7,635; NaN is unknown."""
    if math.isnan(value):
        return "unknown"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def millions(parameters: float) -> str:
    """A number of parameters for people: ``0.18 M``; NaN is unknown."""
    return "unknown" if math.isnan(parameters) else f"{parameters / 1e6:,.2f} M"
