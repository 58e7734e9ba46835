"""Initialization of Transformer weights."""

from __future__ import annotations

import torch
from torch import nn

from admin_init.nn.attention import Attention
from admin_init.nn.config import Initialization
from admin_init.nn.embedding import SinusoidalEmbedding
from admin_init.nn.feed_forward import FeedForward


@torch.no_grad()
def initialize_(model: nn.Module, sublayers: Initialization = "xavier") -> None:
    """Initialize all layers of ``model``; by default like fairseq's Transformer.

    * attention: Xavier uniform per D x D matrix, with gain 1 / sqrt 2 for queries, keys and values;
    * feed-forward: Xavier uniform;
    * embeddings: normal with standard deviation 1 / sqrt D; padding is 0;
    * layer norms: gain 1;
    * biases: 0.

    Args:
        model: A model whose children are embeddings, stacks and an output projection.
        sublayers: Initialization of attention and feed-forward, see :class:`TransformerConfig`.
    """
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    for module in model.modules():
        match module:
            case Attention() | FeedForward():
                _initialize_sublayer_(module, sublayers)
            case nn.Embedding():
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
            case nn.LayerNorm() | SinusoidalEmbedding():
                module.reset_parameters()
    if sublayers == "gpt2":
        # Radford et al. 2019, section 2.3.
        for child in model.children():
            for projection in (outputs := _output_projections(child)):
                projection.weight.mul_(len(outputs) ** -0.5)


@torch.no_grad()
def scale_branches_(model: nn.Module, factor: float) -> None:
    """Multiply the output projection of every branch, weight and bias, by ``factor``."""
    for projection in _output_projections(model):
        projection.weight.mul_(factor)
        projection.bias.mul_(factor)


def _initialize_sublayer_(module: Attention | FeedForward, style: Initialization) -> None:
    if style == "xavier":
        if isinstance(module, Attention):
            for name, weight in module.projections().items():
                nn.init.xavier_uniform_(weight, gain=1.0 if name == "output" else 0.5**0.5)
        else:
            nn.init.xavier_uniform_(module.fc1.weight)
            nn.init.xavier_uniform_(module.fc2.weight)
        return
    for layer in module.children():
        if isinstance(layer, nn.Linear):
            if style == "torch":
                layer.reset_parameters()
            else:
                nn.init.normal_(layer.weight, std=0.02)


def _output_projections(module: nn.Module) -> list[nn.Linear]:
    """List the last matrix of each branch in ``module``."""
    return [
        each.out_proj if isinstance(each, Attention) else each.fc2
        for each in module.modules()
        if isinstance(each, Attention | FeedForward)
    ]
