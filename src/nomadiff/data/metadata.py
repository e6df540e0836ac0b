"""Facts of single images that stand beside them: a column of ``metadata.csv`` or ``metadata.jsonl``.

These are the files of Hugging Face's "imagefolder": one row a file, with its name relative to the folder of the
metadata in the column ``file_name``. Of a hub data set, or of ``.parquet`` files, it is one of their own columns.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nomadiff.data.choice import parse_choice
from nomadiff.data.containers import FileTree, open_tree
from nomadiff.data.decoding import reason_of
from nomadiff.data.hub import PREFIX, HubTable
from nomadiff.data.image_source import ImageSource, spec_text
from nomadiff.data.tar_shards import shards_of
from nomadiff.errors import DataError, UsageError
from nomadiff.files import normal_name, printable

__all__ = ["METADATA_NAMES", "column_in", "metadata_column", "subjects_of"]

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")


def subjects_of(source: ImageSource, column: str | None) -> list[str] | None:
    """Whose the images are, by a column of their metadata; None without a column. Errors as :func:`metadata_column`."""
    return None if column is None else metadata_column(source, column)


def metadata_column(source: ImageSource, column: str) -> list[str]:
    """What the metadata say of every image, as text.

    Args:
        source: images that were read from a folder, an archive, ``.parquet`` files or the hub.
        column: name of the column, such as ``patient``.

    Raises:
        UsageError: the source has no metadata, or no such column.
        DataError: the metadata are damaged, or some image has no row or an empty cell.
    """
    spec = spec_text(source)
    if source.names is None or (choice := parse_choice(spec)).location.endswith((".npz", ".npy")):
        raise UsageError(
            f"{spec}: no {column!r} of its images is known: that needs {' or '.join(METADATA_NAMES)} beside files"
        )
    on_hub = choice.location.startswith(PREFIX)
    parquet = [] if on_hub else shards_of(Path(choice.location), ".parquet")
    if on_hub or parquet:
        found = HubTable(choice, parquet).column(column)
    else:
        with open_tree(Path(choice.location)) as tree:
            found = column_in(tree, column)
    missing = [name for name in source.names if not found.get(name)]
    if missing:
        told = f"{len(missing)} of {len(source)} images have no {column!r} in the metadata: {printable(missing[0])}"
        raise DataError(f"{spec}: {told}")
    return [found[name] for name in source.names]


def column_in(tree: FileTree, column: str) -> dict[str, str]:
    """The cells of a column by the names of the files; of all metadata files together.

    Raises:
        UsageError: there are no metadata, or no such column.
        DataError: the metadata are damaged.
    """
    files = [name for name in tree.names if name.rpartition("/")[2].lower() in METADATA_NAMES]
    if not files:
        raise UsageError(f"{tree.path}: holds no {' or '.join(METADATA_NAMES)} to read {column!r} from")
    found: dict[str, str] = {}
    columns: set[str] = set()
    for file in files:
        folder = file.rpartition("/")[0]
        for row in _rows(tree, file):
            columns |= row.keys()
            name, value = row.get("file_name"), row.get(column)
            if isinstance(name, str) and isinstance(value, str | int | float) and not isinstance(value, bool):
                found[normal_name(f"{folder}/{name}" if folder else name)] = str(value)
    if column not in columns:
        known = printable(", ".join(sorted(map(str, columns))[:20]))
        raise UsageError(f"{tree.path}: its metadata have no column {column!r} (columns: {known})")
    return found


def _rows(tree: FileTree, file: str) -> Iterator[Mapping[str, Any]]:
    where = f"{tree.path}/{file}"
    try:
        text = tree.read(file).decode("utf-8-sig")
        if file.lower().endswith(".csv"):
            yield from csv.DictReader(io.StringIO(text), strict=True)
            return
        # at ends of lines alone: splitlines() cuts at others that stand within texts, such as U+2028
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except Exception as error:  # zip entries, text and both formats each have their own
        raise DataError(f"{where}: cannot be read ({reason_of(error)})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{where}: expected an object a line, with file_name")
    yield from rows
