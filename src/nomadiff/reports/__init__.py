"""Plots, image grids and the self-contained HTML report."""
