import errno
import re
import signal
import subprocess
import sys

import pytest
from factories import noise_images

from nomadiff.cli import _VERBS, main
from nomadiff.cli.options import parse_images
from nomadiff.data.writing import write_images
from nomadiff.files import read_json
from nomadiff.progress import QUIET
from nomadiff.training.run_folder import RunFolder

VERBS = [verb for verbs in _VERBS.values() for verb in verbs]
SMALL = ["--preset", "digits", "--budget", "256", "--batch", "32", "--warmup", "64", "--device", "cpu"]


def images(count, seed):
    return noise_images(count, seed)


@pytest.fixture
def folders(tmp_path):
    """A folder of "photos" and one of "generated" images, as a user has them."""
    write_images(tmp_path / "photos", [images(30, 0)], 30, manifest={"kind": "real"})
    write_images(tmp_path / "held-out", [images(30, 1)], 30, manifest={"kind": "real"})
    write_images(tmp_path / "generated", [images(50, 2)], 50, manifest={"generator": "other"})
    return tmp_path


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches_by_example(verb, capsys):
    assert main([verb, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"nomadiff {verb}" in text
    assert "An example" in text


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_without_a_verb_says_what_each_is_for(arguments, capsys):
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.index("Start here") < text.index("Images in, a model out") < text.index("Other tools")
    for verb in VERBS:
        assert re.search(rf"│ {verb} +[A-Z]\w+ \w+", text), verb


def test_the_whole_journey(folders, capsys):
    """Two folders in, a model, samples and figures out, each verb taking what the one before made."""
    run, samples = folders / "run", folders / "samples.zip"
    train = ["train", "--real", str(folders / "photos"), "--synthetic", f"made={folders / 'generated'}"]
    assert main([*train, *SMALL, "--out", str(run)]) == 0
    assert main(["sample", str(run), "--count", "40", "--steps", "3", "--device", "cpu", "--out", str(samples)]) == 0
    grid = (folders / "samples.zip-grid.png").read_bytes()
    assert len(grid) > 100
    for name in ("samples", "samples.1"):  # other sets, whose grids are not this one's
        words = ["--count", "4", "--steps", "3", "--seed", "1", "--device", "cpu", "--out", str(folders / name)]
        assert main(["sample", str(run), *words]) == 0
        assert (folders / f"{name}-grid.png").is_file()
    assert (folders / "samples.zip-grid.png").read_bytes() == grid
    metrics = folders / "metrics.json"
    arguments = ["--reference", str(folders / "held-out"), "--train", str(folders / "photos"), "--detector", "digits"]
    assert main(["evaluate", str(samples), *arguments, "--device", "cpu", "--out", str(metrics)]) == 0
    rows = {row["metric"]: row for row in read_json(metrics)["rows"]}
    assert {"fd_digits", "precision", "recall", "density", "coverage", "replication", "composition_tv"} <= rows.keys()
    assert rows["fd_digits"]["low"] <= rows["fd_digits"]["value"] <= rows["fd_digits"]["high"]
    assert main(["info", str(run)]) == 0
    text = capsys.readouterr().out
    assert "0 = real, 1 = made" in text
    assert "256 of 256 images" in text


def test_same_command_again_is_done_at_once(folders, capsys):
    command = ["train", "--real", str(folders / "photos"), "--method", "dm", *SMALL, "--out", str(folders / "run")]
    assert main(command) == 0
    model = folders / "run" / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert main(command) == 0
    assert model.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train"], "--real"),
        (["tarin"], "train"),
        (["train", "--real", "x", "--out", "y", "--bugdet", "5"], "--bugdet"),
        (["train", "--real", "x", "--out", "y", "--budget", "many"], "5Mi"),
        (["train", "--real", "digits:pool", "--out", "y", "--method", "gan"], "dm, sda, casd"),
        (["train", "--real", "digits:pool", "--out", "y", "--preset", "digit"], "digits"),
        (["train", "--real", "digits:close", "--out", "y", "--preset", "digits"], "--allow-synthetic-as-real"),
        (["train", "--real", "digits:pool", "--out", "y", "--preset", "digits", "--lr", "-1"], "learning_rate"),
        (["train", "--real", "digits:pool", "--out", "y", "--preset", "digits", "--device", "abacus"], "abacus"),
        (["compare", "--real", "digits:pool", "--reference", "digits:reference", "--out", "y"], "--synthetic"),
        (["reproduce", "casd-table-9"], "casd-table-1"),
        (
            ["train", "--real", "digits:pool", "--synthetic", "mine=digits:pool", "--out", "y"],
            "source 'mine' holds the real",
        ),
        (
            [
                "compare",
                "--real",
                "digits:pool",
                "--synthetic",
                "digits:pool",
                "--reference",
                "digits:reference",
                "--preset",
                "digits",
                "--out",
                "y",
            ],
            "source 'pool' holds the real images",
        ),
        (["metrics", "a.npy"], "metrics GENERATED --reference REAL"),
        (["metrics", "a.npy", "b.npy", "--reference", "c.npy"], "give the real vectors once"),
        (["status", "absent"], "absent: no such folder"),
        (["work", "absent"], "absent: no such folder"),
        (["reproduce", "casd-table-1", "--scale", "huge"], "smoke, small, medium, paper"),
        (["reproduce", "casd-table-1", "--scale", "smoke", "--runs", "3"], "runs"),
    ],
)
def test_wrong_use_is_one_line_and_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.startswith("nomadiff: ")
    assert errors.count("\n") == 1
    assert "Traceback" not in errors
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--real", "absent", "--out", "y"], "absent"),
        (["sample", "absent", "--out", "y"], "absent"),
        (["evaluate", "absent.zip", "--reference", "digits:reference"], "absent.zip"),
        (["info", "absent"], "absent"),
        (["reproduce", "casd-table-1", "--scale", "paper"], "--dry-run"),
    ],
)
def test_failure_is_one_line_and_1(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1
    assert "Traceback" not in errors


WRITERS = [
    ["train", "--real", "absent", "--out"],
    ["compare", "--real", "absent", "--synthetic", "absent", "--reference", "absent", "--out"],
    ["demo", "--out"],
    ["reproduce", "casd-table-1", "--scale", "smoke", "--out"],
    ["improve", "absent", "--weight", "1", "--out"],
    ["shift", "absent", "--target", "3=0.3", "--out"],
    ["loop", "--real", "absent", "--reference", "absent", "--out"],
    ["sample", "absent", "--out"],
    ["sample", "absent", "--out", "new.zip", "--grid"],
    ["synthesize", "--from", "absent", "--count", "2", "--out"],
    ["encode", "absent", "--out"],
    ["import", "absent", "--out"],
    ["export", "absent", "--out"],
    ["lora", "absent.safetensors", "--out"],
    ["lora", "absent", "--out", "new.safetensors", "--auxiliary"],
    ["evaluate", "absent", "--reference", "absent", "--out"],
    ["evaluate", "absent", "--reference", "absent", "--save-reference"],
    ["metrics", "absent", "absent", "--out"],
    ["audit", "absent", "--against", "absent", "--out"],
    ["verdict", "absent", "--out"],
]


@pytest.mark.parametrize("command", WRITERS, ids=lambda words: f"{words[0]}{words[-1]}")
@pytest.mark.parametrize("place", ["file/inner", "x" * 300, "a\0b", "/dev/null"], ids=range(4))
def test_no_verb_begins_work_that_it_could_not_write_down(command, place, capsys, tmp_path, monkeypatch):
    """What it reads is absent, too: where it writes is looked at first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    assert main([*command, place]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("nomadiff: ") and errors.count("\n") == 1
    assert "absent" not in errors and "unexpected" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("command", WRITERS, ids=lambda words: f"{words[0]}{words[-1]}")
def test_a_full_disk_is_told_before_the_work(command, capsys, tmp_path, monkeypatch):
    def full(**options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert main([*command, "result.json"]) == 1
    assert "the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize("command", [words for words in WRITERS if words[0] in ("evaluate", "metrics", "verdict")])
def test_a_table_is_a_file_and_not_its_own_csv(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*command, "."]) == 2
    assert "is a folder" in capsys.readouterr().err
    if command[-1] == "--out":
        assert main([*command, "table.csv"]) == 2
        assert "table.json" in capsys.readouterr().err


def test_real_images_alone_train_as_dm_and_it_is_said(folders, capsys):
    command = ["train", "--real", str(folders / "photos"), *SMALL, "--out", str(folders / "run")]
    assert main([*command, "--dry-run"]) == 0
    assert "method: dm, as there is no --synthetic source" in capsys.readouterr().out
    assert main(command) == 0
    assert "method: dm, as there is no --synthetic source" in capsys.readouterr().out
    assert RunFolder(folders / "run").config().method == "dm"
    assert main([*command[:-1], str(folders / "other"), "--method", "casd"]) == 2
    assert "add --synthetic, or use --method dm" in capsys.readouterr().err
    assert not (folders / "other").exists()


def test_a_smaller_budget_is_refused_by_every_verb_that_trains(folders, capsys):
    real, reference = (["--real", str(folders / "photos")], ["--reference", str(folders / "held-out")])
    small = ["--preset", "digits", "--batch", "32", "--device", "cpu"]
    made = ["--synthetic", str(folders / "generated"), "--method", "dm", "--seeds", "0", "--count", "20"]
    train = ["train", *real, *small, "--method", "dm", "--snapshot-every", "64", "--out", str(folders / "run")]
    compare = ["compare", *real, *made, *reference, *small, "--workers", "1", "--out", str(folders / "study")]
    loop = ["loop", *real, *reference, *small, "--generations", "2", "--seeds", "0", "--count", "20"]
    loop += ["--algorithm", "standard", "--out", str(folders / "loop")]
    improve = ["improve", str(folders / "run"), "--weight", "1", "--device", "cpu", "--out", str(folders / "better")]
    for command in (train, improve, compare, loop):
        assert main([*command, "--budget", "256"]) == 0
        before = {path: path.read_bytes() for path in folders.rglob("*.json")}
        capsys.readouterr()
        assert main([*command, "--budget", "128"]) == 2, command[0]
        errors = capsys.readouterr().err
        told = [line for line in errors.splitlines() if "inside the warm-up" not in line]
        assert len(told) == 1 and "choose another" in errors
        assert {path: path.read_bytes() for path in folders.rglob("*.json")} == before
        if command in (train, compare):
            assert "more than the budget of 128" in errors


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(Exception, match="absent"):
        main(["--debug", "info", str(tmp_path / "absent")])


@pytest.mark.parametrize(("told", "code"), [((), 130), ((signal.SIGINT,), 130), ((signal.SIGTERM,), 143)])
def test_the_exit_code_of_a_stop_says_by_which_signal(told, code, capsys, monkeypatch):
    def stopped(*arguments, **options):
        raise KeyboardInterrupt(*told)

    monkeypatch.setattr("nomadiff.workflows.info.describe", stopped)
    assert main(["info", "run"]) == code
    assert capsys.readouterr().err == "nomadiff: stopped\n"


def test_dry_run_plans_and_starts_nothing(folders, capsys):
    out = folders / "run"
    command = ["--real", str(folders / "photos"), "--synthetic", str(folders / "generated"), *SMALL, "--out", str(out)]
    assert main(["train", *command, "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"parameters: +0\.1\d M", text)
    assert "8 steps of 32" in text
    assert "real 37.5%, generated 62.5%" in text
    assert main(["compare", *command, "--reference", str(folders / "held-out"), "--dry-run"]) == 0
    assert "9 like this one" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize("name", ["s.png", "s.npy", "s.tar"])
def test_samples_are_no_folder_that_looks_like_a_file(folders, capsys, name):
    run = folders / "run"
    assert main(["train", "--real", str(folders / "photos"), "--method", "dm", *SMALL, "--out", str(run)]) == 0
    assert main(["sample", str(run), "--count", "4", "--steps", "2", "--out", str(folders / name)]) == 2
    assert "a folder, a .zip or a .npz" in capsys.readouterr().err and not (folders / name).exists()


def test_sampling_never_overwrites(folders, capsys):
    command = ["train", "--real", str(folders / "photos"), "--method", "dm", *SMALL, "--out", str(folders / "run")]
    assert main(command) == 0
    out = folders / "photos"
    assert main(["sample", str(folders / "run"), "--count", "4", "--device", "cpu", "--out", str(out)]) == 2
    assert "photos" in capsys.readouterr().err
    assert len(list(out.rglob("*.png"))) == 30


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("150000", 150_000),
        ("150_000", 150_000),
        ("5Mi", 5_000_000),
        ("1.5M", 1_500_000),
        ("200k", 200_000),
        ("2 ki", 2_000),
    ],
)
def test_numbers_of_images(text, count):
    assert parse_images(text) == count


@pytest.mark.parametrize("text", ["", "Mi", "five", "5 Gi", "-5k", "5e6"])
def test_no_numbers_of_images(text):
    with pytest.raises(ValueError, match="5Mi"):
        parse_images(text)


@pytest.mark.parametrize("name", ["a\nnomadiff: all is well\x1b[2J.png", "b\x9b1m\u202e.png", "\x1b]0;title\x07.txt"])
@pytest.mark.parametrize("damaged", [True, False])
def test_names_cannot_command_a_terminal(folders, capsys, name, damaged):
    photo = next((folders / "photos").rglob("*.png"))
    (folders / "photos" / name).write_bytes(b"xx" if damaged else photo.read_bytes())
    main(["info", str(folders / "photos")])
    (folders / "photos").rename(folders / name)
    main(["info", str(folders / name), "--detector-weights", "x"])
    main(["info", str(folders / name)])
    main(["train", "--real", str(folders / name), "--method", "dm", *SMALL, "--out", str(folders / "run"), "--dry-run"])
    out, err = capsys.readouterr()
    assert all(character == "\n" or character.isprintable() for character in out + err)
    assert all(line.startswith("nomadiff: " + str(folders)) for line in err.splitlines())


READERS = ["train", "compare", "evaluate", "audit", "info", "encode", "improve", "shift", "loop", "lora", "suggest"]


@pytest.mark.parametrize("verb", READERS)
def test_every_verb_that_reads_images_can_leave_out_the_unreadable(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert "--skip-unreadable" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["info", "{broken}"],
        ["train", "--real", "{broken}", "--method", "dm", "--out", "{new}", *SMALL, "--dry-run"],
        ["train", "--real", "{whole}", "--synthetic", "s={broken}", "--out", "{new}", *SMALL, "--dry-run"],
        ["compare", "--real", "{whole}", "--synthetic", "s={broken}", "--reference", "{other}", "--out", "{new}",
         *SMALL, "--dry-run"],
        ["loop", "--real", "{broken}", "--reference", "{whole}", "--generations", "2", "--out", "{new}", *SMALL,
         "--detector", "digits", "--dry-run"],
        ["evaluate", "{broken}", "--reference", "{whole}", "--detector", "digits", "--device", "cpu", "--dry-run"],
        ["evaluate", "{whole}", "--reference", "{broken}", "--detector", "digits", "--device", "cpu", "--dry-run"],
        ["evaluate", "{whole}", "--reference", "{other}", "--train", "{broken}", "--device", "cpu",
         "--detector", "digits", "--dry-run"],
        ["train", "--real", "{whole}", "--validation", "{broken}", "--out", "{new}", *SMALL, "--dry-run"],
        ["compare", "--real", "{whole}", "--synthetic", "s={other}", "--reference", "{broken}", "--out", "{new}",
         *SMALL, "--dry-run"],
        ["compare", "--real", "{whole}", "--synthetic", "s={other}", "--reference", "{held-out}", "--out", "{new}",
         "--validation", "{broken}", *SMALL, "--dry-run"],
        ["loop", "--real", "{whole}", "--reference", "{broken}", "--algorithm", "standard", "--generations", "2",
         "--seeds", "0", "--count", "40", "--workers", "1", "--out", "{new}", *SMALL, "--detector", "digits"],
        ["compare", "--real", "{broken}", "--synthetic", "s={other}", "--reference", "{held-out}", "--out", "{new}",
         *SMALL, "--dry-run"],
        ["suggest", "--real", "{broken}", "--device", "cpu"],
        ["audit", "{broken}", "--against", "s={whole}", "--device", "cpu"],
        ["audit", "{whole}", "--against", "s={other}", "--trusted", "{broken}", "--device", "cpu"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_one_broken_file_ends_nothing(folders, capsys, words):
    for name, seed in (("broken", 5), ("whole", 6), ("other", 7)):
        write_images(folders / name, [images(48, seed)], 48, manifest={"kind": "real"})
    photos = sorted((folders / "broken").rglob("*.png"))
    photos[3].write_bytes(b"torn")
    photos[5].write_bytes(photos[5].read_bytes()[:-30])
    places = {name: folders / name for name in ("broken", "whole", "other", "new", "held-out")}
    words = [word.format(**places) for word in words]
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "neither a run folder" not in said
    assert said.count("\n") == 1 and "2 of 48 images cannot be read" in said and "--skip-unreadable" in said
    assert main([*words, "--skip-unreadable"]) == 0
    captured = capsys.readouterr()
    for photo in (photos[3], photos[5]):
        assert captured.err.count(f"  {photo.parent.name}/{photo.name} (") == 1
    if "train" in words:
        assert re.search(r"images: +real 46\n|images: +real 48, s 46\n|validation: +46 ", captured.out)


@pytest.mark.parametrize("arguments", [["info", "IMAGES"], ["--help"], ["evaluate", "--help"]])
def test_a_reader_that_ends_early_is_no_error(arguments, folders):
    words = [str(folders / "photos") if word == "IMAGES" else word for word in arguments]
    command = [sys.executable, "-m", "nomadiff", *words]
    done = subprocess.run(["bash", "-c", '"$@" | true; echo ${PIPESTATUS[0]}', "-", *command], capture_output=True)
    assert done.stdout.decode().strip() in ("0", "1", "141") and done.stderr.decode() == ""


def test_the_list_of_verbs_needs_no_torch():
    code = "import sys; from nomadiff.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"│ {verb} " in done.stdout


def test_completion_is_installed_for_a_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["--install-completion", "--shell", "bash"]) == 0
    script = (tmp_path / ".local/share/bash-completion/completions/nomadiff").read_text()
    assert all(verb in script for verb in VERBS) and "--real-fraction" in script


def test_quiet_leaves_out_progress_and_keeps_results(folders, capfd, monkeypatch):
    monkeypatch.setattr("nomadiff.progress._FIRST", 0.0)  # a line of progress at once
    monkeypatch.setenv(QUIET, "")
    command = ["train", "--real", str(folders / "photos"), *SMALL, "--log-every", "32", "--out"]
    assert main([*command, str(folders / "told")]) == 0
    assert "of 256 images" in capfd.readouterr().err
    assert main(["--quiet", *command, str(folders / "quiet")]) == 0
    told = capfd.readouterr()
    assert told.err == "" and "model: " in told.out


def test_the_help_of_no_verb_imports_torch():
    """It takes a second and a half, which --help and a mistyped option should not wait for."""
    code = (
        "import sys; from nomadiff.cli import main\n"
        "for verb in sys.argv[1:]:\n"
        "    before = {*sys.modules}; code = main([verb, '--help']); new = {*sys.modules} - before\n"
        "    print(verb, code, *(name for name in new if '.' not in name), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *VERBS], capture_output=True, text=True, check=True)
    found = {verb: new for verb, _, *new in map(str.split, done.stderr.splitlines())}
    assert [*found] == [*VERBS] and done.stdout.count("Usage: nomadiff") == len(VERBS)
    heavy = {"torch", "numpy", "scipy", "PIL", "safetensors"}
    assert {verb: heavy & {*new} for verb, new in found.items() if heavy & {*new}} == {}
