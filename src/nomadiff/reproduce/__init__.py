"""Every table and figure of the papers as a recipe."""
