"""The loop with a learner in closed form: a Gaussian fitted to the data's moments."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nomadiff.errors import NomadiffError, UsageError
from nomadiff.files import read_json, sha256_of_file, write_json
from nomadiff.loops.algorithm import LoopData
from nomadiff.loops.loop import KINDS, AutophagousLoop


class Fit:
    """A Gaussian with a mean and a spread; what each call saw is kept in ``log``."""

    def __init__(self, mean: float, spread: float, log: list) -> None:
        self.mean, self.spread, self.log = mean, spread, log

    def sample(self, count: int, seed: Any) -> np.ndarray:
        self.log.append(("sample", seed))
        return np.random.default_rng(seed).normal(self.mean, self.spread, size=(count, 2))

    def save(self, folder: Path) -> None:
        write_json(folder / "fit.json", [self.mean, self.spread])


class Moments:
    """``A(D)``: fit the moments."""

    def __init__(self) -> None:
        self.log: list = []
        self.seen: list[tuple[LoopData, Any]] = []

    def fit(self, data: LoopData, *, seed: Any, start: Any = None, folder: Path | None = None) -> Fit:
        self.log.append(("fit", seed))
        self.seen.append((data, start))
        points = data.joined()
        return Fit(float(points.mean()), float(points.std()), self.log)

    def load(self, folder: Path) -> Fit:
        mean, spread = read_json(folder / "fit.json")
        return Fit(mean, spread, self.log)


def make_loop(kind: str = "synthetic augmentation", algorithm: Any = None, **options: Any) -> AutophagousLoop:
    arguments = {
        "real": lambda count, seed: np.random.default_rng(seed).normal(size=(count, 2)),
        "real_count": 30,
        "synthetic_count": 10,
        "distances": {"distance": lambda samples: abs(samples.mean()), "spread": lambda samples: samples.std()},
        "evaluation_count": 50,
    } | options
    return AutophagousLoop(algorithm or Moments(), kind, **arguments)


def test_each_kind_makes_its_training_sets() -> None:
    seen = {}
    for kind in KINDS:
        algorithm = Moments()
        rows = make_loop(kind, algorithm).run(4, seed=1)
        seen[kind] = [data for data, _ in algorithm.seen]
        assert [row["generation"] for row in rows] == [1, 2, 3, 4]
        for row, data in zip(rows, seen[kind]):
            assert row["real"] == (0 if data.real is None else len(data.real))
            assert row["synthetic"] == sum(map(len, data.synthetic))
    sizes = {kind: [[len(part) for part in data.synthetic] for data in sets] for kind, sets in seen.items()}
    assert sizes["accumulation"] == [[], [10], [10, 10], [10, 10, 10]]
    assert all(sizes[kind] == [[], [10], [10], [10]] for kind in KINDS if kind != "accumulation")
    assert [data.real is None for data in seen["fully synthetic"]] == [False, True, True, True]
    for kind in ("synthetic augmentation", "accumulation"):
        assert all(data.real is seen[kind][0].real for data in seen[kind])
    fresh = [data.real for data in seen["fresh data"]]
    assert len({array.tobytes() for array in fresh}) == 4
    first, last = seen["accumulation"][1], seen["accumulation"][3]
    np.testing.assert_array_equal(last.synthetic[0], first.synthetic[0])


def test_no_seed_is_used_twice_and_runs_share_none() -> None:
    used: list[int] = []

    def real(count: int, seed: int) -> np.ndarray:
        used.append(seed)
        return np.ones((count, 2))

    for seed in (1, 2):
        algorithm = Moments()
        make_loop("fresh data", algorithm, real=real).run(5, seed=seed)
        used += [seed for _, seed in algorithm.log]
    assert len(used) == 2 * (5 + 5 + 5 + 4)  # real data, trainings, evaluations, data for the successors
    assert len(set(used)) == len(used)


def test_a_warm_start_hands_on_the_model() -> None:
    algorithm = Moments()
    make_loop(algorithm=algorithm, warm_start=True).run(3, seed=1)
    assert [start is None for _, start in algorithm.seen] == [True, False, False]
    algorithm = Moments()
    make_loop(algorithm=algorithm).run(3, seed=1)
    assert all(start is None for _, start in algorithm.seen)


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("warm", [False, True], ids=["scratch", "warm"])
def test_a_loop_killed_anywhere_goes_on_to_the_same_files(tmp_path: Path, kind: str, warm: bool) -> None:
    expected = make_loop(kind, warm_start=warm).run(4, seed=3, out=tmp_path / "whole")
    assert expected == make_loop(kind, warm_start=warm).run(4, seed=3)  # files change nothing

    class Killed(Moments):
        """Dies at its n-th call of any kind."""

        def __init__(self, calls: int) -> None:
            super().__init__()
            self.calls = calls

        def fit(self, data: LoopData, **options: Any) -> Fit:
            self.die()
            model = super().fit(data, **options)
            sample = model.sample
            model.sample = lambda count, seed: self.die() or sample(count, seed)  # type: ignore[method-assign]
            return model

        def load(self, folder: Path) -> Fit:
            self.die()
            return super().load(folder)

        def die(self) -> None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt

    deaths = 0
    for calls in [0, 1, 1, 2, 1, 2, 1, 2, 3, 1, 2, 1, 1, 2, 3, 50]:
        try:
            rows = make_loop(kind, Killed(calls), warm_start=warm).run(4, seed=3, out=tmp_path / "killed")
            break
        except KeyboardInterrupt:
            deaths += 1
    assert deaths > 4
    assert rows == expected
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_loop_is_read_and_can_be_extended(tmp_path: Path) -> None:
    whole = make_loop("accumulation").run(5, seed=3, out=tmp_path / "whole")
    make_loop("accumulation").run(3, seed=3, out=tmp_path / "parts")
    algorithm = Moments()
    assert make_loop("accumulation", algorithm).run(3, seed=3, out=tmp_path / "parts") == whole[:3]
    assert algorithm.log == []
    assert make_loop("accumulation").run(5, seed=3, out=tmp_path / "parts") == whole
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_the_manifest_names_parents_and_seeds(tmp_path: Path) -> None:
    make_loop().run(2, seed=3, out=tmp_path)
    first, second = (tmp_path / f"generation-000{generation}" for generation in (1, 2))
    manifest = json.loads((second / "manifest.json").read_text())
    assert manifest["parent_sha256"] == sha256_of_file(first / "manifest.json")
    assert manifest["synthetic_sha256"] == sha256_of_file(second / "synthetic.npy")
    assert manifest["model_sha256"] == {"model/fit.json": sha256_of_file(second / "model" / "fit.json")}
    assert manifest["synthetic"] == 10 and manifest["real"] == 30
    assert len({manifest[f"{name}_seed"] for name in ("training", "synthetic", "evaluation")}) == 3


def test_a_folder_of_another_loop_is_refused(tmp_path: Path) -> None:
    make_loop(description={"weights": (1, 2)}).run(1, seed=3, out=tmp_path)
    make_loop(description={"weights": (1, 2)}).run(2, seed=3, out=tmp_path)
    with pytest.raises(UsageError, match=r"another loop \(differs in seed: 3 -> 4, weights: \[1, 2\] -> \[1, 3\]\)"):
        make_loop(description={"weights": (1, 3)}).run(2, seed=4, out=tmp_path)


def test_a_verifier_keeps_the_count() -> None:
    algorithm = Moments()
    make_loop(algorithm=algorithm, keep=lambda samples: samples[:, 0] > 0.5).run(3, seed=1)
    for data, _ in algorithm.seen[1:]:
        assert len(data.synthetic[0]) == 10 and (data.synthetic[0][:, 0] > 0.5).all()
    with pytest.raises(NomadiffError, match="verifier kept fewer than 10 of 500"):
        make_loop(keep=lambda samples: samples[:, 0] > 100).run(2, seed=1)


def test_loops_computed_together_are_the_loops_alone(tmp_path: Path) -> None:
    class Together(Moments):
        def fit(self, data: LoopData, *, seed: Any, start: Any = None, folder: Path | None = None) -> Any:
            parts = [LoopData(*split) for split in zip(data.real, zip(*data.synthetic) if data.synthetic else [()] * 2)]
            return Pair([Moments().fit(part, seed=one) for part, one in zip(parts, seed)])

        def load(self, folder: Path) -> Any:
            return Pair([Moments().load(folder / name) for name in "01"])

    class Pair:
        def __init__(self, fits: list[Fit]) -> None:
            self.fits = fits

        def sample(self, count: int, seed: Any) -> np.ndarray:
            return np.stack([fit.sample(count, one) for fit, one in zip(self.fits, seed)])

        def save(self, folder: Path) -> None:
            for name, fit in zip("01", self.fits):
                (folder / name).mkdir()
                fit.save(folder / name)

    def draw(count: int, seeds: Any) -> np.ndarray:
        return np.stack([np.random.default_rng(seed).normal(size=(count, 2)) for seed in seeds])

    options = {
        "distances": {"distance": lambda samples: abs(samples.mean(axis=(1, 2)))},
        "keep": lambda samples: samples[:, 0] > 0,
        "real": draw,
    }
    together = make_loop(algorithm=Together(), **options).run(3, seed=(5, 6), out=tmp_path)
    again = make_loop(algorithm=Together(), **options).run(3, seed=(5, 6), out=tmp_path)
    for place, seed in enumerate((5, 6)):
        alone = make_loop(keep=options["keep"]).run(3, seed=seed)
        expected = [row["distance"] for row in alone]
        assert [row["distance"][place] for row in together] == pytest.approx(expected)
        assert [row["distance"][place] for row in again] == pytest.approx(expected)


def test_a_diverged_model_is_kept_as_null(tmp_path: Path) -> None:
    options = {"distances": {"distance": lambda samples: np.inf}}
    make_loop(**options).run(1, seed=1, out=tmp_path)
    assert json.loads((tmp_path / "generation-0001" / "manifest.json").read_text())["distances"] == {"distance": None}
    assert make_loop(**options).run(1, seed=1, out=tmp_path)[0]["distance"] == np.inf


def test_data_of_any_shape_goes_round() -> None:
    class Shuffle:
        """Pixels drawn from the training images."""

        def __init__(self, images: np.ndarray | None = None) -> None:
            self.images = images

        def fit(self, data: LoopData, *, seed: Any, start: Any = None, folder: Path | None = None) -> Any:
            return Shuffle(data.joined())

        def sample(self, count: int, seed: Any) -> np.ndarray:
            assert self.images is not None
            return self.images[np.random.default_rng(seed).integers(len(self.images), size=count)]

    def digest(samples: np.ndarray) -> float:
        assert samples.dtype == np.uint8 and samples.shape == (50, 1, 8, 8)
        return int(hashlib.sha256(samples.tobytes()).hexdigest()[:8], 16)

    rows = make_loop(
        algorithm=Shuffle(),
        real=lambda count, seed: np.random.default_rng(seed).integers(256, size=(count, 1, 8, 8), dtype=np.uint8),
        distances={"distance": digest},
    ).run(2, seed=1)
    assert rows[0]["distance"] != rows[1]["distance"]


def test_nonsense_is_refused() -> None:
    with pytest.raises(UsageError, match="no loop is called 'spiral'; there are: fully synthetic"):
        make_loop("spiral")
    with pytest.raises(UsageError, match="at least 1 synthetic"):
        make_loop("fully synthetic", synthetic_count=0)
    with pytest.raises(UsageError, match="at least one generation"):
        make_loop().run(0, seed=1)
