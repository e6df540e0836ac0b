"""SIMS Figure 6: the recipe at smoke scale, resumed and extended, and what its rows are said to mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from factories import noise_images

from nomadiff.data.writing import write_images
from nomadiff.errors import UsageError
from nomadiff.reproduce.pollution import SCENARIOS, pollution_summary, pollution_text, threshold
from nomadiff.reproduce.recipe import Result, reproduce
from nomadiff.reproduce.sims_figure_6 import RECIPE
from nomadiff.tables import read_table


def run(out: Path, **options) -> Result:
    return RECIPE.run(RECIPE.request(out, **options))


def made_up(ratios: dict[int, tuple[float, ...]]) -> list[dict]:
    """Rows whose SIMS ratios, amount by amount and seed by seed, are given; distances of seed s are scaled by s + 1."""
    rows = []
    for seed in range(len(next(iter(ratios.values())))):
        unit = seed + 1.0
        rows.append({"scenario": "G1_ST-I", "seed": seed, "fd": 4 * unit, "weight": 0.0})
        rows.append({"scenario": "G1_SIMS-I", "seed": seed, "fd": 2 * unit, "weight": 1.0})
        for amount, of_seeds in ratios.items():
            later = {"seed": seed, "pollution": amount}
            rows.append({"scenario": "G2_ST-P", "fd": 4 * unit * 1.5, "weight": 0.0, **later})
            rows.append({"scenario": "G2_SIMS-P", "fd": 2 * unit * of_seeds[seed], "weight": 0.5, **later})
    return rows


ABOUT = {
    "data": None,
    "scale": {
        "real_count": 100,
        "budget": 1000,
        "preset": "digits",
        "count": 10,
        "weights": (0.5, 1.0),
        "improvement": {"snapshots": 1},
    },
}


def test_ratios_are_of_means_over_the_same_seeds() -> None:
    summary = pollution_summary(made_up({40: (1.2, 0.9), 20: (0.8, 0.8)}), "fd")
    assert [row["pollution"] for row in summary] == [20, 40]
    assert summary[0]["sims_ratio"] == pytest.approx(0.8)
    assert [summary[0][f"sims_ratio_{end}"] for end in ("low", "high")] == pytest.approx([0.8, 0.8])
    assert summary[1]["sims_ratio"] == pytest.approx((1.2 + 2 * 0.9) / 3)
    assert summary[1]["sims_ratio_low"] == pytest.approx(0.9) and summary[1]["sims_ratio_high"] == pytest.approx(1.2)
    assert summary[1]["sims_to_st"] == pytest.approx(summary[1]["sims_ratio"] / 2)
    assert summary[1]["st_ratio"] == pytest.approx(1.5)


def test_a_single_seed_has_no_interval() -> None:
    (row,) = pollution_summary(made_up({20: (0.8,)}), "fd")
    assert row["sims_ratio_low"] is None and row["st_ratio_high"] is None
    assert "certain" not in pollution_text(ABOUT, made_up({20: (0.8,)}), "fd")


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((0.9, 1.0, 1.1), (20, 30)),
        ((1.1, 0.9, 0.9), (0, 10)),
        ((0.9, 1.1, 0.9), (10, 20)),  # what comes after the first failure does not count
        ((0.9, 0.9, 1.0), (30, None)),
        ((0.9, None, 0.9), (10, 20)),
    ],
)
def test_threshold_is_the_last_amount_before_the_first_failure(ratios: tuple, expected: tuple) -> None:
    rows = [{"pollution": amount, "ratio": ratio} for amount, ratio in zip((10, 20, 30), ratios)]
    assert threshold(rows, "ratio") == expected


def test_the_text_says_what_the_rows_say() -> None:
    text = pollution_text(ABOUT, made_up({20: (0.8, 0.9, 0.9), 40: (0.9, 1.1, 1.0), 80: (1.3, 1.2, 1.4)}), "fd")
    assert "from 8 to 4 (-50%)" in text
    assert "it deteriorates, as in the paper" in text
    assert "is 20 images (20% of the real ones), and 40 is too much" in text
    assert "Each seed by itself: 40, 20, 40" in text
    assert "certain that 20 is tolerated; 80 is certainly too much" in text
    assert "at least 80 images (80% of the real ones), the most that was tried" in text
    assert "narrower than the truth" in text


@pytest.mark.slow
def test_smoke_resumed_and_extended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nomadiff.reproduce import sims_figure_6, two_generations

    scores, calls = two_generations.Generations.scores, []

    def dies_at_the_third(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scores(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(two_generations.Generations, "scores", dies_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, scale="smoke", processes=1)
    written = reproduce("sims-figure-6", tmp_path, scale="smoke", seeds=(10,), processes=1)
    assert "Prophylactic threshold" in written and "report.html: " in written
    assert "One or two seeds" in written
    rows = read_table(tmp_path / "table.json").rows
    assert [row["scenario"] for row in rows[:2]] == list(SCENARIOS[:2])
    amounts = {row["pollution"] for row in rows[2:]}
    assert {30, 60} <= amounts and len(amounts) <= 3  # at most one more in search of the threshold
    assert all(row["fd_digits"] > 0 for row in rows)
    for name in ("summary.csv", "figure.png", "figure.svg", "summary.md", "report.html"):
        assert (tmp_path / name).stat().st_size > 100
    polluting = np.load(tmp_path / "runs" / "seed-10" / "polluting.npy")
    assert len(polluting) == 60
    again = run(tmp_path, scale="smoke", seeds=(10,), processes=1)
    assert again.table.rows == [{key: value for key, value in row.items() if value is not None} for row in rows]
    with pytest.raises(UsageError, match="other settings"):
        monkeypatch.setitem(
            sims_figure_6._DIGITS, "smoke", sims_figure_6.replace(sims_figure_6._DIGITS["smoke"], budget=320)
        )
        run(tmp_path, scale="smoke", processes=1)


@pytest.mark.slow
def test_any_images_will_do(tmp_path: Path) -> None:
    photos = noise_images(40, 0, 3)
    write_images(tmp_path / "photos", [photos], 40, manifest={"kind": "real"})
    options = {"data": tmp_path / "photos", "device": "cpu", "processes": 1}
    result = run(tmp_path / "out", scale="smoke", **options)
    assert "photos: 20 real images" in result.text
    assert all("fd_pixels" in row for row in result.table.rows)
    with pytest.raises(UsageError, match="held-out third"):
        run(tmp_path / "other", scale="small", **options)


def test_the_paper_scale_is_a_plan(tmp_path: Path) -> None:
    plan = reproduce("sims-figure-6", tmp_path / "out", scale="paper", dry_run=True)
    assert "missing  cifar10-32x32-train.zip" in plan and "GPU hours" in plan and "200 Mi" in plan
    with pytest.raises(UsageError, match="--dry-run"):
        reproduce("sims-figure-6", tmp_path / "out", scale="paper")
    with pytest.raises(UsageError, match="smoke, small, medium, paper"):
        reproduce("sims-figure-6", tmp_path / "out", scale="huge")
    assert "24 bases of 38,400" in reproduce(
        "sims-figure-6", tmp_path / "out", scale="small", seeds=(0, 1, 2), dry_run=True
    )
    assert not (tmp_path / "out").exists()
