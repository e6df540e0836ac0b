"""Images of a Hugging Face data set, on the hub or in ``.parquet`` files, through ``datasets`` (an extra)."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.data.choice import Choice
from nomadiff.data.labels import Labels, checked_labels, labels_by_name, named_labels
from nomadiff.data.tar_shards import stamp
from nomadiff.errors import DataError, UsageError
from nomadiff.extras import install_command
from nomadiff.files import read_regular, require_regular

__all__ = ["PREFIX", "HubTable"]

PREFIX = "hf:"


class HubTable:
    """The image column of a data set, row by row as encoded files, so that they are decoded like any other file.

    The split is ``train`` unless named; whatever ``datasets`` understands works (``hf:cifar10:train[:1000]``). The
    columns are the chosen ones, or the only ones that hold images and class labels; without class labels a column
    ``label``, ``labels`` or ``class`` of integers or names.

    Args:
        choice: ``hf:<id>[:split]``, its columns and its configuration.
        files: ``.parquet`` files that are the set instead; the location is then for messages.

    Attributes:
        path: the spec, for messages.

    Raises:
        UsageError: the extra is not installed, no id is given, or several columns or configurations could be meant.
        DataError: the set cannot be loaded, or has no image column.
    """

    def __init__(self, choice: Choice, files: Sequence[Path] = ()) -> None:
        spec = choice.location
        identifier, _, split = spec.removeprefix(PREFIX).partition(":")
        if not identifier:
            raise UsageError(f"{spec!r}: expected hf:<data set id>[:split], for example hf:uoft-cs/cifar10:train")
        try:
            import datasets
        except ImportError as error:
            raise UsageError(f"{spec}: reading from the hub needs an extra: {install_command('hf')}") from error
        self.path = spec
        try:
            if files:
                choice.refuse("config")
                for each in files:
                    require_regular(each)
                table = datasets.load_dataset("parquet", data_files=[str(each) for each in files], split="train")
            elif identifier.endswith(".parquet") and Path(identifier).is_file():
                table = datasets.load_dataset("parquet", data_files=identifier, split=split or "train")
            else:
                table = datasets.load_dataset(identifier, choice.config, split=split or "train")
        except UsageError:
            raise
        except Exception as error:  # network, hub and file errors of a dozen libraries
            if not files and len(known := _configurations(datasets, identifier)) > 1 and choice.config not in known:
                choice.one_of("config", known)
                raise UsageError(f"{spec}: no configuration {choice.config!r}; choose of {', '.join(known)}") from error
            lines = str(error).strip().splitlines()
            raise DataError(f"{spec}: cannot be loaded ({lines[0] if lines else type(error).__name__})") from error
        if missing := {choice.images, choice.labels} - {None, "none", *table.column_names}:
            told = f"no column {missing.pop()!r} (columns: {', '.join(table.column_names)})"
            raise UsageError(f"{spec}: has {told}")
        column = choice.one_of("images", _of_kind(table.features, datasets.Image))
        if column is None:
            raise DataError(f"{spec}: has no image column (columns: {', '.join(table.column_names)})")
        self._column, self._label_column = column, _label_column(table.features, datasets, choice)
        self._whole, self._files = table, files
        self._table = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    @cached_property
    def names(self) -> list[str]:
        """``row 0``, ``row 1``, ..."""
        return [f"row {index}" for index in range(len(self._table))]

    @cached_property
    def labels(self) -> Labels:
        """The class labels."""
        return _labels(self._whole, self._label_column, self.path)

    def fingerprint(self) -> list[Any]:
        """What changes when the set does."""
        files = self._files or [Path(file["filename"]) for file in self._whole.cache_files]
        if not files:  # in memory: nothing says whether it is the same again
            return [uuid.uuid4().hex]
        columns = [len(self._whole), self._column, self._label_column]
        return [*columns, *([file.name, *stamp(file)] for file in files)]

    def read(self, name: str) -> bytes:
        """The encoded image of one row.

        Raises:
            ValueError: the row is empty.
            OSError: its file cannot be read.
        """
        cell = self._table[int(name.removeprefix("row "))][self._column]
        if cell is None:
            raise ValueError("empty row")
        return cell["bytes"] if cell["bytes"] is not None else read_regular(cell["path"])

    def column(self, name: str) -> dict[str, str]:
        """The cells of another column as text, by the names of the rows; empty ones are left out.

        Raises:
            UsageError: there is none.
        """
        if name not in self._whole.column_names:
            raise UsageError(f"{self.path}: has no column {name!r} (columns: {', '.join(self._whole.column_names)})")
        cells = self._whole[name][:]
        return {row: str(cell) for row, cell in zip(self.names, cells) if cell is not None}


def _label_column(features: dict[str, Any], datasets: Any, choice: Choice) -> str | None:
    """The chosen column, or the only one of class labels, or else one called label of something else; None for none."""
    found = _of_kind(features, datasets.ClassLabel)
    if not found:
        found = [name for name in ("label", "labels", "class") if isinstance(features.get(name), datasets.Value)][:1]
    column = choice.one_of("labels", found)
    return None if column == "none" else column


def _of_kind(features: dict[str, Any], kind: type) -> list[str]:
    return [name for name, feature in features.items() if isinstance(feature, kind)]


def _configurations(datasets: Any, identifier: str) -> list[str]:
    try:
        return list(datasets.get_dataset_config_names(identifier))
    except Exception:  # the message repeats what the data set raised
        return []


def _labels(table: Any, column: str | None, spec: str) -> Labels:
    if column is None:
        return Labels(None, absent=f"no column of class labels (columns: {', '.join(table.column_names)})")
    values = np.asarray(table[column][:])
    if values.dtype.kind == "U":
        return labels_by_name(values.tolist())
    if values.dtype.kind == "i" and len(values) and values.min() == -1:  # what the hub writes for an unknown class
        return Labels(None, absent=f"{int((values == -1).sum()):,} of {len(values):,} rows have the label -1, no class")
    if values.dtype.kind not in "iu":
        return Labels(None, absent=f"the column {column} holds neither integers nor names")
    names = getattr(table.features[column], "names", None)
    return named_labels(checked_labels(values, len(table), spec), names, spec)
