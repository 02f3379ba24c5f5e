"""Train a student: architectures by name, losses, optimisers, schedules."""
