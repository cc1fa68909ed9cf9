"""ONNX files and what graphs are made of."""
