"""A model of any denoiser: sampled, guided and scored as others are; what trains a copy says what it needs."""

import pytest
import torch

from nomadiff.data.digits import read_digits
from nomadiff.errors import UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.improve.improve import improve
from nomadiff.improve.settings import Improvement
from nomadiff.improve.weight_search import score_model
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.models.cost import sampling_cost
from nomadiff.models.guided_model import GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.models.provenance import origins
from nomadiff.oracles import IdealDenoiser
from nomadiff.sampling.sampler import SamplerConfig, draw
from nomadiff.shift.settings import Shift
from nomadiff.shift.shift import shift
from nomadiff.tables import Table

SHAPE = (1, 8, 8)
FEW = SamplerConfig(steps=3)
_ideal = IdealDenoiser(read_digits("digits:pool").images[:40].float() / 127.5 - 1)


def ideal(x, sigma):
    return _ideal(x, sigma)


def blurred(x, sigma):
    return 0.9 * _ideal(x, sigma)


class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, sigma, source=None, class_label=None):
        shown = 0.0 if source is None else 0.01 * source.reshape(-1, 1, 1, 1)
        return self.scale * x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2) + shown


@pytest.mark.parametrize("denoiser", [ideal, Scaled(), Extrapolation(ideal, blurred, 1.0)])
def test_any_denoiser_is_sampled(denoiser, tmp_path):
    model = Model.from_denoiser(denoiser, shape=SHAPE)
    images = model.sample(5, seed=3, sampler=FEW)
    assert images.shape == (5, *SHAPE) and images.dtype == torch.uint8
    assert torch.equal(images[3:], model.sample(5, seed=3, sampler=FEW, batch_size=2)[3:])
    model.write_samples(tmp_path / "samples.zip", 5, 3, sampler=FEW)
    assert model.recipe is None and not model.is_stored and origins(model) == []


def test_guided_by_another_it_costs_both():
    base, other = (Model.from_denoiser(each, shape=SHAPE) for each in (ideal, blurred))
    guided = Model.guided(GuidanceConfig("extrapolation", 0.5, "base", "auxiliary"), base, other)
    by_hand = Model.from_denoiser(Extrapolation(ideal, blurred, 0.5), shape=SHAPE)
    assert torch.equal(guided.sample(4, sampler=FEW), by_hand.sample(4, sampler=FEW))
    assert guided.nfe() == by_hand.nfe() == 2 * base.nfe() == sampling_cost(guided).nfe
    assert guided.known.method == "extrapolation" and guided.sha256 != base.sha256


def test_parts_that_call_their_classes_otherwise_are_no_guided_model():
    """A label is a number: of two models of cats and dogs one would be steered away from the other's dogs."""
    named = [Model.from_denoiser(Scaled(), shape=SHAPE, classes=names) for names in (["cat", "dog"], ["dog", "cat"], 2)]
    guidance = GuidanceConfig("extrapolation", 0.5, "base", "auxiliary")
    with pytest.raises(UsageError, match="the class 'cat' of one is the other's 'dog'"):
        Model.guided(guidance, *named[:2])
    assert Model.guided(guidance, named[0], named[2]).class_names == ("cat", "dog")  # whose names nobody knows


def test_it_is_scored():
    reference = ReferenceSet(read_digits("digits:reference").images, detector="digits")
    scores = score_model(Model.from_denoiser(ideal, shape=SHAPE), reference, 30, 0, sampler=FEW)
    assert scores["nfe"] == 5 and scores["fd_digits"] > 0


def test_what_it_knows():
    model = Model.from_denoiser(Scaled(), shape=SHAPE, sigma=(0.1, 5), sources=["real", "made"], classes=["a", "b"])
    assert model.known.sampler.sigma_max == 5 and model.source_index("made") == 1 and model.class_names == ("a", "b")
    drawn = [model.sample(4, source=source, class_label="b", sampler=FEW) for source in ("real", "made")]
    assert not torch.equal(*drawn)
    assert model.manifest(4, 0, class_label="b")["classes"] == "b"


def test_its_hash_tells_it_from_others():
    hashes = [Model.from_denoiser(each, shape=SHAPE).sha256 for each in (ideal, ideal, blurred)]
    assert hashes[0] == hashes[1] != hashes[2] and len(hashes[0]) == 64
    assert Model.from_denoiser(ideal, shape=SHAPE, sha256="ab").sha256 == "ab"


@pytest.mark.parametrize("denoiser", [ideal, Extrapolation(ideal, blurred, 1.0)])
@pytest.mark.parametrize("verb", ["improve", "shift"])
def test_what_fine_tunes_a_copy_says_what_it_needs(verb, denoiser, tmp_path):
    model = Model.from_denoiser(denoiser, shape=SHAPE)
    with pytest.raises(UsageError, match=f"^{verb} needs an nn.Module it can copy and fine-tune; this denoiser is"):
        run(verb, model, tmp_path)
    with pytest.raises(UsageError, match=rf"^{verb} takes a Model[^\n]*from_denoiser"):
        run(verb, denoiser, tmp_path)
    assert not any(tmp_path.iterdir())


def run(verb, model, out):
    if verb == "improve":
        return improve(model, out / "out", Improvement(weight=1, synthetic_count=8), device="cpu")
    return shift(model, out / "out", Shift(target={"0": 0.5}), classifier="digits", device="cpu")


def test_what_needs_a_recipe_or_a_file_says_so():
    model = Model.from_denoiser(ideal, shape=SHAPE)
    with pytest.raises(UsageError, match=r"^model 'denoiser' \(ideal\) has no recipe"):
        _ = model.config
    with pytest.raises(UsageError, match=r"^model 'denoiser' \(ideal\) lies in no file"):
        _ = model.path
    with pytest.raises(UsageError, match="from_denoiser"):
        Model(ideal)


@pytest.mark.parametrize(
    ("denoiser", "shape"),
    [
        (torch.nn.Conv2d(1, 1, 1), SHAPE),  # not called as D(x, sigma)
        (lambda x, sigma: x.double(), SHAPE),
        (lambda x, sigma: x[:, :, :4], SHAPE),
        (lambda x, sigma: None, SHAPE),
        (Table(), SHAPE),
        (ideal, (8, 8)),
        (ideal, (4, 8, 8)),
        (ideal, (1, 8, 4)),
    ],
)
def test_what_is_no_denoiser_of_images_is_one_line(denoiser, shape):
    with pytest.raises(UsageError, match="^[^\n]+$"):
        Model.from_denoiser(denoiser, shape=shape)


# labels: int64 (B,) on the device of x, whoever calls. "meta" stands for another device than the CPU


def told(x, sigma, source=None, class_label=None):
    for label in (source, class_label):
        assert label is None or (label.dtype, label.shape, label.device) == (torch.int64, x.shape[:1], x.device)
    assert (x.dtype, sigma.dtype, sigma.device) == (torch.float32, torch.float32, x.device)
    seen.append((source is not None, class_label is not None))
    return torch.zeros_like(x)


seen = []


class Told(torch.nn.Module):
    def forward(self, x, sigma, source=None, class_label=None):
        return told(x, sigma, source, class_label)


def one_call(denoiser, x, sigmas, noise=None, churn=None):
    """A solver that returns what can be looked at, wherever it solves."""
    denoiser(x.float(), torch.full((len(x),), float(sigmas[0]), device=x.device))
    return torch.zeros(x.shape)


ELSEWHERE = SamplerConfig(solver=one_call)
LABELS = {"sources": ["real", "made"], "classes": 3}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("denoiser", [told, Told(), Extrapolation(told, told, 1.0), Extrapolation(told, Told(), 1.0)])
@pytest.mark.parametrize("options", [{}, {"class_label": 1}, {"source": "made", "classes": "uniform"}])
def test_labels_are_tensors_on_the_device_of_the_images(denoiser, device, options):
    seen.clear()
    model = Model.from_denoiser(denoiser, shape=SHAPE, **LABELS)
    there = Model(model.denoiser, model.known, device=torch.device(device))
    there.sample(3, sampler=ELSEWHERE, **options)
    sampling_cost(model)
    assert len(seen) >= 5 and set(seen) == {(True, True)}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_drawing_gives_a_plain_function_its_classes_there(device):
    (images,) = draw(told, SHAPE, [0, 1], seed=0, config=ELSEWHERE, device=device, class_weights=[1, 2])
    assert images.shape == (2, *SHAPE)
