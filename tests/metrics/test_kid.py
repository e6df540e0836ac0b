"""KID against its definition and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nomadiff.errors import UsageError
from nomadiff.metrics import mmd
from nomadiff.metrics.kid import kid, kid_left_out


def plain(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    n, m = len(x), len(y)
    within = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def draw(count: int, shift: float = 0.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((count, 16)) + shift).astype(np.float32)


@pytest.mark.parametrize("block", [7, 1024])
def test_equals_the_definition(monkeypatch, block: int) -> None:
    monkeypatch.setattr(mmd, "BLOCK", block)
    x, y = draw(50), draw(61, 0.3, 1)
    assert kid(x, y) == pytest.approx(plain(x, y), rel=1e-10)
    assert kid(x, x) == pytest.approx(plain(x, x), rel=1e-10)
    same = torch.from_numpy(x)
    assert kid_left_out(same, same, torch.arange(50) % 5)[0] == pytest.approx(plain(x, x), rel=1e-10)


def test_is_unbiased() -> None:
    """Over many draws of the same distribution the mean is 0, though each set is small."""
    values = [kid(draw(20, seed=2 * i), draw(20, seed=2 * i + 1)) for i in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert kid(draw(200), draw(200, 0.5, 1)) > 5 * np.std(values)


def test_equals_torchmetrics() -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is an oracle only, it is not installed")
    from torchmetrics.image.kid import KernelInceptionDistance

    class Identity(torch.nn.Module):
        num_features = 16

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    x, y = torch.from_numpy(draw(100)), torch.from_numpy(draw(100, 0.3, 1))
    theirs = KernelInceptionDistance(feature=Identity(), subsets=1, subset_size=100)
    theirs.update(x, real=True)
    theirs.update(y, real=False)
    assert kid(x, y) == pytest.approx(float(theirs.compute()[0]), rel=1e-4)  # theirs sums in float32


def test_bad_input_is_told() -> None:
    with pytest.raises(UsageError, match="at least 2 images on either side, got 5 and 1"):
        kid(draw(5), draw(1))
    with pytest.raises(UsageError, match="dimension 16 and 8"):
        kid(draw(5), draw(5)[:, :8])
