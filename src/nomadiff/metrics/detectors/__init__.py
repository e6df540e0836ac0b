"""Detectors: fixed maps from images to features, one network a file."""

from nomadiff.metrics.detectors.features import accuracy, classify, extract_features
from nomadiff.metrics.detectors.loading import DEFAULT_DETECTOR, load_classifier, load_detector
from nomadiff.metrics.detectors.protocol import Classifier, Detector

__all__ = [
    "DEFAULT_DETECTOR",
    "Classifier",
    "Detector",
    "accuracy",
    "classify",
    "extract_features",
    "load_classifier",
    "load_detector",
]
