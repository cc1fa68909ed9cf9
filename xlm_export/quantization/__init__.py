"""Weights and products in fewer bits: a further graph in a bundle, made from its fp32 graph and compared with it."""

from xlm_export.quantization.quantize import Limits, Quantized, quantize
from xlm_export.quantization.recipes import RECIPES, Recipe

__all__ = ["RECIPES", "Limits", "Quantized", "Recipe", "quantize"]
