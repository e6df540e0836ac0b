"""The audit on digits: known mixtures are recovered, and what cannot be known is reported."""

from __future__ import annotations

import pytest
import torch

from nomadiff.data.digits import blurred_and_shifted, read_digits
from nomadiff.errors import UsageError
from nomadiff.metrics.audit import audit, known_mixtures
from nomadiff.metrics.detectors import extract_features, load_detector


@pytest.fixture(scope="module")
def digits() -> dict[str, torch.Tensor]:
    pool, reference = (read_digits(f"digits:{name}").images for name in ("pool", "reference"))
    return {"real": pool[:500], "trusted": reference, "style": blurred_and_shifted(pool[500:]), "pool": pool}


def test_a_folder_with_a_fifth_of_a_source(digits) -> None:
    style = digits["style"]
    folder = torch.cat([digits["real"][:400], style[:100]])
    result = audit(folder, {"style": style[100:]}, trusted=digits["trusted"])
    (found,) = result.suspicions
    assert found.share.low <= 0.2 <= found.share.high and found.share.high - found.share.low < 0.12
    assert found.error < 0.02 and found.copies.count == 0
    assert "of the folder comes from it" in found.sentence
    row = result.table().rows[0]
    assert row["source"] == "style" and row["share"] == found.share.share and result.table().meta["count"] == 500
    bound = audit(folder, {"style": style[100:]}).suspicions[0]
    assert bound.share.bound_only and 0.2 <= bound.share.high < 0.35 and bound.error is None
    assert bound.sentence.startswith("At most")


def test_a_clean_folder_is_cleared_and_a_source_like_real_is_not_judged(digits) -> None:
    suspects = {"style": digits["style"], "fresh": digits["pool"][500:]}
    result = audit(digits["real"], suspects, trusted=digits["trusted"])
    style, fresh = result.suspicions
    assert style.share.high < 0.05 and "No trace of it" in style.sentence
    assert fresh.share is None and "cannot be told from trusted real images" in fresh.sentence
    assert fresh.separation.low < 0.55 and style.separation.auc > 0.95
    assert "style: No trace" in result.text()


def test_copies_across_and_within_are_counted(digits) -> None:
    real = digits["real"]
    folder = torch.cat([real, real[:3]])
    suspect = torch.cat([digits["style"], real[10:15].int().add(2).clamp(max=255).to(torch.uint8)])
    result = audit(folder, {"style": suspect})
    assert result.within.count == 6  # three images, each the other's double
    assert result.suspicions[0].copies.count == 5
    assert result.suspicions[0].copies.pairs[:, 0].tolist() == [10, 11, 12, 13, 14]
    assert result.text().startswith("6 of 503 images have a near-duplicate within the folder.")


@pytest.mark.parametrize("with_trusted", [True, False])
def test_known_mixtures_are_recovered_within_the_stated_error(digits, with_trusted: bool) -> None:
    detector = load_detector("digits")
    real = extract_features(detector, torch.cat([digits["pool"][:500], digits["trusted"]]))
    source = extract_features(detector, digits["style"])
    rows = known_mixtures(real, source, with_trusted=with_trusted)
    assert [row["share"] for row in rows] == pytest.approx([0, 0.05, 0.2, 0.5], abs=0.01)
    for row in rows:
        assert row["estimate"] == pytest.approx(row["share"], abs=0.02 if with_trusted else 0.1)
        assert row["low"] <= row["share"] <= row["high"]


def test_bad_input_is_told(digits) -> None:
    real = digits["real"]
    for images, suspects, options, words in [
        (real, {}, {}, "at least one suspect"),
        (real, {"x": real[..., :4]}, {}, r"x: images of \(1, 8, 4\), the folder's are \(1, 8, 8\)"),
        (real, {"x": real}, {"trusted": real[..., :4]}, "trusted: images of"),
        (real[:10], {"x": real}, {}, "at least 20 images a side, got 10"),
    ]:
        with pytest.raises(UsageError, match=words):
            audit(images, suspects, **options)
    with pytest.raises(UsageError, match="at least 80 images a side, got 79 and 500"):
        known_mixtures(torch.zeros(79, 2), torch.zeros(500, 2))
