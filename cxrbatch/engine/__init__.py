"""Engines and their bundles. Start at `open`; ONNX Runtime and TensorRT need no torch."""
