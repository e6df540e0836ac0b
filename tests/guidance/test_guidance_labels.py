"""Label guidance is extrapolation between two labels of one network."""

import pytest
import torch

from nomadiff.denoiser import BoundDenoiser
from nomadiff.errors import UsageError
from nomadiff.guidance.extrapolation import Extrapolation
from nomadiff.guidance.label_guidance import ClassifierFreeGuidance, SourceGuidance


@pytest.mark.parametrize("architecture", ["ddpmpp", "adm", "edm2"])
def test_source_guidance_is_extrapolation_between_sources(network, noisy, architecture):
    denoiser = network(0, architecture, sources=3)
    two = Extrapolation(BoundDenoiser(denoiser, source=0), BoundDenoiser(denoiser, source=2), 0.8)
    one = SourceGuidance(denoiser, 0.8, source=2)
    torch.testing.assert_close(one(*noisy), two(*noisy), rtol=1e-4, atol=1e-4)


def test_both_sources_see_the_same_class(network, noisy):
    denoiser = network(0, sources=2, classes=3)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    real, own = (BoundDenoiser(denoiser, source=source, class_label=labels) for source in (0, 1))
    expected = Extrapolation(real, own, 0.8)(*noisy)
    torch.testing.assert_close(SourceGuidance(denoiser, 0.8)(*noisy, class_label=labels), expected)


def test_classifier_free_guidance_moves_away_from_no_class(network, noisy):
    denoiser = network(0, classes=3)
    none = BoundDenoiser(denoiser, class_label=-1)
    for label in (2, torch.tensor([0, 1, 2, 2, 1, 0])):
        expected = Extrapolation(BoundDenoiser(denoiser, class_label=label), none, 0.8)(*noisy)
        torch.testing.assert_close(ClassifierFreeGuidance(denoiser, 0.8)(*noisy, class_label=label), expected)


def test_what_the_network_does_not_know_is_named(network, noisy):
    with pytest.raises(UsageError, match=r"got 3; it knows 1\.\.2"):
        SourceGuidance(network(sources=3), 1.0, source=3)
    with pytest.raises(UsageError, match="knows none"):
        SourceGuidance(network(), 1.0)
    with pytest.raises(UsageError, match="already fixed|source"):
        SourceGuidance(network(sources=2), 0.0)(*noisy, source=1)
    with pytest.raises(UsageError, match="no classes"):
        ClassifierFreeGuidance(network(), 1.0)
    with pytest.raises(UsageError, match="class_label="):
        ClassifierFreeGuidance(network(classes=2), 1.0)(*noisy)
