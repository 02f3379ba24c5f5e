"""Carry out a run: prepare it, make samples and student by turns, keep it, and finish it."""
