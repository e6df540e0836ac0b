"""Verbs end with their verdict in words and a command to go on with; with --json they print one JSON object."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from factories import noise_images

from nomadiff.cli import _parsed, build_app, main
from nomadiff.cli.answer import Answer, facts, remember
from nomadiff.cli.config_file import config_reader, split_config
from nomadiff.cli.next_steps import after_audit, after_comparison, after_evaluation, after_loops
from nomadiff.data.digits import read_digits
from nomadiff.data.mix_spec import MixSpec
from nomadiff.data.writing import write_images
from nomadiff.metrics.recommendation import Step
from nomadiff.tables import Table, read_table
from nomadiff.workflows.comparison import Comparison
from nomadiff.workflows.evaluate import EvaluationSettings, evaluate_sets
from nomadiff.workflows.evaluation_verdict import verdict_on

SMALL = ["--preset", "digits", "--budget", "64", "--batch", "32", "--warmup", "32", "--device", "cpu", "--workers", "1"]
STUDY = [
    "--real",
    "digits:pool",
    "--synthetic",
    "made=digits:close",
    "--reference",
    "digits:reference",
    "--count",
    "40",
]


def next_of(text: str) -> list[str]:
    """The command of the last line, which must be one that the command line reads."""
    last = text.rstrip().splitlines()[-1]
    assert last.startswith("next: "), last
    words = shlex.split(last.removeprefix("next: "))
    assert words[0] == "nomadiff"
    read(words[1:])
    return words[1:]


def read(words: list[str]) -> None:
    """As the command line reads it, options of a file too."""
    rest, config = split_config(words)
    app = build_app()
    app.config = () if config is None else (config_reader(config),)
    _parsed(app, rest)


@pytest.fixture
def begun(tmp_path, monkeypatch) -> None:
    """A place where a comparison and loops lie."""
    monkeypatch.chdir(tmp_path)
    for name, more in (("study", 'synthetic = ["close=digits:close"]\nseeds = [7]\n'), ("loops", "")):
        (tmp_path / name).mkdir()
        options = 'real = "digits:pool"\nreference = "digits:reference"\n'
        (tmp_path / name / "command.toml").write_text(options + more)


def test_an_answer_ends_with_its_verdict_and_what_to_do() -> None:
    answer = Answer(
        text="a", files={"report": Path("r.html")}, verdict=["Yes."], next=("sample", Path("a b"), "--count", "3")
    )
    assert answer.to_text().splitlines() == ["a", "report:  r.html", "Yes.", "next:    nomadiff sample 'a b' --count 3"]


def test_an_answer_as_json_has_the_tables_own_fields() -> None:
    table = Table([{"metric": "fd", "value": float("nan")}], {"command": "c"})
    answer = Answer(text="words", value=table, verdict=["Yes."], files={"table": Path("t.json")})
    found = json.loads(answer.to_json())
    assert found == {
        "meta": {"command": "c"},
        "rows": [{"metric": "fd", "value": None}],
        "files": {"table": "t.json"},
        "verdict": ["Yes."],
    }
    assert json.loads(Answer().to_json()) == {}


def test_facts_are_names_and_values() -> None:
    text = "run:         a: b\nimages:      one\nimages:      two\n  beside it"
    assert facts(text) == {"run": "a: b", "images": ["one", "two"], "notes": "beside it"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    for name, seed in (("real", 0), ("fake", 1)):
        np.save(folder / f"{name}.npy", np.random.default_rng(seed).normal(size=(40, 3)))
    write_images(folder / "images", [noise_images(30, 0)], 30, manifest={"kind": "real"})
    rows = [
        {"method": method, "source": source, "seed": seed, "images_seen": 9, "fd_digits": value + seed, "recall": 0.5}
        for method, source, value in (("dm", "", 10.0), ("casd", "made", 5.0))
        for seed in range(3)
    ]
    Table(rows, {"evaluation": {"detector": "digits"}}).write(folder / "metrics.json")
    return folder


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ("presets", "rows"),
        ("metrics {0}/real.npy {0}/fake.npy", "rows"),
        ("table {0}/metrics.json", "rows"),
        ("verdict {0}/metrics.json", "rows"),
        ("info {0}/images", "images"),
        ("info pixels", "detector"),
        ("import --list", "denoisers"),
        ("reproduce", "recipes"),
        (
            "compare --real digits:pool --synthetic digits:close --reference digits:reference --out {0}/no --dry-run",
            "models",
        ),
        ("train --real digits:pool --out {0}/no --dry-run", "budget"),
        ("evaluate digits:close --reference digits:reference --detector digits --dry-run", "samples"),
        ("loop --real digits:pool --reference digits:reference --detector digits --out {0}/no --dry-run", "loop"),
    ],
)
def test_json_is_all_there_is_on_standard_output(files, command, field, capsys, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*command.format(files).split(), "--json"]) == 0
    assert field in json.loads(capsys.readouterr().out)
    assert not list(tmp_path.iterdir())  # metrics.json, which metrics writes by default


def test_words_beside_the_answer_go_to_standard_error(files, capsys) -> None:
    command = ["train", "--real", "digits:pool", "--out", str(files / "no"), "--dry-run"]
    assert main(command) == 0
    assert "method: dm" not in capsys.readouterr().err
    assert main([*command, "--synthetic", "made=digits:close", "--json"]) == 0
    printed = capsys.readouterr()
    json.loads(printed.out)
    assert "preset: digits, which suits these images" in printed.err


def test_compare_ends_with_its_verdict_and_a_command_that_works(tmp_path, capsys) -> None:
    out = tmp_path / "study"
    assert (
        main(
            [
                "compare",
                *STUDY,
                "--method",
                "dm",
                "sda",
                *SMALL,
                "--detector",
                "digits",
                "--seeds",
                "0",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "yet a model" in printed and str(out / "report.html") in printed
    words = next_of(printed)
    assert words[:3] == ["compare", "--config", str(out / "command.toml")] and words[-2:] == ["--budget", "256"]
    assert main(["verdict", str(out)]) == 0
    assert next_of(capsys.readouterr().out) == words
    more = ["compare", "--config", str(out / "command.toml"), "--out", str(out), "--seeds", "0", "1", "--json"]
    assert main(more) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["seed"] for row in found["rows"]} == {0, 1} and found["next"].startswith("nomadiff compare")
    assert "yet a model" in found["verdict"][0]


def test_a_study_is_repeated_by_the_verb_that_began_it(tmp_path) -> None:
    mix = MixSpec(real="digits:pool", synthetic=("close=digits:close",))
    comparison = Comparison(mix=mix, reference="digits:reference", out=tmp_path, preset="digits", seeds=(0, 1))
    remember(["demo", "--out", str(tmp_path)], as_json=False)
    try:
        assert after_comparison(comparison, Step("seeds", seeds=4))[0] == "demo"  # its file is not written yet
        remember(["verdict", str(tmp_path)], as_json=False)
        assert after_comparison(comparison, Step("seeds", seeds=4))[0] == "compare"
        (tmp_path / "command.toml").write_text("# nomadiff demo --plugin mine --config command.toml --out FOLDER\n")
        assert after_comparison(comparison, Step("seeds", seeds=4))[:4] == ["demo", "--plugin", "mine", "--config"]
    finally:
        remember([], as_json=False)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Step("use", ("casd", "close")), "sample study/runs/casd-close-seed3 --count 1000 --out samples.zip"),
        (Step("use", ("dm", "")), "sample study/runs/dm-seed3 --count 1000 --out samples.zip"),
        (Step("seeds", seeds=5), "compare --config study/command.toml --out study --seeds 3 1 0 2 4"),
        (Step("longer"), "compare --config study/command.toml --out study-longer --budget 512"),
    ],
)
def test_what_comes_after_a_comparison(step, words, begun) -> None:
    comparison = Comparison(
        mix=MixSpec(real="digits:pool", synthetic=("close=digits:close",)),
        reference="digits:reference",
        out=Path("study"),
        preset="digits",
        seeds=(3, 1),
        changes={"budget": 128},
    )
    found = after_comparison(comparison, step)
    assert " ".join(map(str, found)) == words
    read(list(map(str, found)))


def test_evaluate_ends_with_its_verdict_and_asks_for_what_is_missing(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "digits:style", "--reference", "digits:reference", "--detector", "digits", "--device", "cpu"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "times as far from the reference as fresh real images" in printed
    assert "Whether they copy training images is not known" in printed
    assert next_of(printed)[-2:] == ["--train", "TRAINING_IMAGES"]
    copies = tmp_path / "copies"
    pool = read_digits("pool").images[:300]
    write_images(copies, [pool], 300, manifest={"generator": "a copier"})
    assert main([*command[:1], str(copies), *command[2:], "--train", "digits:pool"]) == 0
    printed = capsys.readouterr().out
    assert "The samples copy: 100% repeat a training image" in printed
    assert next_of(printed)[:3] == ["compare", "--real", "digits:pool"]
    several = ["evaluate", "digits:style", str(copies), *command[2:], "--train", "digits:pool", "--out", "two.json"]
    assert main(several) == 0
    printed = capsys.readouterr().out
    assert "copies is the nearest to the reference" in printed and "the difference is sure" in printed
    page = (tmp_path / "two.html").read_text()
    assert "copies is the nearest to the reference" in page


def test_a_handful_of_images_gets_no_verdict_on_its_distance(files) -> None:
    found = evaluate_sets(
        "digits:close", str(files / "images"), EvaluationSettings(detector="digits", k=3, device="cpu")
    )
    assert verdict_on(found)[0] == "So few images (30) give no verdict on the distance."


def test_audit_ends_with_what_is_missing_for_an_answer(tmp_path, capsys) -> None:
    command = ["audit", "digits:pool", "--against", "style=digits:style", "--detector", "digits", "--device", "cpu"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "style: " in printed and next_of(printed)[-2:] == ["--trusted", "REAL_IMAGES"]
    assert main([*command, "--trusted", "digits:reference", "--out", str(tmp_path / "audit.json")]) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "audit-images.csv") in printed and next_of(printed)[0] == "compare"


def test_an_audit_that_finds_something_asks_for_the_files_then_takes_the_folder_for_synthetic() -> None:
    found: Any = SimpleNamespace(within=SimpleNamespace(count=3), suspicions=[])
    remember(["audit", "scraped", "--against", "made", "--trusted", "photos"], as_json=False)
    assert after_audit(found, "scraped", ["made"], "photos", None)[-2:] == ["--out", "audit.json"]
    words = after_audit(found, "scraped", ["made"], "photos", Path("audit.json"))
    assert words[:5] == ["compare", "--real", "photos", "--synthetic", "scraped"]


def test_loop_ends_with_its_verdict_and_more_runs(tmp_path, capsys) -> None:
    out = tmp_path / "loops"
    command = ["loop", "--real", "digits:pool", "--reference", "digits:reference", "--detector", "digits"]
    command += ["--algorithm", "standard", "--generations", "2", "--seeds", "4", "--count", "40", *SMALL]
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "standard: MADness ratio" in printed and "undecided" in printed
    assert next_of(printed)[-6:] == ["--seeds", "4", "0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("rows", "ends"),
    [
        ([("standard", "undecided", False)], ["--generations", "20"]),
        ([("standard", "MAD", True)], ["--algorithm", "standard", "sims"]),
        ([("standard", "MAD", True), ("sims", "prevented", True)], ["table", "loops"]),
    ],
)
def test_what_comes_after_loops(rows, ends, begun) -> None:
    verdicts = [dict(zip(("method", "verdict", "certain"), row)) for row in rows]
    words = [str(word) for word in after_loops(Path("loops"), range(5), 10, verdicts)]
    assert words[-len(ends) :] == ends
    read(words)


def test_a_good_set_is_put_beside_others(tmp_path) -> None:
    evaluation: Any = SimpleNamespace(
        train=object(), samples={"a": torch.zeros(1)}, table=Table([{"metric": "replication", "value": 0.01}])
    )
    assert after_evaluation(evaluation, tmp_path / "m.json")[0] == "table"


def test_a_table_on_disk_is_what_json_prints(files, capsys, tmp_path) -> None:
    out = tmp_path / "t.json"
    assert main(["table", str(files / "metrics.json"), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == read_table(out).rows and printed["files"] == {"table": str(out)}
