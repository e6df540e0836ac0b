"""The run folder: the only thing passed between verbs, whole at every moment.

``config.json`` (recipe and versions), ``sources.json`` (provenance), ``log.jsonl``, ``snapshots/<images>.safetensors``
(EMA weights; ``<images>-std<width>`` the other averages of a run that keeps several), ``state/training.safetensors``
(what resume needs), ``model.safetensors`` (EMA weights at the end). A run that is monitored has ``validation.jsonl``,
``best.safetensors``, ``grids/``, ``report.html`` and ``tracking/`` as well (:mod:`nomadiff.monitoring`).
"""

from __future__ import annotations

import json
import platform
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import (
    COMMAND_NAME,
    atomic_path,
    one_line_errors,
    read_json,
    read_json_lines,
    remove_leftovers,
    require_regular,
    used_alone,
    write_json,
)
from nomadiff.plain import differences, parse_json
from nomadiff.safe_pickle import printable
from nomadiff.version import __version__

if TYPE_CHECKING:
    from torch import Tensor

    from nomadiff.training.config import RunConfig

__all__ = [
    "PREPARATION",
    "RunFolder",
    "images_seen_by",
    "is_whole",
    "load_metadata",
    "load_tensors",
    "require_finite",
    "save_tensors",
    "versions",
]

PREPARATION = "preparation"  # folder in a run's for what a method finds out before it trains
_OF_DATA = ("data", "labels", "floors")  # parts of a stored recipe that say what it was trained on


def versions() -> dict[str, str]:
    """Versions of what decides the numbers: nomadiff, torch, python and the platform."""
    import torch

    return {
        "nomadiff": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write tensors as safetensors in one atomic step, with ``metadata`` as JSON under the key "nomadiff".

    Raises:
        NomadiffError: a tensor is not finite (nothing is written), or the path cannot be written.
    """
    from safetensors.torch import save_file

    whole = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    require_finite(whole, str(path))
    with atomic_path(path) as temporary:
        save_file(whole, temporary, metadata={"nomadiff": json.dumps(metadata)})


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse to write weights that are not finite: such a model loads, and draws black images.

    Raises:
        NomadiffError: one is NaN or infinite; the message names it.
    """
    import torch

    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise NomadiffError(f"{where}: not written: {name} is not finite (NaN, or too large for {value.dtype})")


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read tensors and metadata written by :func:`save_tensors`, on the CPU.

    Raises:
        DataError: the file is absent, torn or not safetensors; the message names it.
    """
    from safetensors.torch import load_file

    with _named_if_damaged(path):
        require_regular(path)
        return load_file(path), load_metadata(path)


def load_metadata(path: Path) -> dict[str, Any]:
    """The metadata of such a file alone.

    Raises:
        DataError: as :func:`load_tensors`.
    """
    with _named_if_damaged(path):
        require_regular(path)
    with _named_if_damaged(path), safe_open(path, framework="np") as handle:
        return parse_json((handle.metadata() or {}).get("nomadiff", "{}"), f"{path}: its metadata", dict)


@contextmanager
def _named_if_damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (SafetensorError, OSError, RuntimeError, json.JSONDecodeError) as error:
        # RuntimeError: torch's, where another process removes the file while it is opened
        raise DataError(f"{path}: damaged or not a safetensors file ({printable(str(error), 200)})") from error


def is_whole(path: Path) -> bool:
    """Whether there is a safetensors file of which nothing is missing."""
    try:
        load_metadata(path)
    except DataError:
        return False
    return True


def images_seen_by(path: Path) -> int | None:
    """Images seen by the weights of a file; None where there is no such file or it is damaged."""
    seen = load_metadata(path).get("images_seen") if is_whole(path) else None
    return seen if isinstance(seen, int) else None


class RunFolder:
    """A folder that holds one run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.model_path = self.path / "model.safetensors"
        self.state_path = self.path / "state" / "training.safetensors"
        self.log_path = self.path / "log.jsonl"
        self.best_path = self.path / "best.safetensors"

    def begin(self, config: RunConfig, provenance: list[dict[str, Any]], stopped_at: int | None = None) -> None:
        """Claim the folder for this recipe, or make sure that it already holds the same one.

        The same recipe continues; a larger budget extends it. Anything else is refused and nothing is overwritten. A
        model that is absent or damaged is made again from the last snapshot where nothing is left to train.

        Args:
            config: the recipe.
            provenance: of its sources.
            stopped_at: images seen where the run was stopped before its budget, if it was.

        Raises:
            UsageError: as :meth:`check`; or a finished run is to be prolonged whose state was removed.
        """
        recipe, found = self.check(config, provenance)
        if found is not None:
            end = stopped_at or config.training.steps * config.training.batch
            self._make_whole(end)
            if _plain(found) == _plain(recipe) and images_seen_by(self.model_path) == end:
                return  # finished: nothing will be added to what these versions made
        write_json(self.path / "config.json", {"versions": versions(), "recipe": recipe})
        write_json(self.path / "sources.json", provenance)

    def check(
        self, config: RunConfig, provenance: list[dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Refuse a recipe that this folder cannot hold; nothing is written.

        Returns:
            The recipe as it is written down, and the one that the folder holds, if any.

        Raises:
            UsageError: the folder holds another run (the message names what differs), one that has seen more images
                than the budget, or other files.
        """
        recipe = {**config.to_dict(), "data": [source.get("content_hash") for source in provenance]}
        if config.classes:
            recipe["labels"] = [source.get("labels_hash") for source in provenance]
        if any("floors_hash" in source for source in provenance):
            recipe["floors"] = [source.get("floors_hash") for source in provenance]
        file = self.path / "config.json"
        if file.exists():
            stored = read_json(file)["recipe"]
            found = {**self.config().to_dict(), **{name: stored[name] for name in _OF_DATA if name in stored}}
            if "labels" not in stored and _numbered_as_before(config, provenance):  # of before labels had names
                found |= {name: recipe[name] for name in ("labels", "class_names", "class_counts") if name in recipe}
            if changed := differences(_comparable(found), _comparable(recipe)):
                raise UsageError(f"{self.path} holds another run (differs in {changed}); choose another --out")
            end = config.training.steps * config.training.batch
            if (reached := self._reached()) > end:
                early = [images for images in self.snapshots() if images <= end]
                snapshot = f"take its snapshot (--snapshot {early[-1]}), or " if early else ""
                raise UsageError(
                    f"{self.path} has seen {reached:,} images, more than the budget of {end:,}: {snapshot}choose "
                    "another --out"
                )
            return recipe, found
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; choose another --out")
        before = (PREPARATION, COMMAND_NAME)
        if self.path.exists() and any(
            not entry.name.startswith(".") and entry.name not in before for entry in self.path.iterdir()
        ):
            raise UsageError(f"{self.path} is not empty and not a nomadiff run; choose another --out")
        return recipe, None

    def _reached(self) -> int:
        """Images that the furthest of its files has seen."""
        seen = [images_seen_by(path) or 0 for path in (self.state_path, self.model_path)]
        return max(seen + self.snapshots())

    def goes_on_from(self) -> int | None:
        """Images that the state has seen, or the model where that was removed; None where there is neither."""
        seen = images_seen_by(self.state_path)
        return images_seen_by(self.model_path) if seen is None else seen

    def _make_whole(self, end: int) -> None:
        """Make a missing model from the last snapshot; warn where a run begins again from zero."""
        if self.state_path.exists():
            return
        seen = images_seen_by(self.model_path)
        if images_seen_by(self.snapshot_path(end)) == end and seen != end:
            _copy(self.snapshot_path(end), self.model_path)
        elif seen not in (None, end):
            raise UsageError(
                f"{self.path} was finished at {seen:,} images and its state/ was removed: it cannot be continued; "
                "choose another --out"
            )
        elif self._reached() and seen is None:
            warnings.warn(f"{self.path} has no state/ to go on from: it is trained again from zero", stacklevel=2)

    def config(self) -> RunConfig:
        """The recipe this folder was made with.

        Raises:
            DataError: the folder is not a run.
        """
        if not (self.path / "config.json").exists():
            raise DataError(f"{self.path}: not a run folder (no config.json)")
        from nomadiff.training.config import RunConfig

        path = self.path / "config.json"
        recipe = read_json(path, dict).get("recipe")
        if type(recipe) is not dict:
            raise DataError(f"{path}: not a recipe of nomadiff")
        try:
            return RunConfig.from_dict({name: recipe[name] for name in recipe if name not in _OF_DATA})
        except NomadiffError as error:
            raise DataError(f"{path}: {error}") from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; a second trainer on the same folder is refused.

        Raises:
            UsageError: another process trains here.
        """
        with one_line_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with used_alone(self.path, self.path / ".lock"):
            remove_leftovers(self.path, below=True)
            yield

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one line of JSON to ``log.jsonl``."""
        with one_line_errors(self.log_path), open(self.log_path, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of ``log.jsonl``; a torn last line (after a kill while writing) is left out."""
        records = []
        for record in read_json_lines(self.log_path):
            numbers: list[Any] = [record.get(name) for name in ("images_seen", "loss")]
            if all(type(number) in (int, float) and abs(number) < 1 << 63 for number in numbers):
                records.append(record)
        return records

    def read_sources(self) -> list[dict[str, Any]]:
        """The entry of each source in ``sources.json``; every entry has a text as its ``name``.

        Raises:
            DataError: the file is absent, damaged, or says something else.
        """
        path = self.path / "sources.json"
        found = read_json(path, list)
        if not all(type(source) is dict and type(source.get("name")) is str for source in found):
            raise DataError(f"{path}: not a list of sources")
        return found

    def trim_log(self, images_seen: int) -> None:
        """Drop the lines after ``images_seen``: a resumed run writes them again."""
        if self.log_path.exists():
            kept = [record for record in self.read_log() if record["images_seen"] <= images_seen]
            with atomic_path(self.log_path) as temporary:
                temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")

    def snapshot_path(self, images_seen: int, std: float | None = None) -> Path:
        """Path of the EMA weights after ``images_seen`` images; ``std`` names an average that is not the model."""
        which = "" if std is None else f"-std{std:g}"
        return self.path / "snapshots" / f"{images_seen:012d}{which}.safetensors"

    def keep_best(self, images_seen: int) -> None:
        """Make ``best.safetensors`` a copy of a snapshot; nothing is done where that is absent."""
        if self.snapshot_path(images_seen).exists():
            _copy(self.snapshot_path(images_seen), self.best_path)

    def copy_to(self, path: str | Path) -> None:
        """Copy a finished run, without what only an interrupted one needs.

        The model goes last: a copy that is cut off is an unfinished run, and copying again completes it.
        """
        snapshots = sorted((self.path / "snapshots").glob("*.safetensors"))
        for file in [*(self.path / name for name in ("config.json", "sources.json", "log.jsonl")), *snapshots]:
            _copy(file, Path(path) / file.relative_to(self.path))
        _copy(self.model_path, Path(path) / self.model_path.name)

    def snapshots(self) -> list[int]:
        """Images seen of every snapshot of the model, ascending."""
        folder = self.path / "snapshots"
        return sorted(int(file.stem) for file in folder.glob("*.safetensors") if file.stem.isdigit())


def _numbered_as_before(config: RunConfig, provenance: list[dict[str, Any]]) -> bool:
    """Whether labels mean what they meant when every source numbered its own classes and none had names."""
    names = config.vocabulary
    if names == tuple(map(str, range(config.classes))):
        return True
    return all(tuple(source.get("classes", ())) == names[: len(source.get("classes", ()))] for source in provenance)


def _copy(file: Path, to: Path) -> None:
    with atomic_path(to) as temporary:
        shutil.copyfile(file, temporary)


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    """The part of a recipe that must not change when a run continues.

    Budget, sampler, bookkeeping, and how memory and time are traded may.
    """
    kept = {key: value for key, value in recipe.items() if key != "sampler"}
    if "training" in kept:
        free = ("budget", "snapshot_every", "log_every", "compile", "checkpoint_gradients")
        kept["training"] = {key: value for key, value in kept["training"].items() if key not in free}
    return _plain(kept)


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives it back: tuples are lists."""
    return json.loads(json.dumps(recipe))
