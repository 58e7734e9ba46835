"""Stability measures of one model, at its initialization or trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from admin_init._utils.isolation import preserved
from admin_init._utils.validation import PositiveFloat, check
from admin_init.errors import AdminInitError
from admin_init.lab.diagnosis.diagnosis import Diagnosis, Sublayer
from admin_init.measures import (
    attention_entropy,
    branch_terms,
    gradient_norms,
    gradient_step_change,
    largest_attention_logit,
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
"""Sizes of the weight perturbations at which the output change is measured."""

SUBLAYER_DELTA = 1e-4
"""Size of the weight perturbations at which each sub-layer's output change is measured."""

GRADIENT_STEP = 1e-6
"""Size of the step along the sign of the gradient."""


def diagnose_module(
    module: TranslationModule,
    batch: TranslationBatch,
    *,
    deltas: Sequence[PositiveFloat] = DELTAS,
    seed: int = 0,
) -> Diagnosis:
    """Measure ``module`` on a batch, without changing it.

    Args:
        module: Module with a Transformer of :mod:`admin_init.nn`, with one or two stacks.
        batch: Batch to measure on.
        deltas: Sizes of the weight perturbations at which the output change is measured.
        seed: Seed of the signs of these perturbations.

    Raises:
        AdminInitError: The module is not built yet, or its Transformer is fairseq's; or ``deltas``
            is empty, or contains a value that is not positive.
    """
    check(diagnose_module, locals())
    model = require_transformer(module)
    padding = module.config.padding_idx

    def run() -> Tensor:
        logits: Tensor = model(batch.source, batch.target_input)
        return logits

    with preserved(module), ExitStack() as stack:
        module.eval()
        # Inside `preserved`, which would otherwise restore the hook with the model's attributes.
        hidden = _ProjectionInput(model)
        stack.callback(hidden.remove)
        attentions = _attentions(model, run)
        terms = branch_terms(model, run)
        tokens = [_cut(sentences, padding) for sentences in (batch.source, batch.target_input)]
        changes = sublayer_output_changes(
            model, lambda: model(*tokens), delta=SUBLAYER_DELTA, seed=seed
        )
        at_outputs = output_gradient_norms(model, lambda: module.loss_of(run(), batch))
        at_parameters = _parameter_gradient_norms(model, lambda: module.loss_of(run(), batch))
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
            lambda x: module.loss_of(hidden.projection(x), batch),
            step=GRADIENT_STEP,
            mask=mask,
        )
    return Diagnosis(
        residual=module.config.residual,
        layers=f"{module.config.encoder_layers}-{module.config.decoder_layers}",
        nll=nll,
        loss=float(module.loss_of(logits, batch)),
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


def require_transformer(module: TranslationModule) -> nn.Module:
    """Return the Transformer of a module, if it can be diagnosed.

    Raises:
        AdminInitError: The Transformer is not built yet, or is fairseq's.
    """
    model = getattr(module, "transformer", None)
    if model is None:
        raise AdminInitError(
            "The model is not built yet, because the size of its vocabulary is not known. Give "
            "`vocabulary_size`, or set `module.data` and call `module.setup('fit')`."
        )
    if not isinstance(model, Transformer | PrefixLanguageModel):
        raise AdminInitError(
            f"The sub-layers of {type(model).__name__} cannot be observed: only the Transformer of "
            "admin_init can. Remove `fairseq` from the recipe, or convert its checkpoint with "
            "`admin-init convert`."
        )
    return model


class _ProjectionInput:
    """Record the input of the output projection."""

    def __init__(self, model: nn.Module) -> None:
        owner = model.decoder_only if isinstance(model, PrefixLanguageModel) else model
        self.projection: nn.Linear = owner.get_submodule("output_proj")  # type: ignore[assignment]
        self._seen: list[Tensor] = []
        self.remove = self.projection.register_forward_pre_hook(self._keep).remove

    def _keep(self, module: nn.Module, args: tuple[Tensor]) -> None:
        self._seen[:] = args

    def after(self, run: Callable[[], object]) -> Callable[[], Tensor]:
        """Return a function that runs the model and returns this input, (N, T, D)."""

        def states() -> Tensor:
            run()
            return self._seen.pop()

        return states


def _cut(sentences: Tensor, padding: int) -> Tensor:
    """Cut sentences to the length of the shortest one, so that no padding is left."""
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
