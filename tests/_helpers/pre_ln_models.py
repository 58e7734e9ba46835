"""Tiny Pre-LN models with random weights, and by hand what their streams are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import nn

from _helpers.native_models import build as build_native

V, D = 20, 16
SPECIAL: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2}
IDS = torch.arange(3, 15).view(2, 6)
ONE = {"input_ids": IDS}
BOTH = {"input_ids": IDS, "decoder_input_ids": IDS[:, :4]}
FLOATS = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(1)).double()


class Start(NamedTuple):
    """One stream."""

    residuals: int
    name: str
    """The module at which its input is scaled."""
    stack: str
    form: str = "output"


class Model(NamedTuple):
    """How a model is built, and its streams."""

    build: Callable[[], nn.Module]
    batch: Any
    streams: list[Start]
    folds: bool
    """Whether omega can be folded."""


def _hf(kind: str, **config: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        family = getattr(hf, kind)
        model: nn.Module = family(family.config_class(**{"vocab_size": V, **SPECIAL, **config}))
        return model

    return build


_DECODER = {
    "hidden_size": D,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_SEQ2SEQ = {
    "d_model": D,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
}
_T5 = {
    "d_model": D,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 2,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
_GPT2 = {"n_embd": D, "n_layer": 3, "n_head": 2, "n_positions": 32}
_OPT = {
    "hidden_size": D,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "ffn_dim": 24,
    "word_embed_proj_dim": D,
    "max_position_embeddings": 64,
}
# The dropout at the start of T5's stacks also runs at their end.
_T5_STREAMS = [
    Start(4, "encoder.embed_tokens", "encoder.block"),
    Start(9, "decoder.embed_tokens", "decoder.block"),
]


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(D, 2, 24, norm_first=True, batch_first=True)
    return nn.TransformerEncoder(layer, 3, norm=nn.LayerNorm(D), enable_nested_tensor=False)


def _decoder() -> nn.Module:
    layer = nn.TransformerDecoderLayer(D, 2, 24, norm_first=True, batch_first=True)
    return nn.TransformerDecoder(layer, 3, norm=nn.LayerNorm(D))


_TRANSFORMER_STREAMS = [
    Start(4, "encoder_embedding", "encoder"),
    Start(6, "decoder_embedding", "decoder"),
]
_LEARNED = {"positions": "learned", "share_embeddings": "none"}

MODELS: dict[str, Model] = {
    "nn.TransformerEncoder": Model(
        _encoder, [FLOATS], [Start(6, "layers.0", "layers", "input")], False
    ),
    "nn.TransformerEncoder, after a projection": Model(
        lambda: nn.Sequential(nn.Linear(D, D), _encoder()), [FLOATS], [Start(6, "0", "1")], True
    ),
    "nn.TransformerDecoder": Model(
        _decoder, [FLOATS, FLOATS[:, :3]], [Start(9, "layers.0", "layers", "input")], False
    ),
    "Transformer": Model(lambda: build_native("pre"), [IDS, IDS], _TRANSFORMER_STREAMS, False),
    "Transformer, learned positions": Model(
        lambda: build_native("pre", **_LEARNED), [IDS, IDS], _TRANSFORMER_STREAMS, True
    ),
    "LanguageModel": Model(
        lambda: build_native("pre", 0, 3), [IDS], [Start(6, "embedding", "decoder")], False
    ),
    "LanguageModel, learned positions": Model(
        lambda: build_native("pre", 0, 3, **_LEARNED),
        [IDS],
        [Start(6, "embedding", "decoder")],
        True,
    ),
    "GPT-2": Model(
        _hf("GPT2LMHeadModel", **_GPT2), ONE, [Start(6, "transformer.drop", "h")], False
    ),
    "GPT-2, untied": Model(
        _hf("GPT2LMHeadModel", **_GPT2, tie_word_embeddings=False),
        ONE,
        [Start(6, "transformer.drop", "h")],
        True,
    ),
    "T5": Model(_hf("T5ForConditionalGeneration", **_T5), BOTH, _T5_STREAMS, False),
    "T5 1.1": Model(
        _hf(
            "T5ForConditionalGeneration",
            **_T5,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        ),
        BOTH,
        _T5_STREAMS,
        False,  # both stacks read one table
    ),
    "Llama": Model(
        _hf("LlamaForCausalLM", **_DECODER), ONE, [Start(6, "model.embed_tokens", "model")], True
    ),
    "OPT": Model(
        _hf("OPTForCausalLM", **_OPT),
        ONE,
        [Start(6, "model.decoder.layers.0", "decoder", "input")],
        False,
    ),
    "GPT-NeoX": Model(
        _hf("GPTNeoXForCausalLM", **_DECODER),
        ONE,
        [Start(3, "gpt_neox.emb_dropout", "gpt_neox")],
        True,
    ),
    # x + attention + ffn, from left to right
    "Cohere": Model(
        _hf("CohereForCausalLM", **_DECODER), ONE, [Start(6, "model.embed_tokens", "model")], False
    ),
    "mBART": Model(
        _hf("MBartForConditionalGeneration", **_SEQ2SEQ),
        BOTH,
        [
            Start(4, "model.encoder.layernorm_embedding", "encoder"),
            Start(9, "model.decoder.layernorm_embedding", "decoder"),
        ],
        True,
    ),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name].build().double().eval()
