"""The version, written here only: the build, the command line and every run folder read it."""

__all__ = ["__version__"]

__version__ = "0.1.0"
