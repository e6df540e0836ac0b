"""A kept reference: other training sets, floors, extra metrics, saving and loading."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from nomadiff.data.digits import blurred_and_shifted, read_digits
from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.detectors.digits import DigitsDetector
from nomadiff.metrics.frechet import Statistics
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.metrics.statistics_files import read_statistics


@pytest.fixture(scope="module")
def pool() -> torch.Tensor:
    return read_digits("digits:pool").images


@pytest.fixture(scope="module")
def against(pool) -> ReferenceSet:
    return ReferenceSet(read_digits("digits:reference").images, train=pool[:100])


def test_another_training_set_changes_replication_only(pool, against) -> None:
    other = against.with_train(pool[100:200])
    samples = pool[100:200]
    first, second = against.evaluate(samples), other.evaluate(samples)
    assert second["replication"] == 1 and first["replication"] < 0.2
    same = first.keys() - {"replication", "meta"}
    assert {name: first[name] for name in same} == {name: second[name] for name in same}
    assert second["meta"]["train_sha256"] != first["meta"]["train_sha256"]


def test_fresh_real_data_sits_at_the_floor(pool, against) -> None:
    floor = against.floor()
    assert floor["replication"] == 0.05 and floor["precision"] > 0.9
    given = against.floor(pool[100:])
    # half against half has fewer images, so its distance is the larger of the two floors
    assert given["fd_digits"] < 8 and floor["fd_digits"] < 12
    assert given["replication"] == 0.05


def test_a_floor_needs_no_detector_and_no_order(pool, against, monkeypatch) -> None:
    """Files are often sorted by class: halves in the order of the files would be different distributions."""
    style = against.evaluate(blurred_and_shifted(pool), extra=["kid"])["kd_digits"]
    labels = read_digits("digits:reference").labels
    by_class = ReferenceSet(read_digits("digits:reference").images[labels.argsort(stable=True)])
    monkeypatch.setattr(DigitsDetector, "__call__", lambda *_: pytest.fail("the detector was asked again"))
    floor = by_class.floor()
    assert floor["fd_digits"] < 12 and floor["composition_tv"] < 0.1 and floor["precision"] > 0.9
    assert by_class.floor(count=100)["fd_digits"] > floor["fd_digits"] == by_class.floor(count=10_000)["fd_digits"]
    shown = against.floor(extra=["kid", "ssim"])
    assert abs(shown["kd_digits"]) < 0.01 * style and shown["ssim_nearest"] < 1


def test_the_nearest_training_images_are_named(pool, against) -> None:
    result = against.evaluate(torch.cat([pool[200:240], pool[7:8]]))
    first = result["meta"]["nearest"][0]
    assert first == {"sample": 40, "train": 7, "distance": 0.0, "ratio": 0.0} and len(result["meta"]["nearest"]) == 10


def test_extra_metrics(pool, against, images) -> None:
    result = against.evaluate(pool[:200], extra=["kid"], interval=0.9)
    assert result["kd_digits_low"] <= result["kd_digits"] <= result["kd_digits_high"]
    with pytest.raises(UsageError, match="no extra metric 'fid': choose of kid, cmmd, ssim"):
        against.evaluate(pool[:200], extra=["fid"])
    larger = ReferenceSet(images(60, 1, 16), train=images(30, 1, 16, seed=1), detector="pixels")
    result = larger.evaluate(images(61, 1, 16, seed=1), extra=["ssim"], interval=0.9)
    assert result["ssim_nearest"] == pytest.approx((30 * 1 + 31 * 0) / 61, abs=0.15)  # 30 copies, 31 strangers
    assert result["ssim_pairs_low"] <= result["ssim_pairs"] <= result["ssim_pairs_high"] < 0.5


def test_style_of_a_source(pool, against) -> None:
    shifted = blurred_and_shifted(pool)
    assert against.style(pool[:300], shifted[600:]) < 0.03
    assert against.style(torch.cat([pool[:150], shifted[:150]]), shifted[600:]) == pytest.approx(0.5, abs=0.05)
    assert against.style(pool[:300], pool[300:]) is None  # fresh real images have no style of their own


def test_intervals_stay_in_the_range_of_their_metric(against) -> None:
    noise = torch.randint(0, 256, (60, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = against.evaluate(noise, interval=0.99)
    for name in ("precision", "recall", "coverage", "replication", "composition_tv"):
        assert result[f"{name}_low"] >= 0 and result[f"{name}_high"] <= 1
    assert result["density_low"] >= 0 and result["fd_digits_low"] >= 0


def test_saved_and_loaded_it_scores_the_same(pool, against, tmp_path) -> None:
    against.save(tmp_path / "ref.npz")
    loaded = ReferenceSet.load(tmp_path / "ref.npz", detector="digits")
    expected, found = against.evaluate(pool[:200]), loaded.evaluate(pool[:200])
    expected.pop("replication")
    assert found.pop("meta")["reference_sha256"] == expected.pop("meta")["reference_sha256"]
    assert found == expected
    with pytest.raises(UsageError, match="features only"):
        loaded.with_train(pool[:100])
    assert loaded.floor() == {name: value for name, value in against.floor().items() if name in loaded.floor()}
    assert {"fd_digits", "precision", "composition_tv"} <= loaded.floor().keys()
    edm = read_statistics(tmp_path / "ref.npz")  # the arrays EDM's own script reads
    torch.testing.assert_close(edm.covariance, Statistics.from_features(against.features).covariance)


def test_a_reference_of_edm_gives_the_distance_alone(pool, against, tmp_path) -> None:
    x = against.features.double().numpy()
    np.savez(tmp_path / "edm.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False))
    result = ReferenceSet.load(tmp_path / "edm.npz", detector="digits").evaluate(pool[:200])
    assert result["fd_digits"] == pytest.approx(against.evaluate(pool[:200])["fd_digits"], rel=1e-9)
    assert "precision" not in result and result["meta"]["reference_count"] is None
    with pytest.raises(UsageError, match="statistics only"):
        ReferenceSet.load(tmp_path / "edm.npz", detector="digits").floor()


def test_a_reference_of_another_detector_is_refused(against, tmp_path) -> None:
    against.save(tmp_path / "ref.npz")
    with np.load(tmp_path / "ref.npz") as archive:
        content = dict(archive)
    meta = json.loads(str(content["meta"]))
    np.savez(tmp_path / "other.npz", **{**content, "meta": json.dumps({**meta, "detector_sha256": "0" * 64})})
    np.savez(tmp_path / "spoiled.npz", **{**content, "meta": "{"})
    with pytest.raises(UsageError, match=r"made with detector digits version 1 \(000000000000\), not with digits"):
        ReferenceSet.load(tmp_path / "other.npz", detector="digits")
    with pytest.raises(DataError, match="its description: not valid JSON"):
        ReferenceSet.load(tmp_path / "spoiled.npz", detector="digits")
    np.savez(tmp_path / "wide.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(UsageError, match="dimension 5, detector digits gives 32"):
        ReferenceSet.load(tmp_path / "wide.npz", detector="digits")
