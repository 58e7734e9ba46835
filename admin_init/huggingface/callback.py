"""AdminCallback: Admin initialization in the Trainer of Hugging Face's transformers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState
from typing_extensions import override

from admin_init._utils.isolation import copy_of
from admin_init.adapters.computation.sites import included
from admin_init.adapters.discovery import Sites, find_sites, known_sites, resolve_sites
from admin_init.adapters.pretrained import fold_when_saved_, save_as_is_
from admin_init.admin_profile import PROFILE_FILE, AdminProfile
from admin_init.callbacks.initialization.checks import (
    check_untrained,
    profiles_anew,
    warn_unoptimized,
)
from admin_init.callbacks.initialization.optimizer_groups import spare_from_weight_decay
from admin_init.errors import AdminInitError, FoldError, ProfileError
from admin_init.omega import OmegaRule, Rule
from admin_init.profiling.ranks import Ranks, profile_ranks
from admin_init.rescale import apply_, check_fold, fold_, install_, profiled_sites, train_omegas_
from admin_init.sites import ResidualSite


class AdminCallback(TrainerCallback, ExportableState):
    """Admin initialization (Liu et al. 2020, arXiv 2004.08249) in ``transformers.Trainer``.

    The residual connections are found when the Trainer is built, in one forward pass on
    ``example`` or on the model's ``dummy_inputs``, and get an omega of 1. The first training batch
    makes another one without gradients, each omega is set from the variances of the branches
    before it, and training goes on with the same batch.

    The checkpoints in ``output_dir`` hold the omegas, and the state of the Trainer the profile: a
    resumed run is not profiled again. The profile is also written to ``admin_profile.json`` in
    ``output_dir``. After the training, ``Trainer.save_model`` and ``save_pretrained`` write the
    folded weights of a plain model, see :func:`admin_init.install_`.

    Args:
        example: A batch of the model, on which the connections are found.
        rule: Formula for omega, see :func:`admin_init.omega.omega_from_variances`.
        share: For the rule ``share``: the share of a stack's input in the variance of its output,
            between 0 and 1; 0.5 by default.
        sites: Residual connections, as sites, as patterns of module names (see
            :func:`admin_init.named_sites`), or a file of :func:`admin_init.save_sites`.
        exclude: Patterns of connections to leave out, see :func:`admin_init.find_sites`.
        profile: An :class:`~admin_init.AdminProfile`, or the path of one, to apply instead of
            profiling.
        trainable: Whether omega is trained. The first omega of each stack is never trained.
        weight_decay: Whether the optimizer's weight decay applies to omega.
        force: Also profile a model that looks trained, see :class:`~admin_init.AdminInit`.

    Raises:
        ValueError: ``rule`` is unknown, or ``share`` does not fit it.
        UnsupportedModelError: When the Trainer is built, if Admin can rescale no connection.
        AdminInitError: When the Trainer is built, if the callback is untested with its settings.
        ProfileError: Before the first update, if the model cannot be profiled.
        TrainedModelError: Before the first update, if the model looks trained.

    Examples:
        >>> from transformers import Trainer
        >>> from admin_init.huggingface import AdminCallback
        >>> trainer = Trainer(model, args, callbacks=[AdminCallback()])  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    def __init__(
        self,
        *,
        example: Any = None,
        rule: Rule = "reference",
        share: float | None = None,
        sites: Sites | None = None,
        exclude: Sequence[str] = (),
        profile: AdminProfile | str | os.PathLike[str] | None = None,
        trainable: bool = True,
        weight_decay: bool = False,
        force: bool = False,
    ) -> None:
        self.example = example
        self.rule = rule
        self.share = OmegaRule(rule, share).share
        self.sites = sites
        self.exclude = exclude
        self.given = (
            profile if isinstance(profile, AdminProfile | None) else AdminProfile.load(profile)
        )
        self.trainable = trainable
        self.weight_decay = weight_decay
        self.force = force
        self.profile: AdminProfile | None = None
        """The applied profile; None before the first batch."""

    @override
    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the residual connections, and give each an omega of 1."""
        _check_settings(args)
        self.profile = None  # that of another Trainer's model
        model = kwargs["model"]
        sites = self._find(model)
        install_(model, sites=sites)
        train_omegas_(sites, self.trainable)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prepare the profile of the first batch, unless the run resumes."""
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        sites = [site for site in known_sites(model) if site.installed]
        if not sites:
            raise ProfileError(
                f"{type(model).__name__} has no omega. Pass AdminCallback to the Trainer in "
                "`callbacks=`, which adds them before the optimizer is built. A `model_init` has "
                "to add them itself: `return admin_init.install_(model, sites=...)`."
            )
        save_as_is_(model)  # a checkpoint without omegas could not be resumed exactly
        if not self.weight_decay:
            omegas = [site.omega for site in sites if site.omega is not None]
            spare_from_weight_decay(optimizer, omegas)
        self.profile = _saved_profile(state) or self.profile
        # The Trainer saves the states only of callbacks that the resumed run had.
        _states(state).setdefault(type(self).__name__, self.state())
        if self.profile is not None:
            return
        if state.global_step > 0:
            profiles_anew(state.global_step, sites, warn=state.is_world_process_zero)
            return
        warn_unoptimized([optimizer], sites)
        if not self.force:
            check_untrained(sites)
        first = _FirstPass(self, sites, args)
        first.handle = model.register_forward_pre_hook(first, with_kwargs=True, prepend=True)

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Let ``save_pretrained`` fold the omegas from now on."""
        fold_when_saved_(kwargs["model"], fold_)

    @override
    def state(self) -> dict[str, Any]:
        """Return the profile and the settings as primitives."""
        settings = ("rule", "share", "trainable", "weight_decay", "force")
        profile = None if self.profile is None else self.profile.to_dict()
        return {
            "args": {name: getattr(self, name) for name in settings},
            "attributes": {"profile": profile},
        }

    def _find(self, model: nn.Module) -> list[ResidualSite]:
        if self.sites is not None:
            return included(resolve_sites(model, self.sites), self.exclude)
        if self.given is not None:
            return profiled_sites(model, self.given)
        example = getattr(model, "dummy_inputs", None) if self.example is None else self.example
        if example is None:
            raise ProfileError(_NO_EXAMPLE.format(type(model).__name__, "has no `dummy_inputs`"))
        device = next(model.parameters()).device
        moved = tree_map(
            lambda item: item.to(device) if isinstance(item, Tensor) else item, example
        )
        try:
            return find_sites(model, moved, exclude=self.exclude, rule=self.rule)
        except AdminInitError:
            raise
        except Exception as error:
            failed = f"failed on them: {type(error).__name__}: {error}"
            raise ProfileError(_NO_EXAMPLE.format(type(model).__name__, failed)) from error


_NO_EXAMPLE = (
    "AdminCallback looks for the residual connections of {} in one forward pass on its "
    "`dummy_inputs`, but the model {}. Pass a batch of it, `AdminCallback(example=batch)`, or "
    "`sites=`."
)


class _FirstPass:
    """A hook that profiles a model on what its first call in train mode is given."""

    def __init__(
        self, callback: AdminCallback, sites: Sequence[ResidualSite], args: TrainingArguments
    ) -> None:
        self.handle: RemovableHandle | None = None
        self._callback = callback
        self._sites = sites
        self._args = args

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not model.training:
            return  # an evaluation before the first batch
        assert self.handle is not None
        self.handle.remove()
        callback = self._callback
        profile = callback.given
        if profile is None:

            def run() -> None:
                given, named = copy_of((args, kwargs))
                model(*given, **named)

            profile = profile_ranks(
                model,
                self._sites,
                run,
                rule=OmegaRule(callback.rule, callback.share),
                ranks=Ranks.of_process_group(self._args.device),
                given=callback.sites is not None,
                exclude=callback.exclude,
            )
        apply_(model, profile, sites=[s for s in self._sites if s.name not in profile.left_out])
        save_as_is_(model)  # as before
        _warn_unfoldable(model, self._sites)
        callback.profile = profile
        if self._args.process_index == 0:
            profile.save(Path(str(self._args.output_dir)) / PROFILE_FILE)


def _warn_unfoldable(model: nn.Module, sites: Sequence[ResidualSite]) -> None:
    try:
        check_fold(model, sites)
    except FoldError as error:
        warnings.warn(
            "After this training, `save_model` and `save_pretrained` will refuse to save the model "
            f"as a plain one; the checkpoints of the Trainer hold the omegas. {error}",
            stacklevel=2,
        )


def _saved_profile(state: TrainerState) -> AdminProfile | None:
    """Return the profile in the state of a Trainer, which it may have loaded."""
    saved = _states(state).get(AdminCallback.__name__)
    profile = saved["attributes"]["profile"] if isinstance(saved, dict) else None
    return None if profile is None else AdminProfile.from_dict(profile)


def _states(state: TrainerState) -> dict[str, Any]:
    states: Any = state.stateful_callbacks
    return states  # type: ignore[no-any-return]


def _check_settings(args: TrainingArguments) -> None:
    untested = {
        "fp16, where the profile may overflow": args.fp16,
        "FSDP": args.fsdp,
        "DeepSpeed": args.deepspeed,
        "DataParallel": args.n_gpu > 1,
    }
    for what, used in untested.items():
        if used:
            raise AdminInitError(
                f"AdminCallback has not been tested with {what}. Use float32 or bf16, on a single "
                "device or with DistributedDataParallel (torchrun)."
            )
