"""The demo, the comparison and every table and figure of the papers as a recipe."""
