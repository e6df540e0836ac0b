"""The DDPM++ network against numbers computed with the original EDM code (tests/fixtures/parity, see its README)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nomadiff.denoiser import BoundDenoiser, EDMDenoiser
from nomadiff.errors import DataError
from nomadiff.networks.build import build_network, load_edm_state
from nomadiff.networks.config import NetworkConfig
from nomadiff.sampling.noise_levels import karras_levels
from nomadiff.sampling.solvers import heun
from nomadiff.seeding import EDMNoise

FIXTURES = Path(__file__).parent.parent / "fixtures" / "parity"
CASES = ["edm_ddpmpp_casd", "edm_ddpmpp_uncond"]


class Reference:
    """One fixture: its arrays as tensors, and our denoiser with its weights."""

    def __init__(self, name: str) -> None:
        with np.load(FIXTURES / f"{name}.npz") as arrays:
            self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "config"}
            original = json.loads(str(arrays["config"]))
        self.config = NetworkConfig(
            architecture="ddpmpp",
            resolution=original["img_resolution"],
            channels=original["img_channels"],
            model_channels=original["model_channels"],
            channel_mult=tuple(original["channel_mult"]),
            blocks=original["num_blocks"],
            attention=tuple(original["attn_resolutions"]),
            dropout=original["dropout"],
            augment_dim=original["augment_dim"],
        )
        self.sources = original["label_dim"]
        self.state = {k.removeprefix("state/"): v for k, v in self.arrays.items() if k.startswith("state/")}
        network = build_network(self.config, self.sources)
        load_edm_state(network, self.state)
        self.denoiser = EDMDenoiser(network, sources=self.sources).eval()

    @property
    def condition(self) -> dict[str, torch.Tensor]:
        return {"source": self["labels"].argmax(dim=1)} if self.sources else {}

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.arrays[key]


@pytest.fixture(scope="module", params=CASES)
def reference(request: pytest.FixtureRequest) -> Reference:
    torch.set_num_threads(1)
    return Reference(request.param)


@pytest.fixture(scope="module")
def casd() -> Reference:
    return Reference("edm_ddpmpp_casd")


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def test_every_original_weight_has_our_name_and_shape(reference: Reference) -> None:
    ours = {f"model.{name}" for name in reference.denoiser.network.state_dict()}
    assert ours == {name for name in reference.state if not name.endswith("resample_filter")}


@torch.no_grad()
def test_denoised(reference: Reference) -> None:
    out = reference.denoiser(reference["x"], reference["sigma"], **reference.condition)
    assert out.dtype == torch.float32
    assert largest(out, reference["denoised"]) < 1e-5


@torch.no_grad()
def test_denoised_with_augmentation_label(casd: Reference) -> None:
    out = casd.denoiser(casd["x"], casd["sigma"], augment=casd["augment_labels"], **casd.condition)
    assert largest(out, casd["denoised_augmented"]) < 1e-5
    zeros = torch.zeros_like(casd["augment_labels"])
    same = casd.denoiser(casd["x"], casd["sigma"], augment=zeros, **casd.condition)
    assert largest(same, casd["denoised"]) < 1e-5


@torch.no_grad()
def test_source_argument_is_the_one_hot_label(casd: Reference) -> None:
    vector = casd.denoiser.label_vector(casd.condition["source"], None, batch=4, device=torch.device("cpu"))
    assert torch.equal(vector, casd["labels"])


def test_loss_and_gradient_norm(reference: Reference) -> None:
    sigma = reference["loss_sigma"].reshape(-1, 1, 1, 1)
    images = reference["loss_images"]
    reference.denoiser.zero_grad()
    noisy = images + sigma * reference["loss_unit_noise"]
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    loss = weight * (reference.denoiser(noisy, reference["loss_sigma"], **reference.condition) - images) ** 2
    assert largest(loss, reference["loss"]) < 1e-5 * float(reference["loss"].max())
    loss.sum().backward()
    norm = torch.stack([p.grad.norm() for p in reference.denoiser.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(float(reference["grad_norm_of_loss_sum"]), rel=1e-5)


def test_latents_of_edm_seeds(reference: Reference) -> None:
    latents = reference["latents_seeds_0_3"]
    assert torch.equal(EDMNoise(range(4)).normal(latents.shape[1:]), latents)


@torch.no_grad()
def test_heun_18_steps(reference: Reference) -> None:
    sigmas = karras_levels(18)
    x = EDMNoise(range(4)).normal(reference["latents_seeds_0_3"].shape[1:]).double() * sigmas[0]
    images = heun(BoundDenoiser(reference.denoiser, **reference.condition), x, sigmas)
    assert largest(images, reference["heun_18_steps"]) < 1e-4


@torch.no_grad()
def test_channels_last_gives_the_same(casd: Reference) -> None:
    network = build_network(casd.config, casd.sources).to(memory_format=torch.channels_last)
    load_edm_state(network, casd.state)
    x = casd["x"].contiguous(memory_format=torch.channels_last)
    out = EDMDenoiser(network, sources=casd.sources).eval()(x, casd["sigma"], **casd.condition)
    assert largest(out, casd["denoised"]) < 1e-5


def test_weights_that_do_not_fit_are_named(casd: Reference) -> None:
    network = build_network(casd.config, casd.sources)
    broken = dict(casd.state)
    broken["model.map_layer0.weights"] = broken.pop("model.map_layer0.weight")
    with pytest.raises(DataError, match=r"map_layer0\.weight is missing \(and 1 more\)"):
        load_edm_state(network, broken)
    with pytest.raises(DataError, match=r"map_label\.weight has shape \(16, 2\), expected \(16, 3\)"):
        load_edm_state(build_network(casd.config, 3), casd.state)
