"""Engine input in, scores out; needs no torch to run ONNX Runtime or TensorRT."""
