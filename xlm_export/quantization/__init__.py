"""Weights and products in fewer bits: a further graph in a bundle, made from its fp32 graph and compared with it."""

from xlm_export.quantization.quantize import Quantized, quantize
from xlm_export.quantization.quantizer import Limits
from xlm_export.quantization.recipes import RECIPES, Job, Recipe

__all__ = ["RECIPES", "Job", "Limits", "Quantized", "Recipe", "quantize"]
