"""Replication: copies are caught, fresh data scores its floor."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from nomadiff.errors import NomadiffWarning, UsageError
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.replication import calibrate, replication
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
    with pytest.warns(NomadiffWarning, match="10 of 50 held-out images are training images and were left out"):
        result = replication(train, train, torch.cat([train[:10], images(40, 1)]))
    assert result["threshold"] == replication(train, train, images(40, 1))["threshold"] > 0
    assert result["replication"] == 1.0


def photographs(count: int, seed: int) -> torch.Tensor:
    """Random 3x16x16 images of coarse blocks: fresh ones are far from one another."""
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (coarse.repeat_interleave(4, 2).repeat_interleave(4, 3) * 40 + 128).clamp(0, 255).to(torch.uint8)


def jittered(x: torch.Tensor, most: int) -> torch.Tensor:
    noise = torch.randint(-most, most + 1, x.shape, generator=torch.Generator().manual_seed(9))
    return (x.int() + noise).clamp(0, 255).to(torch.uint8)


def as_jpeg(x: torch.Tensor, quality: int) -> torch.Tensor:
    def saved(image: torch.Tensor) -> torch.Tensor:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality, subsampling=0)
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)

    return torch.stack([saved(image) for image in x])


@pytest.mark.parametrize(
    ("exact", "near", "change"),
    [
        (12, 0, lambda x: x),
        (0, 20, lambda x: jittered(x, 1)),
        (0, 30, lambda x: jittered(x, 4)),
        (0, 20, lambda x: as_jpeg(x, 90)),
        (0, 20, lambda x: (x.int() + 3).clamp(0, 255).to(torch.uint8)),
    ],
)
@pytest.mark.parametrize("doubled", [False, True])
def test_training_images_in_the_reference_are_left_out_and_counted(exact, near, change, doubled) -> None:
    train, held_out = photographs(200, 0), photographs(200, 1)
    some = change(train[: exact + near])
    mixed = torch.cat([held_out[len(some) :], some])
    found = calibrate(torch.cat([train, train]) if doubled else train, mixed)
    clean = calibrate(train, held_out[len(some) :])
    assert (found.count, found.exact, found.near) == (200, exact, near)
    assert found.threshold == clean.threshold and (clean.exact, clean.near, clean.sentence()) == (0, 0, "")
    assert f"{exact + near} of 200 reference images are training images" in found.sentence()


def test_a_reference_that_is_the_training_set_is_refused() -> None:
    train, held_out = photographs(200, 0), photographs(200, 1)
    for reference in (
        train,
        train[:60],
        jittered(train, 2),
        as_jpeg(train[:50], 95),
        torch.cat([train, held_out[:99]]),
    ):
        with pytest.raises(UsageError, match=r"in the training set too.*--allow-train-as-reference"):
            calibrate(train, reference)
    allowed = calibrate(train, train, allow_train_as_reference=True)
    assert allowed.threshold is None and "cannot be measured" in allowed.sentence()
    found = calibrate(train, torch.cat([train, held_out[:99]]), allow_train_as_reference=True)
    assert found.threshold == calibrate(train, held_out[:99]).threshold
    with pytest.raises(UsageError, match="15 are left of 30 without those that are training images"):
        calibrate(train, torch.cat([train[:15], held_out[:15]]))


@pytest.mark.parametrize("dimension", [2, 8, 64])
def test_vectors_are_copies_only_where_chance_does_not_make_them(dimension: int) -> None:
    generator = torch.Generator().manual_seed(dimension)
    train, fresh = (torch.randn(1000, dimension, generator=generator) for _ in range(2))
    assert calibrate(train, fresh).sentence() == ""
    nearly = train[:30] + 1e-5 * torch.randn(30, dimension, generator=generator)
    found = calibrate(train, torch.cat([fresh, nearly, train[40:50]]))
    assert found.exact == 10 and found.near >= 28  # in two dimensions a copy may have a second neighbour as near


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
