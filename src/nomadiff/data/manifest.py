"""``manifest.json``: what a sample set records about itself; it marks synthetic images."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from nomadiff.data.containers import FileTree, FolderTree, open_tree
from nomadiff.data.decoding import reason_of
from nomadiff.data.naming import natural_key
from nomadiff.data.tar_shards import TarTree, is_pattern
from nomadiff.errors import DataError
from nomadiff.files import read_json

__all__ = ["MANIFEST_NAME", "is_synthetic", "manifest_beside", "manifest_in", "read_manifest"]

MANIFEST_NAME = "manifest.json"


def read_manifest(path: str | Path) -> dict[str, Any] | None:
    """The manifest of a folder, an archive, shards or a ``.npz``; None if it has none.

    A folder that holds sample sets further down has their manifests too: a synthetic one is given before any other, so
    that samples in a subfolder are not taken for real.

    Raises:
        DataError: nothing there, or a manifest that is not a JSON object.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy" or (
        path.suffix.lower() == ".npz" and path.is_file() and not zipfile.is_zipfile(path)
    ):
        return None
    with open_tree(path) as tree:
        return manifest_in(tree)


def manifest_in(tree: FileTree) -> dict[str, Any] | None:
    """The manifest of an open set, as :func:`read_manifest` gives it."""
    found = [name for name in tree.names if name.rpartition("/")[2] == MANIFEST_NAME]
    found.sort(key=lambda name: (name.count("/"), natural_key(name)))
    manifests = []
    for name in found:
        try:
            manifest = json.loads(tree.read(name))
        except Exception as error:  # damaged zip entries fail in many ways
            raise DataError(f"{tree.path}/{name}: cannot be read ({reason_of(error)})") from error
        if not isinstance(manifest, dict):
            raise DataError(f"{tree.path}/{name}: expected a JSON object")
        manifests.append(manifest)
    if isinstance(tree, TarTree) and (beside := manifest_beside(tree.path)) is not None:
        manifests.insert(0, beside)
    return next((manifest for manifest in manifests if is_synthetic(manifest)), manifests[0] if manifests else None)


def manifest_beside(path: Path) -> dict[str, Any] | None:
    """The manifest that lies beside shards, or in a folder that is read as a data set; None if there is none.

    Args:
        path: the folder, or the pattern that means the shards.

    Raises:
        DataError: as :func:`read_manifest`.
    """
    if path.is_dir():
        return manifest_in(FolderTree(path))
    file = path.with_name(MANIFEST_NAME)
    return read_json(file, dict) if is_pattern(path) and file.exists() else None


def is_synthetic(manifest: dict[str, Any] | None) -> bool:
    """Whether a set with this manifest is synthetic: it has one, and it does not say ``"kind": "real"``."""
    return manifest is not None and manifest.get("kind") != "real"
