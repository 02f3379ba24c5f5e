"""The only room that knows ONNX: bytes → safe graph → differentiable module, and back."""
