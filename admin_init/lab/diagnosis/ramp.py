"""The largest stable learning rate of a model, from one ramp of the learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch

from admin_init._utils.isolation import preserved
from admin_init.callbacks.initialization.optimizer_groups import spare_from_weight_decay
from admin_init.measures import RAMP_PEAK, LargestStableRate
from admin_init.scaled_skip import ScaledSkip
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.module import TranslationModule


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """Result of a ramp of the learning rate."""

    rate: float
    """The largest stable learning rate."""
    diverged_at: int | None
    """Index from 0 of the first diverged step; None if the training did not diverge."""
    reason: str | None
    """The sign of divergence, in plain language; None if the training did not diverge."""
    rates: list[float]
    """Learning rate of every step."""
    losses: list[float]
    """Label-smoothed training loss of every step, before its update, in nats per token."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def largest_stable_rate(
    module: TranslationModule,
    batches: Iterable[TranslationBatch],
    *,
    steps: int = 200,
    peak: float = RAMP_PEAK,
    restore: bool = True,
) -> Ramp:
    """Train with a learning rate that grows at every step, until the training diverges.

    The protocol of KEEL (arXiv 2601.19895), judged by
    :class:`admin_init.measures.LargestStableRate`: the rate is ``peak * n / steps`` at step n from
    1. The optimizer, label smoothing and dropout are those of ``module``; its schedule is not used,
    and gradients are neither clipped nor accumulated.

    Args:
        module: Module to train, at its initialization or already trained.
        batches: Training batches; iterated again when they run out.
        steps: Number of updates from a learning rate near 0 to the peak.
        peak: Last learning rate.
        restore: Restore weights, modes and random states afterwards.

    Returns:
        The ramp, up to the step at which the divergence is certain.

    Raises:
        ValueError: ``steps`` is below 1, ``peak`` is not positive, or ``batches`` run out and
            cannot be iterated again.
    """
    if steps < 1 or not peak > 0:
        raise ValueError(
            f"`steps` must be at least 1 and `peak` positive, but they are {steps} and {peak}."
        )
    if not restore:
        return _climb(module, batches, steps, peak)
    parameters = list(module.parameters())
    before = [(p.detach().clone(), p.grad) for p in parameters]
    with preserved(module):
        try:
            return _climb(module, batches, steps, peak)
        finally:
            with torch.no_grad():
                for parameter, (value, gradient) in zip(parameters, before, strict=True):
                    parameter.copy_(value)
                    parameter.grad = gradient


def _climb(
    module: TranslationModule, batches: Iterable[TranslationBatch], steps: int, peak: float
) -> Ramp:
    omegas = [m.omega for m in module.modules() if isinstance(m, ScaledSkip)]
    optimizer, _ = module.optimization.build(module.parameters())
    spare_from_weight_decay(optimizer, omegas)
    module.train()
    judge = LargestStableRate()
    rates, losses = [], []
    for step, batch in zip(range(1, steps + 1), _endless(batches), strict=False):
        rate = peak * step / steps
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        with torch.enable_grad():
            loss = module.loss(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        rates.append(rate)
        losses.append(loss.item())
        if judge.update(rate, losses[-1]):
            break
        optimizer.step()
    return Ramp(
        rate=judge.rate,
        diverged_at=judge.diverged_at,
        reason=judge.reason,
        rates=rates,
        losses=losses,
    )


def _endless(batches: Iterable[TranslationBatch]) -> Iterator[TranslationBatch]:
    while True:
        batch = None
        for batch in batches:
            yield batch
        if batch is None:
            raise ValueError(
                "`batches` ran out before the last step and cannot be iterated again. Pass a "
                "DataLoader or a list, or as many batches as `steps`."
            )
