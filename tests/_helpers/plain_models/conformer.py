"""A Conformer whose norms follow the sums: two halved feed-forwards around attention and
convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeedForward(nn.Sequential):
    def __init__(self, dim: int, mult: int = 4) -> None:
        super().__init__(
            nn.Linear(dim, dim * mult),
            nn.SiLU(),
            nn.Dropout(0.1),
            nn.Linear(dim * mult, dim),
            nn.Dropout(0.1),
        )


class Scale(nn.Module):
    def __init__(self, scale: float, fn: nn.Module) -> None:
        super().__init__()
        self.fn, self.scale = fn, scale

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fn(x) * self.scale
        return y


class RelativeAttention(nn.Module):
    """Attention with a learned bias for each distance."""

    def __init__(self, dim: int, heads: int, reach: int = 16) -> None:
        super().__init__()
        self.heads, self.reach = heads, reach
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.distance = nn.Embedding(2 * reach + 1, heads)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (self.to_q(x), *self.to_kv(x).chunk(2, dim=-1))
        q, k, v = (t.reshape(b, n, self.heads, -1).transpose(1, 2) for t in (q, k, v))
        steps = torch.arange(n, device=x.device)
        apart = (steps[:, None] - steps[None]).clamp(-self.reach, self.reach) + self.reach
        bias = self.distance(apart).permute(2, 0, 1)
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5 + bias
        out = torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)
        y: Tensor = self.to_out(out.transpose(1, 2).reshape(b, n, -1))
        return y


class ConvModule(nn.Module):
    def __init__(self, dim: int, kernel: int = 5) -> None:
        super().__init__()
        self.pointwise_in = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.batch_norm = nn.BatchNorm1d(dim)
        self.pointwise_out = nn.Conv1d(dim, dim, 1)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        x = F.glu(self.pointwise_in(x), dim=1)
        x = F.silu(self.batch_norm(self.depthwise(x)))
        x = self.dropout(self.pointwise_out(x))
        return x.transpose(1, 2)


class ConformerBlock(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.ff1, self.ff2 = Scale(0.5, FeedForward(dim)), Scale(0.5, FeedForward(dim))
        self.attn, self.conv = RelativeAttention(dim, heads), ConvModule(dim)
        self.norm_ff1, self.norm_attn, self.norm_conv, self.norm_ff2 = (
            nn.LayerNorm(dim) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm_ff1(x + self.ff1(x))
        x = self.norm_attn(x + self.attn(x))
        x = self.norm_conv(x + self.conv(x))
        return self.norm_ff2(x + self.ff2(x))


class Conformer(nn.Module):
    def __init__(self, features: int, dim: int, depth: int, characters: int) -> None:
        super().__init__()
        self.subsampling = nn.Conv1d(features, dim, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(*(ConformerBlock(dim, heads=2) for _ in range(depth)))
        self.head = nn.Linear(dim, characters)

    def forward(self, spectrogram: Tensor) -> Tensor:
        x = F.silu(self.subsampling(spectrogram)).transpose(1, 2)
        y: Tensor = self.head(self.blocks(x)).log_softmax(-1)
        return y


def build() -> tuple[nn.Module, Any]:
    return Conformer(10, 16, 2, 11), torch.randn(3, 10, 18)
