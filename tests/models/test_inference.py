"""What networks compute in while a model draws, and how many images at once: the pictures stay those of the seed."""

import json
import zipfile
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from factories import noise_source, tiny_preset

from nomadiff.data.source_mix import SourceMix
from nomadiff.denoiser import EDMDenoiser, OwnDenoiser
from nomadiff.errors import NomadiffError, NomadiffWarning, UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.label_guidance import ClassifierFreeGuidance, SourceGuidance
from nomadiff.guidance.perturbed_attention import perturbed_attention_guidance
from nomadiff.guidance.shared_encoder import SharedEncoder
from nomadiff.interop.generators import ModelGenerator
from nomadiff.methods.casd import CASD
from nomadiff.models import drawable, inference
from nomadiff.models.inference import computing_in, drawing_precision, networks_of
from nomadiff.models.model import Model
from nomadiff.processes import Processes
from nomadiff.training import precision as machine

CPU = torch.device("cpu")


def recipe(precision="fp32"):
    mix = SourceMix(noise_source("real", labels=False), [noise_source("made", 1, labels=False)])
    return CASD(tiny_preset(), precision=precision).recipe(mix)


def denoiser(seed=0, config=None):
    torch.manual_seed(seed)
    made = (config or recipe()).build_denoiser()
    with torch.no_grad():  # fresh last layers are zero
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made.eval().requires_grad_(False)


def model(precision="fp32", path=None):
    made = Model(denoiser(), recipe(precision), path)
    made.sha256 = "0" * 64
    return made


def worst(one, two):
    return int((one.int() - two.int()).abs().max())


# the networks within


def same_but_end(base):
    other = denoiser()
    with torch.no_grad():
        list(other.network.dec.parameters())[-1].add_(0.1)
    return other


@pytest.mark.parametrize(
    ("combined", "count"),
    [
        (lambda one: one, 1),
        (lambda one: Extrapolation(one, denoiser(1), 1.0), 2),
        (lambda one: Extrapolation(Extrapolation(one, denoiser(1), 1.0), one, 1.0), 2),
        (lambda one: perturbed_attention_guidance(one, 1.0), 1),
        (lambda one: SourceGuidance(one, 1.0), 1),
        (lambda one: ClassifierFreeGuidance(EDMDenoiser(one.network, sources=0, classes=2), 1.0), 1),
        (lambda one: lambda x, sigma: x, 0),
    ],
)
def test_every_network_is_found_once(combined, count):
    assert len(networks_of(combined(denoiser()))) == count


def test_a_shared_encoder_computes_in_half_precision_with_both_its_ends():
    one = denoiser()
    both = SharedEncoder(one, same_but_end(one), 1.0)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    full = both(x, sigma, source=0)
    with computing_in(networks_of(both), "bf16", CPU):
        half = both(x, sigma, source=0)
    assert not torch.equal(half, full) and torch.allclose(half, full, atol=0.1)
    assert torch.equal(both(x, sigma, source=0), full)


# precision


def test_networks_compute_in_it_within_the_block_only():
    one, own = denoiser(), OwnDenoiser(torch.nn.Conv2d(1, 1, 3))
    with pytest.raises(ZeroDivisionError), computing_in([one, own], "bf16", CPU):
        assert one.autocast == own.autocast == torch.bfloat16
        raise ZeroDivisionError
    assert one.autocast is own.autocast is None
    one.autocast = torch.bfloat16  # of the caller's own choice
    with computing_in([one], "fp32", CPU):
        assert one.autocast == torch.bfloat16


@pytest.mark.parametrize(
    ("trained", "asked", "fast", "expected"),
    [
        ("fp32", "auto", ("bf16", "fp16"), "fp32"),
        ("auto", "auto", ("bf16",), "bf16"),
        ("auto", "auto", (), "fp32"),
        ("fp16", "auto", ("bf16",), "bf16"),
        ("fp16", "auto", ("bf16", "fp16"), "fp16"),
        ("bf16", "auto", ("bf16", "fp16"), "bf16"),
        ("bf16", "auto", (), "fp32"),
        ("auto", "fp32", ("bf16",), "fp32"),
        ("fp32", "bf16", ("bf16",), "bf16"),
    ],
)
def test_auto_is_what_the_model_was_trained_in_where_the_machine_is_fast_at_it(
    monkeypatch, trained, asked, fast, expected
):
    for module in (machine, inference):
        monkeypatch.setattr(module, "has_fast_half", lambda device, name: name in fast)
    monkeypatch.setattr(machine, "_WORTHWHILE", 0)
    assert drawing_precision(asked, denoiser(), recipe(trained), CPU) == expected


def test_auto_leaves_small_networks_in_fp32():
    assert model("auto").drawing_precision("auto") == "fp32"


def test_what_is_slow_is_warned_of_and_what_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "has_fast_half", lambda device, name: False)
    with pytest.warns(NomadiffWarning, match="bf16 has no fast path"):
        assert model().drawing_precision("bf16") == "bf16"
    with pytest.raises(UsageError, match="unknown precision 'int8'"):
        model().sample(2, precision="int8")
    own = Model.from_denoiser(lambda x, sigma: 0 * x, shape=(1, 8, 8))
    with pytest.raises(UsageError, match="its own precision"):
        own.sample(2, precision="fp16")
    assert own.sample(2, precision="auto").shape == own.sample(2, precision="fp32").shape == (2, 1, 8, 8)


class Group(Processes):
    """One of two processes, the main one of which has chosen ``bf16``."""

    def total(self, value):
        return torch.tensor(1)

    def gather(self, value):
        return value


def test_processes_draw_in_the_precision_that_the_main_one_chooses(monkeypatch):
    found = []
    monkeypatch.setattr(
        drawable, "computing_in", lambda networks, chosen, device: found.append(chosen) or nullcontext()
    )
    list(model("auto").sample_batches(2, processes=Group(1, 2, CPU)))
    monkeypatch.setattr(machine, "_WORTHWHILE", 0)
    list(model("auto").sample_batches(2, processes=Group(1, 2, CPU)))
    assert found == ["fp32", "bf16"]  # a small network is fp32 on every machine: nobody is asked


@pytest.mark.filterwarnings("ignore:bf16 has no fast path")
def test_a_set_says_what_it_was_drawn_in(tmp_path):
    made = model()
    full, half = made.sample(6), made.sample(6, precision="bf16")
    assert not torch.equal(full, half) and (full.float() - half.float()).abs().mean() < 8
    assert torch.equal(made.sample(6), full), "it computes in fp32 again"
    for precision in ("fp32", "bf16"):
        path = tmp_path / f"{precision}.zip"
        made.write_samples(path, 6, precision=precision)
        with zipfile.ZipFile(path) as archive:
            found = json.loads(archive.read("manifest.json"))
        assert found.get("precision", "fp32") == precision and ("precision" in found) == (precision != "fp32")
        assert ModelGenerator(made, 0, precision=precision).facts().get("precision", "fp32") == precision
    drawn = ModelGenerator(made, 0, precision="bf16", batch_size=6).draw(range(6))
    assert all((image.pixels == half[number].permute(1, 2, 0).numpy()).all() for number, image in enumerate(drawn))


# layout


def test_weights_laid_out_channels_last_draw_the_same_pictures(monkeypatch):
    made = model().sample(8)
    monkeypatch.setattr(inference, "_LARGE", 0)
    one = model()
    convolutions = [each for each in one.denoiser.parameters() if each.ndim == 4 and min(each.shape[1:]) > 1]
    with computing_in([one.denoiser], "fp32", CPU):
        assert convolutions and all(each.is_contiguous(memory_format=torch.channels_last) for each in convolutions)
        x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
        assert torch.allclose(one.denoiser(x, sigma, source=0), denoiser()(x, sigma, source=0), atol=1e-5)
        with computing_in([one.denoiser], "bf16", CPU):  # a CPU's group norm is slower with channels last then
            assert all(each.is_contiguous() for each in convolutions)
    assert worst(one.sample(8), made) <= 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("large", [0, 10**9])
def test_drawing_leaves_weights_as_they_lie(monkeypatch, layout, large):
    monkeypatch.setattr(inference, "_LARGE", large)
    one = model()
    one.denoiser.to(memory_format=layout)
    before = [each.stride() for each in one.denoiser.parameters()]
    one.sample(1)
    assert [each.stride() for each in one.denoiser.parameters()] == before


class LooksAtItsWeights(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, 2, 3, 3))

    def forward(self, x, sigma):
        return 0 * x + 0 * self.weight.view(-1).sum()  # channels last has no such view


def test_the_weights_of_a_users_own_denoiser_stay_as_they_are():
    assert Model.from_denoiser(LooksAtItsWeights(), shape=(1, 8, 8)).sample(2).shape == (2, 1, 8, 8)


# images at once


@pytest.mark.parametrize("solver", ["heun", "ddpm"])
def test_a_sample_is_the_same_in_batches_of_1_7_and_64(solver):
    made = model()
    sampler = replace(made.known.sampler, solver=solver)
    whole = made.sample(64, 5, sampler=sampler, batch_size=64)
    for size in (1, 7):
        assert worst(made.sample(64, 5, sampler=sampler, batch_size=size), whole) <= 1
    assert worst(made.sample(4, 5, sampler=sampler, first=33), whole[33:37]) <= 1


class Small:
    """A denoiser on a device whose memory holds ``holds`` images."""

    def __init__(self, holds):
        self.holds, self.seen = holds, []

    def __call__(self, x, sigma, **condition):
        self.seen.append(len(x))
        if len(x) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 0.1 * x


@pytest.mark.parametrize(("holds", "expected"), [(64, [20]), (9, [20, 10, 5]), (1, [20, 10, 5, 2, 1])])
def test_fewer_are_drawn_at_once_where_memory_holds_no_more(holds, expected, capsys):
    model = Model.from_denoiser(Small(64), shape=(1, 8, 8))
    whole = model.sample(45, batch_size=20)
    small = model.denoiser
    while not isinstance(small, Small):
        small = small.denoiser
    small.holds, small.seen = holds, []
    capsys.readouterr()
    assert torch.equal(model.sample(45, batch_size=20), whole)
    assert list(dict.fromkeys(small.seen))[: len(expected)] == expected
    assert max(small.seen[small.seen.index(expected[-1]) :]) == expected[-1], "it is remembered"
    said = [line for line in capsys.readouterr().err.splitlines() if "at once" in line]
    assert len(said) == len(expected) - 1


def test_a_single_image_that_does_not_fit_is_told():
    model = Model.from_denoiser(Small(2), shape=(1, 8, 8))
    small = model.denoiser
    while not isinstance(small, Small):
        small = small.denoiser
    small.holds = 0
    with pytest.raises(NomadiffError, match="a single image does not fit into the memory of cpu"):
        model.sample(3)
