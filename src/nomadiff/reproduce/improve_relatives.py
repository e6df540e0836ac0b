"""Beyond the papers: every way to improve a model at one budget, side by side.

All are taken at weight 1, which was fixed for SIMS; the others might do better at another. There is no published base
to do this with at the paper's scale.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.guidance.perturbed_attention import perturbed_attention_guidance
from nomadiff.improve.candidates import Candidates
from nomadiff.improve.confirmation import paired_gain
from nomadiff.improve.distillation import distil
from nomadiff.improve.improve import improve
from nomadiff.methods.autoguidance import Autoguidance
from nomadiff.methods.discriminator_guidance import DiscriminatorGuided
from nomadiff.methods.dm import DM
from nomadiff.methods.method import Method
from nomadiff.methods.source_guidance import SourceGuided
from nomadiff.metrics.distance_names import distance_in
from nomadiff.models.model import Model
from nomadiff.reports.page import Finding, Report
from nomadiff.reproduce.data_files import STABLE_DIFFUSION
from nomadiff.reproduce.sims_settings import PHOTOS, SHORT, SMOKE, Subject
from nomadiff.reproduce.trials import Cost, Trial, trial_recipe, verdict_of
from nomadiff.tables import Table
from nomadiff.training.fitting import Fitting
from nomadiff.training.presets import preset_named
from nomadiff.workflows.improve import COST_METRICS
from nomadiff.workflows.metric_infos import metric_infos

__all__ = ["RECIPE"]


_SUBJECTS = {
    "smoke": (SMOKE,),
    "small": (SHORT,),
    "medium": (replace(PHOTOS, other=STABLE_DIFFUSION.name, files=(*PHOTOS.files, STABLE_DIFFUSION)),),
}
_SENTENCES = {
    "base": "The model as it was trained.",
    "longer": "The base trained on real images for as many more images as the others are fine-tuned: needs them.",
    "auxiliary": "The copy fine-tuned on own samples, drawn as it is: what SIMS moves away from.",
    "sims": "SIMS: extrapolation away from the copy.",
    "sims-decoder": "SIMS with a copy that differs in the end of the decoder only.",
    "neon": "The parameters of base and copy, extrapolated.",
    "sims-other": "SIMS with a copy fine-tuned on another model's samples ({other}).",
    "neon-other": "Neon with that copy.",
    "source-guidance": "One network fine-tuned on real and own images with source labels, guided away from own.",
    "discriminator-guidance": "The base and the gradient of a discriminator between real images and own samples.",
    "autoguidance": "The base and a network of half its width, trained on a quarter of its images.",
    "perturbed-attention": "The base and itself without attention.",
    "distilled": "SIMS, distilled into one network with a tenth of the base's budget.",
    "sims-twice": "SIMS on the distilled SIMS: the same once more.",
}


def _models(trial: Trial) -> list[dict[str, Any]]:
    """A row a method: ``method``, ``seed``, the metrics and the cost of a sample."""
    score, makers = trial.scorer(), _makers(trial)
    return [score(makers[method], method=method, seed=trial.seed) for method in _methods(trial.subject)]


def _methods(subject: Subject) -> list[str]:
    """What can be done with a base: attention can be perturbed only where there is some."""
    attention = preset_named(subject.preset).network.attention
    return [method for method in _SENTENCES if attention or method != "perturbed-attention"]


def _makers(trial: Trial) -> dict[str, Callable[[], Model]]:
    """How each model is made; each is made on first use."""
    subject, seed, folder, base = trial.subject, trial.seed, trial.folder, trial.base
    settings = replace(subject.improvement, seed=seed)
    real = trial.real()
    mix = SourceMix(real)
    budget, own_count, rate = settings.budget, settings.synthetic_count, settings.learning_rate
    assert budget is not None and own_count is not None and rate is not None
    # budgets of methods are those of both trainings: every base sees as many images as the one that is improved
    options: dict[str, Any] = {"budget": subject.base_budget + budget, "seed": seed}
    quarter = {**options, "budget": subject.base_budget * 5 // 4}
    fitting = Fitting(budget=budget, seed=seed, learning_rate=rate)

    def own(**changes: Any) -> Candidates:
        return trial.improved("-".join(["improved", *map(str, changes.values())]), **changes).candidates

    def cross() -> Candidates:
        other = ImageSource.open(trial.path(subject.other), name="other", synthetic=True).first(own_count)
        return improve(base, folder / "cross", settings, synthetic=other, device=trial.device).candidates

    def fitted(method: Method, name: str) -> Model:
        return method.fit(mix, folder / name, device=trial.device)

    def perturbed() -> Model:
        denoiser = perturbed_attention_guidance(base.network, 1.0)
        return Model(denoiser, base.config, base.path, device=base.device)

    def distilled() -> Model:
        short = replace(fitting, budget=max(subject.base_budget // 10, fitting.batch))
        return distil(last(own()), real, folder / "distilled", short)

    def twice() -> Model:
        return last(improve(distilled(), folder / "again", settings, device=trial.device).candidates)

    def last(candidates: Candidates, space: str = "function") -> Model:
        return candidates.make(candidates.budgets[-1], 1.0, space)

    discriminator = DiscriminatorGuided(subject.preset, discriminator=fitting, synthetic_count=own_count, **options)
    return {
        "base": lambda: base,
        "longer": lambda: fitted(DM(subject.preset, **options), "longer"),
        "auxiliary": lambda: own().auxiliary(own().budgets[-1]),
        "sims": lambda: last(own()),
        "sims-decoder": lambda: last(own(train_part="decoder")),
        "neon": lambda: last(own(), "parameters"),
        "sims-other": lambda: last(cross()),
        "neon-other": lambda: last(cross(), "parameters"),
        "source-guidance": lambda: fitted(
            SourceGuided(subject.preset, improvement=settings, **options), "source-guidance"
        ),
        "discriminator-guidance": lambda: fitted(discriminator, "discriminator-guidance"),
        "autoguidance": lambda: fitted(Autoguidance(subject.preset, **quarter), "autoguidance"),
        "perturbed-attention": perturbed,
        "distilled": distilled,
        "sims-twice": twice,
    }


def _cost(subject: Subject) -> Cost:
    # beside the base: base trained for longer, of source guidance, of the discriminator, of autoguidance
    return Cost(f"{len(_methods(subject))} models from one base", plain=5, guided=9, copies=6, bases=5)


def _report(table: Table, verdicts: Table, trials: Sequence[Trial]) -> Report:
    distance, subject = distance_in(table.fields), trials[0].subject
    return Report(
        title="Ways for a model to improve itself",
        subtitle="Recipe improve-relatives: one short-trained base, equal budgets, weight 1, the same noise for all.",
        table=Table([{**row, "source": ""} for row in table.rows], table.meta),
        metrics=[*metric_infos(distance, {}), *COST_METRICS],
        arms={
            method: sentence.format(other=subject.other)
            for method, sentence in _SENTENCES.items()
            if method in _methods(subject)
        },
        findings=_findings(table, distance),
        notes=("Weight 1 was fixed for SIMS; other methods might do better at another weight.",),
    )


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
                verdict_of(gain),
            )
        )
    return findings


RECIPE = trial_recipe(
    "improve-relatives",
    "Beyond the papers: SIMS, Neon, source guidance, discriminator, autoguidance, distillation at one budget",
    _SUBJECTS,
    _models,
    _cost,
    _report,
)
