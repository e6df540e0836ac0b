"""The denoiser contract: preconditioning, float32 in and out, and labels that are never implicit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nomadiff.denoiser import BoundDenoiser, Denoiser, EDMDenoiser
from nomadiff.errors import UsageError
from nomadiff.networks.build import build_network
from nomadiff.networks.config import NetworkConfig
from nomadiff.networks.presets import NETWORKS


class Recorder(nn.Module):
    """A network that remembers what it was called with and returns a fixed multiple of its input."""

    def __init__(self, factor: float = 0.0) -> None:
        super().__init__()
        self.factor = factor
        self.seen: dict[str, Any] = {}

    def forward(self, x: Tensor, noise_label: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
        self.seen = {"x": x, "noise_label": noise_label, "labels": labels, "augment": augment}
        return self.factor * x

    def label_scale(self, count: int) -> float:
        return 10.0 * count


def test_preconditioning_is_edms() -> None:
    """Karras et al. 2022, Table 1: with F = f c_in x, D = (c_skip + f c_out c_in) x."""
    sigma = torch.tensor([0.002, 0.5, 80.0])
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    network = Recorder(factor=0.7)
    out = EDMDenoiser(network)(x, sigma)
    s = sigma.reshape(-1, 1, 1, 1)
    c_in = 1 / (s**2 + 0.25).sqrt()
    expected = 0.25 / (s**2 + 0.25) * x + s * 0.5 / (s**2 + 0.25).sqrt() * 0.7 * c_in * x
    assert torch.allclose(out, expected, rtol=1e-5, atol=1e-7)
    assert torch.allclose(network.seen["x"], c_in * x, rtol=1e-6)
    assert torch.allclose(network.seen["noise_label"], sigma.log() / 4)
    assert network.seen["labels"] is None and network.seen["augment"] is None


def test_network_input_and_target_have_unit_variance() -> None:
    """What the preconditioning is for (appendix B.6): the input and the network's ideal output are of unit variance."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(200_000, 1, generator=generator) * 0.3
    for sigma in (0.01, 0.3, 10.0):
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        network = Recorder()
        skip = EDMDenoiser(network, sigma_data=0.3)(noisy, sigma)
        assert network.seen["x"].std() == pytest.approx(1, abs=0.01)
        c_out = sigma * 0.3 / math.hypot(sigma, 0.3)
        assert ((clean - skip) / c_out).std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("sigma", [0.5, torch.tensor(0.5), torch.full((2,), 0.5), torch.full((2,), 0.5).double()])
def test_sigma_may_be_a_number_or_one_a_sample(sigma: float | Tensor) -> None:
    x = torch.ones(2, 3)
    out = EDMDenoiser(Recorder(1.0))(x, sigma)
    assert out.dtype == torch.float32
    assert torch.allclose(out, EDMDenoiser(Recorder(1.0))(x, torch.tensor([0.5, 0.5])))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_float32_out_whatever_the_network_computes_in(autocast: torch.dtype | None, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = build_network(NETWORKS["digits"], 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    denoiser = EDMDenoiser(network, sources=2).eval()
    x = torch.randn(2, 1, 8, 8, dtype=dtype)
    exact = denoiser(x, 0.5, source=0)
    denoiser.autocast = autocast
    out = denoiser(x, 0.5, source=0)
    assert out.dtype == torch.float32 and out.shape == x.shape
    assert torch.allclose(out, exact, atol=0 if autocast is None else 0.1)
    assert torch.equal(out, exact) == (autocast is None)
    assert all(p.dtype == torch.float32 for p in denoiser.parameters())


def test_autocast_computes_in_bfloat16_inside() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor, noise_label: Tensor, labels: Tensor | None, augment: Tensor | None) -> Tensor:
            assert x.dtype == noise_label.dtype == torch.float32
            self.dtype = self.linear(x).dtype
            return x

    network = Asks()
    denoiser = EDMDenoiser(network)
    denoiser(torch.zeros(1, 4), 1.0)
    assert network.dtype == torch.float32
    denoiser.autocast = torch.bfloat16
    denoiser(torch.zeros(1, 4), 1.0)
    assert network.dtype == torch.bfloat16


def labels_seen(sources: int, classes: int, **condition: Any) -> Tensor:
    network = Recorder()
    EDMDenoiser(network, sources=sources, classes=classes)(torch.zeros(2, 1), 1.0, **condition)
    labels = network.seen["labels"]
    assert labels.dtype == torch.float32
    return labels


def test_labels_are_one_hot_vectors_side_by_side_on_the_scale_the_network_asks_for() -> None:
    source = labels_seen(3, 0, source=torch.tensor([0, 2]))
    label = labels_seen(0, 5, class_label=torch.tensor([4, -1]))
    assert torch.equal(source, 30 * torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    assert torch.equal(label, 50 * torch.tensor([[0.0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]))
    both = labels_seen(3, 5, source=torch.tensor([0, 2]), class_label=torch.tensor([4, -1]))
    assert torch.equal(both, torch.cat([source, label], dim=1))


@torch.no_grad()
@pytest.mark.parametrize(
    ("architecture", "layer", "alone", "beside"),
    [
        # EDM: sqrt(number of labels), whatever stands beside it
        ("ddpmpp", "map_label", 2**0.5, (2**0.5, 1000**0.5)),
        ("ncsnpp", "map_label", 2**0.5, (2**0.5, 1000**0.5)),
        # ADM's label weights are of unit variance each
        ("adm", "map_label", 1.0, (1.0, 1.0)),
        # EDM2: the whole vector is of norm sqrt(width), which its layer divides by
        ("edm2", "emb_label", 2**0.5, (501**0.5, 501**0.5)),
    ],
)
def test_a_source_beside_a_thousand_classes(
    architecture: str, layer: str, alone: float, beside: tuple[float, float]
) -> None:
    """What the first label layer of every architecture gets, for a source alone and for a source with a class."""
    config = NetworkConfig(architecture, 8, 1, 16, (1, 2), 1, (), channels_per_head=16)

    def seen(classes: int, **condition: int) -> Tensor:
        network = build_network(config, 2 + classes).eval()
        inputs: list[Tensor] = []
        network.get_submodule(layer).register_forward_hook(lambda module, given, output: inputs.append(given[0][0]))
        EDMDenoiser(network, sources=2, classes=classes)(torch.zeros(1, 1, 8, 8), 1.0, **condition)
        return inputs[0]

    assert torch.allclose(seen(0, source=1), torch.tensor([0.0, alone]))
    both = seen(1000, source=1, class_label=7)
    assert both.nonzero().flatten().tolist() == [1, 2 + 7]
    assert torch.allclose(both[[1, 9]], torch.tensor(beside))


def test_one_source_for_the_whole_batch() -> None:
    assert torch.equal(labels_seen(2, 0, source=1), labels_seen(2, 0, source=torch.tensor([1, 1])))


@pytest.mark.parametrize(
    ("sources", "classes", "condition", "message"),
    [
        (2, 0, {}, r"needs source= in 0\.\.1 \(source=0 is the real data\)"),
        (0, 3, {}, r"needs class_label= in 0\.\.2 \(-1 stands for no class\)"),
        (2, 3, {"source": 0}, "needs class_label="),
        (0, 0, {"source": 0}, "trained without a source"),
        (2, 0, {"source": 0, "class_label": 1}, "trained without a class_label"),
        (2, 0, {"source": 2}, r"source must lie in 0\.\.1, got 2\.\.2"),
        (2, 0, {"source": -1}, r"source must lie in 0\.\.1, got -1\.\.-1"),
        (0, 3, {"class_label": -2}, r"class_label must lie in -1\.\.2"),
        (2, 0, {"source": torch.tensor([0, 1, 0])}, "source must be one integer or one for each of the 2 samples"),
        (2, 0, {"source": torch.eye(2, dtype=torch.int64)}, "one integer or one for each of the 2 samples"),
        (2, 0, {"source": torch.eye(2)}, "source must be one integer or one for each"),
        (2, 0, {"source": 0.5}, "source must be one integer or one for each"),
    ],
)
def test_wrong_labels(sources: int, classes: int, condition: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EDMDenoiser(Recorder(), sources=sources, classes=classes)(torch.zeros(2, 1), 1.0, **condition)


def test_augmentation_label_is_passed_on() -> None:
    network, label = Recorder(), torch.randn(2, 9)
    EDMDenoiser(network)(torch.zeros(2, 1), 1.0, augment=label)
    assert torch.equal(network.seen["augment"], label)


def test_bound_condition_is_added_and_cannot_be_contradicted() -> None:
    network = Recorder()
    inner = EDMDenoiser(network, sources=2, classes=3)
    real = BoundDenoiser(inner, source=0)
    assert isinstance(real, Denoiser)
    real(torch.zeros(2, 1), torch.tensor(1.0), class_label=1)
    assert torch.equal(network.seen["labels"], inner.label_vector(0, 1, batch=2, device=torch.device("cpu")))
    for contradiction in (1, 0, None):
        with pytest.raises(UsageError, match="source is already fixed"):
            real(torch.zeros(2, 1), torch.tensor(1.0), source=contradiction, class_label=1)
    twice = BoundDenoiser(real, class_label=2)
    twice(torch.zeros(2, 1), torch.tensor(1.0))
    assert torch.equal(network.seen["labels"], inner.label_vector(0, 2, batch=2, device=torch.device("cpu")))


def test_plain_functions_are_denoisers() -> None:
    assert isinstance(lambda x, sigma, **condition: x, Denoiser)


@pytest.mark.parametrize(("source", "label"), [(0, 3), (2, 0), (0, -2), (torch.tensor([0, 2]), 1)])
def test_wrong_labels_are_refused_on_any_device(source: Any, label: Any) -> None:
    """Labels are looked at where they are: those on the host before they move to a device that is not waited for."""
    denoiser = EDMDenoiser(Recorder(), sources=2, classes=3)
    for device in ("cpu", "meta"):
        with pytest.raises(UsageError, match="must lie in"):
            denoiser.label_vector(source, label, batch=2, device=torch.device(device))


def whole_graph(denoiser: EDMDenoiser) -> Any:
    """Fails where Python must look at a value on the device."""
    torch._dynamo.reset()
    return torch.compile(denoiser, backend="eager", fullgraph=True, dynamic=False)


@pytest.fixture(scope="module")
def compiled() -> tuple[EDMDenoiser, Any]:
    denoiser = EDMDenoiser(build_network(SMALL["ddpmpp"], 5), sources=2, classes=3).eval()
    return denoiser, whole_graph(denoiser)


@pytest.mark.parametrize("name", ["source", "class_label"])
@pytest.mark.parametrize("wrong", [-2, 3, 99])
def test_unknown_labels_that_cannot_be_looked_at_make_nan_and_no_image(name: str, wrong: int, compiled: Any) -> None:
    """Zeros would mean "no label": such an image would look right."""
    denoiser, run = compiled
    told = {"source": torch.tensor([0, 1, 1]), "class_label": torch.tensor([-1, 0, 2])}
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.allclose(run(x, torch.tensor(1.0), **told), denoiser(x, 1.0, **told), atol=1e-6)
        told[name] = told[name].clone()
        told[name][1] = wrong
        made = run(x, torch.tensor(1.0), **told)
    assert made[1].isnan().all() and made[[0, 2]].isfinite().all()
    with pytest.raises(UsageError, match=f"{name} must lie in"):
        denoiser(x, 1.0, **told)


SMALL = {
    "ddpmpp": NetworkConfig("ddpmpp", 8, 1, 8, (1, 2), 1, (4,), dropout=0.1, augment_dim=9),
    "ncsnpp": NetworkConfig("ncsnpp", 8, 1, 8, (1, 2), 1, (4,), dropout=0.1, augment_dim=9),
    "adm": NetworkConfig("adm", 8, 1, 8, (1, 2), 1, (4,), channels_per_head=8),
    "edm2": NetworkConfig("edm2", 8, 1, 8, (1, 2), 1, (4,), channels_per_head=8),
}


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("training", [False, True])
def test_a_pass_is_one_graph_and_looks_at_no_value(family: str, training: bool) -> None:
    denoiser = EDMDenoiser(build_network(SMALL[family], 5), sources=2, classes=3).train(training)
    told: dict[str, Any] = {"source": torch.tensor([0, 1]), "class_label": torch.tensor([-1, 2])}
    if SMALL[family].augment_dim:
        told["augment"] = torch.randn(2, 9)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 2.0])
    assert whole_graph(denoiser)(x, sigma, **told).shape == x.shape
