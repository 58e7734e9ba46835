"""fairseq's stacks with omegas against the formulas of a Post-LN layer, written out.

b = omega * x + f(x), then LN(b), for each sub-layer (arXiv 2004.08249).
"""

import math
from argparse import Namespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import admin_init
import admin_init.fairseq

from fairseq.data import Dictionary  # isort: skip
from fairseq.models.transformer import TransformerConfig, TransformerModelBase  # isort: skip

D, HEADS = 16, 4
TOLERANCE = 1e-6


def fairseq_model(**options: Any) -> Any:
    """fairseq's Transformer of 3 encoder and 2 decoder layers with random norms and omegas."""
    shape = {
        f"{stack}_{name}": value
        for stack in ("encoder", "decoder")
        for name, value in {"embed_dim": D, "ffn_embed_dim": 24, "attention_heads": HEADS}.items()
    }
    defaults = {"encoder_layers": 3, "decoder_layers": 2, "dropout": 0.3, "activation_dropout": 0.2}
    defaults |= {"decoder_input_dim": D, "decoder_output_dim": D}
    words = Dictionary()
    for word in "abcdefghijkl":
        words.add_symbol(word)
    torch.manual_seed(0)
    model: Any = TransformerModelBase.build_model(
        TransformerConfig.from_namespace(Namespace(**shape | defaults | options)),
        Namespace(source_dictionary=words, target_dictionary=words),
    )
    admin_init.install_(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name or name.endswith((".bias", "c_attn", "w_resid", "_ln.weight")):
                parameter.add_(0.3 * torch.randn_like(parameter))
            if name.endswith("omega"):
                parameter.uniform_(0.5, 3.0)
    return model


@pytest.fixture
def batch() -> dict[str, Tensor]:
    torch.manual_seed(1)
    tokens = torch.randint(4, 16, (2, 3, 6))
    source, target = tokens
    source[1, :2] = source[2, :3] = target[1, 4:] = 1
    return {
        "src_tokens": source,
        "src_lengths": source.ne(1).sum(1),
        "prev_output_tokens": target,
    }


class WrittenOut:
    """Both stacks as plain functions of the weights, states of shape (T, N, D)."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, src_tokens: Tensor, prev_output_tokens: Tensor) -> Tensor:
        padding = src_tokens.eq(1)
        embedded = self.model.encoder.forward_embedding(src_tokens)[0]
        x = (embedded * ~padding[..., None]).transpose(0, 1)
        for layer in self.kept(self.model.encoder.layers):
            x = self.layer(layer, x, padding)
        memory = x
        decoder = self.model.decoder
        x = math.sqrt(D) * decoder.embed_tokens(prev_output_tokens)
        x = self.drop(decoder, x + decoder.embed_positions(prev_output_tokens)).transpose(0, 1)
        for layer in self.kept(decoder.layers):
            x = self.layer(layer, x, prev_output_tokens.eq(1), memory, padding)
        return decoder.output_projection(x.transpose(0, 1))

    def layer(
        self,
        layer: Any,
        x: Tensor,
        padding: Tensor,
        memory: Tensor | None = None,
        memory_padding: Tensor | None = None,
    ) -> Tensor:
        keys = x
        mask = padding[:, None, None, :]
        if memory is not None and memory_padding is not None:
            future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
            mask = mask | future
            if layer.cross_self_attention:
                keys = torch.cat((memory, x))
                seen = memory_padding[:, None, None, :].expand(-1, -1, len(x), -1)
                mask = torch.cat((seen, mask), dim=-1)
        branch = self.attention(layer.self_attn, x, keys, mask)
        if getattr(layer, "c_attn", None) is not None:
            branch = branch * layer.c_attn.repeat_interleave(D // HEADS)
        if getattr(layer, "attn_ln", None) is not None:
            branch = self.norm(layer.attn_ln, branch)
        b = layer.self_attn_skip.omega * x + self.drop(layer, branch)
        x = self.norm(layer.self_attn_layer_norm, b)

        if getattr(layer, "encoder_attn", None) is not None:
            assert memory is not None
            assert memory_padding is not None
            mask = memory_padding[:, None, None, :]
            branch = self.attention(layer.encoder_attn, x, memory, mask)
            b = layer.encoder_attn_skip.omega * x + self.drop(layer, branch)
            x = self.norm(layer.encoder_attn_layer_norm, b)

        hidden = F.relu(x @ layer.fc1.weight.T + layer.fc1.bias)
        hidden = F.dropout(hidden, 0.2, layer.training)
        if getattr(layer, "ffn_layernorm", None) is not None:
            hidden = self.norm(layer.ffn_layernorm, hidden)
        branch = self.drop(layer, hidden @ layer.fc2.weight.T + layer.fc2.bias)
        w_resid = 1.0 if getattr(layer, "w_resid", None) is None else layer.w_resid
        return self.norm(layer.final_layer_norm, layer.ffn_skip.omega * w_resid * x + branch)

    @staticmethod
    def attention(attention: Any, x: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        def project(states: Tensor, linear: nn.Linear) -> Tensor:
            states = states @ linear.weight.T + linear.bias
            return states.unflatten(-1, (HEADS, -1)).permute(1, 2, 0, 3)

        q = project(x, attention.q_proj)
        k = project(keys, attention.k_proj)
        v = project(keys, attention.v_proj)
        logits = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(mask, -torch.inf)
        mixed = (logits.softmax(-1) @ v).permute(2, 0, 1, 3).flatten(2)
        return mixed @ attention.out_proj.weight.T + attention.out_proj.bias

    @staticmethod
    def kept(layers: Any) -> list[nn.Module]:
        every = list(layers._modules.values())
        if not (layers.training and hasattr(layers, "p")):
            return every
        draws = torch.rand(len(every))
        return [layer for layer, draw in zip(every, draws, strict=True) if draw > layers.p]

    @staticmethod
    def drop(module: nn.Module, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, module.training)

    @staticmethod
    def norm(norm: Any, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        variance = centred.square().mean(-1, keepdim=True)
        return centred / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


def gradients(model: nn.Module, output: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward((output * torch.linspace(-1, 1, output.shape[-1])).mean())
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale_attn": True, "scale_fc": True, "scale_heads": True, "scale_resids": True},
    "cross+self": {"cross_self_attention": True, "no_cross_attention": True},
    "no cross": {"no_cross_attention": True},
    "checkpointed": {"checkpoint_activations": True},
    "layerdrop": {"encoder_layerdrop": 0.4, "decoder_layerdrop": 0.4},
    "wide encoder": {"encoder_embed_dim": 2 * D},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_formulas(
    options: str, training: bool, dtype: torch.dtype, batch: dict[str, Tensor]
) -> None:
    model = fairseq_model(**OPTIONS[options]).to(dtype).train(training)
    torch.manual_seed(2)
    expected = WrittenOut(model)(batch["src_tokens"], batch["prev_output_tokens"])
    expected_gradients = gradients(model, expected)
    torch.manual_seed(2)
    output = model(**batch)[0]
    torch.testing.assert_close(output, expected, atol=TOLERANCE, rtol=TOLERANCE)
    found = gradients(model, output)
    assert found.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=TOLERANCE, rtol=1e-5)


@pytest.mark.parametrize("options", ["plain", "scaled", "cross+self", "wide encoder"])
def test_incremental_decoding(options: str, batch: dict[str, Tensor]) -> None:
    model = fairseq_model(**OPTIONS[options]).eval()
    target = batch["prev_output_tokens"][:2, :4]
    source = batch["src_tokens"][:2]
    expected = WrittenOut(model)(source, target)
    with torch.no_grad():
        memory = model.encoder(source)
        state: dict[str, Any] = {}
        steps = [
            model.decoder(target[:, :length], memory, incremental_state=state)[0]
            for length in range(1, 5)
        ]
    assert all(step.shape[1] == 1 for step in steps)
    torch.testing.assert_close(torch.cat(steps, 1), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_activation_checkpointing_recomputes_with_the_same_omegas(batch: dict[str, Tensor]) -> None:
    results = []
    for recompute in (False, True):
        model = fairseq_model(checkpoint_activations=recompute)
        assert hasattr(model.encoder.layers[0], "precheckpoint_forward") == recompute
        torch.manual_seed(2)
        output = model(**batch)[0]
        results.append((output, gradients(model, output)))
    torch.testing.assert_close(results[1], results[0], atol=1e-8, rtol=1e-5)
