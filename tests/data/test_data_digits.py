"""The built-in digits: the split of all figures, and the style shift against a plain reference."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate

from nomadiff.data import digits
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, UsageError


def test_the_split_is_frozen():
    pool, reference = digits.read_digits("digits:pool"), digits.read_digits("digits:reference")
    assert pool.images.shape == (1000, 1, 8, 8) and reference.images.shape == (797, 1, 8, 8)
    assert (
        pool.images.dtype == torch.uint8
        and pool.images.max() == 255
        and pool.labels.unique().tolist() == list(range(10))
    )
    every = torch.cat([pool.images, reference.images]).numpy()
    assert hashlib.sha256(every.tobytes()).hexdigest().startswith("a060474b8a1bd228")
    from sklearn.datasets import load_digits

    scans = load_digits()
    order = np.random.RandomState(1234).permutation(1797)
    np.testing.assert_array_equal(np.round(every[:, 0] * (16 / 255)), scans.images[order])
    np.testing.assert_array_equal(torch.cat([pool.labels, reference.labels]), scans.target[order])


def test_the_style_is_a_binomial_blur_and_a_shift():
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    kernel = np.outer([1, 2, 1], [1, 2, 1])
    total = correlate(images.numpy().astype(np.int64), kernel[None, None], mode="mirror")
    expected = np.roll((total + 8) // 16, 1, axis=-1)
    np.testing.assert_array_equal(digits.blurred_and_shifted(images).numpy(), expected)


def test_synthetic_sets_come_from_the_shipped_file(tmp_path, monkeypatch):
    close = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(digits, "_CLOSE", tmp_path / "digits_close.npz")
    with pytest.raises(
        DataError, match=r"digits:style: digits_close.npz is missing .* run scripts/make_digits_close.py"
    ):
        digits.read_digits("digits:style")
    assert digits.digits_manifest("digits:close") == {"kind": "synthetic"}
    write_images(tmp_path / "digits_close.npz", [close], 5, manifest={"seed": 3})
    assert torch.equal(digits.read_digits("digits:close").images, close)
    assert torch.equal(digits.read_digits("digits:style").images, digits.blurred_and_shifted(close))
    assert digits.digits_manifest("digits:close") == {"kind": "synthetic", "seed": 3, "count": 5}
    assert "blur" in digits.digits_manifest("digits:style")["then"]
    assert digits.digits_manifest("digits:pool") is digits.digits_manifest("digits:reference") is None


def test_unknown_names_list_the_known():
    with pytest.raises(
        UsageError, match="digits:pools: no such built-in set; there are digits:pool, digits:reference,"
    ):
        digits.read_digits("digits:pools")
