"""Hub data sets, read through the real ``datasets`` package where it is installed."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from nomadiff.data.images import read_images
from nomadiff.data.mapped import in_file
from nomadiff.data.selection import Part
from nomadiff.errors import DataError, UsageError


def test_the_extra_is_named_when_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"hf:someone/cats: .*pip install '.*\[hf\]'"):
        read_images("hf:someone/cats")
    with pytest.raises(UsageError, match="expected hf:<data set id>"):
        read_images("hf:")


@pytest.fixture
def hub_set(tmp_path, monkeypatch):
    """A data set of four images in two classes and two splits, loaded from disk by its path."""
    pytest.importorskip("datasets", reason="needs nomadiff[hf]")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 6, 3), dtype=np.uint8)
    for split, images in zip(("train", "test"), pixels):
        for index, image in enumerate(images):
            target = tmp_path / "set" / split / ("cat", "dog")[index % 2] / f"{index}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(target)
    return tmp_path / "set", pixels


def test_rows_arrive_bit_for_bit_with_their_labels(hub_set):
    folder, pixels = hub_set
    for spec, images in (
        (f"hf:{folder}", pixels[0]),
        (f"hf:{folder}:test", pixels[1]),
        (f"hf:{folder}:test[:3]", None),
    ):
        found = read_images(spec)
        if images is None:
            assert len(found.images) == 3
            continue
        order = [0, 2, 1, 3]  # cats first
        np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), images[order])
        assert found.labels.tolist() == [0, 0, 1, 1] and found.class_names == ("cat", "dog")


def test_what_cannot_be_loaded_is_one_line(hub_set):
    folder, _ = hub_set
    for spec in (f"hf:{folder}:valid", f"hf:{folder / 'gone'}"):
        with pytest.raises(DataError) as caught:
            read_images(spec)
        assert str(caught.value).startswith(f"{spec}: cannot be loaded (") and "\n" not in str(caught.value)
    (folder / "train" / "cat" / "0.png").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"1 of 4 images cannot be read: row 0 \("):
        read_images(f"hf:{folder}")


@pytest.mark.parametrize(
    ("column", "values", "labels", "names"),
    [
        ("label", [4, 0, 4], [4, 0, 4], None),
        ("labels", [1, 2, 1], [1, 2, 1], None),
        ("class", ["fox", "cat", "fox"], [1, 0, 1], ("cat", "fox")),
        ("label", ["7", "3", "7"], [7, 3, 7], None),
        ("label", [0, -1, 1], "1 of 3 rows have the label -1, no class", None),
        ("label", [0.5, 1.0, 2.0], "neither integers nor names", None),
        ("size", [1, 2, 3], "no column of class labels (columns: image, size)", None),
    ],
)
def test_labels_that_are_plain_columns(monkeypatch, column, values, labels, names):
    datasets = pytest.importorskip("datasets", reason="needs nomadiff[hf]")
    images = [Image.new("RGB", (4, 4), (shade, 0, 0)) for shade in (1, 2, 3)]
    table = datasets.Dataset.from_dict({"image": images, column: values}).cast_column("image", datasets.Image())
    monkeypatch.setattr(datasets, "load_dataset", lambda *name, **options: table)
    found = read_images("hf:someone/cats")
    if isinstance(labels, str):
        assert found.labels is None and labels in found.unlabelled
    else:
        assert found.labels.tolist() == labels and found.class_names == names


def test_parquet_shards_are_one_set(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="needs nomadiff[hf]")
    import pyarrow
    from pyarrow import parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "decoded"))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
    folder = tmp_path / "shards"
    folder.mkdir()
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}  # as the hub has it
    for shard, name in enumerate(("train-2.parquet", "train-9.parquet", "train-10.parquet")):
        part = range(shard * 4, shard * 4 + 4)
        cells = []
        for index in part:
            buffer = io.BytesIO()
            Image.fromarray(pixels[index]).save(buffer, "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": None})
        kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
        columns = {"image": pyarrow.array(cells, kind), "label": pyarrow.array([index % 2 for index in part])}
        parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), folder / name)
    for spec in (folder, folder / "train-*.parquet", folder / "train-{2,9,10}.parquet", folder / "train-9.parquet"):
        found = read_images(f"{spec}#labels=label")
        part = slice(4, 8) if spec.name == "train-9.parquet" else slice(None)
        np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), pixels[part])
        assert found.labels.tolist() == [index % 2 for index in range(12)][part] and found.class_names == ("cat", "dog")
    for limit in (1 << 30, 1):  # in memory, and in a file, which is found again
        monkeypatch.setattr("nomadiff.data.image_cache.LARGEST_HELD", limit)
        for _ in range(2):
            found = read_images(folder, part=Part(subset="range:3:9"))
            assert (in_file(found.images) is None) == (limit > 1)
            np.testing.assert_array_equal(found.images.numpy().transpose(0, 2, 3, 1), pixels[3:9])
    (folder / "train-9.parquet").write_bytes(b"torn")
    with pytest.raises(DataError, match=r"shards: cannot be loaded \("):
        read_images(folder)


def test_parquet_without_the_extra_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    for spec in (tmp_path, tmp_path / "a.parquet"):
        with pytest.raises(UsageError, match=r"pip install '.*\[hf\]'"):
            read_images(spec)
