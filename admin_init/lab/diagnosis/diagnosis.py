"""Diagnosis of a model: what was measured of it, and of each sub-layer."""

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
    """What was measured at one sub-layer."""

    name: str
    """Such as ``encoder.layers.0.self_attn``."""
    stack: str
    """Such as ``encoder``."""
    shortcut_variance: float
    """Of the shortcut as it enters the sum, see :func:`admin_init.measures.branch_terms`."""
    branch_variance: float
    """Of the branch as it enters the sum."""
    output_change: float
    """Squared change of the output where every weight changes by
    :data:`~admin_init.lab.diagnosis.measured.SUBLAYER_DELTA`, see
    :func:`admin_init.measures.sublayer_output_changes`. Sentences are cut to the shortest, because
    padding, whose embedding is zero, would make up the whole mean of a Pre-LN stack."""
    output_gradient_norm: float
    """2-norm of the gradient of the loss with respect to the output."""
    parameter_gradient_norm: float
    """2-norm of the gradient with respect to all parameters; 0 where there are none."""
    largest_attention_logit: float | None = None
    """Of an attention."""
    attention_entropy: float | None = None
    """Of an attention: mean over queries and heads, in nats."""

    @property
    def term(self) -> Term:
        """The two terms of the sum."""
        return Term(self.name, self.shortcut_variance, self.branch_variance)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was measured on a model, in eval mode: without dropout."""

    residual: str
    """Residual style."""
    layers: str
    """Layers of both stacks, such as ``6-6``; ``0-6`` for a decoder alone."""
    nll: float
    """Negative log-likelihood of the batch, in nats per target token, without smoothing."""
    loss: float
    """The loss whose gradients are measured: smoothed, in nats per target token."""
    output_log_z: float
    """See :func:`admin_init.measures.output_log_z`."""
    output_change: dict[str, dict[str, float]]
    """By the tensor that changes, then by delta: the squared output change. ``decoder output`` is
    what the output projection reads, ``encoder output`` what cross-attention reads; both without
    their padding."""
    gradient_step_change: float
    """Squared change of the decoder's output after a step of
    :data:`~admin_init.lab.diagnosis.measured.GRADIENT_STEP` against the gradient."""
    sublayers: list[Sublayer]
    """In the order of execution."""
    other_gradient_norms: dict[str, float]
    """2-norm of the gradient of what is in no sub-layer: embeddings, the norm at a stack's end."""

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
        """Return it as primitives, with what follows from the measurements."""
        values = asdict(self)
        for sublayer, entry in zip(self.sublayers, values["sublayers"], strict=True):
            entry["branch_share"] = branch_share(sublayer.term)
        shares = {stack: beta.tolist() for stack, beta in self.dependency().items()}
        return values | {"gradient_norm": self.gradient_norm(), "layer_dependency": shares}


def mean_diagnosis(diagnoses: Sequence[Diagnosis]) -> Diagnosis:
    """Average what was measured on several batches; attention logits are the largest of all."""
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
