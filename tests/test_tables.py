"""Tidy tables: what is written is what is read, and a summary is the mean and spread that statistics gives."""

from __future__ import annotations

import csv
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.errors import DataError
from nomadiff.tables import Table, read_table, summarise

finite = st.floats(-1e6, 1e6, allow_nan=False)


def test_round_trip_and_csv_beside_it(tmp_path: Path) -> None:
    rows = [{"method": 'a, "b"', "seed": 0, "fd": 1.5}, {"method": "dm", "seed": 1, "late": True, "fd": None}]
    table = Table(rows, {"command": "nomadiff demo", "reference": {"count": 797}})
    table.write(tmp_path / "metrics.json")
    again = read_table(tmp_path / "metrics.json")
    assert again == table
    assert again.fields == ["method", "seed", "fd", "late"]
    with open(tmp_path / "metrics.csv", newline="", encoding="utf-8") as handle:
        lines = list(csv.DictReader(handle))
    assert lines == [
        {"method": 'a, "b"', "seed": "0", "fd": "1.5", "late": ""},
        {"method": "dm", "seed": "1", "fd": "", "late": "True"},
    ]


def test_json_is_strict_and_numbers_are_plain(tmp_path: Path) -> None:
    values = [math.nan, math.inf, -math.inf, np.float32(0.5), np.int64(3), torch.tensor(2.0), np.float64("nan")]
    Table([{"value": value} for value in values]).write(tmp_path / "t.json")

    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"), parse_constant=no_constants)
    assert [row["value"] for row in content["rows"]] == [None, None, None, 0.5, 3, 2.0, None]
    assert (tmp_path / "t.csv").read_text() == 'value\n""\n""\n""\n0.5\n3\n2.0\n""\n'


def test_an_empty_table_can_be_written_and_read(tmp_path: Path) -> None:
    Table().write(tmp_path / "t.json")
    assert read_table(tmp_path / "t.json") == Table()


@pytest.mark.parametrize("content", ["[]", "{}", '{"rows": {}}', "3", '{"rows": null}'])
def test_other_json_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match=r"t\.json: not a nomadiff table"):
        read_table(tmp_path / "t.json")


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0, 1]), st.none() | finite), max_size=20))
def test_summary_is_mean_and_sample_deviation_by_group(rows: list) -> None:
    table = [{"method": method, "kind": kind, "fd": value} for method, kind, value in rows]
    summary = summarise(table, ["method", "kind"], ["fd"])
    assert [(line["method"], line["kind"]) for line in summary] == list(dict.fromkeys((m, k) for m, k, _ in rows))
    assert sum(line["count"] for line in summary) == len(rows)
    for line in summary:
        values = [v for m, k, v in rows if (m, k) == (line["method"], line["kind"]) and v is not None]
        if not values:
            assert line["fd"] is None and line["fd_sd"] is None
            continue
        assert line["fd"] == pytest.approx(statistics.fmean(values), rel=1e-9, abs=1e-6)
        if len(values) == 1:
            assert line["fd_sd"] is None
        else:
            assert line["fd_sd"] == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-6)


def test_rows_that_lack_the_field_form_a_group_and_leave_the_metric_out() -> None:
    rows = [{"source": "a", "fd": 1.0}, {"fd": 3.0}, {"source": "a"}]
    assert summarise(rows, ["source"], ["fd"]) == [
        {"source": "a", "count": 2, "fd": 1.0, "fd_sd": None},
        {"source": None, "count": 1, "fd": 3.0, "fd_sd": None},
    ]
