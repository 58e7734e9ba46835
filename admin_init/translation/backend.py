"""Backends: the libraries that can build a Transformer and search for translations with it."""

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
    """Settings of a fairseq Transformer, used in place of our own."""

    arch: str | None = None
    """Name of a fairseq architecture, such as `transformer_iwslt_de_en`. By default, the dimensions
    are those of `transformer`."""

    overrides: dict[str, Any] = field(default_factory=dict)
    """fairseq options that override those of the architecture, such as `{encoder_layers: 12}`."""


_OURS_ALONE = ("initialization", "branch_scale", "input_scale")


def check_fairseq(config: TransformerConfig) -> None:
    """Check that a configuration has no option that fairseq's Transformer does not have.

    Raises:
        AdminInitError: It has some; the message names them.
    """
    default = TransformerConfig()
    given = [
        f"`{name}` is {value!r}"
        for name in _OURS_ALONE
        if (value := getattr(config, name)) != getattr(default, name)
    ]
    if given:
        raise AdminInitError(
            f"fairseq's Transformer does not have the options {', '.join(_OURS_ALONE)}, but "
            f"{', '.join(given)}. Leave out `fairseq` to train our Transformer."
        )


def build_transformer(config: TransformerConfig, fairseq: FairseqConfig | None) -> nn.Module:
    """Build our own :class:`Transformer`, or a fairseq Transformer with the same interface.

    Args:
        config: Shape of the model. Without encoder layers, the model is decoder-only.
        fairseq: Settings of fairseq's Transformer; None for our own.

    Raises:
        AdminInitError: The configuration has no decoder, or no encoder with fairseq; or fairseq is
            not installed, or does not have this architecture, option or residual style.
    """
    if fairseq is None:
        return Transformer(config) if config.encoder_layers else PrefixLanguageModel(config)
    if not (config.encoder_layers and config.decoder_layers):
        raise AdminInitError(
            "fairseq's Transformer must have layers in both stacks, but has "
            f"`encoder_layers` = {config.encoder_layers} and `decoder_layers` = "
            f"{config.decoder_layers}. Without `fairseq`, a model can be decoder-only."
        )
    backends = entry_points(group="admin_init.backends", name="fairseq")
    if not backends:
        raise AdminInitError(
            "the backend `fairseq` is not registered, because this package is not installed or an "
            "old version is. Install it again, for example with `pip install .`."
        )
    built: nn.Module = backends["fairseq"].load()(config, fairseq.arch, fairseq.overrides)
    return built


def search(model: nn.Module, source: Tensor, config: SearchConfig) -> list[list[Hypothesis]]:
    """Search for translations by :func:`beam_search`, or by fairseq's search for its Transformer.

    Our own Transformer is prepared for inference during the search, see
    :func:`~admin_init.nn.prepared_for_inference`, so that every caller gets the same results.

    Args:
        model: Model from :func:`build_transformer`.
        source: Source sentences, padded with ``padding_idx``, int64. *Shape:* (N, S).
        config: Settings of the search.

    Returns:
        The hypotheses of each sentence, best first.
    """
    either: Any = model
    # Not isinstance: a compiled model hides its type.
    if hasattr(either, "beam_search"):
        found: list[list[Hypothesis]] = either.beam_search(source, **asdict(config))
        return found
    with prepared_for_inference(model) if isinstance(model, Transformer) else nullcontext():
        return beam_search(either, source, **asdict(config))
