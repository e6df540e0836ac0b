"""Batches where they are trained on, gradients cleaned together, and a step that waits for no number."""

import pytest
import torch
from factories import noise_source, tiny_preset
from torch.utils._python_dispatch import TorchDispatchMode

from nomadiff.data.image_source import ImageSource
from nomadiff.data.latents import LatentSpace
from nomadiff.data.source_mix import SourceMix
from nomadiff.errors import UsageError
from nomadiff.methods.registry import METHODS
from nomadiff.processes import Processes
from nomadiff.training import feeding, loop
from nomadiff.training.feeding import Feed, clean_gradients, kernels_by_trial
from nomadiff.training.loop import train
from nomadiff.training.run_folder import RunFolder

CPU = torch.device("cpu")


def latents(name, spread, seed):
    values = torch.randn(30, 4 * (1 + spread), 8, 8, generator=torch.Generator().manual_seed(seed)).half()
    return ImageSource(name, values, None, {"name": name}, latents=LatentSpace())


@pytest.mark.parametrize(
    "mix",
    [
        SourceMix(noise_source("real"), [noise_source("made", 1, count=60), noise_source("other", 2, count=7)]),
        SourceMix(noise_source("real"), [noise_source("made", 1)], frequencies=[torch.tensor([1.0, 2.0] * 20)]),
        SourceMix(latents("real", True, 0), [latents("made", False, 1)]),
    ],
)
def test_images_that_lie_on_the_device_make_the_same_batches(mix):
    there = mix.with_images_on(CPU)
    for start, count in ((0, 1), (5, 33), (1000, 64)):
        for found, expected in zip(there.batch(start, count, 3), mix.batch(start, count, 3)):
            assert found is expected is None or torch.equal(found, expected)
    elsewhere = mix.with_images_on(torch.device("meta")).batch(0, 16, 0)
    assert elsewhere.images.device.type == "meta" and elsewhere.source.device.type == "cpu"


@pytest.mark.parametrize(("free", "resident"), [(4 * 5120 + 1, True), (4 * 5120, False), (None, False)])
def test_images_live_on_a_gpu_where_they_take_less_than_a_quarter_of_it(monkeypatch, free, resident):
    mix, moved = SourceMix(noise_source("real"), [noise_source("made", 1)]), []  # 80 images of 64 bytes
    monkeypatch.setattr(feeding, "free_memory", lambda device: free)
    monkeypatch.setattr(SourceMix, "with_images_on", lambda self, device: moved.append(device) or self)
    Feed(mix, torch.device("cuda"), sources=2, classes=0)
    Feed(mix, CPU, sources=2, classes=0)
    assert moved == ([torch.device("cuda")] if resident else [])


def test_labels_are_checked_on_the_host():
    mix = SourceMix(noise_source("real"), [noise_source("made", 1)])
    Feed(mix, CPU, sources=2, classes=3).batch(0, 16, 0)
    for (sources, classes), message in (((1, 3), "source must"), ((0, 2), "class_label")):
        with pytest.raises(UsageError, match=message):
            Feed(mix, CPU, sources=sources, classes=classes).batch(0, 16, 0)


def test_gradients_are_cleaned_alike_one_by_one_and_joined():
    shapes = [(4, 3, 3, 3), (1, 8, 1, 1), (8, 1, 3, 3), (5, 7), (6,), ()]
    generator = torch.Generator().manual_seed(0)
    layouts = [torch.channels_last, torch.contiguous_format]
    made = [torch.randn(shape, generator=generator) for shape in shapes]
    made = [each.to(memory_format=layouts[k % 2]) if each.ndim == 4 else each for k, each in enumerate(made)]
    made.append(torch.randn(5, 3, generator=generator).T)
    for each in made:
        each[torch.rand(each.shape, generator=generator) < 0.2] = float("nan")
        each[torch.rand(each.shape, generator=generator) < 0.2] = float("inf")
    made[1].fill_(-float("inf"))
    expected = [torch.where(each.isfinite(), each, 0) for each in made]
    alone, joined = [each.clone() for each in made], [each.clone() for each in made]
    clean_gradients(alone)
    feeding._clean_joined([feeding._flat(each) for each in joined])
    for found in (alone, joined):
        assert all(torch.equal(one, two) for one, two in zip(found, expected))
    clean_gradients([])


def test_cudnn_is_left_as_it_was():
    before = torch.backends.cudnn.benchmark
    with kernels_by_trial(torch.device("cuda")):
        assert torch.backends.cudnn.benchmark
    with kernels_by_trial(torch.device("cuda"), 1e12):  # the trials would take longer than the training
        assert torch.backends.cudnn.benchmark == before
    with kernels_by_trial(CPU):
        assert torch.backends.cudnn.benchmark == before
    assert torch.backends.cudnn.benchmark == before


class Looks(TorchDispatchMode):
    """Counts the values that Python takes out of tensors; on a GPU each would wait for all that was begun before."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["casd", "dm"])
def test_no_step_looks_at_a_value(method, tmp_path, monkeypatch):
    looks, steps = [], []
    original = loop._Training._step

    def watched(self, meter):
        with Looks() as mode:
            original(self, meter)
        looks.append(mode.count)
        steps.append(self.images_seen)

    monkeypatch.setattr(loop._Training, "_step", watched)
    network = {"dropout": 0.1, "augment_dim": 9}
    preset = tiny_preset(network=network, budget=96, log_every=48, augment=0.5, class_dropout=0.2)
    mix = SourceMix(noise_source("real"), [noise_source("made", 1)])
    used = mix if method == "casd" else SourceMix(noise_source("real"))
    recipe = METHODS[method](preset, class_labels=True).recipe(used)
    train(recipe, used, RunFolder(tmp_path / "run"), Processes(0, 1, CPU))
    assert len(steps) == 6 and looks == [0] * 6
    with Looks() as mode:
        float(torch.ones(())), bool(torch.ones(()))
    assert mode.count == 2  # it does see them


class Counted(Processes):
    """Two processes, of which the other one never says anything."""

    asked = 0

    def total(self, value):
        type(self).asked += 1
        return value


def test_processes_ask_one_another_seldom_whether_to_stop(tmp_path):
    """Each time waits for the device; but all must stop at the same step."""
    mix = SourceMix(noise_source("real"))
    preset = tiny_preset(budget=16 * 40, log_every=16 * 20)
    recipe = METHODS["dm"](preset).recipe(mix)
    training = loop._Training(recipe, mix, RunFolder(tmp_path / "run"), Processes(0, 1, CPU), None)
    training.processes = Counted(0, 2, CPU)
    told = []
    for step in range(1, 41):
        training.images_seen = 16 * step
        told.append(training._any_stopped([15], logged=step == 20))
    assert [step for step, stops in enumerate(told, 1) if stops] == [8, 16, 20, 24, 32, 40] and Counted.asked == 6
