"""``nomadiff evaluate`` and ``nomadiff info`` of detectors, as a user calls them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from standing_pair import StandingPair

from nomadiff.cli import main
from nomadiff.data.digits import read_digits
from nomadiff.data.latents import LatentSpace, write_latents
from nomadiff.data.writing import write_images
from nomadiff.errors import UsageError
from nomadiff.files import read_json
from nomadiff.metrics.detectors.digits import DigitsDetector
from nomadiff.metrics.detectors.features import feature_cache
from nomadiff.metrics.frechet import Statistics
from nomadiff.metrics.statistics_files import write_statistics
from nomadiff.workflows import evaluation_inputs
from nomadiff.workflows.evaluation_settings import parse_groups


@pytest.fixture
def samples(tmp_path: Path) -> str:
    """Fresh real digits instead of generated ones."""
    path = tmp_path / "samples.zip"
    write_images(path, [read_digits("digits:pool").images[100:400]], 300, manifest={"generator": "none"})
    return str(path)


def command(samples: str, *options: str) -> list[str]:
    """The verb on digits, unless the options say otherwise."""
    usual = {"--reference": "digits:reference", "--detector": "digits", "--device": "cpu"}
    return ["evaluate", samples, *(word for pair in usual.items() if pair[0] not in options for word in pair), *options]


def evaluate(samples: str, *options: str, out: Path) -> dict[tuple[str, str], dict]:
    assert main(command(samples, *options, "--out", str(out))) == 0
    return {(row.get("group", ""), row["metric"]): row for row in read_json(out)["rows"]}


def test_every_metric_has_its_interval_and_its_floor(samples: str, tmp_path: Path, capsys) -> None:
    out = tmp_path / "metrics.json"
    rows = evaluate(samples, "--train", "digits:pool", "--extra", "kid", "--extra", "ssim", "--by-class", out=out)
    assert rows.pop(("", "fdr"))["floor"] == 1
    names = ["fd_digits", "precision", "recall", "density", "coverage", "kd_digits", "replication"]
    names += ["ssim_pairs", "ssim_nearest", "composition_tv"]
    assert {metric for group, metric in rows if group == ""} == set(names)
    for name in names:
        row = rows["", name]
        assert row["low"] <= row["value"] <= row["high"] and isinstance(row["floor"], float), name
    assert rows["", "replication"]["value"] == 1 and rows["", "replication"]["floor"] == 0.05  # it was trained on them
    for name in (
        "precision",
        "recall",
        "density",
        "coverage",
        "kd_digits",
    ):  # and to the metrics that do not know it they are fresh
        assert rows["", name]["low"] - 0.05 < rows["", name]["floor"] < rows["", name]["high"] + 0.05
    assert {group for group, _ in rows} == {"", *"0123456789"}
    assert rows["3", "fd_digits"]["floor"] > 0 and rows["3", "count"]["value"] > 20
    shares = [row for (group, metric), row in rows.items() if group and metric == "share"]
    assert sum(row["value"] for row in shares) == pytest.approx(1)
    meta = read_json(out)["meta"]
    assert (meta["floor_count"], meta["floor_reference_count"]) == (217, 580)
    assert meta["nearest"][0]["distance"] == 0
    text = capsys.readouterr().out
    assert "interval" in text and "fresh real data" in text and "300 samples, reference 797 images" in text


def test_groups_are_named_on_the_command_line(samples: str, tmp_path: Path) -> None:
    rows = evaluate(samples, "--group", "low=0,1,2,3,4", "--group", "nine=9", out=tmp_path / "m.json")
    assert {group for group, _ in rows} == {"", "low", "nine"}
    assert rows["low", "share"]["floor"] == pytest.approx(0.5, abs=0.05)
    assert parse_groups(["a=1, 2"]) == {"a": ["1", "2"]}
    for text in ("a", "=1", "a=", "a=,"):
        with pytest.raises(UsageError, match="write a new name and its classes"):
            parse_groups([text])
    with pytest.raises(UsageError, match="new name"):
        parse_groups(["a=1", "a=2"])


def test_a_saved_reference_and_edms_give_the_same_distance(samples: str, tmp_path: Path) -> None:
    reference = tmp_path / "ref.npz"
    rows = evaluate(samples, "--save-reference", str(reference), out=tmp_path / "a.json")
    again = evaluate(samples, "--reference", str(reference), out=tmp_path / "b.json")
    assert again == rows
    with np.load(reference) as archive:
        np.savez(tmp_path / "edm.npz", mu=archive["mu"], sigma=archive["sigma"])
    alone = evaluate(samples, "--reference", str(tmp_path / "edm.npz"), out=tmp_path / "c.json")
    assert set(alone) == {("", "fd_digits")} and alone["", "fd_digits"]["floor"] is None
    assert alone["", "fd_digits"]["value"] == pytest.approx(rows["", "fd_digits"]["value"], rel=1e-9)


def test_classes_by_statistics_are_refused_before_the_work(samples: str, tmp_path: Path, capsys, monkeypatch) -> None:
    write_statistics(tmp_path / "edm.npz", Statistics.from_features(torch.randn(300, DigitsDetector().dimension)))
    monkeypatch.setattr("nomadiff.metrics.reference.ReferenceSet.read", lambda *_: pytest.fail("scored"))
    for by in (["--by-class"], ["--group", "even=0,2"]):
        assert main(command(samples, "--reference", str(tmp_path / "edm.npz"), *by)) == 2
        assert "need the reference's images" in capsys.readouterr().err


def test_what_would_not_be_scored_is_refused(samples: str, tmp_path: Path, capsys, monkeypatch) -> None:
    """kid was left out without a word, the level refused at the end, and the page replaced a table of its name."""
    write_statistics(tmp_path / "edm.npz", Statistics.from_features(torch.randn(300, DigitsDetector().dimension)))
    monkeypatch.setattr("nomadiff.metrics.reference.ReferenceSet.read", lambda *_: pytest.fail("scored"))
    for words, told in (
        (["--reference", str(tmp_path / "edm.npz"), "--extra", "kid"], "--extra kid needs real images"),
        (["--interval", "95"], "interval must lie between 0 and 1"),
        (["--out", str(tmp_path / "result.html")], "give the name of the JSON file, such as result.json"),
    ):
        assert main(command(samples, *words)) == 2
        assert told in capsys.readouterr().err


def test_features_are_computed_once(samples: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    rows = evaluate(samples, out=tmp_path / "a.json")
    assert len(list(feature_cache().iterdir())) == 2

    def refuse(self: object, images: torch.Tensor) -> torch.Tensor:
        assert len(images) == 1, "it looks at one image, to see whether it can"
        return torch.zeros(1, 32)

    monkeypatch.setattr("nomadiff.metrics.detectors.digits.DigitsDetector.__call__", refuse)
    assert evaluate(samples, out=tmp_path / "b.json") == rows


def test_lpips_is_asked_for_by_name(samples: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stand:
        name = "lpips_alex"

        def __init__(self, net: str, **options: object) -> None:
            assert net == "alex" and options["trunk"] == "a.pth" and options["heads"] == "b.pth"

        def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x.float() - y.float()).abs().mean((1, 2, 3))

    monkeypatch.setattr(evaluation_inputs, "LPIPS", Stand)
    options = ["--train", "digits:pool", "--extra", "lpips", "--lpips-weights", "a.pth", "b.pth"]
    rows = evaluate(samples, *options, out=tmp_path / "m.json")
    assert rows["", "lpips_alex_nearest"]["value"] == 0 < rows["", "lpips_alex_nearest"]["floor"]
    assert rows["", "lpips_alex_pairs"]["low"] is not None


@pytest.mark.slow
def test_two_processes_share_the_detectors_work(
    two_processes: StandingPair, samples: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(samples, out=tmp_path / "one.json")
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    said = two_processes(*command(samples, "--out", str(tmp_path / "two.json")))
    assert said.count("300 samples") == 1
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--extra", "fid"], 2, "kid"),
        (["--k", "400"], 2, "samples: 300 images; precision and recall with k = 400"),
        (["--k", "0"], 2, "k must be at least 1"),
        (["--interval", "95"], 2, "between 0 and 1"),
        (["--by-class", "--detector", "pixels"], 2, "give --classifier"),
        (["--group", "odd=1,11"], 2, "no class '11'"),
        (["--group", "odd"], 2, "animals=bird,cat"),
        (["--copies", "digits"], 2, "--copies without --train"),
        (["--copies-weights", "a.pt"], 2, "--copies-weights without --copies"),
        (["--classifier-weights", "a.pt"], 2, "--classifier-weights without --classifier"),
        (["--lpips-weights", "a.pth", "b.pth"], 2, "--lpips-weights without --extra lpips"),
        (["--classifier", "pixels"], 2, "no classes"),
        (["--detector", "cifar10-resnet56", "--detector-weights", "absent.th"], 1, "absent.th: no such weight file"),
        (["--train", "digits:close"], 2, "--allow-synthetic-as-real"),
        (["--reference", "digits:pool", "--resolution", "-1"], 2, "resolution"),
    ],
)
def test_wrong_use_is_told_in_one_line(samples: str, tmp_path: Path, capsys, options, code, says, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    assert main(command(samples, *options)) == code
    errors = capsys.readouterr().err
    assert says in errors and errors.count("\n") == 1 and "Traceback" not in errors
    assert not (tmp_path / "metrics.json").exists()


def test_images_of_other_kinds_are_told_before_the_work(samples: str, tmp_path: Path, capsys) -> None:
    colour = torch.zeros(50, 3, 8, 8, dtype=torch.uint8)
    write_images(tmp_path / "colour.zip", [colour], 50, manifest={})
    write_images(tmp_path / "few.zip", [colour[:4, :1]], 4, manifest={})
    write_images(tmp_path / "constant.npz", [colour[:, :1]], 50, manifest={"kind": "real"})
    (tmp_path / "cut.zip").write_bytes(Path(samples).read_bytes()[:1000])
    for name, reference, code, says in [
        ("colour.zip", "digits:reference", 2, "samples have images of (3, 8, 8), reference of (1, 8, 8)"),
        ("few.zip", "digits:reference", 2, "samples: 4 images; precision and recall with k = 5 need more than 5"),
        ("samples.zip", str(tmp_path / "constant.npz"), 2, "constant features"),
        ("cut.zip", "digits:reference", 1, "cut.zip"),
    ]:
        options = ["--reference", reference, "--detector", "pixels", "--out", str(tmp_path / "m.json")]
        assert main(command(str(tmp_path / name), *options)) == code
        errors = capsys.readouterr().err
        assert says in errors and errors.count("\n") == 1, errors


def test_info_describes_a_detector_and_its_accuracy(tmp_path: Path, capsys) -> None:
    pool = read_digits("digits:pool")
    labelled = str(tmp_path / "labelled.zip")
    write_images(labelled, [pool.images], 1000, labels=pool.labels, manifest={"kind": "real"})
    assert main(["info", "digits", "--accuracy-on", labelled]) == 0
    text = capsys.readouterr().out
    assert "fd_digits" in text and "0, 1, 2" in text and f"of 1,000 images ({labelled})" in text
    assert float(text.split("accuracy:")[1].split("%")[0]) > 97
    write_images(tmp_path / "plain.zip", [pool.images], 1000, manifest={"kind": "real"})
    for arguments, says in [
        (["digits", "--accuracy-on", str(tmp_path / "plain.zip")], "no labels"),
        (["pixels", "--accuracy-on", labelled], "no classes"),
        ([labelled, "--accuracy-on", labelled], "is no detector"),
    ]:
        assert main(["info", *arguments]) == 2
        assert says in capsys.readouterr().err


def test_latents_are_not_judged_as_images(tmp_path: Path, capsys) -> None:
    path = tmp_path / "latents.zip"
    write_latents(path, [torch.zeros(8, 8, 4, 4)], 8, space=LatentSpace())
    assert main(command(str(path))) == 2
    assert "latents.zip holds latents where images are needed" in capsys.readouterr().err


def test_training_images_in_the_reference_are_told(samples: str, tmp_path: Path, capsys) -> None:
    pool, held_out = read_digits("digits:pool").images, read_digits("digits:reference").images
    mixed, train = tmp_path / "mixed.zip", tmp_path / "train.zip"
    write_images(train, [pool], len(pool), manifest={"kind": "real"})
    write_images(mixed, [held_out[:150], pool[:30]], 180, manifest={"kind": "real"})
    out = tmp_path / "metrics.json"
    rows = evaluate(samples, "--train", str(train), "--reference", str(mixed), out=out)
    assert rows["", "replication"]["value"] == 1.0, "the samples are training images"
    assert read_json(out)["meta"]["reference_in_train"] == 30
    assert "30 of 180 reference images are training images and were left out" in capsys.readouterr().err
    for extra in ([], ["--dry-run"]):
        wrong = command(samples, "--train", str(train), "--reference", str(train), "--out", str(out), *extra)
        assert main(wrong) == 2
        assert "--allow-train-as-reference" in capsys.readouterr().err
    rows = evaluate(samples, "--train", str(train), "--reference", str(train), "--allow-train-as-reference", out=out)
    assert ("", "replication") not in rows and ("", "fd_digits") in rows
    assert "replication cannot be measured" in capsys.readouterr().err


def test_training_vectors_among_the_real_ones_are_told(tmp_path: Path, capsys) -> None:
    generator = np.random.default_rng(0)
    train, real = (generator.normal(size=(100, 16)) for _ in range(2))
    for name, array in {"train": train, "fake": train[:80] + 1e-6, "real": np.concatenate([real, train[:8]])}.items():
        np.save(tmp_path / f"{name}.npy", array)
    paths = {name: str(tmp_path / f"{name}.npy") for name in ("train", "fake", "real")}
    out = tmp_path / "table.json"
    arguments = ["metrics", paths["real"], paths["fake"], "--train", paths["train"], "--out", str(out)]
    assert main(arguments) == 0
    table = read_json(out)
    assert table["meta"]["real_in_train"] == 8
    assert {row["metric"]: row["value"] for row in table["rows"]}["replication"] == 1.0
    assert "8 of 108 real vectors are training vectors" in capsys.readouterr().err
    assert main(["metrics", paths["train"], *arguments[2:]]) == 2
