"""Auditing files: what is found is named by file, and written where it was asked for."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import nomadiff as nd
from nomadiff.data.digits import blurred_and_shifted, read_digits
from nomadiff.errors import UsageError


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """scraped/ has 150 digits, the first 50 in the style of made/, and two copies; trusted/ has other digits."""
    root = tmp_path_factory.mktemp("audit")
    pool = read_digits("digits:pool").images
    style = blurred_and_shifted(pool[500:])
    scraped = torch.cat([style[:50], pool[:100]])
    for name, images in (("scraped", scraped), ("made", style[50:250]), ("trusted", pool[100:300])):
        (root / name / "a").mkdir(parents=True)
        for i, image in enumerate(images):
            Image.fromarray(image[0].numpy()).save(root / name / "a" / f"{i:03}.png")
    for copy, of in (("scraped/a/copy.png", "scraped/a/060.png"), ("scraped/a/taken.png", "made/a/007.png")):
        (root / copy).write_bytes((root / of).read_bytes())
    return root


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize("with_trusted", [True, False])
def test_files_are_named_in_tables_and_in_a_page_with_pictures(folders, tmp_path, with_trusted: bool) -> None:
    trusted = str(folders / "trusted") if with_trusted else None
    found = nd.audit(
        str(folders / "scraped"),
        [f"sd={folders / 'made'}"],
        trusted=trusted,
        detector="digits",
        out=tmp_path / "x.json",
    )
    pairs = [(row["image"], row["of"], row["doubles"], row["kind"]) for row in rows_of(tmp_path / "x-duplicates.csv")]
    assert pairs == [
        ("a/060.png", "folder", "a/copy.png", "identical"),
        ("a/taken.png", "sd", "a/007.png", "identical"),
    ]
    images = rows_of(tmp_path / "x-images.csv")
    assert len(images) == 152
    made = {f"a/{i:03}.png" for i in range(50)} | {"a/taken.png"}
    assert {row["image"] for row in images[:30]} <= made
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "a/060.png and a/copy.png: identical" in page and "Images that look most like sd" in page
    assert re.search(r"a/\d+\.png: (1\.00|0\.\d\d)</figcaption>", page) and "<script" not in page
    assert (str(folders / "trusted") in page) == with_trusted, "what the answer depends on"
    row = rows_of(tmp_path / "x.csv")[0]
    assert (row["share"] == "") != with_trusted
    assert found.name_of(60) == "a/060.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "x-duplicates.csv", "x-duplicates.json", "x-images.csv", "x-images.json", "x.csv", "x.html", "x.json",
    ]  # fmt: skip


@pytest.mark.parametrize("taken", ["x-images.csv", "x.html", "x-duplicates.json"])
def test_what_cannot_be_written_is_told_before_the_work(folders, tmp_path, taken: str) -> None:
    (tmp_path / taken).mkdir()
    with pytest.raises(nd.NomadiffError, match=re.escape(taken)):
        nd.audit("absent", ["absent"], out=tmp_path / "x.json")
    with pytest.raises(UsageError, match=r"give the name of the JSON file"):
        nd.audit("absent", ["absent"], out=tmp_path / "x.csv")
    with pytest.raises(UsageError, match=r"give the name of the JSON file, such as y\.json"):
        nd.audit("absent", ["absent"], out=tmp_path / "y.html")
