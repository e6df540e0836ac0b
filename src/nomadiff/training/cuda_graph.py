"""A small network's loss as a CUDA graph: its hundreds of kernels are launched as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nomadiff.denoiser import EDMDenoiser
from nomadiff.networks.unet import UNet
from nomadiff.progress import say
from nomadiff.training.loss import edm_loss

__all__ = ["ReplayedLoss", "is_launch_bound"]

_SMALL = 5e12
"""Operations of a step below which a GPU is taken to wait for its host: about 20 ms of work."""


def is_launch_bound(denoiser: EDMDenoiser, device: torch.device, forward: float, batch: int) -> bool:
    """Whether a training step is to be replayed: on a GPU, with a network of nomadiff's whose kernels are short.

    Not with EDM2's, whose forward pass in training changes the weights: capturing calls it several times.

    Args:
        denoiser: what is trained.
        device: where.
        forward: operations of one forward pass on one image.
        batch: images of a step.
    """
    suits = isinstance(denoiser.network, UNet) and not hasattr(denoiser.network, "log_variance")
    return device.type == "cuda" and suits and 3 * forward * batch < _SMALL


class ReplayedLoss:
    """:func:`~nomadiff.training.loss.edm_loss` of a denoiser, captured at the first call and replayed by later ones.

    All calls must have the same shapes and labels, and there may be one backward pass a step: its gradients lie where
    the next one writes. Dropout draws as it does without a graph.

    Args:
        denoiser: what is trained, in training mode.
        sigma_data: of the loss.
    """

    def __init__(self, denoiser: EDMDenoiser, sigma_data: float) -> None:
        self._loss = _Loss(denoiser, sigma_data)
        self._replay: Any = None

    def __call__(self, clean: Tensor, sigma: Tensor, noise: Tensor, **condition: Tensor) -> Tensor:
        """The loss of every pixel, ``(B, C, H, W)``; arguments as of ``edm_loss``, all on the GPU."""
        if self._replay is None:
            self._loss.names = tuple(condition)
            given = tuple(each.clone() for each in (clean, sigma, noise, *condition.values()))
            # capturing runs in a stream of its own; autograd waits for it where that is needed, and says so
            if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):
                torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
            try:
                with torch.cuda.device_of(clean):
                    self._replay = torch.cuda.make_graphed_callables(self._loss, given, allow_unused_input=True)
            except RuntimeError as error:
                say(f"no CUDA graph here ({str(error).splitlines()[0]}): every kernel is launched by itself")
                self._replay = self._loss
        made: Tensor = self._replay(clean, sigma, noise, *condition.values())
        return made


class _Loss(nn.Module):
    names: tuple[str, ...] = ()

    def __init__(self, denoiser: EDMDenoiser, sigma_data: float) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sigma_data = sigma_data

    def forward(self, clean: Tensor, sigma: Tensor, noise: Tensor, *labels: Tensor) -> Tensor:
        condition = dict(zip(self.names, labels))
        return edm_loss(self.denoiser, clean, sigma, noise, sigma_data=self.sigma_data, **condition)
