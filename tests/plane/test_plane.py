from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nomadiff.errors import DataError, UsageError
from nomadiff.loops.algorithm import LoopData
from nomadiff.plane.algorithms import ALGORITHMS, PlaneModel, plane_algorithm
from nomadiff.plane.distances import bures_wasserstein
from nomadiff.plane.learner import PRESETS, Learner, LearnerConfig, learner_config
from nomadiff.plane.network import Network
from nomadiff.plane.training_plan import TrainingPlan
from nomadiff.plane.worlds import world

SEEDS = (11, 12)


@pytest.fixture(scope="module")
def learner() -> Learner:
    quick = LearnerConfig("quick", "", Network(), TrainingPlan(3, 64, 2e-3), TrainingPlan(2, 64, 3e-4), 100)
    return Learner(quick)


def points(count: int, seed: int = 0) -> np.ndarray:
    return np.stack([world("gaussian").sample(count, 100 * seed + run) for run in range(len(SEEDS))])


def test_guidance_of_weight_zero_is_standard_training(learner: Learner) -> None:
    data = LoopData(points(120))
    standard = plane_algorithm("standard", learner).fit(data, seed=SEEDS).sample(40, (1, 2))
    for name in ("sims", "neon"):
        model = plane_algorithm(name, learner, 0.0).fit(data, seed=SEEDS)
        np.testing.assert_array_equal(model.sample(40, (1, 2)), standard)
    casd = plane_algorithm("casd", learner).fit(data, seed=SEEDS).sample(40, (1, 2))
    guided = plane_algorithm("source-guidance", learner, 0.0).fit(data, seed=SEEDS).sample(40, (1, 2))
    np.testing.assert_array_equal(guided, casd)
    assert not np.array_equal(casd, standard)


def test_all_methods_share_base_and_own_samples_at_one_seed(learner: Learner) -> None:
    data = LoopData(points(120))
    sims = plane_algorithm("sims", learner, 1.5).fit(data, seed=SEEDS)
    neon = plane_algorithm("neon", learner, 1.5).fit(data, seed=SEEDS)
    np.testing.assert_array_equal(sims.base, neon.base)
    assert [coefficient for coefficient, _, _ in sims.combination] == [2.5, -1.5]
    merged = sum(np.float32(coefficient) * weights for coefficient, weights, _ in sims.combination)
    np.testing.assert_allclose(neon.combination[0][1], merged, atol=1e-5)
    assert (sims.nfe, neon.nfe) == (2, 1)


def test_provenance_is_used_by_those_who_may_know_it_only(learner: Learner) -> None:
    real, made = points(90), points(60, seed=1)
    mixed = LoopData(real, (made,))
    real_only = plane_algorithm("real-only", learner)
    same = real_only.fit(LoopData(real), seed=SEEDS)
    np.testing.assert_array_equal(real_only.fit(mixed, seed=SEEDS).base, same.base)
    taken, labels = plane_algorithm("casd-provenance", learner).training_set(mixed)
    np.testing.assert_array_equal(taken, np.concatenate([real, made], axis=1))
    assert labels is not None and labels.sum() == labels[:, 90:].size
    _, unlabelled = plane_algorithm("sims", learner, 1.0).training_set(mixed)
    assert unlabelled is None
    for name in ("real-only", "casd-provenance"):
        with pytest.raises(UsageError, match="fully synthetic"):
            plane_algorithm(name, learner).fit(LoopData(None, (made,)), seed=SEEDS)


def test_a_warm_start_begins_from_the_former_base(learner: Learner) -> None:
    data = LoopData(points(120))
    first = plane_algorithm("sims", learner, 1.0).fit(data, seed=SEEDS)
    warm = plane_algorithm("sims", learner, 1.0).fit(data, seed=(21, 22), start=first)
    again = learner.train(first.base, data.joined(axis=1), (1, 2), plan=TrainingPlan(1, 64, 0.0))
    np.testing.assert_array_equal(again, first.base)
    cold = plane_algorithm("sims", learner, 1.0).fit(data, seed=(21, 22))
    assert np.abs(warm.base - first.base).mean() < 0.5 * np.abs(cold.base - first.base).mean()


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_a_saved_model_samples_the_same(learner: Learner, tmp_path: Path, name: str) -> None:
    algorithm = plane_algorithm(name, learner, 0.7 if ALGORITHMS[name].guided else 0.0)
    model = algorithm.fit(LoopData(points(64)), seed=SEEDS)
    model.save(tmp_path)
    loaded = algorithm.load(tmp_path)
    np.testing.assert_array_equal(loaded.sample(20, (5, 6)), model.sample(20, (5, 6)))
    np.testing.assert_array_equal(loaded.base, model.base)


def test_a_damaged_model_is_named(learner: Learner, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(DataError, match=r"model\.safetensors: no two-dimensional model"):
        PlaneModel.load(learner, tmp_path)


def test_wrong_names_and_weights_are_refused(learner: Learner) -> None:
    with pytest.raises(UsageError, match="no method called 'gan'"):
        plane_algorithm("gan", learner)
    with pytest.raises(UsageError, match="casd has no guidance weight"):
        plane_algorithm("casd", learner, 1.0)
    with pytest.raises(UsageError, match="no learner called 'Q'; there are P, P0, N, P2, G"):
        learner_config("Q")


def test_presets_are_what_their_captions_say() -> None:
    assert all(config.name == name and len(config.caption) > 50 for name, config in PRESETS.items())
    assert PRESETS["P2"].base.steps(2000) == 100  # one full batch an epoch
    assert PRESETS["G"].base.steps(1000) == 800
    assert PRESETS["G"].base.rate + PRESETS["G"].base.slope(1000) * 799 == pytest.approx(1e-5)


def test_the_learner_nearest_to_the_paper_improves_itself_over_a_wide_range_of_weights() -> None:
    """SIMS under N (docs/loops.md has sixteen runs: by 44, 46 and 32 % at weights 1, 2 and 3)."""
    gaussian, seeds = world("gaussian"), (941, 942, 943, 944)
    data = LoopData(np.stack([gaussian.sample(1000, seed) for seed in seeds]))
    learner = Learner(learner_config("N"))
    distances = [
        bures_wasserstein(plane_algorithm("sims", learner, weight).fit(data, seed=seeds).sample(2000, seeds), gaussian)
        for weight in (0.0, 1.0, 2.0)
    ]
    base, one, two = (distance.mean() for distance in distances)
    assert one < 0.8 * base and two < 0.8 * base


def test_an_under_trained_learner_improves_itself() -> None:
    """SIMS and Neon at weight 1 under P2, three fresh runs (issue: over twelve, by more than 60 % and 50 %)."""
    gaussian, seeds = world("gaussian"), (901, 902, 903)
    learner = Learner(learner_config("P2"))
    data = LoopData(np.stack([gaussian.sample(1000, seed) for seed in seeds]))
    distance = {}
    for name, weight in (("standard", 0.0), ("sims", 1.0), ("neon", 1.0)):
        model = plane_algorithm(name, learner, weight).fit(data, seed=seeds)
        distance[name] = bures_wasserstein(model.sample(2000, (1, 2, 3)), gaussian).mean()
    assert distance["sims"] < 0.5 * distance["standard"]
    assert distance["neon"] < 0.7 * distance["standard"]
