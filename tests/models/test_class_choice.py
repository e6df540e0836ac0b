"""Which classes are drawn: what was trained, as often as it was seen."""

from dataclasses import replace

import pytest
import torch
from factories import tiny_preset

from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError
from nomadiff.improve.distillation import distil
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.methods.registry import METHODS
from nomadiff.models.class_choice import class_index, class_weights, stored_labels
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.training.config import RunConfig
from nomadiff.training.fitting import Fitting
from nomadiff.training.run_folder import RunFolder

PRESET = tiny_preset(steps=1, budget=32, warmup=32, snapshot_every=16, log_every=16)
CONFIG = RunConfig(
    "casd",
    PRESET.network,
    PRESET.training,
    PRESET.sampler,
    0.5,
    ("real", "made"),
    (0.5, 0.5),
    sources=2,
    classes=3,
    class_names=("cat", "dog", "owl"),
    class_counts=((30, 10, 0), (0, 5, 5)),
)


def source(name, labels, names=None, seed=0):
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (len(labels), 1, 8, 8), generator=random, dtype=torch.uint8)
    return ImageSource(name, images, torch.tensor(labels), {"kind": "real"}, None, names)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, (3, 1, 0)),
        ({"classes": "real"}, (3, 1, 0)),
        ({"classes": "uniform"}, (1, 1, 0)),
        ({"classes": "dog=0.5"}, (1, 1, 0)),
        ({"classes": "dog=0.1, cat=0.9"}, (9, 1, 0)),
        ({"classes": "dog=1"}, (0, 1, 0)),
        ({"class_label": "dog"}, (0, 1, 0)),
        ({"class_label": 0}, (1, 0, 0)),
        ({"source": 1}, (0, 1, 1)),
        ({"source": 1, "classes": "owl=.25"}, (0, 3, 1)),
        ({"source": 1, "class_label": "owl"}, (0, 0, 1)),
    ],
)
def test_classes_by_the_shares_of_the_source(options, weights):
    assert class_weights(CONFIG, **options) == weights


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"class_label": "owl"}, "'owl' was not trained: no image of the source 'real' has it"),
        ({"class_label": "cow"}, "'cow' is unknown: this model knows cat, dog, owl"),
        ({"class_label": 3}, "'3' is unknown"),
        ({"class_label": "-1"}, "'-1' is unknown"),
        ({"source": 1, "classes": "cat=0.5"}, "no image of the source 'made' has it"),
        ({"classes": "owl=0.5"}, "'owl' was not trained"),
        ({"classes": "cat=0.9,dog=0.3"}, "sum to 1.2: more than 1"),
        ({"classes": "cat=0.3,dog=0.3"}, "sum to 0.6: there are no other classes"),
        ({"classes": "cat=0.3,cat=0.3"}, "named twice"),
        ({"classes": "cat"}, "expected real, uniform, or shares"),
        ({"classes": "cat=x"}, "expected real, uniform, or shares"),
        ({"classes": "cat=1e400"}, "expected real, uniform, or shares"),
        ({"classes": "real", "class_label": "cat"}, "leave one of them out"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(options, told):
    with pytest.raises(UsageError, match=told):
        class_weights(CONFIG, **options)


def test_models_that_do_not_say_what_they_saw_draw_uniformly():
    old = replace(CONFIG, class_names=(), class_counts=())
    assert class_weights(old) == (1, 1, 1) and class_weights(old, classes="2=0.5") == (1, 1, 2)
    assert class_weights(old, class_label=2) == (0, 0, 1) and class_index(old, "1") == 1
    with pytest.raises(UsageError, match="does not say which classes"):
        class_weights(old, classes="real")
    with pytest.raises(UsageError, match="knows no classes"):
        class_weights(replace(old, classes=0), classes="uniform")
    assert class_weights(replace(old, classes=0)) == ()


def test_numbers_stay_what_they_were():
    numbers = replace(CONFIG, class_names=("0", "2", "999999"))
    assert class_weights(numbers, class_label=2) == (0, 1, 0)
    assert stored_labels(numbers, torch.tensor([2, 0, 1])).tolist() == [999_999, 0, 2]
    with pytest.raises(UsageError, match="'1' is unknown"):
        class_index(numbers, 1)
    assert stored_labels(CONFIG, torch.tensor([2, 0])).tolist() == [2, 0]


def test_without_source_labels_any_source_trains_a_class():
    union = replace(CONFIG, method="sda", sources=0)
    assert class_weights(union) == (3, 1, 0) and class_weights(union, class_label="owl") == (0, 0, 1)


def test_recipes_keep_classes_and_old_ones_load():
    assert RunConfig.from_dict(CONFIG.to_dict()) == CONFIG
    old = CONFIG.to_dict()
    del old["class_names"], old["class_counts"]
    assert RunConfig.from_dict(old) == replace(CONFIG, class_names=(), class_counts=())
    for wrong in ({"class_names": ["a", "a", "b"]}, {"class_names": ["a"]}, {"class_counts": [[1, 2, 3]]}):
        with pytest.raises(DataError, match="classes|class"):
            RunConfig.from_dict({**CONFIG.to_dict(), **wrong})


@pytest.fixture(scope="module")
def casd(tmp_path_factory):
    mix = SourceMix(
        source("real", [0] * 9 + [1] * 3, ("cat", "dog")), [source("made", [0, 1] * 6, ("dog", "owl"), seed=1)]
    )
    out = tmp_path_factory.mktemp("runs") / "casd"
    return METHODS["casd"](PRESET, class_labels=True).fit(mix, out, device="cpu")


def test_a_model_draws_what_its_source_was_trained_on(casd, tmp_path):
    assert casd.config.class_names == ("cat", "dog", "owl") and casd.config.class_counts == ((9, 3, 0), (0, 6, 6))
    labels = casd.drawn_classes(range(2000), 0)
    assert set(labels.tolist()) == {0, 1} and abs(float((labels == 0).float().mean()) - 0.75) < 0.04
    assert casd.drawn_classes(range(700, 720), 0).tolist() == labels[700:720].tolist()
    assert set(casd.drawn_classes(range(100), 0, source="made").tolist()) == {1, 2}
    casd.write_samples(tmp_path / "a.zip", 12, seed=3)
    drawn = ImageSource.open(tmp_path / "a.zip", name="a", synthetic=True)
    assert (
        drawn.class_names == ("cat", "dog", "owl")
        and drawn.labels.tolist() == casd.drawn_classes(range(12), 3).tolist()
    )
    assert drawn.provenance["manifest"]["classes"] == "real"
    casd.write_samples(tmp_path / "b.npz", 8, source="made", class_label="owl")
    drawn = ImageSource.open(tmp_path / "b.npz", name="b", synthetic=True)
    assert drawn.class_counts == {"owl": 8} and drawn.provenance["manifest"]["classes"] == "owl"
    with pytest.raises(UsageError, match="was not trained"):
        casd.sample(1, class_label="owl")


def test_the_images_drawn_are_of_the_classes_said(casd):
    """Class and image come from one stream: drawing an image alone, with its class named, gives it again."""
    whole, labels = casd.sample(6, seed=5), casd.drawn_classes(range(6), 5)
    for index in range(6):
        alone = torch.cat(list(casd.sample_batches(1, 5, first=index, class_label=int(labels[index]))))
        assert (alone.int() - whole[index : index + 1].int()).abs().max() <= 1


def test_an_improved_model_keeps_classes_and_draws_its_own_samples_by_them(casd, tmp_path):
    done = improve(
        casd, tmp_path / "out", Improvement(weight=0.5, snapshots=1, synthetic_count=40, budget=32), device="cpu"
    )
    copy = Model.load(tmp_path / "out" / "auxiliary", device="cpu").config
    assert copy.class_names == casd.config.class_names and copy.class_counts == casd.config.class_counts
    seen = RunFolder(tmp_path / "out" / "auxiliary").path / "sources.json"
    assert '"owl"' not in seen.read_text() and '"cat"' in seen.read_text()
    assert done.model.class_names == ("cat", "dog", "owl")


def test_images_of_another_numbering_teach_the_right_class(casd, tmp_path):
    guidance = GuidanceConfig("source", 0.5, "x", source=1, method="x")
    model = Model.guided(guidance, casd, path=tmp_path / "guidance.json")
    seen = []
    teacher = model.denoiser
    model.sampling_denoiser = lambda: (
        lambda x, sigma, **c: (seen.extend(c["class_label"].tolist()), teacher(x, sigma, **c))[1]
    )
    images = source("real", [0, 1] * 8, ("owl", "cat"))
    distil(model, images, tmp_path / "student", Fitting(budget=16, batch=16))
    assert set(seen) == {0, 2}
    with pytest.raises(UsageError, match="the images have the classes cow, the model knows cat, dog, owl"):
        distil(model, source("real", [0, 1] * 8, ("cow", "cat")), tmp_path / "other", Fitting(budget=16, batch=16))
