"""How a training calls the blocks of its U-Net: compiled or not, kept or computed twice."""

from __future__ import annotations

import sys
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.networks.unet import BlockCall, UNet, call_block

__all__ = ["explained_compiler", "set_block_call"]

_SHAPES = 64  # of blocks in one network: each is compiled for itself


def set_block_call(denoiser: EDMDenoiser, *, compiled: bool, checkpointed: bool) -> None:
    """Have a denoiser's blocks compiled, and computed again in the backward pass instead of kept.

    Blocks are compiled one shape at a time (regional compilation): starting takes a fraction of the time of a whole
    network, and equal blocks share what was compiled. Randomness is drawn as in eager mode, so both agree but for
    rounding.

    Raises:
        UsageError: the network has no such blocks.
    """
    network = denoiser.network
    if not (compiled or checkpointed):
        return
    if not isinstance(network, UNet):
        asked = "--compile" if compiled else "--checkpoint-gradients"
        raise UsageError(f"{asked} is for nomadiff's own U-Nets: a {type(network).__name__} has no blocks of theirs")
    call: BlockCall = call_block
    if compiled:
        import torch._dynamo.config as settings

        limit = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"  # before torch 2.6
        setattr(settings, limit, max(getattr(settings, limit), _SHAPES))
        call = torch.compile(call, dynamic=False, options={"fallback_random": True})
    if checkpointed:
        call = partial(_recomputed, call)
    network.block_call = call


def _recomputed(call: BlockCall, block: torch.nn.Module, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
    # plainly where nothing is differentiated: checkpoint would keep the state of the random generators all the same
    if not torch.is_grad_enabled():
        return call(block, x, emb)
    return checkpoint(call, block, x, emb, use_reentrant=False)


def explained_compiler(error: Exception) -> Exception:
    """An error of ``torch.compile`` as one that says what to do; anything else as it is."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None and isinstance(error, dynamo.exc.TorchDynamoException):
        reason = " ".join(str(error).split("\n")[:2])[:200]
        return NomadiffError(f"torch.compile does not work here ({reason}): train without --compile")
    return error
