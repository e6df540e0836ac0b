"""Hostile files of every kind that nomadiff opens, made here: what each is, and how it is opened.

``make(folder)`` writes them and yields cases; :mod:`tests.test_hostile_corpus` opens the quick ones in the process,
``scripts/hostile_corpus.py`` runs every one through the command line under limits. Anything that is run by one of these
files leaves a file beside ``canary``.
"""

from __future__ import annotations

import bz2
import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from nomadiff.networks.config import NetworkConfig
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.config import RunConfig
from nomadiff.training.run_folder import RunFolder, save_tensors
from nomadiff.training.settings import TrainingConfig

__all__ = ["Case", "make", "small_model"]


@dataclass(frozen=True)
class Case:
    """One file and what opens it.

    Attributes:
        kind: "images", "statistics", "weights", "model", "detector" or "vectors": which commands take it.
        path: the file or folder.
    """

    kind: str
    path: Path

    def commands(self, good: Path, out: Path) -> list[list[str]]:
        """Command lines that open it; ``good`` holds ``images/`` and ``vectors.npy``, ``out`` is fresh."""
        path, images = str(self.path), str(good / "images")
        if self.kind == "images":
            train = ["train", "--real", path, "--method", "dm", "--preset", "tiny", "--dry-run", "--resolution", "8"]
            return [["info", path], [*train, "--out", str(out / "run"), "--device", "cpu"]]
        if self.kind == "statistics":
            return [["evaluate", images, "--reference", path, "--out", str(out / "m.json"), "--device", "cpu"]]
        if self.kind == "weights":
            draw = ["synthesize", "--from", path, "--count", "1", "--out", str(out / "set"), "--device", "cpu"]
            return [["import", path, "--out", str(out / "model")], *([draw] if path.endswith(".pkl") else [])]
        if self.kind == "detector":
            words = ["evaluate", images, "--reference", images, "--detector", path, "--k", "1", "--device", "cpu"]
            return [[*words, "--out", str(out / "m.json")]]
        if self.kind == "vectors":
            return [["metrics", path, str(good / "vectors.npy"), "--out", str(out / "m.json")]]
        sample = ["sample", path, "--count", "2", "--steps", "2", "--out", str(out / "s.zip"), "--device", "cpu"]
        return [["info", path], sample]


def small_model(folder: Path) -> RunConfig:
    """A run folder with a network of a few kilobytes."""
    config = RunConfig(
        method="dm",
        network=NetworkConfig("ddpmpp", 8, 1, 8, (1,), 1, ()),
        training=TrainingConfig(budget=64, batch=32),
        sampler=SamplerConfig(steps=2),
        sigma_data=0.5,
        source_names=("real",),
        shares=(1.0,),
    )
    run = RunFolder(folder)
    run.begin(config, [{"name": "real", "kind": "real", "spec": "x", "count": 3}])
    recipe = {"recipe": config.to_dict(), "images_seen": 64}
    save_tensors(run.model_path, config.build_denoiser().state_dict(), recipe)
    run.log_path.write_text('{"images_seen": 64, "loss": 0.5}\n')
    return config


def make(folder: Path) -> Iterator[Case]:
    """Write the corpus into a new folder."""
    canary = folder / "canary"
    canary.mkdir(parents=True)
    good = folder / "good"
    _images(good / "images", 40)
    np.save(good / "vectors.npy", np.random.default_rng(0).standard_normal((60, 4)))
    config = small_model(good / "run")
    for kind, files in (
        ("statistics", {**_pickles(canary), **_statistics(), **_npz("mu")}),
        ("weights", {**_pickles(canary), **_torch_zips(canary)}),
        ("vectors", {**_npy(), **_npz("features"), **_torch_zips(canary)}),
        ("detector", {**_torch_zips(canary), "empty.pt": b"", "text.pt": b"hello"}),
        ("images", {**_npz("images"), **_npy(), **_zips(), **_tars()}),
        ("model", _safetensors(config)),
    ):
        (folder / kind).mkdir()
        for name, content in files.items():
            suffix = {"statistics": (".pkl", ".npz"), "detector": (".pt",)}.get(kind)
            path = folder / kind / (name if suffix is None or name.endswith(suffix) else f"{name}.pt")
            if kind == "statistics" and not name.endswith(suffix):
                path = path.with_name(f"{name}.pkl")
            path.write_bytes(content)
            yield Case(kind, path)
        for path in _no_files(
            folder / kind,
            {"statistics": ".pkl", "detector": ".pt", "model": ".safetensors", "images": ".zip", "vectors": ".npy"}.get(
                kind, ".pkl"
            ),
        ):
            yield Case(kind, path)
    yield from (Case("images", path) for path in _image_folders(folder / "image-folders"))
    yield from (Case("model", path) for path in _run_folders(folder / "runs", good / "run"))
    yield from (Case("model", path) for path in _guidance(folder / "guidance", good / "run"))
    yield from (Case("detector", path) for path in _scripts(folder / "scripts", canary))
    yield from _holes(folder / "holes")


# pickles


class _Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _pickles(canary: Path) -> dict[str, bytes]:
    touch = f"touch {canary}/ran"
    proto = b"\x80\x04"
    laughs = b"](" + b"G?\xf0\0\0\0\0\0\0" * 10 + b"eq\0"
    for level in range(8):
        laughs += b"](" + (b"h" + bytes([level])) * 10 + b"eq" + bytes([level + 1])
    shared = b"X\x10\0\0\0" + b"a" * 16 + b"q\0" + b"0"
    files = {
        "system": pickle.dumps(_Call(os.system, touch)),
        "eval": pickle.dumps(_Call(eval, f"__import__('os').system({touch!r})")),
        "nested": pickle.dumps({"ema": {"x": [_Call(os.system, touch)]}}),
        "protocol-0": b"cos\nsystem\n(S'" + touch.encode() + b"'\ntR.",
        "protocol-1": pickle.dumps(_Call(os.system, touch), 1),
        "getattr": proto + _name("builtins", "getattr") + _name("os", "system") + _text("x") + b"\x86R.",
        "numpy-run": proto + _name("numpy.testing._private.utils", "runstring") + _text(touch) + b"}\x86R.",
        "memo": proto + b"}(" + _text("a") + b"Nr\xff\xff\xff\xffu.",
        "laughs": proto + b"](" + laughs + b"e.",
        "deep-dict": proto + b"}K\x01" * 300_000 + b"N" + b"s" * 300_000 + b".",
        "deep-tuple": proto + b"N" + b"\x85" * 500_000 + b".",
        "many-dicts": proto + b"](" + b"}" * 1_000_000 + b"e.",
        "many-sets": proto + b"](" + b"\x8f" * 1_000_000 + b"e.",
        "long-integer": proto + b"\x8b\xff\xff\xff\x7f1.",
        "long-text": proto + b"X\xff\xff\xff\xffabc.",
        "long-bytes": proto + b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
        "frame": proto + b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
        "no-end": proto + b"N" * 1000,
        "empty": b"",
        "escape": proto + _name("\x1b[2J", "\x07") + b".",
        "names": proto + shared + b".",
        "endless-modules": proto + b"}q\0(" + _text("a") + b"h\0u.",
        "persistent": proto + _text("x") + b"Q.",
        "buffer": b"\x80\x05\x97.",
    }
    return {f"{name}.pkl": content for name, content in files.items()}


def _statistics() -> dict[str, bytes]:
    def call(module: str, name: str, *arguments: bytes) -> bytes:
        return _name(module, name) + b"(" + b"".join(arguments) + b"tR"

    def dtype(kind: str) -> bytes:
        return call("numpy", "dtype", _text(kind), b"\x89\x88")

    def state(flags: int, size: int) -> bytes:
        return b"(K\x03" + _text("|") + b"NNN" + b"J" + struct.pack("<i", size) + b"K\x01K" + bytes([flags]) + b"tb"

    eight = b"C\x08" + b"A" * 8
    rebuilt = call("numpy.core.multiarray", "_reconstruct", _name("numpy", "ndarray"), b"K\0\x85", b"C\x01b")
    arrays = {
        "pointer": call("numpy", "ndarray", b"K\x01\x85", dtype("O8"), eight),
        "pointer-state": rebuilt + b"(K\x01K\x01\x85" + dtype("O8") + b"\x89" + eight + b"tb",
        "pointer-buffer": call("numpy.core.numeric", "_frombuffer", eight, dtype("O8"), b"K\x01\x85", _text("C")),
        "void-flags": rebuilt + b"(K\x01K\x01\x85" + dtype("V8") + state(63, 8) + b"\x89" + eight + b"tb",
        "grown": rebuilt + b"(K\x01K\x01\x85" + dtype("f8") + state(0, 1 << 28) + b"\x89" + eight + b"tb",
        "shape-lie": rebuilt + b"(K\x01J\0\0\0\x10\x85" + dtype("f8") + b"\x89" + eight + b"tb",
        "negative": rebuilt + b"(K\x01J\xff\xff\xff\xff\x85" + dtype("f8") + b"\x89" + eight + b"tb",
        "16-gb": call("numpy", "ndarray", b"J\0\x94\x35\x77\x85"),
        "object-list": rebuilt + b"(K\x01K\x01\x85" + dtype("O8") + b"\x89](Netb",
        "scalar": call("numpy.core.multiarray", "scalar", dtype("O8"), eight),
        "strings": rebuilt + b"(K\x01K\x01\x85" + dtype("S8") + b"\x89" + eight + b"tb",
        "two-numbers": rebuilt + b"(K\x01K\x01\x85" + dtype("f8") + b"\x89" + eight + b"tb",
        "text": _text("mu"),
    }

    def file(mu: bytes) -> bytes:
        inner = b"}(" + _text("mu") + mu + _text("sigma") + mu + b"u"
        names = b"".join(_text(name) + inner for name in ("fd_pixels", "fid"))
        return b"\x80\x04}(" + _text("num_images") + b"K\x05" + names + b"u."

    return {f"array-{name}.pkl": file(mu) for name, mu in arrays.items()}


def _torch_zips(canary: Path) -> dict[str, bytes]:
    def saved(value: Any) -> bytes:
        handle = io.BytesIO()
        torch.save(value, handle)
        return handle.getvalue()

    whole = saved({"ema": torch.zeros(4)})
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}

    def zipped(change: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
        handle = io.BytesIO()
        with zipfile.ZipFile(handle, "w", method) as written:
            for name, content in (entries | change).items():
                written.writestr(name, content)
        return handle.getvalue()

    return {
        "call.pt": saved({"ema": _Call(os.system, f"touch {canary}/ran")}),
        "cut.pt": whole[:-300],
        "head.pt": b"PK\x03\x04" + bytes(100),
        "packed.pt": zipped({"archive/data/0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED),
        "no-pickle.pt": zipped({"archive/data.pkl": b""}),
        "junk-pickle.pt": zipped({"archive/data.pkl": b"\x80\x02}(X\1\0\0\0aQu."}),
        "big-endian.pt": zipped({"archive/byteorder": b"big"}),
        "lying.pt": whole.replace(struct.pack("<I", 16), struct.pack("<I", 0x7FFFFFFF)),
    }


# numpy's files


def _header(shape: str, kind: str = "|u1", data: bytes = b"") -> bytes:
    said = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said) + 1) + said + b"\n" + data


def _npy() -> dict[str, bytes]:
    files = {
        "huge": _header("(1000000000000, 3, 8, 8)", data=bytes(64)),
        "huge-vectors": _header("(1000000000000, 8)", "<f8", bytes(64)),
        "negative": _header("(-4, 8, 8, 1)", data=bytes(256)),
        "overflow": _header("(4294967296, 4294967296, 1, 1)", data=bytes(256)),
        "code": _header("__import__('os').abort()"),
        "deep": b"\x93NUMPY\x01\x00" + struct.pack("<H", 9001) + b"(" * 4500 + b")" * 4500 + b"\n",
        "float-shape": _header("(4.0, 8, 8, 1)", data=bytes(256)),
        "objects": _header("(1,)", "|O", pickle.dumps([1])),
        "long-header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 0xFFFFFFFF) + b" " * 100,
        "version": b"\x93NUMPY\x09\x09\x00\x00",
        "nothing": _header("(0, 8, 8, 1)"),
        "scalars": _header("()", "<f8", bytes(8)),
        "times": _header("(4, 4)", "<M8[s]", bytes(128)),
        "nan": _header("(60, 4)", "<f8", np.full(240, np.nan).tobytes()),
        "empty": b"",
    }
    return {f"{name}.npy": content for name, content in files.items()}


def _npz(first: str) -> dict[str, bytes]:
    square = {"mu": ("(2, 2)", "sigma"), "images": ("(4,)", "labels"), "features": ("(4,)", "other")}[first]
    kind = "<f8" if first == "mu" else "<i8"
    rest = _header(square[0], kind, bytes(32))
    zeros = bz2.compress(bytes(200_000_000), 9)
    files = {
        "bz2": _raw_zip(
            [(f"{first}.npy", zeros, 12, 1000, 0), (f"{square[1]}.npy", rest, 0, len(rest), zlib.crc32(rest))]
        ),
        "claims": _raw_zip([(f"{first}.npy", b"x", 0, 0xFFFFFF00, 0), (f"{square[1]}.npy", rest, 0, len(rest), 1)]),
        "crc": _raw_zip([(f"{first}.npy", rest, 0, len(rest), 1), (f"{square[1]}.npy", rest, 0, len(rest), 1)]),
        "method": _raw_zip([(f"{first}.npy", rest, 99, len(rest), 1), (f"{square[1]}.npy", rest, 99, len(rest), 1)]),
        "eocd": b"PK\x05\x06" + b"\xff" * 18,
    }
    for name, content in _npy().items():
        handle = io.BytesIO()
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{first}.npy", content)
            archive.writestr(f"{square[1]}.npy", content if name == "scalars.npy" else rest)
        files[name.removesuffix(".npy")] = handle.getvalue()
    return {f"npz-{name}.npz": content for name, content in files.items()}


def _raw_zip(members: list[tuple[str, bytes, int, int, int]]) -> bytes:
    """A zip with any claims: name, content, method, unpacked size, checksum."""
    out = io.BytesIO()
    _write_zip(out, members)
    return out.getvalue()


def _write_zip(out: Any, members: Sequence[tuple[str, bytes | int, int, int, int]]) -> None:
    """As :func:`_raw_zip`; a content that is a number is a hole of so many bytes."""
    table = b""
    for name, content, method, size, crc in members:
        place = out.tell()
        length = content if isinstance(content, int) else len(content)
        head = struct.pack("<HHHHIIIHH", 0, method, 0, 0x21, crc, length, size, len(name.encode()), 0)
        out.write(b"PK\x03\x04" + struct.pack("<H", 20) + head + name.encode())
        out.seek(length, os.SEEK_CUR) if isinstance(content, int) else out.write(content)
        table += b"PK\x01\x02" + struct.pack("<HH", 20, 20) + head + struct.pack("<HHHII", 0, 0, 0, 0, place)
        table += name.encode()
    start, count = out.tell(), len(members)
    out.write(table + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(table), start, 0))


def _holes(folder: Path) -> Iterator[Case]:
    """Files of 3 GB that take no room on disk, each whole in its own format."""
    folder.mkdir()
    size = 3 << 30
    saved = io.BytesIO()
    torch.save({"ema": torch.zeros(4)}, saved)
    with zipfile.ZipFile(saved) as archive:
        pickled = archive.read("archive/data.pkl")
    pickled = pickled.replace(b"K\x04", b"\x8a\x05" + (size // 4).to_bytes(5, "little"))
    header = json.dumps({"x": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}).encode()
    arguments = b'{"__name__": "EDMPrecond", "__module__": "m", "__args__": {}}'
    tar = tarfile.TarInfo("model.pt")
    tar.size = size
    zips: dict[str, tuple[str, list[tuple[str, bytes | int]]]] = {
        "torch.pt": ("weights", [("archive/data.pkl", pickled), ("archive/data/0", size)]),
        "pickle.pt": ("weights", [("archive/data.pkl", size)]),
        "zip.mdlus": ("weights", [("args.json", arguments), ("model.pt", size)]),
        "script.pt": (
            "detector",
            [("m/data.pkl", b"\x80\x02}."), ("m/data/0", size), ("m/constants.pkl", b"\x80\x02).")],
        ),
        "features.npz": ("vectors", [("features.npy", size)]),
        "mu.npz": ("statistics", [("mu.npy", size), ("sigma.npy", size >> 4)]),
        "images.npz": ("images", [("images.npy", size)]),
        "images.zip": ("images", [("a.png", size >> 3), ("b.png", _png())]),
    }
    starts = {
        "model.safetensors": ("model", struct.pack("<Q", len(header)) + header),
        "other.safetensors": ("weights", struct.pack("<Q", len(header)) + header),
        "tar.mdlus": ("weights", tar.tobuf()),
        "vectors.npy": ("vectors", _header(f"({size // 64}, 8)", "<f8")),
        "images.npy": ("images", _header(f"({size // 64}, 8, 8, 1)")),
    }
    for name, (kind, members) in zips.items():
        with open(folder / name, "wb") as handle:
            lengths = [content if isinstance(content, int) else len(content) for _, content in members]
            sums = [0 if isinstance(content, int) else zlib.crc32(content) for _, content in members]
            _write_zip(handle, [(*member, 0, length, crc) for member, length, crc in zip(members, lengths, sums)])
        yield Case(kind, folder / name)
    for name, (kind, start) in starts.items():
        with open(folder / name, "wb") as handle:
            handle.write(start)
            handle.truncate(len(start) + size)
        yield Case(kind, folder / name)


# images


def _png(seed: int = 0) -> bytes:
    handle = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(handle, "PNG")
    return handle.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _images(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"g{index}.png").write_bytes(_png(index))
    return folder


def _tars() -> dict[str, bytes]:
    def packed(*more: tuple[str, bytes, dict[str, Any]]) -> bytes:
        handle = io.BytesIO()
        with tarfile.open(fileobj=handle, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name, content, claims in [*((f"{index}.png", _png(index), {}) for index in range(4)), *more]:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                for claim, value in claims.items():
                    setattr(member, claim, value)
                archive.addfile(member, io.BytesIO(content))
        return handle.getvalue()

    whole, claim = packed(), tarfile.TarInfo("big.png")
    claim.size = 1 << 50
    negative = bytearray(packed(("back.png", b"xx", {})))  # a size below zero leads back to where one was before
    header = negative.index(b"back.png")
    negative[header + 124 : header + 136] = b"\xff" * 10 + b"\xf0\x00"
    total = 256 + sum(negative[header : header + 148]) + sum(negative[header + 156 : header + 512])
    negative[header + 148 : header + 156] = b"%06o\0 " % total
    files = {
        "links": packed(("link.png", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"})),
        "hard-links": packed(("link.png", b"", {"type": tarfile.LNKTYPE, "linkname": "0.png"})),
        "device": packed(("null.png", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3})),
        "sparse": packed(("hole.png", b"x" * 512, {"type": tarfile.GNUTYPE_SPARSE})),
        "pax-sparse": packed(("hole.png", b"1\n0\n9\n", {"pax_headers": {"GNU.sparse.major": "1"}})),
        "pax-size": packed(("big.png", b"xx", {"pax_headers": {"size": "9" * 30}})),
        "pax-text": packed(("long.png", b"xx", {"pax_headers": {"comment": "x" * 3_000_000}})),
        "claims": whole[: -(-len(whole.rstrip(b"\0")) // 512) * 512] + claim.tobuf(tarfile.GNU_FORMAT) + bytes(20_480),
        "negative": bytes(negative),
        "dotdot": packed(("../../evil.png", _png(), {})),
        "absolute": packed(("/etc/evil.png", _png(), {})),
        "escape": packed(("\x1b]0;x\x07ok.png", b"xx", {})),
        "long-name": packed(("a" * 60_000 + ".png", b"xx", {})),
        "twice": packed(("0.png", _png(), {})),
        "labels": packed(*((f"{index}.cls", b"\x1b[2J" * (index + 1), {}) for index in range(4))),
        "labels-deep": packed(*((f"{index}.json", b"[" * 100_000, {}) for index in range(4))),
        "labels-long": packed(*((f"{index}.cls", b"9" * 10_000, {}) for index in range(4))),
        "manifest": packed(("manifest.json", b'{"kind": ["real"]}', {})),
        "cut": whole[:1500],
        "no-end": whole.rstrip(b"\0"),
        "torn": whole[:512] + b"\xff" * 512 + whole[1024:],
        "empty": b"",
        "zip": b"PK\x03\x04garbage",
    }
    return {f"{name}.tar": content for name, content in files.items()}


def _zips() -> dict[str, bytes]:
    images = [(f"i{index}.png", _png(index)) for index in range(4)]

    def zipped(*more: tuple[str, bytes]) -> bytes:
        handle = io.BytesIO()
        with zipfile.ZipFile(handle, "w") as archive:
            for name, content in [*images, *more]:
                archive.writestr(name, content)
        return handle.getvalue()

    zeros = bz2.compress(bytes(200_000_000), 9)
    whole = [(name, content, 0, len(content), zlib.crc32(content)) for name, content in images]
    files = {
        "bz2": _raw_zip([("a.png", zeros, 12, 1000, 0), *whole]),
        "bz2-manifest": _raw_zip([("manifest.json", zeros, 12, 1000, 0), *whole]),
        "crc": _raw_zip([(name, content, 0, len(content), 1) for name, content in images]),
        "escape": _raw_zip([("\x1b]0;x\x07\x1b[2J\nok.png", b"xx", 0, 2, zlib.crc32(b"xx")), *whole]),
        "long-name": _raw_zip([("a" * 60_000 + ".png", b"xx", 0, 2, zlib.crc32(b"xx")), *whole]),
        "dotdot": zipped(("../../evil.png", _png())),
        "absolute": zipped(("/etc/evil.png", _png())),
        "digits": zipped(("9" * 60_000 + ".png", _png())),
        "labels-deep": zipped(("dataset.json", b"[" * 100_000)),
        "labels-types": zipped(("dataset.json", b'{"labels": [["i0.png", 1e308], ["i1.png", true]]}')),
        "labels-long": zipped(("dataset.json", b'{"labels": [["i0.png", ' + b"9" * 10_000 + b"]]}")),
        "labels-table": zipped(("dataset.json", b'{"labels": {"i0.png": {}}}')),
        "manifest-deep": zipped(("manifest.json", b"[" * 100_000)),
        "manifest-nan": zipped(("manifest.json", b'{"kind": NaN, "count": -1e999}')),
        "manifest-list": zipped(("manifest.json", b'{"kind": ["real"]}')),
        "latents-deep": zipped(("latents.json", b"[" * 100_000), ("a.npy", _header("(4, 8, 8)", "<f4", bytes(1024)))),
        "latents-lie": zipped(("latents.json", b"{}"), ("a.npy", _header("(4, 90000, 90000)", "<f4", bytes(64)))),
        "none": b"PK\x03\x04garbage",
        "empty": b"",
        "eocd": b"PK\x05\x06" + b"\xff" * 18,
    }
    return {f"{name}.zip": content for name, content in files.items()}


def _image_folders(folder: Path) -> Iterator[Path]:
    head = b"\x89PNG\r\n\x1a\n"

    def claims(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
        size = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
        return head + _chunk(b"IHDR", size) + _chunk(b"IDAT", zlib.compress(bytes(1000), 9)) + _chunk(b"IEND", b"")

    text = _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(60 << 20), 9))
    tiff = [(256, 4, 1, 60_000), (257, 4, 1, 60_000), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 8), (279, 4, 1, 9)]
    bad = {
        "side.png": claims(0x7FFFFFFF, 0x7FFFFFFF),
        "zero.png": claims(0, 0),
        "bit.png": claims(30_000, 30_000, 1),
        "text.png": _png()[:33] + text * 20 + _png()[33:],
        "svg.png": b'<!DOCTYPE l [<!ENTITY a SYSTEM "file:///etc/passwd">]><svg>&a;</svg>',
        "eps.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n",
        "wide.tif": b"II*\0\x08\0\0\0"
        + struct.pack("<H", 6)
        + b"".join(struct.pack("<HHII", *e) for e in tiff)
        + bytes(9),
        "loop.tif": b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8),
        "frames.gif": b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,"
        + struct.pack("<HHHH", 0, 0, 65535, 65535)
        + b"\0\x02\x02\x4c\x01\0;",
        "digits.pgm": b"P5\n" + b"9" * 100_000 + b" 8\n255\n",
        "minus.bmp": b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, -0x7FFFFFFF, 0x7FFFFFFF, 1, 24, 0, 0, 0, 0, 0, 0),
        "long.webp": b"RIFF"
        + struct.pack("<I", 0xFFFFFFF0)
        + b"WEBPVP8X"
        + struct.pack("<I", 10)
        + b"\x02"
        + b"\xff" * 9,
        "a\nnomadiff: fine\x1b[2J.png": b"xx",
        "dataset.json": b"[" * 100_000,
        "manifest.json": b'{"kind": ' + b"9" * 5000 + b"}",
        "latents.json": b"null",
    }
    for number, (name, content) in enumerate(bad.items()):
        (_images(folder / f"f{number}") / name).write_bytes(content)
        yield folder / f"f{number}"
    for number, (name, kind) in enumerate(
        (name, kind) for name in ("x.png", "manifest.json", "dataset.json") for kind in ("fifo", "zero", "dangling")
    ):
        place = _images(folder / f"n{number}") / name
        if kind == "fifo":
            os.mkfifo(place)
        else:
            place.symlink_to("/dev/zero" if kind == "zero" else "/nowhere")
        yield place.parent
    loop = _images(folder / "loop")
    (loop / "again").symlink_to(".")
    (loop / "self").symlink_to("self")
    yield loop
    with open(_images(folder / "sparse") / "x.png", "wb") as handle:
        handle.truncate(1 << 40)
    yield folder / "sparse"


# models


_JSON = [
    "[" * 100_000,
    "[1, 2]",
    "null",
    "",
    "{}",
    "9" * 5000,
    "\0\1",
    '{"recipe": "x"}',
    '{"recipe": [1]}',
    '{"a":' * 9999,
]


def _safetensors(config: RunConfig) -> dict[str, bytes]:
    def file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
        return struct.pack("<Q", len(header) if length is None else length) + header + data

    def weights(recipe: Any) -> bytes:
        header: dict[str, Any] = {
            "__metadata__": {"nomadiff": recipe if isinstance(recipe, str) else json.dumps(recipe)}
        }
        place = 0
        for name, value in tensors.items():
            header[name] = {
                "dtype": "F32",
                "shape": list(value.shape),
                "data_offsets": [place, place + 4 * value.numel()],
            }
            place += 4 * value.numel()
        return file(json.dumps(header).encode(), b"".join(value.numpy().tobytes() for value in tensors.values()))

    tensors = config.build_denoiser().state_dict()
    recipe = config.to_dict()
    one = '{"x": {"dtype": "F32", "shape": %s, "data_offsets": [0, %d]}}'
    files = {
        "long-header": file(b"{}", length=1 << 62),
        "deep-header": file(b"[" * 100_000),
        "text-header": file(b"hello"),
        "shape": file((one % ("[1000000000000]", 4)).encode(), bytes(4)),
        "overflow": file((one % ("[4294967296, 4294967296]", 4)).encode(), bytes(4)),
        "offsets": file((one % ("[1]", 1 << 40)).encode(), bytes(4)),
        "no-metadata": file((one % ("[1]", 4)).encode(), bytes(4)),
        "empty": b"",
    }
    for number, text in enumerate(_JSON):
        files[f"metadata{number}"] = weights(text.replace("\0", "").replace("\1", ""))
    changes: list[dict[str, Any]] = [
        {"model_channels": 20_000},
        {"model_channels": 8000, "channel_mult": [8, 8, 8]},
        {"blocks": 1_000_000},
        {"channel_mult": [1] * 1000},
        {"resolution": 10**9},
        {"channels": -3},
        {"channels": "three"},
        {"attention": [[1]]},
        {"architecture": "unet2d", "settings": "[" * 100_000},
        {"architecture": "edm2", "channel_mult_embedding": 10**6},
        {"architecture": "unet2d", "settings": '{"unet": {"layers_per_block": 1000000}, "scheduler": {}}'},
        {"architecture": "unet2d", "settings": '{"unet": {}, "scheduler": {"num_train_timesteps": 1000000000000}}'},
        {"augment_dim": 10**9},
        {"dropout": "x"},
        {"settings": "x"},
    ]
    for number, change in enumerate(changes):
        files[f"network{number}"] = weights({"recipe": {**recipe, "network": {**recipe["network"], **change}}})
    others: list[dict[str, Any]] = [
        {"sigma_data": float("nan")},
        {"sigma_data": "x"},
        {"sigma_data": 0},
        {"classes": 10**9},
        {"sources": 10**6},
        {"classes": -1},
        {"source_names": [[1]]},
        {"source_names": []},
        {"source_names": ["\x1b[2J"]},
        {"shares": ["x"]},
        {"sampler": {"steps": 10**9}},
        {"sampler": {"steps": 0}},
        {"sampler": {"churn": []}},
        {"training": None},
        {"training": {**recipe["training"], "p_mean": "x"}},
        {"latents": {"mean": [0.0] * 10**5, "std": [1.0] * 10**5}},
        {"latents": {"factor": 10**15, "mean": [0.0], "std": [1.0]}},
        {"method": "\x1b]0;x\x07"},
        {"unknown": 1},
    ]
    for number, change in enumerate(others):
        files[f"recipe{number}"] = weights({"recipe": {**recipe, **change}})
    facts = {"method": "x", "drawn_shape": [1, 8, 8], "sampler": recipe["sampler"], "network": recipe["network"]}
    called = [{"architecture": name} for name in ("os:system", "absent_parts:Mine", "subprocess:Popen", "x:" * 10**5)]
    called += [{"architecture": "nomadiff.denoiser:EDMDenoiser", "settings": '{"network": "x"}'}]
    named = [{"network": {**recipe["network"], **each}} for each in called]
    for number, change in enumerate([*named, {"network": None}, {"drawn_shape": [1, -8]}, {"classes": 10**9}, {}]):
        files[f"denoiser{number}"] = weights({"denoiser": {**facts, **change}})
    for number, text in enumerate(_JSON[1:3]):
        files[f"facts{number}"] = weights(f'{{"denoiser": {text}}}')
    return {f"{name}.safetensors": content for name, content in files.items()}


def _run_folders(folder: Path, good: Path) -> Iterator[Path]:
    row = '{"images_seen": 10, "held_out_loss": %s, "gap": %s, "gap_error": 0.1}'
    lines = [row % values for values in (("NaN", "0.1"), ("0.0", "0.1"), ("1e308", "1e308"), ("0.1", '"x"'))]
    edits = [
        (name, text) for name in ("config.json", "sources.json", "log.jsonl") for text in [*_JSON, '[{"name": 5}]']
    ] + [("validation.jsonl", text) for text in [*_JSON, *lines]]
    for number, (name, text) in enumerate(edits):
        run = shutil.copytree(good, folder / f"r{number}")
        (run / name).write_text(text)
        yield run
    for number, name in enumerate(
        ("config.json", "sources.json", "log.jsonl", "model.safetensors", "validation.jsonl", "best.safetensors")
    ):
        for kind in ("fifo", "zero"):
            run = shutil.copytree(good, folder / f"{kind}{number}")
            (run / name).unlink(missing_ok=True)
            if kind == "fifo":
                os.mkfifo(run / name)
            else:
                (run / name).symlink_to("/dev/zero")
            yield run


def _guidance(folder: Path, good: Path) -> Iterator[Path]:
    known = {"kind": "extrapolation", "weight": 1.0, "base": str(good), "auxiliary": str(good)}
    changes: list[Any] = [
        *_JSON,
        {"base": 5},
        {"base": None},
        {"base": ["x"]},
        {"base": "a\0b"},
        {"base": "a" * 100_000},
        {"weight": "x"},
        {"weight": 10**400},
        {"interval": "ab"},
        {"interval": [1, 2, 3]},
        {"interval": [{}, {}]},
        {"kind": ["x"]},
        {"kind": "source", "auxiliary": None, "source": "x"},
        {"kind": "source", "auxiliary": None, "source": -1},
        {"kind": "classifier-free", "auxiliary": None},
        {"kind": "discriminator"},
        {"method": "\x1b]0;x\x07"},
        {"base": "/dev/zero"},
        {"base": "/etc/passwd"},
        {"base": "."},
        {"auxiliary": "."},
        {"base": "/"},
    ]
    for number, change in enumerate(changes):
        place = folder / f"g{number}"
        place.mkdir(parents=True)
        (place / "guidance.json").write_text(change if isinstance(change, str) else json.dumps({**known, **change}))
        yield place
    for number in range(18):  # every level uses the next one twice
        deeper = str(good) if number == 17 else f"../chain{number + 1}"
        (folder / f"chain{number}").mkdir()
        text = json.dumps({**known, "base": deeper, "auxiliary": deeper})
        (folder / f"chain{number}" / "guidance.json").write_text(text)
    yield from (folder / "chain0", folder / "chain9")


# TorchScript


def _scripts(folder: Path, canary: Path) -> Iterator[Path]:
    """Written as text: no module has to be compiled from a source file."""
    folder.mkdir()
    bodies = {
        "save": f'torch.save(x, "{canary}/ran")\n    return torch.flatten(torch.to(x, 6), 1)',
        "method": f'x.save("{canary}/ran")\n    return torch.flatten(torch.to(x, 6), 1)',
        "map": f'return torch.to(torch.from_file("{canary}/ran", True, 64, dtype=0), 6)',
        "print": 'print("\\x1b[2J")\n    return torch.flatten(torch.to(x, 6), 1)',
        "wrong": "return torch.zeros([3, 4])",
        "text": 'return "hello"',
        "huge": "return torch.zeros([torch.size(x, 0), 100000000000])",
        "nan": 'return torch.mul(torch.flatten(torch.to(x, 6), 1), float("nan"))',
        "broken": "return (((",
    }
    for name, body in bodies.items():
        returned = "str" if name == "text" else "Tensor"
        code = "class M(Module):\n  __parameters__ = []\n  __buffers__ = []\n  training : bool\n"
        code += f"  def forward(self: __torch__.M, x: Tensor) -> {returned}:\n    {body}\n"
        data = b"\x80\x02c__torch__\nM\n)\x81}(X\x08\0\0\0training\x89ub."
        with zipfile.ZipFile(folder / f"{name}.pt", "w") as archive:
            for entry, content in (
                ("data.pkl", data),
                ("code/__torch__.py", code),
                ("constants.pkl", b"\x80\x02)."),
                ("version", b"3\n"),
            ):
                archive.writestr(f"m/{entry}", content)
        yield folder / f"{name}.pt"


def _no_files(folder: Path, suffix: str) -> Iterator[Path]:
    """What has a name like a file, and is none."""
    os.mkfifo(folder / f"fifo{suffix}")
    (folder / f"zero{suffix}").symlink_to("/dev/zero")
    (folder / f"dangling{suffix}").symlink_to("/nowhere")
    with open(folder / f"sparse{suffix}", "wb") as handle:
        handle.truncate(1 << 40)
    yield from (folder / f"{kind}{suffix}" for kind in ("fifo", "zero", "dangling", "sparse"))
