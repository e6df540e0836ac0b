"""Noise levels, solvers, and drawing a sample set."""
