"""What a gain must know to be claimed: choice, noise, reference, number of samples, copies."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import noise_images

from nomadiff.errors import UsageError
from nomadiff.improve.confirmation import Confirmation, Gain, Pair, confirmed_gain, halves, paired_gain, repeated_gain
from nomadiff.metrics.reference import ReferenceSet


def simulation():
    path = Path(__file__).parents[2] / "benchmarks" / "intervals.py"
    spec = importlib.util.spec_from_file_location("intervals", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["random", "narrow"])
def test_a_base_that_is_the_truth_is_rarely_beaten(kind):
    """benchmarks/intervals.py with more trials and images; narrow candidates have a smaller distance to anything."""
    claim = simulation().improvement_claim
    gains = [claim(seed, 300, kind) for seed in range(16)]
    assert sum(gain.is_sure for gain in gains) <= 2
    if kind == "narrow":
        assert sum(gain.low > 0 for gain in gains) >= 3  # the interval alone does not hold


def test_a_true_gain_is_found():
    claim = simulation().improvement_claim
    gains = [claim(seed, 300, "narrow", wrong=0.05) for seed in range(5)]
    assert all(gain.is_sure for gain in gains) and np.mean([gain.mean for gain in gains]) > 0.04


def images(count, seed=0):
    return noise_images(count, seed, side=4)


def test_halves_share_no_image_and_are_the_same_every_time():
    reference = ReferenceSet(images(41), detector="pixels")
    choose, confirm = halves(reference)
    assert (len(choose.features), len(confirm.features)) == (20, 21)
    rows = {tuple(row.tolist()) for row in choose.features}
    assert not rows & {tuple(row.tolist()) for row in confirm.features}
    assert torch.equal(halves(reference)[1].images, confirm.images)
    assert not torch.equal(choose.images, reference.images[:20])  # files are often sorted
    with pytest.raises(UsageError, match="at least 40 images, this one has 39 images"):
        halves(ReferenceSet(images(39), detector="pixels"))


def test_nobody_is_in_both_halves_nor_in_two_groups():
    names = [f"p{index // 3}" for index in range(60)]
    reference = ReferenceSet(images(60), detector="pixels", subjects=names)
    choose, confirm = halves(reference)
    assert len(choose.features) + len(confirm.features) == 60 and 27 <= len(choose.features) <= 30
    assert not set(choose.subjects.tolist()) & set(confirm.subjects.tolist())
    confirmation = Confirmation(confirm, "fd_pixels", [])
    for part in confirmation._left_out:  # a group is somebody's images, all of them
        left = set(confirm.subjects.tolist()) - set(part.subjects.tolist())
        assert len(left) == 1 and len(part.features) == len(confirm.features) - 3


def test_statistics_alone_cannot_confirm(tmp_path):
    ReferenceSet(images(60), detector="pixels").save(tmp_path / "own.npz")
    assert len(halves(ReferenceSet.load(tmp_path / "own.npz", detector="pixels"))) == 2
    held = np.load(tmp_path / "own.npz")
    np.savez(tmp_path / "edm.npz", mu=held["mu"], sigma=held["sigma"])
    with pytest.raises(UsageError, match="statistics only"):
        halves(ReferenceSet.load(tmp_path / "edm.npz", detector="pixels"))


def test_the_reference_is_in_the_interval():
    same = [Pair((10.0, 9.0)), Pair((10.0, 9.02)), Pair((10.0, 8.98))]
    noise = confirmed_gain(same)
    assert noise.is_sure and noise == paired_gain([10, 10, 10], [9, 9.02, 8.98])
    moved = np.linspace(9, 11, 20)
    known = confirmed_gain([Pair(pair.scores, (moved.tolist(), [9.0] * 20)) for pair in same])
    assert known.mean == noise.mean and known.low < 0 < known.high and not known.is_sure


def test_what_is_gained_where_the_base_is_the_truth_is_no_gain():
    noise = [0.01, -0.01, 0.0]
    pairs = [Pair((10.0, 9.0 + e), ([10.0] * 20, [9.0] * 20), (10.0, 9.0 - e)) for e in noise]
    gain = confirmed_gain(pairs)
    assert gain.low > 0 and gain.chance == pytest.approx(0.1) and not gain.is_sure
    assert confirmed_gain([Pair(p.scores, p.without, (10.0, 10.5)) for p in pairs]).is_sure


@pytest.mark.parametrize("metric", ["fd_pixels", "coverage", "replication"])
def test_pairs_of_any_metric(metric):
    train = images(50, seed=5)
    reference = ReferenceSet(images(60), detector="pixels", train=train)
    bases = [reference.read(images(40, seed)) for seed in (1, 2, 3)]
    pair = Confirmation(reference, metric, bases).pair(0, (1.0, 2.0), reference.read(images(40, 9)))
    if metric == "replication":  # of the images, whatever the reference
        assert pair == Pair((1.0, 2.0))
        return
    assert [len(values) for values in pair.without] == [20, 20]
    part = reference.subset(torch.from_numpy(np.random.default_rng(1).permutation(60)) % 20 != 3)
    assert pair.without[0][3] == pytest.approx(part.value(metric, *bases[0]))
    truth = reference.with_features(torch.cat([bases[1][0], bases[2][0]])[:60], None)
    assert pair.as_truth[1] == pytest.approx(truth.value(metric, *reference.read(images(40, 9))))


def test_copies_that_differ_widen_the_interval():
    one = Gain(0.1, 0.05, 0.15, 0.0, 0.04)
    alike = repeated_gain([one, one, one])
    assert (alike.mean, alike.low, alike.high) == pytest.approx((0.1, 0.05, 0.15)) and alike.is_sure
    apart = repeated_gain([Gain(value, value - 0.05, value + 0.05, 0.0, value - 0.06) for value in (0.02, 0.1, 0.18)])
    assert apart.mean == pytest.approx(0.1) and apart.low < 0 and apart.excess_low < 0 and not apart.is_sure
    assert repeated_gain([paired_gain([10, 10.1], [9, 9.1])] * 2).excess_low is None
