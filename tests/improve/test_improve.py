"""``improve``: what it makes, that it goes on where it was stopped, and that it can say no."""

import dataclasses
import itertools
import json
import signal

import pytest
import torch
from factories import noise_source, tiny_preset

from nomadiff.data.image_source import ImageSource
from nomadiff.data.manifest import read_manifest
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, Interrupted, NomadiffWarning, UsageError
from nomadiff.guidance.shared_encoder import SharedEncoder
from nomadiff.improve import own_samples
from nomadiff.improve.auxiliary import auxiliary_config, budgets
from nomadiff.improve.confirmation import Pair
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.improve.weight_search import Chooser, check_scores
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.drawable import Drawable
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.models.provenance import origins
from nomadiff.training.run_folder import RunFolder, load_tensors

PRESET = tiny_preset(budget=160, learning_rate=1e-2, snapshot_every=160, ema_half_life=20)
QUICK = Improvement(synthetic_count=40, budget=64, snapshots=2, weight=1.0, count=30, evaluations=4, confirmations=2)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    mix = SourceMix(noise_source("real"), [noise_source("a", 1), noise_source("b", 2)])
    DM(PRESET).fit(mix, root / "dm", device="cpu")
    CASD(PRESET, class_labels=True).fit(mix, root / "casd", device="cpu")
    return root


@pytest.fixture
def base(bases):
    return Model.load(bases / "dm", device="cpu")


@pytest.fixture(scope="module")
def reference():
    return ReferenceSet(noise_source("reference", 9).images, detector="pixels")


def small_shards(monkeypatch):
    monkeypatch.setattr(Model, "default_batch_size", 16)


@pytest.mark.parametrize(("told", "code"), [((), 130), ((signal.SIGTERM,), 143)])
def test_a_stop_keeps_its_signal(base, tmp_path, monkeypatch, told, code):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt(*told)

    monkeypatch.setattr(own_samples.OwnSamples, "draw", stopped)
    with pytest.raises(Interrupted) as caught:
        improve(base, tmp_path / "out", QUICK, device="cpu")
    assert caught.value.exit_code == code


def test_the_folder_becomes_a_model(base, tmp_path):
    done = improve(base, tmp_path / "out", QUICK, device="cpu")
    model = Model.load(tmp_path / "out", device="cpu")
    assert model.sha256 == done.model.sha256
    assert torch.equal(model.sample(4), done.model.sample(4))
    assert not torch.equal(model.sample(4), base.sample(4))
    assert (model.config.method, model.guidance.weight, model.nfe()) == ("sims", 1.0, 10)
    assert model.manifest(4, 0)["guidance"] == {"kind": "extrapolation", "weight": 1.0, "interval": None}
    assert done.gain is None and "nothing was scored" in done.sentence
    assert {entry.name for entry in (tmp_path / "out").iterdir() if entry.name[0] != "."} == {
        *("auxiliary", "base.safetensors", "guidance.json", "improve.csv", "improve.json", "sources.json"),
    }  # the own samples are gone


def test_it_can_be_moved(base, tmp_path):
    images = improve(base, tmp_path / "out", QUICK, device="cpu").model.sample(4)
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    assert torch.equal(Model.load(tmp_path / "elsewhere", device="cpu").sample(4), images)


def test_what_the_base_was_trained_on_goes_with_it(base, tmp_path):
    improved = improve(base, tmp_path / "out", QUICK, device="cpu").model
    assert [found["name"] for found in origins(improved)] == ["real"]
    assert origins(improved) == origins(base)


def test_the_copy_learns_from_own_samples_only(base, tmp_path, monkeypatch):
    small_shards(monkeypatch)
    improve(base, tmp_path / "out", dataclasses.replace(QUICK, keep_synthetic=True), device="cpu")
    own = ImageSource.open(tmp_path / "out" / "own.zip", name="own", synthetic=True)
    manifest = read_manifest(tmp_path / "out" / "own.zip")
    assert (manifest["model_sha256"], manifest["kind"], manifest["count"]) == (base.sha256, "synthetic", 40)
    drawn = base.sample(40, seed=manifest["seed"], batch_size=16)
    assert torch.equal(own.images, drawn)
    (recorded,) = json.loads((tmp_path / "out" / "auxiliary" / "sources.json").read_text())
    assert recorded["kind"] == "synthetic" and recorded["content_hash"] == own.content_hash
    assert not (tmp_path / "out" / "own").exists()


def test_fine_tuning_starts_at_the_base_and_leaves_it(base, tmp_path):
    improve(base, tmp_path / "out", dataclasses.replace(QUICK, learning_rate=1e-12), device="cpu")
    folder = RunFolder(tmp_path / "out" / "auxiliary")
    assert folder.snapshots() == [32, 64]
    near = Model.load(folder.path, device="cpu").network.state_dict()
    for name, value in base.network.state_dict().items():
        torch.testing.assert_close(near[name], value)


def test_own_samples_are_drawn_in_shards_that_do_not_matter(base, tmp_path, monkeypatch):
    whole = base.sample(40, seed=3)
    small_shards(monkeypatch)
    own = own_samples.OwnSamples(base, tmp_path, 40, 3)
    own.draw(own_samples.Processes(0, 1, base.device))
    assert sorted(path.name for path in own.path.iterdir()) == [f"{start:09d}.npz" for start in (0, 16, 32)]
    assert (own.open().images.int() - whole.int()).abs().max() <= 1  # another batch size: one grey level of rounding
    assert own.open().provenance["kind"] == "synthetic"


def test_shards_of_another_count_or_seed_are_drawn_anew(base, tmp_path, monkeypatch):
    """As a source guidance that was killed while it drew, and called again with other settings."""
    small_shards(monkeypatch)
    one = own_samples.Processes(0, 1, base.device)
    for count, seed in ((40, 3), (36, 3), (40, 3), (40, 4), (20, 4)):
        own = own_samples.OwnSamples(base, tmp_path, count, seed)
        before = {path.name: path.stat().st_mtime_ns for path in own.path.glob("*")}
        own.draw(one)
        assert (own.open().images.int() - base.sample(count, seed=seed).int()).abs().max() <= 1
        if (count, seed) == (36, 3):  # whole shards of the same samples stay
            assert own.path.joinpath("000000000.npz").stat().st_mtime_ns == before["000000000.npz"]


def test_own_samples_and_scores_are_drawn_in_what_suits_model_and_machine(base, tmp_path, monkeypatch):
    chosen = lambda _, precision: "bf16" if precision == "auto" else precision  # noqa: E731 - as on a machine with bf16
    monkeypatch.setattr(type(base), "drawing_precision", chosen)
    own = own_samples.OwnSamples(base, tmp_path, 8, 3)
    own.draw(own_samples.Processes(0, 1, base.device))
    assert torch.equal(own.open().images, base.sample(8, seed=3, precision="bf16"))
    assert not torch.equal(own.open().images, base.sample(8, seed=3, precision="fp32"))
    assert own.open().provenance["manifest"]["precision"] == "bf16"


# choosing


def test_a_searched_weight_is_confirmed_on_other_noise(base, reference, tmp_path):
    settings = dataclasses.replace(QUICK, weight=None)
    done = improve(base, tmp_path / "out", settings, reference=reference, device="cpu")
    rows = done.table.rows
    search, fresh = ([row for row in rows if row["noise"] == noise] for noise in ("search", "fresh"))
    assert {row["budget"] for row in search} == {0, 32, 64}
    assert sum(row["weight"] == 0 for row in search) == 1
    assert all(0 < row["weight"] < 2 for row in search if row["budget"])
    assert 2 * 3 <= len([row for row in search if row["budget"]]) <= 2 * 4
    assert len({row["seed"] for row in search}) == 1
    assert len({row["seed"] for row in fresh}) == 2 and not {row["seed"] for row in fresh} & {search[0]["seed"]}
    assert len(fresh) == 4 and [row["weight"] == 0 for row in fresh] == [True, True, False, False]
    best = min((row for row in search if row["budget"]), key=lambda row: row["fd_pixels"])
    assert {(row["budget"], row["weight"]) for row in fresh if row["budget"]} == {(best["budget"], best["weight"])}
    names = ("fd_pixels", "precision", "recall", "coverage", "nfe", "gflop", "seconds_per_image", "drawn_in", "space")
    assert all(name in row for name in names for row in rows)
    assert {row["nfe"] for row in rows if row["weight"]} == {10} and {r["nfe"] for r in rows if not r["weight"]} == {5}
    meta = json.loads((tmp_path / "out" / "improve.json").read_text())["meta"]
    assert meta["best"]["weight"] == best["weight"] and meta["sentence"] == done.sentence
    recall = [sum(row["recall"] for row in fresh if bool(row["weight"]) == guided) / 2 for guided in (False, True)]
    assert f"recall {recall[0]:.2f} -> {recall[1]:.2f}" in done.sentence
    assert meta["evaluation"]["detector"] == "pixels" and meta["evaluation"]["count"] == 30


def by_formula(monkeypatch, formula):
    """Replace drawing and scoring by a function of (budget, weight, seed)."""

    def score(self, budget, weight, seed, noise):
        row = {"space": "function", "budget": budget, "weight": weight, "seed": seed, "noise": noise}
        row["fd_pixels"] = formula(budget, weight, seed)
        self.table.rows.append(row)
        return row

    monkeypatch.setattr(Chooser, "score", score)
    monkeypatch.setattr(Chooser, "pair", lambda self, budget, weight, seeds, index, scores: Pair(scores))


def test_a_sure_gain_is_recommended(base, reference, tmp_path, monkeypatch):
    """The score has its minimum at weight 0.7 and budget 64, and little noise."""
    by_formula(monkeypatch, lambda budget, weight, seed: 10 + weight * (weight - 1.4) * budget / 64 + seed % 97 / 1e3)
    settings = dataclasses.replace(QUICK, weight=None, evaluations=12, confirmations=4)
    done = improve(base, tmp_path / "out", settings, reference=reference, device="cpu")
    assert done.model.guidance.weight == pytest.approx(0.7, abs=0.06)
    assert done.model.guidance.auxiliary == "auxiliary/snapshots/000000000064.safetensors"
    assert done.gain.is_sure and done.gain.mean == pytest.approx(0.049, abs=0.003)
    assert done.sentence.startswith("weight 0.7") and "+4.9% gain in fd_pixels" in done.sentence


@pytest.mark.parametrize(
    "formula",
    [
        lambda budget, weight, seed: 10 + weight,  # only worse
        lambda budget, weight, seed: 10 - (weight > 0) * 0.1 * ((seed * 2654435761 % 7) - 3),  # noise
    ],
    ids=["worse", "noise"],
)
def test_no_gain_is_said_and_the_base_is_what_is_drawn(base, reference, tmp_path, monkeypatch, formula):
    by_formula(monkeypatch, formula)
    settings = dataclasses.replace(QUICK, weight=None, confirmations=6)
    done = improve(base, tmp_path / "out", settings, reference=reference, device="cpu")
    assert not done.gain.is_sure and "no sure gain: keep the base model" in done.sentence
    assert done.model.guidance.weight == 0
    assert torch.equal(done.model.sample(5), base.sample(5))
    assert done.model.nfe() == base.nfe()


def test_a_weight_that_was_asked_for_is_used_and_judged(base, reference, tmp_path, monkeypatch):
    by_formula(monkeypatch, lambda budget, weight, seed: 10 + weight + budget / 64)
    done = improve(base, tmp_path / "out", QUICK, reference=reference, device="cpu")
    assert done.model.guidance.weight == 1.0
    assert done.model.guidance.auxiliary.endswith("032.safetensors")  # the better budget at this weight
    assert "as asked" in done.sentence and "keep the base model" in done.sentence


def test_any_metric_of_the_library_can_decide(base, reference, tmp_path, monkeypatch):
    done = improve(
        base, tmp_path / "o", dataclasses.replace(QUICK, metric="coverage"), reference=reference, device="cpu"
    )
    search = [row for row in done.table.rows if row["noise"] == "search" and row["budget"]]
    chosen = max(search, key=lambda row: (row["coverage"], -row["budget"]))
    assert f"{chosen['budget']:012d}" in done.model.guidance.auxiliary


@pytest.mark.parametrize(
    ("change", "images", "said"),
    [
        ({"metric": "fid"}, 60, "no metric 'fid': this reference gives fd_pixels, fdr, precision"),
        ({"metric": "replication"}, 60, "no metric 'replication'"),  # without training images
        ({"count": 5}, 60, "count: precision and recall with k = 5 need more than 5"),
        ({}, 39, "needs at least 40 images"),
    ],
)
def test_what_cannot_be_scored_is_found_before_the_training(base, tmp_path, change, images, said):
    few = ReferenceSet(noise_source("reference", 9, images).images, detector="pixels")
    with pytest.raises(UsageError, match=said):
        improve(base, tmp_path / "p", dataclasses.replace(QUICK, **change), reference=few, device="cpu")
    assert not (tmp_path / "p").exists()


def test_the_ratio_to_fresh_data_may_decide(base, reference):
    check_scores(dataclasses.replace(QUICK, metric="fdr"), reference)


# going on


def comparable(folder):
    table = json.loads((folder / "improve.json").read_text())
    rows = [{name: value for name, value in row.items() if name != "seconds_per_image"} for row in table["rows"]]
    weights = load_tensors(folder / "auxiliary" / "model.safetensors")[0]
    return (folder / "guidance.json").read_text(), rows, table["meta"].get("best"), weights


def test_stopped_anywhere_it_goes_on_to_the_same_model(base, reference, tmp_path, monkeypatch, stop_after):
    small_shards(monkeypatch)
    settings = dataclasses.replace(QUICK, weight=None)
    improve(base, tmp_path / "whole", settings, reference=reference, device="cpu")
    stops = [
        (own_samples, "write_images", 2),
        (RunFolder, "log", 1),
        (own_samples, "remove_tree", 1),
        (Chooser, "_save_row", 3),
        (Chooser, "_save_row", 4),
        (GuidanceConfig, "write", 1),
    ]
    for owner, name, calls in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, owner, name, calls)
            with pytest.raises(Interrupted, match="run the same command again"):
                improve(base, tmp_path / "broken", settings, reference=reference, device="cpu")
    improve(base, tmp_path / "broken", settings, reference=reference, device="cpu")
    whole, broken = comparable(tmp_path / "whole"), comparable(tmp_path / "broken")
    assert whole[:3] == broken[:3]
    assert all(torch.equal(value, broken[3][name]) for name, value in whole[3].items())
    assert Model.load(tmp_path / "whole", device="cpu").sha256 == Model.load(tmp_path / "broken", device="cpu").sha256


def everything(folder):
    """All files byte for byte, but of the log what does not tell the time; the table apart."""
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    apart = (".lock", "log.jsonl", "improve.json", "improve.csv")
    log = [record["images_seen"] for record in RunFolder(folder / "auxiliary").read_log()]
    return {path: content for path, content in files.items() if path.name not in apart}, log, comparable(folder)[1:3]


def test_killed_at_any_write_it_goes_on_to_the_same_folder(base, tmp_path, monkeypatch, killed_at_write):
    small_shards(monkeypatch)
    settings = dataclasses.replace(QUICK, keep_synthetic=True)
    improve(base, tmp_path / "whole", settings, device="cpu")
    for number in itertools.count(1, 2):
        out = tmp_path / str(number)
        if not killed_at_write(number, number % 4 == 1, lambda: improve(base, out, settings, device="cpu")):  # noqa: B023
            break
        improve(base, out, settings, device="cpu")
        assert everything(out) == everything(tmp_path / "whole"), number
    assert number > 12


def test_a_damaged_copy_of_the_base_is_stored_again(base, tmp_path):
    improve(base, tmp_path / "out", QUICK, device="cpu")
    stored = tmp_path / "out" / "base.safetensors"
    before = stored.read_bytes()
    stored.write_bytes(before[:-5])
    improve(base, tmp_path / "out", QUICK, device="cpu")
    assert stored.read_bytes() == before


def test_an_unfinished_one_says_so(base, tmp_path, monkeypatch, stop_after):
    stop_after(monkeypatch, RunFolder, "log", 1)
    with pytest.raises(Interrupted):
        improve(base, tmp_path / "out", QUICK, device="cpu")
    with pytest.raises(DataError, match="unfinished improvement: run its command again"):
        Model.load(tmp_path / "out", device="cpu")


def test_a_finished_one_is_only_read(base, reference, tmp_path, monkeypatch):
    first = improve(base, tmp_path / "out", QUICK, reference=reference, device="cpu")
    monkeypatch.delattr(Drawable, "sample_batches")
    again = improve(base, tmp_path / "out", QUICK, reference=reference, device="cpu")
    assert (again.sentence, again.gain, again.model.sha256) == (first.sentence, first.gain, first.model.sha256)
    assert again.table.rows == first.table.rows
    assert again.table.meta["evaluation"] == first.table.meta["evaluation"]


def test_one_auxiliary_serves_both_spaces_and_any_weight(base, reference, tmp_path):
    out = tmp_path / "out"
    improve(base, out, QUICK, reference=reference, device="cpu")
    trained = (out / "auxiliary" / "model.safetensors").stat().st_mtime_ns
    rows = len(json.loads((out / "improve.json").read_text())["rows"])
    done = improve(base, out, dataclasses.replace(QUICK, space="parameters"), reference=reference, device="cpu")
    model = Model.load(out, device="cpu")
    assert (model.config.method, model.guidance.kind, model.nfe()) == ("neon", "merge", 5)
    assert len(done.table.rows) > rows and {row["space"] for row in done.table.rows} == {"function", "parameters"}
    unscored = improve(base, out, dataclasses.replace(QUICK, weight=0.3, interval=(0.1, 9.0)), device="cpu")
    assert unscored.table.rows == done.table.rows  # scores are not lost by a call that scores nothing
    model = Model.load(out, device="cpu")
    assert (model.guidance.weight, model.guidance.interval) == (0.3, (0.1, 9.0)) and 5 < model.nfe() < 10
    assert (out / "auxiliary" / "model.safetensors").stat().st_mtime_ns == trained


def test_another_models_samples_can_take_the_place_of_its_own(base, tmp_path):
    other = noise_source("other", 7, count=24)
    done = improve(base, tmp_path / "out", QUICK, synthetic=other, device="cpu")
    (recorded,) = json.loads((tmp_path / "out" / "auxiliary" / "sources.json").read_text())
    assert (recorded["name"], recorded["content_hash"]) == ("other", other.content_hash)
    assert done.table.meta["auxiliary"]["synthetic_count"] == 24
    assert not (tmp_path / "out" / "own").exists()
    with pytest.raises(UsageError, match="synthetic"):
        improve(base, tmp_path / "out", QUICK, synthetic=noise_source("third", 8, count=24), device="cpu")


def test_only_the_end_of_the_decoder(base, tmp_path):
    done = improve(base, tmp_path / "out", dataclasses.replace(QUICK, train_part="decoder"), device="cpu")
    assert isinstance(done.model.denoiser, SharedEncoder)
    assert 5 < done.model.nfe() <= 7.5
    auxiliary = Model.load(tmp_path / "out" / "auxiliary", device="cpu")
    assert auxiliary.config.method == "auxiliary-decoder"
    same = [
        name
        for name, value in base.network.state_dict().items()
        if torch.equal(value, auxiliary.network.state_dict()[name])
    ]
    assert any("enc." in name for name in same) and not any("8x8_block" in name and "dec." in name for name in same)


# labels


def test_a_casd_model_is_improved_at_label_0(bases, tmp_path):
    """Own samples are drawn at the real label and carry it in the copy; synthetic labels stay free."""
    base = Model.load(bases / "casd", device="cpu")
    improve(base, tmp_path / "out", dataclasses.replace(QUICK, keep_synthetic=True), device="cpu")
    model = Model.load(tmp_path / "out", device="cpu")
    auxiliary = model.parts[1]
    assert auxiliary.config.source_names == ("own", "a", "b") and auxiliary.config.sources == 3
    own = ImageSource.open(tmp_path / "out" / "own.zip", name="own", synthetic=True)
    assert read_manifest(tmp_path / "out" / "own.zip")["source"] == "real"
    assert own.labels is not None and len(own.labels.unique()) == 3  # classes of the base, kept in the copy
    assert model.config.source_names == ("real", "a", "b")
    assert not torch.equal(model.sample(6), base.sample(6))
    assert not torch.equal(model.sample(6, class_label=1), model.sample(6, class_label=2))
    weights = auxiliary.network.network.map_label.weight
    change = (weights - base.network.network.map_label.weight).abs().sum(0)
    assert change[0] > 0 and change[1] == change[2] == 0 and (change[3:] > 0).all()


# settings


def test_defaults_are_those_of_the_base_without_hidden_warm_up(base):
    config = auxiliary_config(base.config, Improvement())
    options = config.training
    assert (options.learning_rate, options.warmup, options.ema_rampup) == (1e-2, 0, base.config.training.ema_rampup)
    assert options.budget == 64  # a fifth of 160, rounded up to four snapshots of whole steps
    assert budgets(config, 4) == [16, 32, 48, 64]
    kept = auxiliary_config(base.config, Improvement(keep_ema=True, warmup=7, ema_half_life=5)).training
    assert (kept.ema_rampup, kept.warmup, kept.ema_half_life) == (None, 7, 5)
    slow = dataclasses.replace(base.config, training=dataclasses.replace(base.config.training, warmup=320))
    assert auxiliary_config(slow, Improvement()).training.learning_rate == 5e-3  # what the base had reached


@pytest.mark.parametrize(("architecture", "share"), [("edm2", 0.05), ("adm", 0.05), ("ddpmpp", 0.2), ("unet2d", 0.2)])
def test_the_default_budget_is_sims_own_for_this_kind_of_base(base, architecture, share):
    network = dataclasses.replace(base.config.network, architecture=architecture)
    long = dataclasses.replace(base.config.training, budget=1_074_000_000, snapshot_every=10**9, batch=1000)
    recipe = dataclasses.replace(base.config, network=network, training=long)
    found = auxiliary_config(recipe, Improvement()).training.budget
    assert found == pytest.approx(share * long.budget, rel=1e-3)
    assert auxiliary_config(recipe, Improvement(budget=4000)).training.budget == 4000


def test_snapshots_lie_on_steps_and_states_are_saved_as_often_as_before(base):
    often = dataclasses.replace(base.config, training=dataclasses.replace(base.config.training, snapshot_every=50))
    for asked, snapshots in ((1000, 4), (1001, 3), (64, 1), (5, 2)):
        config = auxiliary_config(often, Improvement(budget=asked, snapshots=snapshots))
        every = config.training.snapshot_every
        assert config.training.budget >= asked and every % 16 == 0 and every <= max(64, 50)
        assert all(budget % every == 0 for budget in budgets(config, snapshots))


def test_what_is_chosen_from_are_the_snapshots_asked_for_not_all_that_are_saved(tmp_path):
    """A base whose states were saved often gave candidates many times as many, each with its samples to draw."""
    often = DM(dataclasses.replace(PRESET, training=dataclasses.replace(PRESET.training, snapshot_every=32)))
    base = often.fit(SourceMix(noise_source("real", 40)), tmp_path / "base", device="cpu")
    settings = dataclasses.replace(QUICK, budget=128, snapshots=2)
    candidates = improve(base, tmp_path / "out", settings, device="cpu").candidates
    assert candidates.budgets == [64, 128]
    assert RunFolder(tmp_path / "out" / "auxiliary").snapshots() == [32, 64, 96, 128]


def test_a_half_life_that_no_average_has_is_refused(base):
    widths = dataclasses.replace(base.config, training=dataclasses.replace(base.config.training, ema_stds=(0.05, 0.1)))
    with pytest.raises(UsageError, match="--ema-half-life needs --keep-ema"):
        auxiliary_config(widths, Improvement(ema_half_life=5))
    kept = auxiliary_config(widths, Improvement(ema_half_life=5, keep_ema=True)).training
    assert (kept.ema_half_life, kept.ema_stds) == (5, ())


def test_a_budget_that_becomes_many_times_larger_is_told(base, recwarn):
    """Four snapshots of whole batches of 512 were 2,048 images, whatever smaller budget was asked for."""
    large = dataclasses.replace(base.config.training, batch=512, snapshot_every=100_000)
    config = dataclasses.replace(base.config, training=large)
    with pytest.warns(NomadiffWarning, match=r"256 images becomes 2,048: 4 snapshots of whole batches of 512; pass f"):
        assert auxiliary_config(config, Improvement(budget=256)).training.budget == 2048
    recwarn.clear()
    for budget in (2000, 2048, None):  # nearly what was asked, exactly that, or nobody asked
        auxiliary_config(config, Improvement(budget=budget))
    assert not recwarn


def test_the_size_of_the_real_set_is_the_default_count(base, bases, tmp_path):
    done = improve(
        bases / "dm" / "model.safetensors",
        tmp_path / "o",
        dataclasses.replace(QUICK, synthetic_count=None),
        device="cpu",
    )
    assert done.table.meta["auxiliary"]["synthetic_count"] == 40
    lonely = tmp_path / "alone" / "sub" / "m.safetensors"
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes(base.path.read_bytes())
    with pytest.raises(UsageError, match="--synthetic-count"):
        improve(lonely, tmp_path / "p", dataclasses.replace(QUICK, synthetic_count=None), device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {"weight": 0.0},
        {"weight": float("nan")},
        {"space": "time"},
        {"train_part": "encoder"},
        {"snapshots": 0},
        {"confirmations": 1},
        {"space": "parameters", "interval": (0.1, 1.0)},
        {"weight_limit": 0.0},
        {"warmup": -1},
    ],
)
def test_settings_that_make_no_sense_are_refused(changes):
    with pytest.raises(UsageError):
        Improvement(**changes)


def test_wrong_use_is_found_before_anything_is_written(base, bases, reference, tmp_path):
    with pytest.raises(UsageError, match="--reference"):
        improve(base, tmp_path / "out", Improvement(), device="cpu")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="holds the base model itself"):
        improve(base, bases / "dm", QUICK, device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        improve(base, tmp_path / "full", QUICK, device="cpu")
    improve(base, tmp_path / "out", QUICK, device="cpu")
    with pytest.raises(UsageError, match="budget: 64 -> 96"):
        improve(base, tmp_path / "out", dataclasses.replace(QUICK, budget=96), device="cpu")
    with pytest.raises(UsageError, match="the base model"):
        improve(bases / "casd", tmp_path / "out", QUICK, device="cpu")
    with pytest.raises(UsageError, match="no single network"):
        improve(tmp_path / "out", tmp_path / "again", QUICK, device="cpu")


def test_a_reference_that_is_the_training_set_is_refused(base, tmp_path):
    images = noise_source("real").images
    with pytest.raises(UsageError, match=r"the set the model was trained on.*--allow-train-as-reference"):
        improve(base, tmp_path / "out", QUICK, reference=ReferenceSet(images, detector="pixels"), device="cpu")
    assert not (tmp_path / "out").exists()
    allowed = ReferenceSet(images, detector="pixels", allow_train_as_reference=True)
    assert improve(base, tmp_path / "out", QUICK, reference=allowed, device="cpu").gain is not None
    with pytest.raises(UsageError, match="the set the model was trained on"):  # an improved model, another folder
        again = Model.load(tmp_path / "out" / "base.safetensors", device="cpu")
        improve(again, tmp_path / "again", QUICK, reference=ReferenceSet(images, detector="pixels"), device="cpu")


def test_repeats_have_copies_of_their_own_and_go_into_the_interval(base, reference, tmp_path, monkeypatch):
    settings = dataclasses.replace(QUICK, repeats=3)
    out = tmp_path / "out"
    done = improve(base, out, settings, reference=reference, device="cpu")
    parts = [out, out / "repeat-2", out / "repeat-3"]
    weights = [load_tensors(part / "auxiliary" / "model.safetensors")[0] for part in parts]
    for one, other in itertools.pairwise(weights):
        assert any(not torch.equal(one[name], other[name]) for name in one)
    gains = json.loads((out / "improve.json").read_text())["meta"]["repeats"]
    assert len(gains) == 3 and len({gain["mean"] for gain in gains}) == 3
    assert done.gain.mean == pytest.approx(sum(gain["mean"] for gain in gains) / 3)
    assert f"3 copies: {gains[0]['mean']:+.1%}, {gains[1]['mean']:+.1%}, {gains[2]['mean']:+.1%}" in done.sentence
    assert done.gain.high - done.gain.low > sum(gain["high"] - gain["low"] for gain in gains) / 3
    assert Model.load(out, device="cpu").sha256 == done.model.sha256
    monkeypatch.delattr(Drawable, "sample_batches")
    assert improve(base, out, settings, reference=reference, device="cpu").gain == done.gain
    with pytest.raises(UsageError, match="repeats say how sure a gain is"):
        improve(base, tmp_path / "p", settings, device="cpu")


def test_a_base_that_is_no_model_yet_is_called_that(base, reference, tmp_path, monkeypatch):
    def score(self, budget, weight, seed, noise):
        row = {"space": "function", "budget": budget, "weight": weight, "seed": seed, "noise": noise, "recall": 0.9}
        row |= {"fd_pixels": 900.0 - 400 * (weight > 0), "precision": 0.0, "density": 0.0, "coverage": 0.0}
        self.table.rows.append(row)
        return row

    monkeypatch.setattr(Chooser, "score", score)
    monkeypatch.setattr(Chooser, "pair", lambda self, budget, weight, seeds, index, scores: Pair(scores))
    done = improve(base, tmp_path / "out", dataclasses.replace(QUICK, weight=None), reference=reference, device="cpu")
    assert done.sentence.startswith("the base is not yet a model (fd_pixels 900 where fresh real data scores")
    assert not done.gain.is_sure and done.model.guidance.weight == 0
