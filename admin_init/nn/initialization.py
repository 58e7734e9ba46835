"""Initialization of Transformer weights."""

from __future__ import annotations

import torch
from torch import nn

from admin_init.nn.attention import Attention
from admin_init.nn.embedding import SinusoidalEmbedding
from admin_init.nn.feed_forward import FeedForward


@torch.no_grad()
def initialize_(model: nn.Module) -> None:
    """Initialize all layers of ``model`` like fairseq's Transformer.

    * attention: Xavier uniform per D x D matrix, with gain 1 / sqrt 2 for queries, keys and values;
    * feed-forward: Xavier uniform;
    * embeddings: normal with standard deviation 1 / sqrt D; padding is 0;
    * layer norms: gain 1;
    * biases: 0.
    """
    for module in model.modules():
        match module:
            case Attention():
                for name, weight in module.projections().items():
                    nn.init.xavier_uniform_(weight, gain=1.0 if name == "output" else 0.5**0.5)
            case FeedForward():
                nn.init.xavier_uniform_(module.fc1.weight)
                nn.init.xavier_uniform_(module.fc2.weight)
            case nn.Embedding():
                nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
            case nn.LayerNorm() | SinusoidalEmbedding():
                module.reset_parameters()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
