"""Vectors are read from every usual file, and nothing in one is run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nomadiff.cli import main
from nomadiff.errors import DataError
from nomadiff.files import read_json
from nomadiff.metrics.frechet import Statistics
from nomadiff.metrics.vector_files import read_real_vectors, read_vectors, save_real_vectors


def draw(count: int, seed: int, dimension: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    values = draw(60, 0)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "one.npz", anything=values)
    np.savez(tmp_path / "named.npz", features=values, labels=np.zeros(60))
    np.savez_compressed(tmp_path / "packed.npz", values)
    torch.save(torch.from_numpy(values), tmp_path / "bare.pt")
    torch.save(
        {"features": torch.from_numpy(values).requires_grad_(), "paths": ["a.png"], "x": torch.zeros(2)},
        tmp_path / "n.pt",
    )
    torch.save({"only": torch.from_numpy(values), "count": 60}, tmp_path / "only.pth")
    save_file({"features": torch.from_numpy(values), "other": torch.zeros(2)}, tmp_path / "s.safetensors")
    return {path.name: path for path in sorted(tmp_path.iterdir())}


def test_every_file_gives_the_same_vectors(files: dict[str, Path]) -> None:
    assert len(files) == 8
    for name, path in files.items():
        assert np.array_equal(read_vectors(path), draw(60, 0)), name
    torch.save(torch.from_numpy(draw(60, 0)).bfloat16(), files["bare.pt"])
    assert read_vectors(files["bare.pt"]).dtype == np.float32


def test_what_cannot_be_vectors_is_refused_in_a_line(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path}/ran",)

    np.savez(tmp_path / "two.npz", a=draw(3, 0), b=draw(3, 0))
    np.savez(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    torch.save({"features": Runs()}, tmp_path / "code.pt")
    torch.save([draw(3, 0)], tmp_path / "list.pt")
    torch.save({"a": torch.zeros(2, 2), "b": torch.zeros(2, 2)}, tmp_path / "both.pt")
    torch.save(torch.zeros(3, 2).to_sparse(), tmp_path / "sparse.pt")
    torch.save(torch.zeros(3, 2, 2), tmp_path / "cube.pt")
    torch.save(torch.zeros(3, 2, dtype=torch.complex64), tmp_path / "complex.pt")
    torch.save(torch.zeros(3, 2), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name, told in {
        "two.npz": "one that is called 'features'; there are a, b",
        "none.npz": "there are none",
        "text.npz": "cannot be read as a .npz archive",
        "code.pt": "holds more than tensors and plain values; nothing of it was run",
        "list.pt": "holds more than tensors and plain values; nothing of it was run",
        ".": "a folder; vectors are in a file",
        "both.pt": "there are a, b",
        "sparse.pt": "got something else",
        "cube.pt": r"expected vectors \(N, D\), one a row, got float32 \(3, 2, 2\)",
        "complex.pt": "got complex64",
        "old.pt": "not a file of torch.save, or damaged",
        "absent.pt": "no such file",
    }.items():
        with pytest.raises(DataError, match=told) as caught:
            read_vectors(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_statistics_stand_for_real_vectors(tmp_path: Path, capsys) -> None:
    real, fake = draw(200, 0), draw(80, 1)
    np.save(tmp_path / "real.npy", real)
    torch.save(torch.from_numpy(fake), tmp_path / "fake.pt")
    words = ["metrics", str(tmp_path / "real.npy"), str(tmp_path / "fake.pt"), "--out", str(tmp_path / "a.json")]
    assert main([*words, "--save-reference", str(tmp_path / "ref.npz")]) == 0
    text = capsys.readouterr().out
    assert "fdr" in text and "fresh real data: 57 of the real vectors judged by the other 143" in text
    assert "few for" not in text
    assert np.array_equal(read_real_vectors(tmp_path / "ref.npz"), real)
    assert f"80 generated vectors ({tmp_path / 'fake.pt'}) of dimension" in text and "by 200 real ones" in text
    turned = ["metrics", str(tmp_path / "fake.pt"), "--reference", str(tmp_path / "ref.npz"), "--out"]
    assert main([*turned, str(tmp_path / "b.json")]) == 0  # as evaluate takes them
    assert read_json(tmp_path / "a.json")["rows"] == read_json(tmp_path / "b.json")["rows"]
    with np.load(tmp_path / "ref.npz") as archive:
        np.savez(tmp_path / "edm.npz", mu=archive["mu"], sigma=archive["sigma"])
    assert isinstance(read_real_vectors(tmp_path / "edm.npz"), Statistics)
    capsys.readouterr()
    edm = ["metrics", str(tmp_path / "edm.npz"), str(tmp_path / "fake.pt")]
    assert main([*edm, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)  # nothing else is printed, and no file is written
    assert [row["metric"] for row in found["rows"]] == ["frechet_distance", "bures_wasserstein"]
    whole = {row["metric"]: row for row in read_json(tmp_path / "a.json")["rows"]}
    assert found["rows"][0]["value"] == pytest.approx(whole["frechet_distance"]["value"], rel=1e-5)
    assert found["rows"][0]["floor"] is None and found["meta"]["count"] == {"real": None, "fake": 80}
    for more, told in (
        (["--train", str(tmp_path / "real.npy")], "replication needs the real vectors themselves"),
        (["--save-reference", str(tmp_path / "x.npz")], "holds statistics only"),
    ):
        assert main([*edm, *more, "--json"]) == 2
        assert told in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()


def test_too_few_vectors_for_the_dimension_are_said_in_one_line(tmp_path: Path, capsys) -> None:
    np.save(tmp_path / "real.npy", draw(300, 0, 60))
    np.save(tmp_path / "fake.npy", draw(50, 1, 60))
    assert (
        main(["metrics", str(tmp_path / "real.npy"), str(tmp_path / "fake.npy"), "--out", str(tmp_path / "m.json")])
        == 0
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "few for" in line]
    assert len(lines) == 1 and lines[0].startswith("few for 60 dimensions (fake 50): the bare Frechet distance depends")


def test_a_saved_reference_is_written_whole(tmp_path: Path) -> None:
    save_real_vectors(tmp_path / "ref.npz", draw(50, 0))
    with np.load(tmp_path / "ref.npz") as archive:
        assert set(archive.files) == {"mu", "sigma", "count", "features"} and archive["count"] == 50
