"""Profile a LightningModule on a training batch, under the conditions of its training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from admin_init._utils.isolation import copy_of
from admin_init.adapters.computation.padding import Padding
from admin_init.admin_profile import AdminProfile
from admin_init.callbacks.lightning_compat import (
    logging_disabled,
    with_gradients_if_needed,
)
from admin_init.omega import OmegaRule
from admin_init.profiling.ranks import Ranks, profile_ranks
from admin_init.sites import ResidualSite

if TYPE_CHECKING:
    import pytorch_lightning as pl


def profile_on_batch(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    sites: Sequence[ResidualSite],
    step: Callable[[Any], object],
    batch: Any,
    *,
    rule: OmegaRule,
    given: bool,
    exclude: Sequence[str],
    padding: Padding | None,
) -> AdminProfile:
    """Profile a module on every rank's batch; all ranks get the same profile.

    The pass runs without gradients, unless the step needs them.

    Args:
        trainer: The trainer.
        pl_module: The module, whose ``sites`` are installed.
        sites: The residual sites.
        step: Makes one training step on a copy of ``batch``.
        batch: This rank's batch.
        rule: Rule for omega.
        given: Whether the user named the sites.
        exclude: Patterns of connections that the user left out.
        padding: Padding of this rank's batch, if it is left out of the variances.

    Raises:
        ProfileError: The module cannot be profiled.
        UnsupportedModelError: The module computes something else than the given sites.
    """
    ranks = Ranks(
        count=trainer.world_size,
        total=functools.partial(trainer.strategy.reduce, reduce_op="sum"),
        broadcast=trainer.strategy.broadcast,
        device=trainer.strategy.root_device,
    )
    # DDP would wait for a backward pass after a forward with gradients.
    unsynchronized = getattr(trainer.strategy.model, "no_sync", nullcontext)

    def measure(gradients: AbstractContextManager[object]) -> AdminProfile:
        def run() -> None:
            copied = copy_of(batch)
            with trainer.precision_plugin.train_step_context(), gradients, unsynchronized():
                step(copied)

        return profile_ranks(
            pl_module,
            sites,
            run,
            rule=rule,
            ranks=ranks,
            given=given,
            exclude=exclude,
            padding=padding,
        )

    with logging_disabled(trainer, pl_module):
        return with_gradients_if_needed(measure)
