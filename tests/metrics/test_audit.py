"""The audit on digits: known mixtures are recovered, and what cannot be known is reported."""

from __future__ import annotations

import math
import re
from dataclasses import replace

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
    untrusting = audit(folder, {"style": style[100:]})
    bound = untrusting.suspicions[0]
    assert bound.share.bound_only and bound.share.share is None and bound.error is None
    assert 0.2 <= bound.share.high < 0.35
    assert re.match(r"At most \d+% of the folder comes from it, and maybe none", bound.sentence)
    assert untrusting.table().rows[0]["share"] is None


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
    pairs = result.duplicates().rows
    assert [row["image"] for row in pairs] == [f"image {i}" for i in (0, 1, 2, 10, 11, 12, 13, 14)]
    assert [row["of"] for row in pairs] == ["folder"] * 3 + ["style"] * 5
    assert pairs[0]["doubles"] == "image 500" and pairs[0]["kind"] == "identical" and pairs[0]["difference"] == 0
    assert pairs[3]["doubles"] == "image 500" and pairs[3]["kind"] == "saved again"


@pytest.mark.parametrize("with_trusted", [True, False])
def test_the_most_synthetic_images_come_first_by_name(digits, with_trusted: bool) -> None:
    folder = torch.cat([digits["style"][:40], digits["real"][:200]])
    trusted = digits["trusted"] if with_trusted else None
    result = audit(folder, {"style": digits["style"][100:]}, trusted=trusted, detector="digits")
    result = replace(result, names={"folder": tuple(f"{i:03}.png" for i in range(240))})
    rows = result.most_synthetic().rows
    assert len(rows) == 240 and {row["image"] for row in rows[:30]} <= {f"{i:03}.png" for i in range(40)}
    scores = [row["style"] for row in rows]
    assert scores == sorted(scores, reverse=True) and 0 <= scores[-1] <= scores[0] <= 1


def test_a_source_like_real_scores_no_image(digits) -> None:
    result = audit(digits["real"], {"fresh": digits["pool"][500:]}, trusted=digits["trusted"], detector="digits")
    assert result.most_synthetic().rows == []


@pytest.mark.parametrize("copied", ["exactly", "brighter"])
@pytest.mark.parametrize("of", ["source", "trusted"])
def test_pictures_that_are_in_two_sets_do_not_move_the_share(digits, copied: str, of: str) -> None:
    """Models that saw a copy of an image score it too surely; in many dimensions the share came out wrong."""
    change = {"exactly": lambda x: x, "brighter": lambda x: x.int().add(2).clamp(max=255).to(torch.uint8)}[copied]
    noisy = torch.Generator().manual_seed(0)

    def rough(images: torch.Tensor) -> torch.Tensor:
        noise = torch.randint(-60, 60, images.shape, generator=noisy)
        return (images + noise).clamp(0, 255).to(torch.uint8)

    real, style = rough(digits["pool"][:400]), rough(digits["style"][:400])
    if of == "source":
        folder, source, trusted = torch.cat([real[:200], change(style[:200])]), style[:200], real[200:]
    else:
        folder, source, trusted = torch.cat([change(real[:200]), style[:200]]), style[200:], real[:200]
    share = audit(folder, {"style": source}, trusted=trusted, detector="pixels").suspicions[0].share
    assert share.low <= 0.5 <= share.high and abs(share.share - 0.5) < 0.06


def test_trusted_images_cannot_be_those_in_question(digits) -> None:
    """A folder that is a fifth synthetic was cleared by itself: "no trace of it"."""
    folder, style = torch.cat([digits["real"][:200], digits["style"][:50]]), digits["style"][50:250]
    saved_again = folder.int().add(2).clamp(max=255).to(torch.uint8)
    for trusted in (folder, saved_again, torch.cat([folder, digits["trusted"][:50]]), folder[10:]):
        with pytest.raises(UsageError, match=r"2[45]\d of 250 images of the folder are among the trusted ones"):
            audit(folder, {"style": style}, trusted=trusted, detector="digits")
    with pytest.raises(UsageError, match=r"200 of 200 trusted images are style's: they cannot be real and synthetic"):
        audit(folder, {"style": style}, trusted=style, detector="digits")
    partly = audit(folder, {"style": style}, trusted=folder[:100], detector="digits")
    assert partly.trusted == 100 and partly.table().meta["trusted_within"] == 100
    assert partly.text().splitlines()[1] == "100 of 250 images are among the trusted ones: they are taken for real."
    share = partly.suspicions[0].share
    assert share.low <= 0.2 <= share.high


@pytest.mark.parametrize("with_trusted", [True, False])
def test_known_mixtures_are_recovered_within_the_stated_error(digits, with_trusted: bool) -> None:
    detector = load_detector("digits")
    real = extract_features(detector, torch.cat([digits["pool"][:500], digits["trusted"]]))
    source = extract_features(detector, digits["style"])
    rows = known_mixtures(real, source, with_trusted=with_trusted)
    assert [row["share"] for row in rows] == pytest.approx([0, 0.05, 0.2, 0.5], abs=0.01)
    for row in rows:
        assert not with_trusted or row["estimate"] == pytest.approx(row["share"], abs=0.02)
        assert with_trusted or math.isnan(row["estimate"])
        assert row["low"] <= row["share"] <= row["high"]


def test_bad_input_is_told(digits) -> None:
    real = digits["real"]
    for images, suspects, options, words in [
        (real, {}, {}, "at least one suspect"),
        (real, {"x": real[..., :4]}, {}, r"x: images of \(1, 8, 4\), the folder's are \(1, 8, 8\)"),
        (real, {"x": real}, {"trusted": real[..., :4]}, "trusted: images of"),
        (real, {"x": real, "folder": real}, {}, "cannot be called 'folder'"),
        (real, {"trusted": real}, {"trusted": real}, "cannot be called 'folder' or 'trusted'"),
        (real[:10], {"x": real}, {}, "at least 20 images a side, got 10"),
    ]:
        with pytest.raises(UsageError, match=words):
            audit(images, suspects, **options)
    with pytest.raises(UsageError, match="at least 80 images a side, got 79 and 500"):
        known_mixtures(torch.zeros(79, 2), torch.zeros(500, 2))
