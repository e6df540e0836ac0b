"""Images that teach above a noise level only: how often each is drawn, and how its loss is weighted."""

from __future__ import annotations

import torch
from torch import Tensor

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.training.config import TrainingConfig
from nomadiff.training.loss import share_above

__all__ = ["NoiseFloors", "with_floors"]

_LEAST = 1e-4  # share of the noise levels that an image must teach at


class NoiseFloors:
    """Weights that keep every noise level as important as it is without floors, and unbiased.

    Let ``p`` be the training's distribution of sigma, ``s_i`` the share of image ``i`` (those of a mix sum to 1; with
    CASD's eq. 5 they are equal), ``f_i`` its floor, 0 for real images, and ``A(sigma) = sum_i s_i [f_i <= sigma]`` the
    share of the images that teach at sigma. What is minimised is

        L = E_{sigma ~ p}  sum_i  s_i [f_i <= sigma] / A(sigma)  E_n  lambda(sigma) |D(x_i + sigma n, sigma) - x_i|^2

    At each sigma it is EDM's loss of those images that teach there, each by its share, and sigma counts as much as in
    EDM's training. Its minimiser at sigma is the denoiser of the mixture of these images: the real one wherever they
    cannot be told from real ones under that noise.

    It is estimated without wasting a pass. Let ``P_i`` be the probability of a sigma above ``f_i`` and ``P_k`` its mean
    over source ``k``. Source ``k`` is drawn in proportion to ``s_k P_k`` (:func:`with_floors`), its images uniformly,
    sigma from ``p`` restricted to what lies above ``f_i``; with ``Z = sum_k s_k P_k`` the loss has the weight

        w = (P_i / P_k) (Z / A(sigma))

    whose mean is 1. Both together make the estimate unbiased.

    Args:
        mix: images with floors, and shares that :func:`with_floors` has set.
        options: the training, for its distribution of sigma.
        device: where weights are computed.
    """

    def __init__(self, mix: SourceMix, options: TrainingConfig, device: torch.device) -> None:
        self.p_mean, self.p_std = options.p_mean, options.p_std
        mean = torch.stack([share_above(floor, self.p_mean, self.p_std).mean() for floor in mix.floors])
        own = torch.from_numpy(mix.shares) / mean
        own /= own.sum()
        each = torch.cat([(share / len(floor)).expand(len(floor)) for share, floor in zip(own, mix.floors)])
        levels, order = torch.cat(mix.floors).sort()
        self.mean = mean.to(device)
        self.total = float((own * mean).sum())
        self.levels = levels.to(device)
        self.teaching = each[order].cumsum(0).float().to(device)

    def weights(self, floors: Tensor, source: Tensor, sigma: Tensor) -> Tensor:
        """Weight of the loss of each image: float32 ``(B,)``; arguments likewise, ``source`` int64."""
        teaching = self.teaching[torch.searchsorted(self.levels, sigma, right=True) - 1]
        return share_above(floors, self.p_mean, self.p_std) / self.mean[source] * self.total / teaching


def with_floors(mix: SourceMix, floors: list[Tensor], options: TrainingConfig) -> SourceMix:
    """A mix whose synthetic images teach above their floors only, each source drawn as often as it teaches.

    Args:
        mix: the images, with the shares they would have without floors.
        floors: for each synthetic source sigma for each image, float32 ``(N,)``.
        options: the training, for its distribution of sigma.

    Raises:
        UsageError: floors of another number, negative or not finite, or a source that next to never teaches.
    """
    floors = [floor.float() for floor in floors]
    SourceMix(mix.sources[0], mix.sources[1:], floors=floors)  # for its UsageError
    drawn = [float(mix.shares[0])]
    for source, share, floor in zip(mix.sources[1:], mix.shares[1:], floors):
        teaching = share_above(floor, options.p_mean, options.p_std)
        if float(teaching.min()) < _LEAST:
            raise UsageError(
                f"{source.name}: less than {_LEAST:.0e} of the training's noise levels lie above a floor of "
                f"{float(floor.max()):g}: choose a lower one, or --method dm"
            )
        drawn.append(float(share) * float(teaching.mean()))
    real, *synthetic = (share / sum(drawn) for share in drawn)
    return SourceMix(mix.sources[0], mix.sources[1:], real_fraction=real, weights=synthetic, floors=floors)
