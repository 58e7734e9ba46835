"""Padding positions of a batch, which a profile may leave out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from admin_init.adapters.computation.sites import is_excluded
from admin_init.errors import ProfileError
from admin_init.sites import ResidualSite

IgnorePadding = str | Callable[[Any], Tensor | Mapping[str, Tensor]]
"""Type of every ``ignore_padding=`` argument: a key of the batch whose value is 0 for padding, or a
function of the batch that returns a boolean mask, True for padding, or masks by patterns of
connections."""


class Padding:
    """Masks of the padding positions of one batch.

    Args:
        ignore_padding: See :data:`IgnorePadding`.
        batch: The batch.

    Raises:
        ProfileError: The batch has no such key, or a mask is not boolean, or is True everywhere.
    """

    def __init__(self, ignore_padding: IgnorePadding, batch: Any) -> None:
        if callable(ignore_padding):
            found = ignore_padding(batch)
        elif isinstance(batch, Mapping) and ignore_padding in batch:
            found = batch[ignore_padding] == 0
        else:
            raise ProfileError(
                f"`ignore_padding` is {ignore_padding!r}, but the batch, a {type(batch).__name__}, "
                "has no such key. Pass a function of the batch that returns a mask, True for "
                "padding."
            )
        self._single = not isinstance(found, Mapping)
        self._masks = found if isinstance(found, Mapping) else {"*": found}
        for mask in self._masks.values():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.all():
                given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
                raise ProfileError(
                    "`ignore_padding` must give boolean tensors, True for padding and False for at "
                    f"least one position, but gave {given}."
                )

    def check(self, sites: Sequence[ResidualSite]) -> None:
        """Raise a ProfileError if a single mask would have to serve several stacks."""
        stacks = dict.fromkeys(site.stack for site in sites)
        if self._single and len(stacks) > 1:
            raise ProfileError(
                f"The model has {len(stacks)} stacks ({', '.join(stacks)}), but `ignore_padding` "
                "gives one mask. Return a mapping from patterns of connections to masks, such as "
                '{"*encoder": source_padding, "*decoder": target_padding}, or {"*": mask} if all '
                "have the same."
            )

    def leave_out(self, site: ResidualSite, x: Tensor) -> Tensor:
        """Return the vectors of ``x`` that are no padding; all of ``x`` if no pattern fits.

        Raises:
            ProfileError: The mask does not fit ``x``, or fits it in several ways.
        """
        mask = next((m for key, m in self._masks.items() if is_excluded(site.name, [key])), None)
        if mask is None:
            return x
        mask = mask.to(x.device)
        # Of known families, the channels are the last axis.
        axes = range(x.dim() if site.place else 0) or [x.dim() - 1]
        fits = [
            (axis, view)
            for axis in axes
            if x.shape[axis] == site.width
            for view in ([mask, mask.mT] if mask.dim() == 2 else [mask])
            if view.shape == (*x.shape[:axis], *x.shape[axis + 1 :])
        ]
        if mask.dim() == x.dim() > 2:
            fits = [
                (axis, mask.squeeze(axis))
                for axis in axes
                if mask.shape == (*x.shape[:axis], 1, *x.shape[axis + 1 :])
            ]
        keeps = [(~view).unsqueeze(axis).expand_as(x) for axis, view in fits]
        if not keeps or any(not keep.equal(keeps[0]) for keep in keeps):
            raise ProfileError(
                f"A mask of padding of shape {tuple(mask.shape)} fits `{site.name}`, which adds "
                f"tensors of shape {tuple(x.shape)}, in {len(keeps) or 'no'} ways. Give a mask of "
                "its shape, with 1 in place of its channels (or, for two axes, without channels)."
            )
        return x[keeps[0]]


def padding_of(ignore_padding: IgnorePadding | None, batch: Any) -> Padding | None:
    """Return the masks of a batch; None if padding is not ignored."""
    return None if ignore_padding is None else Padding(ignore_padding, batch)
