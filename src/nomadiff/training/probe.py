"""Does the network use its source label? Without it CASD is plain SDA, and the loss does not show it."""

from __future__ import annotations

import torch
from torch import Tensor

from nomadiff.denoiser import EDMDenoiser, OwnDenoiser
from nomadiff.errors import NomadiffError

__all__ = ["check_source_reaches_output", "source_effect"]

_IGNORED = (
    "the network ignores its source label, so CASD would be plain SDA: "
    "check that the architecture uses its `labels` (a denoiser: its `source`)"
)


def check_source_reaches_output(denoiser: EDMDenoiser, shape: tuple[int, ...], device: torch.device) -> None:
    """Fail before training when no path leads from the source label to the output.

    The gradient of the output with respect to the label input is exact even where a fresh network's near-zero last
    layers would hide a difference of outputs in float32. Weights that are exactly zero at the start (ADM's and EDM2's
    last layers) are moved a little for the probe: it asks for a path, not for its strength. A denoiser of a user's own
    gets labels as integers, which have no gradient: its estimates for two sources must differ.

    Args:
        denoiser: a source-conditional denoiser.
        shape: shape of one image ``(C, H, W)``.
        device: the denoiser's device.

    Raises:
        NomadiffError: the gradient, or the difference, is exactly zero.
    """
    no_class = -1 if denoiser.classes else None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, *shape), generator=generator).to(device)
    training = denoiser.training
    denoiser.eval()
    moved = {
        name: 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)
        for name, parameter in denoiser.network.named_parameters()
        if not parameter.any()
    }
    level = torch.zeros(1, device=device)
    if isinstance(denoiser, OwnDenoiser):
        told = [denoiser.labels(source, no_class, batch=1, device=device) for source in range(denoiser.sources)]
        with torch.no_grad():
            made = [torch.func.functional_call(denoiser.network, moved, (x, level.exp()), each) for each in told]
        reaches = any(not torch.equal(made[0], other) for other in made[1:])
    else:
        labels = denoiser.label_vector(0, no_class, batch=1, device=device)
        assert labels is not None
        labels.requires_grad_()
        output = torch.func.functional_call(denoiser.network, moved, (x, level, labels))
        (gradient,) = torch.autograd.grad((output * x).sum(), labels, allow_unused=True)
        reaches = gradient is not None and bool(gradient[:, : denoiser.sources].abs().sum() > 0)
    denoiser.train(training)
    if not reaches:
        raise NomadiffError(_IGNORED)


@torch.no_grad()
def source_effect(denoiser: EDMDenoiser, clean: Tensor, *, sigma: float = 0.5) -> float:
    """How far the source label moves the estimate: ``|D(x, source 1) - D(x, source 0)| / |D(x, source 0) - x|``.

    Args:
        denoiser: a source-conditional denoiser.
        clean: some training images in [-1, 1], float32 ``(B, C, H, W)``; noise is added with a fixed seed.
        sigma: noise level of the probe.

    Returns:
        A ratio, 0 when the label changes nothing, averaged over the synthetic sources. It is logged at every snapshot.

    Raises:
        NomadiffError: it is exactly zero.
    """
    generator = torch.Generator().manual_seed(0)
    x = clean + sigma * torch.randn(clean.shape, generator=generator).to(clean)
    no_class = {"class_label": -1} if denoiser.classes else {}
    real = denoiser(x, sigma, source=0, **no_class)
    moved = [(denoiser(x, sigma, source=k, **no_class) - real).norm() for k in range(1, denoiser.sources)]
    effect = float(torch.stack(moved).mean() / (real - x).norm())
    if effect == 0:
        raise NomadiffError(_IGNORED)
    return effect
