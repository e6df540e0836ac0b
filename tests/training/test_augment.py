"""Augmentation: every motion alone does what its label says, exactly where it can be exact."""

from __future__ import annotations

import math

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.training.augment import AUGMENT_DIM, Augment, Motion


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=generator(1)) * 2 - 1


def motion(count: int = 1, **named: float | torch.Tensor) -> Motion:
    fields = {name: torch.zeros(count) for name in Motion.__dataclass_fields__}
    fields["shift"] = torch.zeros(count, 2)
    for name, value in named.items():
        fields[name] = fields[name] + torch.as_tensor(value)
    return Motion(**fields)


def blob(right: float, down: float, size: int = 32, spread: float = 2.0) -> torch.Tensor:
    """A round spot at ``(right, down)`` pixels from the centre, ``(1, 1, size, size)``."""
    at = torch.arange(size) - (size - 1) / 2
    return torch.exp(-((at[None, :] - right) ** 2 + (at[:, None] - down) ** 2) / (2 * spread**2))[None, None]


def middle(images: torch.Tensor, margin: int = 6) -> torch.Tensor:
    """Without the border, where the image is reflected."""
    return images[..., margin:-margin, margin:-margin]


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def test_probability_zero_is_the_identity_bit_for_bit() -> None:
    images = noise(16, 3, 8, 8)
    moved, labels = Augment(0.0)(images, generator())
    assert torch.equal(moved, images)
    assert torch.equal(labels, torch.zeros(16, AUGMENT_DIM))


def test_label_is_zero_exactly_where_nothing_was_done() -> None:
    images = noise(400, 1, 8, 8)
    moved, labels = Augment(0.3)(images, generator())
    untouched = (labels == 0).all(dim=1)
    same = (moved == images).flatten(1).all(dim=1)
    assert 20 < untouched.sum() < 80  # 400 / 2 * 0.85 * 0.7^4 = 41
    assert torch.equal(untouched, same)


def test_same_generator_same_result_and_input_is_left_alone() -> None:
    images = noise(32, 3, 16, 16)
    before = images.clone()
    first = Augment(0.5)(images, generator(3))
    second = Augment(0.5)(images, generator(3))
    other = Augment(0.5)(images, generator(4))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(images, before)
    assert first[0].dtype == first[1].dtype == torch.float32
    assert first[0].shape == images.shape and first[1].shape == (32, 9)


def test_an_image_does_not_see_its_batch() -> None:
    drawn = Augment(1.0).draw(6, generator())
    images = noise(6, 2, 12, 12)
    together = drawn.apply(images)
    for i in range(6):
        one = Motion(**{name: getattr(drawn, name)[i : i + 1] for name in Motion.__dataclass_fields__})
        assert largest(one.apply(images[i : i + 1]), together[i : i + 1]) < 1e-5


def test_how_often_and_how_far() -> None:
    p, count = 0.25, 40_000
    labels = Augment(p).draw(count, generator()).labels()
    tolerance = 4 / math.sqrt(count)
    share = (labels != 0).float().mean(dim=0)
    for column, expected in enumerate([0.5, p / 2, p, p, p, p, p / 2, p, p]):
        assert share[column] == pytest.approx(expected, abs=tolerance), column
    assert set(labels[:, :2].unique().tolist()) == {0.0, 1.0}
    for column in (2, 7, 8):  # unit normal where tried
        tried = labels[labels[:, column] != 0, column]
        assert tried.std() == pytest.approx(1, abs=0.04) and tried.mean() == pytest.approx(0, abs=0.04)
    turn = torch.atan2(labels[:, 4], labels[:, 3] + 1)[labels[:, 4] != 0]
    assert turn.std() == pytest.approx(2 * math.pi / math.sqrt(12), abs=0.04)
    assert torch.hypot(labels[:, 5], labels[:, 6])[labels[:, 5] != 0].square().mean() == pytest.approx(1, abs=0.06)
    assert torch.equal(labels[:, 7] != 0, labels[:, 8] != 0)


@pytest.mark.parametrize(("name", "column", "dimension"), [("mirror_x", 0, 3), ("mirror_y", 1, 2)])
def test_mirrors_are_exact(name: str, column: int, dimension: int) -> None:
    images = noise(2, 3, 6, 10)
    one = motion(2, **{name: torch.tensor([1.0, 0.0])})
    assert torch.equal(one.apply(images)[0], images.flip(dimension)[0])
    assert torch.equal(one.apply(images)[1], images[1])
    assert one.labels().nonzero().tolist() == [[0, column]]


def test_whole_pixel_shifts_are_exact_and_reflect_at_the_border() -> None:
    images = noise(1, 3, 16, 24)
    one = motion(shift=torch.tensor([[3 / (24 * 0.125), -2 / (16 * 0.125)]]))  # 3 right, 2 up
    moved = one.apply(images)
    assert largest(moved[:, :, :14, 3:], images[:, :, 2:, :21]) < 1e-5
    assert largest(moved[:, :, :14, :3], images[:, :, 2:, 1:4].flip(3)) < 1e-5
    assert torch.allclose(one.labels(), torch.tensor([[0, 0, 0, 0, 0, 0, 0, 1.0, -1.0]]))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_exact(quarters: int) -> None:
    images = noise(1, 2, 17, 17)
    one = motion(turn=quarters * math.pi / 2)
    assert largest(one.apply(images), images.rot90(quarters, (2, 3))) < 1e-4
    expected = [math.cos(quarters * math.pi / 2) - 1, math.sin(quarters * math.pi / 2)]
    assert one.labels()[0, 3:5].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_fractional_turn_carries_a_spot_counter_clockwise() -> None:
    angle = math.radians(30)
    moved = motion(turn=angle).apply(blob(8, 0))
    assert largest(middle(moved), middle(blob(8 * math.cos(angle), -8 * math.sin(angle)))) < 0.02


def test_a_fractional_shift() -> None:
    moved = motion(shift=torch.tensor([[1.3 / 4, -2.7 / 4]])).apply(blob(0, 0))
    assert largest(moved, blob(1.3, -2.7)) < 0.02


def test_scale_enlarges() -> None:
    moved = motion(scale=5.0).apply(blob(3, 2))  # 2 ** (0.2 * 5) = 2
    assert largest(moved, blob(6, 4, spread=4.0)) < 0.02


def test_stretch_enlarges_along_its_axis_and_shrinks_across() -> None:
    along = motion(stretch=5.0).apply(blob(3, 3))
    at = torch.arange(32) - 15.5
    expected = torch.exp(-((at[None, :] - 6) ** 2 / (2 * 16) + (at[:, None] - 1.5) ** 2 / (2 * 1)))[None, None]
    assert largest(middle(along, 9), middle(expected, 9)) < 0.05
    # an axis of 90 degrees is the vertical one
    upright = motion(stretch=5.0, stretch_axis=math.pi / 2).apply(blob(3, 3))
    assert largest(upright, along.transpose(2, 3)) < 1e-4
    # counter-clockwise as seen: at 45 degrees the axis points to the upper right
    tilted = motion(stretch=5.0, stretch_axis=math.pi / 4).apply(blob(3, -3))
    row, column = divmod(int(tilted.argmax()), 32)
    assert (column - 15.5, row - 15.5) == pytest.approx((6, -6), abs=0.5)


def test_shrinking_does_not_alias() -> None:
    """Stripes finer than the shrunken image's pixels become grey, they do not turn into coarse stripes."""
    stripes = torch.ones(1, 1, 32, 32)
    stripes[..., ::2] = -1
    shrunk = motion(stretch=-5.0).apply(stripes)  # half as wide
    assert shrunk[..., 10:22].abs().max() < 0.02


def test_mean_colour_is_kept() -> None:
    images = torch.full((64, 3, 8, 8), 0.37)
    assert largest(Augment(1.0)(images, generator())[0], images) < 1e-4


def test_order_is_scale_then_turn_then_shift() -> None:
    both = motion(scale=5.0, turn=math.pi / 2, shift=torch.tensor([[1.0, 0.0]]))
    assert largest(both.apply(blob(3, 0)), blob(4, -6, spread=4.0)) < 0.02


@pytest.mark.parametrize("size", [(2, 2), (3, 8), (8, 3)])
def test_small_images(size: tuple[int, int]) -> None:
    moved, _ = Augment(1.0)(noise(32, 1, *size), generator())
    assert moved.isfinite().all()


@pytest.mark.parametrize("probability", [-0.1, 1.1, math.nan])
def test_wrong_probability(probability: float) -> None:
    with pytest.raises(UsageError, match="probability must lie in"):
        Augment(probability)
