"""How much of ONNX is converted, and how well; `python -m benchmarks.coverage` writes docs/coverage.md."""
