"""Networks of the layout that EDM and EDM2 write become models that compute the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nomadiff.errors import DataError, NomadiffError, UsageError
from nomadiff.files import sha256_of_file
from nomadiff.interop import importing
from nomadiff.interop.cards import CARDS
from nomadiff.interop.edm2 import images_in_name
from nomadiff.interop.importing import import_model
from nomadiff.models.model import Model
from nomadiff.networks.build import build_network
from nomadiff.networks.presets import NETWORKS
from nomadiff.training.phema import PowerEMA

Make = Callable[..., tuple[nn.Module, dict[str, Any]]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def same_network(model: Model, network: nn.Module, classes: int = 0) -> None:
    """Model and network must compute the same from weights of full precision."""
    x, noise_label = torch.randn(3, 3, 8, 8), torch.tensor([-1.5, 0.0, 1.0])
    labels = torch.eye(classes)[[0, 1, classes - 1]] if classes else None
    with torch.no_grad():
        torch.testing.assert_close(
            model.denoiser.network(x, noise_label, labels), network(x, noise_label, labels), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize(
    ("name", "thousands"),
    [
        ("network-snapshot-200000.pkl", 200_000),
        ("abc-network-snapshot-0012345-0.050.pkl", 12_345),
        ("training-state-000100.pt", 100),
        ("edm2-img512-xs-2147483-0.135.pkl", 2_147_483),
        ("phema-0939524-0.070.pkl", 939_524),
        ("ffhq-64-20240501.pkl", None),
        ("run-20240501-ema.pkl", None),
        ("edm-cifar10-32x32-uncond-vp.pkl", None),
    ],
)
def test_images_seen_are_read_from_nvidias_names_only(name: str, thousands: int | None) -> None:
    assert images_in_name(f"20240501/{name}") == (None if thousands is None else thousands * 1000)


@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm"])
@pytest.mark.parametrize("classes", [0, 3])
def test_edm_snapshots(
    architecture: str, classes: int, lookalikes: Any, tiny_network: Make, tmp_path: Path, canary: Path, watch: Any
) -> None:
    network, arguments = tiny_network(architecture, classes)
    path = tmp_path / "network-snapshot-012345.pkl"
    path.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments, use_fp16=True)))
    model = import_model(path, tmp_path / "model")
    assert not canary.exists()
    same_network(model, network, classes)
    config = model.config
    assert config.method == "edm" and (config.sources, config.classes) == (0, classes)
    assert config.training.budget == 12_345_000 and config.training.precision == "fp16"
    augment = 0.12 if network.config.augment_dim else 0  # training on needs the label's input
    assert (config.training.p_mean, config.training.p_std, config.training.augment) == (-1.1, 1.3, augment)
    assert config.network == replace(network.config, dropout=0.0)
    (source,) = json.loads((tmp_path / "model" / "sources.json").read_text())
    facts = source["imported"]
    assert facts["sha256"] == sha256_of_file(path) and facts["file"] == path.name
    assert facts["dataset"] == {"path": "data.zip", "use_labels": False, "max_size": 100}
    sampler = replace(config.sampler, steps=2)
    drawn = model.sample(2, class_label=1 if classes else None, sampler=sampler)
    assert drawn.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("classes", [0, 4])
def test_edm2_snapshots(classes: int, lookalikes: Any, tiny_network: Make, tmp_path: Path, canary: Path) -> None:
    network, arguments = tiny_network("edm2", classes)
    path = tmp_path / "network-snapshot-0012345-0.050.pkl"
    path.write_bytes(lookalikes.pickle(lookalikes.edm2(network, **arguments, use_fp16=True)))
    model = import_model(path, tmp_path / "model")
    same_network(model, network.half().float(), classes)
    assert not canary.exists()
    assert model.config.method == "edm2" and model.config.sampler.steps == 32
    assert model.config.training.budget == 12_345_000 and model.config.training.p_mean == -0.8


@pytest.mark.parametrize("zipped", [True, False])
def test_edm_training_states(zipped: bool, lookalikes: Any, tiny_network: Make, tmp_path: Path, canary: Path) -> None:
    network, arguments = tiny_network("ddpmpp")
    contents = {
        "net": lookalikes.edm(network, **arguments)["ema"],
        "optimizer_state": {"state": {}, "param_groups": []},
    }
    path = tmp_path / "training-state-000100.pt"
    lookalikes.save(contents, path, zipped)
    model = import_model(path, tmp_path / "model")
    same_network(model, network)
    assert not canary.exists()
    (source,) = json.loads((tmp_path / "model" / "sources.json").read_text())
    assert source["imported"]["weights"] == "of the training state, not averaged"


def test_labels_can_be_sources(lookalikes: Any, tiny_network: Make, tmp_path: Path) -> None:
    network, arguments = tiny_network("ddpmpp", 2)
    path = tmp_path / "casd.pkl"
    path.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
    model = import_model(path, tmp_path / "model", sources=("real", "sdxl"))
    assert model.config.sources == 2 and model.config.classes == 0
    assert model.config.source_names == ("real", "sdxl")
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor(0.7)
    as_source = model.sampling_denoiser("sdxl")(x, sigma)
    as_class = import_model(path, tmp_path / "other").denoiser(x, sigma, class_label=1)
    assert torch.equal(as_source, as_class)
    with pytest.raises(UsageError, match="2 labels, but 3 sources"):
        import_model(path, tmp_path / "third", sources=("real", "a", "b"))


@pytest.mark.parametrize(
    ("architecture", "change", "message"),
    [
        ("ddpmpp", {"embedding_type": "fourier"}, "encoder_type"),
        ("ddpmpp", {"embedding_type": "zero"}, "embedding_type"),
        ("ddpmpp", {"resample_filter": [1, 3, 3, 1]}, "resample_filter"),
        ("ddpmpp", {"decoder_type": "skip"}, "decoder_type"),
        ("ddpmpp", {"model_type": "DiT"}, "model_type"),
        ("ddpmpp", {"surprise": 1}, "surprise, unknown here"),
        ("ddpmpp", {"channel_mult": "12"}, "channel_mult must be a list"),
        ("ddpmpp", {"model_channels": 2.5}, "model_channels must be an integer"),
        ("ddpmpp", {"model_channels": 32}, "do not fit the network"),
        ("ddpmpp", {"model_channels": 10**12}, "model_channels"),
        ("ddpmpp", {"channel_mult": [1] * 10**5}, "levels"),
        ("ddpmpp", {"num_blocks": 10**9}, "blocks"),
        ("ddpmpp", {"num_blocks": 2}, "do not fit the network"),
        ("ddpmpp", {"img_resolution": 7}, "cannot be halved"),
        ("ddpmpp", {"img_resolution": -8}, "resolution"),
        ("ddpmpp", {"img_resolution": None}, "img_resolution must be an integer"),
        ("ddpmpp", {"label_dim": 10**9}, "labels"),
        ("ddpmpp", {"label_dim": -1}, "labels"),
        ("ddpmpp", {"sigma_data": 0}, "sigma_data"),
        ("ddpmpp", {"sigma_data": float("nan")}, "sigma_data"),
        ("ddpmpp", {"sigma_data": 1 << 500}, "finite number"),
        ("ddpmpp", {"img_resolution": 1 << 500}, "resolution"),
        ("ddpmpp", {"dropout": 2}, "dropout"),
        ("edm2", {"clip_act": None}, "clip_act"),
        ("edm2", {"label_balance": 0.4}, "label_balance"),
        ("edm2", {"channel_mult": []}, "channel_mult"),
        ("edm2", {"attn_resolutions": []}, "do not fit the network"),
        ("edm2", {"channels_per_head": 0}, "channels_per_head"),
    ],
)
def test_networks_nomadiff_does_not_have_are_refused(
    architecture: str, change: dict[str, Any], message: str, lookalikes: Any, tiny_network: Make, tmp_path: Path
) -> None:
    network, arguments = tiny_network(architecture)
    write = lookalikes.edm2 if architecture == "edm2" else lookalikes.edm
    path = tmp_path / "n.pkl"
    path.write_bytes(lookalikes.pickle(write(network, **{**arguments, **change})))
    with pytest.raises(NomadiffError, match=message):
        import_model(path, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_baselines_are_refused_with_a_hint(lookalikes: Any, tiny_network: Make, tmp_path: Path) -> None:
    network, arguments = tiny_network("ddpmpp")
    contents = lookalikes.edm(network, **arguments)
    contents["ema"].identity = ("VPPrecond", "")
    (tmp_path / "b.pkl").write_bytes(lookalikes.pickle(contents))
    with pytest.raises(DataError, match=r"b\.pkl: VPPrecond is one of EDM's baselines"):
        import_model(tmp_path / "b.pkl", tmp_path / "model")


def test_files_without_a_network(lookalikes: Any, tiny_network: Make, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"weights": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="does not say what network"):
        import_model(path, tmp_path / "model")
    network, arguments = tiny_network("ddpmpp")
    contents = lookalikes.edm(network, **arguments)
    contents["ema"].identity = ("Generator", "")
    path.write_bytes(lookalikes.pickle(contents))
    with pytest.raises(DataError, match="holds a Generator"):
        import_model(path, tmp_path / "model")
    with pytest.raises(DataError, match="no such file, and no card of that name"):
        import_model("edm-cifar11", tmp_path / "model")


def test_a_network_that_does_not_denoise_fails_the_self_check(
    lookalikes: Any, tiny_network: Make, tmp_path: Path
) -> None:
    for value, message in ((float("nan"), "not give finite images"), (1e4, r"changes an image by")):
        network, arguments = tiny_network("ddpmpp")
        network.dec["8x8_aux_conv"].bias.fill_(value)
        path = tmp_path / "n.pkl"
        path.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
        with pytest.raises(DataError, match=f"self-check failed: .*{message}"):
            import_model(path, tmp_path / "model")
        assert not (tmp_path / "model").exists()


def test_nothing_is_overwritten(lookalikes: Any, tiny_network: Make, tmp_path: Path) -> None:
    network, arguments = tiny_network("ddpmpp")
    path = tmp_path / "n.pkl"
    path.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.txt").write_text("x")
    with pytest.raises(UsageError, match="exists already"):
        import_model(path, tmp_path / "model")
    assert (tmp_path / "model" / "mine.txt").read_text() == "x"


def test_addresses_are_taken_and_recorded(
    lookalikes: Any, tiny_network: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    network, arguments = tiny_network("ddpmpp")
    path = tmp_path / "net.pkl"
    path.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
    digest = sha256_of_file(path)
    model = import_model(path.as_uri(), tmp_path / "first", sha256=digest)
    same_network(model, network)
    (source,) = json.loads((tmp_path / "first" / "sources.json").read_text())
    assert source["imported"]["url"] == path.as_uri() and source["imported"]["sha256"] == digest
    with pytest.raises(DataError, match="another file"):
        import_model(path.as_uri(), tmp_path / "third", sha256="0" * 64)
    with pytest.raises(UsageError, match="http, https or file"):
        import_model("ftp://example.org/x.pkl", tmp_path / "fifth")


def test_cards_know_their_networks() -> None:
    plain, faces = NETWORKS["cifar10"], NETWORKS["ffhq64"]
    ve_faces = replace(faces, architecture="ncsnpp")
    expected = {
        "edm-cifar10-uncond-vp": (plain, 0),
        "edm-cifar10-cond-vp": (plain, 10),
        "edm-cifar10-uncond-ve": (NETWORKS["cifar10-ncsnpp"], 0),
        "edm-cifar10-cond-ve": (NETWORKS["cifar10-ncsnpp"], 10),
        "edm-ffhq-uncond-vp": (faces, 0),
        "edm-ffhq-uncond-ve": (ve_faces, 0),
        "edm-afhqv2-uncond-vp": (faces, 0),
        "edm-afhqv2-uncond-ve": (ve_faces, 0),
        "edm-imagenet64-cond-adm": (NETWORKS["imagenet64-adm"], 1000),
    }
    widths = {"xs": 128, "s": 192, "m": 256, "l": 320, "xl": 384, "xxl": 448}
    for name in CARDS:
        if name.startswith("edm2-"):
            _, data, size, *_ = name.split("-")
            network = NETWORKS["imagenet64-edm2-s" if data == "img64" else "imagenet512-edm2-s"]
            expected[name] = (replace(network, model_channels=widths[size]), 1000)
    assert expected.keys() == CARDS.keys()
    for name, (network, classes) in expected.items():
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in build_network(network, classes).parameters())
        assert CARDS[name].parameters == count, name
        assert "non-commercial" in CARDS[name].licence


def test_a_card_is_its_file_with_the_makers_settings(
    lookalikes: Any, tiny_network: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOMADIFF_CACHE", str(tmp_path / "cache"))
    network, arguments = tiny_network("adm", 3)
    path = tmp_path / "net.pkl"
    path.write_bytes(lookalikes.pickle(lookalikes.edm(network, **arguments)))
    count = sum(parameter.numel() for parameter in network.parameters())
    card = replace(CARDS["edm-imagenet64-cond-adm"], url=path.as_uri(), parameters=count)
    monkeypatch.setitem(importing.CARDS, "tiny", card)
    model = import_model("tiny", tmp_path / "model")
    assert model.config.sampler == card.sampler and model.config.sampler.nfe == 511
    assert model.config.training.learning_rate == 1e-4
    (source,) = json.loads((tmp_path / "model" / "sources.json").read_text())
    assert source["imported"]["card"] == "tiny" and "CC BY-NC-SA" in source["imported"]["licence"]
    monkeypatch.setitem(importing.CARDS, "tiny", replace(card, parameters=count + 1))
    with pytest.raises(DataError, match="another file"):
        import_model("tiny", tmp_path / "other")


def test_post_hoc_averages(lookalikes: Any, tiny_network: Make, tmp_path: Path) -> None:
    """An average that is stored is rebuilt from the others' files without looking at it; others lie between them."""
    network, arguments = tiny_network("edm2")
    network.requires_grad_(False)
    average = PowerEMA(network, (0.05, 0.075, 0.10))
    folder = tmp_path / "snapshots"
    folder.mkdir()
    generator = torch.Generator().manual_seed(1)
    batch = 100
    for step in range(200):
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        average.update(step * batch, batch)
        if (step + 1) % 10 == 0:
            seen = (step + 1) * batch
            for std, module in zip(average.stds, average.modules):
                if std != 0.075:
                    contents = lookalikes.edm2(module, half=False, **arguments)
                    name = f"network-snapshot-{seen:07d}-{std:.3f}.pkl"  # a unit of one image, not of a thousand
                    (folder / name).write_bytes(lookalikes.pickle(contents))
    model = import_model(folder, tmp_path / "model", std=0.075)
    wanted = average.modules[1].state_dict()
    found = model.denoiser.network.state_dict()
    plain = average.modules[0].state_dict()
    for name, value in wanted.items():
        error = (found[name] - value).abs().max()
        assert error <= 0.02 * (plain[name] - value).abs().max() + 1e-6, name
    (source,) = json.loads((tmp_path / "model" / "sources.json").read_text())
    facts = source["imported"]["post_hoc_ema"]
    assert facts["std"] == 0.075 and len(facts["factors"]) == 40 and sum(facts["factors"]) == pytest.approx(1)
    earlier = import_model(folder, tmp_path / "earlier", std=0.05, at=10_000_000)
    assert earlier.config.training.budget == 10_000_000
    with pytest.raises(UsageError, match="first snapshot"):
        import_model(folder, tmp_path / "none", std=0.05, at=10)
    with pytest.raises(UsageError, match="--std"):
        import_model(folder, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no EDM2 snapshots"):
        import_model(tmp_path / "empty", tmp_path / "none", std=0.05)


def test_snapshots_of_two_networks_are_not_mixed(lookalikes: Any, tiny_network: Make, tmp_path: Path) -> None:
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for seen, classes in ((1000, 0), (2000, 3)):
        network, arguments = tiny_network("edm2", classes)
        (folder / f"a-{seen:07d}-0.050.pkl").write_bytes(lookalikes.pickle(lookalikes.edm2(network, **arguments)))
    with pytest.raises(DataError, match=r"a-0002000-0\.050\.pkl: another network"):
        import_model(folder, tmp_path / "model", std=0.05)
