"""Convert a safe ONNX model into a differentiable torch module, one converter for each operator."""
