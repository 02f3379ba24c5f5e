"""Read, check and rewrite ONNX files: bytes → a checked model under safe names, and back to a file."""
