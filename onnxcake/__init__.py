"""Data-free extraction of a smaller student.onnx from any teacher.onnx."""
