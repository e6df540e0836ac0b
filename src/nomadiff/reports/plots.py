"""The figures of a report: small, one message each, as inline SVG in the fixed colours of the methods."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from nomadiff.reports.numbers import as_number, cell_text
from nomadiff.reports.palette import INK, MUTED, PAPER, Colour, method_colours
from nomadiff.reports.svg import WIDTH, drawing, inline_svg, quiet_axes
from nomadiff.tables import summarise

__all__ = ["Curve", "composition_bars", "metric_bars", "metric_lines", "training_curves"]

_MOST_POINTS = 80  # a curve of more log lines is averaged in this many stretches
_LABEL_UNITS = 6.2  # width of one letter of an axis label, a little generous


@dataclass
class Curve:
    """The training log of one run.

    Attributes:
        method: which method was trained; it gives the colour.
        log: log lines in order, each with ``images_seen`` and what was measured, such as ``loss``.
        source: name of the synthetic source it was trained with; empty for none.
        seed: seed of the run.
    """

    method: str
    log: Sequence[Mapping[str, Any]]
    source: str = ""
    seed: int = 0


def metric_bars(
    rows: Iterable[Mapping[str, Any]],
    metric: str,
    *,
    label: str = "",
    floor: float | None = None,
    colours: Mapping[str, Colour] | None = None,
) -> str:
    """One metric for every arm: a bar to the mean, a line of one standard deviation either way, a ring for each seed.

    Args:
        rows: one row a run, with ``method``, ``source`` (empty for none), and ``metric``.
        metric: name of the field to draw; rows without a finite value are left out.
        label: what the metric is called; for the description.
        floor: what fresh real data scores, drawn as a dashed line.
        colours: colour of each method; by default as in :func:`~nomadiff.reports.palette.method_colours`.

    Returns:
        An ``<svg>`` element; it shows no bar if no row has the metric.
    """
    values: list[dict[str, Any]] = [
        {"source": str(row.get("source") or ""), "method": str(row.get("method") or ""), "value": value}
        for row in rows
        if (value := as_number(row.get(metric))) is not None
    ]
    colours = colours or method_colours(str(row["method"]) for row in values)
    arms = summarise(values, ["source", "method"], ["value"])
    lines: list[tuple[str, dict[str, Any] | None]] = []  # what stands in each line of the figure: a heading or an arm
    for source in dict.fromkeys(arm["source"] for arm in arms):
        if source:
            lines.append((source, None))
        lines.extend((arm["method"] or "samples", arm) for arm in arms if arm["source"] == source)
    pitch, top, bottom = 21.0, 16.0, 22.0
    height = top + pitch * max(len(lines), 1) + bottom
    left = 10 + _LABEL_UNITS * max((len(_short(name, 16)) for name, arm in lines if arm is not None), default=0)
    with drawing(height) as figure:
        axes = figure.add_axes((left / WIDTH, bottom / height, 1 - (left + 14) / WIDTH, 1 - (top + bottom) / height))
        quiet_axes(axes, grid="x")
        axes.set_ylim(max(len(lines), 1) - 0.5, -0.5)
        axes.set_yticks([])
        # position in figure units left of the axes, height in lines: labels do not move with the scale
        beside = axes.get_yaxis_transform()
        for place, (name, arm) in enumerate(lines):
            if arm is None:
                start = -left / (WIDTH - left - 14)
                heading = axes.text(start, place + 0.12, _short(name, 44), transform=beside, va="center")
                heading.set_color(MUTED.light)
                heading.set_bbox({"facecolor": PAPER.light, "edgecolor": "none", "pad": 1})  # no line through the name
                continue
            colour, mean, spread = colours[arm["method"]].light, arm["value"], arm["value_sd"]
            axes.text(-8 / (WIDTH - left - 14), place, _short(name, 16), transform=beside, va="center", ha="right")
            axes.barh(place, mean, height=0.62, color=colour, alpha=0.26, linewidth=0)
            axes.plot([mean, mean], [place - 0.31, place + 0.31], color=colour, linewidth=2, solid_capstyle="butt")
            if spread is not None:
                axes.plot([mean - spread, mean + spread], [place, place], color=colour, linewidth=1.4)
            seeds = [row["value"] for row in values if (row["source"], row["method"]) == (arm["source"], arm["method"])]
            if len(seeds) > 1:
                face, width = PAPER.light, 1.2
                axes.plot(seeds, [place] * len(seeds), "o", ms=4.6, mfc=face, mec=colour, mew=width, clip_on=False)
        axes.axvline(0, color=MUTED.light, linewidth=1)
        if floor is not None:
            axes.axvline(floor, color=INK.light, linewidth=1, linestyle=(0, (3, 3)))
        reach = [arm["value"] + sign * (arm["value_sd"] or 0.0) for arm in arms for sign in (-1, 1)]
        low, high = _limits([*(row["value"] for row in values), *reach, floor, 0.0])
        axes.set_xlim(low, high)
        if floor is not None:
            share = (floor - low) / (high - low)
            side = "left" if share < 0.2 else "right" if share > 0.8 else "center"
            axes.text(floor, -0.62, "fresh real", ha=side, va="bottom", fontsize=10, color=MUTED.light)
        _few_ticks(axes.xaxis, 4)
        means = "; ".join(f"{_arm_name(arm)} {arm['value']:.4g}" for arm in arms)
        return inline_svg(figure, f"{label or metric}, mean over seeds: {means or 'no values'}")


def composition_bars(
    shares: Mapping[str, float],
    reference: Mapping[str, float] | None = None,
    *,
    colour: Colour | None = None,
    label: str = "",
    highest: float | None = None,
) -> str:
    """Class composition of one sample set: a bar a class, with a stroke where the reference lies.

    Args:
        shares: share of each class, 0..1, in the order to draw.
        reference: the same for the real data, or None.
        colour: of the bars; by default the colour of real data.
        label: whose samples they are; for the description.
        highest: upper end of the axis as a share, to make several figures comparable; by default it fits.

    Returns:
        An ``<svg>`` element.
    """
    names = list(dict.fromkeys([*shares, *(reference or {})]))
    wide = max((len(name) for name in names), default=0) > 3
    fill = (colour or method_colours(["real"])["real"]).light
    every = -(-len(names) // 20) or 1  # more labels than about twenty would touch
    bottom = 66.0 if wide else 20.0
    height = 132.0 + bottom
    with drawing(height) as figure:
        axes = figure.add_axes((38 / WIDTH, bottom / height, 1 - 42 / WIDTH, 1 - (bottom + 10) / height))
        quiet_axes(axes, grid="y")
        places = range(len(names))
        axes.bar(
            places, [100 * shares.get(name, 0.0) for name in names], width=0.66, color=fill, alpha=0.55, linewidth=0
        )
        if reference is not None:
            levels = [100 * reference.get(name, 0.0) for name in names]
            axes.hlines(levels, [p - 0.42 for p in places], [p + 0.42 for p in places], color=INK.light, linewidth=1.6)
        axes.axhline(0, color=MUTED.light, linewidth=1)
        turned: dict[str, Any] = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if wide else {}
        axes.set_xticks(list(places)[::every], [_short(name, 12) for name in names[::every]], **turned)
        axes.set_xlim(-0.6, max(len(names), 1) - 0.4)
        fits = max([*shares.values(), *(reference or {}).values(), 0.01])
        axes.set_ylim(0, 105 * (highest or fits))
        _few_ticks(axes.yaxis, 3)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        described = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
        return inline_svg(figure, f"Class composition of {label or 'samples'}: {described}")


def training_curves(
    logs: Sequence[Curve],
    *,
    field: str = "loss",
    label: str = "training loss",
    colours: Mapping[str, Colour] | None = None,
    legend: bool = False,
) -> str:
    """A field of training logs against images seen: one line a run, in the colour of its method.

    A log of more than 80 lines is averaged over stretches of equal length; the axis is logarithmic where the values
    span more than a factor of ten.

    Args:
        logs: the runs; lines without the field, or without a finite value in it, are left out.
        field: which field of the log lines to draw.
        label: what it is called.
        colours: colour of each method.
        legend: name the methods in the figure, for pages that have no key of them.

    Returns:
        An ``<svg>`` element.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    colours = colours or method_colours(curve.method for curve in logs)
    drawn: list[tuple[Curve, list[float], list[float]]] = []
    for curve in logs:
        pairs = [(as_number(line.get("images_seen")), as_number(line.get(field))) for line in curve.log]
        whole = [(x, y) for x, y in pairs if x is not None and y is not None]
        if whole:
            drawn.append((curve, *_averaged(whole)))
    named = [_short(curve.method, 24) for curve, _, _ in drawn] if legend else []
    top = 12.0 + 17 * -(-len(named) // 2)
    height = 204.0 + top
    with drawing(height) as figure:
        axes = figure.add_axes((46 / WIDTH, 38 / height, 1 - 60 / WIDTH, 1 - (38 + top) / height))
        quiet_axes(axes, grid="y")
        lines = []
        for curve, seen, values in drawn:
            style: dict[str, Any] = {"color": colours[curve.method].light, "linewidth": 1.4, "alpha": 0.85}
            lines += axes.plot(seen, values, "o-" if len(seen) == 1 else "-", ms=4, **style)
        if named:
            above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
            axes.legend(lines, named, **above, ncols=2, handlelength=1.2, labelspacing=0.3)
        everything = [value for _, _, values in drawn for value in values]
        if everything and min(everything) > 0 and max(everything) > 10 * min(everything):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        else:
            _few_ticks(axes.yaxis, 5)
        axes.set_xlim(left=0)
        _few_ticks(axes.xaxis, 4)
        axes.xaxis.set_major_formatter(lambda value, _: _count_text(value))
        axes.set_xlabel("images seen")
        ends = "; ".join(
            f"{curve.method} {curve.source}".strip() + f" seed {curve.seed} ends at {values[-1]:.4g}"
            for curve, _, values in drawn
        )
        return inline_svg(figure, f"{label} against images seen: {ends or 'no values'}")


def metric_lines(
    rows: Iterable[Mapping[str, Any]],
    x: str,
    metric: str,
    *,
    by: str,
    label: str = "",
    x_label: str = "",
    floor: float | None = None,
) -> str:
    """One metric against another field (guidance weight, generation, real images): mean over seeds, band of one sd.

    Args:
        rows: one row an observation, with the fields ``x``, ``by`` and ``metric``.
        x: name of the numeric field along the axis.
        metric: name of the field to draw.
        by: field that tells the lines apart (``budget``, ``method``); its values are the legend.
        label: what the metric is called.
        x_label: what the axis is called; by default the name of the field.
        floor: what fresh real data scores, drawn as a dashed line.

    Returns:
        An ``<svg>`` element.
    """
    values = [
        {"line": cell_text(row.get(by)), "x": place, "value": value}
        for row in rows
        if (place := as_number(row.get(x))) is not None and (value := as_number(row.get(metric))) is not None
    ]
    summary = summarise(values, ["line", "x"], ["value"])
    names = list(dict.fromkeys(point["line"] for point in summary))
    colours = method_colours(names)
    legend_rows = -(-len(names) // 3)
    top = 14.0 + 17 * legend_rows
    height = 178.0 + 38 + top
    with drawing(height) as figure:
        axes = figure.add_axes((46 / WIDTH, 38 / height, 1 - 60 / WIDTH, 1 - (38 + top) / height))
        quiet_axes(axes, grid="y")
        for name in names:
            points = sorted((point for point in summary if point["line"] == name), key=lambda point: point["x"])
            places, means = [point["x"] for point in points], [point["value"] for point in points]
            spreads = [point["value_sd"] or 0.0 for point in points]
            colour = colours[name].light
            lower = [mean - spread for mean, spread in zip(means, spreads)]
            upper = [mean + spread for mean, spread in zip(means, spreads)]
            if any(spreads):
                axes.fill_between(places, lower, upper, color=colour, alpha=0.16, linewidth=0)
            axes.plot(places, means, "o-", color=colour, linewidth=1.6, ms=4, label=_short(name, 18))
        if floor is not None:
            axes.axhline(floor, color=INK.light, linewidth=1, linestyle=(0, (3, 3)))
            axes.annotate(
                "fresh real",
                (1, floor),
                xycoords=axes.get_yaxis_transform(),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                fontsize=10,
                color=MUTED.light,
            )
        _few_ticks(axes.xaxis, 6, whole=all(point["x"] == int(point["x"]) for point in summary))
        _few_ticks(axes.yaxis, 5)
        axes.set_xlabel(_short(x_label or x, 44))
        if names:
            above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1.0), "borderaxespad": 0.2}
            axes.legend(**above, ncols=3, handlelength=1.2, columnspacing=1.2, labelspacing=0.3)
        ranges = "; ".join(
            f"{name} from {min(p['value'] for p in summary if p['line'] == name):.4g}"
            f" to {max(p['value'] for p in summary if p['line'] == name):.4g}"
            for name in names
        )
        return inline_svg(figure, f"{label or metric} against {x_label or x}: {ranges or 'no values'}")


def _arm_name(arm: Mapping[str, Any]) -> str:
    return ", ".join(part for part in (arm["method"] or "samples", arm["source"]) if part)


def _short(text: str, letters: int) -> str:
    """``text`` on one line, cut to that many letters."""
    text = " ".join(text.split())
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _limits(values: Sequence[float | None]) -> tuple[float, float]:
    """Ends of an axis that hold all values, with a margin at the ends that are not zero."""
    present = [value for value in values if value is not None]
    low, high = min(present), max(present)
    if low == high:
        return 0.0, 1.0  # one of the values is zero, where the bars begin: so all are
    air = 0.05 * (high - low)
    return (low - air if low < 0 else low), (high + air if high > 0 else high)


def _few_ticks(axis: Any, count: int, whole: bool = False) -> None:
    """About ``count`` ticks at round numbers, written out in full; at ``whole`` ones where there is nothing between."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axis.set_major_locator(MaxNLocator(count, steps=[1, 2, 5, 10], min_n_ticks=2, integer=whole))
    formatter = ScalarFormatter(useOffset=False)
    formatter.set_scientific(False)
    axis.set_major_formatter(formatter)


def _averaged(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Points in order, averaged over at most ``_MOST_POINTS`` stretches of as equal length as can be."""
    count = min(len(points), _MOST_POINTS)
    bounds = [len(points) * index // count for index in range(count + 1)]
    stretches = [points[start:end] for start, end in pairwise(bounds)]
    columns = [[fmean(column) for column in zip(*stretch)] for stretch in stretches]
    return [x for x, _ in columns], [y for _, y in columns]


def _count_text(count: float) -> str:
    """A count of images as an axis shows it: 0, 50k, 1.5M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(count) >= size:
            return f"{count / size:g}{unit}"
    return f"{count:g}"
