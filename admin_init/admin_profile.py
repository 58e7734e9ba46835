"""Profile of a model: the measured variances and the omegas computed from them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from admin_init._utils.atomic_files import parse_checked, write_checked
from admin_init._utils.typed_json import from_json
from admin_init._utils.version import __version__
from admin_init.errors import AdminInitError, ProfileError
from admin_init.omega import OmegaRule, Rule
from admin_init.sites import SiteRecord

PROFILE_FILE = "admin_profile.json"
"""File that a training run writes its profile to, beside its checkpoints."""

_ADDED: dict[str, Any] = {"share": None, "passes": 1, "initial_shares": {}}
"""Fields that files of earlier versions all lack, with the values that these mean."""


@dataclass(frozen=True)
class SiteProfile:
    """Profile of one residual connection."""

    name: str
    """Qualified name of the sub-layer, such as ``encoder.layers.0.self_attn``."""
    stack: str
    """Name of the chain of residual connections, such as ``encoder``."""
    variance: float
    """Var[f(x)]: variance of the branch as it enters the sum."""
    omega: float
    """Scale of the shortcut."""
    elements: int
    """Number of elements of the branch."""
    shortcut_variance: float = 1.0
    """Var[x]: variance of the shortcut before omega."""
    site: SiteRecord | None = None
    """Where it is, as the forward pass showed it."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the numbers."""
        if not (math.isfinite(self.omega) and self.omega > 0):
            yield f"omega of `{self.name}` must be positive, but is {self.omega}"
        if not (math.isfinite(self.variance) and self.variance >= 0):
            yield f"variance of `{self.name}` is {self.variance}"
        if not (math.isfinite(self.shortcut_variance) and self.shortcut_variance >= 0):
            yield f"shortcut variance of `{self.name}` is {self.shortcut_variance}"
        if self.elements < 0:
            yield f"`{self.name}` has {self.elements} elements"


@dataclass(frozen=True, kw_only=True)
class AdminProfile:
    """Omegas of a model and the variances from which they were computed.

    ``str(profile)`` is a table; ``profile.signature`` is one line with the settings.

    Examples:
        >>> site = SiteProfile("layers.0.ffn", "encoder", variance=0.5, omega=1.0, elements=640)
        >>> AdminProfile(sites=(site,)).signature
        'rule:reference|batches:1|elements:640|dtype:fp32|version:...'
    """

    sites: tuple[SiteProfile, ...]
    """The residual connections, in the order of execution."""
    rule: Rule = "reference"
    share: float | None = None
    """Share of the stack's input, for the rule ``share``."""
    batches: int = 1
    """Number of batches, over all ranks."""
    passes: int = 1
    """Number of forward passes for each batch, or the largest of these numbers."""
    initial_shares: dict[str, float] = field(default_factory=dict, hash=False)
    """For the rule ``share``: the share that the input of each stack has at omega = 1."""
    dtype: str = "fp32"
    """Type in which the branches were computed."""
    version: str = __version__
    """Version of this package that measured the profile."""
    left_out: tuple[str, ...] = ()
    """Names of the Post-LN connections that Admin cannot rescale."""

    def __post_init__(self) -> None:
        # A terminal would obey control characters.
        texts = [self.dtype, self.version]
        texts += [text for site in self.sites for text in (site.name, site.stack)]
        texts += [*self.left_out, *self.initial_shares]
        if unprintable := [text for text in texts if not text.isprintable()]:
            raise ProfileError(f"This is no valid profile: {unprintable[0]!a} cannot be printed.")
        problems = []
        try:
            rule = OmegaRule(self.rule, self.share)
        except AdminInitError as error:
            problems.append(str(error).rstrip("."))
        else:
            object.__setattr__(self, "share", rule.share)
        if not self.sites:
            problems.append("there are no sites")
        for name in ("batches", "passes"):
            if getattr(self, name) < 1:
                problems.append(f"`{name}` must be at least 1, but is {getattr(self, name)}")
        problems += [problem for site in self.sites for problem in site.problems()]
        if len({site.name for site in self.sites}) < len(self.sites):
            problems.append("two sites have the same name")
        if problems:
            raise ProfileError(f"This is no valid profile: {'; '.join(problems)}.")

    @property
    def elements(self) -> int:
        """Number of elements of all branches together."""
        return sum(site.elements for site in self.sites)

    @property
    def signature(self) -> str:
        """The settings in one line, to report beside a result as with sacreBLEU."""
        share = "" if self.share is None else f"|share:{self.share:g}|passes:{self.passes}"
        return (
            f"rule:{self.rule}{share}|batches:{self.batches}|elements:{self.elements}"
            f"|dtype:{self.dtype}|version:{self.version}"
        )

    def __str__(self) -> str:
        width = max(len(site.name) for site in self.sites)
        stack = max(5, *(len(site.stack) for site in self.sites))
        head = ("site", "stack", "Var[f]", "omega", "elements")
        rows = [
            "{:{}}  {:{}}  {:>10}  {:>8}  {:>10}".format(head[0], width, head[1], stack, *head[2:])
        ]
        rows += [
            f"{site.name:{width}}  {site.stack:{stack}}  {site.variance:10.4g}  {site.omega:8.4f}"
            f"  {site.elements:10d}"
            for site in self.sites
        ]
        if self.share is not None:
            rows += [
                f"{stack}: share of the input {before:.2g} -> {self.share:g}"
                for stack, before in self.initial_shares.items()
            ]
        return "\n".join([*rows, self.signature])

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of primitives for ``from_dict``, JSON and checkpoints."""
        lists = {"sites": [asdict(s) for s in self.sites], "left_out": list(self.left_out)}
        return {**asdict(self), **lists}

    @classmethod
    def from_dict(cls, values: Any) -> AdminProfile:
        """Build a profile from the dictionary of ``to_dict``.

        Raises:
            ProfileError: A field is missing, unknown or of the wrong type.
        """
        if isinstance(values, dict) and not values.keys() & _ADDED.keys():
            values = values | _ADDED
        try:
            return from_json(cls, values, complete=True)
        except ProfileError:
            raise
        except AdminInitError as error:
            raise ProfileError(str(error)) from error

    @classmethod
    def from_checkpoint(cls, checkpoint: Mapping[str, Any]) -> AdminProfile | None:
        """Return the profile that AdminInit stored in a checkpoint of Lightning, if there is one.

        Raises:
            ProfileError: It is damaged.
        """
        for state in (checkpoint.get("callbacks") or {}).values():
            saved = state.get("profile") if isinstance(state, Mapping) else None
            if saved is not None:
                return cls.from_dict(saved)
        return None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the profile atomically, as JSON with a checksum."""
        write_checked(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AdminProfile:
        """Read a profile written by :meth:`save`.

        Raises:
            ProfileError: The file does not exist or holds no profile.
        """
        try:
            return cls.from_dict(parse_checked(Path(path).read_bytes()))
        except FileNotFoundError as error:
            raise ProfileError(f"There is no profile at {path}.") from error
        except OSError as error:
            raise ProfileError(f"The profile {path} cannot be read: {error.strerror}.") from error
        except AdminInitError as error:
            raise ProfileError(f"{path} holds no profile of this package: {error}") from error
