"""EDM2's recipe: what its loss is least at, its learning rate, its averages on disk, and others rebuilt from them."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from factories import noise_source, stopped_at
from torch.nn.functional import normalize

from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import DataError, UsageError
from nomadiff.methods.registry import METHODS
from nomadiff.models.model import Model
from nomadiff.networks.config import NetworkConfig
from nomadiff.processes import Processes
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training import loop
from nomadiff.training.config import RunConfig
from nomadiff.training.loop import train
from nomadiff.training.loss import training_levels, with_uncertainty
from nomadiff.training.phema import PowerEMA
from nomadiff.training.post_hoc import rebuild_average
from nomadiff.training.presets import PRESETS, Preset
from nomadiff.training.run_folder import RunFolder, load_metadata, load_tensors
from nomadiff.training.settings import TrainingConfig

ALONE = Processes(0, 1, torch.device("cpu"))
NETWORK = NetworkConfig("edm2", 8, 1, 8, (1, 2), 1, (4,), dropout=0.1, channels_per_head=8)


@pytest.fixture(scope="module")
def mix():
    return SourceMix(noise_source("real", labels=False), [noise_source("made", 1, labels=False)])


def recipe(mix, network=NETWORK, **training):
    options = {"budget": 320, "batch": 16, "warmup": 32, "learning_rate": 0.02, "snapshot_every": 32, "log_every": 160}
    options |= {"ema_stds": (0.05, 0.10), "adam_beta2": 0.99, "lr_decay": 160}
    preset = Preset(network, TrainingConfig(**{**options, **training}), SamplerConfig(steps=3), 0.5, "test")
    return METHODS["casd"](preset).recipe(mix)


@pytest.fixture(scope="module")
def run(mix, tmp_path_factory):
    """A finished run, and the average of width 0.07 that its loop would have kept."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    kept = []

    class Watched(PowerEMA):
        def __init__(self, module, stds):
            super().__init__(module, stds)
            kept.append(PowerEMA(module, [0.07]))

        def update(self, images_seen, batch):
            super().update(images_seen, batch)
            kept[0].update(images_seen, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PowerEMA", Watched)
        train(recipe(mix), mix, folder, ALONE)
    return folder, kept[0].module.state_dict()


def test_learning_rate_rises_stays_and_falls_as_one_over_the_root():
    options = TrainingConfig(budget=1, batch=2048, learning_rate=0.01, warmup=10_000_000, lr_decay=35_000 * 2048)
    rates = [options.learning_rate_after(images) for images in (0, 5_000_000, 10_000_000, 35_000 * 2048)]
    assert rates == pytest.approx([0, 0.005, 0.01, 0.01])
    assert options.learning_rate_after(4 * 35_000 * 2048) == pytest.approx(0.005)
    constant = replace(options, lr_decay=None)
    assert constant.learning_rate_after(10**12) == 0.01
    # a decay that begins inside the ramp multiplies it
    early = replace(options, lr_decay=2_500_000)
    assert early.learning_rate_after(5_000_000) == pytest.approx(0.005 / 2**0.5)
    assert replace(constant, warmup=0).learning_rate_after(0) == 0.01


def test_uncertainty_is_least_at_the_logarithm_of_the_expected_loss():
    generator = torch.Generator().manual_seed(0)
    loss = 3.0 * torch.rand(4000, 1, 2, 2, generator=generator)
    u = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(with_uncertainty(loss, u.expand(4000)).mean(), u)
    assert slope == pytest.approx(1 - loss.mean().item(), rel=1e-4)  # d/du (l e^-u + u) at 0
    best = loss.mean().log()
    objective = [float(with_uncertainty(loss, (best + shift).expand(4000)).mean()) for shift in (-0.1, 0.0, 0.1)]
    assert objective[1] < min(objective[0], objective[2])
    # at that point every noise level pulls with the same force: the expected loss over e^u is 1
    assert (loss / best.exp()).mean().item() == pytest.approx(1, rel=1e-5)


def test_each_image_has_its_own_uncertainty():
    loss, u = torch.ones(2, 1, 1, 3), torch.tensor([0.0, 1.0])
    expected = torch.tensor([1.0, torch.tensor(-1.0).exp() + 1])
    assert torch.allclose(with_uncertainty(loss, u), expected[:, None, None, None].expand(2, 1, 1, 3))


def test_one_step_is_adam_on_the_uncertain_loss(mix, tmp_path, monkeypatch):
    """The loop's gradient is that of ``loss / e^u + u``, summed over pixels, averaged over images."""
    seen = {}
    step = loop._Training._step

    def watched(self, meter):
        self.optimizer.step = lambda: seen.update(
            {name: p.grad.clone() for name, p in self.denoiser.named_parameters()}
        )
        step(self, meter)
        seen["training"] = self

    monkeypatch.setattr(loop._Training, "_step", watched)
    config = recipe(mix, network=replace(NETWORK, dropout=0.0), budget=16)
    train(config, mix, RunFolder(tmp_path / "run"), ALONE)
    training, gradients = seen.pop("training"), seen
    denoiser, batch = training.denoiser, mix.batch(0, 16, 0)
    generator = torch.Generator().manual_seed(loop.mixed_seed(0, 1, 0, 0, 0))
    sigma = training_levels(16, -1.2, 1.2, generator)
    images = batch.images.float() / 127.5 - 1
    noise = torch.randn(images.shape, generator=generator)
    u = denoiser.network.log_variance(sigma.log() / 4)
    level = sigma[:, None, None, None]
    error = (denoiser(images + level * noise, sigma, source=batch.source) - images) ** 2
    weight = (level**2 + 0.25) / (level * 0.5) ** 2
    denoiser.zero_grad()
    (weight * error / u.exp()[:, None, None, None] + u[:, None, None, None]).sum().div(16).backward()
    for name, parameter in denoiser.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)
    assert gradients["network.logvar_linear.weight"].abs().sum() > 0


def test_infinite_gradients_move_nothing(mix, tmp_path, monkeypatch):
    """One exploding pass leaves the weights as they were (EDM2: not-a-number and infinity count 0)."""
    config = recipe(mix, budget=32, warmup=0)
    healthy = loop.with_uncertainty
    monkeypatch.setattr(loop, "with_uncertainty", lambda loss, u: healthy(loss, u) * float("inf"))
    denoiser = train(config, mix, RunFolder(tmp_path / "run"), ALONE)
    torch.manual_seed(loop.mixed_seed(0, 0))
    fresh = config.build_denoiser().state_dict()
    for name, value in denoiser.state_dict().items():
        # a training pass normalises the weights that make up one output; their directions are what could move
        moved, still = (normalize(x.flatten(1), dim=1) if x.ndim > 1 else x for x in (value, fresh[name]))
        torch.testing.assert_close(moved, still, rtol=0, atol=1e-3, msg=name)


def test_every_snapshot_holds_both_averages(run):
    folder, _ = run
    assert folder.snapshots() == list(range(32, 321, 32))
    for images in (32, 320):
        narrow, wide = folder.snapshot_path(images, 0.05), folder.snapshot_path(images)
        assert load_metadata(narrow)["ema_std"] == 0.05 and load_metadata(wide)["ema_std"] == 0.10
        tensors = [load_tensors(path)[0]["network.out_gain"] for path in (narrow, wide)]
    assert not torch.equal(*tensors)
    model, metadata = load_tensors(folder.model_path)
    assert metadata["ema_std"] == 0.10 and torch.equal(model["network.out_gain"], tensors[1])
    assert folder.config().training.ema_stds == (0.05, 0.10)
    # the narrow average is a model file too
    assert Model.load(folder.snapshot_path(320, 0.05), device="cpu").sample(1).shape == (1, 1, 8, 8)


def test_any_width_is_rebuilt_after_training(run, tmp_path):
    folder, expected = run
    path = rebuild_average(folder.path, 0.07, tmp_path / "rebuilt.safetensors")
    rebuilt, metadata = load_tensors(path)
    assert (metadata["ema_std"], metadata["images_seen"]) == (0.07, 320)
    model = load_tensors(folder.model_path)[0]
    narrow = load_tensors(folder.snapshot_path(320, 0.05))[0]
    error = distance(rebuilt, expected)
    assert error < 0.02 * min(distance(model, expected), distance(narrow, expected))
    assert Model.load(path, device="cpu").sample(2, seed=3).shape == (2, 1, 8, 8)


def distance(a, b):
    return float(torch.cat([(a[name] - b[name]).flatten() for name in a]).norm())


def test_a_kept_width_is_rebuilt_as_it_is_at_any_snapshot(run, tmp_path):
    folder, _ = run
    path = rebuild_average(folder.path, 0.05, tmp_path / "a.safetensors", images_seen=160)
    kept = load_tensors(folder.snapshot_path(160, 0.05))[0]
    for name, value in load_tensors(path)[0].items():
        torch.testing.assert_close(value, kept[name], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_rebuilt(run, mix, tmp_path):
    folder, _ = run
    with pytest.raises(UsageError, match="no snapshot at 33 images; it has: 32, 64"):
        rebuild_average(folder.path, 0.1, tmp_path / "a.safetensors", images_seen=33)
    with pytest.raises(UsageError, match=r"between 0 and 0\.288"):
        rebuild_average(folder.path, 0.3, tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="kept no power-function averages"):
        rebuild_average(tmp_path, 0.1, tmp_path / "a.safetensors")
    (tmp_path / "mine.safetensors").write_bytes(b"precious")
    with pytest.raises(UsageError, match="exists"):
        rebuild_average(folder.path, 0.1, tmp_path / "mine.safetensors")
    assert (tmp_path / "mine.safetensors").read_bytes() == b"precious"


def test_stopped_run_continues_bit_for_bit(run, mix, tmp_path):
    whole, _ = run
    broken = RunFolder(tmp_path / "broken")
    with stopped_at(208):
        train(recipe(mix), mix, broken, ALONE)
    train(recipe(mix), mix, broken, ALONE)
    for path in (broken.model_path, broken.snapshot_path(320, 0.05)):
        expected = load_tensors(whole.path / path.relative_to(broken.path))[0]
        for name, value in load_tensors(path)[0].items():
            assert torch.equal(value, expected[name]), name


def test_recipe_survives_its_file(mix):
    config = recipe(mix)
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    # a recipe written before these fields existed means their defaults
    values = json.loads(json.dumps(recipe(mix, ema_stds=(), lr_decay=None, adam_beta2=0.999).to_dict()))
    for name in ("ema_stds", "lr_decay", "adam_beta2"):
        del values["training"][name]
    assert RunConfig.from_dict(values) == recipe(mix, ema_stds=(), lr_decay=None, adam_beta2=0.999)
    with pytest.raises(DataError, match="setting training: unknown setting momentum"):
        RunConfig.from_dict({**values, "training": {**values["training"], "momentum": 1}})


def test_run_of_an_older_version_continues(mix, tmp_path):
    folder = RunFolder(tmp_path / "run")
    config = recipe(mix, budget=32, ema_stds=(), lr_decay=None, adam_beta2=0.999)
    folder.path.mkdir()
    folder.begin(config, mix.provenance)
    written = json.loads((folder.path / "config.json").read_text())
    del written["recipe"]["training"]["adam_beta2"]
    (folder.path / "config.json").write_text(json.dumps(written))
    folder.begin(config, mix.provenance)
    with pytest.raises(UsageError, match="adam_beta2"):
        folder.begin(replace(config, training=replace(config.training, adam_beta2=0.99)), mix.provenance)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr_decay": 0}, "lr_decay must be at least 1"),
        ({"adam_beta2": 1.0}, "adam_beta2 must lie in"),
        ({"ema_stds": (0.05, 0.3)}, r"between 0 and 0\.288"),
        ({"ema_stds": (0.05, 0.05)}, "ema_stds must differ"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(UsageError, match=message):
        TrainingConfig(budget=1, **change)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("imagenet64-edm2-s", {"learning_rate": 0.010, "lr_decay": 35_000 * 2048, "p_mean": -0.8, "p_std": 1.6}),
        ("imagenet512-edm2-s", {"learning_rate": 0.010, "lr_decay": 70_000 * 2048, "p_mean": -0.4, "p_std": 1.0}),
        ("imagenet512-edm2-xs", {"learning_rate": 0.012, "lr_decay": 70_000 * 2048, "p_mean": -0.4, "p_std": 1.0}),
    ],
)
def test_presets_carry_the_papers_values(name, expected):
    preset = PRESETS[name]
    expected = {"batch": 2048, "warmup": 10_000_000, "adam_beta2": 0.99, "ema_stds": (0.05, 0.10), **expected}
    assert asdict(preset.training).items() >= expected.items()
    assert preset.sampler.nfe == 63
    assert preset.network.channels == (4 if "512" in name else 3)


@pytest.mark.parametrize("resolution", [8, 24, 32])
def test_tiny_takes_any_multiple_of_eight(resolution):
    config = replace(PRESETS["edm2-tiny"].network, resolution=resolution, channels=1)
    config.validate()
