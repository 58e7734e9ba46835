"""Admin as architectures of fairseq-train; importing this module registers them."""

from __future__ import annotations

import logging
import os
from argparse import ArgumentParser, Namespace
from typing import Any

import torch
from fairseq import checkpoint_utils, utils
from fairseq.distributed import utils as processes
from fairseq.file_io import PathManager
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer.transformer_legacy import (
    base_architecture,
    transformer_iwslt_de_en,
    transformer_wmt_en_de,
    transformer_wmt_en_de_big,
)
from torch import distributed, nn
from typing_extensions import override

from admin_init._utils.isolation import preserved
from admin_init.adapters.discovery import find_sites
from admin_init.admin_profile import AdminProfile
from admin_init.callbacks.initialization.checks import check_untrained
from admin_init.errors import NotPostLNError, TrainedModelError
from admin_init.omega import OmegaRule
from admin_init.profiling.ranks import Ranks, profile_ranks
from admin_init.rescale import apply_, install_

_log = logging.getLogger(__name__)


@register_model("transformer_admin")
class AdminTransformerModel(TransformerModel):  # type: ignore[misc]
    """fairseq's Post-LN Transformer with Admin initialization (arXiv 2004.08249).

    The model is profiled when it is built, on each rank's first training batch: at that time,
    ``fairseq-train`` has not yet wrapped it for several devices, copied it to half precision, or
    created the optimizer. Checkpoints store the omegas like all parameters. A run that resumes is
    not profiled again, unless its checkpoint is from before the first update and has no profile.

    fairseq's optimizers have one weight decay for all parameters, so ``--weight-decay`` also
    applies to omega, as in the code released with the paper.
    """

    @staticmethod
    @override
    def add_args(parser: ArgumentParser) -> None:
        """Add ``--admin-rule`` and ``--admin-share`` to the arguments of ``transformer``."""
        TransformerModel.add_args(parser)
        parser.add_argument(
            "--admin-rule",
            default="reference",
            choices=("reference", "paper", "share"),
            help="how omegas follow from the variances of the branches",
        )
        parser.add_argument(
            "--admin-share",
            type=float,
            help="share of a stack's input in the variance of its output, between 0 and 1, for "
            "--admin-rule share (default: 0.5)",
        )

    @classmethod
    @override
    def build_model(cls, args: Namespace, task: Any) -> AdminTransformerModel:
        """Build the model, and profile it unless it will load a checkpoint.

        Raises:
            NotPostLNError: The arguments ask for Pre-LN, in the encoder or in the decoder.
            ValueError: ``--admin-share`` is out of range, or ``--admin-rule`` is another one.
        """
        _check_post_ln(args)
        rule = OmegaRule(
            getattr(args, "admin_rule", "reference"), getattr(args, "admin_share", None)
        )
        model: AdminTransformerModel = super().build_model(args, task)
        install_(model)
        if not getattr(args, "admin_profiled", False) and _to_profile(model, args):
            profile = _profiled(model, task, args, rule)
            apply_(model, profile)
            _log.info(f"Admin: the omegas of the residual connections\n{profile}")
        # Checkpoints store the arguments, so a model built from one is not profiled again.
        args.admin_profiled = True
        return model


for name, architecture in {
    "transformer_admin": base_architecture,
    "transformer_admin_iwslt_de_en": transformer_iwslt_de_en,
    "transformer_admin_wmt_en_de": transformer_wmt_en_de,
    "transformer_admin_wmt_en_de_big": transformer_wmt_en_de_big,
}.items():
    register_model_architecture("transformer_admin", name)(architecture)


_distributed_main = processes.distributed_main


def distributed_main(*arguments: Any) -> None:
    """Start a process that fairseq spawned, from this module instead of fairseq's own.

    The process imports the module of its first function. It would otherwise import fairseq without
    the changes of :mod:`admin_init.fairseq` and without these architectures.
    """
    _distributed_main(*arguments)


processes.distributed_main = distributed_main


def _check_post_ln(args: Namespace) -> None:
    sides = [
        side for side in ("encoder", "decoder") if getattr(args, f"{side}_normalize_before", 0)
    ]
    if sides:
        options = " and ".join(f"--{side}-normalize-before" for side in sides)
        raise NotPostLNError(
            f"{args.arch} is Post-LN with Admin, but {options} asks for Pre-LN, which has no "
            "shortcut that Admin could rescale. Leave the option out, or train an architecture "
            "without `admin` in its name."
        )


def _checkpoint(args: Namespace) -> str | None:
    """Return the path that fairseq-train's ``load_checkpoint`` will load, or None."""
    path: str = getattr(args, "restore_file", "checkpoint_last.pt")
    if path == "checkpoint_last.pt":
        path = os.path.join(getattr(args, "save_dir", "checkpoints"), path)
        if not PathManager.exists(path):
            once, other = (getattr(args, x, None) for x in ("continue_once", "finetune_from_model"))
            path = once or other or path
    return path if PathManager.exists(path) else None


def _to_profile(model: nn.Module, args: Namespace) -> bool:
    """Return whether to profile: the run is new, or its checkpoint is of update 0 without profile.

    fairseq-train loads that checkpoint later; a hook then keeps the omegas of ``model``.
    """
    path = _checkpoint(args)
    if path is None:
        return True
    saved = checkpoint_utils.load_checkpoint_to_cpu(path)
    weights = saved["model"]
    if any((weights[name] != 1).any() for name in weights if name.endswith(".omega")):
        return False
    updates = (saved.get("optimizer_history") or [{}])[-1].get("num_updates", 0)
    found = f"Admin: {path}, of update {updates}, holds no profile: all its omegas are 1"
    model.load_state_dict(weights)
    try:
        check_untrained(find_sites(model))
    except TrainedModelError:
        updates = max(updates, 1)
    if updates:
        _log.warning(f"{found} and are kept, as in plain Post-LN.")
        return False

    def keep_omegas(model: nn.Module, loaded: dict[str, Any], prefix: str, *_: Any) -> None:
        handle.remove()
        named = model.state_dict(prefix=prefix).items()
        loaded.update((name, value) for name, value in named if name.endswith(".omega"))

    handle = model.register_load_state_dict_pre_hook(keep_omegas)  # type: ignore[no-untyped-call]
    _log.warning(f"{found}. The model is profiled now.")
    return True


def _profiled(model: nn.Module, task: Any, args: Namespace, rule: OmegaRule) -> AdminProfile:
    together = distributed.is_available() and distributed.is_initialized()
    ranks = distributed.get_world_size() if together else 1
    rank = distributed.get_rank() if together else 0
    on_gpu = torch.cuda.is_available() and not args.cpu
    device = torch.device("cuda" if on_gpu else "cpu")

    with preserved(model):  # creating a loader draws a random seed
        batch = _first_batch(model, task, args, ranks, rank)
    model.to(device)
    batch = utils.move_to_cuda(batch) if on_gpu else batch
    profile = profile_ranks(
        model,
        find_sites(model),
        lambda: model(**batch["net_input"]),
        rule=rule,
        ranks=Ranks.of_process_group(device),
    )
    model.to("cpu")  # where fairseq expects what it has built
    return profile


def _first_batch(model: Any, task: Any, args: Namespace, ranks: int, rank: int) -> Any:
    """Return the first training batch that fairseq's trainer gives to this rank."""
    loaded = dict(task.datasets)
    task.load_dataset(args.train_subset, combine=True, epoch=1)
    dataset = task.dataset(args.train_subset)
    task.datasets = loaded
    batches = task.get_batch_iterator(
        dataset=dataset,
        max_tokens=args.max_tokens,
        max_sentences=args.batch_size,
        max_positions=utils.resolve_max_positions(
            task.max_positions(), model.max_positions(), args.max_tokens
        ),
        ignore_invalid_inputs=True,
        required_batch_size_multiple=args.required_batch_size_multiple,
        seed=args.seed + 1 if args.update_ordered_indices_seed else args.seed,
        num_shards=ranks,
        shard_id=rank,
        epoch=1,
        skip_remainder_batch=args.skip_remainder_batch,
        grouped_shuffling=args.grouped_shuffling,
        disable_iterator_cache=True,
    )
    shuffle = args.curriculum < 1
    epoch = batches.next_epoch_itr(fix_batches_to_gpus=args.fix_batches_to_gpus, shuffle=shuffle)
    # With fewer batches than ranks, the trainer also gives `first_batch` to the remaining ranks.
    return next(iter(epoch)) or batches.first_batch
