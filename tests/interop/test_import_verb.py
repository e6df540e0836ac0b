"""``nomadiff import`` on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nomadiff.cli import main
from nomadiff.models.model import Model


def test_a_snapshot_becomes_a_model(
    lookalikes: Any, tiny_network: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, arguments = tiny_network("adm", 3)
    path = tmp_path / "network-snapshot-000200.pkl"
    path.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
    assert main(["import", str(path), "--out", str(tmp_path / "model")]) == 0
    printed = capsys.readouterr().out
    assert "adm, 8x8" in printed and "3 classes" in printed
    assert Model.load(tmp_path / "model", device="cpu").config.training.budget == 200_000
    assert main(["info", str(tmp_path / "model")]) == 0
    assert "100 from network-snapshot-000200.pkl (imported)" in capsys.readouterr().out
    assert main(["import", str(path), "--out", str(tmp_path / "casd"), "--sources", "real, a, b"]) == 0
    assert Model.load(tmp_path / "casd", device="cpu").config.source_names == ("real", "a", "b")


def test_cards_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", "--list"]) == 0
    printed = capsys.readouterr().out
    assert "edm-cifar10-uncond-vp" in printed and "55.7 M parameters, 35 NFE, FID 1.97" in printed


def test_wrong_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import"]) == 2
    assert "nomadiff import FILE --out MODEL" in capsys.readouterr().err
    evil = tmp_path / "evil.pkl"
    evil.write_bytes(b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00truetR.")
    assert main(["import", str(evil), "--out", str(tmp_path / "m")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "it asks for os.system" in error
