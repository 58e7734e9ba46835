"""A graph Transformer: attention along edges, by scatter, with chains of nodes and of edges."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class EdgeAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.Q, self.K, self.V, self.E = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, h: Tensor, e: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        source, target = edges
        q, k, v, w = (
            z.view(len(z), self.heads, -1) for z in (self.Q(h), self.K(h), self.V(h), self.E(e))
        )
        score = k[source] * q[target] / q.shape[-1] ** 0.5 * w
        weight = score.sum(-1, keepdim=True).clamp(-5, 5).exp()
        total = torch.zeros_like(v).index_add_(0, target, v[source] * weight)
        norm = v.new_zeros(len(h), self.heads, 1).index_add_(0, target, weight)
        return (total / (norm + 1e-6)).flatten(1), score.flatten(1)


class GraphTransformerLayer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = EdgeAttention(dim, heads)
        self.O_h, self.O_e = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.layer_norm1_h, self.layer_norm1_e = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.FFN_h_layer1, self.FFN_h_layer2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.FFN_e_layer1, self.FFN_e_layer2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.layer_norm2_h, self.layer_norm2_e = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, h: Tensor, e: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        h_in1, e_in1 = h, e
        h, e = self.attention(h, e, edges)
        h, e = self.O_h(h), self.O_e(e)
        h, e = self.layer_norm1_h(h_in1 + h), self.layer_norm1_e(e_in1 + e)
        h_in2, e_in2 = h, e
        h = self.FFN_h_layer2(torch.relu(self.FFN_h_layer1(h)))
        e = self.FFN_e_layer2(torch.relu(self.FFN_e_layer1(e)))
        h, e = self.layer_norm2_h(h_in2 + h), self.layer_norm2_e(e_in2 + e)
        return h, e


class GraphTransformer(nn.Module):
    def __init__(self, atoms: int, bonds: int, dim: int = 16, depth: int = 2) -> None:
        super().__init__()
        self.embedding_h, self.embedding_e = nn.Embedding(atoms, dim), nn.Embedding(bonds, dim)
        self.layers = nn.ModuleList(GraphTransformerLayer(dim, 2) for _ in range(depth))
        self.readout = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, 1))

    def forward(self, atoms: Tensor, bonds: Tensor, edges: Tensor, graph: Tensor) -> Tensor:
        h, e = self.embedding_h(atoms), self.embedding_e(bonds)
        for layer in self.layers:
            h, e = layer(h, e, edges)
        graphs = int(graph.max()) + 1
        nodes = h.new_zeros(graphs, h.shape[1]).index_add_(0, graph, h)
        links = e.new_zeros(graphs, e.shape[1]).index_add_(0, graph[edges[0]], e)
        y: Tensor = self.readout(torch.cat([nodes, links], dim=-1)).squeeze(-1)
        return y


def build() -> tuple[nn.Module, Any]:
    graph = torch.tensor([0] * 6 + [1] * 5)
    ring = [torch.arange(6), torch.arange(5) + 6]
    source = torch.cat([*ring, *ring])
    target = torch.cat([torch.roll(nodes, step) for step in (1, -1) for nodes in ring])
    edges = torch.stack([source, target])
    batch = (torch.randint(7, (11,)), torch.randint(4, (22,)), edges, graph)
    return GraphTransformer(7, 4), batch
