"""Batches of Hugging Face's models, made from the names of their arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from _helpers.small_configs import V
from _helpers.watched_pass import floats

_TOKENS, _D = 12, 32

# Given wherever a model takes them, though it can do without.
_ALWAYS = {"bbox", "visual_feats", "visual_pos", "future_values", "future_time_features"}


class CannotRunError(Exception):
    """A model runs none of the batches that were made for it."""


def batch_of(model: nn.Module) -> dict[str, Any]:
    """Return the first batch that the model runs.

    Raises:
        CannotRunError: It runs none, with the error on the first one.
    """
    problem: Exception | None = None
    for batch in _batches(model):
        try:
            with torch.no_grad():
                torch.manual_seed(0)
                if any(tensor.isnan().any() for tensor in floats(model(**batch))):
                    raise ValueError("its output is NaN")
        except Exception as error:
            problem = problem or error
        else:
            return batch
    if problem is None:
        raise CannotRunError("no input known")
    raise CannotRunError(f"cannot run: {type(problem).__name__}: {problem}")


def _batches(model: nn.Module) -> Iterator[dict[str, Any]]:
    config: Any = model.config
    arguments = inspect.signature(model.forward).parameters.values()
    names = {argument.name for argument in arguments}
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = {a.name for a in arguments if a.default is a.empty and a.kind in plain}
    main: Any = getattr(model, "main_input_name", "input_ids")
    needed |= {*([main] if isinstance(main, str) else main)} | (_ALWAYS & names)
    if config.is_encoder_decoder:
        needed |= {"decoder_input_ids"} & names
    ids, image = {"input_ids"} & names, {"pixel_values"} & names
    encoded = needed | ({"encoder_hidden_states"} & names)
    for chosen in (needed | ids | image, needed, ids, image, encoded):
        if chosen and chosen <= set(_INPUTS):
            for i in range(max(len(_INPUTS[name]) for name in chosen)):
                generator = torch.Generator().manual_seed(1)
                yield {
                    name: _INPUTS[name][min(i, len(_INPUTS[name]) - 1)](config, generator)
                    for name in sorted(chosen)
                }


def _find(config: Any, *names: str, default: Any = None) -> Any:
    """Return the first of the attributes that a config or one in it has."""
    for name in names:
        if (value := getattr(config, name, None)) is not None:
            return value
    for sub in config.sub_configs:
        inner = getattr(config, sub, None)
        if isinstance(inner, PretrainedConfig) and (value := _find(inner, *names)) is not None:
            return value
    return default


def _noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(2, *shape, generator=generator, dtype=torch.float64)


def _fixed(*shape: int) -> Callable[[Any, torch.Generator], Tensor]:
    return lambda config, generator: _noise(generator, *shape)


def _ids(config: Any, generator: torch.Generator) -> Tensor:
    vocabulary = min(40, _find(config, "vocab_size", default=V))
    return torch.randint(3, vocabulary, (2, _TOKENS), generator=generator)


def _hidden(config: Any, generator: torch.Generator) -> Tensor:
    return _noise(generator, _TOKENS, _find(config, "hidden_size", "d_model", default=_D))


def _boxes(config: Any, generator: torch.Generator) -> Tensor:
    corner = torch.randint(0, 20, (2, _TOKENS, 2), generator=generator)
    return torch.cat([corner, corner + 5], -1)


def _image(config: Any, generator: torch.Generator, *frames: int) -> Tensor:
    side = _find(config, "image_size", "crop_size", "input_size", default=64)
    sides = (side, side) if isinstance(side, int) else side[-2:]
    return _noise(generator, *frames, _find(config, "num_channels", default=3), *sides)


def _square(side: int) -> Callable[[Any, torch.Generator], Tensor]:
    return lambda c, g: _noise(g, _find(c, "num_channels", default=3), side, side)


def _video(config: Any, generator: torch.Generator) -> Tensor:
    return _image(config, generator, _find(config, "num_frames", default=4))


def _mels(config: Any) -> int:
    size: int = _find(config, "num_mel_bins", "feature_size", "input_feat_per_channel", default=80)
    return size


def _features(config: Any, generator: torch.Generator) -> Tensor:
    return _noise(generator, 64, _mels(config))


def _features_turned(config: Any, generator: torch.Generator) -> Tensor:
    length = 2 * _find(config, "max_source_positions", default=32)
    return _noise(generator, _mels(config), length)


def _past(config: Any) -> int:
    lags = _find(config, "lags_sequence", default=[0])
    return int(_find(config, "context_length", default=24) + max(lags))


_INPUTS: dict[str, list[Callable[[Any, torch.Generator], Tensor]]] = {
    "input_ids": [_ids],
    "decoder_input_ids": [_ids],
    "task_inputs": [lambda c, g: torch.randint(3, V - 10, (2, c.task_seq_len), generator=g)],
    "attention_mask": [lambda c, g: torch.ones(2, _TOKENS, dtype=torch.long)],
    "bbox": [_boxes],
    "hidden_states": [_hidden],
    "encoder_hidden_states": [
        lambda c, g: _noise(g, _TOKENS, _find(c, "encoder_hidden_size", "hidden_size"))
    ],
    "inputs_embeds": [_hidden],
    "query_embeds": [_hidden],
    "pixel_values": [_image, _video, _square(128), _square(224)],
    "pixel_values_videos": [_video],
    "visual_feats": [lambda c, g: _noise(g, 5, c.visual_feat_dim)],
    "visual_pos": [_fixed(5, 4)],
    "input_values": [_fixed(1600), _fixed(1, 1600), _features, _ids],
    "input_features": [_features, _features_turned, _fixed(64, 160), _fixed(64, 128)],
    "past_values": [
        lambda c, g: _noise(g, _past(c)),
        lambda c, g: _noise(g, _past(c), getattr(c, "num_input_channels", 1)),
    ],
    "past_observed_mask": [lambda c, g: torch.ones(2, _past(c), dtype=torch.float64)],
    "past_time_features": [lambda c, g: _noise(g, _past(c), c.num_time_features)],
    "future_values": [lambda c, g: _noise(g, c.prediction_length)],
    "future_time_features": [lambda c, g: _noise(g, c.prediction_length, c.num_time_features)],
}
"""What can stand for an argument, in the order in which it is tried."""
