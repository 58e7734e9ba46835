"""Every base model of the installed transformers, found by what it computes, and by hand."""

from __future__ import annotations

import copy
import gc
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from _helpers.enumerated_huggingface import MODEL_TYPES, NotBuiltError, build
from _helpers.residuals_by_hand import Connection, Search, rescaled
from _helpers.watched_pass import floats
from torch import Tensor, nn

import admin_init
from admin_init import FoldError, NotPostLNError, UnsupportedModelError
from admin_init.adapters.discovery import find_sites
from admin_init.sites import ResidualSite

SERVED = "Hugging Face families"
OTHERS = "Other Hugging Face families"

KINDS = [
    "bert",  # an encoder
    "bart",  # an encoder-decoder
    "opt",  # a decoder whose config says Post-LN
    "openai-gpt",  # Conv1D at the ends of its branches
    "xlnet",  # einsum there
    "squeezebert",  # channels first
    "fnet",  # no weights there
    "deberta-v2",  # a norm of its own at the start
    "wav2vec2",  # of sound
    "detr",  # queries that are zero
    "swinv2",  # norms in the branches
    "ibert",  # sums that statistics for a quantization read
    "llama",  # Pre-LN
    "albert",  # one layer at all depths
]


@pytest.fixture(autouse=True)
def _one_model_at_a_time() -> Iterator[None]:
    yield
    gc.collect()


@pytest.mark.parametrize("model_type", KINDS)
def test_a_family_of_each_kind(model_type: str) -> None:
    table, _ = compared(*build(model_type))
    assert (table == SERVED) == (model_type not in ("llama", "albert", "swinv2", "ibert"))


@pytest.mark.slow
@pytest.mark.support
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_family(model_type: str, cells: Callable[..., None]) -> None:
    try:
        model, batch = build(model_type)
    except NotBuiltError as error:
        cells(OTHERS, model_type, outcome=f"not run: {_short(error)}")
        return
    table, columns = compared(model, batch)
    cells(table, model_type, **columns)


def compared(model: nn.Module, batch: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Compare a model with a computation by hand; return its cells, and the table they are for."""
    connections = Search(model, lambda: model(**batch)).connections()
    refused = ""
    by_norm = {connection.norm.module: connection for connection in connections}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            sites = find_sites(model, batch)
        except NotPostLNError:
            assert not connections
            return OTHERS, {"outcome": "Pre-LN"}
        except UnsupportedModelError as error:
            refused, sites = str(error), []
    if not sites:
        assert len(by_norm) <= _left_out(refused)
        return OTHERS, {"outcome": f"refused: {_short(refused)}"}
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
        columns["left out"] = _short(left_out[0].partition(": ")[2])
    return SERVED, columns


def _check_chain(
    site: ResidualSite, connection: Connection, kept: list[Connection], norms: dict[str, str]
) -> None:
    if connection.before not in kept:
        connection.before = None
    before = None if connection.before is None else connection.before.norm.module
    assert (None if site.previous is None else norms[site.previous.name]) == before


def _check_numbers(
    model: nn.Module, batch: dict[str, Any], kept: list[Connection], norms: dict[str, str]
) -> dict[str, Any]:
    plain = copy.deepcopy(model)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        profile = admin_init.initialize_(model, batch)
    omegas = {norms[site.name]: site.omega for site in profile.sites}
    _, expected = rescaled(plain, lambda: plain(**batch), kept)
    # A profile measures variances in float32.
    assert omegas == pytest.approx(expected, rel=1e-6)
    by_hand, _ = rescaled(plain, lambda: plain(**batch), kept, omegas)
    # Some norms compute in float32 whatever the type of the model.
    tolerance = 1e-5 if any(_rounds(model.get_submodule(norm)) for norm in omegas) else 1e-9
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
        return columns | {"fold": "refused: " + (reason[1] if reason else _short(error))}
    return columns | {"fold": _apart(_outputs(model, batch), rescaled_outputs, tolerance)}


def _outputs(model: nn.Module, batch: dict[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        torch.manual_seed(0)
        return floats(model(**batch))


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


def _short(message: object) -> str:
    return " ".join(str(message).split())[:150]
