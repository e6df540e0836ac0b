"""Everything two-dimensional: points in the plane, small networks, kernels and grids of loops."""

from nomadiff.lazy import lazy_names

__getattr__, __dir__ = lazy_names(__name__)
