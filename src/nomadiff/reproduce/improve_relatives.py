"""Beyond the papers: every way to improve a model at one budget, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.guidance.perturbed_attention import perturbed_attention_guidance
from nomadiff.improve.confirmation import paired_gain
from nomadiff.improve.distillation import distil
from nomadiff.improve.improve import improve
from nomadiff.methods.autoguidance import Autoguidance
from nomadiff.methods.discriminator_guidance import DiscriminatorGuided
from nomadiff.methods.dm import DM
from nomadiff.methods.source_guidance import SourceGuided
from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.model import Model
from nomadiff.reports.page import Finding, Report
from nomadiff.reproduce.sims_settings import (
    DIGITS_SHORT,
    SMOKE,
    Subject,
    at_scale,
    improved,
    plan_line,
    run_seeds,
    scorer,
    scoring_seed,
    seeds_of,
)
from nomadiff.tables import Table
from nomadiff.training.fitting import Fitting
from nomadiff.workflows.improve import COST_METRICS
from nomadiff.workflows.judging import metric_infos

__all__ = ["DESCRIPTION", "run"]

DESCRIPTION = "Beyond the papers: SIMS, Neon, source guidance, discriminator, autoguidance, distillation at one budget"

_DIGITS = (Subject("short", DIGITS_SHORT, 1000, steps_budget=38_400),)

_SENTENCES = {
    "base": "The model as it was trained.",
    "longer": "The base trained on real images for as many more images as the others are fine-tuned: needs them.",
    "auxiliary": "The copy fine-tuned on own samples, drawn as it is: what SIMS moves away from.",
    "sims": "SIMS: extrapolation away from the copy.",
    "sims-decoder": "SIMS with a copy that differs in the end of the decoder only.",
    "neon": "The parameters of base and copy, extrapolated.",
    "sims-other": "SIMS with a copy fine-tuned on another model's samples (digits:close).",
    "neon-other": "Neon with that copy.",
    "source-guidance": "One network fine-tuned on real and own images with source labels, guided away from own.",
    "discriminator-guidance": "The base and the gradient of a discriminator between real images and own samples.",
    "autoguidance": "The base and a network of half its width, trained on a quarter of its images.",
    "perturbed-attention": "The base and itself without attention.",
    "distilled": "SIMS, distilled into one network with a tenth of the base's budget.",
    "sims-twice": "SIMS on the distilled SIMS: the same once more.",
}


def run(
    out: Path,
    *,
    scale: str = "small",
    seeds: Sequence[int] | None = None,
    processes: int | None = None,
    device: str | None = None,
    command: str = "",
    dry_run: bool = False,
) -> Table:
    """Improve one short-trained base in every way at equal budget; interrupted and called again, it goes on.

    All are taken at weight 1, which was fixed for SIMS; the others might do better at another.

    Args:
        out: folder for ``table.json``, ``table.csv`` and ``report.html``.
        scale: "smoke" or "small"; there is no published base to do this with at the paper's scale.
        seeds: one base for each; by default 10 to 13.
        processes: seeds side by side; None takes one a core.
        device: where to compute.
        command: printed in the report.
        dry_run: only say what it needs; the text is the table's meta ``plan``.

    Returns:
        One row a method and seed: ``method``, ``seed``, the metrics, ``nfe``, ``gflop``, ``mparams`` and
        ``seconds_per_image``.

    Raises:
        UsageError: no such scale.
    """
    subjects = at_scale(scale, _DIGITS, SMOKE, ())
    if not subjects:
        raise UsageError("improve-relatives has the scales smoke and small")
    seeds = seeds_of(scale, seeds)
    if dry_run:
        what = f"{len(_SENTENCES)} models from one base"
        lines = [plan_line(subject, what, seeds=len(seeds), plain=5, guided=9, copies=6) for subject in subjects]
        return Table(meta={"plan": "\n".join(lines)})
    table = run_seeds("improve-relatives", _models, subjects, seeds, out, processes=processes, device=device)
    table.meta["command"] = command
    table.write(out / "table.json")
    distance = distance_in(table.fields)
    Report(
        title="Ways for a model to improve itself",
        subtitle="Recipe improve-relatives: one short-trained base, equal budgets, weight 1, the same noise for all.",
        table=Table([{**row, "source": ""} for row in table.rows], table.meta),
        metrics=[*metric_infos(distance, {}), *COST_METRICS],
        arms=_SENTENCES,
        findings=_findings(table, distance),
        command=command,
        notes=("Weight 1 was fixed for SIMS; other methods might do better at another weight.",),
    ).write(out / "report.html")
    return table


def _findings(table: Table, distance: str) -> list[Finding]:
    base = {row["seed"]: row[distance] for row in table.rows if row["method"] == "base"}
    findings = []
    for method in _SENTENCES:
        rows = {row["seed"]: row for row in table.rows if row["method"] == method}
        if method == "base" or len(rows) < 2:
            continue
        gain = paired_gain([base[seed] for seed in rows], [row[distance] for row in rows.values()])
        nfe = next(iter(rows.values()))["nfe"]
        findings.append(
            Finding(
                f"{method} (NFE {nfe:g}): {distance} {-gain.mean:+.0%} against the base, mean of {len(rows)} seeds "
                f"(95 % interval {-gain.high:+.0%} to {-gain.low:+.0%}).",
                "good" if gain.low > 0 else "bad" if gain.high < 0 else "neutral",
            )
        )
    return findings


def _models(subject: Subject, folder: Path, seed: int, data: Path | None, device: str | None) -> list[dict[str, Any]]:
    base = subject.base(folder, seed, data, device)
    score = scorer(folder, subject, subject.judge(data, device), scoring_seed(seed))
    makers = _makers(subject, folder, seed, base, device)
    return [score(makers[method], method=method, seed=seed) for method in _SENTENCES]


def _makers(
    subject: Subject, folder: Path, seed: int, base: Model, device: str | None
) -> dict[str, Callable[[], Model]]:
    """How each model is made; each is made on first use."""
    settings = replace(subject.improvement, seed=seed)
    real = ImageSource.open("digits:pool", name="real", synthetic=False)
    mix = SourceMix(real)
    budget, own_count, rate = settings.budget, settings.synthetic_count, settings.learning_rate
    assert budget is not None and own_count is not None and rate is not None
    # budgets of methods are those of both trainings: every base sees as many images as the one that is improved
    options: dict[str, Any] = {"budget": subject.steps_budget + budget, "seed": seed}
    quarter = {**options, "budget": subject.steps_budget * 5 // 4}
    fitting = Fitting(budget=budget, seed=seed, learning_rate=rate)

    def own(**changes: Any) -> Any:
        name = "-".join(["improved", *map(str, changes.values())])
        return improved(subject, folder / name, seed, base=base, device=device, **changes).candidates

    def cross() -> Any:
        other = ImageSource.open("digits:close", name="other", synthetic=True).first(own_count)
        return improve(base, folder / "cross", settings, synthetic=other, device=device).candidates

    def within(method: Any, name: str) -> Model:
        return method.fit(mix, folder / name, device=device)

    def perturbed() -> Model:
        denoiser = perturbed_attention_guidance(base.network, 1.0)
        return Model(denoiser, base.config, base.path, device=base.device)

    def distilled() -> Model:
        teacher = own().make(own().budgets[-1], 1.0)
        short = replace(fitting, budget=max(subject.steps_budget // 10, fitting.batch))
        return distil(teacher, real, folder / "distilled", short)

    def twice() -> Model:
        again = improve(distilled(), folder / "again", settings, device=device)
        return again.candidates.make(again.candidates.budgets[-1], 1.0)

    def last(candidates: Any, space: str = "function") -> Model:
        return candidates.make(candidates.budgets[-1], 1.0, space)

    return {
        "base": lambda: base,
        "longer": lambda: DM("digits", budget=subject.steps_budget + budget, seed=seed).fit(
            mix, folder / "longer", device=device
        ),
        "auxiliary": lambda: own().auxiliary(own().budgets[-1]),
        "sims": lambda: last(own()),
        "sims-decoder": lambda: last(own(train_part="decoder")),
        "neon": lambda: last(own(), "parameters"),
        "sims-other": lambda: last(cross()),
        "neon-other": lambda: last(cross(), "parameters"),
        "source-guidance": lambda: within(SourceGuided("digits", improvement=settings, **options), "source-guidance"),
        "discriminator-guidance": lambda: within(
            DiscriminatorGuided("digits", discriminator=fitting, synthetic_count=own_count, **options),
            "discriminator-guidance",
        ),
        "autoguidance": lambda: within(Autoguidance("digits", **quarter), "autoguidance"),
        "perturbed-attention": perturbed,
        "distilled": distilled,
        "sims-twice": twice,
    }
