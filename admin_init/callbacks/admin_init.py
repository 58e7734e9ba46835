"""AdminInit: a callback that profiles on the first training batch and rescales the model."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from admin_init.adapters.computation.padding import IgnorePadding, padding_of
from admin_init.adapters.discovery import Forward, Sites
from admin_init.admin_profile import PROFILE_FILE, AdminProfile
from admin_init.callbacks.initialization import checks
from admin_init.callbacks.initialization.folded_checkpoint import write_folded_checkpoint
from admin_init.callbacks.initialization.omega_installer import OmegaInstaller, included_sites
from admin_init.callbacks.initialization.optimizer_groups import spare_from_weight_decay
from admin_init.callbacks.initialization.profile_on_batch import profile_on_batch
from admin_init.callbacks.initialization.report import log_profile
from admin_init.callbacks.lightning_compat import (
    Callback,
    step_arguments,
    updates_held,
    wrap_hook_once,
)
from admin_init.omega import OmegaRule, Rule
from admin_init.rescale import apply_, check_fold, train_omegas_
from admin_init.sites import ResidualSite

if TYPE_CHECKING:
    import pytorch_lightning as pl


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
        share: For the rule ``share``: the share of a stack's input in the variance of its output,
            between 0 and 1; 0.5 by default.
        sites: Residual connections, as sites, as patterns of module names (see
            :func:`admin_init.named_sites`), or a file of :func:`admin_init.save_sites`. Default:
            those that the module computes.
        exclude: Patterns of connections to leave out, see :func:`admin_init.find_sites`.
        profile: An :class:`AdminProfile`, or the path of one, to apply instead of profiling.
        forward: Called as ``forward(pl_module, batch)`` to profile. By default,
            ``training_step`` is called with logging switched off and, with manual optimization,
            with optimizers and schedulers that do nothing.
        trainable: Whether omega is trained. The first omega of each stack is never trained.
        weight_decay: Whether the optimizer's weight decay applies to omega.
        force: Also profile a model that looks trained (a norm gain is not 1, a norm bias is not 0,
            or an omega is not 1). Rescaling changes the function that the model learned.
        fold_on_end: Also write ``folded.ckpt`` beside the checkpoints when training ends: the final
            weights without omegas, for the same module without this callback. The fold is checked
            on the last batch, see :func:`admin_init.folding.folded`. The module and the other
            checkpoints keep their omegas.
        ignore_padding: Leaves padding out of the variances: a key of the batch whose value is 0 for
            padding, such as ``"attention_mask"``, or a function of the batch that returns a boolean
            mask, True for padding, of shape (N, T), or a mapping from patterns of connections (as
            in ``exclude``) to masks. By default, padding counts, as in the authors' code.

    Raises:
        ValueError: ``rule`` is unknown, ``share`` does not fit it, or ``sites`` is empty.
        UnsupportedModelError: Before training, if Admin can rescale no residual connection.
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
        share: float | None = None,
        sites: Sites | None = None,
        exclude: Sequence[str] = (),
        profile: AdminProfile | str | os.PathLike[str] | None = None,
        forward: Forward | None = None,
        trainable: bool = True,
        weight_decay: bool = False,
        force: bool = False,
        fold_on_end: bool = False,
        ignore_padding: IgnorePadding | None = None,
    ) -> None:
        if sites is not None and not sites:
            raise ValueError("`sites` must name at least one residual connection, but is empty.")
        self.rule = rule
        self.share = OmegaRule(rule, share).share
        self.sites = sites
        self.exclude = exclude
        self.given = profile
        self.forward = forward
        self.trainable = trainable
        self.weight_decay = weight_decay
        self.force = force
        self.fold_on_end = fold_on_end
        self.ignore_padding = ignore_padding
        self.profile: AdminProfile | None = None
        """The applied profile; None before the first batch."""
        self._settled = False
        self._resumed = False
        self._loaded = False
        self._last_batch: tuple[Any, int] | None = None
        self._installer: OmegaInstaller | None = None
        self._unwrap: Callable[[], None] | None = None

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
        self._installer = OmegaInstaller(
            sites=self.sites,
            exclude=self.exclude,
            trainable=self.trainable,
            profile=self.given if isinstance(self.given, AdminProfile) else None,
            rule=self.rule,
            step=self._trial_step,
        )
        self._installer.attach(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Exclude omega from weight decay, unless ``weight_decay`` is set."""
        if not self.weight_decay:
            sites = self._sites(pl_module)
            omegas = [site.omega for site in sites if site.omega is not None]
            for optimizer in trainer.optimizers:
                spare_from_weight_decay(optimizer, omegas)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Profile and rescale on the first batch, unless the run resumes with a profile.

        This is done after the module's own hook, which Lightning calls after those of all
        callbacks.
        """
        if self.fold_on_end:
            self._last_batch = batch, batch_idx
        if not self._settled:
            if self._unwrap is not None:
                self._unwrap()  # of a batch that was skipped
            settle = functools.partial(self._settle, trainer, batch, batch_idx)
            self._unwrap = wrap_hook_once(pl_module, "on_train_batch_start", settle)

    def _settle(
        self,
        trainer: pl.Trainer,
        batch: Any,
        batch_idx: int,
        pl_module: pl.LightningModule,
        hook: Callable[[], object],
    ) -> object:
        skip = hook()
        if skip != -1:
            self._settled = True
            self._initialize(trainer, pl_module, batch, batch_idx)
        return skip

    def _initialize(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        sites = self._sites(pl_module)
        if self._keeps_omegas(trainer, sites):
            return
        checks.warn_unoptimized(trainer.optimizers, sites)
        if not self.force:
            checks.check_untrained(sites)
        rule = OmegaRule(self.rule, self.share)
        if self.sites is None and rule.share is None:
            checks.warn_unsupported_layers(pl_module)
        profile = self.given
        if not isinstance(profile, AdminProfile):
            profile = profile_on_batch(
                trainer,
                pl_module,
                sites,
                lambda batch: self._step(
                    pl_module, trainer.strategy.training_step, batch, batch_idx
                ),
                batch,
                rule=rule,
                given=self.sites is not None,
                exclude=self.exclude,
                padding=padding_of(self.ignore_padding, batch),
            )
        served = [site for site in sites if site.name not in profile.left_out]
        apply_(pl_module, profile, sites=served)
        if trainer.world_size == 1:  # DDP would miss the gradients of what it has wrapped
            train_omegas_([site for site in sites if site not in served], False)
            train_omegas_(served, self.trainable)
        self.profile = profile
        if self.fold_on_end:
            check_fold(pl_module, served)
        for callback in checks.averaging(getattr(trainer, "callbacks", [])):
            # Its copy of the model still has omega = 1, and may already count in the average.
            callback.setup(trainer, pl_module, "fit")
        log_profile(trainer.loggers, profile)
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        if folder and trainer.is_global_zero:
            profile.save(Path(folder) / PROFILE_FILE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the folded checkpoint, if ``fold_on_end`` is set."""
        if self._last_batch is not None:
            step = functools.partial(
                self._step, pl_module, pl_module.training_step, *self._last_batch
            )
            write_folded_checkpoint(trainer, pl_module, step, self._sites(pl_module))
        self._last_batch = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module's hooks as they were."""
        if self._installer is not None:
            self._installer.detach()
        if self._unwrap is not None:
            self._unwrap()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse a checkpoint whose omegas the model would silently ignore."""
        checks.check_loaded(pl_module, checkpoint)

    def state_dict(self) -> dict[str, Any]:
        """Return the profile as primitives."""
        return {"profile": None if self.profile is None else self.profile.to_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the profile of the resumed run."""
        saved = state_dict.get("profile")
        self.profile = None if saved is None else AdminProfile.from_dict(saved)
        self._loaded = True

    def _keeps_omegas(self, trainer: pl.Trainer, sites: list[ResidualSite]) -> bool:
        """Return whether to keep the loaded omegas."""
        expected = [] if self.profile is None else [site.omega for site in self.profile.sites]
        plain = all((site.omega == 1).all() for site in sites if site.omega is not None)
        # The trainer may have trained another model before.
        fresh = trainer.global_step == 0 or (plain and set(expected) != {1.0})
        if fresh and not self._resumed:
            return False
        return self.profile is not None or not checks.profiles_anew(
            trainer.global_step, sites, warn=trainer.is_global_zero
        )

    def _step(
        self,
        pl_module: pl.LightningModule,
        training_step: Callable[..., object],
        batch: Any,
        batch_idx: int,
    ) -> object:
        if self.forward is not None:
            return self.forward(pl_module, batch)
        with updates_held(pl_module.trainer, pl_module):
            return training_step(*step_arguments(pl_module, batch, batch_idx))

    def _sites(self, pl_module: pl.LightningModule) -> list[ResidualSite]:
        return included_sites(pl_module, self.sites, self.exclude)

    def _trial_step(self, pl_module: Any, batch: Any) -> object:
        with pl_module.trainer.precision_plugin.train_step_context():
            return self._step(pl_module, pl_module.training_step, batch, 0)

    def _configure_optimizers(
        self, pl_module: pl.LightningModule, hook: Callable[[], object]
    ) -> object:
        if self._installer is not None:
            self._installer.finish()
        # Read here: the learning-rate and batch-size finders change `ckpt_path` later.
        self._resumed = pl_module.trainer.ckpt_path is not None
        if self._resumed and not self._loaded:
            self.profile = None  # from an earlier run with this callback
        with checks.omega_explained():
            return hook()
