"""FlauBERT (Le et al. 2020): XLM's transformer and heads for French, with normalisation before a layer's halves."""
