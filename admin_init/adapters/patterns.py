"""Residual sites found by module names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from admin_init.adapters.branch_form import BranchSite
from admin_init.errors import UnsupportedModelError
from admin_init.sites import BranchPlace, ResidualSite, link_stacks


@dataclass(frozen=True, kw_only=True)
class SitePattern:
    """Module names of one sub-layer in every layer; ``*`` stands for the layer index.

    Examples:
        >>> pattern = SitePattern(
        ...     branch="layers.*.attention.dropout",
        ...     linear="layers.*.attention.output",
        ...     norm="layers.*.attention_norm",
        ... )
    """

    branch: str
    """The module whose output, or the first item of its output, is added to the shortcut."""
    norm: str
    """The norm whose input is the sum."""
    linear: str | None = None
    """The nn.Linear at the end of the branch, whose weight and bias :func:`admin_init.fold_`
    divides by omega. Only the fold needs it."""
    reader: str | None = None
    """Unused: both terms of the sum are measured where they are added."""


def named_sites(model: nn.Module, patterns: Sequence[SitePattern]) -> list[ResidualSite]:
    """Find the sites that match patterns of module names.

    Args:
        model: Any Post-LN model.
        patterns: One pattern per sub-layer of a layer, in the order of execution. The name before
            ``*`` becomes the name of the stack. A pattern matches at any depth of the model:
            ``layers.*.out`` also matches ``model.layers.0.out``.

    Returns:
        The sites, layer by layer, for the ``sites=`` argument of other functions.

    Raises:
        UnsupportedModelError: A pattern matches no module, or names a missing module.

    Examples:
        >>> from torch import nn
        >>> class Layer(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = nn.Linear(16, 16)
        ...         self.norm = nn.LayerNorm(16)
        ...
        ...     def forward(self, x):
        ...         return self.norm(x + self.linear(x))
        >>> pattern = SitePattern(branch="*.linear", linear="*.linear", norm="*.norm")
        >>> [site.name for site in named_sites(nn.Sequential(Layer(), Layer()), [pattern])]
        ['0.linear', '1.linear']
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
            names = {
                part: prefix + name.replace("*", layer)
                for part in ("norm", "linear", "reader")
                if (name := getattr(pattern, part)) is not None
            }
            missing = [name for name in names.values() if name not in modules]
            if missing:
                problems.append(f"there is no `{missing[0]}`")
                continue
            if any(branch == other.name for *_, other in found):
                problems.append(f"`{branch}` is named as the end of two branches")
                continue
            stack = prefix + pattern.branch.partition("*")[0].rstrip(".").removesuffix(".layers")
            place = BranchPlace(branch=branch, norm=names["norm"], linear=names.get("linear"))
            site = BranchSite(model, branch, stack, place)
            found.append((stack, int(layer), order, site))
    if problems:
        raise UnsupportedModelError(f"The sites cannot be found: {'; '.join(problems)}.")
    return link_stacks([site for *_, site in sorted(found, key=lambda item: item[:3])])
