"""DETR: a convolutional backbone, positions at queries and keys, object queries that start at 0."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TransformerEncoderLayer(nn.Module):
    def __init__(self, d_model: int, nhead: int, dim_feedforward: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, nhead, dropout=0.0)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.dropout, self.dropout1, self.dropout2 = (nn.Dropout(0.1) for _ in range(3))

    def forward(self, src: Tensor, pos: Tensor) -> Tensor:
        q = k = src + pos
        src2 = self.self_attn(q, k, value=src)[0]
        src = src + self.dropout1(src2)
        src = self.norm1(src)
        src2 = self.linear2(self.dropout(F.relu(self.linear1(src))))
        src = src + self.dropout2(src2)
        return self.norm2(src)


class TransformerDecoderLayer(nn.Module):
    def __init__(self, d_model: int, nhead: int, dim_feedforward: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(d_model, nhead, dropout=0.0)
        self.multihead_attn = nn.MultiheadAttention(d_model, nhead, dropout=0.0)
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout, self.dropout1, self.dropout2, self.dropout3 = (
            nn.Dropout(0.1) for _ in range(4)
        )

    def forward(self, tgt: Tensor, memory: Tensor, pos: Tensor, query_pos: Tensor) -> Tensor:
        q = k = tgt + query_pos
        tgt2 = self.self_attn(q, k, value=tgt)[0]
        tgt = self.norm1(tgt + self.dropout1(tgt2))
        tgt2 = self.multihead_attn(query=tgt + query_pos, key=memory + pos, value=memory)[0]
        tgt = self.norm2(tgt + self.dropout2(tgt2))
        tgt2 = self.linear2(self.dropout(F.relu(self.linear1(tgt))))
        return self.norm3(tgt + self.dropout3(tgt2))


class DETR(nn.Module):
    def __init__(self, classes: int, d_model: int = 16, layers: int = 2, queries: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        )  # fmt: skip
        self.input_proj = nn.Conv2d(12, d_model, 1)
        encoder_layer = TransformerEncoderLayer(d_model, 2, 32)
        decoder_layer = TransformerDecoderLayer(d_model, 2, 32)
        self.encoder = nn.ModuleList(copy.deepcopy(encoder_layer) for _ in range(layers))
        self.decoder = nn.ModuleList(copy.deepcopy(decoder_layer) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)
        self.query_embed = nn.Embedding(queries, d_model)
        self.row_embed = nn.Parameter(torch.rand(20, d_model // 2))
        self.col_embed = nn.Parameter(torch.rand(20, d_model // 2))
        self.class_embed = nn.Linear(d_model, classes + 1)
        self.bbox_embed = nn.Sequential(
            nn.Linear(d_model, d_model), nn.ReLU(), nn.Linear(d_model, 4), nn.Sigmoid()
        )

    def forward(self, images: Tensor) -> dict[str, Any]:
        features = self.input_proj(self.backbone(images))
        height, width = features.shape[-2:]
        pos = torch.cat(
            [
                self.col_embed[:width].unsqueeze(0).repeat(height, 1, 1),
                self.row_embed[:height].unsqueeze(1).repeat(1, width, 1),
            ],
            dim=-1,
        )
        pos = pos.flatten(0, 1).unsqueeze(1)
        memory = features.flatten(2).permute(2, 0, 1)
        for layer in self.encoder:
            memory = layer(memory, pos)
        query_pos = self.query_embed.weight.unsqueeze(1).repeat(1, images.size(0), 1)
        tgt = torch.zeros_like(query_pos)
        intermediate = []
        for layer in self.decoder:
            tgt = layer(tgt, memory, pos, query_pos)
            intermediate.append(self.norm(tgt))
        hs = torch.stack(intermediate).transpose(1, 2)
        classes, boxes = self.class_embed(hs), self.bbox_embed(hs)
        auxiliary = [
            {"pred_logits": a, "pred_boxes": b}
            for a, b in zip(classes[:-1], boxes[:-1], strict=True)
        ]
        return {"pred_logits": classes[-1], "pred_boxes": boxes[-1], "aux_outputs": auxiliary}


def build() -> tuple[nn.Module, Any]:
    return DETR(7), (torch.rand(2, 3, 16, 20),)
