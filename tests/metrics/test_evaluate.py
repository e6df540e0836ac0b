"""The whole evaluation on digits: what each kind of generator scores, and what is told about wrong input."""

from __future__ import annotations

import pytest
import torch

from nomadiff.data.digits import read_digits
from nomadiff.errors import UsageError
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.detectors.features import images_sha256
from nomadiff.metrics.evaluate import evaluate
from nomadiff.metrics.reference import ReferenceSet

METRICS = {"fd_digits", "fdr", "precision", "recall", "density", "coverage", "replication", "composition_tv"}


@pytest.fixture(scope="module")
def digits() -> dict[str, torch.Tensor]:
    pool = read_digits("digits:pool")
    return {"pool": pool.images, "reference": read_digits("digits:reference").images, "classes": pool.labels}


@pytest.fixture(scope="module")
def against(digits) -> ReferenceSet:
    """The reference, for generators trained on the first 100 of the pool."""
    return ReferenceSet(digits["reference"], train=digits["pool"][:100])


def test_fresh_real_data_scores_its_floor(digits, against) -> None:
    result = against.evaluate(digits["pool"][100:])
    assert result.keys() == METRICS | {"composition", "meta"}
    assert result["fd_digits"] < 8
    assert min(result["precision"], result["recall"], result["coverage"]) > 0.93
    assert 0.9 < result["density"] < 1.1
    assert result["replication"] == pytest.approx(0.05, abs=0.02)
    assert result["composition_tv"] < 0.1
    assert sum(result["composition"]) == pytest.approx(1)


def test_a_copier_is_caught_though_its_precision_is_perfect(digits, against) -> None:
    result = against.evaluate(digits["pool"][:100].repeat(10, 1, 1, 1))
    assert result["replication"] == 1.0
    assert result["precision"] > 0.93
    assert result["coverage"] < 0.6 and result["recall"] == 0


def test_dropped_classes_show_in_coverage_and_composition_not_in_precision(digits, against) -> None:
    result = against.evaluate(digits["pool"][digits["classes"] < 5])
    assert result["precision"] > 0.93
    assert result["coverage"] < 0.6 and result["recall"] < 0.6
    assert result["composition_tv"] == pytest.approx(0.5, abs=0.05)


def test_a_shifted_style_shows_in_distance_and_precision(digits, against) -> None:
    result = against.evaluate(digits["pool"].roll(1, dims=3))
    assert result["fd_digits"] > 20 * against.evaluate(digits["pool"])["fd_digits"]
    assert result["precision"] < 0.75


def test_evaluate_is_the_same_as_the_kept_reference(digits, against) -> None:
    samples = digits["pool"][200:500]
    assert evaluate(samples, digits["reference"], train=digits["pool"][:100]) == against.evaluate(samples)
    assert evaluate(samples, digits["reference"])["meta"].keys() < against.evaluate(samples)["meta"].keys()
    assert "replication" not in evaluate(samples, digits["reference"])
    assert against.evaluate(iter(samples.split(70))) == against.evaluate(samples)


def test_figures_carry_what_makes_them_comparable(digits, against) -> None:
    meta = against.evaluate(digits["pool"][:50])["meta"]
    assert meta["count"] == 50 and meta["reference_count"] == 797 and meta["train_count"] == 100
    assert meta["detector"] == "digits" and len(meta["detector_sha256"]) == 64
    assert meta["reference_sha256"] == images_sha256(digits["reference"])
    assert meta["k"] == 5 and meta["convention"] == "prdc"


def test_images_sha256_sees_pixels_and_shape() -> None:
    images = torch.arange(32, dtype=torch.uint8).reshape(2, 1, 4, 4)
    other = images.clone()
    other[1, 0, 3, 3] += 1
    assert images_sha256(images) == images_sha256(images.clone())
    assert len({images_sha256(x) for x in (images, other, images.reshape(2, 1, 2, 8), images.flip(0))}) == 4


def test_other_detector_and_classifier(digits) -> None:
    result = evaluate(digits["pool"][:300], digits["reference"], detector="pixels", classifier="digits", k=3)
    assert "fd_pixels" in result and "fd_digits" not in result
    assert result["composition_tv"] < 0.15
    assert result["meta"]["classifier"] == "digits" and result["meta"]["k"] == 3
    assert evaluate(digits["pool"][:300], digits["reference"], detector="pixels")["composition"] is None
    detector = load_detector("pixels")
    assert (
        evaluate(digits["pool"][:300], digits["reference"], detector=detector, k=3)["fd_pixels"] == result["fd_pixels"]
    )


def test_intervals_hold_the_value_and_narrow_with_more_samples(digits, against) -> None:
    few, many = (against.evaluate(digits["pool"][:count], interval=0.95) for count in (150, 1000))
    for result in (few, many):
        for name in METRICS - {"fdr"}:  # its interval is the distance's
            assert result[f"{name}_low"] <= result[name] <= result[f"{name}_high"]
    for name in ("precision", "recall", "coverage", "fd_digits"):
        assert many[f"{name}_high"] - many[f"{name}_low"] < few[f"{name}_high"] - few[f"{name}_low"]


def test_bad_input_is_told(digits) -> None:
    pool, reference = digits["pool"], digits["reference"]
    for samples, options, words in [
        (pool[:5], {}, "fake: precision and recall with k = 5 need more than 5 images, got 5"),
        (pool.repeat(1, 3, 1, 1), {}, "samples: 3x8x8 images against a reference of 1x8x8"),
        (pool[..., :4], {}, "samples: 1x8x4 images against a reference of 1x8x8"),
        (pool.float(), {}, "samples: expected a uint8 tensor"),
        (pool, {"detector": "fid"}, "no detector 'fid'"),
        (pool, {"classifier": "pixels"}, "'pixels' has no classes"),
        (pool, {"convention": "x"}, "no convention"),
        (pool, {"interval": 95}, "between 0 and 1"),
        (pool[:30], {"interval": 0.95}, "at least 40 samples, got 30"),
        (pool, {"train": pool.repeat(1, 3, 1, 1)}, "train: needs 1-channel images"),
    ]:
        with pytest.raises(UsageError, match=words) as caught:
            evaluate(samples, reference, **options)
        assert "\n" not in str(caught.value)
