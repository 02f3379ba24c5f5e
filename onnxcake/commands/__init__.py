"""Carry out each command: one file for each, with the public function of its name."""
