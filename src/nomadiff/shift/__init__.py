"""Moving the composition of what a model draws to a target."""
