"""Files of physicsnemo's layout: a zip or a tar of arguments and weights, attention nested one level deeper."""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nomadiff.errors import DataError
from nomadiff.interop.importing import import_model
from nomadiff.interop.physicsnemo import from_physicsnemo

Make = Callable[..., tuple[nn.Module, dict[str, Any]]]


def members(network: nn.Module, arguments: dict[str, Any]) -> dict[str, bytes]:
    """The files inside an ``.mdlus``."""
    weights = {}
    for name, value in network.state_dict().items():
        nested = re.sub(r"(?<!map)\.(qkv|proj)\.", r".attn.\1.", name.replace(".norm2.", ".attn.norm."))
        weights[f"model.{nested}"] = value
    weights.setdefault("model.map_noise.freqs", torch.ones(8))  # a constant buffer
    weights["model.enc.8x8_conv.resample_filter"] = torch.ones(1, 1, 2, 2)
    weights["sigma_data"] = torch.tensor(0.5)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    full = {"use_fp16": False, "sigma_min": 0.0, "sigma_max": float("inf"), "img_in_channels": None, **arguments}
    args = {"__name__": "EDMPrecond", "__module__": "physicsnemo.diffusion.preconditioners.legacy", "__args__": full}
    return {"model.pt": buffer.getvalue(), "args.json": json.dumps(args).encode(), "metadata.json": b"{}"}


def write(path: Path, files: dict[str, bytes], kind: str = "zip", compression: int = zipfile.ZIP_STORED) -> Path:
    if kind == "zip":
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, kind) as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
@pytest.mark.parametrize("kind", ["zip", "w"])
def test_networks_of_physicsnemo(architecture: str, kind: str, tiny_network: Make, tmp_path: Path) -> None:
    network, arguments = tiny_network(architecture, 3)
    path = write(tmp_path / "net.mdlus", members(network, arguments), kind)
    model = import_model(path, tmp_path / "model")
    x, noise_label, labels = torch.randn(2, 3, 8, 8), torch.tensor([-1.0, 0.5]), torch.eye(3)[:2]
    with torch.no_grad():
        torch.testing.assert_close(
            model.denoiser.network(x, noise_label, labels), network(x, noise_label, labels), rtol=0, atol=1e-6
        )
    assert model.config.method == "edm" and model.config.classes == 3


def test_what_is_no_network_of_physicsnemo(tiny_network: Make, tmp_path: Path) -> None:
    network, arguments = tiny_network("ddpmpp")
    good = members(network, arguments)
    other = json.dumps({"__name__": "SwinRNN", "__args__": {}}).encode()
    conditioned = good["args.json"].replace(b'"img_in_channels": null', b'"img_in_channels": 9')
    broken = {
        "compress": write(tmp_path / "a.mdlus", good, compression=zipfile.ZIP_DEFLATED),
        "not a file of physicsnemo": write(tmp_path / "b.mdlus", {"model.pt": good["model.pt"]}),
        "not a file of physicsnemo ": write(tmp_path / "c.mdlus", good, "w:gz"),
        "holds a SwinRNN": write(tmp_path / "d.mdlus", {**good, "args.json": other}),
        "expected a table": write(tmp_path / "e.mdlus", {**good, "args.json": b"[]"}),
        "img_in_channels is 9": write(tmp_path / "f.mdlus", {**good, "args.json": conditioned}),
        "damaged zip": write(tmp_path / "g.mdlus", {**good, "model.pt": good["model.pt"][:-50]}),
    }
    pickled = io.BytesIO()
    torch.save([1, 2], pickled)
    broken["no table of weights"] = write(tmp_path / "h.mdlus", {**good, "model.pt": pickled.getvalue()})
    empty = tmp_path / "i.mdlus"
    empty.write_bytes(b"")
    broken["not a file of physicsnemo  "] = empty
    for message, path in broken.items():
        with pytest.raises(DataError, match=f"{path.name}.*{message.strip()}"):
            import_model(path, tmp_path / "model")


def test_a_tar_is_not_unpacked(tiny_network: Make, tmp_path: Path) -> None:
    network, arguments = tiny_network("ddpmpp")
    files = {**members(network, arguments), "../../outside.txt": b"x"}
    import_model(write(tmp_path / "net.mdlus", files, "w"), tmp_path / "model")
    assert not list(tmp_path.parent.parent.glob("outside.txt")) and not list(tmp_path.parent.glob("outside.txt"))


def test_a_tar_with_holes_is_not_unfolded(tmp_path: Path) -> None:
    """2.5 kB that say: four gigabytes of nothing."""
    path = tmp_path / "net.mdlus"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        arguments = b'{"__name__": "EDMPrecond", "__args__": {}}'
        member = tarfile.TarInfo("args.json")
        member.size = len(arguments)
        archive.addfile(member, io.BytesIO(arguments))
        hole = tarfile.TarInfo("model.pt")
        hole.type, hole.size = tarfile.GNUTYPE_SPARSE, 512
        header = bytearray(hole.tobuf(tarfile.GNU_FORMAT))
        header[386:398], header[398:410] = b"37777777000\0", b"00000001000\0"  # one block of data behind a long hole
        header[483:495] = b"37777777777\0"  # the size it unfolds to
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        archive.fileobj.write(bytes(header) + bytes(512))
        archive.offset += 1024
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="refused: a tar that unfolds to more than its size"):
        from_physicsnemo(path)
    for name, content in (("args.json", b"[" * 100_000), ("args.json", b"null")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
            archive.writestr("model.pt", b"x")
        with pytest.raises(DataError, match=r"args\.json: (not valid JSON|expected a table)"):
            from_physicsnemo(path)
