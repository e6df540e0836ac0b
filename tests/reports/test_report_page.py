"""The page: self-contained, escaped, and without the sections it has no data for."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.reports.page import Composition, Finding, GridPanel, Neighbours, Report
from nomadiff.reports.plots import Curve
from nomadiff.reports.summary import MetricInfo
from nomadiff.tables import Table

VOID = {"meta", "img", "br", "link", "input", "hr"}
SECTIONS = ["samples", "scores", "more", "composition", "neighbours", "training", "limits", "made"]


class Page(HTMLParser):
    """Elements, attributes and text of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def ids(self) -> list[str]:
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="module")
def html(example_report: Report) -> str:
    return example_report.html()


def test_full_page_is_wellformed_with_every_section_in_order(html: str) -> None:
    page = Page(html)
    assert [attributes["id"] for tag, attributes in page.elements if tag == "section"] == SECTIONS
    assert len(page.ids()) == len(set(page.ids()))
    links = [attributes["href"] for tag, attributes in page.elements if tag == "a"]
    assert links == [f"#{section}" for section in SECTIONS]
    headings = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(headings)), "no level is jumped"


def test_nothing_points_outside(html: str) -> None:
    markup = re.sub(r'"data:image/png;base64,[A-Za-z0-9+/=]+"', "", html)
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link|url\(", markup)
    for tag, attributes in Page(html).elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        if "src" in attributes:
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
        if "href" in attributes:
            assert (attributes["href"] or "").startswith("#")
    assert "default-src 'none'" in html


def test_every_picture_has_words(html: str) -> None:
    for tag, attributes in Page(html).elements:
        if tag == "img":
            assert attributes.get("alt")
        if tag == "svg":
            assert attributes.get("role") == "img" and attributes.get("aria-label")


def test_the_answer_command_limits_and_versions_are_all_there(html: str, example_report: Report) -> None:
    text = " ".join(Page(html).text.split())
    for said in [
        example_report.title, example_report.subtitle, example_report.command, *example_report.notes,
        *(finding.text for finding in example_report.findings), *example_report.versions.values(),
        *example_report.arms.values(), *(panel.sentence for panel in example_report.neighbours),
        "797", "9f2c51e07b6d4a18", "Every run saw 153,600 images",
    ]:  # fmt: skip
        assert said in text, said
    for row in example_report.table.rows:
        assert f"{row['fd_digits']:.4g}" in text


def test_hostile_text_is_text(digits: torch.Tensor) -> None:
    attack = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}{% raw %}"
    tile = digits[:4]
    page = Page(
        Report(
            title=attack, subtitle=attack, findings=[Finding(attack)], command=attack, versions={attack: attack},
            notes=[attack], arms={attack: attack}, provenance=[{attack: {attack: attack}}],
            table=Table([{"method": attack, "source": attack, "fd": 1.0, attack: attack},
                         {"method": "dm", "source": attack, "fd": 2.0}], {attack: {attack: attack}}),
            metrics=[MetricInfo("fd", attack, description=attack)],
            grids=[GridPanel(attack, attack, tile, 2, attack, attack)],
            neighbours=[Neighbours(attack, tile, tile, [0.0] * 4, attack, attack)],
            compositions=[Composition(attack, {attack: 1.0}, attack), Composition("real", {attack: 1.0})],
            curves=[Curve(attack, [{"images_seen": 1, "loss": 1.0}], attack)],
        ).html()
    )  # fmt: skip
    assert "script" not in {tag for tag, _ in page.elements}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count("{{ 7*7 }}") > 10


@pytest.mark.parametrize(
    ("section", "data"),
    [
        ("samples", {"grids": []}),
        ("scores", {"table": Table()}),
        ("more", {"figures": []}),
        ("composition", {"compositions": []}),
        ("neighbours", {"neighbours": []}),
        ("training", {"curves": []}),
        ("limits", {"notes": []}),
        ("made", {"command": "", "versions": {}, "provenance": [], "table": Table()}),
    ],
)
def test_a_section_without_data_is_absent(full_report: Report, section: str, data: dict) -> None:
    for name, value in data.items():
        setattr(full_report, name, value)
    page = Page(full_report.html())
    assert section not in page.ids()
    assert ("a", {"href": f"#{section}"}) not in page.elements


def test_a_title_alone_is_a_page() -> None:
    page = Page(Report("Nothing yet").html())
    assert "Nothing yet" in page.text
    assert "section" not in {tag for tag, _ in page.elements}


def test_one_arm_of_one_run_claims_no_spread_and_no_best(digits: torch.Tensor) -> None:
    report = Report(
        "Evaluation",
        table=Table([{"fd": 9.5, "gone": None, "torn": float("nan")}]),
        metrics=[MetricInfo(name, name) for name in ("fd", "gone", "torn", "absent")],
        grids=[GridPanel("samples", "", digits[:3])],
    )
    page = Page(report.html())
    heads = [attributes for tag, attributes in page.elements if tag == "th" and attributes.get("scope") == "col"]
    assert len(heads) == 2 + 3, "method and fd; then every field of the row"
    assert "±" not in page.text and "(best)" not in page.text and "same noise" not in page.text
    assert "svg" not in {tag for tag, _ in page.elements}, "no bars of a single arm"
    assert "9.50" in page.text


def test_arms_by_other_fields_have_a_column_each_and_no_method_bars() -> None:
    rows = [{"space": "function", "weight": w, "seed": s, "fd": 9.0 - w + s} for w in (0, 0.5) for s in (0, 1)]
    page = Page(Report("Sweep", table=Table(rows), metrics=[MetricInfo("fd", "fd")], by=("space", "weight")).html())
    assert "function" in page.text and "0.5" in page.text and page.text.count("(best)") == 1
    assert "svg" not in {tag for tag, _ in page.elements}


def test_grey_and_rgb_images_are_shown(digits: torch.Tensor) -> None:
    grey = digits[:6]
    for images in (grey, grey.expand(-1, 3, -1, -1)):
        report = Report("x", grids=[GridPanel("a", "", images)], neighbours=[("a", images, images, torch.zeros(6))])
        assert sum(tag == "img" for tag, _ in Page(report.html()).elements) == 1 + 6


def test_samples_and_neighbours_must_pair(digits: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="dm: .*4, 3 and 4"):
        Report("x", neighbours=[Neighbours("dm", digits[:4], digits[:3], [0.0] * 4)]).html()


def test_verdicts_are_three() -> None:
    with pytest.raises(UsageError, match="great"):
        Finding("x", "great")  # type: ignore[arg-type]


def test_writing_replaces_the_page_whole(full_report: Report, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    Report("old").write(path)
    full_report.write(path)
    assert path.read_text(encoding="utf-8") == full_report.html()
    full_report.grids = [GridPanel("floats", "", torch.zeros(1, 1, 2, 2))]
    with pytest.raises(UsageError):
        full_report.write(path)
    assert full_report.title in path.read_text(encoding="utf-8")
    assert [each.name for each in path.parent.iterdir()] == ["report.html"]
