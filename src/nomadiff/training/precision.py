"""The precision of training, and the meaning of "auto" on this machine."""

from __future__ import annotations

import warnings

import torch

from nomadiff.errors import NomadiffWarning

__all__ = ["AUTOCAST", "PRECISIONS", "has_fast_half", "pays_in_half", "resolved_precision"]

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Dtype of autocast by precision; weights and everything else stay float32."""

PRECISIONS = ("auto", *AUTOCAST)

_WORTHWHILE = 0.1e9
"""Operations of a forward pass on one image from which half precision is taken to pay: on a CPU with AVX-512-bf16 it is
0.7x as fast as fp32 at 0.01e9 (``digits``) and 1.6x at 3.5e9 (``small32``), see docs/benchmarks.md."""


def has_fast_half(device: torch.device, precision: str) -> bool:
    """Whether convolutions in "bf16" or "fp16" have kernels of their own on this device.

    Without them (a CPU with AVX2 alone) they fall to a path that is far slower than fp32.
    """
    if device.type == "cuda":
        return precision == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        operators = torch.ops.mkldnn
        known = {"bf16": operators._is_mkldnn_bf16_supported, "fp16": operators._is_mkldnn_fp16_supported}
        return bool(known[precision]())
    return False


def pays_in_half(forward: float) -> bool:
    """Whether a network of so many operations for one image is large enough; one that cannot be counted (NaN) is."""
    return not forward < _WORTHWHILE


def resolved_precision(precision: str, device: torch.device, forward: float) -> str:
    """The precision to train in: "fp32", "bf16" or "fp16".

    Args:
        precision: one of :data:`PRECISIONS`. "auto" takes bf16 where it is faster, fp16 on GPUs without bf16, and fp32
            elsewhere and for small networks.
        device: where the network is trained.
        forward: operations of one forward pass on one image.

    Warns:
        NomadiffWarning: half precision is asked for by name and is slow on this device.
    """
    if precision == "auto":
        if not pays_in_half(forward):
            return "fp32"
        if has_fast_half(device, "bf16"):
            return "bf16"
        return "fp16" if device.type == "cuda" else "fp32"
    if precision != "fp32" and not has_fast_half(device, precision):
        text = f"{precision} has no fast path on this {device.type}: --precision auto or fp32 is many times faster"
        warnings.warn(text, NomadiffWarning, stacklevel=2)
    return precision
