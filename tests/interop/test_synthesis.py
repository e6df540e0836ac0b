"""Synthetic sets: killed and continued, every image is there once, with its manifest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.errors import Interrupted, UsageError
from nomadiff.interop.generators import Drawn, ModelGenerator
from nomadiff.interop.importing import import_model
from nomadiff.interop.synthesis import METADATA_NAME, synthesize
from nomadiff.models.model import Model
from nomadiff.processes import Processes


class Squares:
    """A generator of squares whose colour is their index."""

    def __init__(
        self, size: int = 8, stop_at: int | None = None, name: str = "squares", width: int | None = None
    ) -> None:
        self.batch_size = 4
        self.class_names = ("red", "green", "blue")
        self.size, self.width, self.stop_at, self.name = size, width or size, stop_at, name
        self.asked: list[int] = []

    def draw(self, indices: Sequence[int]) -> list[Drawn]:
        assert list(indices) == list(range(indices[0], indices[-1] + 1)) and len(indices) <= self.batch_size
        if self.stop_at is not None and self.stop_at in indices:
            raise KeyboardInterrupt
        self.asked += indices
        shape = (self.size, self.width, 3)
        return [Drawn(np.full(shape, i, np.uint8), {"seed": 7, "index": i, "text": f"no {i}"}, i % 3) for i in indices]

    def facts(self) -> dict[str, Any]:
        return {"generator": self.name, "seed": 7}


def test_a_set_has_images_labels_records_and_a_manifest(tmp_path: Path) -> None:
    out = synthesize(Squares(), tmp_path / "set", 10, first=20)
    assert not (tmp_path / "set.part").exists()
    assert {entry.name for entry in out.iterdir()} == {"00000", "dataset.json", "manifest.json", METADATA_NAME}
    source = ImageSource.open(out, name="squares", synthetic=True)
    assert source.images[:, 0, 0, 0].tolist() == list(range(20, 30))
    assert source.labels is not None and source.labels.tolist() == [i % 3 for i in range(20, 30)]
    assert source.class_names == ("red", "green", "blue")
    manifest = source.provenance["manifest"]
    assert manifest["kind"] == "synthetic" and manifest["generator"] == "squares"
    assert manifest["first"] == 20 and manifest["count"] == 10 and manifest["resize"] is None
    with pytest.raises(UsageError, match="synthetic"):
        ImageSource.open(out, name="real", synthetic=False)
    lines = [json.loads(line) for line in (out / METADATA_NAME).read_text().splitlines()]
    assert lines[3] == {"file_name": "00000/img00000003.png", "seed": 7, "index": 23, "text": "no 23"}
    with Image.open(out / "00000" / "img00000003.png") as image:
        assert json.loads(image.info["nomadiff"])["text"] == "no 23"


def test_a_zip_is_the_same_set(tmp_path: Path) -> None:
    synthesize(Squares(), tmp_path / "set", 5)
    synthesize(Squares(), tmp_path / "set.zip", 5)
    one, other = (ImageSource.open(tmp_path / name, name="s", synthetic=True) for name in ("set", "set.zip"))
    assert one.content_hash == other.content_hash and one.labels is not None and other.labels is not None
    assert one.labels.tolist() == other.labels.tolist() and not (tmp_path / "set.zip.part").exists()


def test_an_interrupted_set_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(Interrupted, match="run the same command again"):
        synthesize(Squares(stop_at=13), out, 20)
    assert not out.exists() and len(list((tmp_path / "set.part").glob("**/*.png"))) == 12
    (tmp_path / "set.part" / "images" / "00000" / "img00000005.png").write_bytes(b"torn")
    rest = Squares()
    synthesize(rest, out, 20)
    assert rest.asked == [*range(4, 8), *range(12, 20)], "whole batches: another size rounds differently"
    images = ImageSource.open(out, name="s", synthetic=True).images
    assert images[:, 0, 0, 0].tolist() == list(range(20))


def test_another_job_does_not_mix_in(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(Interrupted):
        synthesize(Squares(stop_at=5), out, 20)
    for change in ({"first": 1}, {"resolution": 4}):
        with pytest.raises(UsageError, match=f"another job half done .differs in {next(iter(change))}"):
            synthesize(Squares(), out, 20, **change)
    with pytest.raises(UsageError, match="differs in generator"):
        synthesize(Squares(name="other"), out, 20)
    synthesize(Squares(), out, 20)
    with pytest.raises(UsageError, match="exists already"):
        synthesize(Squares(), out, 20)
    (tmp_path / "new.part").mkdir()
    (tmp_path / "new.part" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="not a job of nomadiff"):
        synthesize(Squares(), tmp_path / "new", 3)
    with pytest.raises(UsageError, match="at least 1"):
        synthesize(Squares(), tmp_path / "none", 0)


def test_images_are_made_square_as_documented(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="12x8 pixels, not square; pass --resolution"):
        synthesize(Squares(width=12), tmp_path / "wide", 2)
    out = synthesize(Squares(width=12), tmp_path / "fit", 2, resolution=4)
    assert ImageSource.open(out, name="s", synthetic=True).resolution == 4
    assert "Lanczos" in json.loads((out / "manifest.json").read_text())["resize"]


def test_two_processes_share_a_set(tmp_path: Path) -> None:
    """What each of two would do, one after the other."""
    shares = [Squares(), Squares()]
    steps: list[str] = []

    class Other(Processes):
        def barrier(self) -> None:
            steps.append(f"{self.rank}")
            if self.rank == 0 and len(steps) == 1:  # the other one draws as soon as the folder is claimed
                synthesize(shares[1], tmp_path / "set", 9, processes=Other(1, 2, torch.device("cpu")))

    synthesize(shares[0], tmp_path / "set", 9, processes=Other(0, 2, torch.device("cpu")))
    assert shares[0].asked == [0, 1, 2, 3, 4] and shares[1].asked == [5, 6, 7, 8]
    assert len(ImageSource.open(tmp_path / "set", name="s", synthetic=True)) == 9


def make_model(lookalikes: Any, tiny_network: Any, folder: Path, classes: int = 3) -> Model:
    torch.set_num_threads(1)
    network, arguments = tiny_network("ddpmpp", classes)
    (folder / "n.pkl").write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
    return import_model(folder / "n.pkl", folder / "model")


def test_models_draw_the_same_images_as_sample(lookalikes: Any, tiny_network: Any, tmp_path: Path) -> None:
    model = make_model(lookalikes, tiny_network, tmp_path)
    sampler = replace(model.config.sampler, steps=3)
    out = synthesize(ModelGenerator(model, seed=4, batch_size=3, sampler=sampler), tmp_path / "set", 7, first=5)
    source = ImageSource.open(out, name="own", synthetic=True)
    drawn = model.sample(7, 4, first=5, batch_size=3, sampler=sampler)
    assert (source.images.int() - drawn.int()).abs().max() <= 1  # batches of another size round differently
    classes = model.drawn_classes(range(5, 12), 4)
    assert source.labels is not None and classes is not None and source.labels.tolist() == classes.tolist()
    assert source.provenance["manifest"]["model_sha256"] == model.sha256


def test_the_verb_on_a_model(
    lookalikes: Any, tiny_network: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_model(lookalikes, tiny_network, tmp_path)
    command = ["synthesize", "--from", str(tmp_path / "model"), "--count", "3", "--out", str(tmp_path / "own.zip")]
    assert main([*command, "--steps", "2", "--dry-run"]) == 0
    assert main([*command, "--steps", "2", "--device", "cpu", "--class-label", "1"]) == 0
    source = ImageSource.open(tmp_path / "own.zip", name="own", synthetic=True)
    assert source.labels is not None and source.labels.tolist() == [1, 1, 1]
    assert main([*command, "--prompts", "faces"]) == 2
    assert "--prompts is for a text-to-image pipeline; " in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_process_continues(lookalikes: Any, tiny_network: Any, tmp_path: Path) -> None:
    """SIGKILL in the middle: no cleanup runs."""
    make_model(lookalikes, tiny_network, tmp_path, classes=0)
    arguments = ["synthesize", "--from", str(tmp_path / "model"), "--count", "60", "--out", str(tmp_path / "set")]
    arguments += ["--steps", "3", "--batch-size", "2", "--device", "cpu"]
    script = textwrap.dedent(f"""
        import torch
        torch.set_num_threads(1)
        from nomadiff.cli import main
        main({arguments!r})
    """)
    process = subprocess.Popen([sys.executable, "-c", script])
    part = tmp_path / "set.part"
    deadline = time.monotonic() + 60
    while len(list(part.glob("**/*.png"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(list(part.glob("**/*.png")))
    assert main(arguments) == 0
    source = ImageSource.open(tmp_path / "set", name="own", synthetic=True)
    assert len(source) == 60 and not list((tmp_path / "set").glob("**/.*"))
    if before < 60:
        assert len({image.numpy().tobytes() for image in source.images}) == 60


class TestTextToImage:
    """A pipeline with random weights, from its folder to a set with provenance."""

    def command(self, pipeline: Path, out: Path, *more: str) -> list[str]:
        return [
            *("synthesize", "--from", str(pipeline), "--prompts", "class-names", "--count", "7", "--out", str(out)),
            *("--steps", "2", "--guidance-scale", "3", "--resolution", "8", "--batch-size", "2", "--device", "cpu"),
            *more,
        ]

    def test_every_image_has_its_prompt(self, pipeline: Path, tmp_path: Path) -> None:
        assert main(self.command(pipeline, tmp_path / "set")) == 0
        source = ImageSource.open(tmp_path / "set", name="sd", synthetic=True)
        assert len(source) == 7 and source.resolution == 8 and source.labels is not None
        manifest = source.provenance["manifest"]
        assert manifest["generator"] == "StableDiffusionPipeline" and manifest["prompts"] == "class-names"
        assert manifest["guidance_scale"] == 3 and manifest["num_inference_steps"] == 2
        lines = [json.loads(line) for line in (tmp_path / "set" / METADATA_NAME).read_text().splitlines()]
        assert len({line["seed"] for line in lines}) == 7 and len({line["text"] for line in lines}) == 7
        names = ["an airplane", "a car", "a bird", "a cat", "a deer", "a dog", "a frog", "a horse", "a ship", "a truck"]
        for line, label in zip(lines, source.labels.tolist()):
            assert (
                names[label] in line["text"]
                and line["attributes"]["class"] == names[label] == source.class_names[label]
            )

    def test_an_image_depends_on_its_index_alone(self, pipeline: Path, tmp_path: Path) -> None:
        assert main(self.command(pipeline, tmp_path / "all")) == 0
        assert main(self.command(pipeline, tmp_path / "tail", "--first", "4")) == 0
        one, other = (
            ImageSource.open(tmp_path / name, name="sd", synthetic=True).images.int() for name in ("all", "tail")
        )
        assert (one[4:] - other[:3]).abs().max() <= 1
        assert not torch.equal(other[3:], one[3:7])

    def test_interrupted_and_continued(self, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from nomadiff.interop.generators import PipelineGenerator

        whole = PipelineGenerator._run

        def stopping(self: Any, wanted: Any) -> Any:
            if wanted[0][0] >= 4:
                raise KeyboardInterrupt
            return whole(self, wanted)

        monkeypatch.setattr(PipelineGenerator, "_run", stopping)
        assert main(self.command(pipeline, tmp_path / "set")) == 130
        assert len(list((tmp_path / "set.part").glob("**/*.png"))) == 4
        monkeypatch.setattr(PipelineGenerator, "_run", whole)
        assert main(self.command(pipeline, tmp_path / "set")) == 0
        assert main(self.command(pipeline, tmp_path / "again")) == 0
        one, other = (ImageSource.open(tmp_path / name, name="sd", synthetic=True) for name in ("set", "again"))
        assert one.content_hash == other.content_hash

    def test_blacked_out_images_are_drawn_anew(
        self, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from nomadiff.interop.generators import PipelineGenerator

        whole = PipelineGenerator._run

        def flagging(self: Any, wanted: Any) -> Any:
            images, _ = whole(self, wanted)
            return images, [index == 3 and attempt < 2 for index, attempt in wanted]

        monkeypatch.setattr(PipelineGenerator, "_run", flagging)
        assert main(self.command(pipeline, tmp_path / "set")) == 0
        lines = [json.loads(line) for line in (tmp_path / "set" / METADATA_NAME).read_text().splitlines()]
        assert [line.get("attempt") for line in lines] == [None, None, None, 2, None, None, None]
        monkeypatch.setattr(
            PipelineGenerator, "_run", lambda self, wanted: (whole(self, wanted)[0], [True] * len(wanted))
        )
        assert main(self.command(pipeline, tmp_path / "never")) == 1

    def test_wrong_use(self, pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        command = self.command(pipeline, tmp_path / "set")
        without = [word for word in command if word not in ("--prompts", "class-names")]
        assert main(without) == 2 and "needs --prompts: faces, class-names" in capsys.readouterr().err
        (tmp_path / "ddpm").mkdir()
        (tmp_path / "ddpm" / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DModel"]}')
        for words in (command, without):
            words[words.index("--from") + 1] = str(tmp_path / "ddpm")
            assert main(words) == 1 and "import it first (nomadiff import" in capsys.readouterr().err
            words[words.index("--from") + 1] = str(pipeline)
        assert main([*command, "--dry-run"]) == 0
        assert "prompts: 160" in capsys.readouterr().out and not (tmp_path / "set.part").exists()
        assert main([*command, "--dtype", "fp8"]) == 2
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "model_index.json").write_text("{}")
        assert main(self.command(tmp_path / "broken", tmp_path / "set")) == 1
        assert "cannot be loaded" in capsys.readouterr().err
