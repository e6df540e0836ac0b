"""Import a model from a file, a folder, an address or a card: choose the importer, record the origin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from nomadiff.data.writing import refuse_existing
from nomadiff.downloads import download
from nomadiff.errors import DataError, UsageError
from nomadiff.files import require_regular, sha256_of_file
from nomadiff.interop.cards import CARDS, Card
from nomadiff.interop.diffusers_ import HUB_PREFIX, from_diffusers, is_pipeline, pipeline_folder
from nomadiff.interop.edm import ema_of, from_edm
from nomadiff.interop.edm2 import from_edm2, images_in_name, reconstruct
from nomadiff.interop.gan_cards import GAN_CARDS
from nomadiff.interop.imported import Imported
from nomadiff.interop.model_folder import write_model
from nomadiff.interop.physicsnemo import SUFFIX, from_physicsnemo
from nomadiff.interop.stylegan_file import generator_in
from nomadiff.interop.torch_files import read_torch_file
from nomadiff.metrics.weights import verified
from nomadiff.models.foreign import bare_network, is_nomadiff
from nomadiff.models.model import Model
from nomadiff.safe_pickle import printable

__all__ = ["import_model"]


def import_model(
    spec: str | Path,
    out: str | Path,
    *,
    std: float | None = None,
    at: int | None = None,
    sources: tuple[str, ...] = (),
    sha256: str | None = None,
) -> Model:
    """Make a nomadiff model of another tool's weights. Nothing in them is run.

    Args:
        spec: a card's name (:data:`~nomadiff.interop.cards.CARDS`), an ``http(s)`` or ``file`` address, a file (a
            snapshot of EDM or EDM2, an EDM training state, physicsnemo's ``.mdlus``), a folder of EDM2 snapshots, or a
            pipeline of diffusers (its folder, or ``hf:<user>/<name>``).
        out: the model folder; must be new.
        std: relative width of the average to rebuild from a folder of EDM2 snapshots.
        at: images seen at the end of that average; the last snapshot's by default.
        sources: names of the sources that the network's labels stand for, "real" first, for a network that was trained
            with the source as its class label; without them labels are classes.
        sha256: what the file must hash to.

    Returns:
        The model, on the CPU.

    Raises:
        UsageError: ``out`` is taken, or an option does not belong to this kind of file.
        DataError: the file cannot be read, would have to run code, holds a network nomadiff does not have, or fails the
            self-check.
    """
    refuse_existing(Path(out))
    text = str(spec)
    card = CARDS.get(text)
    if text in GAN_CARDS:
        raise UsageError(f"{text}: a generator of StyleGAN: draw from it (nomadiff synthesize --from {text})")
    origin: dict[str, Any]
    if text.startswith(HUB_PREFIX):
        path, origin = pipeline_folder(text), {"url": text}
    elif "://" in text or card is not None:
        url = card.url if card is not None else text
        path, origin = download(url, sha256=sha256), {"url": url}
    else:
        path, origin = Path(spec), {"file": Path(spec).resolve().name}
        if not path.exists():
            raise DataError(f"{spec}: no such file, and no card of that name (nomadiff import --list shows them)")
    if is_nomadiff(path) if path.is_dir() else _has_recipe(path):
        raise UsageError(f"{path}: a model of nomadiff already: use it as it is (nomadiff sample {path} --out SAMPLES)")
    if path.is_dir() and sha256 is not None:
        raise UsageError(f"{spec} is a folder of files: one hash (--sha256) tells the content of a single file")
    if is_pipeline(path):
        if std is not None or at is not None:
            raise UsageError("an average is rebuilt from a folder of EDM2 snapshots; this is a pipeline of diffusers")
        return write_model(from_diffusers(path), out, origin, method="ddpm", source_names=sources)
    if path.is_dir():
        if (reason := bare_network(path)) is not None:
            raise DataError(reason)
        if std is None and next(path.glob("*.pkl"), None) is None:
            raise DataError(
                f"{path}: neither a pipeline of diffusers (model_index.json) nor a folder of EDM2 snapshots"
            )
        if std is None:
            raise UsageError(f"{path} is a folder of snapshots: say which average to rebuild (--std 0.1)")
        return write_model(reconstruct(path, std, at=at), out, origin, method="edm2", source_names=sources)
    if std is not None or at is not None:
        raise UsageError("an average is rebuilt from a folder of snapshots; this is a single file")
    if sha256 is not None:
        verified(path, sha256)
    method, imported = _read(path)
    origin["sha256"] = sha256_of_file(path)  # after it was read: what is no model may be of any length
    if card is not None:
        imported = _checked(imported, card)
        origin.update(card=text, licence=card.licence)
    return write_model(imported, out, origin, method=method, source_names=sources)


def _has_recipe(path: Path) -> bool:
    """Whether a file is a model of nomadiff.

    Raises:
        DataError: it is safetensors of another tool: a table of weights without the network's configuration.
    """
    if path.suffix.lower() != ".safetensors":
        return False
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as handle:
            names, metadata = list(handle.keys()), handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: damaged or not a safetensors file ({printable(str(error))})") from error
    if any("lora" in name.lower() for name in names):
        raise DataError(f"{path}: a LoRA, no model: nomadiff lora {path} negates it, steered() in Python takes it")
    if "nomadiff" not in metadata:
        raise DataError(f"{path}: {_TABLE}")
    return True


_TABLE = (
    "a table of weights, which does not say what network and noise schedule they are of: import the pipeline's folder "
    "(model_index.json, scheduler/, unet/)"
)


def _read(path: Path) -> tuple[str, Imported]:
    """The method name for such a network, and the network in this file."""
    if path.suffix == SUFFIX:
        return "edm", from_physicsnemo(path)
    contents = read_torch_file(path)
    if generator_in(contents) is not None:
        raise DataError(
            f"{path}: a generator of StyleGAN, which has no denoiser: draw from it (nomadiff synthesize --from {path})"
        )
    module = ema_of(contents)
    if module is None and type(contents) is dict and any(isinstance(value, Tensor) for value in contents.values()):
        raise DataError(f"{path}: {_TABLE}")
    if module is None:
        raise DataError(f"{path}: holds no network (neither a snapshot of EDM or EDM2 nor a training state)")
    beside = contents if type(contents) is dict else {}
    try:
        if module.class_name == "Precond":
            method, imported = "edm2", from_edm2(module, beside)
        elif module.class_name.endswith("Precond"):
            method, imported = "edm", from_edm(module, beside)
        else:
            raise DataError(f"holds a {printable(module.class_name)}; nomadiff reads networks of EDM and EDM2")
    except (DataError, UsageError) as error:
        raise DataError(f"{path}: {error}") from error
    facts = dict(imported.facts)
    if "ema" not in beside:
        facts["weights"] = "of the training state, not averaged"
    training = dict(imported.training)
    if seen := images_in_name(path):
        training["budget"] = seen
    return method, replace(imported, facts=facts, training=training)


def _checked(imported: Imported, card: Card) -> Imported:
    """The network with its card's sampler, if it is the card's.

    Raises:
        DataError: it has another number of parameters.
    """
    count = sum(value.numel() for name, value in imported.weights.items() if not _constant(name))
    if count != card.parameters:
        raise DataError(f"{card.url}: {count:,} parameters, the card says {card.parameters:,}: another file?")
    return replace(imported, sampler=card.sampler, images=card.images, training={**imported.training, **card.training})


def _constant(name: str) -> bool:
    """Whether a stored tensor is no parameter: filters and random frequencies."""
    return name.endswith(("resample_filter", "freqs", "phases"))
