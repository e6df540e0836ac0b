"""Loops of one's own are judged and reported as loops of images are."""

import numpy as np
import pytest

from nomadiff.errors import UsageError
from nomadiff.files import read_json
from nomadiff.loops.report import report_loops
from nomadiff.tables import read_table


def runs(ratios, count=5):
    """Runs whose distance begins at 1 and follows ``ratios``, with a little spread."""
    spread = np.linspace(0.98, 1.02, count)
    rows = [{"generation": number + 1, "real": 10, "synthetic": 5} for number in range(len(ratios))]
    return [[{**row, "distance": ratio * factor} for row, ratio in zip(rows, ratios)] for factor in spread]


def test_curves_are_judged_and_written(tmp_path):
    curves = {"rising": runs(np.arange(1, 11)), "falling": runs([1, *[0.5] * 9])}
    table = report_loops(curves, tmp_path / "out", distance="distance", kind="fresh data", floor={"distance": 0.25})
    judged = {row["method"]: row for row in read_table(tmp_path / "out" / "madness.json").rows}
    assert (judged["rising"]["verdict"], judged["falling"]["verdict"]) == ("MAD", "prevented")
    assert judged["falling"]["ratio"] == pytest.approx(0.5) and judged["rising"]["certain"]
    assert len(table.rows) == 2 * 5 * 10
    last = table.rows[9]
    assert (last["method"], last["kind"], last["seed"], last["generation"]) == ("rising", "fresh data", 0, 10)
    assert last["ratio"] == pytest.approx(9.8)
    assert "rising" in read_json(tmp_path / "out" / "metrics.json")["meta"]["madness"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Does this loop go MAD?" in page and "rising: MADness ratio" in page and "fresh real data" in page


def test_curves_of_what_is_no_model_yet_get_no_verdict(tmp_path):
    curves = {"noise": runs(np.arange(1, 11)), "falling": runs([1, *[0.5] * 9])}
    table = report_loops(curves, tmp_path, distance="distance", untrained={"noise": "coverage 0.00"})
    noise, falling = read_table(tmp_path / "madness.json").rows
    assert (noise["verdict"], noise["certain"], noise["untrained"]) == ("undecided", False, "coverage 0.00")
    assert falling["verdict"] == "prevented" and not falling.get("untrained")
    assert {row["method"] for row in table.rows if row.get("untrained")} == {"noise"}  # none of them is marked as best
    assert "generation 1 is not yet a model (coverage 0.00); train every" in table.meta["madness"]["noise"]


def test_what_few_runs_cannot_tell_is_said(tmp_path):
    report_loops({"one": runs([1, 2, 3], count=1)}, tmp_path, distance="distance")
    page = (tmp_path / "report.html").read_text()
    assert "3 generations cannot tell" in page and "1 seed: intervals" in page and "undecided" in page


@pytest.mark.parametrize(
    ("curves", "told"),
    [
        ({}, "no loop to report"),
        ({"a": []}, "equally many generations"),
        ({"a": [*runs([1, 2], 1), *runs([1, 2, 3], 1)]}, "equally many generations"),
        ({"a": [[{"generation": 1, "other": 2}]]}, "no distance 'distance' among generation, other"),
    ],
)
def test_what_is_no_loop_is_refused(tmp_path, curves, told):
    with pytest.raises(UsageError, match=told):
        report_loops(curves, tmp_path, distance="distance")
