"""A set with a manifest is synthetic unless it says otherwise, wherever the manifest lies."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.data.manifest import MANIFEST_NAME, is_synthetic, read_manifest
from nomadiff.errors import DataError, UsageError


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


@pytest.mark.parametrize("kind", ["tar", "parquet", "hf"])
@pytest.mark.parametrize("spec", ["made", "made/*.{kind}"])
def test_a_manifest_beside_shards_or_in_a_folder_of_the_hubs_kind_is_theirs(tmp_path, monkeypatch, kind, spec):
    folder = tmp_path / "made"
    folder.mkdir()
    picture = io.BytesIO()
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(picture, "PNG")
    if kind == "tar":
        with tarfile.open(folder / "000.tar", "w") as archive:
            member = tarfile.TarInfo("a.png")
            member.size = len(picture.getvalue())
            archive.addfile(member, io.BytesIO(picture.getvalue()))
    else:
        pytest.importorskip("datasets", reason="needs nomadiff[hf]")
        import pyarrow
        from pyarrow import parquet

        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
        table = pyarrow.table({"image": [{"bytes": picture.getvalue(), "path": "a.png"}]})
        features = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
        parquet.write_table(table.replace_schema_metadata(features), folder / "000.parquet")
    where = f"hf:{folder}" if kind == "hf" else str(tmp_path / spec.format(kind=kind))
    assert read_images(where).manifest is None
    (folder / MANIFEST_NAME).write_text('{"kind": "synthetic", "seed": 3}')
    with pytest.raises(UsageError, match="its manifest says these images are synthetic"):
        ImageSource.open(where, name="real", synthetic=False)
    source = ImageSource.open(where, name="made", synthetic=True)
    assert source.provenance["manifest"] == {"kind": "synthetic", "seed": 3}
    (folder / MANIFEST_NAME).write_text("[]")
    with pytest.raises(DataError, match=r"manifest\.json: "):
        read_images(where)


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
