"""Trained models: a denoiser, what is known of it, and how to draw from it."""
