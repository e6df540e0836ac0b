"""Latents instead of images: their space, how a set of them is stored, how one is drawn.

A set is what EDM2's training reads (Karras et al. 2024, appendix B.7): for every image the mean and the standard
deviation of the encoder's posterior, of which a fresh sample is drawn whenever the image is used. Beside the arrays
lies ``latents.json``, which says what decodes them and at which scale networks see them; a set without it, as EDM2's
own tool writes, is of the space of EDM2's ImageNet-512 networks.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nomadiff.data.containers import FileTree, open_tree
from nomadiff.data.decoding import reason_of
from nomadiff.data.labels import LABELS_NAME, labels_json
from nomadiff.data.manifest import MANIFEST_NAME
from nomadiff.data.mapped import let_go
from nomadiff.data.writing import store_entry
from nomadiff.errors import DataError, UsageError
from nomadiff.files import atomic_path
from nomadiff.plain import from_plain, parse_json
from nomadiff.progress import progress_bar

__all__ = [
    "SPACE_NAME",
    "LatentSpace",
    "alike",
    "fill_latents",
    "latent_names",
    "latent_shape",
    "read_space",
    "write_latents",
]

_BETWEEN = 1000  # latents read before the pages of a mapped array are let go

SPACE_NAME = "latents.json"


@dataclass(frozen=True)
class LatentSpace:
    """Which autoencoder latents belong to, and how raw ones are brought to the scale a network is trained on.

    The defaults are those of EDM2's ImageNet-512 networks.

    Attributes:
        vae: the autoencoder: folder, or ``hf:<user>/<name>``.
        vae_sha256: of its weights; None if unknown.
        factor: pixels a side for one latent.
        mean, std: of raw latents over a training set, by channel.
        final_std: standard deviation afterwards; the mean is then 0.
    """

    vae: str = "hf:stabilityai/sd-vae-ft-mse"
    vae_sha256: str | None = None
    factor: int = 8
    mean: tuple[float, ...] = (5.81, 3.25, 0.12, -2.15)
    std: tuple[float, ...] = (4.17, 4.62, 3.71, 3.28)
    final_std: float = 0.5

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std, self.final_std)
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, numbers)) or self.factor < 1:
            raise UsageError("a latent space needs a finite mean and standard deviation for each channel")
        if min(self.std, default=0) <= 0 or self.final_std <= 0:
            raise UsageError("a latent space needs a positive standard deviation for each channel")

    @property
    def channels(self) -> int:
        """Channels of a latent."""
        return len(self.mean)

    def normalised(self, raw: Tensor) -> Tensor:
        """Raw latents ``(N, C, h, w)`` on the network's scale."""
        mean, std = self._columns(raw)
        return (raw - mean) * (self.final_std / std)

    def raw(self, normalised: Tensor) -> Tensor:
        """The inverse of :meth:`normalised`."""
        mean, std = self._columns(normalised)
        return normalised * (std / self.final_std) + mean

    def draw(self, stored: Tensor, generator: torch.Generator) -> Tensor:
        """Latents to train on: a sample of each posterior, on the network's scale.

        Args:
            stored: any float type, ``(N, 2 C, h, w)`` means and standard deviations, or ``(N, C, h, w)`` latents
                without a spread of their own; raw.
            generator: where the noise comes from, on the device of ``stored``.

        Returns:
            float32 ``(N, C, h, w)``.
        """
        stored = stored.float()
        if stored.shape[1] == self.channels:
            return self.normalised(stored)
        mean, std = stored.chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=stored.device)
        return self.normalised(mean + std * noise)

    def difference(self, other: LatentSpace) -> str | None:
        """Why latents of two spaces cannot be mixed, in a few words; None if they can."""
        if None in (self.vae_sha256, other.vae_sha256):
            differ = self.vae != other.vae  # all there is to go by
        else:
            differ = self.vae_sha256 != other.vae_sha256  # the same autoencoder may have two paths
        if differ or self.factor != other.factor or self.channels != other.channels:
            return f"different autoencoders ({self.vae}, {other.vae})"
        scales = [(space.mean, space.std, space.final_std) for space in (self, other)]
        return None if scales[0] == scales[1] else "different scales (statistics)"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, values: Any) -> LatentSpace:
        """The inverse of :meth:`to_dict`.

        Raises:
            DataError: something else.
        """
        if type(values) is dict and not {"mean", "std"} <= values.keys():
            raise DataError("a latent space needs a mean and a standard deviation (std) for each channel")
        return from_plain(cls, values, "latent space")

    def _columns(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return _column(tuple(self.mean), like.device, like.dtype), _column(tuple(self.std), like.device, like.dtype)


@lru_cache(maxsize=16)
def _column(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Values as ``(1, C, 1, 1)``: made once, since a copy to a GPU waits for it."""
    with torch.inference_mode(False):  # where it is made first decides nothing about its later use
        return torch.tensor(values, device=device, dtype=dtype).reshape(1, -1, 1, 1)


def alike(parts: Sequence[Tensor]) -> list[Tensor]:
    """Stored latents of one kind, to be joined: where some have standard deviations, the others get zeros."""
    most = max(part.shape[1] for part in parts)
    return [part if part.shape[1] == most else torch.cat([part, torch.zeros_like(part)], dim=1) for part in parts]


def latent_names(names: Sequence[str]) -> list[str]:
    """The names that end like a stored latent."""
    return [name for name in names if name.lower().endswith(".npy")]


def read_space(path: str | Path) -> LatentSpace:
    """The space of a set of latents; none of them is read.

    Raises:
        DataError: nothing there, or no latents.
    """
    with open_tree(Path(path)) as tree:
        if not latent_names(tree.names):
            raise DataError(f"{path}: holds no latents")
        return _space(tree)


def latent_shape(tree: FileTree, names: Sequence[str]) -> tuple[tuple[int, ...], LatentSpace]:
    """Shape of a set of latents, ``(N, 2 C, h, w)`` or ``(N, C, h, w)``, by its first one, and their space.

    Args:
        tree: the folder or archive.
        names: its arrays.

    Raises:
        DataError: the first file is damaged.
    """
    space = _space(tree)
    return (len(names), *_latent(tree, names[0], space).shape), space


def fill_latents(tree: FileTree, names: Sequence[str], space: LatentSpace, held: np.ndarray) -> None:
    """Read a set of latents.

    They are held in half precision, whatever the file has: it costs less than a thousandth of the network's scale (the
    256 levels of a pixel cost four times as much) and halves the largest array in memory.

    Args:
        tree: the folder or archive.
        names: its arrays.
        space: their space.
        held: float16, of :func:`latent_shape`: filled, raw: means and standard deviations, or latents drawn by a model.

    Raises:
        DataError: a file is damaged, of another shape than the first, or not of finite numbers in half precision.
    """
    with progress_bar(f"reading {tree.path}", len(names)) as advance:
        for index, name in enumerate(names):
            array = _latent(tree, name, space)
            if array.shape != held.shape[1:]:
                raise DataError(f"{tree.path}/{name}: a latent of {_shape(array.shape)} among {_shape(held.shape[1:])}")
            with np.errstate(over="ignore"):  # what does not fit is reported
                held[index] = array
            if not np.isfinite(held[index]).all():
                raise DataError(f"{tree.path}: holds latents that are not finite in half precision")
            if index % _BETWEEN == 0:
                let_go(held)
            advance()


def _latent(tree: FileTree, name: str, space: LatentSpace) -> np.ndarray:
    try:
        return _array(tree.read(name), space)
    except MemoryError:
        raise
    except Exception as error:  # damaged zip entries and headers fail in many ways
        raise DataError(f"{tree.path}/{name}: not a latent ({reason_of(error)})") from error


def _space(tree: FileTree) -> LatentSpace:
    """The space a set says it is of, wherever in it that lies: an archive may wrap its folder, each shard may have one.

    Raises:
        DataError: a file that cannot be read, or two that differ.
    """
    space = None
    for name in (name for name in tree.names if name.rpartition("/")[2] == SPACE_NAME):
        try:
            found = LatentSpace.from_dict(parse_json(tree.read(name), SPACE_NAME))
        except Exception as error:  # damaged zip entries fail in many ways
            raise DataError(f"{tree.path}/{name}: cannot be read ({reason_of(error)})") from error
        if space is not None and found != space:
            raise DataError(f"{tree.path}/{name}: another latent space than in the set's other {SPACE_NAME}")
        space = found
    return space or LatentSpace()


def _array(content: bytes, space: LatentSpace) -> np.ndarray:
    """The array of a ``.npy`` file, in place: what its header claims is checked before anything is made of it."""
    handle = io.BytesIO(content)
    version = np.lib.format.read_magic(handle)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, in_columns, dtype = read_header(handle)
    if dtype not in (np.float16, np.float32) or len(shape) != 3 or in_columns:
        raise ValueError(f"{dtype} of shape {_shape(shape)}")
    if shape[0] not in (space.channels, 2 * space.channels) or shape[1] != shape[2] or 0 in shape:
        raise ValueError(f"shape {_shape(shape)}; its space has squares of {space.channels} channels, or twice as many")
    return np.frombuffer(content, dtype, offset=handle.tell()).reshape(shape)


def write_latents(
    path: str | Path,
    batches: Iterable[Tensor],
    count: int,
    *,
    space: LatentSpace,
    labels: Tensor | Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
    manifest: dict[str, Any] | None = None,
) -> None:
    """Write latents as they come to a ``.zip`` in EDM2's layout, whole or not at all.

    ``00000/img-mean-std-00000000.npy`` each, ``dataset.json`` with the labels or null, ``latents.json``, and
    ``manifest.json`` if there is one. Means and standard deviations in float32 are what EDM2's training reads.

    Args:
        path: the zip.
        batches: float16 or float32 ``(b, 2 C or C, h, w)``, raw, taken one at a time.
        count: number of latents in all.
        space: their latent space.
        labels: class label of every one.
        class_names: name of label ``k`` at index ``k``; None if classes are known by their numbers.
        manifest: what was encoded, or what drew them.

    Raises:
        UsageError: latents of another number or kind than said.
        NomadiffError: they are not finite; the disk is full, or the path cannot be written.
    """
    names: list[str] = []
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for batch in batches:
            if not batch.is_floating_point() or batch.ndim != 4:
                raise UsageError(f"{path}: latents must be float (b, C, h, w), got {batch.dtype} {tuple(batch.shape)}")
            if batch.shape[1] not in (space.channels, 2 * space.channels):
                raise UsageError(f"{path}: latents of {batch.shape[1]} channels in a space of {space.channels}")
            if not bool(torch.isfinite(batch).all()):
                raise DataError(f"{path}: latents are not finite; the model or autoencoder that made them is broken")
            kind = "img-mean-std" if batch.shape[1] == 2 * space.channels else "img-latent"
            for array in batch.detach().cpu().numpy():
                names.append(f"{len(names) // 1000:05d}/{kind}-{len(names):08d}.npy")
                buffer = io.BytesIO()
                np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
                store_entry(archive, names[-1], buffer.getvalue())
        if len(names) != count or (labels is not None and len(labels) != count):
            raise UsageError(f"{path}: expected {count} latents and labels, got {len(names)} latents")
        pairs = None if labels is None else ((name, int(label)) for name, label in zip(names, labels))
        store_entry(archive, LABELS_NAME, json.dumps(labels_json(pairs, class_names)).encode())
        store_entry(archive, SPACE_NAME, json.dumps(space.to_dict(), indent=2).encode())
        if manifest is not None:
            about = json.dumps({**manifest, "count": count}, indent=2, ensure_ascii=False, allow_nan=False)
            store_entry(archive, MANIFEST_NAME, about.encode())


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
