"""Detectors: the shipped one is what its script made, and wrong input or weights are reported."""

from __future__ import annotations

import my_parts
import pytest
import torch
from torch import Tensor

from nomadiff.data.digits import read_digits
from nomadiff.errors import DataError, UsageError
from nomadiff.metrics.detectors import (
    DEFAULT_DETECTOR,
    Classifier,
    Detector,
    extract_features,
    load_classifier,
    load_detector,
)
from nomadiff.metrics.detectors import digits as digits_module
from nomadiff.metrics.evaluate import evaluate
from nomadiff.metrics.frechet import frechet_distance_from_features


@pytest.fixture(scope="module")
def reference() -> tuple[torch.Tensor, torch.Tensor]:
    """The 797 digits that neither a generator nor the classifier has seen."""
    digits = read_digits("digits:reference")
    return digits.images, digits.labels


def test_digits_classifier_knows_digits_it_has_not_seen(reference) -> None:
    images, classes = reference
    detector = load_classifier("digits")
    assert float((detector.classes(images) == classes).float().mean()) == pytest.approx(0.9875, abs=0.002)


def test_digits_is_a_detector_and_a_classifier(reference) -> None:
    detector = load_detector("digits")
    assert isinstance(detector, Detector) and isinstance(detector, Classifier)
    features = extract_features(detector, reference[0][:10], batch_size=4)
    assert features.shape == (10, detector.dimension) and features.dtype == torch.float32
    torch.testing.assert_close(features, detector(reference[0][:10]))
    assert torch.equal(detector.classes_of_features(features), detector.classes(reference[0][:10]))
    assert bool((features < 0).any())  # before the rectifier
    assert sum(p.numel() for p in detector.network.parameters()) == 56_378


def test_pixels_are_the_pixels() -> None:
    detector = load_detector("pixels")
    images = torch.tensor([[[[0, 255]], [[51, 204]]]], dtype=torch.uint8)
    torch.testing.assert_close(detector(images), torch.tensor([[-1, 1, -0.6, 0.6]]))
    with pytest.raises(UsageError, match="'pixels' has no classes"):
        load_classifier("pixels")


def test_a_stream_of_batches_gives_the_same_features(reference) -> None:
    detector = load_detector("pixels")
    images = reference[0][:10]
    streamed = extract_features(detector, (batch for batch in images.split(3)))
    assert torch.equal(streamed, extract_features(detector, images))


def test_wrong_images_are_told(reference) -> None:
    detector = load_detector("digits")
    images = reference[0]
    for wrong, words in [
        (images.repeat(1, 3, 1, 1), "needs 1-channel images, got 3 channels"),
        (images[..., :6], "needs 8x8 images, got 8x6"),
        (images.float(), r"expected a uint8 tensor \(N, C, H, W\), got float32"),
        (images[:, 0], "expected a uint8 tensor"),
    ]:
        with pytest.raises(UsageError, match=words):
            detector(wrong)
    with pytest.raises(UsageError, match="no images"):
        extract_features(detector, [])
    with pytest.raises(UsageError, match="no detector 'digit'"):
        load_detector("digit")


def test_features_that_are_not_finite_are_told() -> None:
    class Broken:
        name, version, sha256, dimension = "broken", "1", "", 1

        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)[:, :1].float().log()

    images = torch.ones(5, 1, 2, 2, dtype=torch.uint8)
    images[3] = 0
    with pytest.raises(UsageError, match="detector broken: the features of image 3 are not finite"):
        extract_features(Broken(), images)


def test_damaged_weights_are_told(tmp_path, monkeypatch) -> None:
    whole = digits_module.ASSET.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=r"cut.safetensors: cannot be read as weights"):
        load_detector("digits", weights=cut)
    monkeypatch.setattr(digits_module, "ASSET", cut)
    with pytest.raises(DataError, match=r"its SHA-256 is .* expected .*: damaged, or another file"):
        load_detector("digits")
    with pytest.raises(DataError, match="no such weight file"):
        load_detector("digits", weights=tmp_path / "absent.safetensors")


def test_weights_of_another_network_are_told(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(digits_module.ASSET)
    lacking = {name: value for name, value in tensors.items() if name != "head.bias"}
    save_file(lacking, tmp_path / "lacking.safetensors")
    save_file(tensors | {"head.bias": torch.zeros(7)}, tmp_path / "shape.safetensors")
    with pytest.raises(DataError, match=r"lacks head.bias"):
        load_detector("digits", weights=tmp_path / "lacking.safetensors")
    with pytest.raises(DataError, match=r"head.bias is \(7,\), not \(10,\)"):
        load_detector("digits", weights=tmp_path / "shape.safetensors")


def test_pickles_that_run_code_are_refused(tmp_path) -> None:
    import pickle

    class Attack:
        def __reduce__(self):
            return (print, ("run",))

    (tmp_path / "attack.pth").write_bytes(pickle.dumps({"state_dict": Attack()}))
    with pytest.raises(DataError, match=r"attack.pth: cannot be read as weights"):
        load_detector("digits", weights=tmp_path / "attack.pth")


class Weighted(my_parts.Means):
    """Takes a weights file, as the library's own do."""

    name = "weighted"

    def __init__(self, device="cpu", weights=None):
        super().__init__(device)
        self.given = weights


class Nameless:
    def __call__(self, images):
        return images.flatten(1).float()


class BadName(my_parts.Means):
    name = "../means"


@pytest.mark.parametrize("spec", [my_parts.Means(), my_parts.Means, "my_parts:Means"], ids=("object", "class", "name"))
def test_an_own_detector_is_one_by_object_class_and_name(spec, reference) -> None:
    detector = load_classifier(spec)
    assert isinstance(detector, my_parts.Means)
    images = reference[0][:10]
    features = extract_features(detector, images, batch_size=4)
    assert features.shape == (10, 16) and torch.equal(features, extract_features(detector, images))
    assert torch.equal(detector.classes_of_features(features), detector.classes(images))
    scores = evaluate(images, reference[0][10:40], detector=spec, k=3)
    assert isinstance(scores["fd_means"], float) and "composition_tv" in scores


def test_an_own_detector_takes_weights_if_it_says_so() -> None:
    assert load_detector(Weighted, weights="w").given == "w"  # type: ignore[attr-defined]
    assert load_detector(f"{__name__}:Weighted").given is None  # type: ignore[attr-defined]
    for spec in ("my_parts:Means", "pixels", my_parts.Means):
        with pytest.raises(UsageError, match="takes no weights file"):
            load_detector(spec, weights="w")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("absent_parts:Means", "--plugin absent_parts"),
        ("my_parts:Meens", r"has no detector 'Meens' \(did you mean 'Means'\?\)"),
        ("my_parts:midpoint", "is no detector: it must be callable and have name, version, sha256 and dimension"),
        (Nameless(), "is no detector"),
        (BadName(), "its name '../means' must be made of letters"),
        ("pixel", r"no detector 'pixel' \(did you mean 'pixels'\?\)"),
    ],
)
def test_what_is_no_detector_is_told(spec, told) -> None:
    with pytest.raises(UsageError, match=told):
        load_detector(spec)


@pytest.fixture(scope="module")
def scenes() -> Tensor:
    """800 images with detail of every size, each with its own contrast and colour."""
    random = torch.Generator().manual_seed(0)
    total = torch.zeros(800, 3, 32, 32)
    for cells in (2, 4, 8, 16, 32):
        rough = torch.rand(800, 3, cells, cells, generator=random) - 0.5
        strength = torch.rand(800, 1, 1, 1, generator=random) * 400 / cells
        total += torch.nn.functional.interpolate(rough, (32, 32), mode="bicubic") * strength
    return (total + 128).clamp(0, 255).to(torch.uint8)


def blurred(images: Tensor) -> Tensor:
    kernel = torch.tensor([0.2, 0.6, 0.2])[:, None] * torch.tensor([0.2, 0.6, 0.2])
    framed = torch.nn.functional.pad(images.float(), (1, 1, 1, 1), mode="replicate")
    return torch.nn.functional.conv2d(framed, kernel.expand(3, 1, 3, 3), groups=3).round().to(torch.uint8)


DAMAGE = {
    "blur": blurred,
    "colour": lambda x: (x.int() + torch.tensor([8, 0, -8])[:, None, None]).clamp(0, 255).to(torch.uint8),
    "noise": lambda x: (
        (x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * 12).clamp(0, 255).to(torch.uint8)
    ),
    "copies": lambda x: x[torch.arange(len(x)) % 80],
    "contrast": lambda x: ((x.float() - 128) * 0.85 + 128).to(torch.uint8),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["colour", "grey", "large", "small"])
def test_the_default_sees_damage_that_fresh_images_do_not_have(scenes, damage: str, kind: str) -> None:
    if kind == "grey" and damage == "colour":
        pytest.skip("grey images have no colour")
    detector = load_detector(DEFAULT_DETECTOR)
    change = {
        "colour": lambda x: x,
        "grey": lambda x: x[:, :1],
        "large": lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3),
        "small": lambda x: x[..., ::2, ::2],
    }[kind]
    reference, fresh = scenes[:400], scenes[400:]
    features = [detector(change(images)) for images in (reference, fresh, DAMAGE[damage](fresh))]
    assert features[0].shape == (400, detector.dimension)
    floor, damaged = (frechet_distance_from_features(features[0], each) for each in features[1:])
    assert damaged > 1.05 * floor


def test_the_default_reads_grey_and_colour_alike_and_says_what_it_cannot_read() -> None:
    detector = load_detector(DEFAULT_DETECTOR)
    grey = torch.randint(0, 255, (3, 1, 40, 33), dtype=torch.uint8)
    torch.testing.assert_close(detector(grey), detector(grey.expand(-1, 3, -1, -1)))
    assert bool(torch.isfinite(detector(torch.zeros(2, 3, 1, 1, dtype=torch.uint8))).all())
    with pytest.raises(UsageError, match="grey or RGB images, got 2 channels"):
        detector(grey.expand(-1, 2, -1, -1))
