"""Runs that are on disk side by side: no figure is made anew, and what cannot be compared is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomadiff.cli import main
from nomadiff.errors import DataError, UsageError
from nomadiff.tables import Table, read_table
from nomadiff.workflows.score_table import score_table

CONDITIONS = {"detector": "digits", "detector_sha256": "a" * 64, "reference_sha256": "b" * 64, "count": 500, "k": 5}


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """A comparison, an improvement, an evaluation of one set and one of two."""
    study = [
        {"method": method, "source": source, "seed": seed, "images_seen": 9, "fd_digits": value + seed, "recall": 0.5}
        for method, source, value in (("dm", "", 10.0), ("casd", "close", 6.0))
        for seed in (0, 2)
    ]
    improved = [
        {"space": "output", "weight": weight, "budget": 8, "seed": 1, "noise": noise, "fd_digits": value, "fdr": 1.5}
        for weight, noise, value in ((0.0, "search", 1.0), (0.0, "fresh", 9.0), (1.0, "fresh", 7.0))
    ]
    alone = [{"metric": "fd_digits", "value": 8.0, "low": 7.0, "high": 9.0, "floor": 5.0}]
    alone.append({"group": "3", "metric": "fd_digits", "value": 99.0})
    two = [{"set": name, "metric": "fd_digits", "value": value} for name, value in (("x", 3.0), ("y", 4.0))]
    tables = {
        "study/metrics.json": Table(study, {"evaluation": CONDITIONS}),
        "improved/improve.json": Table(improved, {"evaluation": {**CONDITIONS, "count": 1000}}),
        "samples/metrics.json": Table(alone, CONDITIONS),
        "two.json": Table(two, {**CONDITIONS, "detector": "pixels"}),
    }
    for name, table in tables.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        table.write(tmp_path / name)
    return {
        "study": tmp_path / "study",
        "improved": tmp_path / "improved",
        "samples": tmp_path / "samples/metrics.json",
        "two": tmp_path / "two.json",
    }


def test_every_kind_of_run_has_its_rows(runs: dict[str, Path]) -> None:
    table = score_table(*runs.values())
    found = [(row["run"], row["arm"], row["runs"], row["fd_digits"]) for row in table.rows]
    assert found == [
        ("study", "dm", 2, 11.0),
        ("study", "casd, close", 2, 7.0),
        ("improved", "weight 0.0", 1, 9.0),
        ("improved", "weight 1.0", 1, 7.0),
        ("samples", "", 1, 8.0),
        ("two", "x", 1, 3.0),
        ("two", "y", 1, 4.0),
    ]
    assert table.rows[0]["fd_digits_sd"] == pytest.approx(2**0.5) and "fd_digits_sd" not in table.rows[2]
    assert table.meta["metrics"] == ["fd_digits", "fdr", "recall"] and table.rows[0]["fdr"] is None


def test_what_cannot_be_compared_is_said(runs: dict[str, Path], capsys, tmp_path: Path) -> None:
    assert score_table(runs["study"], runs["samples"]).meta["notes"] == []
    notes = score_table(*runs.values()).meta["notes"]
    assert notes == [
        "not comparable, detector differs (study: digits, improved: digits, samples: digits, two: pixels)",
        "not comparable, count differs (study: 500, improved: 1000, samples: 500, two: 500)",
    ]
    out = tmp_path / "all.json"
    assert main(["table", str(runs["study"]), f"other={runs['two']}", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "11 ± 1.4" in text and "not comparable, detector differs (study: digits, other: pixels)" in text
    assert read_table(out).rows[0]["run"] == "study"


def test_a_table_where_one_stands_is_called_by_its_own_name(runs: dict[str, Path], monkeypatch) -> None:
    monkeypatch.chdir(runs["samples"].parent)
    assert {row["run"] for row in score_table("metrics.json", "../two.json").rows} == {"metrics", "two"}
    assert {row["run"] for row in score_table("../samples/metrics.json").rows} == {"samples"}


def test_what_has_no_scores_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    Table([{"a": 1}]).write(tmp_path / "other.json")
    (tmp_path / "bad.json").write_text('{"rows": [1]}')
    for given, error, told in (
        ((), UsageError, "at least one run"),
        ((tmp_path / "run",), UsageError, "holds no scores"),
        ((tmp_path / "absent",), DataError, "no such file or folder"),
        ((tmp_path / "other.json",), DataError, "no scores in it"),
        ((tmp_path / "bad.json",), DataError, "not a table of scores"),
        ((runs["study"], runs["study"]), UsageError, "two runs are called 'study': name them, as in first="),
    ):
        with pytest.raises(error, match=told):
            score_table(*given)
