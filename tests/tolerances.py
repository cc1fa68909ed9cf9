"""Every tolerance of the tests in one place, with its reason."""

# Our float32 model against transformers': outputs, losses and gradients, absolute and relative. Both compute the same
# products in another order.
MODEL_PARITY = 1e-5

# Session and pipeline answers from ONNX Runtime in float32 against torch: other matrix kernels and another erf.
RUNTIME_FP32 = 1e-4
