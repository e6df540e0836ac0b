"""Networks that a denoiser preconditions."""
