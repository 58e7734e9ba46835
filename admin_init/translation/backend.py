"""Backends: the library that builds a translation module's Transformer, and searches with it."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor, nn

from admin_init.errors import AdminInitError
from admin_init.nn import Transformer, TransformerConfig, prepared_for_inference
from admin_init.translation.prefix_lm import PrefixLanguageModel
from admin_init.translation.search import Hypothesis, SearchConfig, beam_search


@dataclass(frozen=True, kw_only=True)
class FairseqConfig:
    """A Transformer of fairseq's, in place of our own."""

    arch: str | None = None
    """Name of one of fairseq's architectures, such as `transformer_iwslt_de_en`. Without one the
    shape is that of `transformer`."""

    overrides: dict[str, Any] = field(default_factory=dict)
    """Options of fairseq that differ from those of the architecture, such as
    `{encoder_layers: 12}`."""


def build_transformer(config: TransformerConfig, fairseq: FairseqConfig | None) -> nn.Module:
    """Build our own :class:`Transformer`, or fairseq's behind the same interface.

    A configuration without encoder layers is that of a decoder-only model.

    Raises:
        AdminInitError: The configuration has no decoder, or, with fairseq, no encoder; or fairseq
            is not installed, or has no such architecture, option or residual style.
    """
    if fairseq is None:
        return Transformer(config) if config.encoder_layers else PrefixLanguageModel(config)
    if not (config.encoder_layers and config.decoder_layers):
        raise AdminInitError(
            "fairseq's Transformer must have layers in both stacks, but has "
            f"`encoder_layers` = {config.encoder_layers} and `decoder_layers` = "
            f"{config.decoder_layers}. Our own can be decoder-only."
        )
    backends = entry_points(group="admin_init.backends", name="fairseq")
    if not backends:
        raise AdminInitError(
            "the backend `fairseq` is not registered: the installation is of another version, or "
            "of none. Install this package anew, as `pip install .` does."
        )
    built: nn.Module = backends["fairseq"].load()(config, fairseq.arch, fairseq.overrides)
    return built


def search(model: nn.Module, source: Tensor, config: SearchConfig) -> list[list[Hypothesis]]:
    """Search for translations: :func:`beam_search`, or fairseq's for a Transformer of fairseq's.

    Our own is prepared for inference meanwhile, see :func:`~admin_init.nn.prepared_for_inference`:
    whoever searches, the same products are computed.

    Args:
        model: From :func:`build_transformer`.
        source: Shape (N, S), int64, padded with ``padding_idx``.
        config: How to search.

    Returns:
        The hypotheses of each sentence, best first.
    """
    either: Any = model
    # fairseq's brings its own. Not asked by its type, which a compiled model hides.
    if hasattr(either, "beam_search"):
        found: list[list[Hypothesis]] = either.beam_search(source, **asdict(config))
        return found
    with prepared_for_inference(model) if isinstance(model, Transformer) else nullcontext():
        return beam_search(either, source, **asdict(config))
