"""Options of all verbs: one name for one thing, several values after one flag, parts of a user's own."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from nomadiff.cli import _parsed, build_app, main
from nomadiff.cli.config_file import write_command
from nomadiff.data.image_source import ImageSource
from nomadiff.data.source_mix import SourceMix
from nomadiff.methods.dm import DM

TRAIN = "train --real a --out {out}"
COMPARE = "compare --real a --reference b --out {out}"
LOOP = "loop --real a --reference b --out {out}"
VERBS = {name: app[name] for app in [build_app(listed=True)] for name in app if not name.startswith("-")}
OWN_PARTS = {"--method", "--preset", "--solver", "--detector", "--classifier", "--detector-weights"}


def names_of(verb):
    arguments = VERBS[verb].assemble_argument_collection()
    return {name for argument in arguments if argument.show for name in argument.names}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    mix = SourceMix(ImageSource.open("digits:pool", name="real", synthetic=False))
    return (
        DM("digits", budget=64, batch=64, warmup=0).fit(mix, tmp_path_factory.mktemp("base") / "run", device="cpu").path
    )


@pytest.mark.parametrize("verb", [verb for verb in VERBS if "--detector" in names_of(verb)])
def test_whatever_takes_a_detector_takes_its_weights(verb):
    assert "--detector-weights" in names_of(verb)


@pytest.mark.parametrize(
    "command",
    [
        "train --real digits:pool --validation digits:reference --evaluate-every 100 --preset digits --budget 1k",
        "improve {model} --reference digits:reference --weight 1",
        "shift {model} --reference digits:reference --target 3=0.3",
        "loop --real digits:pool --reference digits:reference --preset digits",
        "compare --real digits:pool --reference digits:reference --preset digits --method dm",
    ],
)
def test_weights_that_are_not_there_are_told_first(command, tmp_path, capsys, monkeypatch, trained):
    monkeypatch.chdir(tmp_path)
    words = f"{command.format(model=trained)} --detector cifar10-resnet56 --detector-weights absent.th --out new"
    assert main([*words.split(), "--device", "cpu"]) == 1
    assert "absent.th: no such weight file" in capsys.readouterr().err
    assert not any(path.is_file() for path in Path("new").rglob("*.safetensors"))


def read(command, **folders):
    """The arguments of a command, without running it."""
    return _parsed(build_app(), command.format(**folders).split())[1].arguments


@pytest.mark.parametrize(
    ("command", "several", "repeated"),
    [
        (COMPARE, "--seeds 0 1 2", "--seeds 0 --seeds 1 --seeds 2"),
        (COMPARE, "--method dm casd+sims", "--method dm --method casd+sims"),
        (COMPARE, "--synthetic a=x b=y --source-weights 1 2", "--synthetic a=x --synthetic b=y --source-weights=1 2"),
        (TRAIN, "--synthetic a=x b=y", "--synthetic a=x --synthetic b=y"),
        (LOOP, "--algorithm sims neon --seeds 3 4", "--algorithm sims --algorithm neon --seeds 3 --seeds 4"),
        (
            "shift run --out {out}",
            "--target 3=0.3 0,1=0.4 --weight -1 0.5",
            "--target 3=0.3 --target 0,1=0.4 --weight -1 --weight 0.5",
        ),
        (
            "evaluate s --reference b",
            "--extra kid ssim --group a=1 b=2",
            "--extra kid --extra ssim --group a=1 --group b=2",
        ),
        ("audit s", "--against a=x y", "--against a=x --against y"),
        ("export run", "--metrics a.json b.json", "--metrics a.json --metrics b.json"),
        ("demo", "--seeds 0 1", "--seeds 0 --seeds 1"),
        ("work study", "--devices cuda:0 cpu", "--devices cuda:0 --devices cpu"),
        ("reproduce casd-table-2", "--seeds 0 1", "--seeds 0 --seeds 1"),
    ],
)
def test_several_values_after_one_flag_are_as_the_flag_repeated(command, several, repeated, tmp_path):
    assert read(f"{command} {several}", out=tmp_path) == read(f"{command} {repeated}", out=tmp_path)


@pytest.mark.parametrize(
    ("command", "reordered"),
    [
        ("audit --against a=x --against y photos/", "audit photos/ --against a=x y"),
        ("shift --out x --target 3=0.3 run/", "shift run/ --out x --target 3=0.3"),
        ("evaluate --reference b --extra kid s.zip", "evaluate s.zip --reference b --extra kid"),
    ],
)
def test_an_argument_may_stand_behind_an_option_of_several_values(command, reordered):
    assert read(command) == read(reordered)


@pytest.mark.parametrize("command", [f"{COMPARE} --seeds", f"{LOOP} --algorithm --seeds 1", "audit s --against"])
def test_a_flag_without_a_value_is_one_line(command, tmp_path, capsys):
    assert main(command.format(out=tmp_path / "x").split()) == 2
    error = capsys.readouterr().err
    assert "at least 1 element" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_how_parts_of_ones_own_are_named(verb, capsys):
    """Every verb that names a part, or works with what may have some: a model, a study."""
    takes = bool(names_of(verb) & (OWN_PARTS | {"--model", "--from"})) or verb in ("work", "presets")
    assert main([verb, "--help"]) == 0
    told = capsys.readouterr().out
    assert ("--plugin MODULE" in told and "MODULE:NAME" in told) == takes


def test_one_name_for_one_thing():
    names = {verb: names_of(verb) for verb in VERBS}
    for verb, found in names.items():
        trains = "--budget" in found
        assert not ("--batch" in found and not trains), f"{verb}: --batch is of training, --batch-size of drawing"
        assert not ("--batch-size" in found and trains), f"{verb}: --batch is of training, --batch-size of drawing"
        assert ("--learning-rate" in found) == ("--lr" in found), verb
        assert not ("--seed" in found and "--seeds" in found and verb != "reproduce"), verb
    assert all("--level" in names[verb] for verb in ("evaluate", "metrics", "verdict"))
    assert "--interval" in names["evaluate"] & names["metrics"]  # the older name


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_has_a_help_text(verb):
    arguments = VERBS[verb].assemble_argument_collection(parse_docstring=True)
    told = {argument.name: argument.parameter.help for argument in arguments if argument.show}
    assert [name for name, text in told.items() if not text] == []
    # a field that nobody described gets the text of the settings it belongs to
    described = re.findall(r"^    (\w+): (.+)$", inspect.getdoc(VERBS[verb].default_command), re.MULTILINE)
    own = {argument.field_info.name for argument in arguments if argument.show}
    settings = {text for name, text in described if name not in own}
    assert [name for name, text in told.items() if text in settings] == []
    assert [name for name, text in told.items() if re.search(r"\bNone\b", text)] == []  # Python's word


@pytest.mark.parametrize(
    "command",
    [
        f"{COMPARE} --synthetic a=x --method dm my:Part --seeds 4 5 --budget 5Mi --lr 0.01 --count 30 --device cpu",
        f"{LOOP} --algorithm real-only --kind accumulation --synthetic-count 2k --weight 0.5 --batch 8 --warm-start",
        "shift run --out {out} --target 3=0.3 0,1=0.45 --weight -1 0.5 --lr 1e-4 --reference b --skip-unreadable",
        "improve run --out {out} --interval 0.1:20 --weight auto --budget 1k --evaluations 3 --detector inception",
        f"{TRAIN} --synthetic a=x y --source-weights 1 2 --real-fraction 0.25 --method casd --budget 200k",
    ],
    ids=lambda command: command.partition(" ")[0],
)
def test_the_file_that_repeats_a_run_holds_every_option(command, tmp_path):
    from nomadiff.cli.config_file import config_reader

    given = read(command, out=tmp_path)
    verb = command.partition(" ")[0]
    write_command(verb, given)
    app = build_app()
    app.config = (config_reader(tmp_path / "command.toml"),)
    again = app.parse_args([verb, "--out", str(tmp_path)], exit_on_error=False, print_error=False)[1].arguments
    assert again == given
    assert (Path(tmp_path) / "command.toml").read_text().startswith(f"# nomadiff {verb} --config command.toml")


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("lora trained.safetensors --out neon.safetensors --rank 4", "--rank is for a pipeline"),
        ("lora trained.safetensors --out neon.safetensors --budget 2k", "--budget is for a pipeline"),
        ("lora trained.safetensors --out neon.safetensors --images own/", "--images is for a pipeline"),
        ("lora pipeline --images own --out a.safetensors --auxiliary ./a.safetensors", "give each its own file"),
        ("export run --out exported --public", "--public is for --hub"),
        ("import . --out model --sha256 " + 64 * "0", "--sha256"),
    ],
)
def test_an_option_that_another_makes_useless_is_refused(command, told, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
