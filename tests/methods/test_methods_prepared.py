"""Methods that find something out before they train: ambient, weighted (and casd+weighted), filtered."""

import dataclasses
import re

import pytest
import torch
from factories import tiny_preset

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.files import read_json
from nomadiff.methods.ambient import Ambient, noise_floors
from nomadiff.methods.dm import DM
from nomadiff.methods.filtered import Filtered
from nomadiff.methods.registry import METHODS
from nomadiff.methods.telling_apart import Judged, judge_levels
from nomadiff.methods.weighted import Weighted
from nomadiff.models.model import Model
from nomadiff.monitoring.settings import Monitoring
from nomadiff.tables import read_table
from nomadiff.training.run_folder import RunFolder

PRESET = tiny_preset(budget=192, learning_rate=1e-2, snapshot_every=32, ema_half_life=20)
NAMES = ("ambient", "weighted", "casd+weighted", "filtered")


def source(name, seed, low=0, high=256, count=40, labels=True):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(low, high, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSource(name, images, torch.arange(count) % 3 if labels else None, {"name": name})


@pytest.fixture(scope="module")
def mix():
    return SourceMix(source("real", 0), [source("made", 1), source("dark", 2, high=120)])


@pytest.fixture(scope="module")
def fitted_all(mix, tmp_path_factory):
    place = tmp_path_factory.mktemp("prepared")

    def folder(name):
        METHODS[name](PRESET).fit(mix, place / name, device="cpu")
        return place / name

    return folder


@pytest.fixture(scope="module", params=NAMES)
def fitted(request, fitted_all):
    return request.param, fitted_all(request.param)


def test_one_network_that_says_what_made_it(fitted, mix):
    name, out = fitted
    model = Model.load(out, device="cpu")
    assert (model.config.method, model.config.sources, model.nfe()) == (name, 3 if name == "casd+weighted" else 0, 5)
    assert model.sample(3).shape == (3, 1, 8, 8)
    recipe = METHODS[name](PRESET).recipe(mix)
    assert METHODS[name](PRESET).budgets(recipe) == (64, 128) and model.config.training.budget == 128
    assert RunFolder(out).read_log()[-1]["images_seen"] == 128
    note = METHODS[name](PRESET).budget_note(recipe)
    assert note.startswith("64 images went to") and "128 trained the network" in note
    settings = read_json(out / "preparation" / "settings.json")
    assert (settings["method"], settings["budget"], settings["share"]) == (name, 192, 0.2)


def test_what_was_found_can_be_looked_at(fitted, mix):
    name, out = fitted
    told = METHODS[name](PRESET).found(out)
    files = sorted(path.name for path in (out / "preparation").iterdir() if path.suffix in (".csv", ".json"))
    if "weighted" in name:
        assert files == ["settings.json", "shares.csv", "shares.json"] and "share of real images" in told
        rows = read_table(out / "preparation" / "shares.json").rows
        assert [row["real_share"] for row in rows] == pytest.approx([0.25, 1 / 3, 0.5, 0.75], abs=1e-5)
        assert sum(row["images_seen"] for row in rows) == 64
        best = min(rows, key=lambda row: row["loss"])["real_share"]
        assert RunFolder(out).config().shares[0] == pytest.approx(best, abs=1e-5)
        return
    what = "floors" if name == "ambient" else "kept"
    assert [file for file in files if what in file] == [f"{what}.csv", f"{what}.json"] and what[:4] in told
    rows = read_table(out / "preparation" / f"{what}.json").rows
    assert [(row["source"], row["index"]) for row in rows] == [(k, i) for k in ("made", "dark") for i in range(40)]
    assert (
        (out / "preparation" / f"{what}.csv")
        .read_text()
        .startswith(f"source,index,{'floor' if name == 'ambient' else 'score,kept'}\n")
    )
    sources = RunFolder(out).read_sources()
    if name == "ambient":
        assert [source["name"] for source in sources] == ["real", "made", "dark"] and sources[0]["floor_median"] == 0
    else:
        kept = {k: sum(row["kept"] for row in rows if row["source"] == k) for k in ("made", "dark")}
        assert {s["name"]: s["count"] for s in sources if s["name"] != "real"} == {k: n for k, n in kept.items() if n}


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_killed_while_it_writes_it_goes_on_to_the_same_weights(name, after, mix, tmp_path, fitted_all, killed_at_write):
    out, kills = tmp_path / "killed", 0
    while killed_at_write(kills + 1, after, lambda: METHODS[name](PRESET).fit(mix, out, device="cpu")):
        kills += 1
        assert kills < 60
    assert kills > 4
    whole = fitted_all(name)
    files = sorted(
        path.relative_to(whole) for path in whole.rglob("*.*") if path.is_file() and "state" not in path.parts
    )
    apart = (".lock", "log.jsonl", "config.json")
    assert any(file.suffix == ".csv" for file in files)
    assert all((out / file).read_bytes() == (whole / file).read_bytes() for file in files if file.name not in apart)
    assert {p.name for p in (out / "preparation").iterdir()} == {p.name for p in (whole / "preparation").iterdir()}


def test_a_finished_one_is_only_read(fitted, mix, monkeypatch):
    name, out = fitted
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != ".lock"}
    monkeypatch.setattr("nomadiff.training.loop._Training._step", lambda *a: pytest.fail("trained again"))
    monkeypatch.setattr("nomadiff.methods.telling_apart.fit", lambda *a, **k: pytest.fail("judged again"))
    METHODS[name](PRESET).fit(mix, out, device="cpu")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != ".lock"} == times


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"budget": 256}, "budget: 192 -> 256"),
        ({"seed": 1}, "seed: 0 -> 1"),
        ({"share": 0.5}, "share: 0.2 -> 0.5"),
    ],
)
def test_another_preparation_is_refused(fitted, mix, changes, told):
    """A larger budget too: the floors of a larger search are others."""
    name, out = fitted
    with pytest.raises(UsageError, match=f"holds another run .*{told}.*choose another --out"):
        METHODS[name](PRESET, **changes).fit(mix, out, device="cpu")
    with pytest.raises(UsageError, match="holds another run .*data"):
        METHODS[name](PRESET).fit(SourceMix(mix.sources[0], [source("made", 5), mix.sources[2]]), out, device="cpu")
    with pytest.raises(UsageError, match="not empty|another run"):
        DM(PRESET).fit(mix, out, device="cpu")


def test_a_foreign_folder_is_left_alone(mix, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    for name in NAMES:
        with pytest.raises(UsageError, match="not empty"):
            METHODS[name](PRESET).fit(mix, tmp_path, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_use_is_named(name, mix):
    alone = SourceMix(source("real", 0))
    with pytest.raises(UsageError, match=f"{re.escape(name)} decides how synthetic images are used: add --synthetic"):
        METHODS[name](PRESET).recipe(alone)
    with pytest.raises(UsageError, match="larger --budget"):
        METHODS[name](PRESET, budget=64).recipe(mix)
    for share in (0, 1.5):
        with pytest.raises(UsageError, match="share must lie"):
            METHODS[name](PRESET, share=share)
    if name != "ambient":
        with pytest.raises(UsageError, match="--floor belongs to --method ambient"):
            METHODS[name](PRESET, floor=1)


def test_a_network_without_a_known_encoder_judges_nothing(mix):
    class Own(torch.nn.Module):
        def __init__(self, channels, resolution, label_dim):
            super().__init__()
            self.layer = torch.nn.Conv2d(channels, channels, 1)

        def forward(self, x, noise_label, labels):
            return self.layer(x)

    globals()["Own"] = Own
    Own.__qualname__ = "Own"
    for method in (Ambient, Filtered):
        with pytest.raises(UsageError, match="judges images by the network's encoder"):
            method(Own, budget=1280).recipe(mix)
    assert Ambient(Own, floor=0.5).recipe(mix).method == "ambient"
    assert Weighted(Own, budget=6400).recipe(mix).method == "weighted"


# ambient


def judged(real, synthetic, levels=(0.1, 0.5, 2.0)):
    return Judged(torch.tensor(levels), torch.tensor(real), torch.tensor(synthetic))


def test_floors_are_where_nothing_can_be_told_from_there_on():
    alike, apart = [0.1, -0.1, 0.0, 0.0], [5.0, 5.0, 5.0, 5.0]
    real = torch.tensor([apart, apart, alike]).T.tolist()
    #           at 0.1  0.5   2.0
    synthetic = [[-5.0, -5.0, 0.0], [5.0, 5.0, 0.0], [5.0, -5.0, 0.1], [-5.0, -4.0, -0.1]]
    floors, of_source = noise_floors(judged(real * 500, synthetic * 500))
    assert of_source == 2.0
    assert floors[:4].tolist() == [2.0, 0.0, 2.0, 2.0]  # the third looks real at 0.1, but not at 0.5
    # what the judge holds against one image does not count where the source cannot be told apart
    same = [[-9.0] * 3, [9.0] * 3] * 500
    floors, of_source = noise_floors(judged(same, same))
    assert of_source == 0 and set(floors.tolist()) == {0}
    # told apart at every level that was looked at: the highest of them
    floors, of_source = noise_floors(judged([[5.0] * 3] * 40, [[-5.0] * 3] * 40))
    assert of_source == 2.0 and set(floors.tolist()) == {2.0}
    # a difference that so few images cannot tell from chance is none
    few, more = (judged(([[1.0] * 3, [-1.0] * 3]) * n, ([[1.0] * 3, [-1.0] * 3, [-1.0] * 3]) * n) for n in (20, 2000))
    assert few.accuracy()[0] == more.accuracy()[0] == pytest.approx(0.5833, abs=1e-4)
    assert (noise_floors(few)[1], noise_floors(more)[1]) == (0.0, 2.0)


def test_a_biased_judge_is_corrected():
    """Judges of few real images take all others for synthetic: that says nothing of the synthetic ones."""
    generator = torch.Generator().manual_seed(0)
    real, same = torch.randn(200, 3, generator=generator) - 4, torch.randn(300, 3, generator=generator) - 4
    found = Judged(torch.tensor([0.1, 0.5, 2.0]), real, same)
    assert float(found.probability().mean()) == pytest.approx(0.5, abs=0.03)
    assert found.accuracy().tolist() == pytest.approx([0.5] * 3, abs=0.06)
    worse = Judged(found.levels, real, same - 3)
    assert float(worse.probability().mean()) < 0.35 and min(worse.accuracy()) > 0.9


def test_accuracy_counts_ties_as_half():
    found = judged([[1.0], [0.0]], [[1.0], [-1.0]], levels=(0.1,)).accuracy()
    assert found.tolist() == pytest.approx([(0.5 + 0 + 1 + 1) / 4])


def test_levels_are_equally_likely_in_training_but_for_a_tail():
    options = PRESET.training
    levels = judge_levels(options)
    assert bool((levels.diff() > 0).all())
    assert float(levels[:16].log().mean()) == pytest.approx(options.p_mean, abs=1e-5)
    assert len(levels) == 19 and float(levels[-1]) > 10


@pytest.mark.slow
def test_floors_tell_good_from_bad_sources(tmp_path):
    """One source is more of the real images, the other is dark."""
    real, same = source("real", 0, count=200), source("same", 1, count=200)
    mix = SourceMix(real, [same, source("dark", 2, high=120, count=200)])
    preset = dataclasses.replace(
        PRESET, training=dataclasses.replace(PRESET.training, budget=3200, snapshot_every=3200)
    )
    method = Ambient(preset, share=1.0)
    method.fit(mix, tmp_path / "run", device="cpu")
    found = read_table(tmp_path / "run" / "preparation" / "floors.json").meta["sources"]
    assert found["same"]["of_source"] == 0 and found["same"]["teaching"] == 1
    assert found["dark"]["median"] > 0.5 and max(found["dark"]["accuracy"]) > 0.95
    shares = RunFolder(tmp_path / "run").config().shares
    assert shares[1] == pytest.approx(shares[0], rel=1e-3) and shares[2] < 0.6 * shares[1]
    kept = Filtered(preset, share=1.0)
    kept.fit(mix, tmp_path / "kept", device="cpu")
    sources = {each["name"]: each["count"] for each in RunFolder(tmp_path / "kept").read_sources()}
    assert sources["same"] > 150 and sources.get("dark", 0) < 20


# filtered


def test_nothing_that_looks_real_leaves_the_real_images(mix, tmp_path, monkeypatch):
    def worthless(mix, recipe, folder, budget, processes):
        return [Judged(torch.tensor([0.1]), torch.ones(40, 1), -torch.ones(len(s), 1)) for s in mix.sources[1:]]

    monkeypatch.setattr("nomadiff.methods.filtered.judge_sources", worthless)
    given = SourceMix(*(mix.sources[0], mix.sources[1:]), real_fraction=0.3, weights=(1, 2))
    out = tmp_path / "run"
    model = Filtered(PRESET).fit(given, out, device="cpu")
    assert model.config.source_names == ("real",)
    assert "0 of 40 of made, 0 of 40 of dark" in Filtered(PRESET).found(out)
    assert Filtered(PRESET).fit(given, out, device="cpu").sha256 == model.sha256


def test_what_is_kept_counts_as_it_did(mix, tmp_path, monkeypatch):
    def half(mix, recipe, folder, budget, processes):
        score = torch.where(torch.arange(40) % 2 == 0, 2.0, -2.0)[:, None]
        return [Judged(torch.tensor([0.1]), torch.ones(40, 1), score) for _ in mix.sources[1:]]

    monkeypatch.setattr("nomadiff.methods.filtered.judge_sources", half)
    given = SourceMix(*(mix.sources[0], mix.sources[1:]), real_fraction=0.3, weights=(1, 3))
    config = Filtered(PRESET, class_labels=True).fit(given, tmp_path / "a", device="cpu").config
    # a few kept images are not seen as often as all of them were
    assert config.shares == pytest.approx([each / 0.65 for each in (0.3, 0.35 / 4, 0.35 * 3 / 4)], abs=1e-5)
    sources = RunFolder(tmp_path / "a").read_sources()
    assert [each["count"] for each in sources] == [40, 20, 20]
    assert sources[1]["subset"][-1] == "taken for real:20"
    assert Filtered(PRESET).fit(mix, tmp_path / "b", device="cpu").config.shares == pytest.approx((0.5, 0.25, 0.25))


def test_tables_name_the_files_of_images(mix, tmp_path):
    made = dataclasses.replace(mix.sources[1], names=tuple(f"{n:03d}.png" for n in range(40)))
    for method, what in ((Ambient, "floors"), (Filtered, "kept")):
        method(PRESET).fit(SourceMix(mix.sources[0], [made]), tmp_path / what, device="cpu")
        rows = read_table(tmp_path / what / "preparation" / f"{what}.json").rows
        assert [row["file"] for row in rows] == list(made.names)


@pytest.mark.parametrize("name", NAMES)
def test_the_training_can_be_monitored(name, mix, tmp_path):
    """Validation images are set apart before anything is found out about the others."""
    watched = Monitoring(validation=0.25, grid=0)
    METHODS[name](PRESET).fit(mix, tmp_path / "run", device="cpu", monitoring=watched)
    config = RunFolder(tmp_path / "run").config()
    assert config.validation.count == 10 and RunFolder(tmp_path / "run").read_sources()[0]["count"] == 30
    METHODS[name](PRESET).fit(mix, tmp_path / "run", device="cpu", monitoring=watched)
    with pytest.raises(UsageError, match="another run .*data"):
        METHODS[name](PRESET).fit(mix, tmp_path / "run", device="cpu")


# classes


@pytest.mark.parametrize("name", NAMES)
def test_class_labels_go_with_them(name, mix, tmp_path):
    model = METHODS[name](PRESET, class_labels=True).fit(mix, tmp_path / "run", device="cpu")
    assert model.config.classes == 3 and model.sample(3, class_label=1).shape == (3, 1, 8, 8)


# command line

TRAIN = ["train", "--real", "digits:pool", "--real-subset", "first:40", "--synthetic", "close=digits:close"]
TRAIN += ["--synthetic-subset", "first:60", "--preset", "digits", "--budget", "768", "--batch", "64", "--warmup", "64"]
TRAIN += ["--device", "cpu"]


def test_train_says_what_it_found(tmp_path, capsys):
    assert main([*TRAIN, "--method", "ambient", "--out", str(tmp_path / "auto")]) == 0
    said = capsys.readouterr().out
    assert "noise floors, median: close" in said and "floors.csv" in said
    assert main([*TRAIN, "--method", "ambient", "--floor", "0.7", "--out", str(tmp_path / "given")]) == 0
    assert "noise floors" not in capsys.readouterr().out
    assert RunFolder(tmp_path / "given").read_sources()[1]["floor_median"] == pytest.approx(0.7)
    assert not (tmp_path / "given" / "preparation").exists()
    assert main([*TRAIN, "--method", "weighted", "--dry-run", "--out", str(tmp_path / "x")]) == 0
    assert "went to pilots with several shares of real images" in capsys.readouterr().out
    for method in ("casd", "sims"):
        assert main([*TRAIN, "--method", method, "--floor", "auto", "--out", str(tmp_path / "x")]) == 2
        assert "has no floor: --floor belongs to --method ambient" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
