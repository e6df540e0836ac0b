"""The contract every method passes, and what sets the three apart."""

from dataclasses import replace

import pytest
import torch
from factories import noise_source, tiny_preset

from nomadiff.data.image_source import ImageSource
from nomadiff.data.manifest import read_manifest
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError
from nomadiff.methods.registry import METHODS, method_named
from nomadiff.models.model import Model
from nomadiff.processes import Processes
from nomadiff.training.run_folder import RunFolder

PRESET = tiny_preset(budget=128, warmup=32, snapshot_every=32, log_every=32)


@pytest.fixture(scope="module")
def mix():
    return SourceMix(noise_source("real"), [noise_source("a", 1), noise_source("b", 2)])


@pytest.fixture(scope="module", params=METHODS)
def model(request, mix, tmp_path_factory):
    return METHODS[request.param](PRESET).fit(mix, tmp_path_factory.mktemp("runs") / request.param, device="cpu")


def test_sample_shape_dtype_and_dependence_on_seed_and_index(model):
    whole = model.sample(9, seed=1)
    assert whole.shape == (9, 1, 8, 8)
    assert whole.dtype == torch.uint8
    # the noise of a sample is its own; a batch of another size may differ by one grey level of rounding
    parts = model.sample(9, seed=1, batch_size=2)
    assert (parts.int() - whole.int()).abs().max() <= 1
    assert not torch.equal(model.sample(9, seed=2), whole)
    assert model.sample(0).shape == (0, 1, 8, 8)


def test_processes_share_the_work_and_agree(model):
    """Two processes draw the halves that one draws: emulated by a gather that runs the other rank's share."""
    whole = model.sample(7, seed=3)
    halves = {}

    class Half(Processes):
        def gather(self, value):
            halves[self.rank] = value
            return value

    for rank in (0, 1):
        list(model.sample_batches(7, seed=3, batch_size=4, processes=Half(rank, 2, torch.device("cpu"))))
    together = torch.cat([halves[0], halves[1]])[:7]
    assert (together.int() - whole.int()).abs().max() <= 1


def test_loads_from_folder_file_and_snapshot(model):
    expected = model.sample(3)
    folder = model.path.parent
    assert torch.equal(Model.load(folder, device="cpu").sample(3), expected)
    if model.guidance is not None:
        with pytest.raises(UsageError, match="no snapshots of its own"):
            Model.load(folder, snapshot=32)
        return
    assert torch.equal(Model.load(folder / "model.safetensors", device="cpu").sample(3), expected)
    end = model.config.training.budget
    assert RunFolder(folder).snapshots() == list(range(32, end + 1, 32)) and end in (64, 128)
    assert torch.equal(Model.load(folder, snapshot=end, device="cpu").sample(3), expected)
    assert not torch.equal(Model.load(folder, snapshot=32, device="cpu").sample(3), expected)
    with pytest.raises(UsageError, match="it has: 32, 64"):
        Model.load(folder, snapshot=33)


def test_loading_leaves_the_random_state_alone(model):
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    Model.load(model.path.parent, device="cpu")
    assert torch.equal(torch.randn(3), expected)


def test_written_samples_carry_their_origin(model, tmp_path):
    previews = []
    model.write_samples(tmp_path / "samples.zip", 5, seed=4, preview=previews.append)
    (first,) = previews
    manifest = read_manifest(tmp_path / "samples.zip")
    assert manifest["kind"] == "synthetic"
    assert manifest["generator"] == model.config.method
    assert manifest["model_sha256"] == model.sha256
    assert (manifest["seed"], manifest["count"], manifest["nfe"]) == (4, 5, model.nfe())
    assert torch.equal(first, model.sample(5, seed=4))
    again = ImageSource.open(tmp_path / "samples.zip", name="s", synthetic=True)
    assert torch.equal(again.images, first)
    with pytest.raises(UsageError, match="allow-synthetic-as-real"):
        ImageSource.open(tmp_path / "samples.zip", name="real", synthetic=False)
    with pytest.raises(UsageError, match=r"samples\.zip"):
        model.write_samples(tmp_path / "samples.zip", 5)


def test_methods_see_what_they_should(mix):
    recipes = {name: method(PRESET).recipe(mix) for name, method in METHODS.items()}
    assert {name for name, recipe in recipes.items() if recipe.sources} == {"casd", "casd+weighted"}
    assert recipes["casd"].sources == method_named("casd+sims")(PRESET).recipe(mix).sources == 3
    of_all = ("sda", "casd", "ambient", "weighted", "casd+weighted", "filtered")
    assert all(recipes[name].source_names == ("real", "a", "b") for name in of_all)
    assert all(recipe.source_names == ("real",) for name, recipe in recipes.items() if name not in of_all)
    assert method_named("sda+neon")(PRESET).recipe(mix).source_names == ("real", "a", "b")
    # equal architecture and budget (CASD section 4.1)
    assert len({recipe.network for recipe in recipes.values()}) == 1
    assert len({recipe.training for recipe in recipes.values()}) == 1
    # eq. 5: every image counts the same
    assert recipes["casd"].shares == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_every_method_has_a_name_and_a_sentence_for_reports():
    for name, method in METHODS.items():
        made = method(PRESET)
        assert made.name == name and made.description.endswith(".") and "\n" not in made.description
        assert made.control in ("", "dm") and bool(made.control) == (made.base_folder == "base")
    composite = method_named("casd+source-guidance")(PRESET)
    assert (composite.name, composite.control) == ("casd+source-guidance", "casd")
    assert "casd" in composite.description


def test_casd_draws_the_real_source_unless_asked(mix, tmp_path):
    model = METHODS["casd"](PRESET).fit(mix, tmp_path / "run", device="cpu")
    real = model.sample(4)
    assert torch.equal(model.sample(4, source="real"), real)
    assert torch.equal(model.sample(4, source=0), real)
    assert torch.equal(model.sample(4, source="b"), model.sample(4, source=2))
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(0.5)
    bound = model.sampling_denoiser()
    assert torch.equal(bound(x, sigma), model.denoiser(x, sigma, source=0))
    assert not torch.equal(bound(x, sigma), model.denoiser(x, sigma, source=1))
    with pytest.raises(UsageError, match="0 = real, 1 = a, 2 = b"):
        model.sample(1, source="c")


def test_unlabelled_models_cannot_draw_a_synthetic_source(mix, tmp_path):
    model = METHODS["sda"](PRESET).fit(mix, tmp_path / "run", device="cpu")
    with pytest.raises(UsageError, match="no source labels"):
        model.sample(1, source="a")


def test_class_labels_beside_the_source(mix, tmp_path):
    model = METHODS["casd"](PRESET, class_labels=True).fit(mix, tmp_path / "run", device="cpu")
    assert (model.config.sources, model.config.classes) == (3, 3)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(0.5)
    outputs = [model.sampling_denoiser()(x, sigma, class_label=label) for label in (0, 1, -1)]
    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert model.sample(3, class_label=1).shape == (3, 1, 8, 8)
    assert model.sample(3).shape == (3, 1, 8, 8)
    with pytest.raises(UsageError, match="class '3' is unknown: this model knows 0, 1, 2"):
        model.sample(1, class_label=3)


@pytest.mark.parametrize("name", ["dm", "casd", "weighted", "sims", "casd+neon"])
def test_hidden_class_labels_need_some(name):
    """The option was read by nobody, and the model could not be guided by its labels."""
    with pytest.raises(UsageError, match="pass --class-labels too"):
        method_named(name)(PRESET, class_dropout=0.1)
    assert method_named(name)(PRESET, class_labels=True, class_dropout=0.1).training.class_dropout == 0.1
    hiding = replace(PRESET, training=replace(PRESET.training, class_dropout=0.1))
    assert not method_named(name)(hiding, class_dropout=0.0).class_labels


def test_class_labels_need_labels(mix):
    bare = SourceMix(noise_source("real"), [ImageSource("a", noise_source("a", 1).images, None, {"name": "a"})])
    with pytest.raises(UsageError, match="class labels are asked for, but a has none"):
        METHODS["casd"](PRESET, class_labels=True).recipe(bare)


def test_wrong_use_is_named():
    for name in ("gan", "casd+gan", "casd+dm", "sims+casd", "+sims", "dm+"):
        with pytest.raises(
            UsageError,
            match="choose one of dm, sda, casd, ambient, weighted, casd.weighted, filtered, sims, .*casd.sims",
        ):
            method_named(name)
    with pytest.raises(UsageError, match="unknown base method"):
        METHODS["sims"](PRESET, base="gan")
    with pytest.raises(UsageError, match="unknown preset"):
        METHODS["dm"]("imagenet")
    with pytest.raises(UsageError, match="ema_half_life is of the average that ema_stds replaces"):
        METHODS["dm"]("edm2-tiny", ema_half_life=5000)
    assert METHODS["dm"]("edm2-tiny", ema_half_life=5000, ema_stds=()).training.ema_half_life == 5000
    with pytest.raises(UsageError, match="unknown training option bugdet"):
        METHODS["dm"](PRESET, bugdet=3)
    with pytest.raises(UsageError, match="augment"):
        METHODS["dm"](PRESET, augment=0.1).recipe(SourceMix(noise_source("real")))


def test_what_is_no_model_is_named(tmp_path):
    with pytest.raises(DataError, match="not a run folder"):
        Model.load(tmp_path)
    (tmp_path / "x.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(DataError, match=r"x\.safetensors"):
        Model.load(tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="no such file"):
        Model.load(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("photos.npz", "a set of images"),
        ("photos.zip", "a set of images"),
        ("photo.JPG", "a set of images"),
        ("features.csv", "not a safetensors file"),
        ("network-snapshot-200000.pkl", "nomadiff import .*network-snapshot-200000.pkl --out"),
        ("last.ckpt", "nomadiff import .*last.ckpt --out"),
    ],
)
def test_what_is_no_model_is_told_by_its_kind_and_never_to_be_deleted(tmp_path, name, told):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=told) as caught:
        Model.load(tmp_path / name, device="cpu")
    assert "delete" not in str(caught.value) and "\n" not in str(caught.value)
