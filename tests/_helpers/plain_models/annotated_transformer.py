"""The encoder-decoder of The Annotated Transformer, with the norm where the paper has it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def clones(module: nn.Module, n: int) -> nn.ModuleList:
    return nn.ModuleList(copy.deepcopy(module) for _ in range(n))


class LayerNorm(nn.Module):
    def __init__(self, features: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.a_2 = nn.Parameter(torch.ones(features))
        self.b_2 = nn.Parameter(torch.zeros(features))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        std = x.std(-1, keepdim=True)
        return self.a_2 * (x - mean) / (std + self.eps) + self.b_2


class SublayerConnection(nn.Module):
    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.norm = LayerNorm(size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        y: Tensor = self.norm(x + self.dropout(sublayer(x)))
        return y


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, dropout: Any) -> Tensor:
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
    weights = dropout(scores.masked_fill(mask == 0, -1e9).softmax(-1))
    out: Tensor = weights @ value
    return out


class MultiHeadedAttention(nn.Module):
    def __init__(self, h: int, d_model: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.d_k, self.h = d_model // h, h
        self.linears = clones(nn.Linear(d_model, d_model), 4)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        n = query.size(0)
        query, key, value = (
            linear(x).view(n, -1, self.h, self.d_k).transpose(1, 2)
            for linear, x in zip(self.linears, (query, key, value), strict=False)
        )
        x = attention(query, key, value, mask.unsqueeze(1), self.dropout)
        x = x.transpose(1, 2).contiguous().view(n, -1, self.h * self.d_k)
        y: Tensor = self.linears[-1](x)
        return y


class PositionwiseFeedForward(nn.Module):
    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.w_1, self.w_2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.w_2(self.dropout(self.w_1(x).relu()))
        return y


class EncoderLayer(nn.Module):
    def __init__(self, size: int, h: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiHeadedAttention(h, size)
        self.feed_forward = PositionwiseFeedForward(size, d_ff)
        self.sublayer = clones(SublayerConnection(size, dropout), 2)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, mask))
        y: Tensor = self.sublayer[1](x, self.feed_forward)
        return y


class DecoderLayer(nn.Module):
    def __init__(self, size: int, h: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiHeadedAttention(h, size)
        self.src_attn = MultiHeadedAttention(h, size)
        self.feed_forward = PositionwiseFeedForward(size, d_ff)
        self.sublayer = clones(SublayerConnection(size, dropout), 3)

    def forward(self, x: Tensor, memory: Tensor, src_mask: Tensor, tgt_mask: Tensor) -> Tensor:
        x = self.sublayer[0](x, lambda x: self.self_attn(x, x, x, tgt_mask))
        x = self.sublayer[1](x, lambda x: self.src_attn(x, memory, memory, src_mask))
        y: Tensor = self.sublayer[2](x, self.feed_forward)
        return y


class Embeddings(nn.Module):
    def __init__(self, d_model: int, vocab: int, length: int = 50) -> None:
        super().__init__()
        self.lut, self.d_model = nn.Embedding(vocab, d_model), d_model
        position = torch.arange(length).unsqueeze(1)
        rates = torch.exp(torch.arange(0, d_model, 2) * -(math.log(10000.0) / d_model))
        pe = torch.zeros(length, d_model)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(position * rates), torch.cos(position * rates)
        self.register_buffer("pe", pe)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lut(x) * math.sqrt(self.d_model)
        return self.dropout(y + self.pe[: x.size(1)])


class EncoderDecoder(nn.Module):
    def __init__(self, vocab: int, n: int = 2, size: int = 16, d_ff: int = 32, h: int = 2) -> None:
        super().__init__()
        self.encoder = clones(EncoderLayer(size, h, d_ff, 0.1), n)
        self.decoder = clones(DecoderLayer(size, h, d_ff, 0.1), n)
        self.src_embed, self.tgt_embed = Embeddings(size, vocab), Embeddings(size, vocab)
        self.generator = nn.Linear(size, vocab)

    def forward(self, src: Tensor, tgt: Tensor, src_mask: Tensor, tgt_mask: Tensor) -> Tensor:
        memory, x = self.src_embed(src), self.tgt_embed(tgt)
        for layer in self.encoder:
            memory = layer(memory, src_mask)
        for layer in self.decoder:
            x = layer(x, memory, src_mask, tgt_mask)
        return torch.log_softmax(self.generator(x), -1)


def build() -> tuple[nn.Module, Any]:
    src, tgt = torch.randint(1, 19, (3, 7)), torch.randint(1, 19, (3, 5))
    src[0, 5:] = 0
    src_mask = (src != 0).unsqueeze(-2)
    tgt_mask = torch.ones(1, 5, 5).tril().bool() & (tgt != 0).unsqueeze(-2)
    return EncoderDecoder(19), (src, tgt, src_mask, tgt_mask)
