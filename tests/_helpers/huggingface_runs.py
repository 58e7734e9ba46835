"""Small runs of the Trainer of transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from _helpers.small_huggingface import V, bert
from admin_init.huggingface import AdminCallback


def rows(count: int = 24) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(4, V, (count, 9), generator=generator)
    return [{"input_ids": row, "labels": row} for row in tokens]


def arguments(folder: str = "out", **changed: Any) -> TrainingArguments:
    settings = {
        "output_dir": folder,
        "use_cpu": True,
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 1,
    }
    return TrainingArguments(**settings | changed)


def trainer(model: nn.Module | None = None, *callbacks: Any, **options: Any) -> Trainer:
    """A Trainer of a small BERT, or of another model."""
    changed = options.pop("args", {})
    if model is None:
        torch.manual_seed(1)
        model = bert(attention_probs_dropout_prob=0.1, hidden_dropout_prob=0.1)
    return Trainer(
        model,
        arguments(**changed),
        train_dataset=rows(),  # type: ignore[arg-type]
        callbacks=list(callbacks),
        **options,
    )


def omegas(model: nn.Module) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("omega")}


def outputs(model: PreTrainedModel) -> Tensor:
    with torch.no_grad():
        scores: Tensor = model.eval()(rows(3)[0]["input_ids"][None]).logits
    return scores


def train() -> None:
    """Train on two ranks, and save the profile and omegas of each."""
    os.environ |= {"RANK": os.environ["LOCAL_RANK"], "WORLD_SIZE": "2"}  # as torchrun does
    done = trainer(None, callback := AdminCallback())
    done.train()
    assert callback.profile is not None
    rank = done.args.process_index
    torch.save(omegas(done.model), f"rank{rank}.pt")
    Path(f"rank{rank}.json").write_text(json.dumps(callback.profile.to_dict()))
