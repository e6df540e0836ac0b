"""The table of means agrees with the rows."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest

from nomadiff.errors import UsageError
from nomadiff.reports.numbers import as_number, cell_text, column_decimals, fixed
from nomadiff.reports.page import Report
from nomadiff.reports.summary import MetricInfo, blocks_by_source, floor_cells
from nomadiff.tables import Table

FD = MetricInfo("fd", "fd", "lower", floor=3.25)
COVERAGE = MetricInfo("coverage", "coverage", "higher")


def row(method: str, source: str, seed: int, fd: float | None, coverage: float | None = None) -> dict:
    return {"method": method, "source": source, "seed": seed, "images_seen": 1000, "fd": fd, "coverage": coverage}


def test_mean_spread_and_best_by_source() -> None:
    table = Table([row("dm", "", 0, 10.0, 0.5), row("dm", "", 1, 14.0, 0.7),
                   row("sda", "a", 0, 5.0, 0.9), row("sda", "a", 1, 8.0, 0.8),
                   row("sda", "b", 0, 90.0, 0.1), row("sda", "b", 1, 95.0, 0.2)])  # fmt: skip
    first, second = blocks_by_source(table, [FD, COVERAGE], ["method"])
    assert (first.source, second.source) == ("a", "b")
    assert [arm.names for arm in first.rows] == [["dm"], ["sda"]] == [arm.names for arm in second.rows]
    dm, sda = first.rows
    assert (dm.count, dm.images_seen, dm.method) == (2, "1,000", "dm")
    assert (dm.cells[0].mean, dm.cells[0].spread) == ("12.0", f"{statistics.stdev([10, 14]):.1f}")
    assert (sda.cells[1].mean, sda.cells[1].spread) == ("0.850", f"{statistics.stdev([0.9, 0.8]):.3f}")
    assert [cell.best for cell in dm.cells] == [False, False] and [cell.best for cell in sda.cells] == [True, True]
    assert [cell.best for cell in second.rows[0].cells] == [True, True], "dm is the baseline of either source"
    assert floor_cells(table, [FD, COVERAGE]) == ["3.2", "–"]


def test_one_seed_has_no_spread_and_one_arm_is_not_best() -> None:
    (block,) = blocks_by_source(Table([row("casd", "", 0, 10.0)]), [FD], ["method"])
    (arm,) = block.rows
    assert arm.cells[0].spread == "" and not arm.cells[0].best


def test_equal_arms_have_no_best() -> None:
    (block,) = blocks_by_source(Table([row("dm", "", 0, 10.0), row("sda", "", 0, 10.0)]), [FD], ["method"])
    assert not any(arm.cells[0].best for arm in block.rows)


def test_what_is_not_yet_a_model_is_not_the_best() -> None:
    table = Table([row("dm", "", 0, 10.0), {**row("sda", "a", 0, 1.0), "untrained": "its warm-up is not over"},
                   row("casd", "a", 0, 9.0), row("sda", "b", 0, 2.0)])  # fmt: skip
    first, second = blocks_by_source(table, [FD], ["method"])
    assert [(arm.method, arm.cells[0].best) for arm in first.rows] == [("dm", False), ("sda", False), ("casd", True)]
    assert [(arm.method, arm.cells[0].best) for arm in second.rows] == [("dm", False), ("sda", True)]


def test_missing_and_unfinished_values_are_left_out_of_mean_and_best() -> None:
    table = Table([row("dm", "", 0, math.nan), row("dm", "", 1, 4.0), row("sda", "", 0, None), row("casd", "", 0, 5.0)])
    (block,) = blocks_by_source(table, [FD], ["method"])
    assert [(arm.cells[0].mean, arm.cells[0].best) for arm in block.rows] == [
        ("4.00", True),
        ("–", False),
        ("5.00", False),
    ]


def test_a_spread_too_small_for_its_decimals_does_not_read_as_none() -> None:
    (block,) = blocks_by_source(Table([row("dm", "", 0, 100.0), row("dm", "", 1, 100.01)]), [FD], ["method"])
    assert (block.rows[0].cells[0].mean, block.rows[0].cells[0].spread) == ("100.0", "<0.1")
    (block,) = blocks_by_source(Table([row("dm", "", 0, 100.0), row("dm", "", 1, 100.0)]), [FD], ["method"])
    assert block.rows[0].cells[0].spread == "0.0"


def test_empty_table_has_no_blocks() -> None:
    assert blocks_by_source(Table(), [FD], ["method"]) == []


def test_arms_may_be_named_by_other_fields() -> None:
    rows = [
        {"weight": weight, "budget": 51_200, "seed": seed, "fd": 9.0 - weight} for weight in (0, 0.5) for seed in (0, 1)
    ]
    (block,) = blocks_by_source(Table(rows), [FD], ["weight", "budget"])
    assert [arm.names for arm in block.rows] == [["0", "51,200"], ["0.5", "51,200"]]
    assert block.rows[1].cells[0].best and block.rows[0].images_seen == ""


def test_where_neither_direction_is_better_nothing_is_best() -> None:
    share = MetricInfo("share", "share, %", "neither")
    rows = [{"method": method, "seed": 0, "share": value} for method, value in (("base", 50.0), ("shifted", 70.0))]
    (block,) = blocks_by_source(Table(rows), [share], ["method"])
    assert [row.cells[0].best for row in block.rows] == [False, False]
    page = Report(title="?", table=Table([{**row, "source": "low"} for row in rows]), metrics=[share], block="group")
    assert "group “low”" in page.html() and "is better" not in page.html()


def test_a_direction_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="fd: better must be"):
        MetricInfo("fd", "fd", "smaller")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("largest", "decimals"), [(0, 0), (0.0312, 4), (0.25, 3), (1.0, 3), (2.5, 2), (30.5, 1), (975, 0), (12345, 0)]
)
def test_decimals_tell_arms_apart(largest: float, decimals: int) -> None:
    assert column_decimals([None, largest / 7, -largest]) == decimals


def test_numbers_as_text() -> None:
    assert fixed(-12345.678, 1) == "−12,345.7" and fixed(None, 3) == "–"
    assert [cell_text(value) for value in (None, math.nan, 3, 153_600, 0.123456, "x", True, np.float32(0.5), [1])] == [
        "–", "–", "3", "153,600", "0.1235", "x", "yes", "0.5", "[1]"]  # fmt: skip
    assert as_number(np.float64(2)) == 2.0
    assert [as_number(value) for value in (None, "3", True, math.inf, [1])] == [None] * 5
