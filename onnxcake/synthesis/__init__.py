"""Make samples from a teacher and the parts of a recipe."""
