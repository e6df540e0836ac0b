"""``--config FILE`` and the file that repeats a run."""

import tomllib
from pathlib import Path

import pytest

from nomadiff.cli import main
from nomadiff.cli.config_file import write_command

TRAIN = ["train", "--real", "digits:pool", "--real-subset", "first:40", "--preset", "digits", "--device", "cpu"]


def weights(folder):
    return (Path(folder) / "model.safetensors").read_bytes()


def test_a_run_is_repeated_from_the_file_it_holds(tmp_path, capsys):
    options = ["--synthetic", "close=digits:close", "--budget", "64", "--batch", "32", "--lr", "0.002"]
    assert main([*TRAIN, *options, "--out", str(tmp_path / "a")]) == 0
    config = str(tmp_path / "a" / "command.toml")
    assert main(["train", "--config", config, "--out", str(tmp_path / "b")]) == 0
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert (
        main(["train", f"--config={config}", "--out", str(tmp_path / "c"), "--seed", "5"]) == 0
    )  # the line goes first
    assert weights(tmp_path / "a") != weights(tmp_path / "c")
    assert main([*TRAIN, *options, "--out", str(tmp_path / "a")]) == 0  # the run with the file continues as before


def test_yaml_and_a_study(tmp_path, capsys):
    file = tmp_path / "compare.yaml"
    file.write_text(
        "real: digits:pool\nreal-subset: first:40\nsynthetic: [close=digits:close]\nreference: digits:reference\n"
        "preset: digits\nmethod: [dm, casd]\nbudget: 64\nbatch: 32\ncount: 30\ndetector: digits\ndevice: cpu\n"
    )
    assert main(["compare", "--config", str(file), "--out", str(tmp_path / "study"), "--dry-run"]) == 0
    assert "6 like this one" in capsys.readouterr().out
    assert not (tmp_path / "study").exists()


def test_names_beyond_the_basic_plane_are_read_back(tmp_path):
    """JSON writes them as two surrogates, which TOML refuses."""
    (tmp_path / "photos 😀").symlink_to(tmp_path)
    write_command("train", {"out": str(tmp_path), "real": f"{tmp_path}/photos 😀"})
    assert tomllib.loads((tmp_path / "command.toml").read_text(encoding="utf-8")) == {"real": f"{tmp_path}/photos 😀"}


def test_a_folder_that_is_refused_stays_as_it_is(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    assert main([*TRAIN, "--budget", "32", "--batch", "32", "--out", str(tmp_path / "mine")]) == 2
    assert [path.name for path in (tmp_path / "mine").glob("[!.]*")] == ["notes.txt"]


def test_a_sample_set_gets_no_such_file(tmp_path, capsys):
    assert main([*TRAIN, "--budget", "32", "--batch", "32", "--out", str(tmp_path / "run")]) == 0
    assert (
        main(["sample", str(tmp_path / "run"), "--count", "4", "--out", str(tmp_path / "set"), "--device", "cpu"]) == 0
    )
    assert not (tmp_path / "set" / "command.toml").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.toml", "bugdet = 3", "Did you mean --budget?"),
        ("a.toml", "budget = [", "a.toml: not valid TOML"),
        ("a.yaml", "a: [1", "a.yaml: not valid YAML"),
        ("a.yml", "- 1", "holds no table of options"),
        ("a.json", "{}", "options are read from .toml, .yaml or .yml"),
        ("missing.toml", None, "cannot be read"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, capsys, name, text, said):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main([*TRAIN, "--config", str(tmp_path / name), "--out", str(tmp_path / "run")]) in (1, 2)
    errors = capsys.readouterr().err
    assert said in errors and len(errors.splitlines()) == 1 and "unexpected" not in errors


def test_the_name_is_needed_once(capsys):
    assert main(["train", "--config"]) == 2 and "needs the name" in capsys.readouterr().err
    assert main(["train", "--config", "a.toml", "--config", "b.toml"]) == 2 and "once" in capsys.readouterr().err
