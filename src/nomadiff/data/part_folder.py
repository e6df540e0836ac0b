"""Work that takes hours goes on in ``<out>.part``: killed at any moment, the same command continues it.

The folder says what it is for, is locked by the process that works in it, and is removed when ``out`` is whole.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nomadiff.data.manifest import MANIFEST_NAME
from nomadiff.data.writing import refuse_existing
from nomadiff.errors import DataError, Interrupted, UsageError
from nomadiff.files import read_json, told_in_one_line, write_json

__all__ = ["JOB_NAME", "LOCK_NAME", "deliver", "is_delivered", "part_folder", "part_of"]

JOB_NAME = "job.json"
LOCK_NAME = ".lock"
_DELIVERED = "delivered.json"


def part_of(out: Path) -> Path:
    """Where the work on ``out`` goes on."""
    return out.with_name(f"{out.name}.part")


@contextmanager
def part_folder(out: Path, recipe: dict[str, Any]) -> Iterator[Path]:
    """Hold ``<out>.part`` while the block works on ``out``; it is kept if the block is stopped, and removed after it.

    Args:
        out: what is to be made, with :func:`deliver`.
        recipe: plain values; what must not change when the work continues.

    Raises:
        UsageError: ``out`` is taken, another process works on it, or the folder holds another job or something else.
        Interrupted: Ctrl-C; what is done is kept.
    """
    part = part_of(out)
    if not part.exists():
        refuse_existing(out)
    with told_in_one_line(part):
        part.mkdir(parents=True, exist_ok=True)
    lock = FileLock(part / LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{part} is in use by another process, which makes {out.name}") from error
    except OSError as error:
        raise DataError(f"{part}: cannot be locked ({error.strerror or error})") from error
    try:
        _claim(part, recipe)
        if not is_delivered(out):
            refuse_existing(out)  # once more: while we waited for nobody, another process may have finished it
        yield part
        _remove(part)
    except BaseException as error:
        begun = _holds_work(part)
        if not begun:
            _tidy(part)  # a mistaken command leaves nothing
        if isinstance(error, KeyboardInterrupt):
            kept = f"what is done is kept in {part}" if begun else "nothing was done yet"
            raise Interrupted(f"stopped, {kept}: run the same command again to go on", signal.SIGINT) from None
        raise
    finally:
        lock.release()


def deliver(out: Path, write: Callable[[Path], None]) -> None:
    """Make the whole inside the working folder and move it to ``out``, once, however often this is killed.

    Args:
        out: its name; the working folder is held.
        write: writes the whole to the path it is given, in one atomic step.

    Raises:
        UsageError: ``out`` appeared in the meantime.
    """
    if is_delivered(out):
        return
    part = part_of(out)
    made = part / f"whole{out.suffix}"
    if not made.exists():
        write(made)
    refuse_existing(out)
    # before the move: if this process is killed after it, the next one must know that what lies there is its own
    write_json(part / _DELIVERED, _identity(made))
    with told_in_one_line(out):
        if out.is_dir():
            out.rmdir()  # empty, or refused above
        made.replace(out)


def is_delivered(out: Path) -> bool:
    """Whether ``out`` is what a killed process made from this working folder, not anybody's file."""
    told = part_of(out) / _DELIVERED
    try:
        return told.exists() and read_json(told) == _identity(out)
    except OSError:
        return False


def _claim(part: Path, recipe: dict[str, Any]) -> None:
    """Write down what the folder is for, or make sure that it is for that."""
    recipe = json.loads(json.dumps(recipe))
    path = part / JOB_NAME
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise DataError(f"{path}: expected a JSON object; remove {part} to start anew")
        different = sorted(key for key in found.keys() | recipe.keys() if found.get(key) != recipe.get(key))
        if different and _holds_work(part):
            raise UsageError(
                f"{part} holds another job half done (differs in {', '.join(different)}); "
                "finish it, remove it, or choose another --out"
            )
        if not different:
            return
    elif any(not entry.name.startswith(".") for entry in part.iterdir()):
        raise UsageError(f"{part} is not empty and not a job of nomadiff; choose another --out")
    write_json(path, recipe)


def _holds_work(part: Path) -> bool:
    return any(entry.name not in (JOB_NAME, _DELIVERED) and not entry.name.startswith(".") for entry in part.iterdir())


def _remove(part: Path) -> None:
    """Delete the folder; what says that the work was delivered goes after the work itself, in case of a kill."""
    for entry in part.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name not in (JOB_NAME, _DELIVERED, LOCK_NAME):
            entry.unlink(missing_ok=True)
    _tidy(part)


def _tidy(part: Path) -> None:
    """Delete a folder without work."""
    for name in (_DELIVERED, JOB_NAME, LOCK_NAME):
        (part / name).unlink(missing_ok=True)
    with suppress(OSError):  # somebody's own files
        part.rmdir()


def _identity(path: Path) -> list[int]:
    """What a move leaves as it is: inode, size and time of a file, or of the manifest in a folder."""
    stat = (path / MANIFEST_NAME if path.is_dir() else path).stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
