"""Compiled models: the profile is eager, and the compiled step is compiled as often as ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.small_lightning import trainer
from _helpers.strategy_runs import FORMS, Module, Net
from torch._dynamo.testing import CompileCounter

from admin_init import AdminInit


@pytest.fixture(autouse=True)
def _nothing_compiled_yet() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole(backend: Any) -> Any:
    return torch.compile(Module(Net), backend=backend)


def part(backend: Any) -> Any:
    return Module(lambda: torch.compile(Net(), backend=backend))  # type: ignore[arg-type,return-value]


def in_place(backend: Any) -> Any:
    module = Module(Net)
    module.model.compile(backend=backend)
    return module


def graphs(build: Callable[[Any], Any], *admin: AdminInit) -> tuple[int, int]:
    """Count the graphs compiled before the first step, and those of a training."""
    counter, before = CompileCounter(), []

    class Look(pl.Callback):
        def on_train_batch_start(self, *args: Any) -> None:
            before.append(counter.frame_count)

    trainer(callbacks=[*admin, Look()], max_epochs=2).fit(build(counter))
    return before[0], counter.frame_count


@pytest.mark.support
@pytest.mark.parametrize("build", [whole, part, in_place])
@pytest.mark.parametrize("form", FORMS)
def test_the_profile_is_eager_and_no_step_is_compiled_again(
    form: str, build: Callable[[Any], Any], cells: Callable[..., None]
) -> None:
    admin = AdminInit(sites=FORMS[form])
    profiling, training = graphs(build, admin)
    assert admin.profile is not None
    assert profiling == 0
    torch._dynamo.reset()
    assert training == graphs(build)[1] > 0
    cells("Callbacks and settings", "torch.compile", outcome="as many graphs as without")
