"""The card of an exported model: method, training data, metrics, use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from nomadiff.data.labels import listed
from nomadiff.errors import UsageError
from nomadiff.files import printable
from nomadiff.models.guided_model import KINDS
from nomadiff.models.model import Model
from nomadiff.models.provenance import origins
from nomadiff.tables import Table
from nomadiff.training.run_folder import versions

__all__ = ["licences", "model_card", "scores_of"]


def licences(model: Model) -> list[str]:
    """Terms of an imported model, which hold for every model made from it."""
    found = {source.get("imported", {}).get("licence") for source in origins(model)}
    return sorted(text for text in found if text)


def model_card(model: Model, *, title: str, usage: str, metrics: Sequence[Table] = ()) -> str:
    """Markdown with the front matter of the Hugging Face hub.

    Args:
        model: the model.
        title: its name.
        usage: Python lines that draw from it.
        metrics: tables of :func:`nomadiff.workflows.evaluate.evaluate_files`, with what they are comparable by.
    """
    terms = licences(model)
    non_commercial = any("CC BY-NC-SA 4.0" in text for text in terms)
    front = ["---", "library_name: nomadiff", "pipeline_tag: unconditional-image-generation"]
    if non_commercial:
        front.append("license: cc-by-nc-sa-4.0")
    elif terms:
        front.append("license: other")
    front += ["tags:", "- diffusion", "- nomadiff", f"- {model.config.method}", "---", ""]
    parts = [
        "\n".join(front),
        f"# {title}\n",
        _what(model),
        "## Trained on\n",
        _sources(model),
        "## Quality\n",
        _quality(metrics),
        "## Use\n",
        f"```python\n{usage}\n```\n",
    ]
    if terms:
        parts += ["## Licence\n", "\n\n".join(terms) + "\n"]
    made = ", ".join(f"{name} {version}" for name, version in versions().items() if name != "platform")
    parts.append(f"SHA-256 of the weights: `{model.sha256}`. Written by {made}.\n")
    return "\n".join(parts)


def _what(model: Model) -> str:
    config, network = model.config, model.config.network
    shape = " x ".join(map(str, model.image_shape))
    if config.latents is not None:
        shape += f", decoded from {' x '.join(map(str, model.shape))} latents by {config.latents.vae}"
    labels = f"source labels: {', '.join(config.source_names)}" if config.sources else "no source labels"
    if config.classes:
        labels += f"; {config.classes} classes" + (f": {listed(config.class_names)}" if config.class_names else "")
    rows = [("method", config.method)]
    if model.guidance is not None:
        guidance = model.guidance
        rows.append(("guidance", f"{KINDS[guidance.kind]}, weight {guidance.weight:g}"))
        if guidance.interval is not None:
            rows.append(("acts at", f"sigma {guidance.interval[0]:g} to {guidance.interval[1]:g}"))
    rows += [
        ("images", shape),
        ("network", f"{network.architecture}, {_parameters(model) / 1e6:,.2f} M parameters"),
        ("labels", labels),
        ("sampler", f"{config.sampler.solver}, {config.sampler.steps} steps, {model.nfe():g} network evaluations"),
    ]
    if _knows_its_training(model):
        rows.append(("training", f"{config.training.budget:,} images seen"))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""])


def _knows_its_training(model: Model) -> bool:
    """Whether the recipe's budget is a fact: an imported model whose file does not say it has an assumed one."""
    imported = [source["imported"] for source in origins(model) if "imported" in source]
    return bool(origins(model)) and all("budget" in facts.get("training", []) for facts in imported)


def _parameters(model: Model) -> int:
    """Parameters of a model, all its networks together."""
    if model.guidance is None or model.guidance.kind == "merge":
        return sum(parameter.numel() for parameter in model.network.parameters())
    total = 0
    for part in model.parts:
        if isinstance(part, Model):
            total += _parameters(part)
        elif isinstance(part, nn.Module):
            total += sum(parameter.numel() for parameter in part.parameters())
    return total


def _sources(model: Model) -> str:
    found = origins(model)
    if not found:
        return "Not recorded with these weights; the terms of the model they were made from still hold.\n"
    lines = ["| label | source | kind | images | from |", "|---|---|---|---|---|"]
    for source in found:
        cells = (
            source.get("label", ""),
            source.get("name", ""),
            source.get("kind", ""),
            f"{source['count']:,}" if source.get("count") else "not known",
            _origin(source),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    synthetic = [str(source.get("name")) for source in found if source.get("kind") == "synthetic"]
    told = f"It was trained with synthetic images ({', '.join(synthetic)})." if synthetic else ""
    return "\n".join([*lines, "", told, ""])


def _origin(source: dict[str, Any]) -> str:
    imported = source.get("imported", {})
    if imported:
        return str(imported.get("card") or imported.get("url") or imported.get("file"))
    manifest = source.get("manifest") or {}
    made_by = manifest.get("generator") or manifest.get("model")
    return f"{source.get('spec', '')}{f' (made by {made_by})' if made_by else ''}"


def _quality(metrics: Sequence[Table]) -> str:
    if not metrics:
        return "Not measured. `nomadiff evaluate` compares samples with held-out images.\n"
    blocks = []
    for table in metrics:
        meta = table.meta
        if "sentence" in meta:
            made = {**meta.get("evaluation", {}), "base_sha256": meta.get("base_sha256")}
            blocks.append(f"{meta['sentence']}.\n\n{_measured_with(made)}\n")
            continue
        lines = ["| metric | value | interval |", "|---|---|---|"]
        for row in (row for row in table.rows if not row.get("group")):
            low, high = row.get("low"), row.get("high")
            interval = f"{low:.4g} to {high:.4g}" if low is not None and high is not None else ""
            lines.append(f"| {row.get('metric')} | {row['value']:.4g} | {interval} |")
        blocks.append("\n".join([*lines, "", _measured_with(meta), ""]))
    return "\n".join(blocks)


_COMPARABLE_BY = ("count", "reference_count", "detector", "detector_sha256", "reference_sha256", "k", "base_sha256")


def _measured_with(meta: Mapping[str, Any]) -> str:
    told = [f"{name.replace('_', ' ')} {meta[name]}" for name in _COMPARABLE_BY if meta.get(name) is not None]
    return f"Measured with: {', '.join(told)}." if told else ""


def scores_of(metrics: Sequence[Table], hashes: Collection[str]) -> list[Table]:
    """The tables that a card can show of one model: what was measured of others is no quality of it.

    Args:
        metrics: tables of scores; of several sets, those of the set that the model drew are taken.
        hashes: SHA-256 of the model, and of what equals it.

    Raises:
        UsageError: one is neither of ``nomadiff evaluate`` nor the answer of a finished improvement or shift, or it is
            of another model.
    """
    found = []
    for table in metrics:
        scores = [row for row in table.rows if not row.get("group")]
        if "sentence" not in table.meta and not (scores and all({"metric", "value"} <= row.keys() for row in scores)):
            raise UsageError(
                "a card shows what nomadiff evaluate --out wrote, or the improve.json or shift.json of a finished "
                f"improvement; this table has the fields {', '.join(table.fields)[:200] or 'of neither'}"
            )
        drawn_from = table.meta.get("model_sha256")
        of = printable(str(table.meta.get("samples", table.meta.get("command", "")))[:200])
        if any("set" in row for row in scores):
            models = drawn_from if isinstance(drawn_from, Mapping) else {}
            mine = [name for name, model in models.items() if model in hashes]
            if len(mine) != 1:
                told = "none of which is known to be of this model" if not mine else f"of this model are {len(mine)}"
                raise UsageError(f"the scores are of several sets ({of}), {told}: evaluate samples of this model alone")
            meta = {name: _of_set(value, mine[0]) for name, value in table.meta.items()}
            table = Table([row for row in table.rows if row.get("set") == mine[0]], meta)
        elif drawn_from is not None and drawn_from not in hashes:
            raise UsageError(f"the scores are of another model ({of}): evaluate samples of this one")
        found.append(table)
    return found


def _of_set(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, Mapping) and name in value else value
