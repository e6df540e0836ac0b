"""Denoisers made of denoisers: extrapolation, label guidance, gradients, perturbed attention, merged weights."""
