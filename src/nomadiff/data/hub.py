"""Images of a Hugging Face data set: ``hf:<id>[:split]``, through the ``datasets`` package (an extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.data.labels import checked_labels
from nomadiff.errors import DataError, UsageError

__all__ = ["PREFIX", "HubTable"]

PREFIX = "hf:"


class HubTable:
    """The image column of a data set, row by row as encoded files, so that they are decoded like any other file.

    The split is ``train`` unless named; whatever ``datasets`` understands works (``hf:cifar10:train[:1000]``). The
    first column of images is used, and the first column of class labels if there is one.

    Args:
        spec: ``hf:<id>[:split]``.

    Attributes:
        path: the spec, for messages.
        names: ``row 0``, ``row 1``, ...
        labels: int64 ``(N,)`` or None.

    Raises:
        UsageError: the extra is not installed, or no id is given.
        DataError: the set cannot be loaded, or has no image column.
    """

    def __init__(self, spec: str) -> None:
        identifier, _, split = spec.removeprefix(PREFIX).partition(":")
        if not identifier:
            raise UsageError(f"{spec!r}: expected hf:<data set id>[:split], for example hf:uoft-cs/cifar10:train")
        try:
            import datasets
        except ImportError as error:
            raise UsageError(f"{spec}: reading from the hub needs an extra; pip install 'nomadiff[hf]'") from error
        self.path = spec
        try:
            table = datasets.load_dataset(identifier, split=split or "train")
        except Exception as error:  # network, hub and file errors of a dozen libraries
            lines = str(error).strip().splitlines()
            raise DataError(f"{spec}: cannot be loaded ({lines[0] if lines else type(error).__name__})") from error
        column = _first(table.features, datasets.Image)
        if column is None:
            raise DataError(f"{spec}: has no image column (columns: {', '.join(table.column_names)})")
        label_column = _first(table.features, datasets.ClassLabel)
        self.names = [f"row {index}" for index in range(len(table))]
        self.labels = None
        if label_column is not None:
            self.labels = checked_labels(np.asarray(table[label_column][:]), len(table), spec)
        self._column = column
        self._table = table.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def read(self, name: str) -> bytes:
        """The encoded image of one row.

        Raises:
            ValueError: the row is empty.
            OSError: its file cannot be read.
        """
        cell = self._table[int(name.removeprefix("row "))][self._column]
        if cell is None:
            raise ValueError("empty row")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def _first(features: dict[str, Any], kind: type) -> str | None:
    return next((name for name, feature in features.items() if isinstance(feature, kind)), None)
