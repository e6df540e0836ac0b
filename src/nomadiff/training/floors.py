"""Images that teach above a noise level only: how often each is drawn, and how its loss is weighted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.training.loss import share_above
from nomadiff.training.settings import TrainingConfig

__all__ = ["NoiseFloors", "with_floors"]

_VALUES = 32  # different floors in a source: each is a stream of its own
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

    It is estimated without wasting a pass. Let ``P_i`` be the probability of a sigma above ``f_i``. Image ``i`` is
    drawn in proportion to ``s_i P_i`` (:func:`with_floors`), sigma from ``p`` restricted to what lies above ``f_i``;
    with ``Z = sum_i s_i P_i`` the loss has the weight

        w = Z / A(sigma)

    whose mean is 1 and which no single image can make large. Both together make the estimate unbiased.

    Args:
        mix: images with floors, and shares that :func:`with_floors` has set.
        options: the training, for its distribution of sigma.
        device: where weights are computed.
    """

    def __init__(self, mix: SourceMix, options: TrainingConfig, device: torch.device) -> None:
        mean = torch.stack([share_above(floor, options.p_mean, options.p_std).mean() for floor in mix.floors])
        own = torch.from_numpy(mix.shares) / mean
        own /= own.sum()
        each = torch.cat([(share / len(floor)).expand(len(floor)) for share, floor in zip(own, mix.floors)])
        levels, order = torch.cat(mix.floors).sort()
        self.total = float((own * mean).sum())
        self.levels = levels.to(device)
        self.teaching = each[order].cumsum(0).float().to(device)

    def weights(self, sigma: Tensor) -> Tensor:
        """Weight of the loss at each level: float32 ``(B,)``, as sigma."""
        return self.total / self.teaching[torch.searchsorted(self.levels, sigma, right=True) - 1]


def with_floors(mix: SourceMix, floors: list[Tensor], options: TrainingConfig) -> SourceMix:
    """A mix whose synthetic images teach above their floors only, each drawn as often as it teaches.

    Args:
        mix: the images, with the shares they would have without floors.
        floors: for each synthetic source sigma for each image, float32 ``(N,)``; of more than 32 different ones in a
            source each is rounded up to one of 32.
        options: the training, for its distribution of sigma.

    Raises:
        UsageError: floors of another number, negative or not finite, or a source that next to never teaches.
    """
    floors = [_of_few_values(floor.float()) for floor in floors]
    SourceMix(mix.sources[0], mix.sources[1:], floors=floors)  # for its UsageError
    drawn, frequencies = [float(mix.shares[0])], []
    for source, share, floor in zip(mix.sources[1:], mix.shares[1:], floors):
        teaching = share_above(floor, options.p_mean, options.p_std)
        if float(teaching.min()) < _LEAST:
            raise UsageError(
                f"{source.name}: less than {_LEAST:.0e} of the training's noise levels lie above a floor of "
                f"{float(floor.max()):g}: choose a lower one, or --method dm"
            )
        drawn.append(float(share) * float(teaching.mean()))
        frequencies.append(teaching)
    real, *synthetic = (share / sum(drawn) for share in drawn)
    shares: dict[str, Any] = {"real_fraction": real, "weights": synthetic}
    return SourceMix(mix.sources[0], mix.sources[1:], **shares, floors=floors, frequencies=frequencies)


def _of_few_values(floors: Tensor) -> Tensor:
    values = floors.unique()
    if len(values) <= _VALUES:
        return floors
    kept = values[torch.linspace(0, len(values) - 1, _VALUES).ceil().long()]
    return kept[torch.searchsorted(kept, floors)]
