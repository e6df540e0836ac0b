"""Sources know where they came from; mixes deal them out in exact shares, without memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nomadiff.data.sources import ImageSource, SourceMix, parse_named, union
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
    }
    json.dumps(source.provenance)


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
    for options in ({"subset": "firts:3"}, {"classes": "x"}):
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
        source.with_classes("7")
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
