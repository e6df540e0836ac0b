"""sample, synthesize and encode, killed before every change they make on disk and continued: equal to the unbroken."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from factories import noise_images, noise_source, tiny_preset
from filelock import FileLock

from nomadiff.cli import main
from nomadiff.data.part_folder import part_folder
from nomadiff.data.source_mix import SourceMix
from nomadiff.data.writing import write_images
from nomadiff.errors import Interrupted, UsageError
from nomadiff.files import write_json
from nomadiff.interop import latents as encoding
from nomadiff.interop.export import export_model
from nomadiff.interop.generators import Drawn
from nomadiff.interop.importing import import_model
from nomadiff.interop.latents import encode_set
from nomadiff.interop.synthesis import synthesize
from nomadiff.methods.dm import DM
from nomadiff.models.model import Model

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes")

Verb = Callable[[Path], Any]


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    torch.set_num_threads(1)
    preset = tiny_preset(steps=2, budget=16, warmup=16)
    return DM(preset, class_labels=True).fit(
        SourceMix(noise_source("real")), tmp_path_factory.mktemp("run") / "run", device="cpu"
    )


class Squares:
    """A generator of squares whose colour is their index."""

    batch_size, class_names = 4, None

    def draw(self, indices: Sequence[int]) -> list[Drawn]:
        return [Drawn(np.full((8, 8, 3), i, np.uint8), {"seed": 7, "index": i}, i % 3) for i in indices]

    def facts(self) -> dict[str, Any]:
        return {"generator": "squares", "seed": 7}


class Averages:
    """An autoencoder that takes the means of 2 x 2 pixels."""

    spec, sha256, channels, factor, batch_size = "averages", "0" * 64, 3, 2, 4

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        mean = torch.nn.functional.avg_pool2d(images.float() / 255, 2)
        return torch.cat([mean, torch.ones_like(mean)], dim=1)

    def space(self, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
        return encoding.LatentSpace("averages", "0" * 64, 2, mean, std)


def photos(folder: Path, seed: int = 1, count: int = 20) -> Path:
    images = noise_images(count, seed, 3)
    write_images(folder, [images], count, manifest={"kind": "real"})
    return folder


def killed_before(change: int, verb: Verb, workdir: Path) -> bool:
    """Run ``verb`` in a process that is killed before its ``change``-th change on disk; False if it ended before."""
    process = os.fork()
    if process == 0:
        count = [0]
        for name in ("replace", "rename", "mkdir", "rmdir", "unlink"):
            original = getattr(os, name)

            def counted(*arguments: Any, original: Any = original, **options: Any) -> Any:
                count[0] += 1
                if count[0] == change:
                    os._exit(9)
                return original(*arguments, **options)

            setattr(os, name, counted)
        try:
            verb(workdir)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, 9)
    return code == 9


def contents(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(name="verb")
def _verb(request: pytest.FixtureRequest, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Verb:
    monkeypatch.setattr(encoding, "_SHARD", 8)
    source = photos(tmp_path / "photos")
    verbs: dict[str, Verb] = {
        "sample": lambda out: model.write_samples(out, 10, 3, batch_size=4),
        "synthesize": lambda out: synthesize(Squares(), out, 10),
        "encode": lambda out: encode_set(source, out, Averages()),  # type: ignore[arg-type]
    }
    return verbs[request.param]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("sample", "set.zip"),
        ("sample", "set.npz"),
        ("sample", "set"),
        ("synthesize", "set.zip"),
        ("synthesize", "set"),
        ("encode", "set.zip"),
    ],
    indirect=["verb"],
)
def test_killed_before_every_change_and_continued(verb: Verb, name: str, tmp_path: Path) -> None:
    verb(tmp_path / "whole" / name)
    expected = contents(tmp_path / "whole" / name)
    change = 1
    while True:
        workdir = tmp_path / f"{change}"
        if not killed_before(change, lambda out: verb(out / name), workdir):
            break
        verb(workdir / name)  # also where the set was whole and only the working folder was left to delete
        assert contents(workdir / name) == expected, f"killed before change {change}"
        assert {entry.name for entry in workdir.iterdir()} == {name}
        change += 1
    assert change > 8


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["import", "export", "export for diffusers"])
def test_a_model_folder_is_whole_or_absent(
    verb: str, model: Model, lookalikes: Any, tiny_network: Any, tmp_path: Path
) -> None:
    """Of verbs that take no time worth keeping: killed at any moment, the same command is not refused."""
    if verb == "import":
        network, arguments = tiny_network("adm", 3)
        snapshot = tmp_path / "snapshot.pkl"
        snapshot.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
    elif verb == "export for diffusers":
        pytest.importorskip("diffusers")

    def make(workdir: Path) -> None:
        if verb == "import":
            import_model(snapshot, workdir / "model")
        else:
            export_model(model, workdir / "model", form="safetensors" if verb == "export" else "diffusers")

    make(tmp_path / "whole")
    expected, change = contents(tmp_path / "whole" / "model"), 1
    while killed_before(change, make, workdir := tmp_path / f"{change}"):
        if not (workdir / "model").exists():
            make(workdir)
        assert contents(workdir / "model") == expected, f"killed before change {change}"
        change += 1
    assert change > 8


@pytest.mark.parametrize("verb", ["sample", "synthesize", "encode"], indirect=True)
def test_two_at_once_and_another_job(verb: Verb, tmp_path: Path) -> None:
    out = tmp_path / "set.zip"
    (tmp_path / "set.zip.part").mkdir()
    with FileLock(tmp_path / "set.zip.part" / ".lock"), pytest.raises(UsageError, match="in use by another process"):
        verb(out)
    with pytest.raises(RuntimeError), part_folder(out, {"of": "somebody"}) as part:
        (part / "work").write_text("x")
        raise RuntimeError
    with pytest.raises(UsageError, match="another job half done"):
        verb(out)
    (tmp_path / "set.zip.part" / "work").unlink()
    verb(out)  # nothing was done yet: nothing is lost
    with pytest.raises(UsageError, match="exists already"):
        verb(out)
    assert not (tmp_path / "set.zip.part").exists()


def test_a_stop_keeps_its_signal(tmp_path: Path) -> None:
    """SIGTERM is told as an interrupt while processes work; it was called Ctrl-C from here on."""
    for told, code in ((), 130), ((signal.SIGTERM,), 143):
        with pytest.raises(Interrupted) as stopped, part_folder(tmp_path / "set.zip", {}):
            raise KeyboardInterrupt(*told)
        assert stopped.value.exit_code == code


def test_another_job_is_not_told_that_it_is_done(model: Model, tmp_path: Path) -> None:
    """Killed while it deleted the working folder, and continued with another seed."""
    out, workdirs = tmp_path / "set.zip", [tmp_path / f"{change}" for change in range(1, 60)]
    for change, workdir in enumerate(workdirs, 1):
        if not killed_before(change, lambda path: model.write_samples(path / out.name, 10, 3, batch_size=4), workdir):
            break
    killed = [workdir / out.name for workdir in workdirs if (workdir / out.name).exists()]
    assert len(killed) > 5
    for set_ in killed[:-1]:
        before = set_.read_bytes()
        with pytest.raises(UsageError, match="exists already|another job half done|not a job of nomadiff"):
            model.write_samples(set_, 10, 4, batch_size=4)
        assert set_.read_bytes() == before


def test_a_whole_that_was_not_moved_is_not_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(Squares):
        def draw(self, indices: Sequence[int]) -> list[Drawn]:
            raise AssertionError(indices)

    def no_note(path: Path, value: Any) -> None:
        if path.name.startswith("."):
            raise InterruptedError
        write_json(path, value)

    for name in ("set", "set.zip"):
        with monkeypatch.context() as patch, pytest.raises(InterruptedError):
            patch.setattr("nomadiff.data.part_folder.write_json", no_note)
            synthesize(Squares(), tmp_path / name, 10)
        synthesize(Nothing(), tmp_path / name, 10)
        assert contents(tmp_path / name)


def test_what_was_put_in_the_place_of_a_set_is_left_alone(model: Model, tmp_path: Path) -> None:
    out = tmp_path / "set.zip"

    def foreign(_: torch.Tensor) -> None:
        out.write_text("mine")

    with pytest.raises(UsageError, match="exists already"):
        model.write_samples(out, 10, 3, batch_size=4, preview=foreign)
    assert out.read_text() == "mine"
    out.unlink()
    model.write_samples(out, 10, 3, batch_size=4)


def test_an_interruption_keeps_what_was_drawn(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, batches = tmp_path / "set.zip", Model.sample_batches
    asked: list[tuple[int, int]] = []

    def stopping(self: Model, count: int, seed: int = 0, **options: Any) -> Any:
        asked.append((options["first"], count))
        for number, batch in enumerate(batches(self, count, seed, **options)):
            if len(asked) == 1 and number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Model, "sample_batches", stopping)
    with pytest.raises(Interrupted, match="kept in .*set.zip.part: run the same command again"):
        model.write_samples(out, 20, 3, batch_size=4)
    (tmp_path / "set.zip.part" / "000000004.npy").write_bytes(b"torn")
    model.write_samples(out, 20, 3, batch_size=4)
    assert asked == [(0, 20), (4, 16)]
    model.write_samples(tmp_path / "whole.zip", 20, 3, batch_size=4)
    assert out.read_bytes() == (tmp_path / "whole.zip").read_bytes()


@pytest.mark.parametrize("mistake", [{"class_label": 7}, {"source": "nobody"}])
def test_a_mistaken_command_leaves_nothing(model: Model, tmp_path: Path, mistake: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        model.write_samples(tmp_path / "set.zip", 4, 3, **mistake)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
def test_encode_notices_replaced_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """What was encoded of images that have changed since is not mixed with the others."""
    monkeypatch.setattr(encoding, "_SHARD", 8)
    name = "photos" if kind == "folder" else f"photos.{kind}"
    old, new = photos(tmp_path / "old" / name), photos(tmp_path / "new" / name, seed=2)
    encode_set(new, tmp_path / "expected.zip", Averages())  # type: ignore[arg-type]
    source, asked = tmp_path / name, [0]
    old.rename(source)

    class Stopping(Averages):
        def encode(self, images: torch.Tensor) -> torch.Tensor:
            asked[0] += len(images)
            if asked[0] > 16:
                raise KeyboardInterrupt
            return super().encode(images)

    with pytest.raises(Interrupted):
        encode_set(source, tmp_path / "set.zip", Stopping())  # type: ignore[arg-type]
    source.rename(tmp_path / "gone")
    new.rename(source)
    with pytest.warns(UserWarning, match="have changed: they are encoded again"):
        encode_set(source, tmp_path / "set.zip", Averages())  # type: ignore[arg-type]
    assert (tmp_path / "set.zip").read_bytes() == (tmp_path / "expected.zip").read_bytes()


def test_ctrl_c_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of every verb, also of those that keep nothing."""

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    # this first: what it imports must not keep the other
    monkeypatch.setattr("nomadiff.workflows.evaluate.evaluate_sets", interrupted)
    monkeypatch.setattr("nomadiff.processes.join_processes", interrupted)
    for command in (["sample", "run", "--out", "s.zip"], ["evaluate", "s.zip", "--reference", "r", "--out", "m.json"]):
        assert main(command) == 130
        assert capsys.readouterr().err == "nomadiff: stopped\n"


def test_a_grid_is_not_overwritten(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sample", str(model.path.parent), "--count", "3", "--steps", "1", "--device", "cpu"]
    for name, code in (("s", 0), ("s.zip", 0), ("s.png", 2)):  # one picture holds no set of images
        assert main([*command, "--out", str(tmp_path / name)]) == code
    assert {entry.name for entry in tmp_path.glob("*.png")} == {"s-grid.png", "s.zip-grid.png"}
    before = (tmp_path / "s-grid.png").read_bytes()
    assert main([*command, "--seed", "1", "--out", str(tmp_path / "t"), "--grid", str(tmp_path / "s-grid.png")]) == 2
    assert "refusing to overwrite" in capsys.readouterr().err
    assert (tmp_path / "s-grid.png").read_bytes() == before and not (tmp_path / "t").exists()
