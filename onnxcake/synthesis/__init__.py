"""Make samples from a teacher by the parts of a recipe."""
