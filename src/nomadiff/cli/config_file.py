"""``--config FILE``: options of a verb read from TOML or YAML, and ``command.toml``, the file that repeats a run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from nomadiff.errors import DataError, UsageError
from nomadiff.files import COMMAND_NAME, read_regular, write_text

__all__ = ["config_reader", "repeating_verb", "split_config", "write_command"]

_RUNS = ("train", "compare", "improve", "shift", "loop", "reproduce", "demo")  # the others write sets and single files


def split_config(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Take ``--config FILE`` or ``--config=FILE`` out of a command line.

    Raises:
        UsageError: the file's name is missing, or given twice.
    """
    kept: list[str] = []
    found: list[Path] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != "--config":
            kept.append(word)
        elif file := value if equals else next(rest, ""):
            found.append(Path(file))
        else:
            raise UsageError("--config needs the name of a TOML or YAML file")
    if len(found) > 1:
        raise UsageError("--config can be given once")
    return kept, found[0] if found else None


def config_reader(path: Path) -> Any:
    """The source of options for cyclopts; the command line goes before the file.

    Raises:
        UsageError: neither TOML nor YAML by its name.
        DataError: there is no such file, it is not a regular one, or it cannot be read.
    """
    import yaml
    from cyclopts.config import Toml, Yaml

    kind = path.suffix.lower()
    if kind not in (".toml", ".yaml", ".yml"):
        raise UsageError(f"{path}: options are read from .toml, .yaml or .yml files")
    try:
        text = read_regular(path).decode()
        # read once more by cyclopts, whose message does not name the file
        found = tomllib.loads(text) if kind == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: not valid {kind[1:].upper()} ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds no table of options")
    reader = Toml if kind == ".toml" else Yaml
    return reader(path.resolve(), use_commands_as_keys=False, must_exist=True)


def write_command(verb: str, arguments: Mapping[str, Any], plugins: Sequence[str] = ()) -> None:
    """Write what a verb was called with into the folder of its run, so that ``--config`` repeats it elsewhere.

    Args:
        verb: the verb; only those that leave a run or a study behind write anything.
        arguments: its parameters by name; ``out`` says where. Nothing is written if that is no folder.
        plugins: modules that it imported; told in a comment, since a file imports nothing.
    """
    given = dict(_flat(arguments))
    out = given.pop("out", None)
    if verb not in _RUNS or out is None or not Path(out).is_dir() or given.pop("dry_run", False):
        return
    imported = "".join(f" --plugin {module}" for module in plugins)
    lines = [f"# nomadiff {verb}{imported} --config {COMMAND_NAME} --out FOLDER"]
    lines += [
        f"{name.replace('_', '-')} = {json.dumps(value, ensure_ascii=False)}" for name, value in sorted(given.items())
    ]
    write_text(Path(out) / COMMAND_NAME, "\n".join(lines) + "\n")


def repeating_verb(folder: Path, given: Sequence[str]) -> list[str]:
    """The verb that goes on with a run, with the plugins it needs; empty where nothing tells.

    Args:
        folder: the run's; its ``command.toml`` names the verb that began it, such as ``demo`` for a comparison.
        given: the command that runs now: where the file is not written yet, its verb is the one, if it leaves a run.
    """
    try:
        first = (folder / COMMAND_NAME).read_text(encoding="utf-8").partition("\n")[0]
    except OSError:
        return [word for word in given[:1] if word in _RUNS]
    words = first.removeprefix("# nomadiff ").partition(" --config ")[0].split()
    return words if words and words[0] in _RUNS else []


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Options by their names on the command line; what only Python can give is left out."""
    for name, value in values.items():
        if is_dataclass(value) and not isinstance(value, type):
            yield from _flat(_changed(value))
        elif isinstance(value, Mapping):
            yield name, [f"{key}={each}" for key, each in value.items()]
        elif isinstance(value, (tuple, list)):
            yield name, [str(each) if isinstance(each, Path) else each for each in value]
        elif value is not None:
            yield name, str(value) if isinstance(value, Path) else value


def _changed(settings: Any) -> dict[str, Any]:
    """The settings that differ from their defaults."""
    hints = get_type_hints(type(settings), include_extras=True)
    changed = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        hint = hints[field.name]
        written = [each for part in (hint, *get_args(hint)) for each in getattr(part, "__metadata__", ())]
        if value != field.default and not any(each.parse is False for each in written):
            names = [name for each in written for name in each.name or ()]
            changed[names[0].lstrip("-") if names else field.name] = value
    return changed
