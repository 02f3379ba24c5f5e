"""Read a recipe: YAML → a checked Recipe. Nothing here opens a teacher."""
