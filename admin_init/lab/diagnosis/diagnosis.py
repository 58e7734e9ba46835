"""Diagnosis of a model: measurements of the whole model and of each sub-layer."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from admin_init.measures import (
    Term,
    branch_share,
    layer_dependency,
)


@dataclass(frozen=True, kw_only=True)
class Sublayer:
    """Measurements of one sub-layer."""

    name: str
    """Name, such as ``encoder.layers.0.self_attn``."""
    stack: str
    """Stack, such as ``encoder``."""
    shortcut_variance: float
    """Variance of the shortcut as it enters the sum; see
    :func:`admin_init.measures.branch_terms`."""
    branch_variance: float
    """Variance of the branch as it enters the sum."""
    output_change: float
    """Squared change of the output when every weight changes by
    :data:`~admin_init.lab.diagnosis.measured.SUBLAYER_DELTA`; see
    :func:`admin_init.measures.sublayer_output_changes`. Sentences are cut to the length of the
    shortest one: padding, whose embedding is zero, would dominate the mean in a Pre-LN stack."""
    output_gradient_norm: float
    """2-norm of the gradient of the loss with respect to the output."""
    parameter_gradient_norm: float
    """2-norm of the gradient with respect to its parameters; 0 if it has none."""
    largest_attention_logit: float | None = None
    """Largest attention logit; None if the sub-layer is not an attention."""
    attention_entropy: float | None = None
    """Attention entropy in nats, mean over queries and heads; None if it is not an attention."""

    @property
    def term(self) -> Term:
        """The two terms of the sum."""
        return Term(self.name, self.shortcut_variance, self.branch_variance)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Measurements of a model in eval mode, without dropout."""

    residual: str
    """Residual style."""
    layers: str
    """Numbers of encoder and decoder layers, such as ``6-6``; ``0-6`` is decoder-only."""
    nll: float
    """Negative log-likelihood of the batch in nats per target token, without label smoothing."""
    loss: float
    """Loss whose gradients are measured: label-smoothed, in nats per target token."""
    output_log_z: float
    """Mean log Z of the output softmax in nats; see :func:`admin_init.measures.output_log_z`."""
    output_change: dict[str, dict[str, float]]
    """Squared output change by tensor, then by delta. ``decoder output`` is the input of the output
    projection, ``encoder output`` the input of cross-attention; padding is left out."""
    gradient_step_change: float
    """Squared change of the decoder's output after a step of
    :data:`~admin_init.lab.diagnosis.measured.GRADIENT_STEP` against the gradient."""
    sublayers: list[Sublayer]
    """Sub-layers in the order of execution."""
    other_gradient_norms: dict[str, float]
    """2-norms of the gradients of other parameters: the embeddings and the final norm."""

    @property
    def stacks(self) -> dict[str, list[Sublayer]]:
        """The sub-layers by stack."""
        grouped: dict[str, list[Sublayer]] = {}
        for sublayer in self.sublayers:
            grouped.setdefault(sublayer.stack, []).append(sublayer)
        return grouped

    def dependency(self) -> dict[str, NDArray[np.float64]]:
        """Compute :func:`admin_init.measures.layer_dependency` of each stack."""
        return {
            stack: layer_dependency([sublayer.term for sublayer in found])
            for stack, found in self.stacks.items()
        }

    def gradient_norm(self) -> float:
        """Compute the 2-norm of the gradient with respect to all the parameters."""
        own = (sublayer.parameter_gradient_norm for sublayer in self.sublayers)
        return math.hypot(*own, *self.other_gradient_norms.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: the measurements and values derived from them."""
        values = asdict(self)
        for sublayer, entry in zip(self.sublayers, values["sublayers"], strict=True):
            entry["branch_share"] = branch_share(sublayer.term)
        shares = {stack: beta.tolist() for stack, beta in self.dependency().items()}
        return values | {"gradient_norm": self.gradient_norm(), "layer_dependency": shares}


def mean_diagnosis(diagnoses: Sequence[Diagnosis]) -> Diagnosis:
    """Average the measurements of several batches; keep the maximum of attention logits."""
    if len(diagnoses) == 1:
        return diagnoses[0]
    merged = _mean([{f.name: getattr(d, f.name) for f in fields(d)} for d in diagnoses])
    return Diagnosis(**merged)


def _mean(values: Sequence[Any]) -> Any:
    first = values[0]
    if isinstance(first, float):
        return statistics.fmean(values)
    if isinstance(first, dict):
        return {key: _mean([value[key] for value in values]) for key in first}
    if isinstance(first, list):
        return [_mean(entries) for entries in zip(*values, strict=True)]
    if isinstance(first, Sublayer):
        merged = _mean([vars(value) for value in values])
        if first.largest_attention_logit is not None:
            merged["largest_attention_logit"] = max(v.largest_attention_logit for v in values)
        return Sublayer(**merged)
    return first
