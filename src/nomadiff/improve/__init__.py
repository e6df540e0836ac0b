"""SIMS, Neon and relatives: a model improved by steering away from a copy of itself."""
