"""``nomadiff export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nomadiff.cli.answer import Answer
from nomadiff.cli.next_steps import after_export
from nomadiff.cli.options import Images

__all__ = ["export"]


def export(
    model: Annotated[Path, Parameter(help="Run folder, model.safetensors, snapshot, or guided model.")],
    *,
    to: str = "safetensors",
    out: Annotated[Path | None, Parameter(help="The folder to write; must be new.")] = None,
    hub: str | None = None,
    public: bool = False,
    metrics: tuple[Path, ...] = (),
    snapshot: Images | None = None,
) -> Answer:
    """Write a model in a form other tools read, with a card that states sources, method, weight and metrics.

    An example:

    nomadiff export improved/ --to diffusers --out pipeline/ --metrics metrics.json

    A guided model is written with all its parts; a merged one as one network. What came from diffusers becomes a plain
    DDPMPipeline again, anything else a pipeline that needs nomadiff beside diffusers.

    Args:
        model: the model.
        to: safetensors or diffusers.
        out: where to.
        hub: Upload to this repository of the Hugging Face hub (user/name) as well, or instead of --out.
        public: Make a new repository on the hub public; it is private otherwise.
        metrics: Table written by `nomadiff evaluate` to show on the card; may be repeated.
        snapshot: Take the snapshot at this many images seen.
    """
    from nomadiff.errors import UsageError
    from nomadiff.files import check_output
    from nomadiff.interop.export import export_model, push_to_hub
    from nomadiff.models.model import Model
    from nomadiff.tables import read_table

    if out is None and hub is None:
        raise UsageError("say where to: --out FOLDER, --hub USER/NAME, or both")
    if public and hub is None:
        raise UsageError("--public is for --hub: a folder is neither public nor private")
    if out is not None:
        check_output(out, "new")
    loaded = Model.load(model, snapshot=snapshot, device="cpu")
    tables = [read_table(path) for path in metrics]
    files: dict[str, Path | str] = {}
    if out is not None:
        files["model"] = export_model(loaded, out, form=to, metrics=tables)
    if hub is not None:
        files["hub"] = push_to_hub(loaded, hub, form=to, metrics=tables, private=not public)
    return Answer(files=files, next=after_export(out, hub, to))
