"""Comparison of what Admin does to a model with a computation by hand."""

from __future__ import annotations

import copy
import re
import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import admin_init
from _helpers.residuals_by_hand import Connection, Search, rescaled
from _helpers.watched_pass import floats
from admin_init import FoldError, NotPostLNError, UnsupportedModelError
from admin_init.adapters.discovery import find_sites
from admin_init.sites import ResidualSite


def call_model(model: Callable[..., Any], batch: Any) -> Any:
    """Call a model with the items of a dict or tuple, or with the batch itself."""
    if isinstance(batch, dict):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


def compared(model: nn.Module, batch: Any) -> tuple[bool, dict[str, Any]]:
    """Compare the connections, omegas, outputs and fold of a model with a computation by hand.

    Args:
        model: A model in float64, without randomness. It is rescaled and folded.
        batch: A batch of it.

    Returns:
        Whether Admin serves it, and the cells of its row in a table.
    """
    connections = Search(model, lambda: call_model(model, batch)).connections()
    refused = ""
    by_norm = {connection.norm.module: connection for connection in connections}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            sites = find_sites(model, batch)
        except NotPostLNError:
            assert not connections
            return False, {"outcome": "Pre-LN"}
        except UnsupportedModelError as error:
            refused, sites = str(error), []
    if not sites:
        assert len(by_norm) <= _left_out(refused)
        return False, {"outcome": f"refused: {short(refused)}"}
    if all(site.norm is None for site in sites):
        assert not connections
        reason = "found, but the search by hand knows no norms that are functions"
        return False, {"outcome": f"{len(sites)} connections {reason}"}
    names = {module: name for name, module in model.named_modules()}
    norms = {site.name: names[site.norm] for site in sites if site.norm is not None}
    left_out = [str(w.message) for w in caught if "Admin leaves" in str(w.message)]
    assert set(norms.values()) <= set(by_norm)
    assert len(set(by_norm) - set(norms.values())) <= sum(map(_left_out, left_out))
    kept = [by_norm[norm] for norm in norms.values()]
    for site, connection in zip(sites, kept, strict=True):
        _check_chain(site, connection, kept, norms)
    columns: dict[str, Any] = {"connections": len(sites)}
    columns |= _check_numbers(model, batch, kept, norms)
    if left_out:
        columns["left out"] = short(left_out[0].partition(": ")[2])
    return True, columns


def _check_chain(
    site: ResidualSite, connection: Connection, kept: list[Connection], norms: dict[str, str]
) -> None:
    if connection.before not in kept:
        connection.before = None
    before = None if connection.before is None else connection.before.norm.module
    assert (None if site.previous is None else norms[site.previous.name]) == before


def _check_numbers(
    model: nn.Module, batch: Any, kept: list[Connection], norms: dict[str, str]
) -> dict[str, Any]:
    plain = copy.deepcopy(model)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = admin_init.initialize_(model, batch)
    omegas = {norms[site.name]: site.omega for site in profile.sites}
    _, expected = rescaled(plain, lambda: call_model(plain, batch), kept)
    # Some norms compute in float32 whatever the type of the model.
    tolerance = 1e-5 if any(_rounds(model.get_submodule(norm)) for norm in omegas) else 1e-9
    assert omegas == pytest.approx(expected, rel=tolerance)
    by_hand, _ = rescaled(plain, lambda: call_model(plain, batch), kept, omegas)
    columns = {
        "omega": f"{max(abs(omegas[norm] / expected[norm] - 1) for norm in omegas):.0e}",
        "rescaled outputs": _apart(_outputs(model, batch), by_hand, tolerance),
    }
    for site in find_sites(model):
        assert site.omega is not None
        nn.init.uniform_(site.omega, 1, 2)
    rescaled_outputs = _outputs(model, batch)
    try:
        admin_init.fold_(model)
    except FoldError as error:
        reason = re.search(r"cannot be folded, because (.*?)[;.]", str(error))
        return columns | {"fold": "refused: " + (reason[1] if reason else short(error))}
    return columns | {"fold": _apart(_outputs(model, batch), rescaled_outputs, tolerance)}


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    with torch.no_grad():
        torch.manual_seed(0)
        return floats(call_model(model, batch))


def _apart(given: list[Tensor], expected: list[Tensor], tolerance: float) -> str:
    """Return the largest difference, in parts of the largest value of its tensor."""
    largest = 0.0
    for tensor, other in zip(given, expected, strict=True):
        # Scores of what is masked are infinite.
        finite = other.isfinite()
        assert torch.equal(tensor[~finite], other[~finite])
        if finite.any() and other[finite].any():
            apart = (tensor - other)[finite].abs().max() / other[finite].abs().max()
            largest = max(largest, apart.item())
    assert largest <= tolerance
    return f"{largest:.0e}"


@torch.no_grad()
def _rounds(norm: nn.Module) -> bool:
    """Return whether a norm rounds float64 to float32."""
    width = max((parameter.numel() for parameter in norm.parameters()), default=8)
    try:
        output = norm(torch.randn(2, width, dtype=torch.float64))
    except Exception:
        return False  # one that takes the channels first
    return isinstance(output, Tensor) and torch.equal(output, output.float().double())


def _left_out(message: str) -> int:
    """Return the number of connections that a message names with the reason against them."""
    number = re.search(r"(?:none of the|Admin leaves) (\d+)", message)
    return int(number[1]) if number else 0


def short(message: object) -> str:
    return textwrap.shorten(str(message), 150, placeholder=" ...")
