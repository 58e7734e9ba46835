"""SASRec: next items from a sequence of items, with the feed-forward as two convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PointWiseFeedForward(nn.Module):
    def __init__(self, hidden_units: int, dropout_rate: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(hidden_units, hidden_units, kernel_size=1)
        self.dropout1 = nn.Dropout(p=dropout_rate)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv1d(hidden_units, hidden_units, kernel_size=1)
        self.dropout2 = nn.Dropout(p=dropout_rate)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.relu(self.dropout1(self.conv1(inputs.transpose(-1, -2))))
        outputs: Tensor = self.dropout2(self.conv2(hidden)).transpose(-1, -2)
        return outputs


class SASRec(nn.Module):
    def __init__(self, item_num: int, hidden_units: int = 16, num_blocks: int = 2) -> None:
        super().__init__()
        self.item_emb = nn.Embedding(item_num + 1, hidden_units, padding_idx=0)
        self.pos_emb = nn.Embedding(33, hidden_units, padding_idx=0)
        self.emb_dropout = nn.Dropout(p=0.2)
        self.attention_layers, self.attention_layernorms = nn.ModuleList(), nn.ModuleList()
        self.forward_layers, self.forward_layernorms = nn.ModuleList(), nn.ModuleList()
        for _ in range(num_blocks):
            self.attention_layers.append(nn.MultiheadAttention(hidden_units, 2))
            self.attention_layernorms.append(nn.LayerNorm(hidden_units, eps=1e-8))
            self.forward_layers.append(PointWiseFeedForward(hidden_units, 0.2))
            self.forward_layernorms.append(nn.LayerNorm(hidden_units, eps=1e-8))

    def log2feats(self, log_seqs: Tensor) -> Tensor:
        seqs = self.item_emb(log_seqs)
        seqs *= self.item_emb.embedding_dim**0.5
        poss = torch.arange(1, log_seqs.shape[1] + 1, device=log_seqs.device) * (log_seqs != 0)
        seqs += self.pos_emb(poss)
        seqs = self.emb_dropout(seqs)
        length = seqs.shape[1]
        mask = ~torch.tril(torch.ones((length, length), dtype=torch.bool, device=seqs.device))
        for i in range(len(self.attention_layers)):
            seqs = torch.transpose(seqs, 0, 1)
            mha_outputs, _ = self.attention_layers[i](seqs, seqs, seqs, attn_mask=mask)
            seqs = self.attention_layernorms[i](seqs + mha_outputs)
            seqs = torch.transpose(seqs, 0, 1)
            seqs = self.forward_layernorms[i](seqs + self.forward_layers[i](seqs))
        return seqs

    def forward(
        self, log_seqs: Tensor, pos_seqs: Tensor, neg_seqs: Tensor
    ) -> tuple[Tensor, Tensor]:
        log_feats = self.log2feats(log_seqs)
        pos_logits = (log_feats * self.item_emb(pos_seqs)).sum(dim=-1)
        neg_logits = (log_feats * self.item_emb(neg_seqs)).sum(dim=-1)
        return pos_logits, neg_logits


def build() -> tuple[nn.Module, Any]:
    items, negative = torch.randint(1, 30, (3, 9)), torch.randint(1, 30, (3, 8))
    items[0, :3] = 0
    return SASRec(30), (items[:, :-1], items[:, 1:], negative)
