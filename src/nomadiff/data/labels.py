"""Class labels of image files: from EDM's ``dataset.json``, or else from the folders the files lie in."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import numpy as np

from nomadiff.data.containers import natural_key
from nomadiff.errors import DataError

__all__ = ["LABELS_NAME", "LARGEST_LABEL", "checked_labels", "labels_from_folders", "labels_from_json"]

LABELS_NAME = "dataset.json"
LARGEST_LABEL = 999_999  # a label becomes a one-hot vector: a larger one is an id in the wrong column


def labels_from_json(content: bytes, names: Sequence[str], where: str) -> np.ndarray | None:
    """Labels from ``{"labels": [["00000/img00000000.png", 6], ...]}``; ``{"labels": null}`` means there are none.

    Args:
        content: the bytes of ``dataset.json``.
        names: the image files, relative, in the order wanted.
        where: name of the json file for messages.

    Returns:
        int64 ``(len(names),)`` or None.

    Raises:
        DataError: not such a file; a label is no integer in 0..999,999; an entry names a file that is not there or
            comes twice; a file has no entry.
    """
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    entries = parsed.get("labels") if isinstance(parsed, dict) else parsed
    if entries is None:
        return None
    if not isinstance(parsed, dict) or not isinstance(entries, list):
        raise DataError(f'{where}: expected {{"labels": [["file.png", 6], ...]}} or {{"labels": null}}')
    position = {name: index for index, name in enumerate(names)}
    labels = np.full(len(names), -1, dtype=np.int64)
    unknown = []
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise DataError(f'{where}: expected ["file.png", 6], got {_short(entry)}')
        name, label = entry[0].replace("\\", "/"), entry[1]
        if type(label) is not int or not 0 <= label <= LARGEST_LABEL:
            raise DataError(f"{where}: the label of {name} is {_short(label)}, not an integer in 0..{LARGEST_LABEL:,}")
        index = position.get(name)
        if index is None:
            unknown.append(name)
        elif labels[index] >= 0:
            raise DataError(f"{where}: {name} is labelled twice")
        else:
            labels[index] = label
    if unknown:
        raise DataError(
            f"{where}: {len(unknown)} of {len(entries)} labels are of files that are not there: {unknown[0]}"
        )
    missing = np.flatnonzero(labels < 0)
    if len(missing):
        raise DataError(f"{where}: {len(missing)} of {len(names)} images have no label: {names[missing[0]]}")
    return labels


def labels_from_folders(names: Sequence[str]) -> np.ndarray | None:
    """Labels 0, 1, ... for the top folders in natural order, if every file lies in one and there are at least two.

    The numbered folders that EDM fills with a thousand images each (``00001/img00001234.png``) say nothing about
    classes and give None.

    Returns:
        int64 ``(len(names),)`` or None.
    """
    tops = [name.partition("/")[0] if "/" in name else "" for name in names]
    folders = sorted(set(tops), key=natural_key)
    if "" in folders or len(folders) < 2 or all(map(_is_chunk, names)):
        return None
    number = {folder: label for label, folder in enumerate(folders)}
    return np.array([number[top] for top in tops], dtype=np.int64)


def checked_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """Labels of an array file or a table as int64 ``(count,)``.

    Raises:
        DataError: wrong shape, not integers, or out of 0..999,999.
    """
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        shape = "x".join(map(str, labels.shape))
        raise DataError(f"{where}: labels must be {count} integers, got {labels.dtype} of shape {shape or 'scalar'}")
    if count and not 0 <= int(labels.min()) <= int(labels.max()) <= LARGEST_LABEL:
        raise DataError(f"{where}: labels must lie in 0..{LARGEST_LABEL:,}, got {labels.min()}..{labels.max()}")
    return labels.astype(np.int64)


def _is_chunk(name: str) -> bool:
    """Whether a file lies in EDM's folder for its thousand: ``00001/img00001234.png`` or ``001000/001234.png``."""
    match = re.match(r"([0-9]{5})/img(?:-[a-z-]+-)?([0-9]{8})\.|([0-9]{6})/([0-9]{6})\.", name)
    if match is None:
        return False
    if match[1]:
        return int(match[2]) // 1000 == int(match[1])
    return int(match[4]) // 1000 * 1000 == int(match[3])


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
