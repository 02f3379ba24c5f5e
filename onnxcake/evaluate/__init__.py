"""Measure how well a student agrees with its teacher: on real inputs, and without any."""
