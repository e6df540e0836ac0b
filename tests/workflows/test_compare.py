import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nomadiff.data.digits import read_digits
from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import Interrupted, NomadiffWarning, UsageError
from nomadiff.files import read_json
from nomadiff.methods.dm import DM
from nomadiff.methods.registry import METHODS
from nomadiff.metrics.detectors.digits import DigitsDetector
from nomadiff.models.model import Model
from nomadiff.monitoring import history
from nomadiff.reproduce.demo import demo_comparison
from nomadiff.studies.work import study_status
from nomadiff.workflows import arms as arms_module
from nomadiff.workflows import judging
from nomadiff.workflows.arms import Arm
from nomadiff.workflows.compare import Comparison, compare, comparison_jobs, plan_comparison


def comparison(out, **changes):
    base = Comparison(
        mix=MixSpec(
            real="digits:pool",
            synthetic=("close=digits:close", "style=digits:style"),
            real_subset="random:30:{seed}",
            real_fraction=0.3,
        ),
        reference="digits:reference",
        out=Path(out),
        preset="digits",
        seeds=(0, 1),
        changes={"budget": 512, "batch": 64, "warmup": 64},
        count=60,
        detector="digits",
        workers=1,
        device="cpu",
    )
    return replace(base, **changes)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
def test_a_comparison_takes_sources_and_mixes_as_it_takes_paths(tmp_path):
    """With the figures of the paths; its arms can be sent to other processes."""
    small = {"seeds": (0,), "methods": ("dm", "casd"), "changes": {"budget": 64, "batch": 64, "warmup": 64}}
    paths = MixSpec(real="digits:pool", synthetic=("close=digits:close",), real_subset="first:30", real_fraction=0.3)
    told = compare(comparison(tmp_path / "paths", mix=paths, **small)).rows
    real = ImageSource.open("digits:pool", name="real", synthetic=False).first(30)
    pixels = ImageSource.open("digits:close", name="any", synthetic=True).images
    mix = SourceMix(real, [ImageSource.from_array(pixels, name="close", synthetic=True)], real_fraction=0.3)
    held_out = ImageSource.open("digits:reference", name="mine", synthetic=False)
    study = comparison(tmp_path / "mix", mix=mix, reference=held_out, **small)
    assert compare(study).rows == told
    sent = pickle.loads(pickle.dumps(study.arms()))[1].mix.open()
    assert torch.equal(sent.batch(0, 8, 1).images, mix.batch(0, 8, 1).images)


@pytest.mark.usefixtures("few_steps")
def test_a_real_fraction_of_auto_is_searched(tmp_path):
    """Of sda and casd under their names; the report says what was found, and the budget counts the search."""
    spec = replace(comparison("x").mix, synthetic=("close=digits:close",), real_fraction="auto")
    budget = {"budget": 768, "batch": 64, "warmup": 64}
    study = comparison(tmp_path, mix=spec, seeds=(0,), changes=budget)
    assert [(arm.method, arm.kind) for arm in study.arms()] == [
        ("dm", "dm"),
        ("sda", "weighted"),
        ("casd", "casd+weighted"),
    ]
    told = {name: value for name, value in study.to_dict().items() if name != "study"}
    assert Comparison.from_dict(told, study.out).arms() == study.arms()
    table = compare(study)
    assert [(row["method"], row["images_seen"]) for row in table.rows] == [("dm", 768), ("sda", 768), ("casd", 768)]
    page = (tmp_path / "report.html").read_text()
    assert "sda-close-seed0: share of real images: " in page and "casd-close-seed0: share of real images: " in page
    with pytest.raises(UsageError, match="searched for sda and casd; with ambient give a number"):
        replace(study, methods=("casd", "ambient")).arms()
    with pytest.raises(UsageError, match="auto is for compare; .*--method casd.weighted"):
        spec.open()


@pytest.mark.slow
def test_a_reference_of_synthetic_images_is_refused(tmp_path):
    """By it whoever takes over the style of the synthetic images wins; a folder given twice did that in silence."""
    held_out, style = (ImageSource.open(f"digits:{name}", name=name, synthetic=name == "style")
                       for name in ("reference", "style"))  # fmt: skip
    wrong = ImageSource.from_array(style.pixels, name="held-out", synthetic=False)
    with pytest.raises(
        UsageError, match=rf"{len(style):,} of {len(style):,} reference images are of .* source 'style'"
    ):
        plan_comparison(comparison(tmp_path / "x", reference=wrong))
    pixels = torch.cat([held_out.pixels, style.pixels[:7]])
    partly = ImageSource.from_array(pixels, name="held-out", synthetic=False)
    with pytest.warns(NomadiffWarning, match=r"7 of 804 reference images are of the synthetic source 'style'"):
        plan_comparison(comparison(tmp_path / "x", reference=partly))
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("few_steps")
def test_compare_writes_one_tidy_row_an_arm_and_seed(tmp_path, monkeypatch):
    compare(comparison(tmp_path))
    content = read_json(tmp_path / "metrics.json")
    rows = content["rows"]
    assert [(row["method"], row["source"]) for row in rows if row["seed"] == 0] == [
        *(("dm", ""), ("sda", "close"), ("sda", "style"), ("casd", "close"), ("casd", "style"))
    ]
    assert len(rows) == 10
    metrics = ("fd_digits", "precision", "recall", "density", "coverage", "replication", "composition_tv")
    assert all(isinstance(row[name], float) for row in rows for name in metrics)
    assert all(row["images_seen"] == 512 for row in rows)
    assert content["meta"]["evaluation"]["detector"] == "digits"
    shares = read_json(tmp_path / "composition.json")["rows"]
    per_arm = sum(row["share"] for row in shares if (row["method"], row["source"], row["seed"]) == ("casd", "style", 1))
    assert per_arm == pytest.approx(1)
    answers = {(row["principle"], row["method"], row["source"]) for row in read_json(tmp_path / "verdict.json")["rows"]}
    assert ("no harm", "casd", "style") in answers
    assert all("fd_digits_low" in row for row in rows)  # the resampling error inside a run, for the verdict
    page = (tmp_path / "report.html").read_text()
    assert "casd" in page
    assert "fd_digits" in page
    # each seed draws its own real images, and arms of one seed share them
    data = {path.name: read_json(path / "sources.json")[0]["content_hash"] for path in (tmp_path / "runs").iterdir()}
    assert data["dm-seed0"] == data["casd-close-seed0"] != data["dm-seed1"]

    # again: nothing is trained or drawn a second time
    monkeypatch.setattr(arms_module.Model, "write_samples", lambda *a, **k: pytest.fail("drew again"))
    monkeypatch.setattr("nomadiff.training.loop._Training._step", lambda *a: pytest.fail("trained again"))
    again = compare(comparison(tmp_path))
    assert again.rows == rows


@pytest.mark.parametrize(
    "change",
    [
        {"group_by": "patient"},
        {"detector_weights": "other.pt"},
        {"classifier_weights": "other.pt"},
        {"allow_train_as_reference": True},
        {"similarity": True},
    ],
)
def test_a_report_of_other_settings_is_not_done(tmp_path, change):
    """Planned anew and worked on by ``work``, a study kept the report of before."""
    before, after = comparison_jobs(comparison(tmp_path)), comparison_jobs(comparison(tmp_path, **change))
    assert [job.about for job in before[:-1]] == [job.about for job in after[:-1]]  # the models are the same
    assert before[-1].about != after[-1].about


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
def test_a_model_whose_held_out_loss_falls_fast_is_called_untrained(tmp_path, monkeypatch):
    small = {"seeds": (0,), "methods": ("dm", "casd"), "changes": {"budget": 1024, "batch": 64, "warmup": 0}}
    small["changes"] |= {"snapshot_every": 256}
    monkeypatch.setattr(history, "_FALLING", 1e-4)
    monkeypatch.setattr(history, "_FAST", 1e-3)
    paths = MixSpec(real="digits:pool", synthetic=("close=digits:close",), real_subset="first:60")
    study = comparison(tmp_path / "study", mix=paths, validation=0.5, **small)
    rows = compare(study).rows
    assert all("held-out loss still fell by" in row["untrained"] for row in rows)
    assert compare(study).rows == rows  # the same runs: nothing differs
    settings = {name: value for name, value in study.to_dict().items() if name != "study"}
    assert Comparison.from_dict(settings, study.out).validation == 0.5
    monkeypatch.setattr(history, "_FAST", 1.0)
    assert not any("untrained" in row for row in compare(study).rows)


def test_an_arm_killed_while_it_draws_goes_on_or_draws_anew_when_it_was_extended(tmp_path, monkeypatch):
    mix = MixSpec(real="digits:pool", synthetic=(), real_subset="random:30")
    small = {"budget": 128, "batch": 64, "warmup": 64}

    def arm(name, **changes):
        return Arm("dm", "", 0, mix, tmp_path / name, "digits", 12, changes={**small, **changes}, device="cpu")

    batches = Model.sample_batches

    def stopping(self, count, seed=0, **options):
        for number, batch in enumerate(batches(self, count, seed, **{**options, "batch_size": 4})):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    for name in ("same", "longer"):
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(Model, "sample_batches", stopping)
            arm(name).run()
        assert (tmp_path / name / "samples.zip.part" / "job.json").exists()
    arm("same").run()
    arm("longer", budget=256).run()
    arm("whole", budget=256).run()
    assert (tmp_path / "longer" / "samples.zip").read_bytes() == (tmp_path / "whole" / "samples.zip").read_bytes()
    assert len(read_images(tmp_path / "same" / "samples.zip").images) == 12


@pytest.mark.usefixtures("few_steps")
def test_every_set_of_images_passes_the_detector_once(tmp_path, monkeypatch):
    seen = Counter()

    class Counting(DigitsDetector):
        def __call__(self, images):
            seen.update(image.numpy().tobytes() for image in images)
            return super().__call__(images)

    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(judging, "load_detector", lambda *a, **k: Counting())
    compare(comparison(tmp_path / "study", methods=("dm", "sda")))
    reference = read_digits("digits:reference").images
    assert {seen[image.numpy().tobytes()] for image in reference} == {1}
    drawn = read_images(tmp_path / "study" / "runs" / "dm-seed0" / "samples.zip").images
    assert {seen[image.numpy().tobytes()] for image in drawn} == {1}


@pytest.mark.slow
def test_arms_in_processes_equal_arms_in_turn(tmp_path):
    """The number of processes must not matter: one thread each, the same bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    options = {
        "seeds": (3,),
        "methods": ("dm", "casd"),
        "mix": MixSpec(real="digits:pool", synthetic=("digits:close",)),
    }
    try:
        alone = compare(comparison(tmp_path / "a", workers=1, **options))
    finally:
        torch.set_num_threads(threads)
    together = compare(comparison(tmp_path / "b", workers=2, **options))
    assert alone.rows == together.rows


def test_together_trains_one_model_on_all_sources(tmp_path):
    arms = comparison(tmp_path, together=True, seeds=(0,)).arms()
    assert [(arm.method, arm.source) for arm in arms] == [("dm", ""), ("sda", "close+style"), ("casd", "close+style")]
    recipe = arms[-1].algorithm().recipe(arms[-1].mix.open())
    assert recipe.sources == 3
    assert recipe.shares == pytest.approx((0.3, 0.35, 0.35))


ARMS = ("dm", "casd", "sims", "neon", "casd+source-guidance")


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
def test_two_papers_are_arms_of_one_study_at_equal_images_seen(tmp_path, monkeypatch):
    """Methods of one training and of two, judged together, and a finished study is only read."""
    short = replace(
        comparison(tmp_path, methods=ARMS), mix=replace(comparison(tmp_path).mix, synthetic=("digits:close",))
    )
    rows = compare(short).rows
    assert {(row["method"], row["source"], row.get("control")) for row in rows} == {
        *(("dm", "", None), ("casd", "close", None), ("sims", "", "dm"), ("neon", "", "dm")),
        ("casd+source-guidance", "close", "casd"),
    }
    assert {row["images_seen"] for row in rows} == {512}
    trained = {row["job"]: (row["state"], row["images"], row["of"]) for row in study_status(tmp_path)}
    assert trained.pop("report") == ("done", 0, 0) and set(trained.values()) == {("done", 512, 512)}
    answers = {(row["principle"], row["method"], row["source"]) for row in read_json(tmp_path / "verdict.json")["rows"]}
    assert answers >= {("utility", "sims", ""), ("no harm", "neon", ""), ("gain", "casd+source-guidance", "close")}
    page = (tmp_path / "report.html").read_text()
    assert "448 images trained the base and 64 what guides it; its control is dm, which saw all 512." in page
    assert "its control is casd" in page
    monkeypatch.setattr(arms_module.Model, "sample_batches", lambda *a, **k: pytest.fail("drew again"))
    monkeypatch.setattr("nomadiff.training.loop._Training._step", lambda *a: pytest.fail("trained again"))
    assert compare(short).rows == rows
    with pytest.raises(UsageError, match="cannot be prolonged"):
        plan_comparison(replace(short, changes={**short.changes, "budget": 1024}))


def test_a_method_that_guides_a_base_brings_its_control(tmp_path):
    def methods(*names):
        return [arm.method for arm in comparison(tmp_path, seeds=(0,), together=True, methods=names).arms()]

    assert methods("sims", "neon") == ["dm", "sims", "neon"]
    assert methods("casd+sims") == ["casd", "casd+sims"]
    assert methods("sims", "dm") == ["sims", "dm"]
    assert not comparison(tmp_path, methods=("sims",)).needs_synthetic
    assert comparison(tmp_path, methods=("sda+sims",)).needs_synthetic


@pytest.mark.usefixtures("few_steps")
def test_a_method_that_reports_do_not_know_is_reported(tmp_path, monkeypatch):
    class Own(DM):
        """A method of somebody else's."""

        name = "own-method"
        description = ""

    monkeypatch.setitem(METHODS, "own-method", Own)
    compare(comparison(tmp_path, seeds=(0,), methods=("dm", "own-method")))
    assert "A method of somebody else&#39;s." in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_failing_arm_is_reported_and_the_others_stop(tmp_path):
    bad = comparison(tmp_path, seeds=(0,), workers=2, changes={"budget": 512, "learning_rate": 1e30, "warmup": 0})
    with pytest.raises(Exception, match="not finite"):
        compare(bad)


def test_subjects_that_leave_no_reference_are_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(Arm, "run", lambda self: pytest.fail("trained"))
    for count, told in ((1, "all images are of one subject"), (2, "left")):
        monkeypatch.setattr(
            "nomadiff.workflows.compare.subjects_of",
            lambda source, column, count=count: [str(number % count) for number in range(len(source))],
        )
        with pytest.raises(UsageError, match=told):
            compare(comparison(tmp_path, group_by="patient"))


def test_wrong_sizes_are_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(Arm, "run", lambda self: pytest.fail("trained"))
    with pytest.raises(UsageError, match="digits:reference.*8, 8.*16, 16"):
        mix = MixSpec(real="digits:pool", synthetic=("digits:close",), resolution=16)
        opened = ImageSource.open
        monkeypatch.setattr(
            ImageSource,
            "open",
            lambda spec, **o: opened(spec, **(o | {"resolution": None} if o["name"] == "reference" else o)),
        )
        compare(comparison(tmp_path, mix=mix))
    with pytest.raises(UsageError, match="--count: precision and recall with k = 5 need more than 5 images, got 5"):
        compare(comparison(tmp_path, count=5))
    with pytest.raises(UsageError, match="at least one --synthetic"):
        compare(comparison(tmp_path, mix=MixSpec(real="digits:pool")))


@pytest.mark.usefixtures("few_steps")
def test_similarity_of_small_images(tmp_path):
    table = compare(comparison(tmp_path, seeds=(0,), methods=("dm",), similarity=True))
    assert -1 <= table.rows[0]["ssim_pairs"] < table.rows[0]["ssim_nearest"] <= 1


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
def test_demo_has_the_rows_it_promises(tmp_path):
    table = compare(replace(demo_comparison(tmp_path, seeds=(7,), budget=512, workers=1), count=60))
    assert {(row["method"], row["source"]) for row in table.rows} == {
        *(("dm", ""), ("sda", "close"), ("sda", "style"), ("casd", "close"), ("casd", "style"))
    }
    assert {row["images_seen"] for row in table.rows} == {512}
    assert (tmp_path / "report.html").exists()


def test_a_reference_that_is_trained_on_is_found_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr("nomadiff.workflows.compare.work_on", lambda *args, **options: pytest.fail("trained"))
    wrong = comparison(tmp_path, reference="digits:pool")
    wrong = replace(wrong, mix=replace(wrong.mix, real_subset=None))
    for call in (compare, plan_comparison):
        with pytest.raises(UsageError, match="in the training set too"):
            call(wrong)
    assert "models:" in plan_comparison(replace(wrong, allow_train_as_reference=True))


@pytest.mark.usefixtures("few_steps")
@pytest.mark.slow
def test_six_uses_of_synthetic_data_in_one_report(tmp_path):
    methods = ("dm", "sda", "casd", "ambient", "weighted", "filtered")
    mix = MixSpec(
        real="digits:pool", synthetic=("style=digits:style",), real_subset="first:40", synthetic_subset="first:80"
    )
    small = {"budget": 1024, "batch": 64, "warmup": 64}
    study = comparison(tmp_path, mix=mix, seeds=(0,), methods=methods, changes=small)
    rows = compare(study).rows
    assert [row["method"] for row in rows] == list(methods)
    assert {row["images_seen"] for row in rows} == {1024}  # what was found out first is counted
    page = (tmp_path / "report.html").read_text()
    assert all(METHODS[name].description in page for name in methods)
    for words in ("the classifiers that set the floors", "pilots with several shares", "the discriminators that chose"):
        assert f"images went to {words}" in page
    answers = {(row["principle"], row["method"]) for row in read_json(tmp_path / "verdict.json")["rows"]}
    assert {("utility", name) for name in methods[1:]} <= answers
    runs = {arm.method: arm for arm in study.arms()}
    trained = {name: read_json(runs[name].out / "config.json")["recipe"]["training"]["budget"] for name in methods}
    assert trained["ambient"] == trained["filtered"] < trained["dm"] == trained["casd"] == 1024


def test_a_floor_is_ambients_alone(tmp_path):
    arms = comparison(tmp_path, seeds=(0,), methods=("dm", "ambient", "casd"), floor=0.5).arms()
    assert {arm.method: "floor" in arm.changes for arm in arms} == {"dm": False, "ambient": True, "casd": False}
    assert {arm.algorithm().floor for arm in arms if arm.method == "ambient"} == {0.5}
    told = comparison(tmp_path, methods=("ambient",), floor="auto").to_dict()
    settings = {name: value for name, value in told.items() if name != "study"}
    assert Comparison.from_dict(settings, tmp_path).floor == "auto"
    with pytest.raises(UsageError, match="--floor belongs to --method ambient, which is not compared"):
        comparison(tmp_path, floor=0.5).arms()
