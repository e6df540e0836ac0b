"""The commands that docs/evaluation.md begins with run as they stand there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import noise_images

from nomadiff.cli import main
from nomadiff.data.writing import write_images
from nomadiff.tables import Table

PAGE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text(encoding="utf-8")
COMMANDS = re.search(r"```\n(nomadiff .*?)```", PAGE, re.DOTALL)[1].strip().splitlines()


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything that the commands name."""
    monkeypatch.chdir(tmp_path)
    sets = {"held-out": "real", "photos": "real", "scraped": "real"}
    sets |= dict.fromkeys(("samples.zip", "dm.zip", "casd.zip", "generated"), "synthetic")
    for seed, (name, kind) in enumerate(sets.items()):
        write_images(tmp_path / name, [noise_images(60, seed)], 60, manifest={"kind": kind})
    random = np.random.default_rng(0)
    np.save("real.npy", random.standard_normal((80, 4)))
    np.savez("generated.npz", features=random.standard_normal((60, 4)))
    torch.save(torch.from_numpy(random.standard_normal((50, 4))), "train.pt")
    rows = [
        {"method": method, "source": source, "seed": seed, "fd_pixels": 5.0 + seed, "precision": 0.9, "coverage": 0.8}
        for method, source in (("dm", ""), ("casd", "sdxl"))
        for seed in (0, 1)
    ]
    for folder, name in (("study", "metrics.json"), ("improved", "improve.json")):
        (tmp_path / folder).mkdir()
        Table(rows, {"evaluation": {"detector": "pixels", "count": 60}}).write(tmp_path / folder / name)
    return tmp_path


def test_the_commands_run(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {shlex.split(line)[1] for line in COMMANDS} == {"evaluate", "table", "metrics", "audit", "verdict"}
    for line in COMMANDS:
        assert main(shlex.split(line)[1:]) == 0, f"{line}: {capsys.readouterr().err}"
    for name in ("metrics.html", "metrics-nearest.csv", "metrics-nearest.png", "compared.html", "table.csv"):
        assert (files / name).is_file(), name
