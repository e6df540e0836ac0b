"""A guided model is a model: it loads, samples, says what it is made of and what it costs."""

import json
import shutil
import warnings

import pytest
import torch
from factories import noise_source, tiny_preset

from nomadiff.data.image_source import ImageSource
from nomadiff.data.manifest import read_manifest
from nomadiff.data.source_mix import SourceMix
from nomadiff.denoiser import BoundDenoiser
from nomadiff.errors import DataError, UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.shared_encoder import SharedEncoder
from nomadiff.improve.auxiliary import AuxiliaryConfig
from nomadiff.methods.casd import CASD
from nomadiff.methods.dm import DM
from nomadiff.models.cost import sampling_cost
from nomadiff.models.discriminator import Discriminator
from nomadiff.models.guided_model import KINDS, GuidanceConfig
from nomadiff.models.model import Model
from nomadiff.models.train_parts import TRAIN_PARTS
from nomadiff.networks.flops import flops_of
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.sampling.solvers import Churn
from nomadiff.training.run_folder import load_tensors, save_tensors

PRESET = tiny_preset(steps=4, learning_rate=1e-2, snapshot_every=32, ema_half_life=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two plain models, one with sources, one with classes of which some were hidden, and a decoder-only auxiliary."""
    root = tmp_path_factory.mktemp("runs")
    mix = SourceMix(noise_source("real"), [noise_source("own", 1)])
    DM(PRESET).fit(mix, root / "base", device="cpu")
    DM(PRESET, seed=1).fit(mix, root / "other", device="cpu")
    CASD(PRESET).fit(mix, root / "casd", device="cpu")
    DM(PRESET, class_labels=True, class_dropout=0.2).fit(mix, root / "classes", device="cpu")
    tensors, metadata = load_tensors(root / "base" / "model.safetensors")
    generator = torch.Generator().manual_seed(3)
    for name, value in tensors.items():
        if "dec.8x8_block1" in name:
            value += 0.3 * torch.randn(value.shape, generator=generator)
    metadata["recipe"]["method"] = TRAIN_PARTS["decoder"]
    save_tensors(root / "end.safetensors", tensors, metadata)
    config = Model.load(root / "base", device="cpu").config
    discriminator = Discriminator(config, load_tensors(root / "base" / "model.safetensors")[0])
    torch.nn.init.normal_(discriminator.head.weight, generator=generator)
    discriminator.save(root / "discriminator.safetensors")
    return root


GUIDANCES = {
    "extrapolation": {"base": "../base", "auxiliary": "../other"},
    "merge": {"base": "../base", "auxiliary": "../other"},
    "source": {"base": "../casd"},
    "classifier-free": {"base": "../classes"},
    "perturbed-attention": {"base": "../base"},
    "discriminator": {"base": "../base", "auxiliary": "../discriminator.safetensors"},
}


def guided(runs, folder, kind, weight=0.5, **changes):
    (runs / folder).mkdir(exist_ok=True)
    GuidanceConfig(**{"kind": kind, "weight": weight, **GUIDANCES[kind], **changes}).write(runs / folder)
    return Model.load(runs / folder, device="cpu")


def test_every_kind_is_tested():
    assert GUIDANCES.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_loads_and_samples(runs, kind):
    model = guided(runs, f"g-{kind}", kind)
    base = Model.load(runs / f"g-{kind}" / GUIDANCES[kind]["base"], device="cpu")
    images = model.sample(5, seed=1)
    assert images.shape == (5, 1, 8, 8) and images.dtype == torch.uint8
    assert not torch.equal(images, base.sample(5, seed=1))
    assert torch.equal(guided(runs, f"g0-{kind}", kind, weight=0.0).sample(5, seed=1), base.sample(5, seed=1))
    assert model.device == torch.device("cpu")
    assert model.config.network == base.config.network


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_says_what_it_is(runs, kind, tmp_path):
    model = guided(runs, f"g-{kind}", kind, weight=0.5, interval=(0.1, 9.0) if kind != "merge" else None, method="sims")
    model.write_samples(tmp_path / "s.zip", 3)
    manifest = read_manifest(tmp_path / "s.zip")
    assert manifest["generator"] == "sims" == model.config.method
    assert manifest["guidance"]["kind"] == kind
    assert (manifest["guidance"]["weight"], manifest["model_sha256"]) == (0.5, model.sha256)
    assert manifest["guidance"]["interval"] == (None if kind == "merge" else [0.1, 9.0])


def test_the_hash_covers_weights_weight_and_interval_but_not_the_place(runs, tmp_path):
    first = guided(runs, "hash", "extrapolation")
    hashes = {first.sha256}
    for changes in (
        {"weight": 0.6},
        {"interval": (0.1, 1.0)},
        {"auxiliary": "../base/snapshots/000000000032.safetensors"},
    ):
        hashes.add(guided(runs, "hash", "extrapolation", **changes).sha256)
    assert len(hashes) == 4
    shutil.copytree(runs / "base", tmp_path / "b")
    shutil.copytree(runs / "other", tmp_path / "o")
    (tmp_path / "g").mkdir()
    GuidanceConfig("extrapolation", 0.5, "../b", "../o").write(tmp_path / "g")
    assert Model.load(tmp_path / "g", device="cpu").sha256 == first.sha256


def test_a_guided_model_can_be_guided_again(runs):
    inner = guided(runs, "inner", "extrapolation", weight=0.5)
    outer = guided(runs, "outer", "extrapolation", weight=1.0, base="../inner")
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor(0.7)
    expected = Extrapolation(inner.denoiser, outer.parts[1].denoiser, 1.0)(x, sigma)
    assert torch.equal(outer.denoiser(x, sigma), expected)
    assert outer.nfe() == 21
    with pytest.raises(UsageError, match="no single network"):
        guided(runs, "outer", "merge", base="../inner")


def test_a_merged_model_is_one_network(runs):
    model = guided(runs, "merged", "merge", weight=0.7)
    theta, other = (dict(part.denoiser.named_parameters()) for part in model.parts)
    for name, value in model.network.named_parameters():
        torch.testing.assert_close(value, theta[name] + 0.7 * (theta[name] - other[name]))
    assert model.nfe() == 7


def test_a_decoder_only_auxiliary_shares_the_encoder(runs):
    model = guided(runs, "shared", "extrapolation", auxiliary="../end.safetensors")
    assert isinstance(model.denoiser, SharedEncoder)
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor(0.7)
    expected = Extrapolation(model.parts[0].denoiser, model.parts[1].denoiser, 0.5)(x, sigma)
    torch.testing.assert_close(model.denoiser(x, sigma), expected)
    assert 7 < model.nfe() < 1.5 * 7


def test_source_labels_reach_both_networks(runs):
    model = guided(
        runs, "labelled", "extrapolation", base="../casd", auxiliary="../casd/snapshots/000000000032.safetensors"
    )
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor(0.7)
    parts = [BoundDenoiser(part.denoiser, source=0) for part in model.parts]
    assert torch.equal(model.sampling_denoiser()(x, sigma), Extrapolation(*parts, 0.5)(x, sigma))
    assert not torch.equal(model.sample(3), model.sample(3, source="own"))


def test_source_guidance_draws_the_real_source_only(runs):
    model = guided(runs, "g-source", "source")
    assert model.nfe() == 14
    with pytest.raises(UsageError, match="cannot draw source"):
        model.sample(2, source="own")
    with pytest.raises(UsageError, match="it knows 1"):
        guided(runs, "bad-source", "source", source=2)


@pytest.mark.parametrize(
    "sampler",
    [
        SamplerConfig(steps=5),
        SamplerConfig(steps=1),
        SamplerConfig(steps=5, solver="euler"),
        SamplerConfig(steps=5, solver="ddpm"),
        SamplerConfig(steps=5, churn=Churn(2.0, 0.1, 50.0, 1.0)),
    ],
    ids=lambda sampler: f"{sampler.solver}{sampler.steps}",
)
def test_the_solver_calls_the_levels_the_accounting_assumes(runs, sampler):
    model = Model.load(runs / "base", device="cpu")
    called = []

    class Recorded(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, sigma, **condition):
            called.append(float(sigma[0]))
            return self.inner(x, sigma, **condition)

    spy = Model(Recorded(model.denoiser), model.config, model.path)
    spy.sample(2, sampler=sampler)
    assert called == pytest.approx(sampler.called_levels(), rel=1e-6)
    assert model.nfe(sampler) == len(called) == sampler.nfe


def test_cost_counts_evaluations_and_operations(runs):
    forward = flops_of(PRESET.network) / 1e9
    base = Model.load(runs / "base", device="cpu")
    assert (base.nfe(), sampling_cost(base).nfe) == (7, 7)
    assert sampling_cost(base).gflop == pytest.approx(7 * forward)
    two = guided(runs, "cost", "extrapolation")
    assert sampling_cost(two).nfe == 14 and sampling_cost(two).gflop == pytest.approx(14 * forward)
    limited = guided(runs, "cost", "extrapolation", interval=(0.1, 9.0))
    inside = sum(0.1 <= sigma <= 9.0 for sigma in PRESET.sampler.called_levels())
    assert 0 < inside < 7
    assert sampling_cost(limited).nfe == 7 + inside
    assert sampling_cost(limited).gflop == pytest.approx((7 + inside) * forward)
    shared = guided(runs, "cost", "extrapolation", auxiliary="../end.safetensors")
    cost = sampling_cost(shared)
    assert cost.gflop == pytest.approx(cost.nfe * forward, rel=1e-6) and cost.nfe < 10.5
    judged = sampling_cost(guided(runs, "cost", "discriminator"))
    one = sampling_cost(base).parameters
    assert one == sum(parameter.numel() for parameter in base.network.parameters())
    assert sampling_cost(two).parameters == 2 * one and one < cost.parameters < 2 * one
    assert sampling_cost(guided(runs, "cost", "merge")).parameters == one
    assert sampling_cost(guided(runs, "cost", "perturbed-attention")).parameters == one
    theirs = shared.parts[1].network.network
    own = [value for name, value in theirs.named_parameters() if name.startswith(("dec.8x8_block1", "dec.8x8_aux"))]
    assert cost.parameters == one + sum(value.numel() for value in own)
    assert judged.nfe == 7 and judged.gflop > 7 * forward  # the gradient is work, but no network evaluation


def test_classes_drawn_are_known_and_written(runs, tmp_path):
    model = Model.load(runs / "classes", device="cpu")
    seen = []

    class Recorded(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, sigma, *, class_label):
            seen.append(class_label.clone())
            return self.inner(x, sigma, class_label=class_label)

    spy = Model(Recorded(model.denoiser), model.config, model.path, device=model.device)
    spy.sample(9, seed=5)
    assert torch.equal(model.drawn_classes(range(9), 5), seen[0])
    assert len(seen[0].unique()) > 1
    model.write_samples(tmp_path / "s.zip", 9, seed=5)
    assert torch.equal(ImageSource.open(tmp_path / "s.zip", name="s", synthetic=True).labels, seen[0])
    assert model.drawn_classes(range(4), 0, class_label=2).tolist() == [2, 2, 2, 2]
    assert Model.load(runs / "base", device="cpu").drawn_classes(range(4), 0) is None


def test_identical_weights_are_said(runs):
    with pytest.warns(UserWarning, match="identical weights"):
        model = guided(runs, "same", "extrapolation", auxiliary="../base", weight=3.0)
    assert torch.equal(model.sample(3), Model.load(runs / "base", device="cpu").sample(3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guided(runs, "different", "extrapolation")


def test_what_does_not_fit_is_named(runs):
    with pytest.raises(UsageError, match="they know 0 and 2 sources"):
        guided(runs, "bad", "extrapolation", auxiliary="../casd")
    with pytest.raises(UsageError, match="class-dropout"):
        guided(runs, "bad", "classifier-free", base="../base")
    with pytest.raises(DataError, match=r"nowhere"):
        guided(runs, "bad", "extrapolation", auxiliary="../nowhere")
    with pytest.raises(UsageError, match="needs an auxiliary"):
        GuidanceConfig("extrapolation", 1.0, "../base")
    with pytest.raises(UsageError, match="takes no auxiliary"):
        GuidanceConfig("source", 1.0, "../casd", "../base")
    with pytest.raises(UsageError, match="choose one of extrapolation"):
        GuidanceConfig("magic", 1.0, "../base")
    with pytest.raises(UsageError, match="no snapshots of its own"):
        guided(runs, "fine", "extrapolation")
        Model.load(runs / "fine", snapshot=32)
    with pytest.raises(DataError, match="no discriminator"):
        Discriminator.load(runs / "base" / "model.safetensors")
    with pytest.raises(UsageError, match="pass device="):
        Model(lambda x, sigma: x, Model.load(runs / "base", device="cpu").config, runs)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[1]",
        '{"kind": "merge"}',
        '{"kind": "magic", "weight": 1, "base": "x"}',
        "{",
        '{"kind": "source", "weight": 1, "base": "x", "interval": 3}',
    ],
)
def test_a_damaged_file_is_named(tmp_path, text):
    (tmp_path / "guidance.json").write_text(text)
    with pytest.raises(DataError, match=r"guidance\.json"):
        Model.load(tmp_path, device="cpu")


def test_guidance_is_written_and_read_back(tmp_path):
    for guidance in (
        GuidanceConfig("extrapolation", 0.3, "a", "b", (0.1, 2.0), method="sims"),
        GuidanceConfig("source", 1.0, "a", source=2),
    ):
        guidance.write(tmp_path)
        assert GuidanceConfig.read(tmp_path) == guidance
    assert json.loads((tmp_path / "guidance.json").read_text())["source"] == 2


def test_an_auxiliary_trains_what_its_name_says(runs):
    config = Model.load(runs / "base", device="cpu").config
    values = {name: getattr(config, name) for name in config.__dataclass_fields__}
    everything = AuxiliaryConfig(**{**values, "method": TRAIN_PARTS["all"]}).build_denoiser()
    assert all(parameter.requires_grad for parameter in everything.parameters())
    end = AuxiliaryConfig(**{**values, "method": TRAIN_PARTS["decoder"]}).build_denoiser()
    trained = {name.split(".")[1] + "." + name.split(".")[2] for name, p in end.named_parameters() if p.requires_grad}
    assert trained == {f"dec.8x8_{layer}" for layer in ("up", "block0", "block1", "aux_norm", "aux_conv")}
