"""A model in forms that other tools read: one folder of safetensors, a diffusers pipeline, a page on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from nomadiff.data.writing import refuse_existing
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.extras import install_command
from nomadiff.files import atomic_folder, temporary_folder, write_json, write_text
from nomadiff.interop.diffusers_ import write_ddpm_pipeline
from nomadiff.interop.model_card import model_card, scores_of
from nomadiff.interop.packing import pack_model
from nomadiff.models.hub import HUB_PREFIX
from nomadiff.models.model import Model
from nomadiff.tables import Table

__all__ = ["FORMS", "export_model", "push_to_hub"]

FORMS = ("safetensors", "diffusers")


def export_model(
    model: Model,
    out: str | Path,
    *,
    form: str = "safetensors",
    metrics: Sequence[Table] = (),
    title: str | None = None,
    address: str | None = None,
) -> Path:
    """Write a model for others, with a card that says what it is.

    ``safetensors``: everything the model is made of (weights with their recipe, ``guidance.json``, sources), to be
    loaded by nomadiff wherever it lies. ``diffusers``: a pipeline. A model that came from diffusers becomes a plain
    ``DDPMPipeline`` again; any other one a pipeline with its own class, which needs nomadiff beside diffusers and
    ``trust_remote_code=True``, and draws the same images as
    ``nomadiff sample --precision fp32``.

    Args:
        model: the model.
        out: the folder; must be new.
        form: one of :data:`FORMS`.
        metrics: tables of scores for the card.
        title: name on the card; the folder's unless given.
        address: what the card tells to load; the title unless given.

    Returns:
        ``out``.

    Raises:
        UsageError: ``out`` is taken, the form is unknown, a table holds no scores, or those of another
            model, or diffusers is needed and absent.
    """
    if form not in FORMS:
        raise UsageError(f"unknown form '{form}': choose one of {', '.join(FORMS)}")
    out = Path(out)
    refuse_existing(out)
    equal = [model]
    while model.guidance is not None and model.guidance.weight == 0 and isinstance(model.parts[0], Model):
        model = model.parts[0]  # at weight 0 it equals its base ("keep the base model")
        equal.append(model)
    metrics = scores_of(metrics, [each.sha256 for each in equal] if metrics else [])
    name = title or out.name
    with atomic_folder(out) as staging:
        if form == "safetensors":
            pack_model(model, staging)
            usage = f'import nomadiff as nd\n\nimages = nd.Model.load("{address or name}").sample(8, seed=0)'
        else:
            usage = _write_pipeline(model, staging, name)
        write_text(staging / "README.md", model_card(model, title=name, usage=usage, metrics=metrics))
    return out


def _write_pipeline(model: Model, folder: Path, name: str) -> str:
    """Write the pipeline, and give the lines that use it."""
    try:
        import diffusers
    except ImportError as error:
        raise UsageError(f"a pipeline of diffusers needs an extra: {install_command('diffusers')}") from error
    single = model.guidance is None or model.guidance.kind == "merge"
    if single and write_ddpm_pipeline(model, folder):
        return (
            f'from diffusers import DDPMPipeline\n\npipe = DDPMPipeline.from_pretrained("{name}")\n'
            "images = pipe(batch_size=8).images"
        )
    pack_model(model, folder / "model")
    for template, target in (("pipeline", "pipeline.py"), ("nomadiff_model", "model/nomadiff_model.py")):
        text = files("nomadiff.interop").joinpath(f"templates/{template}.py.txt").read_text(encoding="utf-8")
        write_text(folder / target, text)
    write_json(
        folder / "model_index.json",
        {
            "_class_name": ["pipeline", "NomadiffPipeline"],
            "_diffusers_version": diffusers.__version__,
            "model": ["nomadiff_model", "NomadiffModel"],
        },
    )
    return (
        "from diffusers import DiffusionPipeline  # and nomadiff, installed from its checkout\n\n"
        f'pipe = DiffusionPipeline.from_pretrained("{name}", trust_remote_code=True)\n'
        "images = pipe(batch_size=8, seed=0).images"
    )


def push_to_hub(
    model: Model, repository: str, *, form: str = "safetensors", metrics: Sequence[Table] = (), private: bool = True
) -> str:
    """Export a model to a repository on the Hugging Face hub, made if it is not there.

    Log in with huggingface_hub first: ``hf auth login`` once, or ``HF_TOKEN``.

    Args:
        model: the model.
        repository: ``<user>/<name>``.
        form: as for :func:`export_model`.
        metrics: tables of scores for the card.
        private: whether a new repository is private.

    Returns:
        Its address.

    Raises:
        UsageError: huggingface_hub is not installed, or the name is no ``<user>/<name>``.
        NomadiffError: the upload failed.
    """
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UsageError(f"'{repository}' is no repository: write <user>/<name>")
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UsageError(f"the hub needs an extra: {install_command('diffusers')}") from error
    with temporary_folder() as place:
        options = {"title": repository, "address": HUB_PREFIX + repository}
        folder = export_model(model, place / "model", form=form, metrics=metrics, **options)
        try:
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="nomadiff export")
        except Exception as error:  # network, rights and hub errors of several libraries
            lines = str(error).strip().splitlines()
            reason = lines[0] if lines else type(error).__name__
            raise NomadiffError(
                f"{repository}: the upload failed ({reason}); what is there may be incomplete"
            ) from error
    return f"https://huggingface.co/{repository}"
