"""Images that lie in memory already: arrays, and data sets that hand them out one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import IterableDataset

from nomadiff.data.arrays import channel_axis, fit_array
from nomadiff.data.decoding import UnusableImage, fit_square, plain_image
from nomadiff.data.image_set import ImageSet
from nomadiff.data.labels import Labels, checked_labels, labels_by_name, named_labels
from nomadiff.errors import DataError

__all__ = ["images_in_array", "images_in_dataset"]


def images_in_array(
    images: Tensor | np.ndarray,
    name: str,
    labels: Tensor | np.ndarray | Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    resolution: int | None = None,
) -> ImageSet:
    """A copy of an array of images; see :meth:`~nomadiff.data.image_source.ImageSource.from_array`."""
    array = _numpy(images)
    if array.ndim == 3 and array.dtype == np.uint8:
        array = array[:, None]  # grey
    if channel_axis(array, name) == 3:
        array = array.transpose(0, 3, 1, 2)
    found = torch.from_numpy(fit_array(np.array(array, order="C"), resolution, name))
    return _labelled(found, None if labels is None else _numpy(labels), class_names, name)


def images_in_dataset(
    dataset: Iterable[Any], name: str, class_names: Sequence[str] | None = None, resolution: int | None = None
) -> ImageSet:
    """The images of a data set; see :meth:`~nomadiff.data.image_source.ImageSource.from_dataset`."""
    pixels: list[np.ndarray] = []
    labels: list[Any] = []
    for number, item in enumerate(_items(dataset)):
        where = f"{name}, item {number}"
        image, *rest = item if isinstance(item, (tuple, list)) else (item,)
        if len(rest) > 1:
            raise DataError(f"{where}: expected an image or (image, label), got {len(rest) + 1} values")
        try:
            found = np.asarray(fit_square(_image(image), resolution))
        except UnusableImage as error:
            raise DataError(f"{where}: {error}") from error
        first = pixels[0] if pixels else found
        if found.shape[0] != found.shape[1] or found.shape[:2] != first.shape[:2]:
            sizes = f"{found.shape[1]}x{found.shape[0]} pixels, item 0 of {first.shape[1]}x{first.shape[0]}"
            raise DataError(f"{where}: {sizes}: squares of one size are needed; pass resolution=N to crop and resize")
        pixels.append(found)
        labels += rest
    if not pixels:
        raise DataError(f"{name}: no images")
    if len(labels) not in (0, len(pixels)):
        raise DataError(f"{name}: {len(pixels) - len(labels)} of {len(pixels)} items have no label")
    if any(each.ndim == 3 for each in pixels):  # a set that mixes grey and RGB becomes RGB, as one of files does
        pixels = [each if each.ndim == 3 else np.repeat(each[..., None], 3, axis=2) for each in pixels]
        images = np.stack(pixels).transpose(0, 3, 1, 2)
    else:
        images = np.stack(pixels)[:, None]
    if class_names is None:  # what torchvision's data sets call them
        known = getattr(dataset, "classes", None)
        listed = isinstance(known, (list, tuple)) and all(isinstance(each, str) for each in known)
        class_names = known if listed and labels else None
    found_images = torch.from_numpy(np.ascontiguousarray(images))
    if labels and all(isinstance(label, str) for label in labels):
        return _with(found_images, labels_by_name(labels))
    numbers = None if not labels else np.array([_number(label, name) for label in labels])
    return _labelled(found_images, numbers, class_names, name)


def _labelled(images: Tensor, numbers: np.ndarray | None, class_names: Sequence[str] | None, name: str) -> ImageSet:
    if numbers is None:
        if class_names is not None:
            raise DataError(f"{name}: classes are named, and the images have no labels")
        return _with(images, Labels(None, absent="none were given"))
    names = None if class_names is None else list(class_names)
    return _with(images, named_labels(checked_labels(numbers, len(images), name), names, name))


def _with(images: Tensor, labels: Labels) -> ImageSet:
    return replace(ImageSet(images, labels.tensor(), None), class_names=labels.names, unlabelled=labels.absent)


def _items(dataset: Iterable[Any]) -> Iterator[Any]:
    """The items in order: torch's map-style data sets have a length and places, and do not say where they end."""
    if isinstance(dataset, Sized) and not isinstance(dataset, (IterableDataset, Mapping)):
        find = getattr(dataset, "__getitem__", None)
        if find is not None:
            return (find(index) for index in range(len(dataset)))
    return iter(dataset)


def _image(item: Any) -> Image.Image:
    """One image of a data set, grey or RGB.

    Raises:
        UnusableImage: it is none, or not 8-bit.
    """
    if isinstance(item, Image.Image):
        return plain_image(item)
    if not isinstance(item, (np.ndarray, Tensor)):
        raise UnusableImage(f"a {type(item).__name__} is no image: expected PIL, numpy or a tensor")
    array = _numpy(item)
    if array.dtype.kind == "f":
        array = _bytes(array)
    if array.ndim == 3 and array.shape[0] in (1, 3) and (array.shape[2] not in (1, 3) or isinstance(item, Tensor)):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or 0 in array.shape or array.shape[2:] not in ((), (3,)):
        shape = "x".join(map(str, item.shape))
        raise UnusableImage(f"expected one uint8 image of 1 or 3 channels, got {array.dtype} of shape {shape}")
    return Image.fromarray(np.ascontiguousarray(array))


def _bytes(values: np.ndarray) -> np.ndarray:
    """Bytes from floats that are bytes / 255, what torchvision's ToTensor makes; nothing else is guessed."""
    scaled = values.astype(np.float64) * 255
    whole = np.rint(scaled)
    if not np.isfinite(scaled).all() or np.abs(scaled - whole).max() > 0.01 or whole.min() < 0 or whole.max() > 255:
        raise UnusableImage(
            "its floats are not bytes / 255 (normalised or augmented?): leave that transform out, or give uint8"
        )
    return whole.astype(np.uint8)


def _number(label: Any, name: str) -> int:
    array = _numpy(label) if isinstance(label, (np.generic, np.ndarray, Tensor)) else None
    value = label if array is None or array.size != 1 else array.item()
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{name}: a label must be an integer or a name, got {type(label).__name__}")
    return value


def _numpy(values: Any) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
