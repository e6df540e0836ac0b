"""TorchScript files as detectors and classifiers."""

from __future__ import annotations

import warnings
import zipfile

import pytest
import torch

from nomadiff.cli import main
from nomadiff.data.writing import write_images
from nomadiff.errors import DataError, UsageError
from nomadiff.files import read_json
from nomadiff.metrics.detectors import load_classifier, load_detector
from nomadiff.metrics.distance_names import distance_name
from nomadiff.metrics.evaluate import evaluate


class Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() / 255
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


class Wrong(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float() if images.shape[1] == 3 else images.float().flatten(1) @ torch.ones(3, 1)


def saved(network: torch.nn.Module, path) -> str:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(network).save(path)
    return str(path)


def test_a_file_is_a_detector_named_after_it(tmp_path, images) -> None:
    detector = load_detector(saved(Means(), tmp_path / "my-means.pt"))
    x = images(40, 3, 16)
    torch.testing.assert_close(detector(x), Means()(x))
    assert distance_name(detector) == "fd_my_means" and len(detector.sha256) == 64
    result = evaluate(x[:20], x[20:], detector=detector)
    assert result["fd_my_means"] > 0 and result["composition"] is None


def test_info_takes_it_for_a_detector_and_weights_for_weights(tmp_path, capsys) -> None:
    saved(Means(), tmp_path / "mine.pt")
    assert main(["info", str(tmp_path / "mine.pt")]) == 0
    assert "detector:    mine" in capsys.readouterr().out
    torch.save({"a": torch.zeros(3)}, tmp_path / "weights.pt")
    assert main(["info", str(tmp_path / "weights.pt")]) == 1
    assert "import them first" in capsys.readouterr().err


class Asked(torch.nn.Module):
    """The interface of NVIDIA's detectors: class scores unless features are asked for."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        features = images.float().mean((2, 3))
        return features if return_features else features @ torch.eye(3, 2)


def test_a_file_that_can_be_asked_for_features_is_asked(tmp_path, images) -> None:
    path = saved(Asked(), tmp_path / "asked.pt")
    x = images(4, 3, 16)
    assert load_detector(path)(x).shape == (4, 3)
    assert load_classifier(path)(x).shape == (4, 2)  # of a classifier the scores


def test_a_saved_reference_is_read_with_the_classifier_that_made_it(tmp_path, images) -> None:
    """It knew its classes once it had classified an image, and a saved reference is classified already."""
    path = saved(Means(), tmp_path / "scores.pt")
    for name in ("real", "made"):
        write_images(tmp_path / name, [images(60, 3, 16)], 60, manifest={})
    words = ["evaluate", str(tmp_path / "made"), "--detector", "pixels", "--classifier", path, "--device", "cpu"]
    saving = ["--reference", str(tmp_path / "real"), "--allow-synthetic-as-real", "--save-reference"]
    assert main([*words, *saving, str(tmp_path / "r.npz"), "--out", str(tmp_path / "a.json")]) == 0
    assert main([*words, "--reference", str(tmp_path / "r.npz"), "--out", str(tmp_path / "b.json")]) == 0
    one, other = (read_json(tmp_path / f"{name}.json")["rows"] for name in "ab")
    assert one == other and any(row["metric"] == "composition_tv" for row in one)


def test_as_a_classifier_its_output_are_scores(tmp_path, images) -> None:
    path = saved(Means(), tmp_path / "scores.pt")
    x = images(40, 3, 16)
    result = evaluate(x[:20], x[20:], detector="pixels", classifier=path)
    assert len(result["composition"]) == 6 and result["meta"]["classifier"] == "scores"
    assert torch.equal(load_classifier(path).classes(x), Means()(x).argmax(1))


def test_bad_files_and_outputs_are_told(tmp_path, images) -> None:
    whole = saved(Means(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:500])
    with pytest.raises(DataError, match=r"cut\.pt: not a TorchScript file, or damaged"):
        load_detector(str(tmp_path / "cut.pt"))
    with pytest.raises(DataError, match="no such detector file"):
        load_detector(str(tmp_path / "absent.pt"))
    with pytest.raises(UsageError, match="takes no weights"):
        load_detector(whole, weights=whole)
    wrong = load_detector(saved(Wrong(), tmp_path / "wrong.pt"))
    with pytest.raises(UsageError, match=r"must give \(2, D\) features, it gives \(2, 3, 16, 16\)"):
        wrong(images(2, 3, 16))
    with pytest.raises(UsageError, match=r"detector wrong fails on images \(2, 1, 16, 16\)") as caught:
        wrong(images(2, 1, 16))
    assert "\n" not in str(caught.value)


class Save(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        torch.save(images, "written")
        return images.float().flatten(1)


class WriteByMap(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        written = torch.from_file("written", True, 64, dtype=torch.uint8).fill_(65)
        return images.float().flatten(1) + written.sum()


class Read(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.from_file("/etc/passwd", False, 64, dtype=torch.uint8).float().reshape(1, 64)


class Within(torch.nn.Module):
    """Deep in a branch of a part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Save()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.part(images) if bool(images.sum() > 0) else images.float()


class Print(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        print("\x1b[2J")
        return images.float().flatten(1)


class Quantised(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor(images.float(), 0.1, 0, torch.quint8).dequantize().flatten(1)


class OnLoading(torch.nn.Module):
    """What is run as soon as the file is loaded, before anybody could look at the module."""

    @torch.jit.export
    def __getstate__(self) -> torch.Tensor:
        return torch.zeros(1)

    @torch.jit.export
    def __setstate__(self, state: torch.Tensor) -> None:
        torch.save(state, "written")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().flatten(1)


def test_parts_with_numbers_for_names_are_read(tmp_path, images) -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    network = torch.nn.Sequential(Means(), torch.nn.Linear(6, 3), torch.nn.Sequential(inner, torch.nn.Linear(4, 2)))
    path = saved(network, tmp_path / "deep.pt")
    assert b"getattr" in zipfile.ZipFile(path).read("deep/code/__torch__/torch/nn/modules/container.py")
    torch.testing.assert_close(load_detector(path)(images(3, 3, 16)), network(images(3, 3, 16)).detach())


@pytest.mark.parametrize("network", [Save, WriteByMap, Read, Within, Print, OnLoading])
def test_files_are_out_of_reach(network: type, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(network(), tmp_path / "bad.pt")
    before = sorted(entry.name for entry in tmp_path.iterdir())
    with pytest.raises(DataError, match=r"bad\.pt: refused: its code names '(save|from_file|Print)'"):
        load_detector(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before == ["bad.pt"]
    load_detector(saved(Quantised(), tmp_path / "good.pt"))


def rewritten(path: str, to, change) -> str:
    """The same archive with every entry's name and content changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for name in old.namelist():
            for entry in change(name, old.read(name)):
                new.writestr(*entry)
    return str(to)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_code_in_disguise_is_refused_too(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = saved(Means(), tmp_path / "good.pt")
    for number, code in enumerate(
        (
            b"images.save('written')",
            b"ops.aten.save(images, 'written')",
            b"getattr(images, 's' 'ave')('written')",
            b"ops.image.write_file('written', images)",
            b"x = __torch__.torch.classes.dist_c10d.Store()",
        )
    ):

        def change(name: str, content: bytes, code: bytes = code) -> list[tuple[str, bytes]]:
            first = b"-> Tensor:\n"
            return [(name, content.replace(first, first + b"    " + code + b"\n", 1))]

        with pytest.raises(DataError, match="refused: its code (names|puts names together)"):
            load_detector(rewritten(good, tmp_path / f"{number}.pt", change))
    evil = saved(Save(), tmp_path / "evil.pt")
    upper = rewritten(evil, tmp_path / "upper.pt", lambda name, content: [(name.replace(".py", ".PY"), content)])
    twice = rewritten(evil, tmp_path / "twice.pt", lambda name, content: [(name, content), (name, b"")])
    for path in (upper, twice):
        with pytest.raises(DataError, match="refused: its code names 'save'"):
            load_detector(path)
    assert not (tmp_path / "written").exists()


class Raises(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if bool(images.sum() >= 0):
            raise ValueError("one\ntwo\x1b[2J")
        return images.float()


def test_what_a_script_raises_is_one_line(tmp_path, images) -> None:
    with pytest.raises(UsageError, match="detector raises fails on images") as caught:
        load_detector(saved(Raises(), tmp_path / "raises.pt"))(images(2, 3, 16))
    assert str(caught.value).isprintable()
    for content in (b"", b"PK\3\4", b"\x80\x02."):
        (tmp_path / "none.pt").write_bytes(content)
        with pytest.raises(DataError, match="not a TorchScript file, or damaged"):
            load_detector(str(tmp_path / "none.pt"))
