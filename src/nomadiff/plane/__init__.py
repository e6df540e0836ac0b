"""Everything two-dimensional: points in the plane, small networks, kernels and grids of loops."""
