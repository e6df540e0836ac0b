"""A step as a CUDA graph. No GPU is here: what is captured, and when; scripts/gpu_session.py compares the results."""

import pytest
import torch
from factories import noise_source, tiny_preset

from nomadiff.data.source_mix import SourceMix
from nomadiff.methods.registry import METHODS
from nomadiff.networks.presets import NETWORKS
from nomadiff.processes import Processes
from nomadiff.training import loop
from nomadiff.training.cuda_graph import ReplayedLoss, is_launch_bound
from nomadiff.training.loop import train
from nomadiff.training.run_folder import RunFolder, load_tensors

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def mix():
    return SourceMix(noise_source("real"), [noise_source("made", 1, count=60)])


def recipe(mix, **training):
    options = {"budget": 64, "batch": 16, "warmup": 0, "snapshot_every": 64, "log_every": 16, **training}
    return METHODS["casd"](tiny_preset(**options)).recipe(mix)


def test_small_networks_of_ours_are_replayed_on_a_gpu(mix):
    denoiser = recipe(mix).build_denoiser()
    assert is_launch_bound(denoiser, CUDA, 0.6e9, 64)
    assert not is_launch_bound(denoiser, CPU, 0.6e9, 64)
    assert not is_launch_bound(denoiser, CUDA, 42e9, 512)
    denoiser.network = torch.nn.Identity()  # a user's own may look at values, which no graph can
    assert not is_launch_bound(denoiser, CUDA, 0.6e9, 64)
    assert NETWORKS["imagenet64-edm2-tiny"].architecture == "edm2"


def captured(made):
    """Stands for CUDA's capture, whose result is called with the same tensors in the same order."""

    def capture(module, given, allow_unused_input):
        assert module.training and allow_unused_input and all(isinstance(each, torch.Tensor) for each in given)
        made.append([each.shape for each in given])
        return module

    return capture


def trained(mix, folder, **training):
    run = RunFolder(folder)
    train(recipe(mix, **training), mix, run, Processes(0, 1, CPU))
    return load_tensors(run.model_path)[0]


def test_a_replayed_training_is_the_plain_one(mix, tmp_path, monkeypatch):
    expected = trained(mix, tmp_path / "plain")
    made = []
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", captured(made))
    monkeypatch.setattr(loop, "is_launch_bound", lambda *_: True)
    found = trained(mix, tmp_path / "replayed")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert len(made) == 1 and made[0][0] == (16, mix.channels, mix.resolution, mix.resolution)


@pytest.mark.parametrize("option", [{"microbatch": 8}, {"checkpoint_gradients": True}])
def test_a_step_of_several_passes_is_not_replayed(option, mix, tmp_path, monkeypatch):
    """A graph's gradients lie where its next pass writes: they could not be added up."""
    made = []
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", captured(made))
    monkeypatch.setattr(loop, "is_launch_bound", lambda *_: True)
    trained(mix, tmp_path / "run", **option)
    assert made == []


def test_where_no_graph_can_be_made_the_kernels_are_launched(mix, monkeypatch, capsys):
    def refused(*_, **__):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refused)
    denoiser = recipe(mix).build_denoiser().train()
    loss = ReplayedLoss(denoiser, 0.5)
    images = torch.randn(4, mix.channels, mix.resolution, mix.resolution)
    made = loss(images, torch.ones(4), torch.randn_like(images), source=torch.zeros(4, dtype=torch.int64))
    assert made.shape == images.shape and made.requires_grad
    assert "no CUDA graph here (operation not permitted when stream is capturing)" in capsys.readouterr().err
