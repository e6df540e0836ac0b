"""Blocks that are compiled or computed twice: the same results; and how large a part of a batch fits into memory."""

import shutil
from dataclasses import replace

import pytest
import torch
from factories import noise_source, stopped_at, tiny_preset
from torch import nn

from nomadiff.cli import main
from nomadiff.data.source_mix import SourceMix
from nomadiff.denoiser import EDMDenoiser
from nomadiff.errors import NomadiffError, UsageError
from nomadiff.methods.registry import METHODS
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.processes import Processes
from nomadiff.training import footprint
from nomadiff.training.compiling import set_block_call
from nomadiff.training.footprint import activations_of, part_by_trial, parts_of
from nomadiff.training.loop import train
from nomadiff.training.presets import PRESETS
from nomadiff.training.run_folder import RunFolder, load_tensors
from nomadiff.training.settings import TrainingConfig

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ALONE = Processes(0, 1, CPU)
FAMILIES = ("ddpmpp", "ncsnpp", "adm", "edm2")


@pytest.fixture
def mix():
    return SourceMix(noise_source("real"), [noise_source("made", 1, count=60)])


def small(family):
    extra = {"augment_dim": 9} if family in ("ddpmpp", "ncsnpp") else {}
    return NetworkConfig(family, 8, 1, 8, (1, 2), 1, (4,), dropout=0.3, channels_per_head=8, **extra)


def recipe(mix, family="ddpmpp", network=None, **training):
    options = {"budget": 96, "batch": 16, "warmup": 0, "snapshot_every": 48, "log_every": 16, **training}
    preset = tiny_preset(**options)
    return METHODS["casd"](replace(preset, network=network or small(family))).recipe(mix)


def weights(folder):
    return load_tensors(folder.model_path)[0]


def same(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_gradients_make_the_same_model_bit_for_bit(family, mix, tmp_path):
    """Dropout is drawn again as it was; EDM2's weights are rescaled once."""
    runs = [RunFolder(tmp_path / name) for name in ("kept", "twice")]
    for run, checkpointed in zip(runs, (False, True)):
        train(recipe(mix, family, checkpoint_gradients=checkpointed), mix, run, ALONE)
    assert same(weights(runs[0]), weights(runs[1]))
    assert runs[0].read_log()[-1]["loss"] == runs[1].read_log()[-1]["loss"]


def test_a_run_may_go_on_with_or_without_them(mix, tmp_path):
    whole, run = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    train(recipe(mix), mix, whole, ALONE)
    assert "checkpoint_gradients" not in str((whole.path / "config.json").read_text())
    with stopped_at(64):
        train(recipe(mix), mix, run, ALONE)
    train(recipe(mix, checkpoint_gradients=True, compile=False), mix, run, ALONE)
    assert same(weights(whole), weights(run))


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_saves_memory_as_planned(family, mix):
    kept, twice = (activations_of(recipe(mix, family, checkpoint_gradients=each)) for each in (False, True))
    assert twice.per_image < 0.7 * kept.per_image


class Other(nn.Module):
    def forward(self, x, noise_label, labels):
        return x


@pytest.mark.parametrize(("option", "asked"), [("compiled", "--compile"), ("checkpointed", "--checkpoint-grad")])
def test_networks_without_blocks_are_refused(option, asked):
    with pytest.raises(UsageError, match=f"{asked}.* Other has no blocks"):
        set_block_call(EDMDenoiser(Other()), **{"compiled": False, "checkpointed": False, option: True})
    set_block_call(EDMDenoiser(Other()), compiled=False, checkpointed=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_is_one_graph(family, monkeypatch):
    """With the compiler's front half only, which takes no time: every block is captured whole."""
    original = torch.compile
    monkeypatch.setattr(
        torch,
        "compile",
        lambda call, dynamic, options: original(call, backend="aot_eager", fullgraph=True, dynamic=dynamic),
    )
    torch._dynamo.reset()
    torch.manual_seed(0)
    denoiser = EDMDenoiser(build_network(small(family), 2), sources=2).train()
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 5.0])

    def gradients():
        torch.manual_seed(1)
        out = denoiser(x, sigma, source=0)
        loss = (out * torch.linspace(0, 1, out.numel()).reshape(out.shape)).sum()
        return [out, *torch.autograd.grad(loss, list(denoiser.parameters()), allow_unused=True)]

    expected = gradients()
    for checkpointed in (False, True):
        set_block_call(denoiser, compiled=True, checkpointed=checkpointed)
        for one, two in zip(gradients(), expected, strict=True):
            assert one is two is None or torch.allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_compiler_that_fails_is_one_line(mix, tmp_path, monkeypatch):
    original = torch.compile

    def broken(graph, inputs):
        raise RuntimeError("no compiler\nof C++")

    monkeypatch.setattr(torch, "compile", lambda call, **options: original(call, backend=broken))
    torch._dynamo.reset()
    with pytest.raises(NomadiffError, match="torch.compile does not work here "):
        train(recipe(mix, compile=True), mix, RunFolder(tmp_path / "run"), ALONE)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_compiled_and_eager_agree_and_compiled_runs_continue_bit_for_bit(mix, tmp_path):
    torch._dynamo.reset()
    network = NetworkConfig("ddpmpp", 8, 1, 8, (1,), 1, (), dropout=0.1)
    torch.manual_seed(0)
    denoiser = EDMDenoiser(build_network(network, 2), sources=2).eval()
    x, sigma = torch.randn(16, 1, 8, 8), torch.linspace(0.1, 5, 16)
    with torch.no_grad():
        eager = denoiser(x, sigma, source=0)
        set_block_call(denoiser, compiled=True, checkpointed=False)
        assert float((denoiser(x, sigma, source=0) - eager).norm() / eager.norm()) < 1e-5
    options = {"network": network, "budget": 1600, "log_every": 160, "snapshot_every": 1600}
    runs = {name: RunFolder(tmp_path / name) for name in ("eager", "compiled", "continued")}
    for name in ("eager", "compiled"):
        train(recipe(mix, compile=name == "compiled", **options), mix, runs[name], ALONE)
    losses = [[record["loss"] for record in runs[name].read_log()] for name in ("eager", "compiled")]
    assert len(losses[0]) == 10 and losses[0] == pytest.approx(losses[1], rel=1e-3)
    with stopped_at(640):
        train(recipe(mix, compile=True, **{**options, "snapshot_every": 320}), mix, runs["continued"], ALONE)
    train(recipe(mix, compile=True, **options), mix, runs["continued"], ALONE)
    assert same(weights(runs["compiled"]), weights(runs["continued"]))


class Full(torch.OutOfMemoryError):
    pass


@pytest.mark.parametrize(("most", "found"), [(16, 16), (15, 8), (7, 4), (1, 1), (0, 1)])
def test_the_largest_part_that_does_not_run_out_of_memory(most, found):
    module, tried = nn.BatchNorm1d(3), []

    def attempt(size):
        tried.append(size)
        module(torch.randn(size + 1, 3))  # changes its statistics
        if size > most:
            raise Full("CUDA out of memory")

    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert part_by_trial(module, parts_of(16), attempt) == found
    assert tried == [size for size in (16, 8, 4, 2, 1) if size >= found] and same(before, module.state_dict())

    def failing(size):
        raise RuntimeError("another reason")

    with pytest.raises(RuntimeError, match="another reason"):
        part_by_trial(module, [2, 1], failing)


def test_parts_divide_a_share():
    assert parts_of(12) == [12, 6, 4, 3, 2, 1] and parts_of(1) == [1]


def test_microbatch_auto_is_planned_on_a_cpu_and_kept(mix, tmp_path, monkeypatch):
    """A run goes on with the part it began with, whatever memory is free then."""
    config = recipe(mix, microbatch="auto")
    memory = footprint.training_memory(config, "fp32")

    def with_room_for(images):
        room = memory.need(images) * footprint._SCRATCH / footprint._USED
        monkeypatch.setattr(footprint, "free_memory", lambda device: int(room) + 1)

    expected, run = RunFolder(tmp_path / "expected"), RunFolder(tmp_path / "run")
    train(recipe(mix, microbatch=4), mix, expected, ALONE)
    with_room_for(7)
    with stopped_at(64):
        train(config, mix, run, ALONE)
    with_room_for(16)
    train(config, mix, run, ALONE)
    assert same(weights(expected), weights(run))
    with_room_for(0)
    train(config, mix, RunFolder(tmp_path / "none"), ALONE)  # told of by the allocator, if at all
    monkeypatch.setattr(footprint, "free_memory", lambda device: None)
    with pytest.raises(UsageError, match="--microbatch auto: the memory of this cpu is not known"):
        train(config, mix, RunFolder(tmp_path / "unknown"), ALONE)
    with pytest.raises(UsageError, match="number of images or auto"):
        TrainingConfig(budget=1, microbatch="some")


def test_options_of_the_command_line(tmp_path, capsys):
    base = ["train", "--real", "digits:pool", "--preset", "digits", "--method", "dm", "--out", str(tmp_path / "run")]
    assert main([*base, "--dry-run"]) == 0
    told = [capsys.readouterr().out]
    more = ["--microbatch", "auto", "--checkpoint-gradients"]
    assert main([*base, *more, "--dry-run"]) == 0
    told.append(capsys.readouterr().out)
    assert told[0] != told[1] and "128 images at once" in told[1]
    small = ["--budget", "256", "--batch", "128", "--device", "cpu", *more]
    assert main([*base, *small]) == 0
    recipe = RunFolder(tmp_path / "run").config().training
    assert (recipe.microbatch, recipe.checkpoint_gradients, recipe.compile) == ("auto", True, False)
    assert main([*base, "--microbatch", "many"]) == 2
    assert PRESETS["digits"].training.compile is False
