"""Figures carry the numbers they were given, in the page's colours, and survive any name."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from nomadiff.reports.palette import INK, all_colours, method_colours
from nomadiff.reports.plots import Curve, composition_bars, metric_bars, metric_lines, training_curves
from nomadiff.reports.svg import drawing, inline_svg

ROWS = [{"method": method, "source": source, "seed": seed, "fd": fd + seed}
        for method, source, fd in (("dm", "", 10.0), ("sda", "style", 90.0), ("casd", "style", 20.0))
        for seed in range(3)]  # fmt: skip
LOG = [{"images_seen": 128 * step, "loss": 10.0 / step, "note": "x"} for step in range(1, 500)]
HOSTILE = 'a<b>&"\'$x_{$ id="figure_1" url(#p)\n</svg><script>'


def figures(name: str) -> list[str]:
    rows = [{**row, "method": name, "source": name, "weight": row["seed"]} for row in ROWS]
    return [
        metric_bars(rows, "fd", label=name, floor=5.0),
        composition_bars({name: 0.4, "b": 0.6}, {"b": 1.0}, label=name),
        training_curves([Curve(name, LOG, name)], label=name),
        metric_lines(rows, "weight", "fd", by="method", label=name, x_label=name, floor=5.0),
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize("name", ["dm", HOSTILE])
def test_every_figure_is_wellformed_inline_svg(name: str) -> None:
    for svg in figures(name):
        root = ElementTree.fromstring(svg)
        assert root.tag == "svg" and root.get("role") == "img"
        assert root.get("aria-label") and name in root.get("aria-label", "")
        assert "http" not in svg and "xmlns" not in svg
        assert not {element.tag for element in root.iter()} & {
            "script",
            "metadata",
            "style",
            "b",
            "foreignObject",
            "image",
        }
        assert "url(" not in re.sub('<text.*?</text>|aria-label="[^"]*"', "", svg, flags=re.DOTALL)
        used = {element.attrib["href"] for element in root.iter() if "href" in element.attrib}
        assert used == {"#" + element.attrib["id"] for element in root.iter() if "id" in element.attrib}


def test_no_two_figures_share_an_id() -> None:
    ids = [set(re.findall(r'<[a-z][^>]* id="([^"]+)"', svg)) for svg in [*figures("dm"), *figures("sda")]]
    assert sum(map(len, ids)) == len(set().union(*ids)) > 0


def test_figures_are_the_same_every_time() -> None:
    assert figures("dm") == figures("dm")


def test_every_colour_is_a_variable_of_the_page() -> None:
    for svg in figures("dm"):
        outside = re.sub(r"var\(--[a-z0-9-]+, #[0-9a-f]{6}\)", "", svg)
        assert set(re.findall('#[0-9a-f]{6}(?=[;"])', outside)) == set()
        assert f"var({INK.variable}, {INK.light})" in svg or "var(--muted" in svg


def test_methods_keep_their_colour_whatever_stands_beside_them() -> None:
    assert method_colours(["sda", "mine", "casd"])["casd"] == method_colours(["casd"])["casd"]
    several = method_colours(["dm", "a", "b", "real", "sda", "casd", "c", "a"])
    assert len(set(several.values())) == len(several) == 7
    lights, variables = zip(*((colour.light, colour.variable) for colour in all_colours()))
    assert len(set(lights)) == len(lights) and len(set(variables)) == len(variables)


def test_bars_say_mean_and_arm_and_draw_a_ring_for_each_seed() -> None:
    svg = metric_bars(ROWS, "fd", label="distance", floor=5.0)
    label = ElementTree.fromstring(svg).get("aria-label")
    assert label == "distance, mean over seeds: dm 11; sda, style 91; casd, style 21"
    assert {"dm", "sda", "casd", "style", "fresh real"} <= set(texts(svg))
    paper = [e for e in ElementTree.fromstring(svg).iter("use") if "--paper" in e.get("style", "")]
    assert len(paper) == len(ROWS)


@pytest.mark.parametrize("rows", [[], ROWS[:1], [{"method": "dm", "fd": None}], [{"method": "dm", "fd": 0.0}]])
def test_bars_of_little_or_nothing_are_drawn_without_complaint(rows: list, recwarn: pytest.WarningsRecorder) -> None:
    assert metric_bars(rows, "fd").startswith("<svg")
    assert not recwarn.list


def test_bars_below_zero_stay_in_the_axes() -> None:
    assert "−" in "".join(texts(metric_bars([{"method": "dm", "fd": -4.0}, {"method": "sda", "fd": 2.0}], "fd")))


def test_composition_says_every_share_and_shows_every_class() -> None:
    svg = composition_bars({"cat": 0.25, "dog": 0.75}, {"bird": 0.5, "dog": 0.5}, label="dm")
    assert ElementTree.fromstring(svg).get("aria-label") == "Class composition of dm: cat 25.0 %, dog 75.0 %"
    assert {"cat", "dog", "bird"} <= set(texts(svg))


def test_composition_of_many_classes_leaves_labels_out_rather_than_crowd() -> None:
    svg = composition_bars({f"n{index:03}": 0.01 for index in range(100)})
    assert 15 <= sum(text.startswith("n") for text in texts(svg)) <= 20


def test_long_logs_are_averaged_and_ends_are_told() -> None:
    svg = training_curves([Curve("dm", LOG, seed=7)])
    (line,) = [e for e in ElementTree.fromstring(svg).iter("path") if "--arm-dm" in e.get("style", "")]
    assert 40 < line.get("d", "").count("L") < 80
    assert "dm seed 7 ends at 0.02" in (ElementTree.fromstring(svg).get("aria-label") or "")
    assert {"1", "0.1"} <= set(texts(svg)), "the axis is logarithmic and its ticks are plain numbers"


@pytest.mark.parametrize("log", [[], [{"images_seen": 5}], [{"loss": 1.0}], [{"images_seen": 1, "loss": float("nan")}]])
def test_logs_without_values_are_no_error(log: list, recwarn: pytest.WarningsRecorder) -> None:
    assert "no values" in training_curves([Curve("dm", log)])
    assert not recwarn.list


def test_lines_are_means_in_order_of_x() -> None:
    rows = [{"weight": weight, "budget": budget, "fd": weight + budget + noise}
            for weight in (2, 0, 1) for budget in (10, 20) for noise in (-1, 1)]  # fmt: skip
    svg = metric_lines(rows, "weight", "fd", by="budget", x_label="guidance weight")
    assert (
        ElementTree.fromstring(svg).get("aria-label")
        == "fd against guidance weight: 10 from 10 to 12; 20 from 20 to 22"
    )
    assert {"10", "20", "guidance weight"} <= set(texts(svg))
    assert metric_lines([], "weight", "fd", by="budget").startswith("<svg")


def test_there_is_no_generation_one_and_a_half() -> None:
    rows = [{"generation": g, "method": "sims", "fd": 100 * g} for g in (1, 2, 3)]
    shown = texts(metric_lines(rows, "generation", "fd", by="method"))
    assert {"1", "2", "3"} <= set(shown) and not {"1.0", "2.5"} & set(shown)
    halves = [{"weight": 0.5 * w, "method": "sims", "fd": 100 * w} for w in (0, 1, 2)]
    assert "0.2" in texts(metric_lines(halves, "weight", "fd", by="method"))


def test_description_is_escaped_once() -> None:
    with drawing(50) as figure:
        svg = inline_svg(figure, 'a "quoted" <b> & c')
    assert ElementTree.fromstring(svg).get("aria-label") == 'a "quoted" <b> & c'
