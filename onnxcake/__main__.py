"""``python -m onnxcake``."""

from .cli import main

main()
