"""Transformers with selectable residual connections."""

from admin_init.nn.config import TransformerConfig
from admin_init.nn.inference import prepare_for_inference_, prepared_for_inference
from admin_init.nn.language_model import LanguageModel, MaskedLanguageModel
from admin_init.nn.residual import RESIDUAL_STYLES, ResidualStyle, register_style
from admin_init.nn.transformer import Transformer

__all__ = [
    "RESIDUAL_STYLES",
    "LanguageModel",
    "MaskedLanguageModel",
    "ResidualStyle",
    "Transformer",
    "TransformerConfig",
    "prepare_for_inference_",
    "prepared_for_inference",
    "register_style",
]
