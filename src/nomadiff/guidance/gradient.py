"""Guidance by a gradient: a classifier (Dhariwal and Nichol 2021) or a discriminator (Kim et al. 2023, EDM-G++)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from nomadiff.denoiser import Denoiser, check_labels
from nomadiff.errors import UsageError
from nomadiff.guidance.guided import Guided, evaluations_of
from nomadiff.guidance.strength import Interval

__all__ = ["ClassifierGuidance", "DiscriminatorGuidance", "NoisyClassifier", "NoisyDiscriminator"]


class NoisyClassifier(Protocol):
    """Says which class is behind a noisy image: ``x`` (B, C, H, W) and ``sigma`` (B,) to logits (B, classes)."""

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor: ...


class NoisyDiscriminator(Protocol):
    """Says whether a real image is behind a noisy one: the logit ``log(d / (1 - d))`` (B,), high for real."""

    def __call__(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor: ...


class _GradientGuidance(Guided):
    """``D + weight sigma^2 grad_x f(x, sigma)``: the gradient of a log-density ratio added to the score."""

    def log_ratio(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """``f``, one value a sample: float32 ``(B,)``, differentiable in ``x``."""
        raise NotImplementedError

    def guided(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """The estimate moved along the gradient."""
        level = sigma.expand(len(x))
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_ratio(leaf, level, **condition).sum(), leaf)
        square = (level**2).reshape(-1, *[1] * (x.ndim - 1))
        return self.base(x, sigma, **condition) + self.weight * square * slope

    def guided_evaluations(self, sigma: float) -> float:
        """Those of the base: NFE does not count the gradient (as in EDM-G++'s table), operations and seconds do."""
        return evaluations_of(self.base, sigma)


class ClassifierGuidance(_GradientGuidance):
    """Add ``weight`` times the gradient of ``log p(class | x, sigma)`` to the score.

    Args:
        base: the denoiser to guide.
        classifier: one that was trained on noisy images.
        weight: strength.
        class_label: the class to guide towards, int or ``(B,)``, for a base that knows no classes. None takes the
            ``class_label`` of the call, and the base gets it too.
        interval: noise levels at which it acts; None for all.
    """

    def __init__(
        self,
        base: Denoiser,
        classifier: NoisyClassifier,
        weight: float,
        *,
        class_label: Tensor | int | None = None,
        interval: Interval | None = None,
    ) -> None:
        super().__init__(base, weight, interval)
        self.classifier = classifier
        self.class_label = class_label

    def log_ratio(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """``log p(class | x, sigma)``.

        Raises:
            UsageError: no class was named.
        """
        label = condition.get("class_label") if self.class_label is None else self.class_label
        if label is None:
            raise UsageError("classifier guidance needs class_label=: the class to guide towards")
        logits = self.classifier(x, sigma)
        index = torch.as_tensor(label)
        check_labels("class_label", index, logits.shape[1])
        return logits.log_softmax(1).gather(1, index.to(x.device).expand(len(x))[:, None])[:, 0]


class DiscriminatorGuidance(_GradientGuidance):
    """Add ``weight`` times the gradient of ``log(d / (1 - d))`` to the score (Kim et al. 2023).

    A perfect discriminator between real images and the base's own at every noise level turns the base's score into the
    real one at weight 1.

    Args:
        base: the denoiser to correct.
        discriminator: see :class:`NoisyDiscriminator`; it gets the base's condition.
        weight: strength.
        interval: noise levels at which it acts; None for all.
    """

    def __init__(
        self,
        base: Denoiser,
        discriminator: NoisyDiscriminator,
        weight: float,
        *,
        interval: Interval | None = None,
    ) -> None:
        super().__init__(base, weight, interval)
        self.discriminator = discriminator

    def log_ratio(self, x: Tensor, sigma: Tensor, **condition: Any) -> Tensor:
        """``log(d / (1 - d))``."""
        return self.discriminator(x, sigma, **condition)
