import pytest
import torch

from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import NomadiffError
from nomadiff.networks.build import build_network
from nomadiff.networks.presets import NETWORKS
from nomadiff.training.probe import check_source_reaches_output, source_effect

CPU = torch.device("cpu")


def fresh(preset, **changes):
    from dataclasses import replace

    config = replace(NETWORKS[preset], resolution=8, channels=1, model_channels=16, channel_mult=(1, 2), blocks=1)
    config = replace(config, attention=(4,), dropout=0.1, channels_per_head=16, **changes)
    return EDMDenoiser(build_network(config, label_dim=3), sources=3)


@pytest.mark.parametrize("preset", ["digits", "cifar10-ncsnpp", "imagenet64-adm", "imagenet64-edm2-tiny"])
def test_fresh_networks_of_every_architecture_pass(preset):
    denoiser = fresh(preset).train()
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    check_source_reaches_output(denoiser, (1, 8, 8), CPU)
    assert denoiser.training
    assert all(parameter.grad is None for parameter in denoiser.parameters())
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())


def test_network_without_a_path_from_its_labels_is_refused():
    denoiser = fresh("digits")
    inner = denoiser.network.forward
    denoiser.network.forward = lambda x, noise, labels, augment=None: inner(x, noise, labels.detach(), augment)
    with pytest.raises(NomadiffError, match="ignores its source label"):
        check_source_reaches_output(denoiser, (1, 8, 8), CPU)


def test_effect_is_zero_only_for_a_deaf_network():
    clean = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    denoiser = fresh("digits").eval()
    with torch.no_grad():  # undo the near-zero initialisation
        for parameter in denoiser.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        assert source_effect(denoiser, clean) > 1e-3
        denoiser.network.map_label.weight.zero_()
        with pytest.raises(NomadiffError, match="ignores"):
            source_effect(denoiser, clean)
