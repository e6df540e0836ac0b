"""Replication: copies are caught, fresh data scores its floor."""

from __future__ import annotations

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.replication import replication
from nomadiff.oracles import GaussianDenoiser, IdealDenoiser
from nomadiff.sampling.sampler import draw, to_uint8


def images(count: int, seed: int) -> torch.Tensor:
    """Smooth random images, 1x8x8: a distribution whose draws can come near one another."""
    rough = torch.randn(count, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(rough, (8, 8), mode="bilinear", align_corners=True)
    return (smooth * 60 + 128).clamp(0, 255).to(torch.uint8)


def test_copies_score_one_and_name_their_original() -> None:
    train, held_out = images(100, 0), images(200, 1)
    result = replication(train[[5, 7, 5]], train, held_out)
    assert result["replication"] == 1.0
    assert result["index"].tolist() == [5, 7, 5]
    assert result["distance"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("quantile", [0.05, 0.2])
def test_fresh_data_scores_the_quantile(quantile: float) -> None:
    train, held_out, fresh = images(300, 0), images(2000, 1), images(2000, 2)
    # two independent shares of 2000: standard deviation below 0.7 and 1.3 per cent
    assert replication(fresh, train, held_out, quantile=quantile)["replication"] == pytest.approx(quantile, abs=0.04)
    assert replication(held_out, train, held_out, quantile=quantile)["replication"] == pytest.approx(quantile, abs=1e-3)


def test_the_ideal_denoiser_is_caught_and_a_gaussian_is_not() -> None:
    """A perfectly trained model of a finite set returns its training images; one of the Gaussian behind it does not."""
    train, held_out = images(60, 0), images(400, 1)
    model = IdealDenoiser(train.float() / 127.5 - 1)
    copies = to_uint8(torch.cat(list(draw(model, (1, 8, 8), range(40), seed=0))))
    assert replication(copies, train, held_out)["replication"] > 0.95
    rough = GaussianDenoiser(mean=0.0, variance=0.2)
    fresh = to_uint8(torch.cat(list(draw(rough, (1, 8, 8), range(40), seed=0))))
    assert replication(fresh, train, held_out)["replication"] < 0.1


def test_held_out_copies_of_training_images_do_not_hide_a_copier() -> None:
    train = images(50, 0)
    result = replication(train, train, torch.cat([train[:10], images(40, 1)]))
    assert result["threshold"] == 0 and result["replication"] == 1.0


def test_any_feature_space() -> None:
    train, held_out = images(50, 0), images(200, 1)
    brighter = (train.int() + 20).clamp(max=255).to(torch.uint8)

    def shape_only(x: torch.Tensor) -> torch.Tensor:
        x = x.float()
        return x - x.mean((2, 3), keepdim=True)

    assert replication(brighter, train, held_out, features=shape_only)["replication"] > 0.9
    assert replication(train, train, held_out, features=load_detector("digits"))["replication"] == 1.0


def test_bad_input_is_told() -> None:
    train, held_out = images(50, 0), images(19, 1)
    with pytest.raises(UsageError, match=r"0.05 quantile needs 20 held-out images or more: 19"):
        replication(train, train, held_out)
    with pytest.raises(UsageError, match="between 0 and 1, got 5"):
        replication(train, train, held_out, quantile=5)
    with pytest.raises(UsageError, match="dimension"):
        replication(train[..., :4], train, images(40, 1))
