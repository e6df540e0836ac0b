"""Generators of StyleGAN2 and StyleGAN3: what the original computes, and nothing in a file is run."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nomadiff.cli import main
from nomadiff.data.image_source import ImageSource
from nomadiff.errors import DataError, Interrupted, UsageError
from nomadiff.files import sha256_of_file
from nomadiff.interop.gan_cards import GAN_CARDS, GanCard
from nomadiff.interop.importing import import_model
from nomadiff.interop.stylegan_file import read_stylegan
from nomadiff.interop.stylegan_generator import StyleGANGenerator, is_stylegan
from nomadiff.interop.synthesis import synthesize
from nomadiff.networks.stylegan import resample
from nomadiff.sampling.sampler import to_uint8

FIXTURES = Path(__file__).parents[1] / "fixtures" / "parity"
NAMES = ("stylegan2_skip", "stylegan2_resnet", "stylegan2_orig", "stylegan3_t", "stylegan3_r")
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "truncated": {"psi": 0.5},
    "cutoff": {"psi": 0.7, "cutoff": 2},
    "no_noise": {"const": False},
}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def reference(name: str) -> dict[str, Any]:
    """The frozen numbers: the tree, the shapes, stored filters, and images under several settings."""
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


@pytest.fixture(name="write")
def _write(tmp_path: Path, lookalikes: Any) -> Callable[..., Path]:
    """Writes a file of one of the frozen trees, after ``change`` had a go at it."""

    def write(name: str, change: Callable[[Any], Any] | None = None, **more: Any) -> Path:
        module = lookalikes.stylegan(reference(name))
        if change is not None:
            change(module)
        path = tmp_path / f"{name}.pkl"
        path.write_bytes(lookalikes.pickle(lookalikes.stylegan_snapshot(module, **more)))
        return path

    return write


def latents(z_dim: int, seeds: range = range(2)) -> torch.Tensor:
    """As gen_images.py draws them."""
    return torch.from_numpy(np.concatenate([np.random.RandomState(s).randn(1, z_dim) for s in seeds])).float()


@pytest.mark.parametrize("name", NAMES)
def test_images_are_those_of_the_original(name: str, write: Callable[..., Path], canary: Path, watch: Any) -> None:
    path, frozen = write(name), reference(name)
    watch.on = True
    network, said = read_stylegan(path)
    watch.on = False
    assert watch.events == [] and not canary.exists()
    assert said["dataset"]["max_size"] == 100
    classes = torch.from_numpy(frozen["classes"]) if network.classes else None
    for setting in SETTINGS.keys() & frozen.keys():
        images = network(latents(network.z_dim), classes, **SETTINGS[setting])
        assert np.abs(images.numpy() - frozen[setting]).max() < 2e-5, setting
    others = [frozen[setting] for setting in SETTINGS.keys() & frozen.keys()]
    assert all(np.abs(one - frozen["plain"]).mean() > 0.01 for one in others if one is not frozen["plain"])
    assert frozen["plain"].std(axis=(2, 3)).max() > 0.05  # flat images would prove nothing


def test_resampling_is_what_its_words_say() -> None:
    """Against zeros put in by hand and numpy's convolution."""
    random = np.random.RandomState(0)
    for up, down, taps, pad in ((1, 1, 3, (1, 1)), (2, 1, 4, (2, 1)), (4, 2, 5, (-3, 2)), (1, 3, 4, (0, 0))):
        x, kernel = random.randn(7), random.randn(taps)
        rows = np.zeros(7 * up)
        rows[::up] = x
        before, behind = pad
        rows = np.pad(rows, (max(before, 0), max(behind, 0)))[max(-before, 0) :]
        expected = np.convolve(rows, kernel, mode="valid")[::down] * up
        images = torch.from_numpy(x)[None, None, None].expand(1, 2, 7, 7)
        square = torch.from_numpy(np.outer(np.ones(taps) / taps, kernel))
        both = resample(images, torch.from_numpy(kernel), up, down, pad)
        assert both.shape[2:] == (len(expected), len(expected))
        inner = resample(images, square, up, down, pad)
        np.testing.assert_allclose(
            inner[0, 1].numpy()[len(expected) // 2] / inner[0, 1].numpy()[len(expected) // 2].sum(),
            expected / expected.sum(),
            atol=1e-9,
        )


def test_seeds_are_the_authors_and_a_sample_depends_on_its_index(write: Callable[..., Path], tmp_path: Path) -> None:
    frozen = reference("stylegan2_skip")
    path = write("stylegan2_skip")
    source = StyleGANGenerator(str(path), classes="0=0.5,1=0.5,2=0", batch_size=2)
    drawn = source.draw(range(2, 8))
    again = StyleGANGenerator(str(path), classes="0=0.5,1=0.5,2=0").draw([5])[0]
    assert np.abs(drawn[3].pixels.astype(int) - again.pixels).max() <= 1 and drawn[3].label == again.label
    assert {image.label for image in drawn} == {0, 1}
    expected = to_uint8(torch.from_numpy(frozen["plain"])).permute(0, 2, 3, 1).numpy()
    for seed, label in enumerate(frozen["classes"].tolist()):  # what gen_images.py --seeds writes
        (image,) = StyleGANGenerator(str(path), class_label=label).draw([seed])
        assert np.abs(image.pixels.astype(int) - expected[seed]).max() <= 1 and image.label == label
    other = StyleGANGenerator(str(path), 1, class_label=0).draw([0, 1])
    zero = StyleGANGenerator(str(path), 0, class_label=0).draw([0, 1])
    for one in other:
        assert all((one.pixels != two.pixels).any() for two in zero), "seeds share no image"


def test_noise(write: Callable[..., Path]) -> None:
    path = str(write("stylegan2_resnet"))
    const, none, random = (StyleGANGenerator(path, noise=noise).draw([0, 1]) for noise in ("const", "none", "random"))
    again = StyleGANGenerator(path, noise="random").draw([1])[0].pixels
    assert (const[0].pixels != none[0].pixels).any() and (const[0].pixels != random[0].pixels).any()
    assert np.abs(random[1].pixels.astype(int) - again).max() <= 1 and random[1].pixels.shape == (16, 16, 1)
    quiet = write("stylegan2_resnet", lambda module: [setattr(m, "use_noise", False) for m in module.modules()])
    assert (StyleGANGenerator(str(quiet)).draw([0])[0].pixels == none[0].pixels).all()
    assert "noise" not in StyleGANGenerator(str(write("stylegan3_r"))).facts()


def test_a_set_says_where_it_comes_from_and_passes_to_training(write: Callable[..., Path], tmp_path: Path) -> None:
    path, out = write("stylegan2_skip"), tmp_path / "gan.zip"
    command = ["synthesize", "--from", str(path), "--count", "6", "--device", "cpu", "--out", str(out)]
    assert main([*command, "--psi", "0.7", "--classes", "uniform", "--resolution", "8"]) == 0
    source = ImageSource.open(out, name="gan", synthetic=True)
    assert len(source) == 6 and source.resolution == 8 and source.labels is not None
    manifest = source.provenance["manifest"]
    expected = {
        "kind": "synthetic",
        "generator": "stylegan2",
        "file": path.name,
        "sha256": sha256_of_file(path),
        "psi": 0.7,
        "psi_cutoff": None,
        "noise": "const",
        "classes": "uniform",
        "seed": 0,
        "z": "RandomState(index)",
        "resize": "largest centred square, Lanczos (Pillow)",
    }
    assert expected.items() <= manifest.items()
    with pytest.raises(UsageError, match="synthetic"):
        ImageSource.open(out, name="real", synthetic=False)


def test_killed_and_continued_equals_unbroken(
    write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(write("stylegan3_r"))
    synthesize(StyleGANGenerator(path, 3, batch_size=3), tmp_path / "whole.zip", 11)
    whole = StyleGANGenerator.draw

    def stopping(self: StyleGANGenerator, indices: Any) -> Any:
        if indices[0] >= 6:
            raise KeyboardInterrupt
        return whole(self, indices)

    monkeypatch.setattr(StyleGANGenerator, "draw", stopping)
    with pytest.raises(Interrupted):
        synthesize(StyleGANGenerator(path, 3, batch_size=3), tmp_path / "set.zip", 11)
    monkeypatch.setattr(StyleGANGenerator, "draw", whole)
    with pytest.raises(UsageError, match="differs in psi"):
        synthesize(StyleGANGenerator(path, 3, batch_size=3, psi=0.5), tmp_path / "set.zip", 11)
    next((tmp_path / "set.zip.part").glob("**/img00000004.png")).write_bytes(b"torn")
    synthesize(StyleGANGenerator(path, 3, batch_size=3), tmp_path / "set.zip", 11)
    assert (tmp_path / "set.zip").read_bytes() == (tmp_path / "whole.zip").read_bytes()


def test_samples_pass_to_compare(write: Callable[..., Path], tmp_path: Path) -> None:
    """Drawn as the real images and the reference, and once, with truncation, as the synthetic source."""
    path = str(write("stylegan2_resnet"))
    sets = {"photos": ["--seed", "1"], "held-out": ["--seed", "2"], "gan": ["--psi", "0.5"]}
    for name, more in sets.items():
        words = ["synthesize", "--from", path, "--count", "40", "--device", "cpu", "--resolution", "8", *more]
        assert main([*words, "--out", str(tmp_path / name)]) == 0
        if name != "gan":
            (tmp_path / name / "manifest.json").unlink()
    words = ["compare", "--real", str(tmp_path / "photos"), "--synthetic", f"gan={tmp_path / 'gan'}"]
    words += ["--reference", str(tmp_path / "held-out"), "--preset", "tiny", "--budget", "32", "--batch", "16"]
    words += ["--method", "casd", "--seeds", "0", "--count", "8", "--workers", "1", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "study")]) == 0
    (told,) = (tmp_path / "study").rglob("sources.json")
    assert [source["name"] for source in json.loads(told.read_text())] == ["real", "gan"]
    assert '"stylegan2"' in told.read_text() and sha256_of_file(path) in told.read_text()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("stylegan2_skip", ["--psi", "nan"], "psi lies between"),
        ("stylegan2_skip", ["--psi", "11"], "psi lies between"),
        ("stylegan2_skip", ["--psi-cutoff", "-1"], "number of layers"),
        ("stylegan2_skip", ["--psi-cutoff", "2"], "psi 1 truncates nothing.*--psi 0.7"),
        ("stylegan2_skip", ["--noise", "loud"], "unknown noise 'loud': choose one of const, random, none"),
        ("stylegan3_r", ["--noise", "random"], "StyleGAN3 has no noise"),
        ("stylegan2_skip", ["--class-label", "3"], "class '3' is unknown"),
        ("stylegan3_r", ["--class-label", "0"], "knows no classes"),
        ("stylegan2_skip", ["--classes", "real"], "choose --classes uniform"),
        ("stylegan2_skip", ["--batch-size", "-3"], "in ones at least"),
        ("stylegan2_skip", ["--steps", "3"], "--steps is for a text-to-image pipeline or a model; .* is a StyleGAN"),
        ("stylegan2_skip", ["--prompts", "faces"], "--prompts is for a text-to-image pipeline"),
        ("stylegan2_skip", ["--source", "gan"], "--source is for a model"),
        ("stylegan2_skip", ["--first", str(1 << 32)], "a seed must be"),
    ],
)
def test_wrong_use_is_one_line(
    name: str,
    options: list[str],
    message: str,
    write: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "set"
    words = ["synthesize", "--from", str(write(name)), "--count", "2", "--device", "cpu", "--out", str(out)]
    capsys.readouterr()
    assert main([*words, *options]) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(message, error), error
    assert not out.exists()


def test_options_of_others_are_refused_by_models(
    lookalikes: Any, tiny_network: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network, arguments = tiny_network("ddpmpp")
    (tmp_path / "n.pkl").write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
    import_model(tmp_path / "n.pkl", tmp_path / "model")
    words = ["synthesize", "--from", str(tmp_path / "model"), "--count", "2", "--out", str(tmp_path / "s"), "--dry-run"]
    for option in (["--psi", "0.5"], ["--noise", "none"], ["--height", "64"], ["--dtype", "fp16"]):
        assert main([*words, *option]) == 2
        assert f"{option[0]} is for a " in capsys.readouterr().err
    words[2] = str(tmp_path / "n.pkl")  # EDM's pickle is imported first
    assert main(words) == 1 and "nomadiff import reads EDM and EDM2" in capsys.readouterr().err


def test_dry_run_and_list(write: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["synthesize", "--count", "5", "--out", str(tmp_path / "s"), "--dry-run", "--device", "cpu", "--from"]
    assert main([*words, str(write("stylegan2_skip"))]) == 0
    assert "stylegan2, 16x16x3, 3 classes" in capsys.readouterr().out
    assert main([*words, "stylegan3-t-ffhq-1024x1024"]) == 0
    assert "to be downloaded" in capsys.readouterr().out and not (tmp_path / "s.part").exists()
    assert main(["import", "--list"]) == 0
    assert "stylegan2-ada-cifar10 " in capsys.readouterr().out


def test_cards(write: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(is_stylegan(name) and card.url.endswith(".pkl") for name, card in GAN_CARDS.items())
    assert all("non-commercial" in card.licence for card in GAN_CARDS.values())
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    url = write("stylegan2_skip").as_uri()
    monkeypatch.setitem(GAN_CARDS, "mine", GanCard(url, 16, 3, "its terms"))
    facts = StyleGANGenerator("mine", class_label=2).facts()
    assert (facts["card"], facts["url"], facts["licence"], facts["classes"]) == ("mine", url, "its terms", 2)
    monkeypatch.setitem(GAN_CARDS, "other", GanCard(url, 32, 10, "its terms"))
    with pytest.raises(DataError, match="another file"):
        StyleGANGenerator("other")
    assert StyleGANGenerator(url, class_label=0).facts()["url"] == url


def test_import_names_the_verb(write: Callable[..., Path], tmp_path: Path) -> None:
    path = write("stylegan2_skip")
    with pytest.raises(DataError, match=f"nomadiff synthesize --from {path}"):
        import_model(path, tmp_path / "model")
    with pytest.raises(UsageError, match="nomadiff synthesize --from stylegan2-ada-cifar10"):
        import_model("stylegan2-ada-cifar10", tmp_path / "model")


def test_pickles_of_tensorflow_are_refused_by_name(tmp_path: Path) -> None:
    """Three networks in a tuple, as the first StyleGANs were published."""
    network = b"cdnnlib.tflib.network\nNetwork\n)\x81}b"
    for protocol in (2, 4):
        path = tmp_path / "stylegan2-ffhq-config-f.pkl"
        path.write_bytes(b"\x80" + bytes([protocol]) + b"(" + 3 * network + b"t.")
        with pytest.raises(DataError, match="a pickle of TensorFlow .* convert it with the legacy.py") as caught:
            read_stylegan(path)
        assert "\n" not in str(caught.value)


class Shared:
    """Gives many parts of a tree one storage, as a file may to hold more than its size."""

    def __call__(self, module: Any) -> None:
        long = torch.nn.Parameter(torch.ones(4000, 6), requires_grad=False)
        for layer in module.modules():
            if "affine" in layer._modules:
                layer._modules["affine"]._parameters["weight"] = long


def set_to(path: str, name: str, value: Any) -> Callable[[Any], None]:
    def change(module: Any) -> None:
        where = module.get_submodule(path)
        for table in (where._parameters, where._buffers, where._modules):
            if name in table:
                table[name] = value
                return
        object.__setattr__(where, name, value)

    return change


HOSTILE: dict[str, tuple[str, Callable[[Any], None], str]] = {
    "resolution": ("stylegan2_skip", set_to("", "img_resolution", 1 << 40), "not between 4 and 2048"),
    "no power": ("stylegan2_skip", set_to("", "img_resolution", 24), "powers of 2"),
    "larger": ("stylegan2_skip", set_to("", "img_resolution", 32), "has no b32"),
    "text": ("stylegan2_skip", set_to("", "img_resolution", "16"), "must be an integer"),
    "channels": ("stylegan2_skip", set_to("", "img_channels", 4), "1 or 3"),
    "z": ("stylegan2_skip", set_to("", "z_dim", 10**12), "z_dim is"),
    "another z": ("stylegan2_skip", set_to("", "z_dim", 9), "fc0: weight has the shape"),
    "classes": ("stylegan2_skip", set_to("", "c_dim", 10**9), "c_dim is"),
    "one class more": ("stylegan2_skip", set_to("", "c_dim", 4), "embed: weight has the shape 6x3, not anyx4"),
    "layers": ("stylegan2_skip", set_to("mapping", "num_layers", 10**9), "num_layers is"),
    "no mapping": ("stylegan2_skip", set_to("", "mapping", None), "has no mapping"),
    "activation": ("stylegan2_skip", set_to("mapping.fc0", "activation", "swish"), "activation is swish"),
    "gain": ("stylegan2_skip", set_to("mapping.fc0", "weight_gain", float("inf")), "weight_gain must be a finite"),
    "architecture": ("stylegan2_skip", set_to("synthesis.b8", "architecture", "unet"), "architecture is unet"),
    "clamp": ("stylegan2_skip", set_to("synthesis.b8.conv1", "conv_clamp", -1), "conv_clamp is"),
    "up": ("stylegan2_skip", set_to("synthesis.b8.conv0", "up", 4), "up is 4"),
    "kernel": (
        "stylegan2_skip",
        set_to("synthesis.b8.conv1", "weight", torch.zeros(12, 12, 5, 5)),
        "weight has the shape 12x12x5x5",
    ),
    "nan": ("stylegan2_skip", set_to("synthesis.b4", "const", torch.full((12, 4, 4), float("nan"))), "not finite"),
    "integers": ("stylegan2_skip", set_to("synthesis.b4", "const", torch.zeros(12, 4, 4).long()), "of real numbers"),
    "noise": (
        "stylegan2_skip",
        set_to("synthesis.b8.conv1", "noise_const", torch.zeros(16, 16)),
        "noise_const has the shape",
    ),
    "filter": ("stylegan2_skip", set_to("synthesis.b8", "resample_filter", torch.ones(4, 3)), "is no filter"),
    "long filter": ("stylegan3_t", set_to("synthesis.L0_24_8", "up_filter", torch.ones(4096)), "is no filter"),
    "no input": ("stylegan3_t", set_to("synthesis.input", "weight", None), "has no weight"),
    "rate": ("stylegan3_t", set_to("synthesis.input", "sampling_rate", 1e300), "sampling_rate is"),
    "band": ("stylegan3_t", set_to("synthesis.input", "bandwidth", 8.0), "bandwidth is"),
    "size": ("stylegan3_t", set_to("synthesis.input", "size", np.array([10**9, 10**9])), "pixels"),
    "not square": ("stylegan3_t", set_to("synthesis.input", "size", np.array([24, 36])), "not a square"),
    "other size": ("stylegan3_t", set_to("synthesis.input", "size", np.array([25, 25])), "not those of its out_size"),
    "factor": ("stylegan3_t", set_to("synthesis.L0_24_8", "up_factor", 10**6), "up_factor is"),
    "no factor": ("stylegan3_t", set_to("synthesis.L0_24_8", "down_factor", 0), "down_factor is"),
    "padding": ("stylegan3_t", set_to("synthesis.L0_24_8", "padding", [10**9] * 4), "padding is"),
    "crop": ("stylegan3_t", set_to("synthesis.L0_24_8", "padding", [-60, -60, -60, -60]), "pixels of"),
    "magnitude": ("stylegan3_t", set_to("synthesis.L0_24_8", "magnitude_ema", torch.tensor(0.0)), "not positive"),
    "names": ("stylegan3_t", set_to("synthesis", "layer_names", ["L0_24_8"] * 1000), "1,000 layers"),
    "no names": ("stylegan3_t", set_to("synthesis", "layer_names", [["a"]]), "a list of texts"),
    "last": ("stylegan3_t", set_to("synthesis", "layer_names", ["L0_24_8"]), "is_torgb is"),
    "scale": ("stylegan3_t", set_to("synthesis", "output_scale", float("nan")), "output_scale must be a finite"),
    "shared": ("stylegan3_t", Shared(), "bytes of weights in a file of"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused(case: str, write: Callable[..., Path], canary: Path, watch: Any) -> None:
    name, change, message = HOSTILE[case]
    path = write(name, change)
    watch.on = True
    with pytest.raises(DataError, match=message) as caught:
        read_stylegan(path)
    watch.on = False
    assert watch.events == [] and not canary.exists()
    text = str(caught.value)
    assert text.startswith(str(path)) and "\n" not in text and len(text) < 400


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("place", ["augment_pipe", "attribute"])
def test_other_globals_are_refused(place: str, write: Callable[..., Path], canary: Path) -> None:
    evil = Call(Path.touch, canary)
    if place == "attribute":
        path = write("stylegan2_skip", set_to("mapping", "w_avg_beta", evil))
    else:
        path = write("stylegan2_skip", augment_pipe=evil)
    with pytest.raises(DataError, match="nothing was run"):
        read_stylegan(path)
    assert not canary.exists()


@pytest.mark.parametrize("contents", [{}, {"G_ema": None}, {"G_ema": 3}, {"ema": None}, [], "G_ema", None])
def test_files_without_a_generator(contents: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(contents, 4))
    with pytest.raises(DataError, match="holds no generator of StyleGAN"):
        read_stylegan(path)


def test_cut_short(write: Callable[..., Path]) -> None:
    path = write("stylegan2_skip")
    whole = path.read_bytes()
    for length in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_stylegan(path)


def test_facts_are_json(write: Callable[..., Path]) -> None:
    facts = StyleGANGenerator(str(write("stylegan3_t"))).facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
