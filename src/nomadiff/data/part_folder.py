"""Long work is done in ``<out>.part``: killed at any moment, the same command continues it.

The folder says what it is for, is locked by the process that works in it, and is removed when ``out`` is whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nomadiff.data.manifest import MANIFEST_NAME
from nomadiff.data.writing import check_images_output, refuse_existing
from nomadiff.errors import DataError, Interrupted, UsageError, signal_of
from nomadiff.files import one_line_errors, read_json, remove_tree, used_alone, write_json
from nomadiff.plain import differences

__all__ = [
    "JOB_NAME",
    "LOCK_NAME",
    "deliver",
    "discard",
    "is_begun",
    "is_delivered",
    "is_made",
    "part_folder",
    "part_of",
]

JOB_NAME = "job.json"
LOCK_NAME = ".lock"


def part_of(out: Path) -> Path:
    """The working folder of ``out``."""
    return out.with_name(f"{out.name}.part")


def _note_of(out: Path) -> Path:
    """The note that ``out`` is whole and from which job, until the working folder is deleted.

    A folder cannot be deleted in one step, this file can: killed at any moment, the same command either works on, or
    finds the note and ends as if it had not been killed.
    """
    return out.with_name(f".{out.name}.part")


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
    part, recipe = part_of(out), json.loads(json.dumps(recipe))
    with one_line_errors(part):
        if not is_begun(out):
            check_images_output(out)
        part.mkdir(parents=True, exist_ok=True)
    with used_alone(part, part / LOCK_NAME):
        try:
            if not is_delivered(out) or read_json(_note_of(out), dict).get("job") != recipe:
                _claim(part, recipe)
                _note_of(out).unlink(missing_ok=True)
                refuse_existing(out)  # once more: another process may have finished it before we got the lock
            yield part
            discard(out)
        except BaseException as error:
            begun = _holds_work(part)
            if not begun:
                _tidy(part)  # a command with an error leaves no folder
            if isinstance(error, KeyboardInterrupt):
                kept = f"what is done is kept in {part}" if begun else "nothing was done yet"
                raise Interrupted(f"stopped, {kept}: run the same command again to go on", signal_of(error)) from None
            raise


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
    made = _made(out)
    if not made.exists():
        write(made)
    refuse_existing(out)
    # before the move: if this process is killed after it, the next one must know that what lies there is its own
    write_json(_note_of(out), {"job": read_json(part_of(out) / JOB_NAME), "identity": _identity(made)})
    with one_line_errors(out):
        if out.is_dir():
            out.rmdir()  # empty, or refused above
        made.replace(out)


def is_begun(out: Path) -> bool:
    """Whether a killed process left work on ``out``, or the end of it, to this one."""
    return part_of(out).exists() or _note_of(out).exists()


def is_made(out: Path) -> bool:
    """Whether nothing is left to be computed: the whole lies in the working folder or was delivered."""
    return _made(out).exists() or is_delivered(out)


def is_delivered(out: Path) -> bool:
    """Whether ``out`` is what a killed process made in this working folder, not another file."""
    note = _note_of(out)
    try:
        return note.exists() and read_json(note, dict).get("identity") == _identity(out)
    except OSError:
        return False


def discard(out: Path) -> None:
    """Delete the working folder, what says whose the work is after the work, and last that ``out`` is whole."""
    part = part_of(out)
    for entry in part.iterdir() if part.exists() else ():
        if entry.is_dir():
            remove_tree(entry, ignore_errors=True)
        elif entry.name not in (JOB_NAME, LOCK_NAME):
            entry.unlink(missing_ok=True)
    _tidy(part)
    _note_of(out).unlink(missing_ok=True)


def _made(out: Path) -> Path:
    return part_of(out) / f"whole{out.suffix}"


def _claim(part: Path, recipe: dict[str, Any]) -> None:
    """Write down what the folder is for, or make sure that it is for that."""
    path = part / JOB_NAME
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise DataError(f"{path}: expected a JSON object; remove {part} to start anew")
        changed = differences(found, recipe)
        if not changed:
            return
        if _holds_work(part):
            raise UsageError(
                f"{part} holds another job half done (differs in {changed}); "
                "finish it, remove it, or choose another --out"
            )
    elif any(not entry.name.startswith(".") for entry in part.iterdir()):
        raise UsageError(f"{part} is not empty and not a job of nomadiff; choose another --out")
    write_json(path, recipe)


def _holds_work(part: Path) -> bool:
    return any(entry.name != JOB_NAME and not entry.name.startswith(".") for entry in part.iterdir())


def _tidy(part: Path) -> None:
    """Delete a folder without work."""
    for name in (JOB_NAME, LOCK_NAME):
        (part / name).unlink(missing_ok=True)
    with suppress(OSError):  # the user's own files
        part.rmdir()


def _identity(path: Path) -> list[int]:
    """Values that a move does not change: inode, size and time of a file, or of the manifest in a folder."""
    stat = (path / MANIFEST_NAME if path.is_dir() else path).stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns]
