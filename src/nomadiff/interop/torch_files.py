"""Files of PyTorch, read with the closed table of :mod:`nomadiff.safe_pickle`.

Three containers hold the same objects: a bare pickle (snapshots of EDM and EDM2; each tensor carries a small file of
the third kind), the zip of ``torch.save`` since 1.6, and the file of ``torch.save`` before that. ``torch.load`` is not
used: what is read here is safe with any version of it.
"""

from __future__ import annotations

import io
import math
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nomadiff.errors import DataError
from nomadiff.files import require_regular
from nomadiff.pickled_values import PlainValues
from nomadiff.safe_pickle import Build, Built, PickleReader, Reference, Unfit, printable

__all__ = ["Module", "read_torch_file"]

_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_LEGACY_START = b"\x80\x02\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_DEEPEST_MODULE = 64
_MOST_ENTRIES = 1_000_000  # of all modules together
_LONGEST_NAMES = 10_000_000  # characters of all their full names; a module used several times has several
_MOST_DIMENSIONS = 8

_STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Module(Built):
    """A module, or any object of NVIDIA's ``torch_utils.persistence``, as the plain values it was made of.

    Attributes:
        class_name: name of its class, without the Python module.
        state: its ``__dict__``.
    """

    __slots__ = ("class_name",)

    def __init__(self, class_name: str, state: dict[str, Any] | None = None) -> None:
        super().__init__(state)
        self.class_name = class_name

    def attribute(self, name: str, default: Any = None) -> Any:
        """One entry of its ``__dict__``."""
        return self.state.get(name, default) if type(self.state) is dict else default

    def _entries(self, kind: str) -> dict[Any, Any]:
        table = self.attribute(kind)
        return table if type(table) is dict else {}

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by full name, as ``torch.nn.Module.state_dict`` names them.

        Raises:
            DataError: the tree of modules contains itself.
        """
        found: dict[str, Tensor] = {}
        pending: list[tuple[str, Module, int]] = [("", self, 0)]
        seen = letters = 0
        while pending:
            prefix, module, depth = pending.pop()
            hidden = module.attribute("_non_persistent_buffers_set")
            for kind in ("_parameters", "_buffers", "_modules"):
                entries = module._entries(kind)
                seen += len(entries)
                if depth > _DEEPEST_MODULE or seen > _MOST_ENTRIES:
                    raise DataError(f"refused: the modules of this {printable(self.class_name)} contain themselves")
                for name, value in entries.items():
                    if type(name) is not str or not name.isprintable():
                        raise DataError(f"damaged: a part of this {printable(self.class_name)} has no proper name")
                    letters += len(prefix) + len(name)
                    if letters > _LONGEST_NAMES:
                        raise DataError(f"refused: the names in this {printable(self.class_name)} have no end")
                    if isinstance(value, Module):
                        pending.append((f"{prefix}{name}.", value, depth + 1))
                    elif isinstance(value, Tensor) and not (type(hidden) is set and name in hidden):
                        found[f"{prefix}{name}"] = value
        return found


class _Contents(PlainValues):
    """The plain values and what PyTorch adds to them."""

    def table(self) -> dict[tuple[str, str], Build]:
        """The closed table."""
        table = super().table() | {
            ("torch_utils.persistence", "_reconstruct_persistent_obj"): self.persistent_object,
            ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            ("torch._utils", "_rebuild_parameter"): self.parameter,
            ("torch.storage", "_load_from_bytes"): self.storage,
            ("torch.nn.modules.container", "ModuleDict"): self.module_dict,
            ("dnnlib.tflib.network", "Network"): self.network_of_tensorflow,
        }
        for name in _STORAGES:
            table["torch", name] = self.only_a_type
        return table

    def persistent_object(self, meta: Any) -> Module:
        """NVIDIA's persistent objects carry their class as source text, which their own reader runs: it is dropped."""
        if type(meta) is not dict or type(meta.get("class_name")) is not str or type(meta.get("state")) is not dict:
            raise Unfit("damaged: an object without class name and state")
        return Module(meta["class_name"], meta["state"])

    def network_of_tensorflow(self, *_: Any) -> Any:
        raise Unfit(
            "refused: a pickle of TensorFlow (dnnlib.tflib), as the first StyleGANs were published; take the file for "
            "PyTorch, or convert it with the legacy.py of stylegan2-ada-pytorch"
        )

    def module_dict(self) -> Module:
        return Module("ModuleDict")

    def tensor(self, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        if type(storage) is not Tensor or not len(size) == len(stride) <= _MOST_DIMENSIONS:
            raise Unfit("damaged: a tensor without storage or shape")
        if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)):
            raise Unfit("damaged: a tensor with a size that is no number")
        count = math.prod(size)
        last = offset + sum((length - 1) * step for length, step in zip(size, stride)) if count else 0
        # more elements than stored (a stride of 0) would be a small file that fills the memory
        if count > storage.numel() or last >= max(storage.numel(), 1):
            raise Unfit(f"damaged: a tensor of {count:,} numbers in a storage of {storage.numel():,}")
        return storage.as_strided(size, stride, offset)

    def parameter(self, data: Any, *_: Any) -> Tensor:
        if type(data) is not Tensor:
            raise Unfit("damaged: a parameter that is no tensor")
        return data

    def storage(self, data: Any) -> Tensor:
        if type(data) is not bytes:
            raise Unfit("damaged: a storage that is not bytes")
        self.spend(len(data))
        return _read_storage(data, self._where)

    def numbers(self, data: bytes | memoryview, dtype: torch.dtype, count: int) -> Tensor:
        """The first ``count`` numbers of ``data``, copied."""
        self.spend(count * dtype.itemsize)
        return _numbers(data, dtype, count)


def _numbers(data: bytes | memoryview, dtype: torch.dtype, count: int) -> Tensor:
    size = count * dtype.itemsize
    if count < 0 or size > len(data):
        raise Unfit(f"damaged: a storage of {size:,} bytes announced, {len(data):,} there")
    return torch.frombuffer(bytearray(data[:size]), dtype=dtype) if count else torch.empty(0, dtype=dtype)


def _storage_key(identity: Any) -> tuple[torch.dtype, str, int]:
    """dtype, key and number of elements in one of torch's persistent ids.

    Raises:
        Unfit: it is something else.
    """
    if type(identity) is tuple and len(identity) in (5, 6) and (len(identity) == 5 or identity[5] is None):
        kind, storage, key, _, count = identity[:5]
        known = type(storage) is Reference and storage.module == "torch" and storage.name in _STORAGES
        if kind == "storage" and known and type(key) is str and type(count) is int and count >= 0:
            return _STORAGES[storage.name], key, count
    raise Unfit("refused: a persistent id that is no storage")


def _legacy_body(data: bytes | memoryview, where: str) -> int:
    """Check the head of a file of ``torch.save`` before 1.6, and give the position of its contents."""
    head = PickleReader(data, where, {})
    if head.read() != _MAGIC or head.read() != _LEGACY_PROTOCOL:
        raise DataError(f"{where}: damaged (not a file of torch.save)")
    system = head.read()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise DataError(f"{where}: refused: written on a big-endian machine")
    return head.position


def _after_length(data: bytes | memoryview, position: int, count: int, where: str) -> memoryview:
    """The bytes behind the length that stands before each storage's numbers."""
    rest = memoryview(data)[position:]
    if len(rest) < 8 or struct.unpack_from("<q", rest)[0] != count:
        raise DataError(f"{where}: damaged (a storage of another length than announced)")
    return rest[8:]


def _read_storage(data: bytes, where: str) -> Tensor:
    """A file of ``torch.save`` before 1.6 that holds nothing but one storage, as each tensor in a bare pickle does."""
    table: dict[tuple[str, str], Build] = {("torch", name): _Contents(where, 0).only_a_type for name in _STORAGES}
    body = PickleReader(data, where, table, _storage_key, start=_legacy_body(data, where))
    announced = body.read()
    # types first: to compare values that hold values twice, and those others twice, may take forever
    proper = type(announced) is tuple and tuple(map(type, announced)) == (torch.dtype, str, int)
    if not proper or body.read() != [announced[1]]:
        raise DataError(f"{where}: damaged (not a storage)")
    dtype, _, count = announced
    return _numbers(_after_length(data, body.position, count, where), dtype, count)


def _read_legacy(data: memoryview, where: str) -> Any:
    """A file of ``torch.save`` before 1.6: five pickles, then every storage's length and numbers."""
    contents = _Contents(where, len(data))
    announced: dict[str, tuple[torch.dtype, int]] = {}
    tensors: dict[str, Tensor] = {}

    def stored(identity: Any) -> Tensor | Reference:
        if type(identity) is tuple and len(identity) == 4 and identity[0] == "module":
            return identity[1]  # torch's own classes came with their source text
        dtype, key, count = _storage_key(identity)
        if announced.setdefault(key, (dtype, count)) != (dtype, count):
            raise Unfit("damaged (one storage, two sizes)")
        if key not in tensors:
            contents.spend(count * dtype.itemsize)
            tensors[key] = torch.empty(count, dtype=dtype)  # the numbers come behind the pickles
        return tensors[key]

    body = PickleReader(data, where, contents.table(), stored, start=_legacy_body(data, where))
    value = body.read()
    keys = body.read()
    if type(keys) is not list or any(type(key) is not str for key in keys) or set(keys) != announced.keys():
        raise DataError(f"{where}: damaged (its list of storages does not fit its contents)")
    position = body.position
    for key in keys:
        dtype, count = announced[key]
        rest = _after_length(data, position, count, where)
        if len(rest) < count * dtype.itemsize:
            raise DataError(f"{where}: damaged (cut short)")
        tensors[key].copy_(_numbers(rest, dtype, count))
        position += 8 + count * dtype.itemsize
    return value


def _read_zip(file: Path | io.BytesIO, size: int, where: str) -> Any:
    """A file of ``torch.save`` since 1.6: a zip with ``data.pkl`` and one entry a storage, nothing compressed."""
    contents = _Contents(where, size)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise DataError(f"{where}: refused: torch.save does not compress, this zip is compressed")
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise DataError(f"{where}: not a file of torch.save (no data.pkl in it)")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
            raise DataError(f"{where}: refused: written on a big-endian machine")
        loaded: dict[str, Tensor] = {}

        def storage(identity: Any) -> Tensor:
            dtype, key, count = _storage_key(identity)
            if key not in loaded:
                if f"{root}data/{key}" not in entries:
                    raise Unfit(f"damaged (storage {printable(key)} is missing)")
                loaded[key] = contents.numbers(archive.read(f"{root}data/{key}"), dtype, count)
            if loaded[key].dtype != dtype or loaded[key].numel() != count:
                raise Unfit("damaged (one storage, two sizes)")
            return loaded[key]

        return PickleReader(archive.read(pickles[0]), where, contents.table(), storage).read()


def _mapped(path: Path) -> memoryview:
    """The bytes of a file, read as they are needed; the map is closed when nothing looks at it any more."""
    if require_regular(path) == 0:
        return memoryview(b"")
    with open(path, "rb") as handle:
        return memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))


def read_torch_file(file: str | Path | bytes, where: str | None = None) -> Any:
    """Read a snapshot of EDM or EDM2, or a file of ``torch.save``, without running anything in it.

    Args:
        file: its path, or its bytes.
        where: what to call it in messages; the path unless given.

    Returns:
        What it holds: plain values, tensors on the CPU (they may share memory), and objects as :class:`Module`.

    Raises:
        DataError: absent, damaged, or asking for something a file of weights has no need of.
    """
    if isinstance(file, bytes):
        data, where = memoryview(file), where or "file"
    else:
        path = Path(file)
        where = where or str(path)
        try:
            data = _mapped(path)
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file") from error
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if data[:4] == b"PK\x03\x04":
        try:
            return _read_zip(io.BytesIO(file) if isinstance(file, bytes) else Path(file), len(data), where)
        except DataError:
            raise
        except Exception as error:  # zipfile has many
            raise DataError(f"{where}: damaged zip ({printable(str(error))})") from error
    if data[: len(_LEGACY_START)] == _LEGACY_START:
        return _read_legacy(data, where)
    reader = PickleReader(data, where, _Contents(where, len(data)).table())
    value = reader.read()
    if reader.position != len(data):
        raise DataError(f"{where}: damaged pickle (more bytes behind its end)")
    return value
