"""Algorithms `G = A(D)` and the trained models they return."""
