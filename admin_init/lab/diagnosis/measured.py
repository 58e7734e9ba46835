"""Every costly measure of stability on one model, whether at its initialization or trained."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from admin_init._utils.isolation import preserved
from admin_init.errors import AdminInitError
from admin_init.measures import (
    Term,
    attention_entropy,
    branch_share,
    branch_terms,
    gradient_norms,
    gradient_step_change,
    largest_attention_logit,
    layer_dependency,
    output_change,
    output_gradient_norms,
    output_log_z,
    sublayer_output_changes,
)
from admin_init.measures.attention_hooks import observe_attention
from admin_init.nn import Transformer
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.module import TranslationModule
from admin_init.translation.prefix_lm import PrefixLanguageModel

DELTAS = (1e-5, 1e-4, 1e-3)
"""Changes of the weights at which the output change is measured."""

SUBLAYER_DELTA = 1e-4
"""That at which it is measured sub-layer by sub-layer."""

GRADIENT_STEP = 1e-6
"""Step along the sign of the gradient."""


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
    """Squared change of the output where every weight changes by :data:`SUBLAYER_DELTA`, see
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
    """Squared change of the decoder's output after a step of :data:`GRADIENT_STEP`."""
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


def diagnose_module(
    module: TranslationModule,
    batch: TranslationBatch,
    *,
    deltas: Sequence[float] = DELTAS,
    seed: int = 0,
) -> Diagnosis:
    """Measure ``module`` on a batch, and leave it as it was.

    Args:
        module: With a Transformer of :mod:`admin_init.nn`, of one stack or two.
        batch: What it is measured on.
        deltas: Changes of the weights at which the output change is measured.
        seed: Seed of the signs of these changes.

    Raises:
        AdminInitError: The module is not built yet, or its Transformer is fairseq's.
        ValueError: ``deltas`` is empty, or holds one that is not positive.
    """
    if not deltas or not all(0 < delta < math.inf for delta in deltas):
        raise ValueError(f"`deltas` must be positive numbers, one at least, but are {deltas}.")
    model = observable(module)
    padding = module.config.padding_idx

    def run() -> Tensor:
        logits: Tensor = model(batch.source, batch.target_input)
        return logits

    def loss_of(logits: Tensor) -> Tensor:
        return F.cross_entropy(
            logits.flatten(0, 1),
            batch.target.flatten(),
            ignore_index=padding,
            label_smoothing=module.label_smoothing,
        )

    with preserved(module), ExitStack() as stack:
        module.eval()
        # Within, or `preserved` would take the hook for a part of the model, and put it back.
        hidden = _Hidden(model)
        stack.callback(hidden.remove)
        attentions = _attentions(model, run)
        terms = branch_terms(model, run)
        tokens = [_cut(sentences, padding) for sentences in (batch.source, batch.target_input)]
        changes = sublayer_output_changes(
            model, lambda: model(*tokens), delta=SUBLAYER_DELTA, seed=seed
        )
        at_outputs = output_gradient_norms(model, lambda: loss_of(run()))
        at_parameters = _parameter_gradient_norms(model, lambda: loss_of(run()))
        with torch.no_grad():
            logits = run()
            nll, log_z = float(module.nll(batch)), float(output_log_z(logits))
        outputs = {"decoder output": (hidden.after(run), batch.target.ne(padding))}
        if isinstance(model, Transformer):
            outputs["encoder output"] = (
                lambda: model.encode(batch.source).states,
                batch.source.ne(padding),
            )
        moved = {
            name: {
                f"{delta:g}": output_change(model, states, delta=delta, seed=seed, mask=mask)
                for delta in deltas
            }
            for name, (states, mask) in outputs.items()
        }
        states, mask = outputs["decoder output"]
        stepped = gradient_step_change(
            model,
            states,
            lambda x: loss_of(hidden.projection(x)),
            step=GRADIENT_STEP,
            mask=mask,
        )
    return Diagnosis(
        residual=module.config.residual,
        layers=f"{module.config.encoder_layers}-{module.config.decoder_layers}",
        nll=nll,
        loss=float(loss_of(logits)),
        output_log_z=log_z,
        output_change=moved,
        gradient_step_change=stepped,
        sublayers=[
            Sublayer(
                name=term.name,
                stack=name,
                shortcut_variance=term.shortcut_variance,
                branch_variance=term.branch_variance,
                output_change=changes[term.name],
                output_gradient_norm=at_outputs.get(term.name, 0.0),
                parameter_gradient_norm=at_parameters.pop(term.name, 0.0),
                **attentions.get(term.name, {}),
            )
            for name, found in terms.items()
            for term in found
        ],
        other_gradient_norms=at_parameters,
    )


def observable(module: TranslationModule) -> nn.Module:
    """Return the Transformer of a module, if it can be diagnosed.

    Raises:
        AdminInitError: It is not built yet, or fairseq's.
    """
    model = getattr(module, "transformer", None)
    if model is None:
        raise AdminInitError(
            "The model is not built, because the size of its vocabulary is not known. Give it "
            "`vocabulary_size`, or set `module.data` and call `module.setup('fit')`."
        )
    if not isinstance(model, Transformer | PrefixLanguageModel):
        raise AdminInitError(
            f"The sub-layers of {type(model).__name__} cannot be observed: only those of our own "
            "Transformer can. Leave `fairseq` out of the recipe, or turn its checkpoint into one "
            "of ours with `admin-init convert`."
        )
    return model


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


class _Hidden:
    """Sees what enters the output projection."""

    def __init__(self, model: nn.Module) -> None:
        owner = model.decoder_only if isinstance(model, PrefixLanguageModel) else model
        self.projection: nn.Linear = owner.get_submodule("output_proj")  # type: ignore[assignment]
        self._seen: list[Tensor] = []
        self.remove = self.projection.register_forward_pre_hook(self._keep).remove

    def _keep(self, module: nn.Module, args: tuple[Tensor]) -> None:
        self._seen[:] = args

    def after(self, run: Callable[[], object]) -> Callable[[], Tensor]:
        """Return what runs the model and returns the states, (N, T, D)."""

        def states() -> Tensor:
            run()
            return self._seen.pop()

        return states


def _cut(sentences: Tensor, padding: int) -> Tensor:
    """Cut sentences to the shortest, which leaves no padding on either side."""
    real = sentences.ne(padding)
    shortest = int(real.sum(1).min())
    return sentences[:, :shortest] if real[:, 0].all() else sentences[:, -shortest:]


@torch.no_grad()
def _attentions(model: nn.Module, run: Callable[[], object]) -> Mapping[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}

    def record(name: str, query: Tensor, key: Tensor, mask: Tensor | None) -> None:
        found[name] = {
            "largest_attention_logit": float(largest_attention_logit(query, key, mask)),
            "attention_entropy": float(attention_entropy(query, key, mask)),
        }

    with ExitStack() as stack:
        for handle in observe_attention(model, record):
            stack.callback(handle.remove)
        run()
    return found


def _parameter_gradient_norms(model: nn.Module, loss: Callable[[], Tensor]) -> dict[str, float]:
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        model.zero_grad()
        with torch.enable_grad():
            loss().backward()  # type: ignore[no-untyped-call]
        return {name: float(v) for name, v in gradient_norms(model.named_parameters()).items()}
    finally:
        for parameter, gradient in before:
            parameter.grad = gradient
