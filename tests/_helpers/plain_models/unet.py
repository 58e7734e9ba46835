"""A U-Net for diffusion, whose Transformer blocks at two resolutions attend to a text."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResBlock(nn.Module):
    """Convolutions in a stream of sums, with the norms in the branch."""

    def __init__(self, inside: int, outside: int, emb: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(4, inside), nn.SiLU(), nn.Conv2d(inside, outside, 3, padding=1)
        )
        self.emb_layers = nn.Linear(emb, outside)
        self.out_layers = nn.Sequential(
            nn.GroupNorm(4, outside), nn.SiLU(), nn.Conv2d(outside, outside, 3, padding=1)
        )
        same = inside == outside
        self.skip = nn.Identity() if same else nn.Conv2d(inside, outside, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[:, :, None, None]
        y: Tensor = self.skip(x) + self.out_layers(h)
        return y


class CrossAttention(nn.Module):
    def __init__(self, dim: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, dim, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        y: Tensor = self.to_out(out)
        return y


class GEGLU(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class SpatialTransformer(nn.Module):
    """A Post-LN block on the pixels, itself a branch of the stream."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.proj_in, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.attn1 = CrossAttention(channels, channels, 2)
        self.attn2 = CrossAttention(channels, context, 2)
        self.ff = nn.Sequential(GEGLU(channels, 2 * channels), nn.Linear(2 * channels, channels))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x_in = x
        x = self.proj_in(self.norm(x)).reshape(b, c, h * w).permute(0, 2, 1)
        x = self.norm1(self.attn1(x) + x)
        x = self.norm2(self.attn2(x, context) + x)
        x = self.norm3(self.ff(x) + x)
        x = x.permute(0, 2, 1).reshape(b, c, h, w)
        y: Tensor = self.proj_out(x) + x_in
        return y


class UNet(nn.Module):
    def __init__(self, base: int = 8, context: int = 12) -> None:
        super().__init__()
        self.base = base
        self.time_embed = nn.Sequential(nn.Linear(base, 16), nn.SiLU(), nn.Linear(16, 16))
        self.stem = nn.Conv2d(3, base, 3, padding=1)
        self.down1 = ResBlock(base, base, 16)
        self.pool = nn.Conv2d(base, base, 3, stride=2, padding=1)
        self.down2 = ResBlock(base, 2 * base, 16)
        self.middle = SpatialTransformer(2 * base, context)
        self.up2 = ResBlock(4 * base, base, 16)
        self.up2_attention = SpatialTransformer(base, context)
        self.up1 = ResBlock(2 * base, base, 16)
        self.out = nn.Sequential(nn.GroupNorm(4, base), nn.SiLU(), nn.Conv2d(base, 3, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10000) * torch.arange(self.base // 2) / (self.base // 2))
        angles = timesteps[:, None] * rates.to(x)
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1))
        h1 = self.down1(self.stem(x), emb)
        h2 = self.down2(self.pool(h1), emb)
        h = self.middle(h2, context)
        h = self.up2_attention(self.up2(torch.cat([h, h2], dim=1), emb), context)
        h = F.interpolate(h, scale_factor=2, mode="nearest")
        y: Tensor = self.out(self.up1(torch.cat([h, h1], dim=1), emb))
        return y


def build() -> tuple[nn.Module, Any]:
    return UNet(), (torch.randn(2, 3, 8, 8), torch.tensor([3.0, 40.0]), torch.randn(2, 4, 12))
