"""A set with a manifest is synthetic unless it says otherwise, wherever the manifest lies."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest

from nomadiff.data.manifest import MANIFEST_NAME, is_synthetic, read_manifest
from nomadiff.errors import DataError


def test_synthetic_is_the_default_meaning():
    assert not is_synthetic(None)
    assert is_synthetic({}) and is_synthetic({"kind": "synthetic"}) and is_synthetic({"kind": "Real"})
    assert not is_synthetic({"kind": "real"})


def test_read_from_folder_zip_and_arrays(tmp_path):
    about = {"kind": "synthetic", "seed": 3}
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(about))
    assert read_manifest(tmp_path) == about
    for name in ("a.zip", "a.npz"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(MANIFEST_NAME, json.dumps(about))
        assert read_manifest(tmp_path / name) == about
    np.savez(tmp_path / "b.npz", images=np.zeros((1, 2, 2, 1), np.uint8))
    np.save(tmp_path / "b.npy", np.zeros(1))
    (tmp_path / "bare").mkdir()
    assert (
        read_manifest(tmp_path / "b.npz")
        is read_manifest(tmp_path / "b.npy")
        is read_manifest(tmp_path / "bare")
        is None
    )


def test_a_synthetic_set_deep_inside_is_found_before_a_real_one(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / MANIFEST_NAME).write_text('{"kind": "real"}')
    assert read_manifest(tmp_path) == {"kind": "real"}
    (tmp_path / "photos" / "more" / "samples").mkdir(parents=True)
    (tmp_path / "photos" / "more" / "samples" / MANIFEST_NAME).write_text('{"seed": 1}')
    assert read_manifest(tmp_path) == {"seed": 1}


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_broken_manifest_is_an_error_not_an_absent_one(tmp_path, content):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json: ") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(tmp_path):
    for name in ("gone", "gone.zip", "gone.npz"):
        with pytest.raises(DataError, match="no such file"):
            read_manifest(tmp_path / name)


@pytest.mark.parametrize("name", ["a.npz", "a.zip"])
def test_a_fifo_is_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        read_manifest(tmp_path / name)
