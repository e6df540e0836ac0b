"""A denoiser is a callable ``D(x, sigma, **condition) -> x0_hat``.

A network with preconditioning is a denoiser; so is a model steered away from another, and a model whose source label
is fixed to "real". Every solver therefore works with every method, and methods compose. Score and denoiser are the
same thing: ``score(x, sigma) = (D(x, sigma) - x) / sigma**2`` (EDM, eq. 3), so a combination of denoisers whose
coefficients sum to one is the same combination of scores.
"""

from __future__ import annotations

from functools import lru_cache
from inspect import Parameter, signature
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nomadiff.errors import UsageError

__all__ = ["BoundDenoiser", "Denoiser", "EDMDenoiser", "check_labels"]


@runtime_checkable
class Denoiser(Protocol):
    """Any callable that estimates the clean image behind a noisy one, ``E[x0 | x0 + sigma * n = x]``.

    Plain functions qualify. ``x`` is float32 of shape ``(B, C, H, W)`` (or ``(B, D)`` for vectors) in units where the
    data has a spread of about one half ([-1, 1] images); ``sigma`` is float32, a scalar or of shape ``(B,)``, the
    standard deviation of the noise in the same units. The result is float32 with the shape of ``x``.
    """

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor: ...


class EDMDenoiser(nn.Module):
    """A network with EDM's preconditioning (Karras et al. 2022, eq. 7 and Table 1), conditioned on source and class.

    ``D(x, sigma) = c_skip x + c_out F(c_in x, ln(sigma) / 4, labels)``. The source label is what CASD adds: ``source``
    0 is the real data, ``1..K`` the synthetic sources. Labels enter the network as one vector: one-hot source beside
    one-hot class, each times the factor that the network asks for, so that a source label keeps its scale beside a
    thousand classes.

    Args:
        network: called as ``network(x, noise_label, labels, augment)`` with float32 ``x`` (B, C, H, W), ``noise_label``
            (B,), ``labels`` (B, sources + classes) or None, ``augment`` (B, 9) or None; without ``augment`` if its
            ``forward`` takes three. Its method ``label_scale(count)``, if it has one, is
            :meth:`nomadiff.networks.unet.UNet.label_scale`.
        sources: number of source labels the network knows (K + 1), or 0 for an unlabelled network.
        classes: number of class labels, or 0.
        sigma_data: standard deviation of the training data in the units of ``x``.

    Attributes:
        autocast: dtype the network computes in (``torch.bfloat16``, ``torch.float16``) or None for float32. Input,
            output and preconditioning stay float32.
        labels_are_checked: whether the caller has checked its labels on the host. Labels on another device are not
            checked again then: that would wait for the device.
    """

    def __init__(self, network: nn.Module, *, sources: int = 0, classes: int = 0, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.sources = sources
        self.classes = classes
        self.sigma_data = sigma_data
        self.autocast: torch.dtype | None = None
        self.labels_are_checked = False

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        *,
        source: Tensor | int | None = None,
        class_label: Tensor | int | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Denoise ``x``.

        Args:
            x: float32 ``(B, C, H, W)``.
            sigma: noise level, scalar or ``(B,)``.
            source: source label(s) in ``[0, sources)``, an int or int64 ``(B,)``. Required if the network knows
                sources, refused if it does not: the source is never implicit.
            class_label: class label(s) in ``[0, classes)``, or -1 for "no class" (classifier-free guidance). Required
                if the network knows classes, refused if not.
            augment: augmentation label ``(B, 9)`` during training, None otherwise.

        Returns:
            float32 ``(B, C, H, W)``: the estimate of the clean image.

        Raises:
            UsageError: a label is missing, not understood by this network, or out of range; or the network's output has
                another shape than its input.
        """
        x = x.float()
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(x.shape[0])
        labels = self.label_vector(source, class_label, batch=x.shape[0], device=x.device)
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        variance = level**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = level * self.sigma_data / variance.sqrt()
        c_in = 1 / variance.sqrt()
        enabled = self.autocast is not None
        with torch.autocast(x.device.type, dtype=self.autocast or torch.bfloat16, enabled=enabled):
            takes_augment = _takes_augment(type(self.network))  # type: ignore[arg-type]
            told = (labels, augment) if takes_augment else (labels,)
            prediction = self.network(c_in * x, sigma.log() / 4, *told)
        if prediction.shape != x.shape:  # it might be broadcast without a word
            raise UsageError(
                f"network {type(self.network).__name__} made {tuple(prediction.shape)} of images {tuple(x.shape)}"
            )
        return c_skip * x + c_out * prediction.float()

    def label_vector(
        self, source: Tensor | int | None, class_label: Tensor | int | None, *, batch: int, device: torch.device
    ) -> Tensor | None:
        """The network's label input for these labels: float32 ``(batch, sources + classes)``, or None without labels.

        Raises:
            UsageError: as in :meth:`forward`.
        """
        parts = []
        for name, value, count in (("source", source, self.sources), ("class_label", class_label, self.classes)):
            if count == 0:
                if value is not None:
                    raise UsageError(f"this network was trained without a {name}: call it without {name}=")
                continue
            if value is None:
                hint = "source=0 is the real data" if name == "source" else "-1 stands for no class"
                raise UsageError(f"this network needs {name}= in 0..{count - 1} ({hint})")
            index = torch.as_tensor(value)
            # a one-hot or fractional label would otherwise be truncated to integers silently
            if index.is_floating_point() or index.shape not in ((), (1,), (batch,)):
                got = f"{index.dtype} of shape {tuple(index.shape)}"
                raise UsageError(f"{name} must be one integer or one for each of the {batch} samples, got {got}")
            if not self.labels_are_checked or index.device.type == "cpu":
                check_labels(name, index, count, lowest=0 if name == "source" else -1)
            index = index.to(device, torch.int64).expand(batch)
            one_hot = (index[:, None] == torch.arange(count, device=device)).float()
            scale: Any = getattr(self.network, "label_scale", None)
            parts.append(one_hot if scale is None else one_hot * scale(count))
        return torch.cat(parts, dim=1) if parts else None


@lru_cache
def _takes_augment(network: type[nn.Module]) -> bool:
    """Whether such a network's ``forward`` takes more than ``x, noise_label, labels``."""
    parameters = signature(network.forward).parameters.values()
    return len(parameters) > 4 or any(each.kind is Parameter.VAR_POSITIONAL for each in parameters)


def check_labels(name: str, index: Tensor, count: int, *, lowest: int = 0) -> None:
    """Check that labels are in range. Those on a GPU are waited for.

    Args:
        name: what they are, for the message.
        index: integers of any shape.
        count: number of labels that are known.
        lowest: the smallest that is allowed.

    Raises:
        UsageError: a label below ``lowest``, or not below ``count``.
    """
    if index.numel():
        low, high = (int(value) for value in torch.stack([index.min(), index.max()]).tolist())
        if low < lowest or high >= count:
            raise UsageError(f"{name} must lie in {lowest}..{count - 1}, got {low}..{high}")


class BoundDenoiser:
    """A denoiser with part of its condition fixed: ``BoundDenoiser(D, source=0)`` is CASD's sampling model.

    CASD Algorithm 2 samples with the source label fixed to 0 (real) at every step. A condition given at the call must
    not contradict a bound one.

    Args:
        denoiser: the denoiser to call.
        condition: keyword arguments to add to every call.
    """

    def __init__(self, denoiser: Denoiser, **condition: Any) -> None:
        self.denoiser = denoiser
        self.condition = condition

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Call the inner denoiser with the bound condition added.

        Raises:
            UsageError: ``condition`` names something that is already bound.
        """
        if clash := sorted(self.condition.keys() & condition.keys()):
            raise UsageError(f"{', '.join(clash)} is already fixed for this denoiser")
        return self.denoiser(x, sigma, **self.condition, **condition)
