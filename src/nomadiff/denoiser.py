"""A denoiser is a callable ``D(x, sigma, **condition) -> x0_hat``.

A network with preconditioning is a denoiser; so is a model steered away from another, and a model whose source label
is fixed to "real". Every solver therefore works with every method, and methods compose. Score and denoiser are the
same thing: ``score(x, sigma) = (D(x, sigma) - x) / sigma**2`` (EDM, eq. 3), so a combination of denoisers whose
coefficients sum to one is the same combination of scores.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from inspect import Parameter, signature
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from nomadiff.errors import UsageError

__all__ = ["BoundDenoiser", "Denoiser", "EDMDenoiser", "LabelTensors", "OwnDenoiser", "check_labels"]


_LOWEST = {"source": 0, "class_label": -1}  # -1 stands for no class


@runtime_checkable
class Denoiser(Protocol):
    """Any callable that estimates the clean image behind a noisy one, ``E[x0 | x0 + sigma * n = x]``.

    Plain functions qualify. ``x`` is float32 of shape ``(B, C, H, W)`` (or ``(B, D)`` for vectors) in units where the
    data has a spread of about one half ([-1, 1] images); ``sigma`` is float32, a scalar or of shape ``(B,)``, the
    standard deviation of the noise in the same units. The result is float32 with the shape of ``x``. Labels
    (``source``, ``class_label``), for a denoiser that takes them, are int64 of shape ``(B,)`` on the device of ``x``.
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
    """

    def __init__(self, network: nn.Module, *, sources: int = 0, classes: int = 0, sigma_data: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.sources = sources
        self.classes = classes
        self.sigma_data = sigma_data
        self.autocast: torch.dtype | None = None
        self._takes_augment = _takes_augment(type(network))

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
            float32 ``(B, C, H, W)``: the estimate of the clean image; NaN for an image whose label is out of range but
            was not looked at, see :func:`check_labels`.

        Raises:
            UsageError: a label is missing, not understood by this network, or out of range; or the network's output has
                another shape than its input.
        """
        x, sigma = _float32(x, sigma)
        labels = self.label_vector(source, class_label, batch=x.shape[0], device=x.device)
        level = sigma.reshape(-1, *[1] * (x.ndim - 1))
        variance = level**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = level * self.sigma_data / variance.sqrt()
        c_in = 1 / variance.sqrt()
        with self._precision(x.device):
            told = (labels, augment) if self._takes_augment else (labels,)
            prediction = self.network(c_in * x, sigma.log() / 4, *told)
        self._require_shape(prediction, x)
        return c_skip * x + c_out * prediction.float()

    def label_vector(
        self, source: Tensor | int | None, class_label: Tensor | int | None, *, batch: int, device: torch.device
    ) -> Tensor | None:
        """The network's label input for these labels: float32 ``(batch, sources + classes)``, or None without labels.

        A label out of range that was not looked at gives NaN: zeros would mean "no label".

        Raises:
            UsageError: as in :meth:`forward`.
        """
        parts = []
        for name, index in self.labels(source, class_label, batch=batch, device=device).items():
            count = self.sources if name == "source" else self.classes
            one_hot = (index[:, None] == torch.arange(count, device=device)).float()
            if not _can_look_at(index):
                is_known = (index >= _LOWEST[name]) & (index < count)
                one_hot = torch.where(is_known[:, None], one_hot, math.nan)
            scale: Any = getattr(self.network, "label_scale", None)
            parts.append(one_hot if scale is None else one_hot * scale(count))
        return torch.cat(parts, dim=1) if parts else None

    def labels(
        self, source: Tensor | int | None, class_label: Tensor | int | None, *, batch: int, device: torch.device
    ) -> dict[str, Tensor]:
        """The labels that the network knows, ``source`` first: int64 ``(batch,)`` on ``device``.

        Raises:
            UsageError: as in :meth:`forward`.
        """
        found = {}
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
            check_labels(name, index, count, lowest=_LOWEST[name])
            found[name] = index.to(device, torch.int64).expand(batch)
        return found

    def _precision(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    def _require_shape(self, made: Tensor, x: Tensor) -> None:
        if made.shape != x.shape:  # it might be broadcast without a word
            raise UsageError(
                f"network {type(self.network).__name__} made {tuple(made.shape)} of images {tuple(x.shape)}"
            )


class OwnDenoiser(EDMDenoiser):
    """A denoiser of a user's own, an ``nn.Module``, in the place of a preconditioned network.

    Args:
        denoiser: called as ``denoiser(x, sigma, **labels)`` with float32 ``x`` (B, C, H, W), float32 ``sigma`` (B,) and
            the labels that it knows, ``source`` and ``class_label``: int64 (B,); all on one device.
        sources, classes, sigma_data: as of :class:`EDMDenoiser`; ``sigma_data`` weighs the loss only.

    Attributes:
        network: the denoiser.

    Raises:
        UsageError: it takes no such label.
    """

    def __init__(self, denoiser: nn.Module, *, sources: int = 0, classes: int = 0, sigma_data: float = 0.5) -> None:
        super().__init__(denoiser, sources=sources, classes=classes, sigma_data=sigma_data)
        parameters = signature(denoiser.forward).parameters
        takes_any = any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
        for name, count in (("source", sources), ("class_label", classes)):
            if count and name not in parameters and not takes_any:
                raise UsageError(f"denoiser {type(denoiser).__name__} knows no {name}: its forward takes none")

    def forward(
        self,
        x: Tensor,
        sigma: Tensor | float,
        *,
        source: Tensor | int | None = None,
        class_label: Tensor | int | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Denoise ``x``; as :meth:`EDMDenoiser.forward`, without ``augment``."""
        x, sigma = _float32(x, sigma)
        labels = self.labels(source, class_label, batch=x.shape[0], device=x.device)
        with self._precision(x.device) if self.autocast else nullcontext():
            estimate = self.network(x, sigma, **labels)
        self._require_shape(estimate, x)
        return estimate if self.autocast is None else estimate.float()


def _float32(x: Tensor, sigma: Tensor | float) -> tuple[Tensor, Tensor]:
    return x.float(), torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(x.shape[0])


def _takes_augment(network: type[nn.Module]) -> bool:
    """Whether such a network's ``forward`` takes more than ``x, noise_label, labels``."""
    parameters = signature(network.forward).parameters.values()
    return len(parameters) > 4 or any(each.kind is Parameter.VAR_POSITIONAL for each in parameters)


def check_labels(name: str, index: Tensor, count: int, *, lowest: int = 0) -> None:
    """Check that labels are in range where that costs nothing.

    Labels on another device are not looked at, which would wait for it, nor are any while ``torch.compile`` traces.

    Args:
        name: what they are, for the message.
        index: integers of any shape.
        count: number of labels that are known.
        lowest: the smallest that is allowed.

    Raises:
        UsageError: a label below ``lowest``, or not below ``count``.
    """
    if _can_look_at(index) and index.numel():
        low, high = (int(value) for value in torch.stack([index.min(), index.max()]).tolist())
        if low < lowest or high >= count:
            raise UsageError(f"{name} must lie in {lowest}..{count - 1}, got {low}..{high}")


def _can_look_at(index: Tensor) -> bool:
    return index.device.type == "cpu" and not torch.compiler.is_compiling()


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


class LabelTensors(BoundDenoiser):
    """A denoiser that gets its labels as the contract says, whatever the caller has: int64 ``(B,)`` on ``x``'s device.

    Args:
        denoiser: the denoiser to call.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser)

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """Call the inner denoiser with its labels made tensors."""
        labels = {
            name: torch.as_tensor(value, dtype=torch.int64, device=x.device).expand(len(x))
            for name, value in condition.items()
            if name in ("source", "class_label") and value is not None
        }
        return self.denoiser(x, sigma, **{**condition, **labels})
