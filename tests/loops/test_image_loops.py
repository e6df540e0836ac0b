"""Loops of images: every algorithm in every kind of loop, killed at every stage, and the real images they are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nomadiff.cli import main
from nomadiff.data.digits import read_digits
from nomadiff.data.image_source import ImageSource
from nomadiff.errors import Interrupted, NomadiffWarning, UsageError
from nomadiff.files import read_json, sha256_of_file
from nomadiff.improve.settings import Improvement
from nomadiff.loops.algorithm import LoopData
from nomadiff.loops.images import IMAGE_ALGORITHMS, ImageSIMS, ImageStandard
from nomadiff.loops.loop import AutophagousLoop
from nomadiff.loops.real_images import RealImages
from nomadiff.models.model import Model
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.studies.work import study_status, work_study
from nomadiff.tables import read_table
from nomadiff.training.presets import preset_named
from nomadiff.training.run_folder import RunFolder
from nomadiff.workflows.loop import ImageLoop, begin_image_loop, plan_image_loop, run_image_loop
from nomadiff.workflows.open_loop import OpenLoop

TINY = {"budget": 32, "batch": 16, "warmup": 16, "snapshot_every": 16, "log_every": 16}
DIGITS = replace(preset_named("digits"), sampler=SamplerConfig(steps=2))
OWN = Improvement(synthetic_count=16, budget=16, snapshots=1)


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


def algorithm(name: str, **options: Any) -> Any:
    return IMAGE_ALGORITHMS[name](DIGITS, device="cpu", improvement=OWN, **TINY, **options)


def make_loop(name: str, kind: str = "synthetic augmentation", generations: int = 2, **options: Any) -> AutophagousLoop:
    fresh = kind == "fresh data"
    real = RealImages(torch.from_numpy(images(60)), seed=3, count=20, generations=generations, fresh=fresh)
    arguments = {
        "real": real,
        "real_count": 20,
        "synthetic_count": 10,
        "distances": {"mean": lambda samples: float(samples.mean())},
        "evaluation_count": 8,
    } | options
    return AutophagousLoop(algorithm(name), kind, **arguments)


def weights(folder: Path) -> dict[str, str]:
    """Every network and every synthetic set of a loop; logs hold times and may differ."""
    kept = [path for path in folder.rglob("*") if path.suffix in (".safetensors", ".npy")]
    return {str(path.relative_to(folder)): sha256_of_file(path) for path in kept}


@pytest.mark.parametrize("name", IMAGE_ALGORITHMS)
def test_every_algorithm_starts_from_the_same_base(name: str, tmp_path: Path) -> None:
    data = LoopData(images(20), (images(10, 1),) if name != "real-only" else ())
    folder = tmp_path / name
    folder.mkdir()
    model = algorithm(name).fit(data, seed=5, folder=folder)
    model.save(folder)
    assert not list(folder.rglob("state")), "what only an interrupted training needs is dropped"
    samples = model.sample(6, 1)
    assert samples.dtype == np.uint8 and samples.shape == (6, 1, 8, 8)
    np.testing.assert_array_equal(algorithm(name).load(folder).sample(6, 1), samples)
    np.testing.assert_array_equal(model.sample(3, 1), samples[:3])
    if name in ("sims", "neon", "source-guidance", "casd"):
        (tmp_path / "standard").mkdir()
        algorithm("standard").fit(data, seed=5, folder=tmp_path / "standard")
        assert sha256_of_file(folder / "base/model.safetensors") == sha256_of_file(
            tmp_path / "standard/model.safetensors"
        )
        assert not (samples == Model.load(folder / "base", device="cpu").sample(6, 1).numpy()).all()


def test_a_loop_tells_its_algorithm_what_is_synthetic(tmp_path: Path) -> None:
    make_loop("casd-provenance", "accumulation", generations=3).run(3, 3, tmp_path)
    counts = []
    for generation in (1, 2, 3):
        sources = read_json(tmp_path / f"generation-{generation:04d}" / "model" / "sources.json")
        counts.append([(source["kind"], source["count"]) for source in sources])
    assert counts == [[("real", 20)], [("real", 20), ("synthetic", 10)], [("real", 20), ("synthetic", 20)]]


@pytest.mark.parametrize("name", ["standard", "sims", "casd-provenance"])
def test_a_warm_start_begins_from_the_predecessor(name: str, tmp_path: Path) -> None:
    """A step too small to move a weight shows where training began."""
    still = algorithm(name, weight=1.0) if name == "sims" else algorithm(name)
    still.training = {**still.training, "learning_rate": 1e-30, "ema_half_life": 0}
    (tmp_path / "first").mkdir(), (tmp_path / "warm").mkdir(), (tmp_path / "scratch").mkdir()
    first = still.fit(LoopData(images(20)), seed=1, folder=tmp_path / "first")
    data = LoopData(images(20), (images(10, 1),))
    warm = still.fit(data, seed=2, start=first, folder=tmp_path / "warm")
    scratch = still.fit(data, seed=2, folder=tmp_path / "scratch")

    def base(model: Any) -> dict[str, torch.Tensor]:
        return weights_of[model]

    weights_of = {m: Model.load(m.base, device="cpu").network.state_dict() for m in (first, warm, scratch)}
    shared = [key for key, value in base(first).items() if value.shape == base(warm)[key].shape]
    assert len(shared) > 20
    assert all(torch.allclose(base(first)[key], base(warm)[key], atol=1e-6) for key in shared)
    assert not all(torch.allclose(base(first)[key], base(scratch)[key], atol=1e-6) for key in shared)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("sims", "accumulation"), ("casd", "fresh data")])
def test_killed_at_every_stage_it_goes_on_to_the_same_result(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies in turn where runs begin, at lines of their logs, where images are drawn and where models are loaded."""
    expected = make_loop(name, kind).run(2, 3, tmp_path / "whole")
    calls = [10**9]

    def mortal(where: Any, what: str) -> None:
        whole = getattr(where, what)

        def dies(*arguments: Any, **options: Any) -> Any:
            calls[0] -= 1
            if calls[0] < 0:
                raise KeyboardInterrupt
            return whole(*arguments, **options)

        monkeypatch.setattr(where, what, dies)

    mortal(RunFolder, "log")
    mortal(RunFolder, "begin")
    mortal(Model, "sample")
    mortal(Model, "sample_batches")
    mortal(Model, "load")
    deaths, rows = 0, None
    while rows is None:
        calls[0] = deaths  # each life gets one call further than the one before, and then goes on from its files
        try:
            rows = make_loop(name, kind).run(2, 3, tmp_path / "killed")
        except (KeyboardInterrupt, Interrupted):  # improve turns Ctrl-C into a message of its own
            deaths += 1
    assert deaths > 4
    assert rows == expected
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


def test_fresh_data_is_unseen_and_runs_out() -> None:
    real = torch.from_numpy(images(60))
    draws = [
        {image.tobytes() for image in data.real}
        for data in _seen(RealImages(real, seed=3, count=20, generations=3, fresh=True), "fresh data", 3)
    ]
    assert all(len(draw) == 20 for draw in draws) and len(set.union(*draws)) == 60
    # a longer loop gets the same slices first
    again = _seen(RealImages(real, seed=3, count=20, generations=2, fresh=True), "fresh data", 2)
    assert [{image.tobytes() for image in data.real} for data in again] == draws[:2]
    with pytest.raises(UsageError, match=r"needs 80, and photos has 60: it lasts for 3 generations"):
        RealImages(real, seed=3, count=20, generations=4, fresh=True, name="photos")
    with pytest.raises(UsageError, match="only 60"):
        RealImages(real, seed=3, count=61, generations=4, fresh=False)


def _seen(real: RealImages, kind: str, generations: int) -> list[LoopData]:
    """The training sets of a loop whose algorithm learns nothing."""
    seen: list[LoopData] = []

    class Echo:
        def fit(self, data: LoopData, **_: Any) -> Echo:
            seen.append(data)
            return self

        def sample(self, count: int, seed: int) -> np.ndarray:
            return images(count, seed)

    distances = {"mean": lambda samples: float(samples.mean())}
    AutophagousLoop(
        Echo(),
        kind,
        real=real,
        real_count=20,
        synthetic_count=5,
        distances=distances,
        evaluation_count=2,  # type: ignore[arg-type]
    ).run(generations, 3)
    return seen


def setting(out: Path, **options: Any) -> ImageLoop:
    base = ImageLoop(
        real="digits:pool",
        reference="digits:reference",
        out=out,
        algorithms=("standard",),
        generations=2,
        real_count=20,
        synthetic_count=10,
        preset="digits",
        changes=TINY,
        seeds=(0,),
        count=12,
        detector="digits",
        device="cpu",
    )
    return replace(base, **options)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("synthetic-augmentation", "standard"),
        ("fully-synthetic", "sims"),
        ("fresh-data", "neon"),
        ("accumulation", "casd-provenance"),
    ],
)
def test_the_verb_runs_every_kind(kind: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--real-count", "20", "--synthetic-count", "10", "--generations", "2", "--count", "12"]
    options += ["--preset", "digits", "--budget", "32", "--batch", "16", "--warmup", "16", "--detector", "digits"]
    command = ["loop", "--real", "digits:pool", "--reference", "digits:reference", "--kind", kind, *options]
    seeds = (0, 1) if name == "standard" else (0,)
    command += [word for seed in seeds for word in ("--seeds", str(seed))]
    command += ["--algorithm", name, "--device", "cpu", "--workers", "1", "--out", str(tmp_path)]
    if name == "standard":
        assert main([*command, "--dry-run"]) == 0
        assert "4 generations" in capsys.readouterr().out
        assert not list(tmp_path.iterdir())
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert f"{name}: MADness ratio" in printed and "medians" in printed
    assert ("over 2 runs" if len(seeds) == 2 else "1 run, so no interval") in printed
    rows = read_table(tmp_path / "metrics.json").rows
    assert [row["real"] for row in rows] == [20, 0 if kind == "fully-synthetic" else 20] * len(seeds)
    assert [row["synthetic"] for row in rows] == [0, 10] * len(seeds)
    assert all(row["fd_digits"] > 0 and 0 <= row["recall"] <= 1 for row in rows)
    (verdict,) = read_table(tmp_path / "madness.json").rows
    first, last = ([row["fd_digits"] for row in rows if row["generation"] == g] for g in (1, 2))
    assert verdict["ratio"] == pytest.approx(sum(last) / sum(first))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "MADness ratio" in page and "narrower than the truth" in page


@pytest.mark.usefixtures("few_steps")
def test_noise_is_not_called_mad_and_longer_training_comes_next(tmp_path: Path, capsys) -> None:
    """Five loops of networks that had learnt nothing got "MAD", or "mitigated"."""
    command = [
        "loop",
        "--real",
        "digits:pool",
        "--reference",
        "digits:reference",
        "--preset",
        "digits",
        "--device",
        "cpu",
    ]
    command += ["--budget", "64", "--batch", "32", "--generations", "2", "--count", "40", "--seeds", "0"]
    command += ["--algorithm", "standard", "--workers", "1", "--out"]
    for name, more, why in (("far", ["--warmup", "32"], "fd_wavelets"), ("early", ["--warmup", "80"], "warm-up")):
        assert main([*command, str(tmp_path / name), *more]) == 0
        printed = capsys.readouterr().out
        assert "undecided: generation 1 is not yet a model (" in printed and why in printed
        assert printed.splitlines()[-1].endswith("--budget 256")
        (verdict,) = read_table(tmp_path / name / "madness.json").rows
        assert verdict["verdict"] == "undecided" and why in verdict["untrained"]


def test_a_reference_that_is_partly_the_real_set_is_told(tmp_path: Path) -> None:
    pool, held_out = (read_digits(f"digits:{name}").images for name in ("pool", "reference"))
    mixed = ImageSource.from_array(torch.cat([pool[:10], held_out]), name="reference", synthetic=False)
    with pytest.warns(NomadiffWarning, match="10 of 807 reference images are in the real set too"):
        plan_image_loop(setting(tmp_path, reference=mixed))


@pytest.mark.usefixtures("few_steps")
def test_one_run_is_never_certain_and_more_generations_extend_it(tmp_path: Path) -> None:
    short = run_image_loop(setting(tmp_path)).rows
    model = tmp_path / "loops" / "standard-seed0" / "generation-0002" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    table = run_image_loop(setting(tmp_path, generations=3))
    assert model.stat().st_mtime_ns == before
    assert [row["fd_digits"] for row in table.rows[:2]] == [row["fd_digits"] for row in short]
    (verdict,) = read_table(tmp_path / "madness.json").rows
    assert verdict["certain"] is False and verdict["ratio_low"] is None
    assert "1 run, so no interval" in table.meta["madness"]["standard"]
    with pytest.raises(UsageError, match="another loop"):
        run_image_loop(setting(tmp_path, synthetic_count=11))


@pytest.mark.usefixtures("few_steps")
def test_a_finished_loop_of_another_preset_is_refused(tmp_path: Path) -> None:
    """Two presets that lie in memory have no names to tell them apart by, and one's figures passed for the other's."""
    run_image_loop(setting(tmp_path, preset=DIGITS))
    run_image_loop(setting(tmp_path, preset=replace(DIGITS, description="the same")))
    wider = replace(DIGITS.network, model_channels=2 * DIGITS.network.model_channels)
    slower = replace(DIGITS.training, learning_rate=1e-5)
    for other in ({"network": wider}, {"training": slower}, {"sampler": SamplerConfig(steps=3)}):
        with pytest.raises(UsageError, match=r"another loop \(differs in preset"):
            run_image_loop(setting(tmp_path, preset=replace(DIGITS, **other)))


@pytest.mark.parametrize("count", [12, 60])
def test_the_floor_is_that_of_as_many_samples(tmp_path: Path, count: int) -> None:
    """Halves of the reference, which it was, score much lower: no generation of so few samples could reach them."""
    open_ = OpenLoop(setting(tmp_path, count=count))
    assert open_.floor == open_.reference_set.floor(count=count)
    assert open_.floor["fd_digits"] > 2 * open_.reference_set.floor()["fd_digits"]


def test_a_reference_too_small_for_a_floor_has_none(tmp_path: Path) -> None:
    few = ImageSource.from_array(read_digits("digits:reference").images[:40], name="reference", synthetic=False)
    assert OpenLoop(setting(tmp_path, reference=few, count=6)).floor == {}


@pytest.mark.slow
def test_a_plan_is_worked_on_by_any_process_to_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithms = ("standard", "sims")
    whole = run_image_loop(setting(tmp_path / "whole", workers=1, algorithms=algorithms))
    for place, seeds in (("two-seeds", (0, 1)), ("planned", (0,))):
        begin_image_loop(setting(tmp_path / place, algorithms=algorithms, seeds=seeds))
        assert not (tmp_path / place / "loops").exists()
        states = {row["job"]: row["state"] for row in study_status(tmp_path / place)}
        names = {f"{name}-seed{seed}" for name in algorithms for seed in seeds}
        assert states == dict.fromkeys([*names, *(f"standard-seed{seed}-first" for seed in seeds), "report"], "waiting")
    monkeypatch.chdir(tmp_path)
    work_study(tmp_path / "planned", processes=2)
    assert {row["state"] for row in study_status(tmp_path / "planned")} == {"done"}
    assert read_table(tmp_path / "planned" / "metrics.json").rows == whole.rows
    assert weights(tmp_path / "planned" / "loops") == weights(tmp_path / "whole" / "loops")
    assert (tmp_path / "planned" / "report.html").exists()


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
def test_the_first_generations_base_is_trained_once(tmp_path: Path) -> None:
    together = setting(tmp_path / "together", algorithms=("standard", "sims", "casd", "casd-provenance"))
    rows = run_image_loop(replace(together, workers=1)).rows
    loops = tmp_path / "together" / "loops"
    places = {"standard": ".", "sims": "base", "casd": "base", "casd-provenance": "."}
    # a log holds times: trained twice, it would not be the same
    logs = {(loops / f"{n}-seed0/generation-0001/model" / p / "log.jsonl").read_bytes() for n, p in places.items()}
    assert len(logs) == 1
    alone = run_image_loop(setting(tmp_path / "alone", algorithms=("sims",), workers=1)).rows
    assert [row["fd_digits"] for row in rows if row["method"] == "sims"] == [row["fd_digits"] for row in alone]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kind": "no-such"}, "fully-synthetic"),
        ({"algorithms": ("gan",)}, "casd-provenance"),
        ({"algorithms": ("sims", "real-only"), "kind": "fully synthetic"}, "nothing real"),
        ({"generations": 1}, "two generations"),
        ({"weight": 2.0}, "weight 2"),
        ({"kind": "fresh data", "generations": 60}, "lasts for 50 generations"),
        ({"real_count": 2000}, "only 1000"),
        ({"changes": {"budgt": 5}}, "budgt"),
        ({"seeds": (1, 1)}, "differ"),
        ({"count": 5}, "--count: precision and recall with k = 5 need more than 5"),
        ({"detector": "inception9"}, "no detector"),
        ({"reference": "digits:pool"}, "1,000 of 1,000 reference images are in the real set too"),
    ],
)
def test_what_is_wrong_is_found_before_anything_starts(options: dict, says: str, tmp_path: Path) -> None:
    for call in (plan_image_loop, run_image_loop):
        with pytest.raises(UsageError, match=says):
            call(setting(tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_without_counts_everything_is_used(tmp_path: Path) -> None:
    fresh = setting(tmp_path, kind="fresh-data", generations=4, real_count=None, synthetic_count=None)
    assert "250 real images, 250 of each generation" in plan_image_loop(fresh)


def test_algorithms_refuse_what_they_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no guidance weight"):
        ImageStandard("digits", weight=1.0)
    assert ImageSIMS("digits").improvement.weight == 1.0
    with pytest.raises(UsageError, match="kept on disk"):
        algorithm("standard").fit(LoopData(images(4)), seed=0)
    with pytest.raises(UsageError, match="nothing real"):
        algorithm("real-only").fit(LoopData(None, (images(4),)), seed=0, folder=tmp_path)
