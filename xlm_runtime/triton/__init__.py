"""A bundle in Triton Inference Server's Python backend; `xlm-export triton` writes the model repository."""
