"""Recipe of the demo checkpoints: vocabulary, encoder with its heads, causal model, held-out figures."""
