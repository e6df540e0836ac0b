"""The report: one self-contained HTML file, without network access or scripts, for phones and desktops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nomadiff.errors import UsageError
from nomadiff.files import write_text
from nomadiff.pictures import image_grid, png_data_uri
from nomadiff.reports.numbers import as_number, cell_text, column_decimals, fixed
from nomadiff.reports.palette import Colour, all_colours, method_colours
from nomadiff.reports.plots import Curve, composition_bars, metric_bars, training_curves
from nomadiff.reports.summary import MetricInfo, blocks_by_source, floor_cells, sources_of
from nomadiff.tables import Table

__all__ = ["Composition", "Figure", "Finding", "Gallery", "GridPanel", "Neighbours", "PageTable", "Report"]

_MOST_BARS = 16  # a bar plot of more arms is unreadable: the table and the caller's own figures show them


@dataclass
class Finding:
    """One sentence of the answer, and whether it is good news, bad news or neither."""

    text: str
    verdict: Literal["good", "bad", "neutral"] = "neutral"

    def __post_init__(self) -> None:
        if self.verdict not in ("good", "bad", "neutral"):
            raise UsageError(f'a finding is "good", "bad" or "neutral", got {self.verdict!r}')


@dataclass
class GridPanel:
    """One grid of images, taken in order and not chosen; the panels of one source stand side by side.

    A panel without a source (real images, a model that saw no synthetic one) is repeated beside each source.

    Attributes:
        title: what the images are, such as ``casd``.
        caption: one short line below.
        images: uint8 ``(N, C, H, W)``, the same noise at the same position in every generated panel.
        columns: images a row.
        source: name of the synthetic source the panel belongs to; empty for all.
        method: gives the panel its colour; empty for none.
    """

    title: str
    caption: str
    images: Tensor
    columns: int = 8
    source: str = ""
    method: str = ""


class Gallery(NamedTuple):
    """Pictures of one kind, each with a line below.

    Attributes:
        title: what they are.
        sentence: what to know about them; may be empty.
        pictures: images uint8 ``(k, C, H, W)`` that stand side by side, and the line below them.
    """

    title: str
    sentence: str
    pictures: Sequence[tuple[Tensor, str]]


class Neighbours(NamedTuple):
    """Samples and the training image nearest to each.

    Attributes:
        title: whose samples.
        samples: uint8 ``(N, C, H, W)``.
        nearest: uint8, the same shape: the nearest training image of each sample.
        distances: N distances between the two, in the units the sentence names.
        sentence: how often the samples replicate, beside what held-out real images do.
        method: gives the panel its colour; empty for none.
    """

    title: str
    samples: Tensor
    nearest: Tensor
    distances: Sequence[float]
    sentence: str = ""
    method: str = ""


@dataclass
class Composition:
    """Share of each class in one sample set.

    Attributes:
        method: which method drew the samples; ``real`` is the reference that the others are compared with.
        shares: class name to share, 0..1.
        source: name of the synthetic source; empty for none.
    """

    method: str
    shares: Mapping[str, float]
    source: str = ""


@dataclass
class Figure:
    """Any further figure: an ``<svg>`` made by :mod:`nomadiff.reports.plots`. Its markup is trusted, not escaped."""

    title: str
    svg: str
    caption: str = ""


@dataclass
class PageTable:
    """A further table: differences, a list, figures that are quoted.

    Attributes:
        title: heading of its section.
        columns: their headings.
        rows: one sequence a row, as many values as columns.
        caption: what it shows, above it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""


@dataclass
class Report:
    """The content of a report. A section whose data is absent is absent from the page.

    Attributes:
        title: what was asked.
        subtitle: on what, in one line.
        table: one row a run: ``method``, ``source``, ``seed``, ``images_seen`` and a field a metric; its ``meta`` says
            what the figures depend on and is printed.
        metrics: the metrics to show, in order; those that no row has are left out.
        grids: sample grids.
        galleries: single images or pairs, each with a line below.
        neighbours: samples beside their nearest training images (tuples in the order of :class:`Neighbours` will do).
        compositions: class composition of sample sets; the one of method ``real`` is the reference.
        curves: training logs.
        findings: the answer, at the top of the page.
        command: the exact command that made this.
        versions: package to version.
        notes: limitations, a sentence each.
        arms: what each method is, a sentence each; the legend of the page.
        by: fields that name an arm within a source.
        block: what a source is called where its rows begin in the table of means.
        figures: further figures.
        tables: further tables, each in a section of its own.
        runs_note: says what the rows are, where they are no runs of methods.
        provenance: one mapping a source: its name, role, count, origin.
        refresh: seconds after which a browser loads the page again, while what it shows goes on; 0 for never.
    """

    title: str
    subtitle: str = ""
    table: Table = field(default_factory=Table)
    metrics: Sequence[MetricInfo] = ()
    grids: Sequence[GridPanel] = ()
    galleries: Sequence[Gallery] = ()
    neighbours: Sequence[Neighbours] = ()
    compositions: Sequence[Composition] = ()
    curves: Sequence[Curve] = ()
    findings: Sequence[Finding] = ()
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    arms: Mapping[str, str] = field(default_factory=dict)
    by: Sequence[str] = ("method",)
    block: str = "synthetic source"
    figures: Sequence[Figure] = ()
    tables: Sequence[PageTable] = ()
    runs_note: str = ""
    provenance: Sequence[Mapping[str, Any]] = ()
    refresh: int = 0

    def write(self, path: str | Path) -> None:
        """Write the page to ``path`` in one atomic step.

        Raises:
            UsageError: a grid is not made of uint8 images, or samples and neighbours differ in number.
            NomadiffError: the file cannot be written.
        """
        write_text(path, self.html())

    def html(self) -> str:
        """The whole page as text."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("nomadiff.reports"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["cell"] = cell_text
        return environment.get_template("report.html.j2").render(self._content())

    def _content(self) -> dict[str, Any]:
        """The values of the template, section by section."""
        rows = self.table.rows
        metrics = [each for each in self.metrics if any(as_number(row.get(each.field)) is not None for row in rows)]
        colours = method_colours(self._methods())
        blocks = blocks_by_source(self.table, metrics, self.by)
        runs = list(dict.fromkeys(str(row.count) for block in blocks for row in block.rows))
        seen = list(dict.fromkeys(row.images_seen for block in blocks for row in block.rows))
        panels = [Neighbours(*panel) for panel in self.neighbours]
        decimals = column_decimals(float(distance) for panel in panels for distance in panel.distances)
        curve_sources = sources_of([{"source": curve.source} for curve in self.curves])
        meta = {name: value for name, value in self.table.meta.items() if name not in ("command", "versions")}
        meta = _one_level(meta)
        return {
            "report": self,
            "neighbours": [_neighbour_panel(panel, decimals) for panel in panels],
            "galleries": [_gallery(each) for each in self.galleries],
            "grids": self._grid_groups(),
            "same_noise": len({panel.method for panel in self.grids} - {"", "real"}) > 1,
            "metrics": metrics,
            "blocks": blocks,
            "runs": runs,
            "same_runs": len(runs) == 1,
            "seen": seen,
            "same_seen": len(seen) == 1,
            "floors": floor_cells(self.table, metrics),
            "bars": self._bars(metrics, colours),
            "compositions": self._composition_groups(colours),
            "has_reference": len({each.method == "real" for each in self.compositions}) == 2,
            "curves": [
                (source, training_curves([c for c in self.curves if c.source in ("", source)], colours=colours))
                for source in curve_sources
                if self.curves
            ],
            "curve_methods": list(dict.fromkeys(curve.method for curve in self.curves)),
            "meta": meta,
            "made": bool(self.command or self.provenance or meta or self.versions),
            "provenance_fields": list(dict.fromkeys(name for row in self.provenance for name in row)),
            "colour": {name: colour.variable for name, colour in colours.items()},
            "palette": all_colours(),
        }

    def _methods(self) -> list[str]:
        """Every method of the page in order of first appearance, so that its colour is the same in every section."""
        named = [
            *self.arms,
            *(str(row.get("method") or "") for row in self.table.rows),
            *(panel.method for panel in self.grids),
            *(Neighbours(*panel).method for panel in self.neighbours),
            *(composition.method for composition in self.compositions),
            *(curve.method for curve in self.curves),
        ]
        return list(dict.fromkeys(named))

    def _grid_groups(self) -> list[dict[str, Any]]:
        """Panels by source; those without one are repeated beside each source, so that every row can be compared."""
        groups = []
        for source in sources_of([{"source": panel.source} for panel in self.grids]):
            panels = [panel for panel in self.grids if panel.source in ("", source)]
            if panels:
                groups.append({"source": source, "panels": [_grid_panel(panel) for panel in panels]})
        return groups

    def _bars(self, metrics: Sequence[MetricInfo], colours: Mapping[str, Colour]) -> list[tuple[MetricInfo, str]]:
        """A bar plot a metric, where the arms are methods and few enough to be told apart."""
        rows = self.table.rows
        arms = {(row.get("source"), row.get("method")) for row in rows}
        if tuple(self.by) != ("method",) or not 2 <= len(arms) <= _MOST_BARS:
            return []
        return [
            (metric, metric_bars(rows, metric.field, label=metric.label, floor=metric.floor, colours=colours))
            for metric in metrics
        ]

    def _composition_groups(self, colours: Mapping[str, Colour]) -> list[dict[str, Any]]:
        """Composition figures by source, all with one axis."""
        real = next((each for each in self.compositions if each.method == "real"), None)
        others = [each for each in self.compositions if each is not real] or list(self.compositions)
        highest = max((share for each in self.compositions for share in each.shares.values()), default=1.0)
        groups = []
        for source in sources_of([{"source": each.source} for each in others]):
            figures = []
            for each in others:
                if each.source in ("", source):
                    svg = composition_bars(
                        each.shares,
                        real.shares if real is not None and each is not real else None,
                        colour=colours[each.method],
                        label=each.method,
                        highest=highest,
                    )
                    figures.append({"method": each.method, "svg": svg})
            if figures:
                groups.append({"source": source, "figures": figures})
        return groups


def _one_level(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings within a mapping as entries of their own: ``{"reference": {"count": 797}}`` is "reference count"."""
    level: dict[str, Any] = {}
    for name, value in facts.items():
        if isinstance(value, Mapping):
            level.update({f"{name} {inner}": each for inner, each in value.items()})
        else:
            level[name] = value
    return level


def _grid_panel(panel: GridPanel) -> dict[str, Any]:
    """One grid at its own size, and by which whole factors a desktop and a phone enlarge it."""
    picture = image_grid(panel.images, panel.columns, background=None)
    return {
        "title": panel.title,
        "caption": panel.caption,
        "method": panel.method,
        "count": len(panel.images),
        "uri": png_data_uri(picture),
        "width": picture.width,
        "height": picture.height,
        "desktop": max(1, 230 // picture.width),
        "phone": max(1, 150 // picture.width),
    }


def _gallery(gallery: Gallery) -> dict[str, Any]:
    """One picture an entry, enlarged by a whole factor, or made smaller."""
    shown = []
    for images, line in gallery.pictures:
        picture = image_grid(images, len(images), background=None)
        scale = max(1, 64 // images.shape[-1])
        shown.append({"uri": png_data_uri(picture), "width": min(scale * picture.width, 260), "line": line})
    return {"title": gallery.title, "sentence": gallery.sentence, "pictures": shown}


def _neighbour_panel(panel: Neighbours, decimals: int) -> dict[str, Any]:
    """One picture a pair (sample above, nearest training image below), enlarged by a whole factor."""
    if not len(panel.samples) == len(panel.nearest) == len(panel.distances):
        counts = f"{len(panel.samples)}, {len(panel.nearest)} and {len(panel.distances)}"
        raise UsageError(f"{panel.title}: samples, nearest images and distances must be as many, got {counts}")
    pairs = []
    for sample, nearest, distance in zip(panel.samples, panel.nearest, panel.distances):
        picture = image_grid(torch.stack([sample, nearest]), 1, background=None)
        scale = max(1, round(56 / picture.width))
        pairs.append(
            {
                "uri": png_data_uri(picture),
                "width": scale * picture.width,
                "height": scale * picture.height,
                "distance": fixed(float(distance), decimals),
            }
        )
    return {"title": panel.title, "method": panel.method, "sentence": panel.sentence, "pairs": pairs}
