"""Tar archives of images, one or many (WebDataset's shards), read in place by their members' offsets."""

from __future__ import annotations

import os
import re
import stat
import tarfile
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import IO, Any, NamedTuple

from nomadiff.data.choice import Choice
from nomadiff.data.decoding import is_image_name, reason_of
from nomadiff.data.naming import LONGEST_NAME, is_hidden, leads_out, natural_key
from nomadiff.errors import DataError, UsageError
from nomadiff.files import LARGEST_READ, normal_name, open_regular
from nomadiff.plain import parse_json

__all__ = ["TarTree", "expanded", "is_pattern", "sample_of", "shards_of", "stamp"]

_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_MOST_SHARDS = 1_000_000
_ENDINGS = 8  # more, and dots in names mean something else than which image of a sample it is


class _Member(NamedTuple):
    shard: int
    offset: int
    size: int


class TarTree:
    """The files of one tar archive, or of several as if all were one; nothing is unpacked.

    In several archives a file's name is that of its archive, without ``.tar``, a slash and the name inside.

    Args:
        path: what was asked for, for messages.
        shards: the archives, in order.

    Attributes:
        path: as given.
        names: every file: shard by shard, inside a shard in natural order; hidden files are left out.

    Raises:
        DataError: not a tar archive, or damaged, cut off or compressed; an entry is a link or a device, its name leads
            out of the archive or appears twice; two archives have one name.
    """

    def __init__(self, path: Path, shards: Sequence[Path]) -> None:
        self.path = path
        self._shards = tuple(shards)
        self._members: dict[str, _Member] = {}
        self._stamps: list[list[int]] = []
        self.names: list[str] = []
        self.prefixes = [""] if len(shards) == 1 else [f"{shard.name.removesuffix('.tar')}/" for shard in shards]
        if len(set(self.prefixes)) < len(shards):
            raise DataError(f"{path}: two shards have the same name; rename one")
        for number, shard in enumerate(shards):
            found = self._index(number, shard)
            self.names += sorted(found, key=natural_key)

    def _index(self, number: int, shard: Path) -> list[str]:
        names = []
        end = 0
        try:
            with open_regular(shard) as handle, tarfile.open(fileobj=handle, mode="r:") as archive:
                self._stamps.append(stamp(handle.fileno()))
                size = self._stamps[-1][0]
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined] # it would keep every one
                    if member.offset < end or member.offset_data + member.size > size or member.size < 0:
                        raise ValueError("its entries overlap or end behind its end")
                    end = member.offset_data + member.size
                    if (name := self._checked(shard, member)) is None:
                        continue
                    name = self.prefixes[number] + name
                    if name in self._members:
                        raise DataError(f"{shard}: the entry {name!r} appears twice; refused")
                    self._members[name] = _Member(number, member.offset_data, member.size)
                    if not is_hidden(name):
                        names.append(name)
                _require_end(handle, end)
        except DataError:
            raise
        except OSError as error:
            raise DataError(f"{shard}: cannot be read ({error.strerror or error})") from error
        except Exception as error:  # damaged archives make tarfile raise a dozen kinds
            raise DataError(f"{shard}: not an uncompressed tar archive, or damaged ({reason_of(error)})") from error
        return names

    @staticmethod
    def _checked(shard: Path, member: tarfile.TarInfo) -> str | None:
        """The name of a file; None for a folder."""
        name = normal_name(member.name)
        if len(name) > LONGEST_NAME:
            raise DataError(f"{shard}: an entry has a name of {len(name):,} characters; refused")
        if leads_out(name):
            raise DataError(f"{shard}: the entry {name!r} leads out of the archive; refused")
        if member.isdir():
            return None
        if member.type not in _PLAIN or member.issparse():
            raise DataError(f"{shard}: the entry {name!r} is no plain file (a link, a device or sparse); refused")
        return name

    def read(self, name: str) -> bytes:
        """Bytes of one file. Safe to call from threads.

        Raises:
            ValueError: it claims an absurd size, or the archive has changed.
            OSError: the archive cannot be read.
        """
        member = self._members[name]
        if member.size > LARGEST_READ:
            raise ValueError(f"claims {member.size >> 20:,} MiB, too much for a file")
        with open(self._shards[member.shard], "rb", buffering=0) as handle:  # one at a time: a set may have thousands
            handle.seek(member.offset)
            content = handle.read(member.size)
        if len(content) != member.size:
            raise ValueError("is damaged, or its archive has changed")
        return content

    def fingerprint(self) -> list[Any]:
        """What changes when an archive does."""
        return [[shard.name, *each] for shard, each in zip(self._shards, self._stamps)]

    def labels_of(self, names: Sequence[str]) -> list[Any] | None:
        """What the samples of these images say of their class: an integer or a name each; None where none says it.

        ``.cls`` holds it as text, ``.json`` under ``"label"``.

        Raises:
            DataError: some say it and some do not, or a file cannot be read.
        """
        for ending, value in ((".cls", _text), (".json", _json_label)):
            files = [sample_of(name) + ending for name in names]
            if files[0] in self._members or any(file in self._members for file in files):
                found = [self._label(file, value) for file in files]
                missing = [name for name, label in zip(names, found) if label is None]
                if not missing:
                    return found
                if len(missing) < len(names):
                    told = f"{len(missing)} of {len(names)} images have no label in a {ending} file: {missing[0]}"
                    raise DataError(f"{self.path}: {told}")
        return None

    def _label(self, file: str, value: Callable[[bytes], Any]) -> Any:
        if file not in self._members:
            return None
        try:
            return value(self.read(file))
        except Exception as error:  # not UTF-8, not JSON, damaged
            raise DataError(f"{self.path}/{file}: cannot be read ({reason_of(error)})") from error

    def chosen(self, names: Sequence[str], choice: Choice) -> list[str]:
        """One image of every sample: a sample is what shares its name up to the first dot (``7.jpg``, ``7.cls``).

        Raises:
            UsageError: samples have several images and none of their endings is chosen, or one that there is not.
        """
        endings = list(dict.fromkeys(map(_ending, names)))
        alone = len(set(map(sample_of, names))) == len(names) or len(endings) > _ENDINGS
        if choice.images is None and alone:
            return list(names)
        if (ending := choice.one_of("images", endings)) not in endings:
            raise UsageError(f"{self.path}: no image ends in .{ending} (there are: {', '.join(endings[:_ENDINGS])})")
        return [name for name in names if _ending(name) == ending]


def sample_of(name: str) -> str:
    """The sample that a file belongs to: its name up to the first dot behind the last slash."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.split('.', 1)[0]}"


def _ending(name: str) -> str:
    return name[len(sample_of(name)) + 1 :]


def stamp(path: Path | int) -> list[int]:
    """Size, times and number of a file: what changes when it is written or replaced.

    Raises:
        OSError: it is not there.
    """
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def shards_of(path: Path, *endings: str) -> list[Path]:
    """The shards, in natural order, that a path means; none if it means something else.

    It may be one file, a pattern (``train-{000..146}.tar``, ``train-*.tar``), or a folder in which files of one of the
    endings lie, and neither images nor folders.

    Raises:
        DataError: a shard of a pattern is not there.
        UsageError: the pattern means too many.
    """
    if is_pattern(path):
        found = expanded(path)
        return found if all(each.suffix.lower() in endings for each in found) else []
    try:
        mode = path.stat().st_mode
    except OSError:
        return []
    if not stat.S_ISDIR(mode):
        return [path] if path.suffix.lower() in endings else []
    found = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if is_image_name(entry.name) or entry.is_dir():
                    return []
                if entry.name.lower().endswith(endings):
                    found.append(path / entry.name)
    except OSError:  # closed to us, or a link to itself: whoever lists its files says so
        return []
    if len({each.suffix.lower() for each in found}) > 1:
        return []
    return sorted(found, key=lambda each: natural_key(each.name))


def is_pattern(path: Path) -> bool:
    """Whether a path means several files: ``{...}`` or ``*`` in its last part, and nothing is called like that."""
    return re.search(r"\{[^{}]*(\.\.|,)[^{}]*\}|\*", path.name) is not None and not path.exists()


def expanded(pattern: Path) -> list[Path]:
    """The files that a pattern means: numbers in braces and alternatives in the order written, ``*`` in natural order.

    Raises:
        DataError: one of them is not there, or none is.
        UsageError: there would be more than a million.
    """
    parts = re.split(r"\{([^{}]*(?:\.\.|,)[^{}]*)\}", pattern.name)
    choices = [[part] if number % 2 == 0 else _alternatives(part) for number, part in enumerate(parts)]
    count = 1
    for each in choices:
        count *= len(each)
    if count > _MOST_SHARDS:
        raise UsageError(f"{pattern}: means {count:,} files; a set has at most {_MOST_SHARDS:,} shards")
    found: list[Path] = []
    for chosen in product(*choices):
        name = "".join(chosen)
        if "*" not in name:
            found.append(pattern.with_name(name))
            continue
        try:
            found += sorted(pattern.parent.glob(name), key=lambda each: natural_key(each.name))
        except (OSError, ValueError) as error:
            raise DataError(f"{pattern}: cannot be listed ({error})") from error
    if not found:
        raise DataError(f"{pattern}: there is no such file")
    if missing := next((each for each in found if not each.exists()), None):
        raise DataError(f"{pattern}: {missing.name} is not there")
    return found


def _alternatives(text: str) -> list[str]:
    match = re.fullmatch(r"([0-9]{1,12})\.\.([0-9]{1,12})", text)
    if match is None:
        return text.split(",")
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < _MOST_SHARDS:
        raise UsageError(f"{{{text}}}: write the smaller number first, and at most {_MOST_SHARDS:,} of them")
    return [str(number).zfill(len(match[1])) for number in range(first, last + 1)]


def _require_end(handle: IO[bytes], end: int) -> None:
    """Zeros must follow the last entry: tarfile takes any header that it cannot read for the end."""
    handle.seek(-(-end // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    empty = True
    while block := handle.read(1 << 20):
        empty = False
        if block.count(0) != len(block):
            raise ValueError("an entry cannot be read")
    if empty:
        raise ValueError("it is cut off")


def _text(content: bytes) -> int | str:
    text = content.decode("utf-8-sig").strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,12}", text) else text


def _json_label(content: bytes) -> int | str | None:
    found = parse_json(content, "label")
    label = found.get("label") if isinstance(found, dict) else None
    if label is not None and (isinstance(label, bool) or not isinstance(label, (int, str))):
        raise ValueError("its label is neither an integer nor a name")
    return label
