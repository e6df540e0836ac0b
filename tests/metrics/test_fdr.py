"""FDr is 1 for real data whatever the counts, and nobody is on both sides of a split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.arrays import metrics_of_arrays
from nomadiff.metrics.distance_names import FDR
from nomadiff.metrics.fdr import fdr
from nomadiff.metrics.frechet import frechet_distance_from_features
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.splits import draws


def normal(count: int, seed: int, spread: float = 1.0, dimension: int = 6) -> torch.Tensor:
    random = np.random.default_rng(seed)
    return torch.from_numpy(spread * random.standard_normal((count, dimension))).float()


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8))


@pytest.mark.parametrize("counts", [(400, 400), (400, 3000), (3000, 100)])
def test_fresh_real_data_scores_one_at_any_counts(counts: tuple[int, int]) -> None:
    found = [fdr(normal(counts[0], seed), normal(counts[1], 100 + seed)) for seed in range(12)]
    assert np.mean(found) == pytest.approx(1, abs=0.15)
    wide = fdr(normal(counts[0], 0), normal(counts[1], 1, spread=1.6))
    assert wide > 2  # and the bare distance of few is as large without any difference
    assert frechet_distance_from_features(normal(20, 0), normal(20, 1)) > 1


def test_copies_of_the_reference_score_less_than_one() -> None:
    real = normal(400, 0)
    assert fdr(real, real[torch.arange(400)]) < 0.9
    assert fdr(real[:3], real) is None or fdr(real[:2], real) is None  # too few to be split
    assert fdr(torch.zeros(40, 2), normal(40, 1, dimension=2)) is None  # halves that are the same


def test_every_table_has_it_beside_the_distance() -> None:
    reference = ReferenceSet(pictures(120, 0), detector="pixels")
    scores = reference.evaluate(pictures(90, 1), interval=0.95)
    assert list(scores)[:2] == ["fd_pixels", FDR] and scores[FDR] == pytest.approx(1, abs=0.3)
    assert f"{FDR}_low" not in scores  # its interval is the distance's
    assert reference.floor(count=90)[FDR] == 1
    features = reference.detector(pictures(90, 1))
    assert reference.value(FDR, features, None) == scores[FDR]
    assert reference.subset(torch.arange(60)).fdr(features) != scores[FDR]  # nothing remembered of the whole
    rows = {row["metric"]: row for row in metrics_of_arrays(normal(80, 0).numpy(), normal(60, 1).numpy()).rows}
    assert rows[FDR]["value"] == fdr(normal(80, 0), normal(60, 1)) and rows[FDR]["floor"] == 1
    assert rows[FDR]["low"] is None


def test_whole_subjects_are_drawn() -> None:
    subjects = torch.arange(100) // 7  # of seven images each, the last of two
    for some, rest in draws(100, 100, subjects):
        assert not set(subjects[some].tolist()) & set(subjects[rest].tolist())
        assert len(some) + len(rest) == 100 and 40 <= len(some) <= 50
    large = torch.tensor([0] * 90 + [1] * 10)
    assert {len(some) for some, _ in draws(100, 5, large)} == {10}  # none fits: the smallest
    with pytest.raises(UsageError, match="all reference images are of one subject"):
        next(draws(10, 10, torch.zeros(10, dtype=torch.int64)))


def test_a_floor_does_not_compare_a_person_with_herself() -> None:
    """Ten images of each of thirty people, nearly the same: split by image, real data seems ten times nearer."""
    people = normal(30, 0, dimension=16).repeat_interleave(10, 0)
    images = (
        ((people + 0.02 * normal(300, 1, dimension=16)) * 30 + 128).clamp(0, 255).to(torch.uint8).reshape(-1, 1, 4, 4)
    )
    names = [f"person {index // 10}" for index in range(300)]
    by_image = ReferenceSet(images, detector="pixels")
    by_person = ReferenceSet(images, detector="pixels", subjects=names)
    assert by_person.meta["subjects"] == 30
    assert by_person.floor(count=300)["fd_pixels"] > 5 * by_image.floor(count=300)["fd_pixels"]
    assert by_image.floor(count=300)["coverage"] > 0.9 > 0.5 > by_person.floor(count=300)["coverage"]
    assert by_person.subset(torch.arange(150)).images is None  # twenty parts of a reference were twenty copies of it
    assert len(by_person.subset(torch.arange(150), images=True).images) == 150
    assert by_person.subset(torch.arange(150)).subjects.tolist() == by_person.subjects[:150].tolist()
    samples = pictures(300, 5)
    assert by_person.evaluate(samples)[FDR] < by_image.evaluate(samples)[FDR] / 3
    for wrong, told in ((names[:-1], "300 images and 299 subjects"), (["one"] * 300, "all images are of one subject")):
        with pytest.raises(UsageError, match=told):
            ReferenceSet(images, detector="pixels", subjects=wrong)
