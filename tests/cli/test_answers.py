"""Verbs end with their verdict in words and a command to go on with; with --json they print one JSON object."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
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
from nomadiff.cli.next_steps import (
    after_audit,
    after_comparison,
    after_evaluation,
    after_export,
    after_improvement,
    after_loops,
    after_reproduction,
)
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


def test_scores_are_replaced_by_the_same_command_only(files, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    vectors = ["metrics", str(files / "real.npy"), str(files / "fake.npy")]
    images = ["evaluate", "digits:close", "--reference", "digits:reference", "--detector", "digits", "--device", "cpu"]
    assert main(vectors) == main(vectors) == 0
    kept = Path("metrics.json").read_bytes()
    for command in (images, [*vectors, "--k", "3"]):
        assert main(command) == 2
        said = capsys.readouterr().err
        assert "metrics.json holds what another command found (nomadiff metrics " in said and "--out" in said
        assert Path("metrics.json").read_bytes() == kept and not Path("metrics.html").exists()
        assert main([*vectors, "--json"]) == 0  # writes nothing
    assert main([*images, "--out", "metrics.json"]) == main(images) == 0
    assert main(vectors) == 2
    Path("metrics.json").write_text("of another program")
    assert main(vectors) == main(images) == 2
    assert Path("metrics.json").read_text() == "of another program"


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


def test_verbs_that_only_read_tables_need_no_torch(files, tmp_path) -> None:
    study = str(tmp_path / "study")
    assert main(["compare", *STUDY, *SMALL[:-1], "0", "--method", "dm", "--detector", "digits", "--out", study]) == 0
    scores = str(files / "metrics.json")
    code = (
        "import sys; from nomadiff.cli import main\n"
        "for words in ('status', sys.argv[1]), ('table', sys.argv[2]), ('verdict', sys.argv[2]):\n"
        "    print(main(words), 'torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, study, scores], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["0 False"] * 3 and "waiting" in done.stdout


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


@pytest.mark.parametrize(
    ("scale", "files", "words"),
    [
        ("smoke", ("metrics.json",), "reproduce sims-figure-5 --scale small --dry-run"),
        ("paper", ("metrics.json",), "table {out}"),
        ("paper", ("report.html",), ""),
    ],
)
def test_what_comes_after_a_reproduction(scale, files, words, tmp_path) -> None:
    for name in files:
        (tmp_path / name).write_text("{}")
    found = " ".join(map(str, after_reproduction("sims-figure-5", scale, tmp_path)))
    assert found == words.format(out=tmp_path)
    if found:
        read(found.split())


@pytest.mark.parametrize(
    ("out", "hub", "form", "words"),
    [
        ("packed", None, "safetensors", "sample packed --count 1000 --out samples.zip"),
        ("packed", "me/it", "safetensors", "sample packed --count 1000 --out samples.zip"),
        (None, "me/it", "safetensors", "sample hf:me/it --count 1000 --out samples.zip"),
        ("own", None, "diffusers", "sample own/model --count 1000 --out samples.zip"),
        ("plain", None, "diffusers", "import plain --out MODEL"),
        (None, "me/it", "diffusers", ""),
    ],
)
def test_what_comes_after_an_export(out, hub, form, words, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own/model").mkdir(parents=True)
    found = " ".join(map(str, after_export(out and Path(out), hub, form)))
    assert found == words
    if found:
        read(found.split())


@pytest.mark.parametrize(
    ("asked", "sure", "base", "drawn"),
    [
        (True, True, "run", "better"),
        (True, None, "edm.pkl", "better"),  # nothing was scored
        (False, False, "edm.pkl", "better"),
        (True, False, "run", "run"),
        (True, False, "edm.pkl", "better/base.safetensors"),  # sample takes no weights of another program
    ],
)
def test_what_comes_after_an_improvement(asked, sure, base, drawn, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("edm.pkl").touch()
    gain = None if sure is None else SimpleNamespace(is_sure=sure)
    known = SimpleNamespace(base=SimpleNamespace(path=Path("better/base.safetensors")))
    done: Any = SimpleNamespace(untrained="", gain=gain, candidates=known)
    words = list(map(str, after_improvement(done, Path(base), Path("better"), asked=asked)))
    assert words[:2] == ["sample", drawn]
    read(words)


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
    copying = [*command[:1], str(copies), *command[2:], "--train", "digits:pool"]
    assert main(copying) == 2  # metrics.json holds the scores of the other set
    assert main([*copying, "--out", "copies.json"]) == 0
    printed = capsys.readouterr().out
    assert "The samples copy: 100% repeat a training image" in printed
    assert next_of(printed)[:3] == ["compare", "--real", "digits:pool"]
    style = tmp_path / "style"
    write_images(style, [read_digits("style").images[:300]], 300, manifest={"generator": "another"})
    several = ["evaluate", str(style), str(copies), *command[2:], "--train", "digits:pool", "--out", "two.json"]
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


def test_noise_is_called_nothing_like_the_reference(tmp_path) -> None:
    """Of samples of which none lay among the real images it said that a part lies outside them."""
    write_images(tmp_path / "noise", [noise_images(60, 0)], 60, manifest={})
    settings = EvaluationSettings(detector="digits", device="cpu")
    (first, *others) = verdict_on(evaluate_sets(str(tmp_path / "noise"), "digits:reference", settings))
    assert first.startswith("The samples are nothing like the reference (fd_digits ")
    assert "times as far" in others[0] and not any("precision" in each for each in others)
    both = ["digits:close", str(tmp_path / "noise")]
    told = verdict_on(evaluate_sets(both, "digits:reference", settings))
    assert told[0].startswith("close is the nearest") and told[1].startswith("noise are nothing like the reference (")


def test_of_sets_of_unequal_size_the_ratio_to_fresh_images_decides(tmp_path) -> None:
    """The larger of two sets of one distribution was surely nearer: fewer images give larger distances."""
    pool = read_digits("pool").images
    for name, images in {"few": pool[:60], "many": pool[100:700]}.items():
        write_images(tmp_path / name, [images], len(images), manifest={})
    settings = EvaluationSettings(detector="digits", device="cpu")
    both = [str(tmp_path / "few"), str(tmp_path / "many")]
    told = verdict_on(evaluate_sets(both, "digits:reference", settings))[0]
    assert "is the nearest to the reference for its size: FDr " in told and "sure." in told and "surely" not in told
    assert "difference is sure" not in told and "fd_digits" not in told


def test_shares_are_told_in_words_that_are_true_of_none_and_of_some() -> None:
    for share in (0.0, 0.6):
        rows = [{"metric": "fd_digits", "value": 2.0, "floor": 1.0}, {"metric": "fdr", "value": 2.0, "floor": 1.0}]
        rows += [{"metric": name, "value": share, "floor": 0.9} for name in ("precision", "recall", "coverage")]
        found: Any = SimpleNamespace(
            table=Table(rows), samples={"a": torch.zeros(50)}, reference=None, train=None, several=False
        )
        assert verdict_on(found)[1] == (
            f"Too few of the samples lie among the real images: precision {share:.2f}, of fresh real images 0.90."
        )


def test_samples_that_are_the_reference_are_no_test() -> None:
    settings = EvaluationSettings(detector="digits", device="cpu")
    one = verdict_on(evaluate_sets("digits:reference", "digits:reference", settings))
    assert one[0].startswith("797 of 797 images of the samples are in the reference itself")
    both = verdict_on(evaluate_sets(["digits:close", "real=digits:reference"], "digits:reference", settings))
    assert both[0].startswith("797 of 797 images of real are in the reference itself")
    assert "itself" not in "".join(verdict_on(evaluate_sets("digits:close", "digits:reference", settings)))


def test_audit_ends_with_what_is_missing_for_an_answer(tmp_path, capsys) -> None:
    for name, spec in (("photos", "pool"), ("made", "style"), ("trusted", "reference")):
        manifest = {"kind": "synthetic" if name == "made" else "real"}
        write_images(tmp_path / name, [read_digits(f"digits:{spec}").images[:150]], 150, manifest=manifest)
    command = ["audit", str(tmp_path / "photos"), "--against", f"style={tmp_path / 'made'}", "--detector", "digits"]
    command += ["--device", "cpu"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "style: " in printed and next_of(printed)[-2:] == ["--trusted", "REAL_IMAGES"]
    assert main([*command, "--trusted", str(tmp_path / "trusted"), "--out", str(tmp_path / "audit.json")]) == 0
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
    assert "generation 1 is not yet a model" in printed and next_of(printed)[-2:] == ["--budget", "256"]


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
    fewer = [str(word) for word in after_loops(Path("loops"), [4], 10, verdicts)]
    assert fewer[-6:] == ["--seeds", "4", "0", "1", "2", "3"]
    read(fewer)


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
