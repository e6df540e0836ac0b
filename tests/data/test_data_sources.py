"""Sources know where they came from; mixes deal them out in exact shares, without memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nomadiff.data.choice import parse_named
from nomadiff.data.image_source import ImageSource
from nomadiff.data.lazy_images import open_lazily
from nomadiff.data.source_mix import SourceMix
from nomadiff.data.source_union import union
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, UsageError


def numbered(name: str, count: int, *, size: int = 2, channels: int = 1, first: int = 0, labels=True) -> ImageSource:
    """A source whose image i is filled with the number first + i, labelled i % 3."""
    values = (torch.arange(count) + first).to(torch.uint8)
    images = values[:, None, None, None].expand(-1, channels, size, size).contiguous()
    return ImageSource(name, images, torch.arange(count) % 3 if labels else None, {"kind": "real"})


def values(batch) -> list[int]:
    return batch.images[:, 0, 0, 0].tolist()


# --- sources


def test_opening_records_where_images_came_from(tmp_path):
    images = numbered("x", 9).images
    write_images(tmp_path / "cats.zip", [images], 9, labels=torch.arange(9) % 3, manifest={"kind": "real", "by": "me"})
    spec = str(tmp_path / "cats.zip")
    source = ImageSource.open(spec, name="cats", synthetic=False, classes="0,2", subset="first:4")
    assert source.images[:, 0, 0, 0].tolist() == [0, 2, 3, 5] and source.labels.tolist() == [0, 2, 0, 2]
    assert (len(source), source.resolution, source.channels) == (4, 2, 1)
    assert source.provenance == {
        "spec": spec,
        "file": "cats.zip",
        "kind": "real",
        "subset": ["classes:0,2", "first:4"],
        "skipped": 0,
        "manifest": {"kind": "real", "by": "me", "count": 9},
        "count": 4,
        "content_hash": source.content_hash,
        "labels_hash": source.labels_hash,
        "classes": {"0": 2, "2": 2},
    }
    json.dumps(source.provenance)


def test_files_keep_their_names_whatever_is_chosen_of_them(tmp_path):
    real, labels = {"kind": "real"}, torch.arange(9) % 3
    write_images(tmp_path / "cats.zip", [numbered("x", 9).images], 9, labels=labels, manifest=real)
    source = ImageSource.open(str(tmp_path / "cats.zip"), name="cats", synthetic=False, classes="0,2")
    assert [int(name.rpartition("img")[2].removesuffix(".png")) for name in source.names] == [0, 2, 3, 5, 6, 8]
    again = ImageSource.open(source.random(3, seed=1), name="cats", synthetic=False, subset="first:2")
    assert [int(name.rpartition("img")[2].removesuffix(".png")) for name in again.names] == values(again)
    assert numbered("x", 9).first(3).names is None
    with pytest.raises(UsageError, match="2 images and 1 names"):
        ImageSource("x", torch.zeros(2, 1, 4, 4, dtype=torch.uint8), None, {}, names=("a.png",))


def test_sample_sets_are_not_taken_for_real(tmp_path):
    write_images(tmp_path / "samples", [numbered("x", 3).images], 3, manifest={"seed": 0})
    for spec in (str(tmp_path / "samples"), str(tmp_path)):
        with pytest.raises(UsageError, match="synthetic, but .* opened as real; pass --allow-synthetic-as-real"):
            ImageSource.open(spec, name="real", synthetic=False)
        forced = ImageSource.open(spec, name="real", synthetic=False, allow_synthetic_as_real=True)
        assert forced.provenance["kind"] == "real" and forced.provenance["manifest"]["kind"] == "synthetic"
        assert ImageSource.open(spec, name="s", synthetic=True).provenance["kind"] == "synthetic"


def test_the_built_in_digits_open_like_files():
    source = ImageSource.open("digits:pool", name="real", synthetic=False, subset="random:100:7", resolution=16)
    assert source.images.shape == (100, 1, 16, 16) and source.provenance["subset"] == ["random:100:7"]
    whole = ImageSource.open("digits:pool", name="real", synthetic=False)
    part = whole.random(100, 7)
    assert torch.equal(part.labels, source.labels) and part.resolution == 8
    for forbidden in ("digits:close", "digits:style"):
        with pytest.raises(UsageError, match="--allow-synthetic-as-real"):
            ImageSource.open(forbidden, name="real", synthetic=False)


def test_wrong_calls_are_refused_before_anything_is_read():
    for options in ({"subset": "firts:3"}, {"classes": "0,,2"}, {"classes": "7-0"}):
        with pytest.raises(UsageError, match="expected"):
            ImageSource.open("/no/such/place", name="real", synthetic=False, **options)
    with pytest.raises(DataError, match="/no/such/place: no such file or folder"):
        ImageSource.open("/no/such/place", name="real", synthetic=False)


def test_unreadable_files_are_counted_in_the_provenance(tmp_path):
    write_images(tmp_path / "set", [numbered("x", 3).images], 3, manifest={"kind": "real"})
    (tmp_path / "set" / "00000" / "img00000001.png").write_bytes(b"torn")
    with pytest.raises(DataError, match="1 of 3 images cannot be read: 00000/img00000001.png"):
        ImageSource.open(str(tmp_path / "set"), name="a", synthetic=False)
    source = ImageSource.open(str(tmp_path / "set"), name="a", synthetic=False, skip_unreadable=True)
    assert source.provenance["skipped"] == 1 and len(source) == 2


def test_selections_chain_and_keep_labels():
    source = numbered("x", 30)
    chosen = source.with_classes("1-2").first(6).random(4, seed=3)
    assert set(chosen.images[:, 0, 0, 0].tolist()) <= {1, 2, 4, 5, 7, 8}
    assert (chosen.images[:, 0, 0, 0] % 3 == chosen.labels).all()
    assert chosen.provenance["subset"] == ["classes:1-2", "first:6", "random:4:3"]
    assert chosen.provenance["count"] == 4 and chosen.provenance["content_hash"] == chosen.content_hash
    with pytest.raises(UsageError, match="no image has a class among"):
        source.with_classes("7-9")
    for text in ("7", "0,7", "7-9,7", "0-2,7"):  # what is named and not there is a slip; a range may be too wide
        with pytest.raises(UsageError, match="x: no class '7'; there are 0, 1, 2"):
            source.with_classes(text)
    assert len(source.with_classes("1-9")) == 20
    with pytest.raises(UsageError, match="x: has no class labels"):
        numbered("x", 3, labels=False).with_classes("0")
    for bad in (lambda: source.first(31), lambda: source.first(0), lambda: source.random(3, -1)):
        with pytest.raises(UsageError, match="subset"):
            bad()


def test_the_hash_is_of_the_pixels_and_their_shape():
    source = numbered("x", 12)
    assert len(source.content_hash) == 64
    assert source.content_hash == numbered("y", 12, labels=False).content_hash
    assert source.content_hash != source.first(11).content_hash
    flat = ImageSource("x", source.images.reshape(3, 1, 4, 4), None, {})
    assert flat.content_hash != source.content_hash
    strided = ImageSource("x", torch.stack([source.images, source.images], 1)[:, 0], None, {})
    assert not strided.images.is_contiguous() and strided.content_hash == source.content_hash


@pytest.mark.parametrize("shape", [(0, 1, 2, 2), (3, 2, 2, 2), (3, 1, 2, 3), (3, 2, 2)])
def test_other_shapes_are_not_images(shape):
    with pytest.raises(UsageError, match="x: "):
        ImageSource("x", torch.zeros(shape, dtype=torch.uint8), None, {})
    with pytest.raises(UsageError, match="x: labels must be int64"):
        ImageSource("x", torch.zeros((3, 1, 2, 2), dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), {})


def test_union():
    real, more = numbered("a", 2), numbered("b", 3, first=50)
    joined = union("both", [real, more])
    assert joined.images[:, 0, 0, 0].tolist() == [0, 1, 50, 51, 52] and joined.labels.tolist() == [0, 1, 0, 1, 2]
    assert joined.provenance["kind"] == "real"
    assert [part["name"] for part in joined.provenance["union"]] == ["a", "b"]
    made = ImageSource("c", real.images, None, {"kind": "synthetic"})
    assert union("u", [real, made]).provenance["kind"] == "synthetic" and union("u", [real, made]).labels is None
    with pytest.raises(UsageError, match="a is grey but c is RGB"):
        union("u", [real, numbered("c", 2, channels=3)])
    with pytest.raises(UsageError, match="at least one"):
        union("u", [])


def test_parse_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    assert parse_named("samples") == (None, "samples")
    assert parse_named("close=samples/a") == ("close", "samples/a")
    assert parse_named("sd-1.5=hf:a/b:train") == ("sd-1.5", "hf:a/b:train")
    assert parse_named("lr=0.1") == (None, "lr=0.1")
    assert parse_named("x=lr=0.1") == ("x", "lr=0.1")
    assert parse_named("runs/lr=0.1/samples") == (None, "runs/lr=0.1/samples")
    assert parse_named("digits:close") == (None, "digits:close")
    with pytest.raises(UsageError, match="expected name=path"):
        parse_named("close=")


# --- mixes


def test_shares_are_those_of_eq_5_unless_said_otherwise():
    sources = numbered("real", 10), [numbered("a", 30), numbered("b", 60)]
    assert SourceMix(*sources).shares == pytest.approx([0.1, 0.3, 0.6])
    assert SourceMix(*sources, real_fraction=0.5).shares == pytest.approx([0.5, 0.5 / 3, 1 / 3])
    assert SourceMix(*sources, weights=[3, 1]).shares == pytest.approx([0.1, 0.675, 0.225])
    assert SourceMix(*sources, real_fraction=0.2, weights=[1, 1]).shares == pytest.approx([0.2, 0.4, 0.4])
    assert SourceMix(sources[0]).shares.tolist() == [1.0]
    mix = SourceMix(*sources)
    assert mix.shares.dtype == np.float64 and mix.names == ("real", "a", "b")
    assert (mix.resolution, mix.channels, mix.classes) == (2, 1, 3)
    assert [(row["label"], row["name"], row["count"]) for row in mix.provenance] == [
        (0, "real", 10), (1, "a", 30), (2, "b", 60),
    ]  # fmt: skip
    json.dumps(mix.provenance)


@pytest.mark.parametrize(
    ("synthetic", "options", "told"),
    [
        ([numbered("real", 3)], {}, "two sources are called 'real'"),
        ([numbered("a", 3), numbered("a", 3)], {}, "two sources are called 'a'"),
        ([numbered("a", 3, size=4)], {}, "real is 2x2 but a is 4x4; pass --resolution N"),
        ([numbered("a", 3, channels=3)], {}, "real is grey but a is RGB"),
        ([numbered("a", 3)], {"real_fraction": 0.0}, "strictly between 0 and 1, got 0.0"),
        ([numbered("a", 3)], {"real_fraction": 1.0}, "strictly between 0 and 1"),
        ([numbered("a", 3)], {"real_fraction": float("nan")}, "strictly between 0 and 1"),
        ([numbered("a", 3)], {"weights": [1, 2]}, "2 weights for 1 synthetic sources"),
        ([numbered("a", 3)], {"weights": [-1]}, "weights must lie in"),
        ([numbered("a", 3)], {"weights": [float("inf")]}, "weights must lie in"),
        ([], {"real_fraction": 0.5}, "need at least one synthetic source"),
        ([], {"weights": []}, "need at least one synthetic source"),
    ],
)
def test_mixes_that_make_no_sense(synthetic, options, told):
    with pytest.raises(UsageError, match=told):
        SourceMix(numbered("real", 3), synthetic, **options)


def test_labels_need_every_source_to_have_them():
    real = numbered("real", 5)
    assert SourceMix(real, [numbered("a", 5)]).batch(0, 8, 0).labels.dtype == torch.int64
    mix = SourceMix(real, [numbered("a", 5, labels=False)])
    assert mix.classes == 0 and mix.batch(0, 8, 0).labels is None


@st.composite
def mixes(draw):
    synthetic = [numbered(f"s{index}", draw(st.integers(1, 40))) for index in range(draw(st.integers(0, 3)))]
    options = {}
    if synthetic and draw(st.booleans()):
        options["real_fraction"] = draw(st.floats(0.001, 0.999))
    if synthetic and draw(st.booleans()):
        options["weights"] = [draw(st.floats(0.01, 100)) for _ in synthetic]
    return SourceMix(numbered("real", draw(st.integers(1, 40))), synthetic, **options)


@given(mixes(), st.integers(0, 10**9), st.integers(0, 2**40), st.integers(0, 99))
def test_batches_are_cut_from_one_stream(mix, start, seed, cut):
    whole = mix.batch(start, 100, seed)
    parts = mix.batch(start, cut, seed), mix.batch(start + cut, 100 - cut, seed)
    assert torch.equal(whole.images, torch.cat([part.images for part in parts]))
    assert torch.equal(whole.source, torch.cat([part.source for part in parts]))
    assert torch.equal(whole.labels, torch.cat([part.labels for part in parts]))
    for number, source in enumerate(mix.sources):  # images and labels belong to the source they are said to come from
        chosen = whole.source == number
        assert (whole.images[chosen, 0, 0, 0] < len(source)).all()
        assert (whole.images[chosen, 0, 0, 0] % 3 == whole.labels[chosen]).all()


@given(mixes(), st.integers(1, 400))
def test_counts_follow_the_shares(mix, stop):
    """Within 1 of share * g for the real source; each further level of the split adds at most 1 (rounding 1e-3)."""
    counts = np.bincount(mix.batch(0, stop, 0).source, minlength=len(mix.sources))
    bounds = np.arange(1, len(mix.sources) + 1)
    assert (np.abs(counts - mix.shares * stop) < bounds + 1e-3).all()


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 2**32))
def test_every_image_is_used_once_an_epoch(sizes, epoch, seed):
    """With the default shares one pass over all images is one epoch of every source at once."""
    first, *others = [numbered(f"s{index}", size) for index, size in enumerate(sizes)]
    mix = SourceMix(first, others)
    total = sum(sizes)
    batch = mix.batch(epoch * total, total, seed)
    for number, size in enumerate(sizes):
        assert sorted(batch.images[batch.source == number, 0, 0, 0].tolist()) == list(range(size))


def test_seeds_and_epochs_shuffle_differently_and_a_fresh_mix_agrees():
    mix = SourceMix(numbered("real", 50), [numbered("a", 50)])
    batches = [values(mix.batch(start, 100, seed)) for start, seed in ((0, 0), (100, 0), (0, 1))]
    assert len({tuple(batch) for batch in batches}) == 3
    assert values(SourceMix(numbered("real", 50), [numbered("a", 50)]).batch(100, 100, 0)) == batches[1]
    real, synthetic = batches[0][1::2], batches[0][0::2]
    assert sorted(real) == sorted(synthetic) and real != synthetic


def test_one_real_image_among_many():
    mix = SourceMix(numbered("real", 1), [numbered("a", 200)], real_fraction=0.25)
    batch = mix.batch(12_345, 400, 0)
    assert int((batch.source == 0).sum()) == 100 and mix.batch(0, 0, 0).images.shape == (0, 1, 2, 2)


# --- classes are known by name


def named(name: str, names: list[str] | None, labels: list[int], *, hint: tuple[str, ...] | None = None) -> ImageSource:
    """A source of images that are all different, with these labels and class names."""
    images = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    classes = hint if names is None else tuple(names)
    return ImageSource(name, images, torch.tensor(labels) if labels else None, {}, None, classes)


def in_words(mix: SourceMix, count: int = 60) -> dict[str, set[str]]:
    """The class names that the images of each source carry in the mix's stream."""
    batch = mix.batch(0, count, 0)
    words: dict[str, set[str]] = {}
    for source, label in zip(batch.source.tolist(), batch.labels.tolist()):
        words.setdefault(mix.names[source], set()).add(mix.class_names[label])
    return words


def test_classes_of_sources_are_matched_by_name():
    real = named("real", ["cat", "dog", "fox"], [0, 1, 2, 1])
    made = named("made", ["dog", "fox", "owl"], [0, 1, 2, 0])
    mix = SourceMix(real, [made])
    assert mix.class_names == ("cat", "dog", "fox", "owl") and mix.classes == 4
    assert mix.class_counts == ((1, 2, 1, 0), (0, 2, 1, 1))
    assert in_words(mix) == {"real": {"cat", "dog", "fox"}, "made": {"dog", "fox", "owl"}}
    joined = union("both", [real, made])
    assert joined.class_counts == {"cat": 1, "dog": 4, "fox": 2, "owl": 1}


def test_numbers_are_names_and_only_those_that_occur_are_classes():
    mix = SourceMix(named("real", None, [5, 0, 999_999]), [named("made", None, [999_999, 2])])
    assert mix.class_names == ("0", "2", "5", "999999") and mix.class_counts == ((1, 0, 1, 1), (0, 1, 0, 1))
    assert in_words(mix) == {"real": {"0", "5", "999999"}, "made": {"2", "999999"}}


def test_folders_called_by_numbers_meet_labels_that_are_numbers(tmp_path):
    for name in ("3", "10"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("L", (2, 2)).save(tmp_path / "set" / name / "0.png")
    real = ImageSource.open(tmp_path / "set", name="real", synthetic=False)
    assert SourceMix(real, [named("made", None, [10, 3, 4])]).class_names == ("3", "4", "10")


def test_names_and_numbers_do_not_mix():
    mix = SourceMix(named("real", ["cat", "dog"], [0, 1]), [named("made", None, [0, 1])])
    assert mix.classes == 0 and mix.batch(0, 4, 0).labels is None
    assert mix.without_classes == "made has the classes 0, 1, real has cat, dog: none by the same name"


def test_one_folder_is_a_class_if_the_real_source_knows_it():
    real = named("real", ["cat", "dog"], [0, 1])
    dogs = ImageSource("made", named("x", None, [0, 0]).images, None, {}, None, ("dog",), "all in one folder, dog")
    mix = SourceMix(real, [dogs])
    assert mix.class_names == ("cat", "dog") and mix.class_counts[1] == (0, 2) and in_words(mix)["made"] == {"dog"}
    other = ImageSource("made", dogs.images, None, {}, None, ("photos",), "all in one folder, photos")
    assert SourceMix(real, [other]).without_classes == "made has none (all in one folder, photos)"
    numbers = ImageSource("made", dogs.images, None, {}, None, ("7",), "all in one folder, 7")
    assert SourceMix(named("real", None, [7, 8]), [numbers]).class_counts == ((1, 1), (2, 0))


def test_a_mix_in_the_classes_of_a_model():
    mix = SourceMix(named("real", ["cat", "fox"], [0, 1, 1]))
    other = mix.with_class_names(("fox", "owl", "cat"))
    assert other.class_counts == ((2, 0, 1),) and mix.class_counts == ((1, 2),)
    assert torch.equal(other.batch(0, 6, 0).images, mix.batch(0, 6, 0).images)
    assert in_words(other) == in_words(mix) and set(other.batch(0, 6, 0).labels.tolist()) == {0, 2}
    with pytest.raises(UsageError, match="the images have the classes cat, the model knows fox, owl"):
        mix.with_class_names(("fox", "owl"))
    with pytest.raises(UsageError, match="class labels are needed, but real has none"):
        SourceMix(numbered("real", 3, labels=False)).with_class_names(("fox",))


def test_classes_are_chosen_by_name_or_number():
    source = named("x", ["cat", "sea lion", "dog"], [0, 1, 2, 1])
    assert source.with_classes("sea lion, dog").labels.tolist() == [1, 2, 1]
    assert source.with_classes("0,dog").labels.tolist() == [0, 2]
    assert source.with_classes("1-2").class_counts == {"sea lion": 2, "dog": 1}
    with pytest.raises(UsageError, match="x: no class 'owl'; there are cat, sea lion, dog"):
        source.with_classes("cat,owl")


def test_the_hash_of_labels_is_of_the_classes_image_by_image():
    source = named("x", ["cat", "dog"], [0, 1, 1])
    assert source.labels_hash == named("y", ["ant", "dog", "cat"], [2, 1, 1]).labels_hash
    assert source.labels_hash != named("x", ["cat", "dog"], [1, 0, 1]).labels_hash
    assert source.labels_hash != named("x", ["cat", "cow"], [0, 1, 1]).labels_hash
    assert numbered("x", 3, labels=False).labels_hash is None
    with pytest.raises(UsageError, match=r"labels 0\.\.2 are not all classes"):
        named("x", ["cat", "dog"], [0, 2])


@pytest.mark.parametrize("ending", ["", ".zip", ".npz"])
def test_written_sets_keep_class_names(tmp_path, ending):
    images = numbered("x", 3).images
    path = tmp_path / f"set{ending}"
    write_images(path, [images], 3, labels=[1, 0, 1], class_names=("cat", "été"), manifest={"kind": "real"})
    source = ImageSource.open(path, name="x", synthetic=False)
    assert source.class_names == ("cat", "été") and source.labels.tolist() == [1, 0, 1]
    with open_lazily(path) as lazily:
        assert lazily.class_names == ("cat", "été") and lazily.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"set/0.png": 0, "set/1.png": 1, "set/dataset.json": [["0.png", 3], ["1.png", 4]]}, [3, 4]),
        ({"a/set/0.png": 0, "a/set/1.png": 1, "a/dataset.json": [["set/0.png", 3], ["./set/1.png", 4]]}, [3, 4]),
        (
            {"a/0.png": 0, "b/1.png": 1, "a/dataset.json": [["0.png", 3]]},
            "a/dataset.json is about a part of the images",
        ),
        ({"a/0.png": 0, "b/1.png": 1, "dataset.json": None}, "dataset.json says that there are none"),
    ],
)
def test_dataset_json_is_found_in_the_folder_around_the_images(tmp_path, files, told, pack):
    for name, content in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".png"):
            Image.new("L", (2, 2), content).save(tmp_path / "set" / name)
        else:
            (tmp_path / "set" / name).write_text(json.dumps({"labels": content}))
    path = tmp_path / "set"
    if pack:
        path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", path))
    source = ImageSource.open(path, name="x", synthetic=False)
    if isinstance(told, str):
        assert source.labels is None and told in source.unlabelled
    else:
        assert source.labels.tolist() == told and source.class_names is None
