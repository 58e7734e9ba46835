"""AdminInit under every strategy and in every precision: what is served, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from _helpers import strategy_runs
from _helpers.forked import together
from _helpers.small_lightning import module
from _helpers.strategy_runs import (
    DDP,
    FORMS,
    ONE_PROCESS,
    REFUSED,
    TRIED,
    Build,
    Module,
    inputs,
    size,
)
from pytorch_lightning import strategies
from pytorch_lightning.plugins import TransformerEnginePrecision
from pytorch_lightning.strategies import single_xla, xla
from torch import Tensor

import admin_init
from admin_init import AdminInit, AdminInitError, AdminProfile
from admin_init.adapters.discovery import resolve_sites
from admin_init.omega import Rule

TABLE = "Strategies and precision"
REFUSALS = "Refused strategies and precisions"

# Measured: 1e-7 in float32, 3e-4 in bfloat16, whose steps are of 4e-3 each.
TOLERANCE = {"32-true": 1e-6, "64-true": 1e-12, "bf16-mixed": 1e-3, "bf16-true": 1e-3}


def furthest(profile: AdminProfile, expected: AdminProfile) -> float:
    """Return the largest relative difference of an omega."""
    pairs = zip(profile.sites, expected.sites, strict=True)
    return max(abs(site.omega / other.omega - 1) for site, other in pairs)


def in_one_process(
    form: str, build: Build, batches: list[Tensor], rule: Rule = "reference"
) -> AdminProfile:
    """Profile in float64, without a Trainer."""
    model = Module(build).double()
    return admin_init.profile(
        model,
        [batch.double() for batch in batches],
        forward=lambda module, batch: module.model(batch),
        sites=resolve_sites(model, FORMS[form]),
        rule=rule,
    )


def check(form: str, build: Build, precision: str, ranks: list[dict[str, Any]]) -> float:
    """See that all ranks did as they should; return how far off one pass over their union is."""
    first = ranks[0]
    profile = AdminProfile.from_dict(first["profile"])
    assert profile.batches == len(ranks)
    for rank in ranks:
        assert rank["profile"] == first["profile"]
        assert all(map(torch.equal, rank["omegas"], first["omegas"]))
        assert rank["trained"] == [False] + [True] * strategy_runs.STEPS
        assert rank.get("as from a file") is (True if precision == "32-true" else None)
    dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(precision, torch.float32)
    for site, omega in zip(profile.sites, first["omegas"], strict=True):
        assert torch.equal(omega, torch.full((16,), site.omega, dtype=dtype))
    batches = [inputs(rank)[: size(rank)] for rank in range(len(ranks))]
    assert furthest(profile, in_one_process(form, build, batches)) < TOLERANCE[precision]
    # Averaging the ranks' variances leaves out how their means differ.
    distance = furthest(profile, in_one_process(form, build, [torch.cat(batches)]))
    assert distance < 1e-3
    return distance


@pytest.mark.support
@pytest.mark.parametrize("precision", TRIED)
@pytest.mark.parametrize("name", ONE_PROCESS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_one_process(name: str, precision: str, cells: Callable[..., None]) -> None:
    torch._dynamo.reset()
    build, settings = ONE_PROCESS[name]
    runs = {form: strategy_runs.run(form, build, precision, **settings) for form in FORMS}
    distances = [check(form, build, precision, [runs[form]]) for form in FORMS]
    cells(TABLE, name, **{precision: f"{max(distances):.1g}"})


@pytest.mark.support
@pytest.mark.parametrize("precision", REFUSED)
@pytest.mark.parametrize("name", ONE_PROCESS)
def test_one_process_in_fp16_is_refused(
    name: str, precision: str, cells: Callable[..., None]
) -> None:
    build, settings = ONE_PROCESS[name]
    message = strategy_runs.refusal(precision, build, **settings)
    assert message.startswith(f"AdminInit has not been tested in precision {precision}")
    cells(TABLE, name, **{precision: "refused"})
    cells(REFUSALS, precision, message=message)


@pytest.mark.support
@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_processes(processes: int, tmp_path: Path, cells: Callable[..., None]) -> None:
    together(strategy_runs.train_all, processes, str(tmp_path), ranks=processes)
    ranks = [
        torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(processes)
    ]
    for name in strategy_runs.rows(processes):
        build, *_ = DDP[name]
        row = f"{name}, {processes} processes"
        for precision in TRIED:
            distances = [
                check(
                    form, build, precision, [rank[f"{name}/{precision}/{form}"] for rank in ranks]
                )
                for form in FORMS
            ]
            cells(TABLE, row, **{precision: f"{max(distances):.1g}"})
        for precision in REFUSED:
            for rank in ranks:
                refusal = rank[f"{name}/{precision}"]
                assert refusal.startswith(f"AdminInit has not been tested in precision {precision}")
            cells(TABLE, row, **{precision: "refused"})
    for form in FORMS:
        check_share(form, [rank[f"share/{form}"] for rank in ranks])


def check_share(form: str, ranks: list[dict[str, Any]]) -> None:
    """See that every rank made passes of its own, and that all have the same omegas."""
    profile = AdminProfile.from_dict(ranks[0]["profile"])
    for rank in ranks:
        assert rank["profile"] == ranks[0]["profile"]
        assert all(map(torch.equal, rank["omegas"], ranks[0]["omegas"]))
        assert 3 <= rank["trained"].index(True) < 12
        assert rank["trained"].count(True) == strategy_runs.STEPS
        assert rank["as from a file"]
    assert profile.passes == ranks[0]["trained"].index(True)
    batches = [inputs(rank)[: size(rank)] for rank in range(len(ranks))]
    expected = in_one_process(form, DDP["DDP"][0], batches, "share")
    assert furthest(profile, expected) < 1e-5


UNTRIED: dict[str, Any] = {
    "FSDP": strategies.FSDPStrategy,
    "FSDP2": strategies.ModelParallelStrategy,
    "DeepSpeed": strategies.DeepSpeedStrategy,
    "XLA": xla.XLAStrategy,
    "XLA, single device": single_xla.SingleDeviceXLAStrategy,
}


def refused(strategy: Any, precision: str) -> str:
    # Lightning keeps them from any Trainer without their accelerator; `setup` needs none of it.
    trainer: Any = SimpleNamespace(
        strategy=strategy.__new__(strategy), precision=precision, callbacks=[]
    )
    with pytest.raises(AdminInitError) as error:
        AdminInit().setup(trainer, module(), "fit")
    return str(error.value)


@pytest.mark.support
@pytest.mark.parametrize("name", UNTRIED)
def test_an_untried_strategy_is_refused(name: str, cells: Callable[..., None]) -> None:
    strategy = UNTRIED[name]
    subclass = type("UsersOwn", (strategy,), {})
    for precision in (*TRIED, *REFUSED):
        message = refused(strategy, precision)
        assert message.startswith(f"AdminInit has not been tested with {strategy.__name__}")
        assert refused(subclass, precision).startswith(
            "AdminInit has not been tested with UsersOwn"
        )
        cells(TABLE, name, **{precision: "refused"})
    cells(REFUSALS, name, message=message)


def test_any_other_precision_is_refused() -> None:
    precision = TransformerEnginePrecision.precision
    message = refused(strategies.SingleDeviceStrategy, precision)
    assert "in precision transformer-engine" in message
