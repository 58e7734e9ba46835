"""AdminInit: a callback that profiles on the first training batch and rescales the model."""

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

    Before training, every residual connection ``x + f(x)`` becomes ``omega * x + f(x)``, where
    omega is a trainable vector of D channels. The first training batch makes one forward pass
    without gradients, and each omega is set from the variances of the branches before it. Training
    then starts with the same batch, exactly as if the omegas had been loaded from a file.

    The profile is logged to every logger, stored in the checkpoints, and written beside them as
    ``admin_profile.json``. A resumed run keeps its omegas and is not profiled again, unless its
    checkpoint is from before the first update and has no profile.

    Args:
        rule: Formula for omega, see :func:`admin_init.omega.omega_from_variances`.
        sites: Residual connections, as sites or as patterns of module names (see
            :func:`admin_init.named_sites`). Default: those of all layers of supported libraries.
        profile: An :class:`AdminProfile`, or the path of one, to apply instead of profiling.
        forward: Called as ``forward(pl_module, batch)`` to profile. By default,
            ``training_step`` is called with logging switched off. A module with manual optimization
            needs ``forward``, because its training step also updates the weights.
        trainable: Whether omega is trained. The first omega of each stack is never trained.
        weight_decay: Whether the optimizer's weight decay applies to omega.
        force: Also profile a model that looks trained (a norm gain is not 1, a norm bias is not 0,
            or an omega is not 1). Rescaling changes the function that the model learned.
        fold_on_end: Also write ``folded.ckpt`` beside the checkpoints when training ends: the final
            weights without omegas, for the same module without this callback. The fold is checked
            on the last batch, see :func:`admin_init.folding.folded`. The module and the other
            checkpoints keep their omegas.

    Raises:
        ValueError: ``rule`` is unknown, or ``sites`` is empty.
        UnsupportedModelError: In ``setup``, if the model has no Post-LN layer of a known family.
        TrainedModelError: Before the first batch, if the model looks trained.
        ProfileError: Before the first step, if the model cannot be profiled.

    Examples:
        >>> import pytorch_lightning as pl
        >>> from admin_init import AdminInit
        >>> trainer = pl.Trainer(callbacks=[AdminInit()])
        >>> trainer.fit(model, data)  # doctest: +SKIP
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
        """The applied profile; None before the first batch."""
        self._settled = False
        self._resumed = False
        self._loaded = False
        self._last_batch: tuple[Any, int] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Install omega = 1, or do so as soon as the module has built its layers."""
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
        """Exclude omega from weight decay, unless ``weight_decay`` is set."""
        if not self.weight_decay:
            sites = resolve_sites(pl_module, self.sites)
            omegas = [site.omega for site in sites if site.omega is not None]
            for optimizer in trainer.optimizers:
                spare_from_weight_decay(optimizer, omegas)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Profile and rescale on the first batch, unless the run resumes with a profile."""
        if self.fold_on_end:
            self._last_batch = batch, batch_idx
        if self._settled:
            return
        self._settled = True
        sites = resolve_sites(pl_module, self.sites)
        if self._keeps_omegas(trainer, sites):
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
            # Its copy of the model still has omega = 1, and may already count in the average.
            callback.setup(trainer, pl_module, "fit")
        log_profile(trainer.loggers, profile)
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder and trainer.is_global_zero:
            profile.save(Path(folder) / PROFILE_FILE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the folded checkpoint, if ``fold_on_end`` is set."""
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if not folder or self._last_batch is None:
            return
        batch, batch_idx = self._last_batch
        path = Path(folder) / FOLDED_FILE
        # Unique to this run but equal on all ranks, which may write the file together.
        token = trainer.strategy.broadcast(secrets.token_hex(8))
        part = path.with_name(f".{FOLDED_FILE}.{token}.part")

        def run() -> object:
            # The fold is exact in the precision of the weights.
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
        """Refuse a checkpoint whose omegas the model would silently ignore."""
        ours = pl_module.state_dict().keys()
        lost = [
            key
            for key in checkpoint.get("state_dict", {})
            if key.endswith(".omega") and key not in ours
        ]
        if lost:
            raise ProfileError(
                f"The checkpoint has {len(lost)} omegas that this model does not have "
                f"({lost[0]} ...). Load it into the architecture that it was trained with."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the profile as primitives."""
        return {"profile": None if self.profile is None else self.profile.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the profile of the resumed run."""
        saved = state_dict.get("profile")
        self.profile = None if saved is None else AdminProfile.from_dict(saved)
        self._loaded = True

    def _keeps_omegas(self, trainer: pl.Trainer, sites: list[ResidualSite]) -> bool:
        """Return whether to keep the loaded omegas; warn if the checkpoint has no profile."""
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
        # Like Lightning, pass the index only if the step accepts it.
        parameters = inspect.signature(pl_module.training_step).parameters.values()
        variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        takes = 2 if variadic else len(parameters)
        return training_step(*(batch, batch_idx)[:takes])

    def _install(self, pl_module: pl.LightningModule, *, complete: bool) -> None:
        try:
            sites = resolve_sites(pl_module, self.sites)
            if not complete and any(site.norm_weight.is_meta for site in sites):
                return  # `to_empty` would overwrite omega with uninitialized memory.
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
        # Read here: the learning-rate and batch-size finders change `ckpt_path` later.
        self._resumed = pl_module.trainer.ckpt_path is not None
        if self._resumed and not self._loaded:
            self.profile = None  # from an earlier run with this callback
        return hook()
