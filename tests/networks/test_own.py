"""The contract of a user's own network: built from its name and plain settings, checked, planned, trained, loaded."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial

import my_parts
import pytest
import torch
from factories import noise_source
from torch import nn

from nomadiff.data.source_mix import SourceMix
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import DataError, UsageError
from nomadiff.methods.casd import CASD
from nomadiff.methods.source_guidance import with_source_labels
from nomadiff.models.dry_run import plan_sampling, plan_training
from nomadiff.models.model import Model
from nomadiff.networks.build import build_filled, build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.flops import flops_of, parameters_of
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.ema import ModuleEMA
from nomadiff.training.phema import PowerEMA
from nomadiff.training.presets import PRESETS, preset_named

SMALL = {"budget": 64, "batch": 16, "warmup": 32, "snapshot_every": 32, "log_every": 32}


class OfNumbers(nn.Module):
    """Looks at values while it is built, as many published networks do: no plan on shapes alone. A buffer moves."""

    def __init__(self, channels, resolution, label_dim, rate=0.5, **more):
        super().__init__()
        # not linspace: once transformers has loaded a model, torch's device contexts may pass it over (it patches it)
        self.rates = [rate * value.item() for value in torch.arange(3)]
        self.norm = nn.BatchNorm2d(channels)
        self.body = nn.Conv2d(channels, channels, 3, padding=1)
        self.told = nn.Linear(label_dim, channels) if label_dim else None

    def forward(self, x, noise_label, labels):
        h = self.body(self.norm(x)) * (1 + noise_label[:, None, None, None])
        return h if labels is None else h + self.told(labels)[:, :, None, None]


class LooksAtValues(my_parts.Plain):
    """Built on shapes alone, but not run on them."""

    def forward(self, x, noise_label, labels):
        return super().forward(x, noise_label, labels) * (2 if float(noise_label.sum()) > 1e6 else 1)


class Narrow(my_parts.Plain):
    def forward(self, x, noise_label, labels):
        return super().forward(x, noise_label, labels)[:, :1]


class NoLabels(nn.Module):
    def __init__(self, channels, resolution):
        super().__init__()


class OtherForward(my_parts.Plain):
    def forward(self, image, t):
        return image


class Failing(my_parts.Plain):
    def __init__(self, *, channels, resolution, label_dim):
        raise RuntimeError("no such width")


@pytest.fixture(scope="module")
def mix():
    return SourceMix(noise_source("real", count=24, labels=False), [noise_source("made", 1, count=24, labels=False)])


@pytest.mark.parametrize("network", [my_parts.Plain, OfNumbers, LooksAtValues])
def test_a_class_is_a_configuration_and_a_network(network):
    config = NetworkConfig.own(network, resolution=8, channels=2)
    assert config.architecture == f"{network.__module__}:{network.__name__}"
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    built = build_network(config, 3).eval()
    assert type(built) is network
    x = torch.randn(4, 2, 8, 8)
    with torch.no_grad():
        out = built(x, torch.zeros(4), torch.eye(3)[[0, 1, 2, 0]])
        alone = built(x[:1], torch.zeros(1), torch.eye(3)[:1])
    assert out.shape == x.shape and torch.allclose(out[:1], alone, atol=1e-5)


def test_settings_reach_the_class_and_wrong_ones_are_told():
    wide = NetworkConfig.own(partial(my_parts.Plain, width=8), resolution=8, channels=1, blocks=1)
    assert json.loads(wide.settings) == {"width": 8, "blocks": 1}
    assert build_network(wide).first.weight.shape == (8, 1, 3, 3)
    for settings, told in [
        ({"widht": 8}, "takes no setting widht"),
        ({"width": torch.zeros(1)}, "plain values that JSON can hold"),
        ({"width": 1 << 40}, "network setting width is .*, beyond"),
        ({"width": math.nan}, "plain values"),
    ]:
        with pytest.raises(UsageError, match=told):
            NetworkConfig.own(my_parts.Plain, **settings)
    with pytest.raises(UsageError, match="bound by keyword"):
        NetworkConfig.own(partial(my_parts.Plain, 8))
    assert NetworkConfig.own(OfNumbers, anything=1).settings  # a class that takes whatever it is given
    with pytest.raises(UsageError, match="takes no augmentation"):
        build_network(replace(wide, augment_dim=9))


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (NoLabels, "it must be an nn.Module class whose constructor takes channels, resolution, label_dim"),
        (OtherForward, "its forward must take x, noise_label, labels"),
        (nn.Conv2d, "it must be an nn.Module class"),
        (my_parts.midpoint, "it must be an nn.Module class"),
        (nn.Identity(), "it must be an nn.Module class"),
    ],
)
def test_what_is_no_network_is_told(network, told):
    with pytest.raises(UsageError, match=told):
        CASD(network)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("absent_parts:Net", "--plugin absent_parts"),
        ("torch.nn:Conv2d", "is no network"),
        ("torch:load", "is no network"),
        ("os:system", "is no network"),
    ],
)
def test_a_recipe_may_name_only_networks_of_imported_modules(name, told):
    values = {**NetworkConfig.own(my_parts.Plain).to_dict(), "architecture": name}
    with pytest.raises(UsageError, match=told):
        NetworkConfig.from_dict(values).validate()


def test_a_constructor_that_fails_is_one_line():
    with pytest.raises(UsageError, match="Failing cannot be built .RuntimeError: no such width"):
        build_network(NetworkConfig.own(Failing))


def test_an_output_of_another_shape_is_told_and_never_broadcast():
    denoiser = EDMDenoiser(build_network(NetworkConfig.own(Narrow, resolution=8, channels=3)))
    with pytest.raises(UsageError, match=r"Narrow made \(2, 1, 8, 8\) of images \(2, 3, 8, 8\)"):
        denoiser(torch.zeros(2, 3, 8, 8), torch.ones(2))


def test_cost_is_counted_or_unknown(mix):
    plain = NetworkConfig.own(my_parts.Plain, resolution=8, channels=1)
    assert flops_of(plain, 2) > 2 * 32 * 32 * 9 * 64
    for network, known in ((my_parts.Plain, True), (OfNumbers, False), (LooksAtValues, False)):
        assert math.isnan(flops_of(NetworkConfig.own(network, resolution=8, channels=1), 2)) != known
        recipe = CASD(network, **SMALL).recipe(mix)
        plans = plan_training(recipe) + plan_sampling(recipe, recipe.sampler, 10)
        assert ("unknown" in plans) != known and "nan" not in plans


@pytest.mark.parametrize("network", [partial(my_parts.Plain, width=8), OfNumbers])
def test_casd_trains_it_and_a_fresh_process_loads_it_where_the_module_is_imported(network, mix, tmp_path):
    model = CASD(network, **SMALL).fit(mix, tmp_path / "run", device="cpu")
    sampler = SamplerConfig(solver=my_parts.midpoint, steps=4)
    expected = model.sample(3, sampler=sampler)
    again = Model.load(tmp_path / "run", device="cpu")
    assert torch.equal(again.sample(3, sampler=sampler), expected)
    assert again.manifest(3, 0, sampler=sampler)["nfe"] == 7
    assert again.manifest(3, 0, sampler=sampler)["sampler"]["solver"] == "my_parts:midpoint"


def test_an_unfitting_file_is_told_even_without_a_plan(mix):
    config = CASD(OfNumbers, **SMALL).recipe(mix)
    weights = {**config.build_denoiser().state_dict(), "network.extra": torch.zeros(1)}
    with pytest.raises(DataError, match=r"network\.extra is unknown"):
        build_filled(config.build_denoiser, weights)


def test_a_fresh_process_without_the_module_says_which_plugin_is_missing(mix, tmp_path):
    model = CASD(partial(my_parts.Plain, width=8), **SMALL).fit(mix, tmp_path / "run", device="cpu")
    call = [sys.executable, "-m", "nomadiff", "info", str(tmp_path / "run")]
    cwd = my_parts.__file__.rsplit("/", 1)[0]
    refused = subprocess.run(call, cwd=cwd, capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "--plugin my_parts" in refused.stderr and refused.stderr.count("\n") == 1
    done = subprocess.run([*call, "--plugin", "my_parts"], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "my_parts:Plain" in done.stdout and model.sha256 in done.stdout


@pytest.mark.parametrize(
    "average", [lambda module: ModuleEMA(module, 100, None), lambda module: PowerEMA(module, (0.1,))]
)
def test_averages_take_over_what_a_network_keeps_in_buffers(average):
    module = nn.BatchNorm2d(1)
    kept = average(module)
    module.train()(torch.randn(16, 1, 4, 4) + 5)
    kept.update(0, 16)
    assert torch.equal(kept.module.running_mean, module.running_mean) and module.running_mean.abs().sum() > 0


def test_what_needs_to_know_the_network_says_so(mix):
    from nomadiff.guidance.shared_encoder import decoder_end
    from nomadiff.methods.autoguidance import Autoguidance
    from nomadiff.models.discriminator import Discriminator

    config = CASD(my_parts.Plain, **SMALL).recipe(mix)
    with pytest.raises(UsageError, match="train it with casd"):
        with_source_labels({}, config)
    with pytest.raises(UsageError, match="decoder cannot be trained apart"):
        decoder_end(config.network)
    with pytest.raises(UsageError, match="pass width=1"):
        Autoguidance(my_parts.Plain)
    with pytest.raises(UsageError, match="has no encoder"):
        Discriminator(config)


def test_a_preset_is_named_as_a_network_is(monkeypatch):
    mine = replace(PRESETS["tiny"], network=NetworkConfig.own(my_parts.Plain), description="mine")
    monkeypatch.setattr(my_parts, "MINE", mine, raising=False)
    assert preset_named("my_parts:MINE") is preset_named(mine) is mine
    assert preset_named("my_parts:Plain") == preset_named(my_parts.Plain)
    assert preset_named("my_parts:Plain").training == PRESETS["tiny"].training
    assert parameters_of(build_network(preset_named(my_parts.Plain).network)) > 0
    with pytest.raises(UsageError, match=r"unknown preset 'digit' \(did you mean 'digits'\?\)"):
        preset_named("digit")
    with pytest.raises(UsageError, match="no network 'MINED'"):
        preset_named("my_parts:MINED")
    with pytest.raises(UsageError, match="--plugin absent_parts"):
        preset_named("absent_parts:Net")
