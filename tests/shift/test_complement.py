"""The complementary set: the paper's rule, what it does in the ideal case, and how it is drawn."""

import json
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.errors import UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.models.model import Model
from nomadiff.oracles import IdealDenoiser
from nomadiff.processes import Processes
from nomadiff.sampling.sampler import SamplerConfig, draw
from nomadiff.shift.complement import REST, ComplementarySet, complementary_shares, target_groups
from nomadiff.shift.settings import parse_targets

NAMES = tuple("0123456789")


def test_the_papers_faces():
    assert complementary_shares([0.5, 0.5], [0.7, 0.3]) == pytest.approx([0.3, 0.7])


shares = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=5).map(lambda x: [value / sum(x) for value in x])


@given(st.data())
def test_extrapolated_densities_have_the_target_shares_at_weight_1(data):
    """The mass of every group under p_base^2 / p_aux where the two differ in the shares of disjoint groups only."""
    base = data.draw(shares)
    target = data.draw(st.lists(st.floats(0.01, 1.0), min_size=len(base), max_size=len(base)))
    target = [value / sum(target) for value in target]
    complement = complementary_shares(base, target)
    assert sum(complement) == pytest.approx(1) and min(complement) > 0
    mass = [b * b / c for b, c in zip(base, complement)]
    assert [value / sum(mass) for value in mass] == pytest.approx(target)
    for b, t, c in zip(base, target, complement):  # no group is on the same side of the base as its target
        if len(base) == 2 and abs(t - b) > 1e-9:
            assert (t > b) != (c > b)


@pytest.mark.parametrize(("base", "target"), [(0.5, 0.7), (0.1, 0.3)])
def test_exact_denoisers_move_the_share_with_the_weight(base, target):
    """Two clusters of points and the exact denoisers of both compositions: what the rule does if no network errs.

    Of two groups of equal share the target is met at weight 1. A rare group falls short of it: solvers do not sample
    the extrapolated density exactly.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (0.2 * torch.randn(100, 1, 2, 2, generator=generator) + centre for centre in (-1.0, 1.0))

    def mixture(share):
        count = round(100 * share)
        return IdealDenoiser(torch.cat([left[:count], right[: 100 - count]]))

    complement = complementary_shares([base, 1 - base], [target, 1 - target])[0]
    found = []
    for weight in (-1.0, 0.0, 1.0, 2.0):
        denoiser = Extrapolation(mixture(base), mixture(complement), weight)
        (images,) = draw(denoiser, (1, 2, 2), range(400), seed=1, config=SamplerConfig(steps=12), batch_size=400)
        found.append(float((images.mean((1, 2, 3)) < 0).double().mean()))
    assert found[:2] == pytest.approx([complement, base], abs=0.05)
    assert found == sorted(found) and found[3] > found[1] + 0.6 * (target - base)
    assert found[2] == pytest.approx(target, abs=0.04) if base == 0.5 else base < found[2] < target


# targets


def test_targets_are_read():
    assert parse_targets(["3=0.3", "0,1,2=0.25"]) == {"3": 0.3, "0,1,2": 0.25}
    three, low, rest = target_groups({"3": 0.3, "0, 1,2": 0.25}, NAMES)
    assert (three.classes, low.classes, low.target) == (("3",), ("0", "1", "2"), 0.25)
    assert (rest.name, rest.classes) == (REST, tuple("456789")) and rest.target == pytest.approx(0.45)
    both = target_groups({"male": 0.3, "female": 0.7}, ("male", "female"))
    assert [group.name for group in both] == ["male", "female"]


@pytest.mark.parametrize("text", ["3", "=0.3", "3=much", "3=nan", ""])
def test_a_text_that_is_no_target(text):
    with pytest.raises(UsageError, match=r"is no target: write .* such as 0,1,2=0\.6"):
        parse_targets([text])


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({}, "needs a target"),
        ({"x": 0.3}, "no class 'x'; there are 0, 1"),
        ({"3,": 0.3}, "no class ''"),
        ({"3": 1.0}, "between 0 and 1"),
        ({"3": -0.1}, "between 0 and 1"),
        ({"3": 0.6, "4": 0.5}, "sum to 1.1 and leave nothing"),
        ({"3": 0.6, "4": 0.4}, "leave nothing for the other classes (0, 1, 2, 5"),
        ({"3": 0.3, "3,4": 0.4}, "class '3' is named twice"),
        ({"0,1,2,3,4": 0.3, "5,6,7,8,9": 0.3}, "must sum to 1; they sum to 0.6"),
    ],
)
def test_targets_that_make_no_sense(targets, said):
    with pytest.raises(UsageError) as caught:
        target_groups(targets, NAMES)
    assert said in str(caught.value)
    with pytest.raises(UsageError, match="twice"):
        parse_targets(["3=0.3", "3=0.4"])


# drawing


class Source:
    """Stands for a model: image i is class 0 for every fourth i, else 1; it counts what it is asked for."""

    default_batch_size = 16
    class_names = None
    known = SimpleNamespace(latents=None)
    drawn = 0

    def sample_batches(self, count, seed, *, first, **options):
        self.drawn += count
        index = torch.arange(first, first + count)
        images = index.fmod(251).to(torch.uint8).reshape(-1, 1, 1, 1).repeat(1, 1, 2, 2)
        images[:, :, 1, 1] = (index % 4 == 0).to(torch.uint8).reshape(-1, 1)
        yield images

    def drawn_classes(self, indices, seed):
        return torch.tensor([index % 7 for index in indices])

    def manifest(self, count, seed):
        return {"kind": "synthetic", "count": count, "seed": seed}


class LastPixel:
    """Class "rare" where the last pixel is 1, else "often"; class "never" is never seen."""

    name, version, sha256, dimension = "last", "1", "0" * 64, None
    class_names = ("often", "rare", "never")

    def __call__(self, images):
        return images[:, 0, 1, 1:].float()

    def classes(self, images):
        return self.classes_of_features(self(images))

    def classes_of_features(self, features):
        return features[:, 0].long()


ALONE = Processes(0, 1, torch.device("cpu"))


def drawn(tmp_path, targets, count=100, source=None):
    names = LastPixel.class_names if "never" in targets else LastPixel.class_names[:2]
    classifier = LastPixel()
    classifier.class_names = names
    groups = target_groups(targets, names)
    return ComplementarySet(source or Source(), tmp_path, count, 0, groups, classifier).draw(ALONE)


@pytest.mark.parametrize("target", [0.5, 0.1])
def test_the_set_has_the_complementary_composition(tmp_path, target):
    source = Source()
    found = drawn(tmp_path, {"rare": target}, source=source)
    rare = int(found.images[:, 0, 1, 1].sum())
    share = complementary_shares([0.25, 0.75], [target, 1 - target])[0]
    assert len(found) == 100 and rare == round(100 * share)
    record = found.provenance["composition"]
    assert [each["group"] for each in record] == ["rare", REST]
    assert record[0] == {"group": "rare", "base": 0.25, "target": target, "complement": rare / 100}
    assert found.provenance["drawn"] == source.drawn  # every sample once, though in two or three rounds
    assert json.dumps(found.provenance)
    # the first of each group, in the order they were drawn, each with its own class label
    index = found.images[:, 0, 0, 0].long()
    assert index.tolist() == sorted(index.tolist())
    assert set(index[found.images[:, 0, 1, 1] == 1].tolist()) == {4 * i for i in range(rare)}
    assert torch.equal(found.labels, index % 7)


def test_interrupted_it_is_the_same_set(tmp_path):
    whole = drawn(tmp_path / "whole", {"rare": 0.5})
    torn = tmp_path / "torn"
    drawn(torn, {"rare": 0.5})
    for shard in sorted((torn / "own").iterdir())[::2]:
        shard.unlink()
    source = Source()
    assert drawn(torn, {"rare": 0.5}, source=source).content_hash == whole.content_hash
    assert 0 < source.drawn < 112


def test_what_is_never_drawn_cannot_be_shifted(tmp_path):
    with pytest.raises(UsageError, match="draws no 'never': none among 112 samples"):
        drawn(tmp_path, {"never": 0.5})


def test_a_target_that_is_there_already(tmp_path):
    with pytest.raises(UsageError, match=r"nothing to shift: .* already draws 'rare' 25\.0%"):
        drawn(tmp_path, {"rare": 0.27})


def test_what_stands_for_a_model_here_has_its_methods():
    assert all(hasattr(Model, name) for name in ("sample_batches", "drawn_classes", "manifest", "default_batch_size"))
