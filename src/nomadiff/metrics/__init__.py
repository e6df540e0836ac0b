"""Detectors and what is measured on their features."""
