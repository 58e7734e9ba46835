"""Tiny randomly initialized models of families of Hugging Face."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

V, D, LAYERS = 40, 32, 2

_ENCODER = {
    "vocab_size": V,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_SEQ2SEQ = {
    "vocab_size": V,
    "d_model": D,
    "encoder_layers": LAYERS,
    "decoder_layers": LAYERS,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "init_std": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}


def bert(**kwargs: Any) -> Any:
    return hf.BertForMaskedLM(hf.BertConfig(**_ENCODER | kwargs))


def bert_decoder() -> Any:
    config = hf.BertConfig(**_ENCODER, is_decoder=True, add_cross_attention=True)
    return hf.BertLMHeadModel(config)


def bert_to_bert(**kwargs: Any) -> Any:
    special = {"pad_token_id": 0, "decoder_start_token_id": 1, "eos_token_id": 2}
    config = hf.BertConfig(**_ENCODER, is_decoder=True, add_cross_attention=True, **kwargs)
    decoder, encoder = hf.BertLMHeadModel(config), bert().bert
    model = hf.EncoderDecoderModel(encoder=encoder, decoder=decoder)
    model.generation_config.update(**special)
    return model


def roberta() -> Any:
    return hf.RobertaForMaskedLM(hf.RobertaConfig(**_ENCODER))


def xlm_roberta() -> Any:
    return hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(**_ENCODER))


def camembert() -> Any:
    return hf.CamembertForMaskedLM(hf.CamembertConfig(**_ENCODER))


def electra() -> Any:
    return hf.ElectraForMaskedLM(hf.ElectraConfig(**_ENCODER, embedding_size=16))


def distilbert() -> Any:
    config = hf.DistilBertConfig(
        vocab_size=V, dim=D, n_layers=LAYERS, n_heads=2, hidden_dim=48, initializer_range=0.2
    )
    return hf.DistilBertForMaskedLM(config)


def deberta() -> Any:
    config = hf.DebertaConfig(**_ENCODER, relative_attention=True, pos_att_type=["c2p", "p2c"])
    return hf.DebertaForMaskedLM(config)


def deberta_v2(**kwargs: Any) -> Any:
    config = hf.DebertaV2Config(
        **_ENCODER, relative_attention=True, pos_att_type=["c2p", "p2c"], **kwargs
    )
    return hf.DebertaV2ForMaskedLM(config)


def deberta_v2_conv() -> Any:
    return deberta_v2(conv_kernel_size=3)


def big_bird(**kwargs: Any) -> Any:
    config = hf.BigBirdConfig(**_ENCODER, block_size=2, num_random_blocks=1, **kwargs)
    return hf.BigBirdForMaskedLM(config)


def big_bird_full() -> Any:
    return big_bird(attention_type="original_full")


def bart(**kwargs: Any) -> Any:
    return hf.BartForConditionalGeneration(hf.BartConfig(**_SEQ2SEQ | kwargs))


def marian(**kwargs: Any) -> Any:
    return hf.MarianMTModel(hf.MarianConfig(**_SEQ2SEQ | {"scale_embedding": True} | kwargs))


BERT_ENCODER = ["attention.output.dense", "output.dense"]
BERT_DECODER = ["attention.output.dense", "crossattention.output.dense", "output.dense"]
DISTILBERT = ["attention.out_lin", "ffn.lin2"]
BART_ENCODER = ["self_attn.out_proj", "fc2"]
BART_DECODER = ["self_attn.out_proj", "encoder_attn.out_proj", "fc2"]


def _names(stack: str, ends: list[str]) -> list[str]:
    return [f"{stack}.{layer}.{end}" for layer in range(LAYERS) for end in ends]


SEQ2SEQ_NAMES = [
    *_names("model.encoder.layers", BART_ENCODER),
    *_names("model.decoder.layers", BART_DECODER),
]

FAMILIES: dict[str, tuple[Callable[..., Any], list[str]]] = {
    "BERT": (bert, _names("bert.encoder.layer", BERT_ENCODER)),
    "BERT, decoder": (bert_decoder, _names("bert.encoder.layer", BERT_DECODER)),
    "RoBERTa": (roberta, _names("roberta.encoder.layer", BERT_ENCODER)),
    "XLM-RoBERTa": (xlm_roberta, _names("roberta.encoder.layer", BERT_ENCODER)),
    "CamemBERT": (camembert, _names("roberta.encoder.layer", BERT_ENCODER)),
    "ELECTRA": (electra, _names("electra.encoder.layer", BERT_ENCODER)),
    "DistilBERT": (distilbert, _names("distilbert.transformer.layer", DISTILBERT)),
    "DeBERTa": (deberta, _names("deberta.encoder.layer", BERT_ENCODER)),
    "DeBERTa v2": (deberta_v2, _names("deberta.encoder.layer", BERT_ENCODER)),
    "DeBERTa v2, conv": (deberta_v2_conv, _names("deberta.encoder.layer", BERT_ENCODER)),
    "BigBird, sparse": (big_bird, _names("bert.encoder.layer", BERT_ENCODER)),
    "BigBird, full": (big_bird_full, _names("bert.encoder.layer", BERT_ENCODER)),
    "BART": (bart, SEQ2SEQ_NAMES),
    "Marian": (marian, SEQ2SEQ_NAMES),
}
"""How a model is built, and the names of its sites in order of execution."""


def build(family: str) -> Any:
    torch.manual_seed(0)
    return FAMILIES[family][0]().eval()


def batch_of(model: Any) -> dict[str, Any]:
    """Return sentences with padding, long enough for block-sparse attention."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, V, (3, 20), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 15:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = torch.randint(3, V, (3, 9), generator=generator)
    elif getattr(model.config, "add_cross_attention", False):
        states = torch.randn(3, 7, D, generator=generator)
        batch["encoder_hidden_states"] = states.to(model.dtype)
    return batch
