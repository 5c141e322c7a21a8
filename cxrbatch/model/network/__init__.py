"""The network of the graph contract, its weights wherever they come from, and its way to ONNX. Start at `network`."""
