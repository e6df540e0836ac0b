"""What to do after a verb, as the words of a command that can be copied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nomadiff.cli.answer import given_words
from nomadiff.cli.config_file import repeating_verb
from nomadiff.files import COMMAND_NAME

if TYPE_CHECKING:
    from nomadiff.improve.improve import Improved
    from nomadiff.metrics.audit import Audit
    from nomadiff.metrics.recommendation import Step
    from nomadiff.shift.shift import Shifted
    from nomadiff.workflows.comparison import Comparison
    from nomadiff.workflows.evaluate import Evaluation

__all__ = [
    "after_audit",
    "after_comparison",
    "after_evaluation",
    "after_export",
    "after_improvement",
    "after_loops",
    "after_reproduction",
    "after_shift",
    "after_verdict",
    "sampling",
]

Words = list[str | Path]


def sampling(model: str | Path, out: str = "samples.zip") -> Words:
    """Draw from a model."""
    return ["sample", model, "--count", "1000", "--out", out]


def _again(verb: str, out: Path, *changes: object, to: Path | None = None) -> Words:
    """The run that is in ``out`` with some options changed, there or elsewhere: by the verb that began it."""
    began = repeating_verb(out, given_words()) or [verb]
    return [*began, "--config", out / COMMAND_NAME, "--out", to or out, *map(str, changes)]


def after_comparison(comparison: Comparison, step: Step) -> Words:
    """Go on with what the verdict on a comparison recommends."""
    out, seeds = comparison.out, list(comparison.seeds)
    arms = comparison.arms()
    if step.kind == "seeds":
        more = [*seeds, *(seed for seed in range(step.seeds + max(seeds) + 1) if seed not in seeds)][: step.seeds]
        return _again("compare", out, "--seeds", *more)
    if step.kind == "longer":
        return _again("compare", out, "--budget", 4 * arms[-1].images_to_see, to=out.with_name(f"{out.name}-longer"))
    found = [arm.out for arm in arms if (arm.method, arm.source) == step.arm]
    return sampling(found[0]) if found else []


def after_verdict(study: Path, step: Step) -> Words:
    """The same for a comparison that is on disk; nothing where that cannot be told."""
    from nomadiff.errors import NomadiffError
    from nomadiff.job_folder import JobFolder
    from nomadiff.workflows.comparison import Comparison

    try:
        settings = JobFolder(study).settings()
        if settings.pop("study", "") != "compare":  # a recipe's
            return []
        settings.pop("folder", None)
        return after_comparison(Comparison.from_dict(settings, study), step)
    except NomadiffError:  # a table without its folder
        return []


def after_evaluation(evaluation: Evaluation, out: Path) -> Words:
    """Look for copies; where they are, find out whether synthetic images help; else set runs beside one another."""
    if evaluation.train is None:
        words: Words = [*given_words()]
        if not any(str(word).partition("=")[0] == "--out" for word in words):
            words += ["--out", out]  # the default is not replaced by another command
        return [*words, "--train", "TRAINING_IMAGES"]
    from nomadiff.workflows.evaluation_verdict import copying_sets

    if copying_sets(evaluation):
        settings = evaluation.table.meta
        given = ["--real", settings["train"], "--reference", settings["reference"]]
        return ["compare", *given, "--synthetic", "SYNTHETIC_IMAGES", "--out", "study"]
    return ["table", out, "OTHER_METRICS"]


def after_export(out: Path | None, hub: str | None, form: str) -> Words:
    """Draw from what was written, as anybody could; a plain pipeline of diffusers is imported before."""
    if form == "diffusers":
        if out is None:  # on the hub alone; which pipeline it became is not known here
            return []
        return sampling(out / "model") if (out / "model").is_dir() else ["import", out, "--out", "MODEL"]
    return sampling(f"hf:{hub}" if out is None else out)


def after_reproduction(name: str, scale: str, out: Path) -> Words:
    """See what the next larger scale costs; after the largest, the scores."""
    from nomadiff.reproduce.recipe import recipe_named
    from nomadiff.workflows.score_table import TABLES

    scales = recipe_named(name).scales
    if larger := scales[scales.index(scale) + 1 :]:
        return ["reproduce", name, "--scale", larger[0], "--dry-run"]
    return ["table", out] if any((out / table).is_file() for table in TABLES) else []


def after_improvement(done: Improved, model: Path, out: Path, *, asked: bool) -> Words:
    """Draw from the model that is to be used; train a base longer that is none yet.

    Args:
        done: the improvement.
        model: the base.
        out: its folder.
        asked: whether the weight was given, and is used whatever it gains.
    """
    from nomadiff.models.foreign import is_importable
    from nomadiff.training.run_folder import RunFolder

    if done.untrained and (model / COMMAND_NAME).is_file():
        training = RunFolder(model).config().training
        return _again("train", model, "--budget", 4 * training.steps * training.batch)
    if not asked or done.gain is None or done.gain.is_sure:
        return sampling(out)
    return sampling(done.candidates.base.path if is_importable(model) else model)  # of another program: as imported


def after_shift(done: Shifted, out: Path) -> Words:
    """Draw from the shifted model, or try stronger weights: a little, where more than the best one was too much."""
    if done.is_reached:
        return sampling(out)
    weights = sorted({row["weight"] for row in done.table.rows if row["noise"] == "sweep" and row["weight"] > 0})
    best = done.weight
    stronger = [2 * weight for weight in weights] if best == weights[-1] else [1.1 * best, 1.2 * best]
    return _again("shift", out, "--weight", *(f"{weight:g}" for weight in stronger))


def after_loops(out: Path, seeds: Sequence[int], generations: int, verdicts: Sequence[Mapping[str, Any]]) -> Words:
    """Longer training of what are no models yet, more runs or generations where the loops do not tell; SIMS where the
    tried algorithms go MAD."""
    from nomadiff.loops.madness import RUNS

    if any(row.get("untrained") for row in verdicts):
        from nomadiff.training.run_folder import RunFolder

        found = [
            RunFolder(path.parent).config().training for path in out.glob("loops/*/generation-0001/**/config.json")
        ]
        most = max((each.steps * each.batch for each in found), default=0)
        return _again("loop", out, "--budget", 4 * most, to=out.with_name(f"{out.name}-longer")) if most else []
    if len(seeds) < RUNS:
        more = [*seeds, *(seed for seed in range(RUNS + max(seeds) + 1) if seed not in seeds)][:RUNS]
        return _again("loop", out, "--seeds", *more)
    if not all(row["certain"] for row in verdicts):
        return _again("loop", out, "--generations", 2 * generations)
    algorithms = [row["method"] for row in verdicts]
    if "prevented" not in [row["verdict"] for row in verdicts] and "sims" not in algorithms:
        return _again("loop", out, "--algorithm", *algorithms, "sims")
    return ["table", out]


def after_audit(found: Audit, images: str, against: Sequence[str], trusted: str | None, out: Path | None) -> Words:
    """Say what is missing for an answer; then find out whether the folder should be trained on as it is."""
    if trusted is None:
        return [*given_words(), "--trusted", "REAL_IMAGES"]
    polluted = found.within.count or any(
        item.copies.count or (item.share and item.share.low) for item in found.suspicions
    )
    if polluted and out is None:
        return [*given_words(), "--out", "audit.json"]  # which files those are
    if polluted:  # then it is one more source of synthetic images
        return ["compare", "--real", trusted, "--synthetic", images, "--reference", "HELD_OUT", "--out", "study"]
    synthetic = [word for each in against for word in ("--synthetic", each)]
    return ["compare", "--real", images, *synthetic, "--reference", "HELD_OUT", "--out", "study"]
