"""BERT4Rec: masked items in both directions, scored by the embeddings of the items."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TransformerLayer(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.head_size = heads, hidden // heads
        self.query, self.key, self.value = (nn.Linear(hidden, hidden) for _ in range(3))
        self.dense = nn.Linear(hidden, hidden)
        self.intermediate = nn.Linear(hidden, 4 * hidden)
        self.output = nn.Linear(4 * hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.output_norm = nn.LayerNorm(hidden, eps=1e-12)
        self.dropout = nn.Dropout(dropout)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, self.head_size).permute(0, 2, 1, 3)

    def attend(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self.split(f(x)) for f in (self.query, self.key, self.value))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(self.head_size) + mask
        context = torch.matmul(self.dropout(scores.softmax(-1)), value)
        context = context.permute(0, 2, 1, 3).contiguous().view(x.shape)
        y: Tensor = self.dropout(self.dense(context))
        return y

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.attention_norm(self.attend(x, mask) + x)
        y = self.dropout(self.output(F.gelu(self.intermediate(x))))
        return self.output_norm(y + x)


class BERT4Rec(nn.Module):
    def __init__(self, items: int, hidden: int = 16, layers: int = 2, length: int = 12) -> None:
        super().__init__()
        # 0 is padding, and the last one hides an item.
        self.item_embeddings = nn.Embedding(items + 2, hidden, padding_idx=0)
        self.position_embeddings = nn.Embedding(length, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(0.2)
        self.layers = nn.ModuleList(TransformerLayer(hidden, 2, 0.2) for _ in range(layers))
        self.bias = nn.Parameter(torch.zeros(items + 2))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        items, labels = batch["items"], batch["labels"]
        mask = torch.zeros(items.shape, dtype=self.bias.dtype).masked_fill(items == 0, -1e4)
        positions = torch.arange(items.shape[1], device=items.device)
        x = self.item_embeddings(items) + self.position_embeddings(positions)
        x = self.dropout(self.norm(x))
        for layer in self.layers:
            x = layer(x, mask[:, None, None])
        scores = F.linear(x, self.item_embeddings.weight, self.bias)
        return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=0)


def build() -> tuple[nn.Module, Any]:
    labels = torch.randint(1, 21, (3, 9))
    labels[0, 7:] = 0
    items = labels.clone()
    items[:, ::3] = 21
    return BERT4Rec(20), ({"items": items, "labels": labels},)
