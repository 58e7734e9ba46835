"""AdminInit: profile on the first batch, rescale, and let training go on."""

from __future__ import annotations

import functools
import inspect
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from admin_init._utils.atomic_files import move_whole
from admin_init.adapters.discovery import Sites, resolve_sites
from admin_init.admin_profile import AdminProfile
from admin_init.callbacks import checks
from admin_init.callbacks.lightning_compat import (
    Callback,
    clone_batch,
    is_overridden,
    logging_disabled,
    wrap_hook_once,
)
from admin_init.callbacks.optimizer_groups import spare_from_weight_decay
from admin_init.callbacks.report import log_profile
from admin_init.distributed import Ranks, profile_ranks
from admin_init.errors import ProfileError, UnsupportedModelError
from admin_init.folding import folded
from admin_init.omega import Rule, check_rule
from admin_init.profiling import Forward
from admin_init.rescale import apply_, install_, train_omegas_
from admin_init.sites import ResidualSite

if TYPE_CHECKING:
    import pytorch_lightning as pl

PROFILE_FILE = "admin_profile.json"
FOLDED_FILE = "folded.ckpt"


class AdminInit(Callback):
    """Admin initialization (Liu et al. 2020, arXiv 2004.08249) for any Post-LN model.

    Before training, every residual connection ``x + f(x)`` gets an omega, ``omega * x + f(x)``,
    a trainable vector of D channels. The first training batch is passed once through the model,
    without gradients, and each omega is set to what the branches before it add up to. Training
    then goes on with that same batch, exactly as if the omegas had been loaded from a file.

    The profile is logged to every logger, kept in the checkpoints, and written beside them as
    ``admin_profile.json``. A resumed run keeps its omegas and does not profile again, unless its
    checkpoint was saved before the first update and before any profile; that one is profiled.

    Args:
        rule: How omegas follow from variances, see :func:`admin_init.omega.omega_from_variances`.
        sites: The residual connections, or patterns of their names, see
            :func:`admin_init.named_sites`; by default those of known layers.
        profile: An :class:`AdminProfile`, or the path of one, to apply instead of profiling.
        forward: Called as ``forward(pl_module, batch)`` to profile. By default the module's own
            ``training_step`` is, with its logging switched off; a module with manual optimization
            needs one, because its training step would also train.
        trainable: Whether omega is trained. The first one of each stack never is.
        weight_decay: Whether the optimizer's weight decay applies to omega.
        force: Profile also a model that looks trained: norm gains not 1, biases not 0, or omegas
            not 1. Rescaling changes the function that it learned.
        fold_on_end: Also write, where the training ends, ``folded.ckpt`` beside the checkpoints:
            the last weights without omegas, for the same module without this callback. It is
            checked on the last batch, see :func:`admin_init.folding.folded`. The module itself,
            and the checkpoints to resume from, keep their omegas.

    Raises:
        ValueError: ``rule`` is unknown, or ``sites`` is empty.
        UnsupportedModelError: In ``setup``, if the model has no Post-LN layer of a known family.
        TrainedModelError: Before the first batch, if the model looks trained.
        ProfileError: Before the first step, if the model cannot be profiled.

    Example::

        trainer = pl.Trainer(callbacks=[AdminInit()])
        trainer.fit(model, data)
    """

    def __init__(
        self,
        *,
        rule: Rule = "reference",
        sites: Sites | None = None,
        profile: AdminProfile | str | os.PathLike[str] | None = None,
        forward: Forward | None = None,
        trainable: bool = True,
        weight_decay: bool = False,
        force: bool = False,
        fold_on_end: bool = False,
    ) -> None:
        check_rule(rule)
        if sites is not None and not sites:
            raise ValueError("`sites` must name at least one residual connection, but is empty.")
        self.rule = rule
        self.sites = sites
        self.given = profile
        self.forward = forward
        self.trainable = trainable
        self.weight_decay = weight_decay
        self.force = force
        self.fold_on_end = fold_on_end
        self.profile: AdminProfile | None = None
        """The profile in force, from the first batch on."""
        self._settled = False
        self._resumed = False
        self._loaded = False
        self._last_batch: tuple[Any, int] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Install omega = 1, at the latest when the module has built its layers."""
        checks.check_trainer(trainer, self)
        if stage == "fit":
            if self.given is not None and not isinstance(self.given, AdminProfile):
                self.given = AdminProfile.load(self.given)
            if self.forward is None and (self.given is None or self.fold_on_end):
                checks.check_training_step(pl_module)
            if self.fold_on_end:
                checks.check_fold(trainer)
            self._settled = self._loaded = False
            wrap_hook_once(pl_module, "configure_optimizers", self._configure_optimizers)
        self._install(pl_module, complete=False)
        builds_later = is_overridden(pl_module, "configure_model")
        wrap_hook_once(
            pl_module, "setup", functools.partial(self._after, complete=not builds_later)
        )
        if builds_later:
            wrap_hook_once(
                pl_module, "configure_model", functools.partial(self._after, complete=True)
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep omega out of weight decay, unless it is asked for."""
        if not self.weight_decay:
            sites = resolve_sites(pl_module, self.sites)
            omegas = [site.omega for site in sites if site.omega is not None]
            for optimizer in trainer.optimizers:
                spare_from_weight_decay(optimizer, omegas)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Rescale on the first batch of a run that no profile has set up."""
        if self.fold_on_end:
            self._last_batch = batch, batch_idx
        if self._settled:
            return
        self._settled = True
        sites = resolve_sites(pl_module, self.sites)
        if self._goes_on(trainer, sites):
            return
        checks.warn_unoptimized(trainer, sites)
        if not self.force:
            checks.check_untrained(sites)
        if self.sites is None:
            checks.warn_unsupported_layers(pl_module)
        profile = self.given
        if not isinstance(profile, AdminProfile):
            profile = self._measure(trainer, pl_module, sites, batch, batch_idx)
        apply_(pl_module, profile, sites=sites)
        self.profile = profile
        for callback in checks.averaging(getattr(trainer, "callbacks", [])):
            # Its copy is one of the model at omega = 1, and may count in the average already.
            callback.setup(trainer, pl_module, "fit")
        log_profile(trainer.loggers, profile)
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder and trainer.is_global_zero:
            profile.save(Path(folder) / PROFILE_FILE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the folded checkpoint, if it is asked for."""
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if not folder or self._last_batch is None:
            return
        batch, batch_idx = self._last_batch
        path = Path(folder) / FOLDED_FILE
        # The same on all ranks, which may write it together, and nobody else's.
        token = trainer.strategy.broadcast(secrets.token_hex(8))
        part = path.with_name(f".{FOLDED_FILE}.{token}.part")

        def run() -> object:
            # In the precision of the weights, in which the fold is exact.
            exact = torch.autocast(pl_module.device.type, enabled=False)
            with trainer.precision_plugin.train_step_context(), exact:
                return self._step(pl_module, pl_module.training_step, batch, batch_idx)

        with logging_disabled(trainer, pl_module), folded(pl_module, run, sites=self.sites):
            trainer.save_checkpoint(part, weights_only=True)
        if trainer.is_global_zero:
            move_whole(part, path)
        self._last_batch = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse a checkpoint with omegas that the model would drop silently."""
        ours = pl_module.state_dict().keys()
        lost = [
            key
            for key in checkpoint.get("state_dict", {})
            if key.endswith(".omega") and key not in ours
        ]
        if lost:
            raise ProfileError(
                f"The checkpoint has {len(lost)} omegas that this model has no place for "
                f"({lost[0]} ...). Load it into the architecture that it was trained with."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the profile, as primitives."""
        return {"profile": None if self.profile is None else self.profile.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the profile of the run that is resumed."""
        saved = state_dict.get("profile")
        self.profile = None if saved is None else AdminProfile.from_dict(saved)
        self._loaded = True

    def _goes_on(self, trainer: pl.Trainer, sites: list[ResidualSite]) -> bool:
        """Return whether this run keeps its initial omegas; warn if no profile set them."""
        if trainer.global_step == 0 and not self._resumed:
            return False
        if self.profile is not None:
            return True
        plain = all((site.omega == 1).all() for site in sites if site.omega is not None)
        anew = trainer.global_step == 0 and plain
        if trainer.is_global_zero:
            checks.warn_no_profile(trainer.global_step, plain=plain, anew=anew)
        return not anew

    def _measure(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        sites: list[ResidualSite],
        batch: Any,
        batch_idx: int,
    ) -> AdminProfile:
        batch = clone_batch(batch)

        def run() -> None:
            with trainer.precision_plugin.train_step_context():
                self._step(pl_module, trainer.strategy.training_step, batch, batch_idx)

        ranks = Ranks(
            count=trainer.world_size,
            total=functools.partial(trainer.strategy.reduce, reduce_op="sum"),
            broadcast=trainer.strategy.broadcast,
            device=trainer.strategy.root_device,
        )
        with logging_disabled(trainer, pl_module):
            return profile_ranks(pl_module, sites, run, rule=self.rule, ranks=ranks)

    def _step(
        self,
        pl_module: pl.LightningModule,
        training_step: Callable[..., object],
        batch: Any,
        batch_idx: int,
    ) -> object:
        if self.forward is not None:
            return self.forward(pl_module, batch)
        # Lightning passes the index only to a step that takes it.
        parameters = inspect.signature(pl_module.training_step).parameters.values()
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        takes = 2 if variadic else len(parameters)
        return training_step(*(batch, batch_idx)[:takes])

    def _install(self, pl_module: pl.LightningModule, *, complete: bool) -> None:
        try:
            sites = resolve_sites(pl_module, self.sites)
            if not complete and any(site.norm_weight.is_meta for site in sites):
                return  # An omega from before `to_empty` would be whatever is in memory.
            install_(pl_module, sites=sites)
            train_omegas_(sites, self.trainable)
        except UnsupportedModelError:
            if complete:
                raise

    def _after(
        self, pl_module: pl.LightningModule, hook: Callable[[], object], *, complete: bool
    ) -> object:
        result = hook()
        self._install(pl_module, complete=complete)
        return result

    def _configure_optimizers(
        self, pl_module: pl.LightningModule, hook: Callable[[], object]
    ) -> object:
        # Later, the finders of learning rate and batch size set a path of their own.
        self._resumed = pl_module.trainer.ckpt_path is not None
        if self._resumed and not self._loaded:
            self.profile = None  # It would be that of a run before, with this same callback.
        return hook()
