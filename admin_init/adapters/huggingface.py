"""Hugging Face's Post-LN layers, in the branch form: their forward gives no access to x.

The layers are registered by name, so this module does not import transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle
from typing_extensions import override

from admin_init.adapters.branch_form import BranchSite
from admin_init.adapters.patterns import SitePattern
from admin_init.adapters.registry import register_adapter
from admin_init.adapters.skip_form import AttributeOverride
from admin_init.errors import NotPostLNError, UnsupportedModelError
from admin_init.sites import Recorder, ResidualSite, layer_stack


def _output(name: str) -> SitePattern:
    """Name the modules at the end of a branch in BERT."""
    return SitePattern(branch=f"{name}.dropout", linear=f"{name}.dense", norm=f"{name}.LayerNorm")


def _attention(name: str) -> SitePattern:
    """Name the modules of an attention in BART, where ``F.dropout`` comes before the sum."""
    return SitePattern(
        branch=name, linear=f"{name}.out_proj", norm=f"{name}_layer_norm", reader=name
    )


_BERT = {
    "self_attn": _output("attention.output"),
    "cross_attn": _output("crossattention.output"),
    "ffn": _output("output"),
}
_DISTILBERT = {
    "self_attn": SitePattern(branch="attention", linear="attention.out_lin", norm="sa_layer_norm"),
    "ffn": SitePattern(branch="ffn", linear="ffn.lin2", norm="output_layer_norm"),
}
_FEED_FORWARD = SitePattern(branch="fc2", linear="fc2", norm="final_layer_norm", reader="fc1")
_BART_ENCODER = {"self_attn": _attention("self_attn"), "ffn": _FEED_FORWARD}
_BART_DECODER = {
    "self_attn": _attention("self_attn"),
    "cross_attn": _attention("encoder_attn"),
    "ffn": _FEED_FORWARD,
}

_POST_LN = {
    "bart.BartDecoderLayer": _BART_DECODER,
    "bart.BartEncoderLayer": _BART_ENCODER,
    "bert.BertLayer": _BERT,
    "big_bird.BigBirdLayer": _BERT,
    "camembert.CamembertLayer": _BERT,
    "deberta.DebertaLayer": _BERT,
    "deberta_v2.DebertaV2Layer": _BERT,
    "distilbert.TransformerBlock": _DISTILBERT,
    "electra.ElectraLayer": _BERT,
    "marian.MarianDecoderLayer": _BART_DECODER,
    "marian.MarianEncoderLayer": _BART_ENCODER,
    "roberta.RobertaLayer": _BERT,
    "xlm_roberta.XLMRobertaLayer": _BERT,
}
"""The sub-layers of every layer class, in order of execution.

Some DeBERTa v2 models have a convolution with its own residual connection after the first layer;
it is not rescaled.
"""

_PRE_LN = (
    "gpt2.GPT2Block",
    "m2m_100.M2M100DecoderLayer",
    "m2m_100.M2M100EncoderLayer",
    "t5.T5Block",
)

_RUN_EVERY_BRANCH_ONCE = {"chunk_size_feed_forward": 0, "layerdrop": 0.0}
"""Settings with which a forward pass runs every branch exactly once."""


class HuggingFaceSite(BranchSite):
    """A sub-layer of a Hugging Face layer; ``owners`` are the layer and the modules around it."""

    def __init__(self, *args: Any, owners: list[nn.Module]) -> None:
        super().__init__(*args)
        self.owners = owners

    @override
    def observe(self, recorder: Recorder) -> Iterable[RemovableHandle]:
        settings = [
            AttributeOverride(module, setting, value)
            for module in self.owners
            for setting, value in _RUN_EVERY_BRANCH_ONCE.items()
            if hasattr(module, setting)
        ]
        return [*super().observe(recorder), *settings]


def _qualified(layer_class: str) -> str:
    family, _, name = layer_class.partition(".")
    return f"transformers.models.{family}.modeling_{family}.{name}"


def _register_post_ln(layer_class: str, sublayers: dict[str, SitePattern]) -> None:
    @register_adapter(_qualified(layer_class))
    def sites(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
        found = {
            sublayer: _modules(layer, name, parts)
            for sublayer, parts in sublayers.items()
            # Only decoders with an encoder have cross-attention.
            if sublayer != "cross_attn" or hasattr(layer, parts.branch.partition(".")[0])
        }
        stack = layer_stack(name, "decoder" if "cross_attn" in found else "encoder")
        owners = [layer, *_parents(name, model)]
        prefix = f"{name}." if name else ""
        return [
            HuggingFaceSite(f"{prefix}{sublayer}", stack, *modules, owners=owners)
            for sublayer, modules in found.items()
        ]


def _modules(layer: nn.Module, name: str, parts: SitePattern) -> list[nn.Module]:
    paths = (parts.norm, parts.branch, parts.linear, parts.reader)
    try:
        return [layer.get_submodule(path) for path in paths if path is not None]
    except AttributeError as error:
        raise UnsupportedModelError(
            f"`{name or 'the model'}`, a {type(layer).__name__}, is built differently from "
            f"transformers' layer of this name: {error}. Name its sites with "
            "`admin_init.named_sites`, or train it without Admin."
        ) from error


def _parents(name: str, model: nn.Module) -> Iterator[nn.Module]:
    while name:
        name = name.rpartition(".")[0]
        yield model.get_submodule(name)


def _refuse_pre_ln(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    raise NotPostLNError(f"`{name or 'the model'}` is a {type(layer).__name__}, which is Pre-LN")


def _refuse_albert(layer: nn.Module, name: str, model: nn.Module) -> list[ResidualSite]:
    config: Any = getattr(layer, "config", None)
    depth = getattr(config, "num_hidden_layers", "several")
    groups = getattr(config, "num_hidden_groups", 1)
    raise UnsupportedModelError(
        f"`{name or 'the model'}` is a {type(layer).__name__}: ALBERT shares its layers between "
        f"depths, here {depth} depths over {groups} group(s) of layers. A branch would need a "
        "different omega at each depth. Use a model with one layer per depth, such as BERT, or "
        "train without Admin."
    )


for _layer_class, _sublayers in _POST_LN.items():
    _register_post_ln(_layer_class, _sublayers)
for _layer_class in _PRE_LN:
    register_adapter(_qualified(_layer_class), served=False)(_refuse_pre_ln)
register_adapter(_qualified("albert.AlbertLayer"), served=False)(_refuse_albert)
