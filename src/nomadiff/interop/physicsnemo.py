"""EDM's networks as NVIDIA's physicsnemo saves them: ``.mdlus`` files, a zip or a tar of arguments and weights."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from torch import Tensor

from nomadiff.errors import DataError
from nomadiff.files import require_regular
from nomadiff.interop.edm import edm_network
from nomadiff.interop.imported import Imported, Settings, default_sampler
from nomadiff.interop.torch_files import read_torch_file
from nomadiff.plain import parse_json
from nomadiff.safe_pickle import printable

__all__ = ["SUFFIX", "from_physicsnemo"]

SUFFIX = ".mdlus"


def from_physicsnemo(path: str | Path) -> Imported:
    """Translate the ``EDMPrecond`` of an ``.mdlus`` file.

    Raises:
        DataError: damaged, or a network nomadiff does not have.
    """
    path = Path(path)
    arguments, weights = _members(path)
    kind = arguments.get("__name__")
    given = arguments.get("__args__")
    if kind != "EDMPrecond" or type(given) is not dict:
        raise DataError(f"{path}: holds a {printable(kind)}; nomadiff reads physicsnemo's EDMPrecond")
    contents = read_torch_file(weights, f"{path}/model.pt")
    tensors = contents.values() if type(contents) is dict else []
    if not tensors or not all(type(name) is str and isinstance(contents[name], Tensor) for name in contents):
        raise DataError(f"{path}: model.pt is no table of weights")
    try:
        return _translated(dict(given), contents)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _translated(given: dict[str, Any], weights: dict[str, Tensor]) -> Imported:
    settings = Settings(given, "EDMPrecond")
    settings.drop_none("img_in_channels", "img_out_channels")
    for name in ("img_in_channels", "img_out_channels"):  # conditioning on further channels
        settings.require(name, given.get("img_channels"), default=given.get("img_channels"))
    settings.require("additive_pos_embed", False, default=False)
    settings.require("bottleneck_attention", True, default=True)
    settings.require("act", "silu", default="silu")
    settings.ignore("checkpoint_level", "use_apex_gn", "profile_mode", "amp_mode")
    sigma_data = settings.number("sigma_data", 0.5)
    precision = "fp16" if settings.flag("use_fp16", False) else "fp32"
    dropout_of_labels = settings.number("label_dropout", 0.0)
    network, classes = edm_network(settings)
    fourier = network.architecture == "ncsnpp"
    return Imported(
        network=network,
        weights={
            _edm_name(name): value
            for name, value in weights.items()
            # the preconditioning's constants, and frequencies unless they were drawn
            if name.startswith("model.") and (fourier or not name.endswith("map_noise.freqs"))
        },
        classes=classes,
        sigma_data=sigma_data,
        sampler=default_sampler(network.architecture, network.resolution),
        training={"precision": precision, "class_dropout": dropout_of_labels},
        facts={"network": "EDMPrecond of physicsnemo"},
    )


def _edm_name(name: str) -> str:
    """The name EDM gives a parameter: attention lies in the block itself there."""
    return re.sub(r"\.attn\.(qkv|proj)\.", r".\1.", name.replace(".attn.norm.", ".norm2."))


def _members(path: Path) -> tuple[dict[str, Any], bytes]:
    """Arguments and weights file of an ``.mdlus``; nothing is unpacked to disk, nothing compressed is accepted."""
    try:
        size = require_regular(path)
        if tarfile.is_tarfile(path):
            with tarfile.open(path, "r:") as archive:
                found = {Path(member.name).name: member for member in archive if member.isreg()}
                members = [found[name] for name in ("args.json", "model.pt")]
                if any(member.sparse is not None or member.size > size for member in members):
                    raise DataError(f"{path}: refused: a tar that unfolds to more than its size")
                arguments, weights = ((archive.extractfile(member) or io.BytesIO()).read() for member in members)
        else:
            with zipfile.ZipFile(path) as zipped:
                entries = [zipped.getinfo(name) for name in ("args.json", "model.pt")]
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                    raise DataError(f"{path}: refused: physicsnemo does not compress, this zip is compressed")
                arguments, weights = (zipped.read(entry) for entry in entries)
    except DataError:
        raise
    except Exception as error:  # tarfile and zipfile have many
        raise DataError(f"{path}: not a file of physicsnemo ({printable(str(error))})") from error
    return parse_json(arguments, f"{path}: args.json", dict), weights
