"""Several sets in one table: paired differences, subjects, the list of likely copies, the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import noise_images
from PIL import Image

from nomadiff.cli import main
from nomadiff.cli.lines import comparison_lines
from nomadiff.data.digits import blurred_and_shifted, read_digits
from nomadiff.data.image_source import ImageSource
from nomadiff.data.metadata import metadata_column
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_json
from nomadiff.metrics.detectors import load_detector
from nomadiff.metrics.intervals import jackknife_interval, random_groups
from nomadiff.metrics.reference import ReferenceSet
from nomadiff.workflows.evaluate import evaluate_files, evaluate_sets
from nomadiff.workflows.evaluation_cost import evaluation_cost
from nomadiff.workflows.evaluation_report import evaluation_report, nearest_table, notes_on, write_evaluation
from nomadiff.workflows.held_out import HeldOut

DIGITS = {"detector": "digits", "device": "cpu"}


def source(name: str, images: torch.Tensor) -> ImageSource:
    return ImageSource(name, images, None, {"kind": "synthetic"})


@pytest.fixture(scope="module")
def pool() -> torch.Tensor:
    return read_digits("digits:pool").images


@pytest.fixture
def sets(pool: torch.Tensor, tmp_path: Path) -> list[str]:
    """Fresh real digits, shifted ones, and the shifted ones' own twins with a little noise."""
    noise = torch.randint(-6, 7, (200, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    shifted = blurred_and_shifted(pool[:200])
    made = {"real": pool[200:400], "shifted": shifted, "twin": (shifted + noise).clamp(0, 255).to(torch.uint8)}
    for name, images in made.items():
        write_images(tmp_path / f"{name}.zip", [images], len(images), manifest={})
    return [str(tmp_path / f"{name}.zip") for name in made]


def by_name(rows: list[dict]) -> dict[tuple[str, str], dict]:
    return {(row["set"], row["metric"]): row for row in rows}


def test_several_sets_are_one_table_with_paired_differences(sets: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "compared.json"
    words = ["evaluate", sets[1], f"noisy={sets[2]}", sets[0], "--reference", "digits:reference"]
    words += ["--detector", "digits"]
    assert main([*words, "--extra", "kid", "--device", "cpu", "--out", str(out)]) == 0
    rows = by_name(read_json(out)["rows"])
    assert list(dict.fromkeys(name for name, _ in rows)) == ["shifted", "noisy", "real"]
    alone = {row["metric"]: row for row in evaluate_files(sets[2], "digits:reference", extra=["kid"], **DIGITS).rows}
    for metric, row in alone.items():  # every figure is what the set scores by itself
        assert {name: rows["noisy", metric][name] for name in row} == row
        assert rows["shifted", metric]["difference"] is None
        found = rows["real", metric]["difference"]
        assert found == pytest.approx(rows["real", metric]["value"] - rows["shifted", metric]["value"])
    for metric in ("fd_digits", "kd_digits", "precision", "coverage"):
        real, noisy = rows["real", metric], rows["noisy", metric]
        assert not real["difference_low"] <= 0 <= real["difference_high"]
        if metric in ("precision", "coverage"):
            continue
        width = noisy["difference_high"] - noisy["difference_low"]  # twins move together: a pair is known better
        assert width < 0.5 * (noisy["high"] - noisy["low"]), metric
    text = capsys.readouterr().out
    assert "less shifted" in text and "* the interval leaves out 0" in text and "fresh real data" in text
    page = (tmp_path / "compared.html").read_text()
    assert "Difference from shifted" in page and "3 sets of generated images compared" in page
    assert read_json(out)["meta"]["count"] == {"shifted": 200, "noisy": 200, "real": 200}


def test_one_set_alone_stays_as_it_is(sets: list[str], tmp_path: Path) -> None:
    table = evaluate_files(sets[0], "digits:reference", **DIGITS)
    assert set(table.rows[0]) == {"metric", "value", "low", "high", "floor"} and table.meta["count"] == 200
    assert evaluate_files(sets[:1], "digits:reference", **DIGITS).rows == table.rows


def test_a_difference_of_equals_is_rarely_sure() -> None:
    """Two sets of one distribution, and a reference of forty that favours neither but by chance."""
    random = np.random.default_rng(0)

    class Plain:
        name, version, sha256, dimension = "plain", "1", "", 4

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).float()

    def images(count: int, spread: float = 30) -> torch.Tensor:
        return torch.from_numpy(random.normal(128, spread, (count, 1, 2, 2)).clip(0, 255).astype(np.uint8))

    sure = {"with": 0, "without": 0}
    for _ in range(80):
        against = ReferenceSet(images(60), detector=Plain())
        one, other = images(400, 27), images(400, 33)  # equally far from the truth, one inside of it and one outside
        scores = [against.score(each, groups=True) for each in (one, other)]
        moved = [against.reference_left_out(against.read(each)[0])["fd_plain"] for each in (one, other)]
        value = scores[1].values["fd_plain"] - scores[0].values["fd_plain"]
        samples = scores[1].left_out["fd_plain"] - scores[0].left_out["fd_plain"]
        for kind, more in (("with", [moved[1] - moved[0]]), ("without", [])):
            low, high = jackknife_interval(value, samples, 0.95, *more)
            sure[kind] += not low <= 0 <= high
    assert sure["with"] <= 8 < sure["without"]


def test_sets_are_told_apart_by_their_folders(sets: list[str], tmp_path: Path) -> None:
    for folder, path in zip(("dm", "casd"), sets):
        (tmp_path / folder).mkdir()
        Path(path).rename(tmp_path / folder / "samples.zip")
    given = [str(tmp_path / folder / "samples.zip") for folder in ("dm", "casd")]
    table = evaluate_files(given, "digits:reference", interval=None, **DIGITS)
    assert list(dict.fromkeys(row["set"] for row in table.rows)) == ["dm/samples", "casd/samples"]
    with pytest.raises(UsageError, match="two sets are called 'x': name them"):
        evaluate_files([f"x={each}" for each in given], "digits:reference", **DIGITS)
    with pytest.raises(UsageError, match="at least one set"):
        evaluate_files([], "digits:reference", **DIGITS)


def test_sets_of_other_sizes_are_said(pool: torch.Tensor) -> None:
    found = evaluate_sets([source("a", pool[:100]), source("b", pool[100:300])], "digits:reference", **DIGITS)
    assert "not of one size (a 100, b 200)" in notes_on(found)[-1]
    row = by_name(found.table.rows)["b", "fd_digits"]
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    assert "floor_count" not in found.table.meta  # each size has its own
    printed = comparison_lines(found.table.rows).splitlines()
    assert printed[1].startswith("fd_digits") and printed[1].endswith("  -")
    alike = evaluate_sets([source("a", pool[:100]), source("b", pool[100:200])], "digits:reference", **DIGITS)
    floor = by_name(alike.table.rows)["a", "fd_digits"]["floor"]
    assert comparison_lines(alike.table.rows).splitlines()[1].endswith(f"  {floor:.4g}")
    large = source("c", torch.zeros(50, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(UsageError, match="a have images of .1, 8, 8., c of .1, 16, 16."):
        evaluate_sets([source("a", pool[:100]), large], "digits:reference", **DIGITS)


def test_too_few_images_for_the_dimension_are_said(pool: torch.Tensor) -> None:
    found = evaluate_sets(source("a", pool[:50]), "digits:reference", detector="pixels", device="cpu")
    assert [note for note in notes_on(found) if "few for 64 dimensions (a 50)" in note and "\n" not in note]


def test_likely_copies_are_listed_and_shown(pool: torch.Tensor, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for index in range(120):
        Image.fromarray(pool[index, 0].numpy()).save(folder / f"scan{index:03}.png")
    made = torch.cat([pool[500:560], pool[40:42]])
    for several in (False, True):
        samples = [source("dm", made), source("casd", pool[600:660])] if several else source("dm", made)
        found = evaluate_sets(samples, "digits:reference", train=str(folder), **DIGITS)
        files = write_evaluation(found, tmp_path / f"{several}.json", "nomadiff evaluate")
        with files[2].open() as handle:
            rows = list(csv.DictReader(handle))
        assert [(row["sample"], row["train_file"], float(row["ratio"])) for row in rows[:2]] == [
            ("60", "scan040.png", 0),
            ("61", "scan041.png", 0),
        ]
        assert rows[0]["replicates"] == "True" and len(rows) == (122 if several else 62)
        ratios = [float(row["ratio"]) for row in rows[:62]]
        assert ratios == sorted(ratios)
        pictures = [path.name for path in files[3:]]
        assert pictures == (["True-nearest-dm.png", "True-nearest-casd.png"] if several else ["False-nearest.png"])
        with Image.open(files[3]) as picture:
            shown = np.asarray(picture.convert("L"))
        side = 8 * 8  # enlarged eight times
        assert (shown[:side, :side] == shown[:side, side + 8 : 2 * side + 8]).all()  # a copy beside its original
        page = files[1].read_text()
        assert "scan040.png" in page and "Yoon et al. 2023" in page and "Nearest training images" in page
    assert "set" in nearest_table(found).fields


def folder_of_people(folder: Path, people: int, first: int, each: int = 5, kind: str = "csv") -> str:
    """Images of people in folders by camera, nearly the same of each; the metadata say whose."""
    random = np.random.default_rng(first)
    (folder / "camera").mkdir(parents=True)
    rows = []
    for person in range(first, first + people):
        face = np.random.default_rng(person).integers(40, 216, (8, 8))
        for shot in range(each):
            name = f"camera/p{person}-{shot}.png"
            Image.fromarray((face + random.integers(-3, 4, (8, 8))).astype(np.uint8)).save(folder / name)
            rows.append({"file_name": name, "person": f"person {person}", "age": person})
    if kind == "csv":
        with (folder / "metadata.csv").open("w", newline="") as handle:
            writer = csv.DictWriter(handle, ["file_name", "person", "age"])
            writer.writeheader()
            writer.writerows(rows)
    else:
        (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_nobody_is_compared_with_themselves(tmp_path: Path, kind: str, capsys) -> None:
    reference = folder_of_people(tmp_path / "reference", 30, 0, kind=kind)
    train = folder_of_people(tmp_path / "train", 12, 20, kind=kind)  # ten of them are in the reference too
    fresh = folder_of_people(tmp_path / "made", 20, 100)
    words = ["evaluate", fresh, "--reference", reference, "--detector", "pixels", "--device", "cpu", "--out"]
    tables = {}
    for by in ((), ("--group-by", "person")):
        out = tmp_path / f"{len(by)}.json"
        assert main([*words, str(out), "--train", train, *by, "--allow-train-as-reference"]) == 0
        tables[len(by)] = read_json(out)
    floors = {by: {row["metric"]: row["floor"] for row in table["rows"]} for by, table in tables.items()}
    assert floors[2]["fd_pixels"] > 5 * floors[0]["fd_pixels"] and floors[2]["coverage"] < 0.5 < floors[0]["coverage"]
    meta = tables[2]["meta"]
    assert (meta["subjects"], meta["group_by"]) == (30, "person")
    assert meta["reference_of_train_subjects"] + meta["reference_in_train"] == 50
    assert "left out" not in capsys.readouterr().err.replace("were left out where", "")  # metadata are no strange file
    assert main([*words, str(tmp_path / "d.json"), "--train", train, "--group-by", "age", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "age in reference: 30" in text and "age in train: 12" in text and "cost: about" in text
    assert "start and report" in text and "pairs" not in text


def test_groups_of_one_subject_have_no_floor(tmp_path: Path) -> None:
    reference = folder_of_people(tmp_path / "reference", 12, 0, each=8)
    made = folder_of_people(tmp_path / "made", 12, 100, each=8)
    settings = {"classifier": "digits", "by_class": True, "group_by": "person", "device": "cpu", "k": 3}
    settings["detector"] = "pixels"
    rows = evaluate_files(made, reference, **settings).rows
    classes = {row["group"]: row for row in rows if row["group"] and row["metric"] == "fd_pixels" and row["value"]}
    assert classes  # whether a class holds several people or one, it is scored, with a floor or without


def test_halves_and_studies_know_subjects_too(tmp_path: Path) -> None:
    reference = folder_of_people(tmp_path / "reference", 12, 0)
    held_out = HeldOut(reference=reference, group_by="person")
    model = SimpleNamespace(image_shape=(1, 8, 8), device="cpu")
    found = held_out.open(model, train=folder_of_people(tmp_path / "train", 12, 8))
    assert found.meta["subjects"] == 12 and found.subjects.tolist() == [index // 5 for index in range(60)]
    assert found.meta["reference_of_train_subjects"] + found.meta["reference_in_train"] == 20


def test_metadata_that_do_not_say_are_refused(tmp_path: Path) -> None:
    folder = Path(folder_of_people(tmp_path / "a", 3, 0))

    def opened(path: Path | str = folder) -> ImageSource:
        return ImageSource.open(str(path), name="reference", synthetic=False)

    assert metadata_column(opened(), "person")[4:6] == ["person 0", "person 1"]
    with pytest.raises(UsageError, match=r"no column 'patient' \(columns: age, file_name, person\)"):
        metadata_column(opened(), "patient")
    with pytest.raises(UsageError, match="digits:pool: no 'person' of its images is known"):
        metadata_column(opened("digits:pool"), "person")
    lines = (folder / "metadata.csv").read_text().splitlines()
    (folder / "metadata.csv").write_text("\n".join(lines[:-2]))
    with pytest.raises(DataError, match="2 of 15 images have no 'person' in the metadata: camera/p2-3.png"):
        metadata_column(opened(), "person")
    (folder / "metadata.csv").unlink()
    with pytest.raises(UsageError, match=r"holds no metadata.csv or metadata.jsonl to read 'person' from"):
        metadata_column(opened(), "person")
    names = opened().names
    rows = [json.dumps({"file_name": name, "text": "a\u2028b\x85c"}, ensure_ascii=False) for name in names]
    (folder / "metadata.jsonl").write_text("\r\n".join(rows), encoding="utf-8")
    assert metadata_column(opened(), "text") == ["a\u2028b\x85c"] * len(names)
    for damaged in ("[1]\n", "{", "\x80"):
        (folder / "metadata.jsonl").write_bytes(damaged.encode("latin-1"))
        with pytest.raises(DataError, match="metadata.jsonl"):
            metadata_column(opened(), "person")


def test_groups_by_statistics_are_refused(pool: torch.Tensor, tmp_path: Path) -> None:
    write_images(tmp_path / "a.zip", [pool[:50]], 50, manifest={})
    np.savez(tmp_path / "edm.npz", mu=np.zeros(64), sigma=np.eye(64))
    with pytest.raises(UsageError, match="--group-by needs reference images"):
        evaluate_files(str(tmp_path / "a.zip"), str(tmp_path / "edm.npz"), group_by="person", device="cpu")


def test_the_page_of_statistics_has_no_floor(pool: torch.Tensor, tmp_path: Path) -> None:
    np.savez(tmp_path / "edm.npz", mu=np.zeros(64), sigma=np.eye(64))
    found = evaluate_sets(source("a", pool[:80]), str(tmp_path / "edm.npz"), detector="pixels", device="cpu")
    assert [row["metric"] for row in found.table.rows] == ["fd_pixels"]
    assert "judged by statistics" in evaluation_report(found).html()


def test_groups_of_samples_are_the_same_in_every_set() -> None:
    assert (random_groups(200) == random_groups(200)).all()  # what pairs the differences


def test_the_cost_counts_pairs_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are compared: of neighbours among samples and fresh real images, of each with its nearest one."""
    monkeypatch.setattr("nomadiff.workflows.evaluation_cost._seconds", lambda work: 8.0 * isinstance(work(), dict))
    detector, few = load_detector("pixels"), noise_images(16, 0)

    def told(**options: Any) -> str:
        return evaluation_cost(detector, few, [400], 400, 0, intervals=False, **options)

    assert "pairs" not in told()
    assert "pairs 20 min" in told(ssim=True)  # 1,200: half of 400 samples and of 200 fresh ones, ten times
