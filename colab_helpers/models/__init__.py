"""Model files: the catalogue, verified downloads, conversion, and ONNX Runtime sessions."""
