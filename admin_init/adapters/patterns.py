"""Residual sites by the names of a model's modules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from admin_init.adapters.branch_form import BranchSite
from admin_init.errors import UnsupportedModelError
from admin_init.sites import ResidualSite, link_stacks


@dataclass(frozen=True, kw_only=True)
class SitePattern:
    """Names the modules of a family of residual connections; ``*`` stands for the layer's index.

    Example::

        SitePattern(
            branch="layers.*.attention.dropout",
            linear="layers.*.attention.output",
            norm="layers.*.attention_norm",
        )
    """

    branch: str
    """The module whose output is the branch as it enters the sum; of a tuple, its first item."""
    linear: str
    """The nn.Linear in which the branch ends, which :func:`admin_init.fold_` divides by omega."""
    norm: str
    """The layer norm that takes the sum."""
    reader: str | None = None
    """A module whose first argument is x, the sub-layer's input. To be named where something comes
    between the branch's output and the sum that no module shows, such as ``F.dropout``: the branch
    is then measured as what the sum has beside x."""


def named_sites(model: nn.Module, patterns: Sequence[SitePattern]) -> list[ResidualSite]:
    """Find the sites that ``patterns`` describe, one pattern per sub-layer of a layer.

    Args:
        model: Any Post-LN model.
        patterns: In the order in which a layer runs its sub-layers. What stands before ``*`` names
            the stack. A pattern is found wherever in the model it is: ``layers.*.out`` names
            ``model.layers.0.out``, too.

    Returns:
        The sites, layer after layer, for the ``sites=`` of the functions that take them.

    Raises:
        UnsupportedModelError: A pattern matches nothing, or a module that it names is not there.

    Example::

        sites = named_sites(model, patterns)
        profile = admin_init.profile(model, [batch], sites=sites)
        admin_init.apply_(model, profile, sites=sites)
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    branches = [name for name, _ in model.named_modules()]
    found: list[tuple[str, int, int, ResidualSite]] = []
    problems: list[str] = []
    for order, pattern in enumerate(patterns):
        if pattern.branch.count("*") != 1:
            problems.append(f"`{pattern.branch}` needs one `*`, in place of the layer's index")
            continue
        expression = re.compile(r"((?:.+\.)?)" + re.escape(pattern.branch).replace(r"\*", r"(\d+)"))
        matches = [match for name in branches if (match := expression.fullmatch(name))]
        if not matches:
            problems.append(f"no module is named `{pattern.branch}`")
        for match in matches:
            branch, prefix, layer = match.group(0, 1, 2)
            parts = (pattern.linear, pattern.norm, pattern.reader)
            names = [prefix + part.replace("*", layer) for part in parts if part is not None]
            missing = [name for name in names if name not in modules]
            if missing:
                problems.append(f"there is no `{missing[0]}`")
                continue
            linear, norm, *reader = (modules[name] for name in names)
            if not isinstance(linear, nn.Linear):
                problems.append(f"`{names[0]}` is a {type(linear).__name__}, not an nn.Linear")
                continue
            stack = prefix + pattern.branch.partition("*")[0].rstrip(".").removesuffix(".layers")
            site = BranchSite(branch, stack, norm, modules[branch], linear, *reader)
            found.append((stack, int(layer), order, site))
    if problems:
        raise UnsupportedModelError(f"The sites cannot be found: {'; '.join(problems)}.")
    return link_stacks([site for *_, site in sorted(found, key=lambda item: item[:3])])
