"""A U-Net of diffusers behind EDM's preconditioning is the denoiser that its own scheduler sees."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import DataError, UsageError
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.flops import flops_of
from nomadiff.networks.schedules import ddpm_levels

diffusers = pytest.importorskip("diffusers", reason="needs the diffusers extra")

TINY: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
}


def pair(labels: int = 0, out_channels: int = 3, **schedule: Any) -> tuple[Any, Any, EDMDenoiser, NetworkConfig]:
    """A network of diffusers, its scheduler, and the same as a denoiser of nomadiff."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    unet = diffusers.UNet2DModel(**{**TINY, "out_channels": out_channels}, num_class_embeds=labels or None).eval()
    scheduler = diffusers.DDPMScheduler(clip_sample=False, **schedule)
    settings = json.dumps({"unet": dict(unet.config), "scheduler": dict(scheduler.config)})
    config = NetworkConfig("unet2d", 8, 3, 8, (1, 2), 1, (), settings=settings)
    network = build_network(config, labels)
    network.unet.load_state_dict(unet.state_dict())
    return unet, scheduler, EDMDenoiser(network, classes=labels).eval(), config


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("labels", [0, 3])
def test_it_denoises_as_diffusers_does(prediction: str, beta_schedule: str, labels: int) -> None:
    unet, scheduler, denoiser, _ = pair(labels, prediction_type=prediction, beta_schedule=beta_schedule)
    classes = torch.tensor([0, 2]) if labels else None
    condition = {"class_label": classes} if labels else {}
    levels = ddpm_levels(dict(scheduler.config))
    theirs = scheduler.alphas_cumprod.double()
    # the scheduler counts in float32, where 1 - a has few digits left at its ends
    torch.testing.assert_close(levels[:990], ((1 - theirs) / theirs).sqrt()[:990], rtol=1e-3, atol=0)
    for step in (0, 1, 37, 500, 980):
        left, level = 1 / (1 + levels[step] ** 2).float(), levels[step].float()
        scheduler.alphas_cumprod[step] = left
        x = torch.randn(2, 3, 8, 8).clip(-1, 1) + level * torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            predicted = unet(x * left.sqrt(), step, class_labels=classes).sample
            expected = scheduler.step(predicted, step, x * left.sqrt()).pred_original_sample
            found = denoiser(x, level, **condition)
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5 * max(1.0, float(level)))


def test_steps_between_are_between() -> None:
    _, _, denoiser, _ = pair()
    network: Any = denoiser.network
    levels = network.schedule.log_levels
    assert torch.allclose(network.schedule.steps(levels[[0, 5, 999]]), torch.tensor([0.0, 5, 999]))
    middle = network.schedule.steps((levels[5:6] + levels[6:7]) / 2)
    assert middle.item() == pytest.approx(5.5, abs=1e-3)
    assert network.schedule.steps(torch.tensor([-20.0, 20.0])).tolist() == [0, 999]


def test_learned_variance_is_cut_off() -> None:
    _, _, denoiser, _ = pair(out_channels=6, variance_type="learned_range")
    assert denoiser(torch.randn(2, 3, 8, 8), 1.0).shape == (2, 3, 8, 8)


def test_labels_are_differentiable_and_may_be_none_at_all() -> None:
    _, _, denoiser, _ = pair(labels=3)
    labels = torch.zeros(1, 3, requires_grad=True)
    network: Any = denoiser.network
    network(torch.randn(1, 3, 8, 8), torch.zeros(1), labels).square().sum().backward()
    assert float(labels.grad.abs().sum()) > 0
    assert torch.isfinite(denoiser(torch.randn(1, 3, 8, 8), 1.0, class_label=-1)).all()


def test_it_is_planned_without_memory() -> None:
    _, _, _, config = pair()
    assert flops_of(config) > 1e6
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_cannot_be_built_says_why() -> None:
    _, _, denoiser, config = pair()
    with pytest.raises(UsageError, match="has no labels, not 4"):
        build_network(config, 4)
    with pytest.raises(UsageError, match="no augmentation label"):
        denoiser(torch.randn(1, 3, 8, 8), 1.0, augment=torch.zeros(1, 9))
    with pytest.raises(UsageError, match="no decoder"):
        denoiser.network.dec  # noqa: B018
    with pytest.raises(UsageError, match="settings belong to unet2d"):
        NetworkConfig("unet2d", 8, 3, 8, (1, 2), 1, ()).validate()
    for change, message in (
        ({"beta_schedule": "quadratic"}, "unknown beta_schedule"),
        ({"trained_betas": [0.0, 0.0]}, "must rise"),
    ):
        with pytest.raises(DataError, match=message):
            ddpm_levels(change)
