"""Results of ``sims-figure-6`` from its rows: ratios to the first generation, threshold, text and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nomadiff.loops.madness import LEVEL, bootstrap_ratio
from nomadiff.reports.figures import quiet_panel
from nomadiff.reports.markdown import interval, markdown_table, significant
from nomadiff.reports.page import Figure, Finding, Report
from nomadiff.reports.palette import MUTED
from nomadiff.reports.plots import metric_lines
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions
from nomadiff.workflows.metric_infos import metric_infos

__all__ = [
    "SCENARIOS",
    "pollution_figure",
    "pollution_report",
    "pollution_summary",
    "pollution_text",
    "threshold",
]

SCENARIOS = ("G1_ST-I", "G1_SIMS-I", "G2_ST-P", "G2_SIMS-P")
"""SIMS section 4.2.2, in its words; the first two do not depend on the pollution."""

_RATIOS = {
    "st_ratio": ("G2_ST-P", "G1_ST-I"),
    "sims_ratio": ("G2_SIMS-P", "G1_SIMS-I"),
    "sims_to_st": ("G2_SIMS-P", "G1_ST-I"),
}
_SENTENCES = {
    "G1_ST-I": "First generation: standard training on real images.",
    "G1_SIMS-I": "SIMS with that as its base.",
    "G2_ST-P": "Second generation: standard training on real images and samples of the first, taken for real.",
    "G2_SIMS-P": "SIMS with the polluted second generation as its base.",
}


def pollution_summary(rows: Sequence[Mapping[str, Any]], distance: str) -> list[dict[str, Any]]:
    """One row an amount of pollution, ascending.

    Args:
        rows: one a model: ``scenario``, ``seed``, ``pollution`` (second generation only) and the distance.
        distance: name of the distance.

    Returns:
        ``pollution``, ``runs``, the mean distance of each scenario, and ``st_ratio`` (G2_ST-P to G1_ST-I),
        ``sims_ratio`` (G2_SIMS-P to G1_SIMS-I) and ``sims_to_st`` (G2_SIMS-P to G1_ST-I), each with ``_low`` and
        ``_high``, the ends of its bootstrap interval over seeds (None for a single seed).
    """
    summary = []
    for amount in _amounts(rows):
        by_scenario = {scenario: _by_seed(rows, distance, scenario, amount) for scenario in SCENARIOS}
        line: dict[str, Any] = {"pollution": amount, "runs": len(by_scenario[SCENARIOS[0]])}
        line |= {scenario: float(values.mean()) for scenario, values in by_scenario.items()}
        for name, (later, first) in _RATIOS.items():
            ratio, low, high = bootstrap_ratio(by_scenario[later], by_scenario[first])
            single = line["runs"] == 1  # one run has no spread to take an interval from
            line |= {name: ratio, f"{name}_low": None if single else low, f"{name}_high": None if single else high}
        summary.append(line)
    return summary


def threshold(summary: Sequence[Mapping[str, Any]], field: str) -> tuple[int, int | None]:
    """The largest amount up to which a ratio never exceeds 1 (0 if it does at once), and the first where it does.

    Args:
        summary: rows with ``pollution``, ascending, and the ratio.
        field: the ratio, such as ``sims_ratio``, or an end of its interval.
    """
    tolerated = 0
    for row in summary:
        if row[field] is None or row[field] > 1:
            return tolerated, row["pollution"]
        tolerated = row["pollution"]
    return tolerated, None


def pollution_text(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], distance: str) -> str:
    """What was and was not reproduced, in sentences made from the rows.

    Args:
        about: ``data`` (None for digits) and ``scale``, the settings of the run.
        rows: as for :func:`pollution_summary`.
        distance: name of the distance.
    """
    summary, scale = pollution_summary(rows, distance), about["scale"]
    runs, real_count, last = summary[0]["runs"], scale["real_count"], summary[-1]
    weights = ", ".join(f"{weight:g}" for weight in scale["weights"])
    gain = last["G1_SIMS-I"] / last["G1_ST-I"] - 1
    chosen = ", ".join(f"{weight:g}" for weight in sorted({row["weight"] for row in rows if row["weight"]}))
    parts = [
        "# SIMS Figure 6",
        f"{about['data'] or 'Digits'}: {real_count} real images, {runs} seed(s), {scale['budget']:,} images of "
        f"training ({scale['preset']}); {distance} between {scale['count']} samples and held-out images. SIMS takes "
        f"the best of weights {weights} and {scale['improvement']['snapshots']} budget(s), chosen on other noise than "
        f"is shown. Brackets: {LEVEL:.0%} bootstrap over seeds"
        + ("; with so few they are narrower than the truth." if runs < 8 else "."),
        *(["**One or two seeds show that the recipe runs, nothing else.**"] if runs < 3 else []),
        f"**Self-improvement.** SIMS changes the distance of the first generation from {significant(last['G1_ST-I'])} "
        f"to {significant(last['G1_SIMS-I'])} ({gain:+.0%}).",
        f"**Standard training.** {_standard(last)}",
        f"**Prophylactic threshold.** {_prophylactic(summary, rows, distance, real_count)}",
        _table(summary, real_count),
        f"Weights chosen: {chosen}. Every base sees the same number of images, so a polluted one sees each real image "
        "less often, as in the paper.",
    ]
    return "\n\n".join(parts) + "\n"


def pollution_figure(rows: Sequence[Mapping[str, Any]], distance: str) -> Any:
    """The paper's panel (matplotlib): four curves against the pollution, bars of one standard error over seeds."""
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    quiet_panel(axes)
    styles = (("#2e8b57", "--"), ("#7b3f9d", "--"), ("#2e8b57", "-o"), ("#7b3f9d", "-o"))
    for scenario, (colour, style) in zip(SCENARIOS, styles):
        values = {amount: _by_seed(rows, distance, scenario, amount) for amount in _amounts(rows)}
        errors = [each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else 0.0 for each in values.values()]
        if scenario in SCENARIOS[:2]:
            errors = [0.0] * len(errors)  # one number, not one for each amount; the table has its spread
        means = [each.mean() for each in values.values()]
        axes.errorbar(list(values), means, errors, fmt=style, color=colour, markersize=4, linewidth=1.4, label=scenario)
    axes.set(xlabel="polluting images |D_p|", ylabel=distance)
    figure.legend(loc="outside upper center", ncols=4, frameon=False, labelcolor=MUTED.light, fontsize=9)
    return figure


def pollution_report(table: Table, text: str, distance: str, command: str) -> Report:
    """The page: the sentences of ``text``, the curves, the table of means."""
    ideal = [row for row in table.rows if "pollution" not in row]
    curves = [{**row, "pollution": amount} for row in ideal for amount in _amounts(table.rows)]
    curves += [row for row in table.rows if "pollution" in row]
    svg = metric_lines(curves, "pollution", distance, by="scenario", label=distance, x_label="polluting images")
    shown = [{"method": row["scenario"], "source": "", **row} for row in table.rows]
    return Report(
        title="How much pollution does a second generation tolerate?",
        subtitle="Recipe sims-figure-6: standard training and SIMS, on real images (I) and on polluted ones (P)",
        table=Table(shown, table.meta),
        metrics=metric_infos(distance, {}),
        by=("method", "pollution"),
        findings=[Finding(line.replace("**", "")) for line in text.splitlines() if line.startswith("**")],
        figures=[Figure(f"{distance} against pollution", svg, "Mean over seeds, band of one standard deviation.")],
        arms=_SENTENCES,
        command=command,
        versions=versions(),
    )


def _amounts(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted({row["pollution"] for row in rows if "pollution" in row})


def _by_seed(rows: Sequence[Mapping[str, Any]], distance: str, scenario: str, amount: int) -> np.ndarray:
    """Distances of a scenario, seeds ascending; one without pollution is the same at every amount."""
    found = {
        row["seed"]: row[distance]
        for row in rows
        if row["scenario"] == scenario and row.get("pollution", amount) == amount
    }
    return np.array([found[seed] for seed in sorted(found)])


def _standard(last: Mapping[str, Any]) -> str:
    low, high = last["st_ratio_low"], last["st_ratio_high"]
    ratio = significant(last["st_ratio"]) + ("" if low is None else f" {interval(low, high)}")
    told = f"With {last['pollution']} polluting images its distance is {ratio} times the first generation's"
    if low is None:
        return f"{told}."
    if low > 1:
        return f"{told}: it deteriorates, as in the paper" + (", if two seeds can tell." if last["runs"] < 3 else ".")
    return f"{told}: " + ("it does not deteriorate here." if high < 1 else "whether it deteriorates cannot be told.")


def _prophylactic(
    summary: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], distance: str, real_count: int
) -> str:
    """The threshold on the mean, of every seed alone, and what is certain of it."""
    ratios = np.array(
        [
            _by_seed(rows, distance, "G2_SIMS-P", row["pollution"])
            / _by_seed(rows, distance, "G1_SIMS-I", row["pollution"])
            for row in summary
        ]
    )
    of_seeds = [
        threshold([{"pollution": row["pollution"], "ratio": ratio} for row, ratio in zip(summary, column)], "ratio")[0]
        for column in ratios.T
    ]
    text = (
        "Compared with its own first generation (G1_SIMS-I), the largest pollution at which SIMS does not fall behind "
        f"is {_said(*threshold(summary, 'sims_ratio'), real_count)}. Each seed by itself: "
        f"{', '.join(map(str, of_seeds))}. "
    )
    if summary[0]["runs"] > 1:
        sure = threshold(summary, "sims_ratio_high")[0]
        too_much = next((row["pollution"] for row in summary if row["sims_ratio_low"] > 1), None)
        text += (
            f"The intervals are certain that {sure} is tolerated" if sure else "The intervals are certain of no amount"
        )
        text += "; no amount is certainly too much. " if too_much is None else f"; {too_much} is certainly too much. "
    return text + (
        "Compared with the model without SIMS (G1_ST-I) it is "
        f"{_said(*threshold(summary, 'sims_to_st'), real_count)}. The paper reports 60 % of the real images for "
        "CIFAR-10, 20 % for FFHQ-64 and 25 % for its 2-D Gaussian."
    )


def _said(tolerated: int, failed: int | None, real_count: int) -> str:
    """A threshold in words, in images and as a share of the real ones."""
    share = f"{tolerated} images ({tolerated / real_count:.0%} of the real ones)"
    if failed is None:
        return f"at least {share}, the most that was tried"
    if tolerated == 0:
        return f"below {failed} images ({failed / real_count:.0%} of the real ones), the least that was tried"
    return f"{share}, and {failed} is too much"


def _table(summary: Sequence[Mapping[str, Any]], real_count: int) -> str:
    columns = ["|D_p|", "share", *SCENARIOS, "ST-P / ST-I", "SIMS-P / SIMS-I", "SIMS-P / ST-I"]
    lines = []
    for row in summary:
        ratios = [
            significant(row[name])
            + ("" if row["runs"] == 1 else f" {interval(row[f'{name}_low'], row[f'{name}_high'])}")
            for name in _RATIOS
        ]
        share = f"{row['pollution'] / real_count:.0%}"
        lines.append([row["pollution"], share, *(row[scenario] for scenario in SCENARIOS), *ratios])
    return markdown_table([column.replace("|", "\\|") for column in columns], lines)
