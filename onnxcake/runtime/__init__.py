"""Run native code in processes of its own with limits: onnxruntime, and whatever first meets a file."""
