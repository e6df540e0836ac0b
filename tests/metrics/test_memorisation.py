"""Copies come first: by how much nearer a sample is to one training image than to any other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.memorisation import nearest_training
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.replication import calibrate


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, 8, 8), dtype=np.uint8))


def noisy(images: torch.Tensor, seed: int, amount: int = 4) -> torch.Tensor:
    noise = np.random.default_rng(seed).integers(-amount, amount + 1, tuple(images.shape))
    return (images.long() + torch.from_numpy(noise)).clamp(0, 255).to(torch.uint8)


def test_a_copy_comes_before_a_plain_image_that_is_nearer() -> None:
    flat = torch.stack([torch.full((3, 8, 8), 100 + i, dtype=torch.uint8) for i in range(20)])
    train = torch.cat([pictures(50, 0), flat])
    samples = torch.cat([flat[:1] + 0, pictures(5, 1), noisy(train[7:8], 2)])
    samples[0] = 105  # a plain image: exactly one of the plain training images
    samples[0, :, 0, 0] = 106  # but for a pixel: nearer than the copy, and as near to many others
    found = nearest_training(samples, train)
    assert found.distance[0] < found.distance[6]
    assert found.order.tolist()[:2] != [6, 0] or found.ratio[6] < found.ratio[0]
    assert found.ratio[6] < 1 / 3 and found.index[6] == 7
    assert (found.ratio[1:6] > 0.8).all() and found.memorised == pytest.approx(
        float((found.ratio < 1 / 3).double().mean())
    )
    rows = found.rows(3, threshold=0.5)
    assert [row["rank"] for row in rows] == [1, 2, 3] and rows[0]["ratio"] <= rows[1]["ratio"] <= rows[2]["ratio"]
    assert set(rows[0]) == {"rank", "sample", "train", "distance", "ratio", "replicates"}


def test_a_training_image_that_is_there_twice_is_not_its_own_second_nearest() -> None:
    train = pictures(30, 0)
    doubled = torch.cat([train, train[3:4], train[3:4]])
    found = nearest_training(noisy(train[3:4], 1), doubled)
    assert found.ratio[0] < 1 / 3 and found.index[0] == 3
    exact = nearest_training(train[:2], doubled)
    assert exact.ratio.tolist() == [0, 0] and exact.distance.tolist() == [0, 0]
    alone = nearest_training(pictures(2, 5), train[:1].repeat(3, 1, 1, 1))
    assert alone.ratio.tolist() == [1, 1] and alone.index.tolist() == [0, 0]
    same = nearest_training(torch.zeros(1, 2), torch.tensor([[0.0, 0.0], [-0.0, 0.0]]))  # features that coincide
    assert same.ratio.tolist() == [0]


def test_evaluate_names_the_most_suspicious() -> None:
    train = pictures(60, 0)
    samples = torch.cat([pictures(38, 2), train[5:7]])
    scores = ReferenceSet(pictures(80, 1), train=train, detector="pixels").evaluate(samples)
    nearest = scores["meta"]["nearest"]
    assert [(row["sample"], row["train"], row["ratio"]) for row in nearest[:2]] == [(38, 5, 0.0), (39, 6, 0.0)]
    assert len(nearest) == 10 and scores["replication"] >= 2 / 40


def test_other_images_of_a_training_subject_are_not_fresh() -> None:
    """Two images of each of forty people are trained on, two more are in the reference beside sixty other people."""
    images = torch.cat([noisy(pictures(40, 0), seed, 100) for seed in range(4)])
    strangers = torch.cat([noisy(pictures(60, 9), seed, 100) for seed in range(2)])
    names = [f"p{index % 40}" for index in range(80)]
    held_out = torch.cat([images[80:], strangers])
    plain = ReferenceSet(held_out, train=images[:80], detector="pixels")
    by_person = ReferenceSet(held_out, detector="pixels", subjects=names + [f"q{i % 60}" for i in range(120)])
    by_person = by_person.with_train(images[:80], names)
    assert plain.meta["reference_in_train"] == 0 and by_person.meta["reference_of_train_subjects"] == 80
    assert by_person.threshold == calibrate(images[:80], strangers).threshold > 1.1 * plain.threshold
    with pytest.raises(UsageError, match="80 images and 3 subjects"):
        by_person.with_train(images[:80], names[:3])


def test_related_images_are_left_out_and_said() -> None:
    train, held_out = pictures(30, 0), pictures(60, 1)
    related = torch.arange(60) < 25
    found = calibrate(train, held_out, related=related)
    assert (found.related, found.exact, found.near) == (25, 0, 0)
    assert found.threshold == calibrate(train, held_out[25:]).threshold
    assert found.sentence().startswith(
        "25 of 60 reference images show subjects of the training images and were left out"
    )
    with pytest.raises(
        UsageError, match="15 are left of 60 without those that are training images or of their subjects"
    ):
        calibrate(train, held_out, related=torch.arange(60) < 45)
    assert (
        calibrate(
            train,
            held_out,
            related=related,
            features=(train.flatten(1)[:, :5].float(), held_out.flatten(1)[:, :5].float()),
        ).threshold
        > 1
    )
