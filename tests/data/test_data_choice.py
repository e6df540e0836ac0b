"""Where a set holds several arrays or columns, none is taken before one is named."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from nomadiff.data.choice import Choice, parse_choice
from nomadiff.data.image_source import ImageSource
from nomadiff.data.images import read_images
from nomadiff.data.mix_spec import MixSpec
from nomadiff.errors import UsageError

RNG = np.random.default_rng(0)
PHOTOS = RNG.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
MASKS = np.ascontiguousarray(PHOTOS[..., :1])
CLASSES = np.arange(6) % 3


@pytest.mark.parametrize(
    ("spec", "choice"),
    [
        ("a.npz", Choice("a.npz")),
        ("a.npz#images=photos", Choice("a.npz", "photos")),
        ("a.npz#labels=none,images=my photos", Choice("a.npz", "my photos", "none")),
        ("hf:u/s:test#config=small,images=image", Choice("hf:u/s:test", "image", None, "small")),
        ("photos#1", Choice("photos#1")),
        ("run#lr=1/samples", Choice("run#lr=1/samples")),
    ],
)
def test_a_choice_stands_behind_the_place(spec, choice):
    assert parse_choice(spec) == choice


@pytest.mark.parametrize("tail", ["image=a", "images=", "images=a,images=b", "=", "images=a,b"])
def test_another_choice_is_refused(tail):
    with pytest.raises(UsageError, match="behind # stand images=NAME"):
        parse_choice(f"a.npz#{tail}")


def test_what_exists_is_a_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a#images=b").mkdir()
    assert parse_choice("a#images=b").location == "a#images=b"


def test_several_arrays_of_images_need_a_name(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, masks=MASKS, photos=PHOTOS, latents=np.zeros((6, 4, 2, 2), np.float32))
    with pytest.raises(
        UsageError, match=r"a.npz: masks, photos could all be the images; name one: .*a.npz#images=masks"
    ):
        read_images(path)
    np.testing.assert_array_equal(read_images(f"{path}#images=photos").images.permute(0, 2, 3, 1).numpy(), PHOTOS)
    assert read_images(f"{path}#images=masks").images.shape == (6, 1, 8, 8)
    with pytest.raises(UsageError, match=r"holds no array 'image' \(arrays: masks, photos, latents\)"):
        read_images(f"{path}#images=image")
    source = ImageSource.open(f"{path}#images=photos", name="a", synthetic=False)
    assert source.provenance["file"] == "a.npz" and source.provenance["spec"].endswith("#images=photos")
    assert MixSpec(real="", synthetic=(f"{path}#images=photos",)).named_synthetic()[0][0] == "a"


@pytest.mark.parametrize("names", [("arr_0", "arr_1"), ("x", "y"), ("images", "label"), ("images", "labels")])
def test_labels_beside_images_are_kept(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict(zip(names, (PHOTOS, CLASSES))))
    assert read_images(tmp_path / "a.npz").labels.tolist() == CLASSES.tolist()
    assert read_images(f"{tmp_path / 'a.npz'}#labels=none").labels is None


def test_other_numbers_are_no_labels_unless_named(tmp_path):
    np.savez(tmp_path / "a.npz", images=PHOTOS, seeds=CLASSES, y=np.zeros(6), arr_1=np.arange(4))
    assert read_images(tmp_path / "a.npz").labels is None
    assert read_images(f"{tmp_path / 'a.npz'}#labels=seeds").labels.tolist() == CLASSES.tolist()


def test_a_choice_of_what_is_not_there_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", PHOTOS)
    np.savez(tmp_path / "a.npz", images=PHOTOS)
    (tmp_path / "set").mkdir()
    Image.fromarray(PHOTOS[0]).save(tmp_path / "set" / "0.png")
    for spec in ("a.npy#images=a", "a.npy#labels=a", "set#images=a", "a.npz#config=a"):
        with pytest.raises(UsageError, match="to choose; leave out #"):
            read_images(f"{tmp_path / spec}")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Writes data sets of parquet files that are loaded by their path."""
    datasets = pytest.importorskip("datasets", reason="needs nomadiff[hf]")
    import pyarrow.parquet

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")

    def encoded(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    def write(place, **columns):
        content, features = {}, {}
        for name, values in columns.items():
            if isinstance(values, np.ndarray):
                content[name], features[name] = [encoded(pixels) for pixels in values], datasets.Image()
            else:
                content[name], features[name] = values
        file = tmp_path / place / "data" / "train-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        table = pyarrow.table(content, schema=datasets.Features(features).arrow_schema)
        pyarrow.parquet.write_table(table, file)
        return f"hf:{tmp_path / place}"

    return datasets, write


def test_several_columns_of_images_need_a_name(hub):
    _, write = hub
    spec = write("pairs", conditioning_image=MASKS[..., 0], image=PHOTOS)
    with pytest.raises(
        UsageError, match=f"conditioning_image, image could all be the images; name one: {spec}#images="
    ):
        read_images(spec)
    np.testing.assert_array_equal(read_images(f"{spec}#images=image").images.permute(0, 2, 3, 1).numpy(), PHOTOS)
    with pytest.raises(UsageError, match="no column 'photo'"):
        read_images(f"{spec}#images=photo")


def test_columns_of_labels(hub):
    datasets, write = hub
    names = datasets.ClassLabel(names=["a", "b", "c"])
    whole = datasets.Value("int64")
    spec = write("two", image=PHOTOS, fine=(CLASSES.tolist(), names), coarse=([0] * 6, names))
    with pytest.raises(UsageError, match=r"fine, coarse could all be the labels; name one \(or none\)"):
        read_images(spec)
    assert read_images(f"{spec}#labels=fine").labels.tolist() == CLASSES.tolist()
    assert read_images(f"{spec}#labels=none").labels is None
    assert read_images(write("numbers", image=PHOTOS, label=(CLASSES.tolist(), whole))).labels.tolist() == [0, 1, 2] * 2
    assert read_images(write("unknown", image=PHOTOS, label=([-1] * 6, names))).labels is None


def test_configurations_are_named(hub, tmp_path):
    _, write = hub
    for name, images in (("small", PHOTOS[:2]), ("large", PHOTOS)):
        write(f"set/{name}", image=images)
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/data/*\n" for name in ("small", "large"))
    (tmp_path / "set" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    spec = f"hf:{tmp_path / 'set'}"
    with pytest.raises(UsageError, match=f"small, large could all be the config; name one: {spec}#config=small"):
        read_images(spec)
    assert len(read_images(f"{spec}#config=small").images) == 2
    assert len(read_images(f"{spec}#config=large,images=image").images) == 6
    with pytest.raises(UsageError, match="no configuration 'tiny'; choose of small, large"):
        read_images(f"{spec}#config=tiny")


def test_one_parquet_file(hub, tmp_path):
    _, write = hub
    write("set", image=PHOTOS)
    assert len(read_images(f"hf:{next((tmp_path / 'set').rglob('*.parquet'))}").images) == 6
