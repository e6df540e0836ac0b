"""What a plan says: the papers' four settings, and memory against what the allocator really hands out."""

import re
from dataclasses import replace

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nomadiff.models import dry_run as plan
from nomadiff.models.dry_run import plan_sampling, plan_training
from nomadiff.networks.config import NetworkConfig
from nomadiff.sampling.sampler import SamplerConfig
from nomadiff.training.config import RunConfig
from nomadiff.training.footprint import activations_of
from nomadiff.training.presets import PRESETS
from nomadiff.training.settings import TrainingConfig


def recipe(preset, classes=0, **training):
    chosen = PRESETS[preset]
    options = replace(chosen.training, **training)
    return RunConfig("dm", chosen.network, options, chosen.sampler, chosen.sigma_data, ("real",), (1.0,), 0, classes)


def figure(text, pattern):
    """The number in ``pattern`` (its one group) in a plan."""
    return float(re.search(pattern, text)[1].replace(",", ""))


@pytest.mark.parametrize(
    ("preset", "classes", "millions", "forward", "nfe", "budget", "batch"),
    [
        # EDM (Karras et al. 2022), as CASD and SIMS train it: 55.7 and 61.8 M parameters
        ("cifar10", 0, 55.73, 42.4, 35, 60, 512),
        ("ffhq64", 0, 61.81, 83.7, 79, 60, 512),
        # EDM2-S (Karras et al. 2024, Table 2): 280 M parameters, 102 billion multiply-adds an evaluation
        ("imagenet64-edm2-s", 1000, 280.21, 202, 63, 1073.74, 2048),
        ("imagenet512-edm2-s", 1000, 280.21, 202, 63, 2147.48, 2048),
    ],
)
def test_the_papers_four_settings(preset, classes, millions, forward, nfe, budget, batch):
    config = recipe(preset, classes)
    before = torch.random.get_rng_state()
    text = plan_training(config, PRESETS[preset].published)
    assert torch.equal(torch.random.get_rng_state(), before)  # planning leaves no trace
    assert figure(text, r"parameters: +([\d.,]+) M") == millions
    assert figure(text, r"compute: +([\d.,]+) GFLOP an image forward") == forward
    assert figure(text, r"budget: +([\d,]+) images") == pytest.approx(budget * 1e6, rel=1e-5)
    assert figure(text, r"steps of (\d+)") == batch
    assert f"NFE {nfe}," in text and config.sampler.nfe == nfe
    total = 3 * figure(text, r"compute: +([\d.,]+) GFLOP") * 1e9 * budget * 1e6
    assert figure(text, r"([\d,.]+) PFLOP in all") * 1e15 == pytest.approx(total, rel=0.01)
    (papers,) = re.findall(r"papers: +(.+)", text)
    assert f"NFE {nfe}" in papers and "280 M" in papers and "no paper gives memory or GPU hours" in papers
    assert figure(text, r"GPU hours: +([\d,.]+) on an A100") == pytest.approx(total / (0.3 * 312e12) / 3600, rel=0.02)


def test_memory_of_an_a100_decides_the_microbatch_to_advise(monkeypatch):
    monkeypatch.setattr(plan, "_A100_BYTES", 1 << 30)
    advised = int(figure(plan_training(recipe("small32")), r"80 GiB hold --microbatch (\d+)"))
    fits, does_not = (plan_training(recipe("small32", microbatch=size)) for size in (advised, advised + 1))
    assert figure(fits, r"about ([\d.]+) GiB") <= 1 <= figure(does_not, r"about ([\d.]+) GiB")
    assert "80 GiB hold" not in fits and "80 GiB hold" in does_not


def test_more_averages_cost_more_memory():
    one, two = (
        figure(plan_training(recipe("edm2-tiny", microbatch=1, ema_stds=stds)), r"about ([\d.]+) GiB")
        for stds in ((), (0.05, 0.10))
    )
    parameters = figure(plan_training(recipe("edm2-tiny")), r"parameters: +([\d.]+) M") * 1e6
    assert (two - one) * 2**30 == pytest.approx(4 * parameters, abs=0.011 * 2**30)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["ddpmpp", "ncsnpp", "adm", "edm2"])
def test_activations_are_what_the_allocator_hands_out(architecture, precision):
    """The count on shapes alone against bytes allocated and not given back by a real forward pass on the CPU."""
    network = NetworkConfig(architecture, 16, 3, 32, (1, 2), 1, (8,), dropout=0.1, channels_per_head=32)
    training = TrainingConfig(budget=1, precision=precision)
    config = RunConfig("casd", network, training, SamplerConfig(), 0.5, ("real", "made"), (0.5, 0.5), sources=2)
    counted = activations_of(config)
    few, many = (allocated(config, batch) for batch in (1, 3))
    per_image = (many - few) / 2
    assert counted.per_image == pytest.approx(per_image, rel=0.02)
    assert counted.fixed == pytest.approx(few - per_image, rel=0.02, abs=20_000)
    if architecture == "edm2" or precision == "bf16":
        assert counted.fixed > 500_000  # the weights as the network computes with them, not per image


def allocated(config, batch):
    torch.manual_seed(0)
    network = config.build_denoiser().network.train()
    x, labels = torch.randn(batch, 3, 16, 16), torch.eye(2)[torch.zeros(batch, dtype=torch.int64)]
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.training.precision == "bf16")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled, autocast:
        output = network(x, torch.zeros(batch), labels)
    assert output.requires_grad
    return sum(event.self_cpu_memory_usage for event in profiled.events())


@pytest.mark.parametrize("preset", ["digits", "edm2-tiny"])
def test_half_precision_is_half_the_memory(preset):
    """Group norms too: a GPU's autocast would keep them in float32."""
    fp32, bf16 = (activations_of(recipe(preset, precision=precision)).per_image for precision in ("fp32", "bf16"))
    assert bf16 == pytest.approx(fp32 / 2, rel=0.02)


def test_sampling_counts_evaluations():
    config = recipe("cifar10")
    text = plan_sampling(config, SamplerConfig(steps=18), 1000)
    assert figure(text, r"NFE (\d+)") == 35
    assert figure(text, r"([\d.,]+) PFLOP in all") == pytest.approx(42.38e9 * 35 * 1000 / 1e15, rel=0.01)
