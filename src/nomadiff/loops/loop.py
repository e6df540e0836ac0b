"""The self-consuming loop of SIMS section 2, for any algorithm and any data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import atomic_path, read_json, sha256_of_file, write_json
from nomadiff.loops.algorithm import Algorithm, LoopData, LoopModel
from nomadiff.loops.seeds import derived
from nomadiff.plain import differences
from nomadiff.processes import Processes
from nomadiff.progress import progress_bar
from nomadiff.safe_pickle import printable

__all__ = ["KINDS", "AutophagousLoop"]

KINDS = ("fully synthetic", "synthetic augmentation", "fresh data", "accumulation")
"""How the training set of a generation after the first is made (SIMS section 2).

* fully synthetic: the previous generation's data alone;
* synthetic augmentation: the fixed real data and the previous generation's;
* fresh data: new real data and the previous generation's;
* accumulation: the fixed real data and that of *all* generations before (Gerstgrasser et al. 2024).
"""

# What a seed is used for; beside it stands the generation, so no two draws of a loop share one.
_REAL, _TRAINING, _SYNTHETIC, _EVALUATION = range(4)
_FILTER_ROUNDS = 50


class AutophagousLoop:
    """A sequence of models ``G^t = A(D^t)`` in which each learns from data its predecessors made (SIMS Definition 1).

    The class knows nothing of what is learnt: data are arrays whose first axis counts the samples. Several loops can be
    computed together (a batch of runs on a GPU): the seed is then a tuple, arrays have the loops as first axis and the
    samples as second, and every distance is an array with one number a loop.

    Args:
        algorithm: turns a training set into a model.
        kind: how the training sets are made, one of :data:`KINDS`.
        real: ``real(count, seed)`` draws real data. It is called once, but in every generation of a fresh data loop.
        real_count: real data in a training set.
        synthetic_count: data each generation makes for its successors.
        distances: name to ``distance(samples)`` to the real distribution, computed on samples drawn for it alone.
        evaluation_count: how many samples that is.
        warm_start: train every generation from its predecessor's weights; otherwise from scratch.
        keep: a verifier between generations: ``keep(samples)`` returns bool ``(count,)``, and samples are drawn until
            ``synthetic_count`` were kept.
        processes: who computes it together, all with the same arguments; the main one writes. None for this one alone.
        description: what else the results depend on (method, weight, data); kept in ``loop.json`` and compared when a
            loop is continued.

    Raises:
        UsageError: an unknown kind or a count that cannot be.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        kind: str,
        *,
        real: Callable[[int, Any], np.ndarray],
        real_count: int,
        synthetic_count: int,
        distances: Mapping[str, Callable[[np.ndarray], Any]],
        evaluation_count: int = 2000,
        warm_start: bool = False,
        keep: Callable[[np.ndarray], np.ndarray] | None = None,
        processes: Processes | None = None,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise UsageError(f"no loop is called {kind!r}; there are: {', '.join(KINDS)}")
        lowest = 0 if kind == "synthetic augmentation" else 1
        if real_count < 1 or evaluation_count < 1 or synthetic_count < lowest:
            raise UsageError(
                f"a {kind} loop needs real data, evaluation samples and at least {lowest} synthetic ones, got "
                f"{real_count}, {evaluation_count} and {synthetic_count}"
            )
        self.algorithm = algorithm
        self.kind = kind
        self.real = real
        self.real_count = real_count
        self.synthetic_count = synthetic_count
        self.distances = distances
        self.evaluation_count = evaluation_count
        self.warm_start = warm_start
        self.keep = keep
        self.processes = processes
        self.description = dict(description or {})

    def run(
        self, generations: int, seed: Any, out: str | Path | None = None, *, description: str = ""
    ) -> list[dict[str, Any]]:
        """Run the loop; with ``out``, continue it where it was interrupted, or with more generations than before.

        ``out`` holds ``loop.json`` and a folder a generation with its synthetic training data, its model and, written
        last, ``manifest.json``: counts, seeds, hashes of every file and of the parent's manifest, distances.

        Args:
            generations: how many, the first (on real data alone) included.
            seed: an int, or a tuple of ints for several loops at once.
            out: folder to keep the loop in; None keeps only what the next generation needs, in memory.
            description: words for a progress bar over the generations; without any there is none, for algorithms that
                show their own.

        Returns:
            One row a generation: ``generation`` (from 1), ``real`` and ``synthetic`` (counts in its training set) and
            the distances by name (inf for a diverged model).

        Raises:
            UsageError: fewer than one generation, or ``out`` holds another loop.
            NomadiffError: the verifier rejects nearly everything.
        """
        if generations < 1:
            raise UsageError(f"a loop has at least one generation, got {generations}")
        folder = None if out is None else Path(out)
        if folder is not None:
            self.check_folder(folder, seed)
            self._together()  # every process has looked before the main one writes
            if self._writes and not (folder / "loop.json").exists():
                write_json(folder / "loop.json", self._about(seed))
        with progress_bar(description, generations, "generations", show=bool(description)) as advance:
            return self._run(generations, seed, folder, advance)

    @property
    def _writes(self) -> bool:
        return self.processes is None or self.processes.is_main

    def _together(self) -> None:
        if self.processes is not None:
            self.processes.barrier()

    def _run(
        self, generations: int, seed: Any, folder: Path | None, advance: Callable[..., None]
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        real: np.ndarray | None = None
        synthetic: tuple[np.ndarray, ...] = ()
        model: LoopModel | None = None
        for generation in range(1, generations + 1):
            place = None if folder is None else folder / f"generation-{generation:04d}"
            done = place is not None and (place / "manifest.json").exists()
            if place is not None and done:
                row = _row_of(place)
                # a later generation needs this one's data in an accumulating loop, and the last one's model
                if generation > 1 and self.kind == "accumulation" and not self._all_done(folder, generations):
                    synthetic = (*synthetic, _load_array(place / "synthetic.npy"))
                model = None
                rows.append(row)
                advance()
                continue
            if real is None or self.kind == "fresh data":
                real = self.real(self.real_count, derived(seed, generation if self.kind == "fresh data" else 1, _REAL))
            if generation > 1:
                if model is None and folder is not None:
                    model = self.algorithm.load(folder / f"generation-{generation - 1:04d}" / "model")
                assert model is not None
                fresh = self._synthetic(model, derived(seed, generation, _SYNTHETIC), place)
                synthetic = (*synthetic, fresh) if self.kind == "accumulation" else (fresh,)
            only_synthetic = generation > 1 and self.kind == "fully synthetic"
            data = LoopData(None if only_synthetic else real, synthetic)
            model = self._fit(data, derived(seed, generation, _TRAINING), model if self.warm_start else None, place)
            samples = model.sample(self.evaluation_count, derived(seed, generation, _EVALUATION))
            row = {
                "generation": generation,
                "real": 0 if only_synthetic else self.real_count,
                "synthetic": self.synthetic_count * len(synthetic),
                **{name: distance(samples) for name, distance in self.distances.items()},
            }
            if place is not None:
                self._together()
                if self._writes:
                    self._finish(place, row, seed, data)
                self._together()  # the next generation looks for it
            rows.append(row)
            advance()
        return rows

    def _synthetic(self, model: LoopModel, seed: Any, place: Path | None) -> np.ndarray:
        """The data the previous generation's ``model`` gives this one."""
        path = None if place is None else place / "synthetic.npy"
        if path is not None and path.exists():
            return _load_array(path)
        self._together()
        samples = model.sample(self.synthetic_count, seed) if self.keep is None else self._verified(model, seed)
        if path is not None and self._writes:
            with atomic_path(path) as temporary, open(temporary, "wb") as handle:
                np.save(handle, samples, allow_pickle=False)
        return samples

    def _verified(self, model: LoopModel, seed: Any) -> np.ndarray:
        assert self.keep is not None
        together = isinstance(seed, tuple)
        kept: list[list[np.ndarray]] = [[] for _ in (seed if together else [seed])]
        for attempt in range(_FILTER_ROUNDS):
            samples = model.sample(self.synthetic_count, derived(seed, attempt))
            for chosen, drawn in zip(kept, samples if together else [samples]):
                chosen.append(drawn[self.keep(drawn)])
            if all(sum(map(len, chosen)) >= self.synthetic_count for chosen in kept):
                arrays = [np.concatenate(chosen)[: self.synthetic_count] for chosen in kept]
                return np.stack(arrays) if together else arrays[0]
        raise NomadiffError(
            f"the verifier kept fewer than {self.synthetic_count} of {_FILTER_ROUNDS * self.synthetic_count} samples; "
            "loosen it or ask for less synthetic data"
        )

    def _fit(self, data: LoopData, seed: Any, start: LoopModel | None, place: Path | None) -> LoopModel:
        if place is None:
            return self.algorithm.fit(data, seed=seed, start=start)
        folder = place / "model"
        marker = place / "model.json"  # written after the model: without it the folder may be half full
        if marker.exists():
            return self.algorithm.load(folder)
        self._together()
        folder.mkdir(parents=True, exist_ok=True)
        model = self.algorithm.fit(data, seed=seed, start=start, folder=folder)
        self._together()
        if self._writes:
            model.save(folder)
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            write_json(marker, {str(path.relative_to(place)): sha256_of_file(path) for path in files})
        return model

    def _finish(self, place: Path, row: dict[str, Any], seed: Any, data: LoopData) -> None:
        generation = row["generation"]
        parent = place.parent / f"generation-{generation - 1:04d}" / "manifest.json"
        synthetic = place / "synthetic.npy"
        manifest = {
            "generation": generation,
            "real": row["real"],
            "synthetic": row["synthetic"],
            "training_seed": derived(seed, generation, _TRAINING),
            "synthetic_seed": derived(seed, generation, _SYNTHETIC) if generation > 1 else None,
            "evaluation_seed": derived(seed, generation, _EVALUATION),
            "real_sha256": None if data.real is None else hashlib.sha256(data.real.tobytes()).hexdigest(),
            "synthetic_sha256": sha256_of_file(synthetic) if synthetic.exists() else None,
            "model_sha256": read_json(place / "model.json"),
            "parent_sha256": sha256_of_file(parent) if generation > 1 else None,
            "distances": {name: _listed(row[name]) for name in self.distances},
        }
        write_json(place / "manifest.json", manifest)

    def check_folder(self, folder: Path, seed: Any) -> None:
        """Refuse a folder that holds another loop than this one with that seed.

        Raises:
            UsageError: it does; the message names the settings that differ.
        """
        path = folder / "loop.json"
        about = self._about(seed)
        if path.exists() and (changed := differences(read_json(path, dict), about)):
            raise UsageError(f"{folder} holds another loop (differs in {changed}): choose another folder")

    def _about(self, seed: Any) -> dict[str, Any]:
        about: dict[str, Any] = {
            "kind": self.kind,
            "real_count": self.real_count,
            "synthetic_count": self.synthetic_count,
            "evaluation_count": self.evaluation_count,
            "distances": list(self.distances),
            "warm_start": self.warm_start,
            "verified": self.keep is not None,
            "seed": seed,
            **self.description,
        }
        return json.loads(json.dumps(about))  # as it is read back: lists for tuples

    def _all_done(self, folder: Path | None, generations: int) -> bool:
        return folder is not None and (folder / f"generation-{generations:04d}" / "manifest.json").exists()


def _row_of(place: Path) -> dict[str, Any]:
    manifest = read_json(place / "manifest.json")
    distances = {name: _unlisted(value) for name, value in manifest["distances"].items()}
    return {name: manifest[name] for name in ("generation", "real", "synthetic")} | distances


def _listed(value: Any) -> Any:
    """A distance, or an array of them, as JSON; null stands for a diverged model."""
    if np.ndim(value):
        return [_listed(one) for one in value]
    return float(value) if np.isfinite(value) else None


def _unlisted(value: Any) -> Any:
    if isinstance(value, list):
        return np.array([_unlisted(one) for one in value])
    return np.inf if value is None else value


def _load_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not an array that can be read ({printable(str(error), 200)})") from error
