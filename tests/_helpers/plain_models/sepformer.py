"""SepFormer's dual path: Transformers within chunks and across them, in a stream of sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Layer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.self_att = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.pos_ffn = nn.Sequential(
            nn.Linear(dim, 2 * dim), nn.ReLU(), nn.Dropout(0.1), nn.Linear(2 * dim, dim)
        )
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.dropout1, self.dropout2 = nn.Dropout(0.1), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.self_att(x, x, x)
        x = self.norm1(x + self.dropout1(out))
        return self.norm2(x + self.dropout2(self.pos_ffn(x)))


class DualBlock(nn.Module):
    """Takes and returns features of shape (batch, dim, chunk length, chunks)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.intra, self.inter = Layer(dim, 2), Layer(dim, 2)
        self.intra_norm, self.inter_norm = nn.GroupNorm(1, dim), nn.GroupNorm(1, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, k, s = x.shape
        within = x.permute(0, 3, 2, 1).contiguous().view(b * s, k, n)
        within = self.intra(within)
        within = within.view(b, s, k, n).permute(0, 3, 2, 1).contiguous()
        within = self.intra_norm(within) + x
        across = within.permute(0, 2, 3, 1).contiguous().view(b * k, s, n)
        across = self.inter(across)
        across = across.view(b, k, s, n).permute(0, 3, 1, 2).contiguous()
        out: Tensor = self.inter_norm(across) + within
        return out


class SepFormer(nn.Module):
    def __init__(self, dim: int = 16, blocks: int = 2, speakers: int = 2, chunk: int = 6) -> None:
        super().__init__()
        self.chunk, self.speakers = chunk, speakers
        self.encoder = nn.Conv1d(1, dim, 8, stride=4, bias=False)
        self.norm, self.conv1d = nn.GroupNorm(1, dim), nn.Conv1d(dim, dim, 1)
        self.dual_mdl = nn.ModuleList(DualBlock(dim) for _ in range(blocks))
        self.prelu, self.conv2d = nn.PReLU(), nn.Conv2d(dim, dim * speakers, 1)
        self.decoder = nn.ConvTranspose1d(dim, 1, 8, stride=4, bias=False)

    def forward(self, mixture: Tensor) -> Tensor:
        encoded = F.relu(self.encoder(mixture.unsqueeze(1)))
        x = self.conv1d(self.norm(encoded))
        b, n, length = x.shape
        x = x.view(b, n, length // self.chunk, self.chunk).transpose(2, 3)
        for block in self.dual_mdl:
            x = block(x)
        x = self.conv2d(self.prelu(x)).transpose(2, 3)
        masks = x.reshape(b, self.speakers, n, length).relu()
        sources = (encoded.unsqueeze(1) * masks).flatten(0, 1)
        y: Tensor = self.decoder(sources).view(b, self.speakers, -1)
        return y


def build() -> tuple[nn.Module, Any]:
    return SepFormer(), torch.randn(2, 4 * (24 - 1) + 8)
