"""No-MAD diffusion: train diffusion models with synthetic data, without harm."""

__version__ = "0.1.0"
