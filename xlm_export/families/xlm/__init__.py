"""XLM (Lample & Conneau 2019)."""
