"""Omegas of a LightningModule before its training starts, whatever its layers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, IterableDataset

from admin_init._utils.isolation import preserved
from admin_init.adapters.computation.sites import included
from admin_init.adapters.discovery import Forward, Sites, find_sites, known_sites, resolve_sites
from admin_init.admin_profile import AdminProfile
from admin_init.callbacks.lightning_compat import (
    is_overridden,
    logging_disabled,
    with_gradients_if_needed,
    wrap_hook_once,
)
from admin_init.errors import AdminInitError, ProfileError, UnsupportedModelError
from admin_init.omega import Rule
from admin_init.rescale import install_, profiled_sites, train_omegas_
from admin_init.sites import ResidualSite

if TYPE_CHECKING:
    import pytorch_lightning as pl


class OmegaInstaller:
    """Adds omega = 1 to a module before its checkpoint is loaded and its optimizers are built.

    Layers of known families have them in ``setup``. Of a module without such layers, a given
    profile shows the sites, or else one forward pass; or else the checkpoint.

    Args:
        sites: As for AdminInit.
        exclude: As for AdminInit.
        trainable: Whether omega is trained.
        profile: The profile that will be applied, if it is known.
        rule: The rule for omega.
        step: Called as ``step(pl_module, batch)`` to make a forward pass on a training batch.
    """

    def __init__(
        self,
        *,
        sites: Sites | None,
        exclude: Sequence[str],
        trainable: bool,
        profile: AdminProfile | None,
        rule: Rule,
        step: Forward,
    ) -> None:
        self._sites = sites
        self._exclude = exclude
        self._trainable = trainable
        self._profile = profile
        self._rule = rule
        self._step = step
        self._unfound: AdminInitError | None = None
        self._undo: list[Callable[[], None]] = []

    def attach(self, pl_module: pl.LightningModule) -> None:
        """Install what is there, and the rest as soon as the module has built its layers."""
        self._install(pl_module, complete=False)
        builds_later = is_overridden(pl_module, "configure_model")
        hooks: dict[str, Callable[..., object]] = {
            "setup": partial(self._after, complete=not builds_later),
            "on_load_checkpoint": self._on_load,
        }
        if builds_later:
            hooks["configure_model"] = partial(self._after, complete=True)
        self._undo = [wrap_hook_once(pl_module, hook, wrapper) for hook, wrapper in hooks.items()]

    def detach(self) -> None:
        """Leave the module's hooks as they were."""
        while self._undo:
            self._undo.pop()()

    def finish(self) -> None:
        """Raise the error of a forward pass that found no sites, if no checkpoint had them."""
        self.detach()
        if self._unfound is not None:
            raise self._unfound

    def _install(self, pl_module: pl.LightningModule, *, complete: bool) -> None:
        try:
            sites = included_sites(pl_module, self._sites, self._exclude)
        except UnsupportedModelError:
            if not complete:
                return
            if self._sites is not None:
                raise
            sites = self._unknown_sites(pl_module)
        if not complete and any(site.template.is_meta for site in sites):
            return  # `to_empty` would overwrite omega with uninitialized memory.
        install_(pl_module, sites=sites)
        train_omegas_(sites, self._trainable)

    def _unknown_sites(self, pl_module: pl.LightningModule) -> list[ResidualSite]:
        if self._profile is not None:
            return profiled_sites(pl_module, self._profile)
        if pl_module.trainer.state.fn != "fit":
            return []  # the checkpoint has them, if there is one
        try:
            return look(pl_module.trainer, pl_module, self._step, self._exclude, self._rule)
        except AdminInitError as error:
            self._unfound = error
            return []

    def _after(
        self, pl_module: pl.LightningModule, hook: Callable[[], object], *, complete: bool
    ) -> object:
        result = hook()
        self._install(pl_module, complete=complete)
        return result

    def _on_load(self, pl_module: pl.LightningModule, hook: partial[object]) -> object:
        profile = AdminProfile.from_checkpoint(hook.args[0])
        if self._sites is None and profile and any(site.site for site in profile.sites):
            self._unfound = None
            for site in known_sites(pl_module):
                if site.place is not None and site.installed:
                    site.uninstall_()
            sites = profiled_sites(pl_module, profile)
            install_(pl_module, sites=sites)
            train_omegas_(sites, self._trainable)
        return hook()


def included_sites(
    model: nn.Module, sites: Sites | None, exclude: Sequence[str]
) -> list[ResidualSite]:
    """Return the sites of a ``sites=`` argument, without those that a pattern excludes."""
    return included(resolve_sites(model, sites), exclude)


def look(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    step: Forward,
    exclude: Sequence[str] = (),
    rule: Rule = "reference",
) -> list[ResidualSite]:
    """Find the sites in one forward pass on ``example_input_array`` or the first training batch.

    Nothing of it shows afterwards: the loaders start anew, and the first training batch is still
    the first.

    Args:
        trainer: The trainer.
        pl_module: The module, which has built its layers.
        step: Called as ``step(pl_module, batch)`` on a training batch.
        exclude: Patterns of connections to leave out, see :func:`admin_init.find_sites`.
        rule: The rule for omega.

    Raises:
        ProfileError: The pass fails, or a loader can be read only once.
        UnsupportedModelError: Admin can rescale no connection.
    """
    example = pl_module.example_input_array
    if example is None:
        trainer.fit_loop.setup_data()  # may draw random numbers, now instead of later
    with preserved(pl_module), logging_disabled(trainer, pl_module):
        try:
            if example is not None:
                return find_sites(pl_module, example, exclude=exclude, rule=rule)
            batch = first_batch(trainer, pl_module)

            def find(gradients: AbstractContextManager[object]) -> list[ResidualSite]:
                def forward(model: Any, batch: Any) -> None:
                    with gradients:
                        step(model, batch)

                return find_sites(pl_module, batch, forward=forward, exclude=exclude, rule=rule)

            return with_gradients_if_needed(find)
        except AdminInitError:
            raise
        except Exception as error:
            raise ProfileError(
                f"AdminInit looked for the residual connections of {type(pl_module).__name__} in "
                f"a pass before the training, which failed: {type(error).__name__}: {error}. Set "
                "`example_input_array` in the module, or pass `forward=` or `sites=`."
            ) from error


def first_batch(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
    """Return what will be the first training batch, from copies of the loaders."""
    batch = tree_map(_first, trainer.train_dataloader)
    return trainer.strategy.batch_to_device(batch, pl_module.device)


def _first(loader: Any) -> Any:
    if isinstance(loader, DataLoader):
        # Samplers, generators and iterable datasets keep their place. Others are large.
        shared = loader.dataset
        memo = {} if isinstance(shared, IterableDataset) else {id(shared): shared}
        try:
            loader = copy.deepcopy(loader, memo)
        except Exception as error:
            raise ProfileError(_once(loader)) from error
        loader.num_workers = loader.timeout = 0  # one batch is not worth starting them
    iterator = iter(loader)
    if iterator is loader:
        raise ProfileError(_once(loader))
    return next(iterator)


def _once(loader: object) -> str:
    return (
        f"AdminInit looks for residual connections on the first training batch, but the training's "
        f"{type(loader).__name__} can be read only once. Set `example_input_array` in the module, "
        "or pass `sites=`."
    )
