"""Two towers for retrieval: questions and passages, compared with all others of the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.ln1, self.ln2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None])
        return self.out(y.transpose(1, 2).reshape(b, t, -1))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.ln1(x + self.attention(x, mask))
        return self.ln2(x + self.fc2(F.gelu(self.fc1(x))))


class Tower(nn.Module):
    def __init__(self, words: int, dim: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(words, dim, padding_idx=0)
        self.blocks = nn.ModuleList(Block(dim, 2) for _ in range(depth))
        self.project = nn.Linear(dim, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = tokens != 0
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, mask)
        weight = mask.unsqueeze(-1)
        pooled = (x * weight).sum(1) / weight.sum(1)
        return F.normalize(self.project(pooled), dim=-1)


class TwoTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query_tower, self.document_tower = Tower(29, 16, 2), Tower(31, 24, 2)
        self.temperature = nn.Parameter(torch.tensor(0.1))

    def forward(self, query: Tensor, document: Tensor) -> dict[str, Tensor]:
        scores = self.query_tower(query) @ self.document_tower(document).t() / self.temperature
        return {"scores": scores, "loss": F.cross_entropy(scores, torch.arange(len(scores)))}


def build() -> tuple[nn.Module, Any]:
    query, document = torch.randint(1, 29, (4, 5)), torch.randint(1, 31, (4, 9))
    document[1, 6:] = 0
    return TwoTower(), {"query": query, "document": document}
