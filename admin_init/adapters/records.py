"""Residual sites that a forward pass showed, found again without one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import nn

from admin_init._utils.atomic_files import read_json, write_json
from admin_init.adapters.branch_form import BranchSite, ModuleSite
from admin_init.adapters.stream_form import StreamSite
from admin_init.errors import AdminInitError, UnsupportedModelError
from admin_init.sites import BranchPlace, ResidualSite, SiteRecord

_ATTRIBUTE = "admin_site"  # :class:`ModuleSite` removes it


def save_sites(sites: Iterable[ResidualSite], path: str | os.PathLike[str]) -> None:
    """Write sites as JSON that a person can read and edit, for ``sites=path``.

    Args:
        sites: Sites from :func:`admin_init.find_sites` or :func:`admin_init.named_sites`.
        path: The file.

    Examples:
        >>> import torch
        >>> import admin_init
        >>> layer = nn.TransformerEncoderLayer(16, nhead=2, batch_first=True)
        >>> model = nn.TransformerEncoder(layer, num_layers=2)
        >>> batch = torch.randn(4, 10, 16)
        >>> admin_init.save_sites(admin_init.find_sites(model, batch), "sites.json")
        >>> profile = admin_init.initialize_(model, batch, sites="sites.json")
    """
    write_json(path, [_without_defaults(site.record()) for site in sites])


def load_sites(
    model: nn.Module, path: str | os.PathLike[str], known: Sequence[ResidualSite]
) -> list[ResidualSite]:
    """Read sites written by :func:`save_sites`.

    Raises:
        AdminInitError: There is no such file, or it is damaged or holds something else.
        UnsupportedModelError: The model has no such modules.
    """
    try:
        records = read_json(path, list[SiteRecord])
    except FileNotFoundError as error:
        raise AdminInitError(
            f"`sites` is {str(path)!r}, but there is no such file. Pass a list of SitePatterns or "
            "sites, or a file written by `save_sites`."
        ) from error
    if not records:
        raise AdminInitError(f"{path} holds no sites.")
    return sites_from_records(model, records, known)


def store_records(sites: Iterable[ResidualSite]) -> None:
    """Store beside each omega what a forward pass showed of its site.

    The records are copied and pickled with the model, but are not in its state dict.
    """
    for site in sites:
        if site.computed and site.holder is not None:
            setattr(site.holder, _ATTRIBUTE, site.record())


def stored_sites(model: nn.Module, known: Sequence[ResidualSite]) -> list[ResidualSite]:
    """Add to ``known`` the sites with stored records, and link those of both as recorded."""
    by_holder = {site.holder: site for site in known if site.holder is not None}
    found: list[tuple[ResidualSite, SiteRecord]] = []
    for name, module in model.named_modules():
        record = vars(module).get(_ATTRIBUTE)
        if not isinstance(record, SiteRecord):
            continue
        site = by_holder.get(module)
        if record.place is not None:
            record = _moved(record, _prefixes(record.place.branch, name))
            site = site or _site(model, record)
        elif site is None:
            continue
        else:
            record = _moved(record, _prefixes(record.name, site.name))
        found.append((site, record))
    _link(found)
    if not found:
        return list(known)
    return _by_chain(dict.fromkeys([*known, *(site for site, _ in found)]))


def sites_from_records(
    model: nn.Module, records: Sequence[SiteRecord], known: Sequence[ResidualSite]
) -> list[ResidualSite]:
    """Return the sites of ``records``, whose names may have another prefix than those of ``model``.

    Args:
        model: The model of the records, or one around it, or one inside it.
        records: The records, in the order of execution.
        known: The sites of layers of known families, which are used where a record has no place.

    Raises:
        UnsupportedModelError: The model has no such modules.
    """
    prefixes = _prefixes_in(model, records[0])
    by_name = {site.name: site for site in known}
    found: list[tuple[ResidualSite, SiteRecord]] = []
    for one in records:
        record = _moved(one, prefixes)
        site = by_name.get(record.name)
        try:
            if record.place is not None:
                site = _site(model, record)
            elif site is None:
                raise AttributeError(f"it has no layer of a known family at `{record.name}`")
        except AttributeError as error:
            raise UnsupportedModelError(
                f"The recorded site `{one.name}` does not fit {type(model).__name__}: {error}. "
                "Profile this model."
            ) from error
        found.append((site, record))
    _link(found)
    return [site for site, _ in found]


def copied_site(
    model: nn.Module, site: ResidualSite, old: str, new: str, known: Mapping[str, ResidualSite]
) -> ResidualSite | None:
    """Return the site of a module's copy that corresponds to a site of the module, if there is one.

    Args:
        model: The model of both.
        site: A site of the module.
        old: What the names of the module begin with.
        new: What the names of the copy begin with instead.
        known: Sites of the model, by name.
    """
    record = _moved(site.record(), (old, new))
    if record.name in known or record.place is None:
        return known.get(record.name)
    try:
        copy = _site(model, record)
    except AttributeError:
        return None  # its norm is outside of the module
    copy.stack = new + record.stack.removeprefix(old)
    return copy


def _site(model: nn.Module, record: SiteRecord) -> ModuleSite:
    assert record.place is not None
    kind = BranchSite if record.place.start is None else StreamSite
    return kind(model, record.name, record.stack, record.place)


def _without_defaults(record: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for one in fields(record):
        value = getattr(record, one.name)
        default = one.default_factory() if callable(one.default_factory) else one.default
        if value != default:
            values[one.name] = _without_defaults(value) if is_dataclass(value) else value
    return values


def _link(found: Sequence[tuple[ResidualSite, SiteRecord]]) -> None:
    by_name = {record.name: site for site, record in found}
    for site, record in found:
        site.name = record.name
        site.stack = record.stack
        site.previous = None if record.previous is None else by_name.get(record.previous)
        site.computed = True
        site.computed_fold_problem = record.fold_problem


def _moved(record: SiteRecord, prefixes: tuple[str, str]) -> SiteRecord:
    """Exchange the prefix of all names."""
    old, new = prefixes
    if old == new:
        return record

    def move(name: str | None) -> str | None:
        return None if name is None else new + name.removeprefix(old)

    place = record.place
    if place is not None:
        place = replace(
            place,
            branch=new + place.branch.removeprefix(old),
            norm=move(place.norm),
            container=move(place.container),
            linear=move(place.linear),
            weights={new + name.removeprefix(old): axis for name, axis in place.weights.items()},
        )
    name = new + record.name.removeprefix(old)
    return replace(record, name=name, previous=move(record.previous), place=place)


def _prefixes(old: str, new: str) -> tuple[str, str]:
    """Return what stands before the longest common end of two names."""
    left, right = old.split("."), new.split(".")
    while left and right and left[-1] == right[-1]:
        left.pop()
        right.pop()
    return "".join(f"{part}." for part in left), "".join(f"{part}." for part in right)


def _prefixes_in(model: nn.Module, record: SiteRecord) -> tuple[str, str]:
    place: BranchPlace | None = record.place
    name = record.name.rpartition(".")[0] if place is None else place.branch
    names = [other for other, _ in model.named_modules()]
    parts = name.split(".")
    for start in range(len(parts)):
        tail = ".".join(parts[start:])
        fitting = [other for other in names if other == tail or other.endswith(f".{tail}")]
        if fitting:
            shortest = min(fitting, key=len)
            return name.removesuffix(tail), shortest.removesuffix(tail)
    return "", ""


def _by_chain(sites: Iterable[ResidualSite]) -> list[ResidualSite]:
    """Sort stack by stack, each from its first site on."""
    depths: dict[ResidualSite, int] = {}
    for site in sites:
        before, depth = site.previous, 0
        while before is not None:
            before, depth = before.previous, depth + 1
        depths[site] = depth
    stacks = list(dict.fromkeys(site.stack for site in depths))
    return sorted(depths, key=lambda site: (stacks.index(site.stack), depths[site]))
