"""The page that shows a training while it runs; written anew at every snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

from nomadiff.monitoring.grids import grid_path, read_grid
from nomadiff.monitoring.history import History
from nomadiff.monitoring.settings import Monitoring
from nomadiff.monitoring.words import findings
from nomadiff.progress import duration_text
from nomadiff.reports.page import Figure, Finding, GridPanel, Report
from nomadiff.reports.plots import Curve, training_curves
from nomadiff.training.config import RunConfig
from nomadiff.training.noise_bands import band_names
from nomadiff.training.run_folder import RunFolder, versions

__all__ = ["State", "live_report"]

State = Literal["running", "stopped", "finished"]

_GRIDS = 6  # as many snapshots are shown, evenly spread, the first and the last among them
_REFRESH = 30  # seconds after which a browser loads the page of a running training again


def live_report(
    folder: RunFolder,
    config: RunConfig,
    history: History,
    images_seen: int,
    state: State,
    stop: str,
    monitoring: Monitoring,
    shape: tuple[int, int, int],
) -> Report:
    """The report of a run so far.

    Args:
        folder: the run's folder: its log and grids are shown.
        config: the recipe.
        history: what was measured at the snapshots.
        images_seen: how far the training is.
        state: whether it goes on from here by itself.
        stop: why it stops here; empty where it does not, or where its budget is used up.
        monitoring: its settings.
        shape: of one sample, ``(C, H, W)``.
    """
    log = folder.read_log()
    end = config.training.steps * config.training.batch
    answers = [Finding(f"{stop[0].upper()}{stop[1:]}.")] if stop else []
    best = history.best(monitoring.best_by)
    if best is not None and len(history.rows) > 1:
        answers.append(Finding(f"Best snapshot by {monitoring.best_by}: {best:,} images (best.safetensors)."))
    return Report(
        title=f"Training {config.method}",
        subtitle=_state(log, images_seen, end, state),
        findings=[*findings(history), *answers],
        figures=list(_figures(log, history, config)),
        grids=list(_grids(folder, monitoring.grid, shape)),
        versions=versions(),
        provenance=[
            {key: value for key, value in source.items() if isinstance(value, str | int | float)}
            for source in folder.read_sources()
        ],
        refresh=_REFRESH if state == "running" else 0,
    )


def _state(log: Sequence[Mapping[str, Any]], images_seen: int, end: int, state: State) -> str:
    told = f"{images_seen:,} of {end:,} images ({images_seen / end:.0%})"
    speed = log[-1].get("images_per_second") if log else None
    if isinstance(speed, int | float) and speed > 0:
        told += f", {speed:,.4g} images/s"
        told += "" if state == "finished" else f", about {duration_text((end - images_seen) / speed)} left"
    # a run that is killed leaves the page as it was: the time shows that it is old
    return f"{told}; {state}, as of {time.strftime('%Y-%m-%d %H:%M:%S')}"


def _figures(log: Sequence[Mapping[str, Any]], history: History, config: RunConfig) -> Iterator[Figure]:
    names = config.source_names
    by_source = {name: f"loss_{name}" for name in names} if len(names) > 1 else {"loss": "loss"}
    title = "Training loss by source" if len(names) > 1 else "Training loss"
    yield _lines(title, log, by_source, "Means between two lines of the log.")
    bands = band_names(config.training.p_mean, config.training.p_std)
    for name in names:
        rows = [
            {"images_seen": row["images_seen"], **dict(zip(bands, row["loss_by_noise"].get(name) or ()))}
            for row in log
            if isinstance(row.get("loss_by_noise"), Mapping)
        ]
        if rows:
            of = f", {name}" if len(names) > 1 else ""
            note = "Each band of noise levels holds a quarter of the images seen."
            yield _lines(f"Training loss by noise{of}", rows, {band: band for band in bands}, note)
    if history.rows:
        fields = {"held out": "held_out_loss"}
        fields |= {f"training images ({name})": f"training_loss_{name}" for name in names}
        note = "At fixed noise, by the averaged weights. A gap that opens is an early sign of copying."
        yield _lines("Held-out loss", history.rows, fields, note)
    measured = history.measured("score")
    if measured:
        rows = [{"images_seen": images_seen, "score": value} for images_seen, value in measured]
        title, note = "Distance to the validation images", "Few samples: a trend, no result."
        yield _lines(title, rows, {"distance": "score"}, note)


def _lines(title: str, rows: Sequence[Mapping[str, Any]], fields: Mapping[str, str], caption: str) -> Figure:
    curves = [
        Curve(label, [{"images_seen": row["images_seen"], "loss": row.get(field)} for row in rows])
        for label, field in fields.items()
    ]
    return Figure(title, training_curves(curves, label=title, legend=len(curves) > 1), caption)


def _grids(folder: RunFolder, count: int, shape: tuple[int, int, int]) -> Iterator[GridPanel]:
    if not count:
        return
    drawn = [images for images in folder.snapshots() if grid_path(folder.path, images).exists()]
    most = min(_GRIDS, len(drawn))
    for place in dict.fromkeys(round(index * (len(drawn) - 1) / max(most - 1, 1)) for index in range(most)):
        images_seen = drawn[place]
        with suppress(OSError, ValueError):  # damaged, or drawn with another --grid
            images = read_grid(grid_path(folder.path, images_seen), count, shape)
            yield GridPanel(f"{images_seen:,} images", "", images)
