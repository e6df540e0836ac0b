"""A pickle is a program: nothing in it may be run."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nomadiff.errors import DataError
from nomadiff.interop.torch_files import Module, read_torch_file
from nomadiff.pickled_values import Array
from nomadiff.safe_pickle import PickleReader, Reference


class Call:
    """Pickles as a call of ``function`` with ``arguments``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def program(*parts: bytes) -> bytes:
    """A pickle of protocol 4 from these instructions."""
    return b"\x80\x04" + b"".join(parts) + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def data(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def legacy_storage(count: int, numbers: bytes, pickled: bytes | None = None, little_endian: bool = True) -> bytes:
    """A storage as a bare pickle carries it, with any claims."""
    identity = b"\x80\x02(" + text("storage") + name("torch", "FloatStorage") + text("k") + text("cpu")
    identity += b"\x8a\x08" + struct.pack("<q", count) + b"NtQ."
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": little_endian}]
    return (
        b"".join(pickle.dumps(value, 2) for value in head)
        + (pickled or identity)
        + pickle.dumps(["k"], 2)
        + struct.pack("<q", count)
        + numbers
    )


# Two pickles of a value that holds one value twice, that one another twice, ...: to compare them takes 2 ** 22 steps.
_TWICE = b")" + b"q\x00h\x00\x86" * 22
DOUBLING = b"\x80\x02N" + _TWICE + b"K\x04\x87." + b"\x80\x02]" + _TWICE + b"a."


def tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], storage: bytes | None = None) -> bytes:
    """A call of torch's tensor rebuilder on a storage of four numbers, with any claims."""

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x09" + value.to_bytes(9, "little", signed=True) for value in values) + b"t"

    file = storage if storage is not None else legacy_storage(4, bytes(16))
    loaded = call("torch.storage", "_load_from_bytes", data(file))
    pieces = (loaded, numbers((offset,))[1:-1], numbers(size), numbers(stride), b"\x89", b"N")
    return call("torch._utils", "_rebuild_tensor_v2", *pieces)


def persistent(state: bytes, source: str = "") -> bytes:
    """An object of torch_utils.persistence."""
    items = text("class_name") + text("Precond") + text("module_src") + text(source) + text("state") + state
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", b"}(" + items + b"u")


def stored(key: str) -> bytes:
    """The pickle of a zip that holds a storage of four numbers under ``key``."""
    return b"\x80\x02(" + text("storage") + name("torch", "FloatStorage") + text(key) + text("cpu") + b"K\x04tQ."


def zipped(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    handle = io.BytesIO()
    with zipfile.ZipFile(handle, "w", compression) as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    return handle.getvalue()


def hostile(canary: Path) -> dict[str, bytes]:
    """Fifty and more files that must be refused; those that could run something would make ``canary``."""
    touch = f"touch {canary}"
    write = f"open({str(canary)!r}, 'w').write('was run')"
    code = f"import os; os.system({touch!r})"
    good = pickle.dumps({"a": 1}, 4)
    inner = pickle.dumps(Call(os.system, touch), 4)
    evil_storage = legacy_storage(4, bytes(16), pickle.dumps(Call(os.system, touch), 2))
    calls = {
        "os.system": ("os", "system", text(touch)),
        "posix.system": ("posix", "system", text(touch)),
        "nt.system": ("nt", "system", text(touch)),
        "os.popen": ("os", "popen", text(touch)),
        "os.execvp": ("os", "execvp", text("touch"), b"]" + text("touch") + b"a"),
        "subprocess.Popen": ("subprocess", "Popen", b"](" + text("touch") + text(str(canary)) + b"e"),
        "subprocess.check_output": ("subprocess", "check_output", b"](" + text("touch") + text(str(canary)) + b"e"),
        "pty.spawn": ("pty", "spawn", text("touch")),
        "eval": ("builtins", "eval", text(write)),
        "exec": ("builtins", "exec", text(write)),
        "old eval": ("__builtin__", "eval", text(write)),
        "compile": ("builtins", "compile", text(write), text("x"), text("exec")),
        "open": ("builtins", "open", text(str(canary)), text("w")),
        "io.open": ("_io", "open", text(str(canary)), text("w")),
        "__import__": ("builtins", "__import__", text("os")),
        "importlib": ("importlib", "import_module", text("antigravity")),
        "runpy": ("runpy", "run_path", text(str(canary))),
        "pickle.loads": ("pickle", "loads", data(inner)),
        "_pickle.loads": ("_pickle", "loads", data(inner)),
        "torch.load": ("torch", "load", text(str(canary))),
        "numpy.load": ("numpy", "load", text(str(canary))),
        "torch.hub.load": ("torch.hub", "load", text("evil/evil"), text("x")),
        "marshal.loads": ("marshal", "loads", b"C\x01x"),
        "code object": ("types", "CodeType", b"K\x00"),
        "ctypes": ("ctypes", "CDLL", text("libc.so.6")),
        "shutil.rmtree": ("shutil", "rmtree", text(str(canary.parent))),
        "os.remove": ("os", "remove", text(__file__)),
        "socket": ("socket", "create_connection", text("example.org")),
        "methodcaller": ("operator", "methodcaller", text("system"), text(touch)),
        "partial": ("functools", "partial", name("os", "system"), text(touch)),
        "copyreg": ("copyreg", "_reconstructor", name("os", "system"), name("builtins", "object"), b"N"),
        "typed storage": ("torch.storage", "TypedStorage", b"K\x04"),
        "function attribute": ("torch.storage", "_load_from_bytes.__globals__"),
        "class attribute": ("collections", "OrderedDict.__init__.__globals__"),
        "nested package": ("torch_utils.persistence", "sys.modules"),
        "name with a line end": ("collections\r", "OrderedDict"),
        "encode as code": ("_codecs", "decode", text(write), text("rot13")),
    }
    getattr_chain = call("builtins", "getattr", call("builtins", "__import__", text("os")), text("system"))
    files = {key: program(call(*parts)) for key, parts in calls.items()}
    files |= {
        "reduce of a real object": pickle.dumps({"ema": Call(os.system, touch)}, 4),
        "reduce in protocol 2": pickle.dumps({"ema": Call(eval, write)}, 2),
        "reduce in protocol 5": pickle.dumps({"ema": Call(exec, code)}, 5),
        "getattr chain": program(getattr_chain, b"(", text(touch), b"tR"),
        "stack global": program(b"\x8c\x02os\x8c\x06system\x93", b"(", text(touch), b"tR"),
        "stack global of no text": program(b"K\x01K\x02\x93"),
        "inst": program(b"(", text(touch), b"ios\nsystem\n"),
        "obj": program(b"(", name("collections", "OrderedDict"), b"o"),
        "extension registry": program(b"\x82\x01"),
        "newobj with keywords": program(name("collections", "OrderedDict"), b")}\x92"),
        "old persistent id": program(b"Pevil\n"),
        "persistent id": program(text("evil"), b"Q"),
        "state for a name": program(name("collections", "OrderedDict"), b"}", b"b"),
        "state that sets attributes": program(
            name("torch.storage", "_load_from_bytes"), b"N}(", text("__code__"), b"Nu\x86b"
        ),
        "call of a dictionary": program(b"})R"),
        "call of a result": program(call("collections", "OrderedDict"), b")R"),
        "call of a type": program(call("torch", "FloatStorage")),
        "items into a name": program(name("collections", "OrderedDict"), text("a"), text("b"), b"s"),
        "storage that is a pickle": program(call("torch.storage", "_load_from_bytes", data(inner))),
        "storage that hides one": program(tensor(0, (4,), (1,), evil_storage)),
        "storage of a thousand terabytes": program(tensor(0, (4,), (1,), legacy_storage(1 << 48, bytes(16)))),
        "storage cut short": program(tensor(0, (4,), (1,), legacy_storage(4, bytes(15)))),
        "tensor larger than its storage": program(tensor(0, (5,), (1,))),
        "tensor that repeats its storage": program(tensor(0, (1 << 40,), (0,))),
        "tensor before its storage": program(tensor(-8, (4,), (1,))),
        "tensor with a far stride": program(tensor(0, (2, 2), (1, 1 << 60))),
        "tensor of a negative size": program(tensor(0, (-1, -4), (1, 1))),
        "numpy objects": program(call("numpy", "dtype", text("O8"))),
        "numpy text": program(call("numpy", "dtype", text("O,evil"))),
        "object without state": program(persistent(b"N")),
        "bytes beyond the end": program(b"\x8e" + struct.pack("<Q", 1 << 62) + b"x"),
        "text beyond the end": program(b"\x8d" + struct.pack("<Q", (1 << 64) - 1) + b"x"),
        "frame beyond the end": program(b"\x95" + struct.pack("<Q", 1 << 40) + b"N"),
        "integer of a gigabyte": program(b"\x8b" + struct.pack("<i", 1 << 30)),
        "integer of negative length": program(b"\x8b" + struct.pack("<i", -1)),
        "name without end": program(b"c" + b"a" * 5000),
        "memo that is not there": program(b"h\x07"),
        "empty stack": program(b"R"),
        "two values": program(b"NN"),
        "only a mark": program(b"("),
        "mark as a value": program(b"(\x85"),
        "odd dictionary": program(b"}(K\x01u"),
        "list as a key": program(b"}]K\x01s"),
        "colliding keys": program(b"}\x8a\x10" + (((1 << 61) - 1) * 8).to_bytes(16, "little") + b"Ns"),
        "set of colliding keys": program(b"\x8f(\x8a\x10" + (((1 << 61) - 1) * 8).to_bytes(16, "little") + b"\x90"),
        "values unfolding": unfolding(),
        "text of no encoding": program(b"X\x02\x00\x00\x00\xff\xfe"),
        "no stop": good[:-1],
        "truncated": good[:5],
        "only a header": b"\x80\x04",
        "one byte": b"\x80",
        "nothing": b"",
        "protocol 0": pickle.dumps({"a": [1]}, 0),
        "protocol 1": pickle.dumps({"a": [1]}, 1),
        "protocol 6": b"\x80\x06" + good[2:],
        "something behind": good + b"x",
        "second pickle behind": good + pickle.dumps(Call(os.system, touch), 4),
        "not a pickle": b"#!/bin/sh\ntouch " + str(canary).encode(),
        "zip that calls": zipped({"archive/data.pkl": pickle.dumps(Call(os.system, touch), 2)}),
        "zip bomb": zipped({"archive/data.pkl": bytes(10_000_000)}, zipfile.ZIP_DEFLATED),
        "zip with two": zipped({"a/data.pkl": good, "b/data.pkl": good}),
        "zip of something else": zipped({"readme.txt": b"hello"}),
        "zip cut short": zipped({"archive/data.pkl": good})[:-30],
        "zip without its storage": zipped({"archive/data.pkl": stored("0")}),
        "zip with a short storage": zipped({"archive/data.pkl": stored("0"), "archive/data/0": bytes(8)}),
        "zip with a path as storage": zipped({"archive/data.pkl": stored("../../../etc/passwd")}),
        "zip of another byte order": zipped({"archive/data.pkl": good, "archive/byteorder": b"big"}),
        "old file that calls": legacy_storage(4, bytes(16), pickle.dumps(Call(os.system, touch), 2)),
        "old file of another machine": legacy_storage(4, bytes(16), little_endian=False),
        "storage of values that double": program(tensor(0, (4,), (1,), legacy_storage(4, bytes(16), DOUBLING))),
        "old file with a false length": legacy_storage(4, bytes(16))[:-24] + struct.pack("<q", 5) + bytes(16),
    }
    return files


def unfolding() -> bytes:
    """One text of a megabyte, made into bytes again and again: a file of a megabyte that would fill the memory."""
    again = b"h\x01h\x00h\x02\x86R"
    remember = name("_codecs", "encode") + b"q\x01" + text("latin1") + b"q\x02"
    return program(text("x" * 1_000_000), b"q\x00", remember, again * 1000, b"t")


HOSTILE = sorted(hostile(Path("canary")))


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 50


@pytest.mark.parametrize("which", HOSTILE)
def test_hostile_files_are_refused_and_nothing_is_run(which: str, canary: Path, tmp_path: Path, watch: Any) -> None:
    path = tmp_path / "snapshot.pkl"
    path.write_bytes(hostile(canary)[which])
    with pytest.raises(DataError, match="snapshot.pkl") as refused:
        watch.on = True
        read_torch_file(path)
    watch.on = False
    assert watch.events == []
    assert not canary.exists()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


def test_the_stock_unpickler_would_have_run_them(canary: Path) -> None:
    """The canary works: running a pickle makes it."""
    pickle.loads(hostile(canary)["eval"])
    assert canary.exists()


def test_the_message_names_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    path.write_bytes(hostile(tmp_path / "c")["subprocess.Popen"])
    with pytest.raises(DataError, match=r"model\.pkl: refused: it asks for subprocess\.Popen, .*nothing was run"):
        read_torch_file(path)


REASONS = {
    "storage of a thousand terabytes": "bytes announced",
    "storage cut short": "bytes announced",
    "storage that hides one": "asks for (os|posix).system",
    "tensor larger than its storage": "a tensor of 5 numbers in a storage of 4",
    "tensor that repeats its storage": "a tensor of 1,099,511,627,776 numbers",
    "tensor before its storage": "no number",
    "values unfolding": "unfold to more than its size",
    "zip bomb": "compressed",
    "zip cut short": "damaged zip",
    "zip without its storage": "storage 0 is missing",
    "zip with a short storage": "16 bytes announced, 8 there",
    "storage of values that double": "not a storage",
    "old file of another machine": "big-endian",
    "colliding keys": "key of type int",
    "only a header": "has no end",
    "protocol 0": "protocol 2 to 5",
    "inst": "instruction 0x69",
}


@pytest.mark.parametrize("which", REASONS)
def test_refused_for_the_right_reason(which: str, canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(hostile(canary)[which])
    with pytest.raises(DataError, match=REASONS[which]):
        read_torch_file(path)


def test_the_same_pieces_with_honest_claims_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(program(tensor(1, (3,), (1,), legacy_storage(4, np.arange(4, dtype="<f4").tobytes()))))
    assert read_torch_file(path).tolist() == [1, 2, 3]
    path.write_bytes(legacy_storage(4, bytes(16)))
    assert read_torch_file(path).tolist() == [0, 0, 0, 0]
    path.write_bytes(zipped({"archive/data.pkl": stored("0"), "archive/data/0": bytes(16)}))
    assert read_torch_file(path).tolist() == [0, 0, 0, 0]


def test_messages_cannot_drive_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(program(name("\x1b[2Jos", "sys\ttem")))
    with pytest.raises(DataError) as refused:
        read_torch_file(path)
    assert str(refused.value).isprintable() and "?[2Jos.sys?tem" in str(refused.value)


def test_source_text_in_a_snapshot_is_dropped(tmp_path: Path, canary: Path, watch: Any) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(program(persistent(b"}", source=f"open({str(canary)!r}, 'w')")))
    watch.on = True
    found = read_torch_file(path)
    watch.on = False
    assert type(found) is Module and found.class_name == "Precond" and found.state == {}
    assert watch.events == [] and not canary.exists()


def test_modules_that_contain_themselves_end() -> None:
    inner = Module("ModuleDict", {})
    inner.state["_modules"] = {"again": inner, "and again": inner}
    with pytest.raises(DataError, match="contain themselves"):
        inner.state_dict()


def test_deep_nesting_is_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "deep.pkl"
    path.write_bytes(program(b")" + b"\x85" * 20_000))
    value = read_torch_file(path)
    for _ in range(10):
        (value,) = value
    path.write_bytes(program(b"}" + b")" + b"\x85" * 1_000_000 + b"Ns"))
    with pytest.raises(DataError, match="key of type tuple"):
        read_torch_file(path)


def test_endless_programs_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomadiff.safe_pickle.MOST_INSTRUCTIONS", 1000)
    path = tmp_path / "long.pkl"
    path.write_bytes(program(b"Nq\x00" * 1000))
    with pytest.raises(DataError, match="more than 1,000 pickle instructions"):
        read_torch_file(path)


PLAIN = {
    "none": None,
    "flags": [True, False],
    "integers": [0, 1, 255, 256, 65535, 65536, -1, -(2**31), 2**31, 2**63, -(2**70)],
    "floats": [0.0, -1.5, 1e300, float("inf")],
    "texts": ["", "a", "ü" * 300, "x" * 70_000],
    "bytes": [b"", b"abc", bytes(300), bytes(70_000)],
    "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "dicts": {1: {}, "a": {"b": [1, {"c": 2}]}},
    "sets": {"a", "b"},
    "ordered": OrderedDict(a=1, b=2),
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_back_from_every_protocol(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "plain.pkl"
    path.write_bytes(pickle.dumps(PLAIN, protocol))
    assert read_torch_file(path) == PLAIN


def test_shared_values_stay_shared(tmp_path: Path) -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    path = tmp_path / "shared.pkl"
    path.write_bytes(pickle.dumps({"a": shared, "b": shared}, 4))
    found = read_torch_file(path)
    assert found["a"] is found["b"] and found["a"][1] is found["a"]


def test_names_are_values_that_do_nothing() -> None:
    reader = PickleReader(program(name("os", "system")), "x", {("os", "system"): lambda: None})
    found = reader.read()
    assert found == Reference("os", "system") and not callable(found)


TENSORS = {
    "float32": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4).transpose(0, 2),
    "float16": torch.tensor([1.5, -2.0], dtype=torch.float16),
    "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "float64": torch.tensor(3.25, dtype=torch.float64),
    "int64": torch.tensor([2**40, -1]),
    "int32": torch.tensor([[7]], dtype=torch.int32),
    "uint8": torch.tensor([0, 255], dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "empty": torch.empty(0, 3),
    "slice": torch.arange(10.0)[3:7],
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("how", ["pickle", "zip", "old"])
def test_tensors_come_back_from_every_container(how: str, tmp_path: Path) -> None:
    path = tmp_path / "t.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(TENSORS, 4))
    else:
        torch.save(TENSORS, path, _use_new_zipfile_serialization=how == "zip")
    found = read_torch_file(path)
    assert found.keys() == TENSORS.keys()
    for key, value in TENSORS.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value.detach()), key


def test_a_state_dict_comes_back(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    torch.save(module.state_dict(), tmp_path / "s.pt")  # an OrderedDict that has an attribute
    found = read_torch_file(tmp_path / "s.pt")
    assert all(torch.equal(found[key], value) for key, value in module.state_dict().items())


@pytest.mark.parametrize("how", ["pickle", "zip"])
def test_numpy_values_come_back(how: str, tmp_path: Path) -> None:
    values = {"scalar": np.float64(0.1), "integer": np.int64(-3), "array": np.arange(6, dtype=">f4").reshape(2, 3)}
    values["column-major"] = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    path = tmp_path / "n.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(values, 4))
    else:
        torch.save(values, path)
    found = read_torch_file(path)
    assert found["scalar"] == 0.1 and found["integer"] == -3
    for key in ("array", "column-major"):
        assert type(found[key]) is Array and np.array_equal(found[key].value, values[key])


def test_old_numpy_names_are_known(tmp_path: Path) -> None:
    data = pickle.dumps(np.float32(2.5), 2).replace(b"numpy._core.", b"numpy.core.")
    (tmp_path / "n.pkl").write_bytes(data)
    assert read_torch_file(tmp_path / "n.pkl") == 2.5


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_torch_file(tmp_path / "none.pkl")


def test_python_itself_is_as_before(canary: Path, tmp_path: Path) -> None:
    """Attribute tricks must not have changed what they pointed at."""
    before = (torch.storage._load_from_bytes.__code__, OrderedDict.__init__, builtins.set)
    path = tmp_path / "h.pkl"
    for content in hostile(canary).values():
        path.write_bytes(content)
        with pytest.raises(DataError):
            read_torch_file(path)
    assert (torch.storage._load_from_bytes.__code__, OrderedDict.__init__, builtins.set) == before
