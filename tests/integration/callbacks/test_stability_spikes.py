"""Spikes that StabilityMonitor finds, and the file that it writes them to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.forked import together
from _helpers.monitored_module import fit, module
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from admin_init.callbacks.stability_monitor import StabilityMonitor

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
]


def test_a_spike_is_found_at_its_step_with_its_batch(lightning: ModuleType, tmp_path: Path) -> None:
    logger = lightning.pytorch if hasattr(lightning, "pytorch") else lightning
    logs = logger.loggers.CSVLogger(tmp_path, name="", version="")
    model = module(lightning, spike_at=6)  # the fourth batch holds sentences 6 and 7
    fit(lightning, model, StabilityMonitor(margin=2.0), logger=logs)
    (spike,) = map(json.loads, (tmp_path / "spikes.jsonl").read_text().splitlines())
    median = sorted(model.losses[:3])[1]
    assert spike == {
        "step": 3,
        "epoch": 0,
        "batch_idx": 3,
        "loss": pytest.approx(model.losses[3]),
        "median": pytest.approx(median),
        "index": [6, 7],
    }
    rows = [line.split(",") for line in (tmp_path / "metrics.csv").read_text().splitlines()]
    column = rows[0].index("stability/spike")
    found = {row[rows[0].index("step")]: row[column] for row in rows[1:] if row[column]}
    assert list(found) == ["3"]
    assert float(found["3"]) == pytest.approx(model.losses[3])


def test_the_loss_is_the_modules_own_while_gradients_accumulate() -> None:
    monitor = StabilityMonitor(margin=2.0)
    model = module(spike_at=6)
    fit(pl, model, monitor, accumulate_grad_batches=3)
    (spike,) = monitor.spikes
    assert (spike["step"], spike["batch_idx"]) == (1, 3)
    assert spike["loss"] == pytest.approx(model.losses[3])


def test_spikes_lie_beside_the_checkpoints(tmp_path: Path) -> None:
    checkpoints = pl.callbacks.ModelCheckpoint(tmp_path / "kept")
    fit(
        pl,
        module(spike_at=6, height=math.inf),
        StabilityMonitor(margin=2.0),
        checkpoints,
        enable_checkpointing=True,
    )
    lines = (tmp_path / "kept" / "spikes.jsonl").read_text().splitlines()
    spike = json.loads(lines[0], parse_constant=pytest.fail)
    assert (spike["loss"], spike["index"]) == ("inf", [6, 7])
    # The weights are NaN from there on, which is no spike of its own.
    assert len(lines) == 1


@pytest.mark.parametrize(
    "batch",
    [
        [torch.ones(2, 3, dtype=torch.bfloat16)],
        {"x": torch.zeros(2), "text": ["a"]},
        torch.tensor(1.0),
        [torch.ones(2, 3), torch.ones(0)],
    ],
)
def test_a_batch_without_an_index_has_a_fingerprint(batch: Any) -> None:
    def spikes_of(batch: Any) -> list[dict[str, Any]]:
        class Once(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.ones(1))

            def training_step(self, batch: Any, batch_idx: int) -> Tensor:
                return self.weight.sum() * math.nan

            def configure_optimizers(self) -> torch.optim.Optimizer:
                return torch.optim.SGD(self.parameters(), lr=0.0)

        monitor = StabilityMonitor()
        pl.Trainer(
            accelerator="cpu",
            max_steps=1,
            logger=False,
            callbacks=[monitor],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        ).fit(Once(), DataLoader([batch], batch_size=None))
        return monitor.spikes

    (first,), (again,) = spikes_of(batch), spikes_of(batch)
    (other,) = spikes_of(torch.tensor([5.0]))
    assert first == again
    assert len(first["fingerprint"]) == 16
    assert first["fingerprint"] != other["fingerprint"]
    assert first["median"] == "nan"


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    def run(folder: str, epochs: int, ckpt_path: Path | None = None) -> StabilityMonitor:
        monitor = StabilityMonitor(5, margin=2.0)
        checkpoint = pl.callbacks.ModelCheckpoint(
            tmp_path / folder, "last", enable_version_counter=False
        )
        fit(
            pl,
            module(spike_at=6),
            monitor,
            checkpoint,
            max_epochs=epochs,
            enable_checkpointing=True,
            ckpt_path=ckpt_path,
            logger=CSVLogger(tmp_path / f"{folder}-{epochs}", name="", version=""),
        )
        return monitor

    whole = run("whole", 3)
    run("parts", 2)
    # What a run wrote after its last checkpoint is not part of the run that is resumed.
    with (tmp_path / "parts" / "spikes.jsonl").open("a") as file:
        file.write('{"step": 99}\n')
    resumed = run("parts", 3, tmp_path / "parts" / "last.ckpt")
    steps = [spike["step"] for spike in whole.spikes]
    assert steps == [3, 9, 15]
    assert [spike["step"] for spike in resumed.spikes] == steps
    lines = (tmp_path / "parts" / "spikes.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == steps
    header, *rows = (tmp_path / "parts-3" / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("stability/log_z")
    logged = {line.split(",")[header.split(",").index("step")] for line in rows}
    assert {line.split(",")[column] != "" for line in rows} == {True, False}
    # Step 10 was monitored before the checkpoint, step 15 was not.
    assert logged == {"15"}


def train_a_rank() -> None:
    monitor = StabilityMonitor(margin=2.0)
    callbacks: list[list[Any]] = [[], [monitor]]
    for chosen in callbacks:
        model = module(pl, spike_at=8)
        fit(pl, model, *chosen, devices=2, strategy="ddp")
        weights = sum(p.double().abs().sum().item() for p in model.parameters())
        with open(f"rank-{model.global_rank}", "a") as file:
            file.write(f"{weights.hex()} {len(monitor.latest)}\n")


def test_rank_0_logs_its_own_share() -> None:
    together(train_a_rank)
    ranks = [
        [line.split() for line in Path(f"rank-{i}").read_text().splitlines()] for i in range(2)
    ]
    measured = [[int(count) > 0 for _, count in lines] for lines in ranks]
    assert measured == [[False, True], [False, False]]
    # With the monitor or without it, on either rank.
    assert len({weights for lines in ranks for weights, _ in lines}) == 1
    # Of six batches, rank 0 trains on the first, third and fifth.
    (spike,) = map(json.loads, Path("spikes.jsonl").read_text().splitlines())
    assert (spike["step"], spike["batch_idx"], spike["index"]) == (2, 2, [8, 9])
