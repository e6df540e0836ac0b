"""Noise floors: where levels are drawn, and that the weighted loss is the one that the docstring states."""

import pytest
import torch
from factories import noise_source, stopped_at, tiny_preset

from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.methods.ambient import Ambient
from nomadiff.methods.sda import SDA
from nomadiff.training.floors import NoiseFloors, with_floors
from nomadiff.training.loss import share_above, training_levels
from nomadiff.training.run_folder import load_tensors
from nomadiff.training.settings import TrainingConfig

OPTIONS = TrainingConfig(budget=64)
CPU = torch.device("cpu")


def mix(**options):
    sources = [noise_source("a", 1, count=20), noise_source("b", 2, count=60)]
    return SourceMix(noise_source("real"), sources, **options)


def test_levels_are_those_of_training_above_the_floor():
    count = 200_000
    floors = torch.tensor([0.0, 0.05, 0.5, 4.0]).repeat(count // 4)
    plain = training_levels(count, -1.2, 1.2, torch.Generator().manual_seed(0))
    levels = training_levels(count, -1.2, 1.2, torch.Generator().manual_seed(0), floors)
    assert torch.equal(levels[floors == 0], plain[floors == 0])  # images without a floor see what they saw
    assert bool((levels >= floors).all()) and bool(levels.isfinite().all())
    for floor in (0.05, 0.5, 4.0):
        drawn, expected = levels[floors == floor], plain[plain > floor]
        share = share_above(torch.tensor(floor), -1.2, 1.2)
        assert len(expected) / count == pytest.approx(float(share), rel=0.05)
        for place in (0.1, 0.5, 0.9):
            assert float(drawn.quantile(place)) == pytest.approx(float(expected[:50_000].quantile(place)), rel=0.05)


def test_a_very_high_floor_is_sampled_without_overflow():
    floors = torch.full((1000,), 30.0)  # 1 in 20,000 of the levels
    levels = training_levels(1000, -1.2, 1.2, torch.Generator().manual_seed(0), floors)
    assert bool((levels >= 30).all()) and 30 < float(levels.median()) < 45 and bool(levels.isfinite().all())


@pytest.mark.parametrize("shares", [{}, {"real_fraction": 0.2, "weights": (3.0, 1.0)}])
def test_the_weighted_loss_is_unbiased(shares):
    """Any function of image and level has the mean of the stated objective, whatever the floors and shares."""
    images = mix(**shares)
    generator = torch.Generator().manual_seed(1)
    floors = [torch.rand(20, generator=generator) * 2, torch.tensor([0.0, 0.3, 3.0]).repeat(20)]
    used = with_floors(images, floors, OPTIONS)
    weigher = NoiseFloors(used, OPTIONS, CPU)
    # the loss of an image: a number of its own, times a function of the level that real and synthetic differ in
    values = [torch.rand(len(source), generator=generator) for source in images.sources]

    def loss(value, level):
        return value * (1 + level.clamp(max=5)) ** 2

    count = 120_000
    seen, weights = [], []
    batch = used.batch(0, count, 7)
    lookup = [{image.numpy().tobytes(): n for n, image in enumerate(source.images)} for source in images.sources]
    index = [lookup[k][image.numpy().tobytes()] for k, image in zip(batch.source.tolist(), batch.images)]
    value = torch.stack([values[k][i] for k, i in zip(batch.source.tolist(), index)])
    level = training_levels(count, OPTIONS.p_mean, OPTIONS.p_std, generator, batch.floors)
    weight = weigher.weights(level)
    seen, weights = (weight * loss(value, level)).double(), weight.double()
    assert float(weights.mean()) == pytest.approx(1, abs=0.01)
    # the objective, by drawing sigma first
    level = training_levels(40_000, OPTIONS.p_mean, OPTIONS.p_std, generator)
    each = torch.cat([torch.full((len(s),), float(share) / len(s)) for s, share in zip(images.sources, images.shares)])
    floor, value = torch.cat([torch.zeros(40), *floors]), torch.cat(values)
    teaches = (floor[None] <= level[:, None]) * each
    expected = (teaches * loss(value[None], level[:, None])).sum(1) / teaches.sum(1)
    assert float(seen.mean()) == pytest.approx(float(expected.mean()), rel=0.02)
    # and level by level: each counts as much as it does without floors
    low = float(level.median())
    drawn = training_levels(count, OPTIONS.p_mean, OPTIONS.p_std, torch.Generator().manual_seed(3), batch.floors)
    weight = weigher.weights(drawn)
    assert float((weight * (drawn < low)).mean()) == pytest.approx(0.5, abs=0.01)


def test_a_source_is_drawn_as_often_as_it_teaches():
    floors = [torch.full((20,), float(torch.tensor(OPTIONS.p_mean).exp())), torch.zeros(60)]
    used = with_floors(mix(), floors, OPTIONS)
    assert used.shares.tolist() == pytest.approx([40 / 110, 10 / 110, 60 / 110], rel=1e-3)
    assert NoiseFloors(used, OPTIONS, CPU).weights(torch.ones(1)) < 1


def test_an_image_is_drawn_as_often_as_it_teaches_and_none_weighs_much():
    """One image without a floor among many with a high one: it is seen more often, not with a huge weight."""
    floors = [torch.zeros(20), torch.full((60,), 8.0)]
    floors[1][7] = 0.0
    used = with_floors(mix(), floors, OPTIONS)
    batch = used.batch(0, 20_000, 3)
    of_b = batch.source == 2
    share = float(share_above(torch.tensor(8.0), OPTIONS.p_mean, OPTIONS.p_std))
    always = float((batch.floors[of_b] == 0).double().mean())
    assert always == pytest.approx(1 / (1 + 59 * share), rel=0.05)
    images = used.sources[2].images
    seen = batch.images[of_b & (batch.floors == 0)]
    assert bool((seen == images[7]).all())
    assert torch.equal(batch.floors[batch.source == 0], torch.zeros(int((batch.source == 0).sum())))
    again = torch.cat([used.batch(start, 500, 3).images for start in range(0, 2000, 500)])
    assert torch.equal(again, batch.images[:2000])  # cut anywhere it is the same stream
    weigher = NoiseFloors(used, OPTIONS, CPU)
    levels = training_levels(
        len(batch.source), OPTIONS.p_mean, OPTIONS.p_std, torch.Generator().manual_seed(0), batch.floors
    )
    assert float(weigher.weights(levels).max()) < 1.5


def test_many_different_floors_are_rounded_up_to_few():
    floors = [torch.rand(20), torch.rand(60, generator=torch.Generator().manual_seed(0)) * 3]
    used = with_floors(mix(), floors, OPTIONS)
    assert torch.equal(used.floors[1], floors[0])
    assert len(used.floors[2].unique()) == 32 and bool((used.floors[2] >= floors[1]).all())
    assert float((used.floors[2] - floors[1]).max()) < 0.5


def test_without_floors_above_zero_it_is_the_union(tmp_path):
    preset = tiny_preset(budget=64, snapshot_every=32)
    same = Ambient(preset, floor=0).fit(mix(), tmp_path / "ambient", device="cpu")
    union = SDA(preset).fit(mix(), tmp_path / "sda", device="cpu")
    ours, theirs = same.network.state_dict(), union.network.state_dict()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in ours)
    assert same.config.shares == pytest.approx(union.config.shares, abs=1e-6)


def test_a_run_with_floors_goes_on_and_tells_other_floors_apart(tmp_path):
    preset = tiny_preset(budget=96, snapshot_every=32)
    Ambient(preset, floor=0.4).fit(mix(), tmp_path / "whole", device="cpu")
    with stopped_at(64):
        Ambient(preset, floor=0.4).fit(mix(), tmp_path / "broken", device="cpu")
    with pytest.raises(UsageError, match="another run .*floors"):
        Ambient(preset, floor=0.5).fit(mix(), tmp_path / "broken", device="cpu")
    with pytest.raises(UsageError, match="another run .*method: ambient -> sda"):
        SDA(preset).fit(mix(), tmp_path / "broken", device="cpu")
    Ambient(preset, floor=0.4).fit(mix(), tmp_path / "broken", device="cpu")
    files = [tmp_path / name / "model.safetensors" for name in ("whole", "broken")]
    assert files[0].read_bytes() == files[1].read_bytes()
    longer = Ambient(preset, floor=0.4, budget=128).fit(mix(), tmp_path / "broken", device="cpu")  # it can be prolonged
    assert load_tensors(longer.path)[1]["images_seen"] == 128


@pytest.mark.parametrize(
    "floors", [[torch.zeros(20)], [torch.zeros(20), torch.zeros(59)], [torch.zeros(20), -torch.ones(60)]]
)
def test_floors_that_do_not_fit_are_refused(floors):
    with pytest.raises(UsageError, match="floors"):
        with_floors(mix(), floors, OPTIONS)


def test_floors_of_another_type_are_the_same():
    floors = [torch.rand(20, generator=torch.Generator().manual_seed(0)), torch.zeros(60)]
    plain, double = (
        with_floors(mix(), [f.to(kind) for f in floors], OPTIONS) for kind in (torch.float32, torch.float64)
    )
    assert torch.equal(plain.batch(0, 64, 1).floors, double.batch(0, 64, 1).floors)
    assert plain.provenance == double.provenance


def test_a_floor_above_all_training_is_refused():
    with pytest.raises(UsageError, match="less than 1e-04 .* choose a lower one, or --method dm"):
        Ambient(tiny_preset(), floor=100).recipe(mix())
    for floor in (-1, float("nan"), "high"):
        with pytest.raises(UsageError, match="floor must be auto or a noise level"):
            Ambient(tiny_preset(), floor=floor)


def test_a_mix_with_floors_is_no_spec():
    with pytest.raises(UsageError, match="cannot be a spec"):
        MixSpec.of(with_floors(mix(), [torch.zeros(20), torch.zeros(60)], OPTIONS))
