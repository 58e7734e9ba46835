"""A vision Transformer with its norms behind the sums, and a class token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fn(x) + x
        return y


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int = 2, dim_head: int = 8) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.to_qkv(x).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in qkv)
        attn = (q @ k.transpose(-1, -2) * self.scale).softmax(dim=-1)
        y: Tensor = self.to_out((attn @ v).transpose(1, 2).flatten(2))
        return y


class ViT(nn.Module):
    def __init__(self, patch: int = 4, dim: int = 16, depth: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.patch = patch
        self.to_patch_embedding = nn.Linear(3 * patch**2, dim)
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.pos_embedding = nn.Parameter(torch.randn(1, 17, dim))
        layers: list[nn.Module] = []
        for _ in range(depth):
            mlp = nn.Sequential(nn.Linear(dim, 32), nn.GELU(), nn.Linear(32, dim), nn.Dropout(0.1))
            layers += [Residual(Attention(dim)), nn.LayerNorm(dim)]
            layers += [Residual(mlp), nn.LayerNorm(dim)]
        self.transformer = nn.Sequential(*layers)
        self.mlp_head = nn.Linear(dim, classes)

    def forward(self, img: Tensor) -> Tensor:
        patches = img.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        x = self.to_patch_embedding(patches)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x += self.pos_embedding[:, : x.shape[1]]
        x = self.transformer(x)
        y: Tensor = self.mlp_head(x[:, 0])
        return y


def build() -> tuple[nn.Module, Any]:
    return ViT(), torch.randn(2, 3, 16, 16)
