"""Class composition."""

from __future__ import annotations

import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics.composition import composition, total_variation


def test_shares_and_their_distance() -> None:
    shares = composition(torch.tensor([0, 0, 2, 2]), 4)
    assert shares == [0.5, 0, 0.5, 0]
    assert total_variation(shares, [0.25] * 4) == pytest.approx(0.5)
    assert total_variation([1, 0], [0, 1]) == 1.0
    assert total_variation(shares, shares) == 0.0


def test_one_class_is_a_composition() -> None:
    assert composition([3, 3, 3], 4) == [0, 0, 0, 1]


def test_bad_input_is_told() -> None:
    with pytest.raises(UsageError, match="no classes"):
        composition([], 3)
    with pytest.raises(UsageError, match=r"0..2, got 0..3"):
        composition([0, 3], 3)
    with pytest.raises(UsageError, match="2 and 3 classes"):
        total_variation([0.5, 0.5], [1, 0, 0])
