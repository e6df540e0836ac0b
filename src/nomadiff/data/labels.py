"""Class labels of images: from EDM's ``dataset.json``, or else from the folders the files lie in.

A class is known by its name: its folder, what ``dataset.json`` or a hub data set calls it, or its number as text. The
numbers of labels are those of one set; sets are matched by name.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.containers import FileTree
from nomadiff.data.decoding import reason_of
from nomadiff.data.naming import natural_key
from nomadiff.data.tar_shards import TarTree
from nomadiff.errors import DataError
from nomadiff.files import normal_name, printable

__all__ = [
    "LABELS_NAME",
    "LARGEST_LABEL",
    "Labels",
    "checked_labels",
    "class_names_of",
    "is_number",
    "labels_by_name",
    "labels_from_folders",
    "labels_from_json",
    "labels_in",
    "labels_json",
    "listed",
    "named_labels",
    "vocabulary",
]

LABELS_NAME = "dataset.json"
LARGEST_LABEL = 999_999  # a larger one is an id in the wrong column

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "dev", "test", "testing"))


@dataclass(frozen=True, eq=False)
class Labels:
    """Class labels of a set, or why it has none.

    Attributes:
        numbers: int64 ``(N,)``, or None.
        names: name of label ``k`` at index ``k``; None if classes are known by their numbers. Without ``numbers`` the
            one name that may be the class of all images: that of the only folder.
        absent: why there are no labels; None if there are.
    """

    numbers: np.ndarray | None
    names: tuple[str, ...] | None = None
    absent: str | None = None

    def tensor(self) -> Tensor | None:
        """The numbers as int64 ``(N,)``."""
        return None if self.numbers is None else torch.from_numpy(self.numbers)


def labels_in(tree: FileTree, names: Sequence[str]) -> Labels:
    """Labels of these files: from the ``dataset.json`` that lies above all of them, or else from their folders.

    In a tar archive the files beside each image come first (:meth:`~nomadiff.data.tar_shards.TarTree.labels_of`).
    Shards are no folders, and have a ``dataset.json`` each.

    Raises:
        DataError: a ``dataset.json`` that is wrong, or labels of some of the images or shards only.
    """
    if isinstance(tree, TarTree):
        if (values := tree.labels_of(names)) is not None:
            return _beside_images(values, names, str(tree.path))
        if len(tree.prefixes) > 1:
            return _of_shards(tree, names)
    return _from_json_in(tree, tree.names, names) or labels_from_folders(names)


def _of_shards(tree: TarTree, names: Sequence[str]) -> Labels:
    files, images = _by_shard(tree.names), _by_shard(names)
    found = {shard: _from_json_in(tree, files[shard], inside) for shard, inside in images.items()}
    told = {shard: labels for shard, labels in found.items() if labels is not None}
    if not told:
        return labels_from_folders([name.partition("/")[2] for name in names])
    numbers = [labels.numbers for labels in told.values() if labels.numbers is not None]
    first, labels = next(iter(told.items()))
    if not numbers:
        return labels
    for shard, each in found.items():
        if each is None or each.numbers is None:
            raise DataError(f"{tree.path}: some shards have labels in a {LABELS_NAME}, and {shard} has none")
        if each.names != labels.names:
            raise DataError(f"{tree.path}: the {LABELS_NAME} of {shard} names classes otherwise than that of {first}")
    return replace(labels, numbers=np.concatenate(numbers))


def _by_shard(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition("/")[0], []).append(name)
    return found


def _from_json_in(tree: FileTree, files: Iterable[str], names: Sequence[str]) -> Labels | None:
    """Labels from the ``dataset.json`` among these files that lies above all these images; None if there is none."""
    found = [name for name in files if name.rpartition("/")[2] == LABELS_NAME]
    above = [name for name in found if all(each.startswith(name.removesuffix(LABELS_NAME)) for each in names)]
    if not above:
        if found:  # sets in folders of one set: their folders are no classes
            return Labels(None, absent=f"{found[0]} is about a part of the images only: open that folder instead")
        return None
    file = min(above, key=len)
    where = f"{tree.path}/{file}"
    try:
        content = tree.read(file)
    except Exception as error:  # damaged zip entries fail in many ways
        raise DataError(f"{where}: cannot be read ({reason_of(error)})") from error
    start = len(file) - len(LABELS_NAME)
    return labels_from_json(content, [name[start:] for name in names], where)


def labels_from_json(content: bytes, names: Sequence[str], where: str) -> Labels:
    """Labels from ``{"labels": [["00000/img00000000.png", 6], ...]}``; ``{"labels": null}`` means there are none.

    The classes may be named: ``"class_names": ["cat", "dog", ...]`` beside ``"labels"``. A byte order mark, ``./``
    before a name and other forms of its accents make no difference.

    Args:
        content: the bytes of ``dataset.json``.
        names: the image files, relative to it, in the order wanted.
        where: name of the json file for messages.

    Raises:
        DataError: not such a file; a label is no integer in 0..999,999, or has no name where others have; an entry
            names a file that is not there or comes twice; a file has no entry.
    """
    try:
        parsed = json.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error})") from error
    entries = parsed.get("labels") if isinstance(parsed, dict) else parsed
    if entries is None:
        return Labels(None, absent=f"{LABELS_NAME} says that there are none")
    if not isinstance(parsed, dict) or not isinstance(entries, list):
        raise DataError(f'{where}: expected {{"labels": [["file.png", 6], ...]}} or {{"labels": null}}')
    position = {normal_name(name): index for index, name in enumerate(names)}
    position |= {name: index for index, name in enumerate(names)}  # names as they are come first
    labels = np.full(len(names), -1, dtype=np.int64)
    unknown = []
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise DataError(f'{where}: expected ["file.png", 6], got {_short(entry)}')
        name, label = entry[0].replace("\\", "/"), entry[1]
        if type(label) is not int or not 0 <= label <= LARGEST_LABEL:
            raise DataError(f"{where}: the label of {name} is {_short(label)}, not an integer in 0..{LARGEST_LABEL:,}")
        index = position.get(name, position.get(normal_name(name)))
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
    return named_labels(labels, parsed.get("class_names"), where)


def labels_json(labels: Iterable[tuple[str, int]] | None, class_names: Sequence[str] | None) -> dict:
    """The content of ``dataset.json``, as :func:`labels_from_json` reads it.

    Args:
        labels: name and label of every file; None for no labels.
        class_names: name of label ``k`` at index ``k``; None if classes are known by their numbers.
    """
    if labels is None:
        return {"labels": None}
    names = {} if class_names is None else {"class_names": list(class_names)}
    return {"labels": [[name, int(label)] for name, label in labels], **names}


def labels_from_folders(names: Sequence[str]) -> Labels:
    """The folders that images lie in as classes, numbered in natural order.

    Folders around everything are left out of account, and so are ``train``, ``val`` and ``test`` above the classes.
    There are no labels if any image lies beside the folders, if there is one folder only, or if the folders are the
    numbered ones that EDM fills with a thousand images each (``00001/img00001234.png``).
    """
    parts = [name.split("/") for name in names]
    depth = 0
    while all(len(part) > depth + 1 and part[depth] == parts[0][depth] for part in parts):
        depth += 1
    folders = sorted({part[depth] for part in parts if len(part) > depth + 1}, key=natural_key)
    splits = folders if folders and all(folder.lower() in _SPLITS for folder in folders) else []
    if all(_is_chunk("/".join(part[depth:])) for part in parts):
        return Labels(None, absent="its folders are numbered, each of a thousand images")
    if splits:
        depth += 1
    loose = [name for name, part in zip(names, parts) if len(part) == depth + 1]
    if len(loose) == len(names):
        if splits:
            return Labels(None, absent=f"the folders {listed(splits)} are no classes and hold none")
        if not depth:
            return Labels(None, absent=f"no {LABELS_NAME}, and no folders that could be classes")
        return _one_class(parts[0][depth - 1])
    if loose:
        told = f"in no class folder: {len(loose)} of {len(names)} images, such as {printable(loose[0])}"
        return Labels(None, absent=f"{told}; sort them in or remove them")
    classes = [_composed(part[depth]) for part in parts]
    if len(set(classes)) == 1:
        return _one_class(classes[0])
    return labels_by_name(classes)


def labels_by_name(classes: Sequence[str]) -> Labels:
    """Labels of images whose classes are given by name, numbered in natural order of the names."""
    classes = [_composed(name) for name in classes]
    names = sorted(set(classes), key=natural_key)
    number = {name: label for label, name in enumerate(names)}
    return named_labels(np.array([number[name] for name in classes], dtype=np.int64), names, "")


def named_labels(numbers: np.ndarray, names: object, where: str) -> Labels:
    """Labels with names. Names that are numbers become the labels: such classes need no names.

    Args:
        numbers: int64 ``(N,)``, non-negative.
        names: name of label ``k`` at index ``k``, or None; as a file has it.
        where: for messages.

    Raises:
        DataError: names that are no list of different words, or too few of them.
    """
    if names is None:
        return Labels(numbers)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise DataError(f"{where}: class_names must be a list of names, got {_short(names)}")
    given = tuple(_composed(name) for name in names)
    if twice := next((name for name, count in Counter(given).items() if count > 1), None):
        raise DataError(f"{where}: two classes are called {twice!r}")
    if len(numbers) and int(numbers.max()) >= len(given):
        raise DataError(f"{where}: label {int(numbers.max())} has no name: there are {len(given)}")
    if all(map(is_number, given)):
        return Labels(np.array([int(name) for name in given], dtype=np.int64)[numbers])
    return Labels(numbers, given)


def is_number(name: str) -> bool:
    """Whether a class of this name is known by its number, 0..999,999."""
    return re.fullmatch(r"0|[1-9][0-9]{0,5}", name) is not None


def class_names_of(labels: np.ndarray, names: Sequence[str] | None) -> dict[str, int]:
    """How many images each class has, by name, in the order of their numbers; classes without an image are left out."""
    found, counts = np.unique(labels, return_counts=True)
    texts = [str(label) if names is None else names[label] for label in found.tolist()]
    return dict(zip(texts, counts.tolist()))


def vocabulary(classes: Sequence[Iterable[str]]) -> tuple[str, ...]:
    """The classes of several sets in one order: the first set's, then what others add; numbers ascending."""
    names = tuple(dict.fromkeys(chain.from_iterable(classes)))
    return tuple(sorted(names, key=int)) if all(map(is_number, names)) else names


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


def _beside_images(values: Sequence[int | str], names: Sequence[str], where: str) -> Labels:
    if all(isinstance(value, int) for value in values):
        for name, value in zip(names, values):
            if not 0 <= int(value) <= LARGEST_LABEL:
                raise DataError(f"{where}: the label of {name} is {value}, not in 0..{LARGEST_LABEL:,}")
        return Labels(np.array(values, dtype=np.int64))
    if empty := next((name for name, value in zip(names, values) if value == ""), None):
        raise DataError(f"{where}: the label of {empty} is empty")
    return labels_by_name([str(value) for value in values])


def _one_class(folder: str) -> Labels:
    only = _composed(folder)
    return Labels(None, (only,), absent=f"all images lie in one folder, {printable(only)}")


def _is_chunk(name: str) -> bool:
    """Whether a file lies in EDM's folder for its thousand: ``00001/img00001234.png`` or ``001000/001234.png``."""
    match = re.match(r"([0-9]{5})/img(?:-[a-z-]+-)?([0-9]{8})\.|([0-9]{6})/([0-9]{6})\.", name)
    if match is None:
        return False
    if match[1]:
        return int(match[2]) // 1000 == int(match[1])
    return int(match[4]) // 1000 * 1000 == int(match[3])


def _composed(name: str) -> str:
    """A class name in one form of accented letters (macOS takes them apart in file names), fit for a terminal."""
    return printable(unicodedata.normalize("NFC", name))


def listed(names: Iterable[str]) -> str:
    """The first ten names for a message, fit for a terminal."""
    whole = list(names)
    return printable(", ".join(whole[:10])) + (f", ... ({len(whole):,} in all)" if len(whole) > 10 else "")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
