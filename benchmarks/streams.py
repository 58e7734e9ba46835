"""The share of the input in Pre-LN models at their usual initialization, and what scales it.

Models with the configuration of a small published one, with random weights and random ids, no
dropout. For each family: the share of each stack's input at omega = 1, the omega that makes it the
share that is asked for, and, where omega can be folded, the largest change of an output by that.

    python benchmarks/streams.py
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

import admin_init
from admin_init.nn import LanguageModel, TransformerConfig

NONE: dict[str, Any] = {"tie_word_embeddings": False}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2, 124 M": (
        "GPT2LMHeadModel",
        {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    ),
    "GPT-2, 124 M, untied": (
        "GPT2LMHeadModel",
        {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, **NONE},
    ),
    "OPT, 125 M": (
        "OPTForCausalLM",
        {"hidden_size": 768, "ffn_dim": 3072, "num_hidden_layers": 12, "dropout": 0.0},
    ),
    "GPT-NeoX (Pythia), 160 M": (
        "GPTNeoXForCausalLM",
        {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "vocab_size": 50304,
        },
    ),
    "Llama, 12 layers of 768": (
        "LlamaForCausalLM",
        {
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
    ),
    "T5, small": (
        "T5ForConditionalGeneration",
        {"dropout_rate": 0.0, "decoder_start_token_id": 0},
    ),
    "mBART, 6-6 layers of 512": (
        "MBartForConditionalGeneration",
        {
            "d_model": 512,
            "encoder_ffn_dim": 2048,
            "decoder_ffn_dim": 2048,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "dropout": 0.0,
        },
    ),
}


OURS = ("nn.TransformerEncoder", "ours")
"""An encoder of torch, and a decoder-only model of this package, 12 layers of 512."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--families", nargs="+", default=[*FAMILIES, *OURS])
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--layers", type=int, help="layers of every stack, to be quick")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    for family in options.families:
        for seed in options.seeds:
            torch.manual_seed(seed)
            model, batch = built(family, options)
            row = {"family": family, "seed": seed, **measured(model, batch, options.share)}
            row |= {"torch": torch.__version__, "machine": platform.machine()}
            print(json.dumps(row), flush=True)


def built(family: str, options: argparse.Namespace) -> tuple[nn.Module, Any]:
    layers = options.layers or 12
    if family == OURS[0]:
        layer = nn.TransformerEncoderLayer(
            512, 8, 2048, dropout=0.0, batch_first=True, norm_first=True
        )
        stack = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(512), enable_nested_tensor=False
        )
        return nn.Sequential(nn.Embedding(1000, 512), stack), ids(1000, options)
    if family == OURS[1]:
        config = TransformerConfig(
            vocabulary_size=1000,
            residual="pre",
            encoder_layers=0,
            decoder_layers=layers,
            dropout=0.0,
        )
        return LanguageModel(config), ids(1000, options)
    name, settings = FAMILIES[family]
    kind: Any = getattr(hf, name)
    if options.layers:
        names = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers")
        defaults = kind.config_class()
        settings = settings | {n: options.layers for n in names if hasattr(defaults, n)}
    config = kind.config_class(**settings)
    model = kind(config)
    tokens = ids(config.vocab_size, options)
    batch = {"input_ids": tokens}
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = tokens
    return model, batch


def ids(vocabulary: int, options: argparse.Namespace) -> Tensor:
    return torch.randint(4, vocabulary, (2, options.tokens))


def measured(model: nn.Module, batch: Any, share: float) -> dict[str, Any]:
    begin = time.perf_counter()
    profile = admin_init.initialize_(model, batch, rule="share", share=share)
    found: dict[str, Any] = {
        "share before": {name: round(x, 4) for name, x in profile.initial_shares.items()},
        "omega": {site.name: round(site.omega, 3) for site in profile.sites},
        "passes": profile.passes,
        "seconds": round(time.perf_counter() - begin, 1),
    }
    again = admin_init.profile(model, [batch], rule="share", share=share)
    found["share after"] = {
        site.stack: round(shown(site.omega**2 * site.shortcut_variance, site.variance), 6)
        for site in again.sites
    }
    before = output(model, batch)
    try:
        admin_init.fold_(model)
    except admin_init.errors.FoldError as error:
        found["fold"] = str(error).partition("nothing was changed: ")[2].partition(". The")[0]
    else:
        found["fold"] = float(f"{(output(model, batch) - before).abs().max():.1e}")
    return found


def shown(scaled: float, branches: float) -> float:
    return scaled / (scaled + branches)


@torch.no_grad()
def output(model: nn.Module, batch: Any) -> Tensor:
    model.eval()
    found = model(**batch) if isinstance(batch, dict) else model(batch)
    logits: Tensor = getattr(found, "logits", found)
    return logits


if __name__ == "__main__":
    main()
