"""Short trainings with AdminInit under many strategies."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from _helpers.small_lightning import encoder, trainer
from admin_init import AdminInit, AdminInitError, SitePattern
from admin_init.adapters.discovery import resolve_sites
from admin_init.omega import Rule

BRANCH_FORM = [
    SitePattern(
        branch="layers.*.dropout1", linear="layers.*.self_attn.out_proj", norm="layers.*.norm1"
    ),
    SitePattern(branch="layers.*.dropout2", linear="layers.*.linear2", norm="layers.*.norm2"),
]
"""The sites of ``nn.TransformerEncoderLayer``, named as if no adapter knew them."""

FORMS = {"skip form": None, "branch form": BRANCH_FORM}
TRIED = ("32-true", "64-true", "bf16-mixed", "bf16-true")
REFUSED = ("16-mixed", "16-true")
STEPS = 2


class Net(nn.Module):
    """Post-LN stacks side by side, without dropout."""

    def __init__(self, *stacks: str, reentrant: bool | None = None, unused: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Linear(16, 16)
        self.stacks = nn.ModuleDict({name: encoder(dropout=0.0) for name in stacks or ["encoder"]})
        self.unused = nn.Linear(16, 16) if unused else None
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        outputs = []
        for stack in self.stacks.values():
            state = x
            for layer in stack.layers:  # type: ignore[union-attr]
                if self.reentrant is None:
                    state = layer(state)
                else:
                    state = checkpoint(layer, state, use_reentrant=self.reentrant)
            outputs.append(state)
        return torch.cat(outputs)


def compiled() -> nn.Module:
    net: Any = torch.compile(Net(), backend="eager")
    return net  # type: ignore[no-any-return]


Build = Callable[[], nn.Module]

ONE_PROCESS: dict[str, tuple[Build, dict[str, Any]]] = {
    "single device": (Net, {}),
    "gradient accumulation": (Net, {"accumulate_grad_batches": 2}),
    "two stacks": (lambda: Net("left", "right"), {}),
    "torch.compile": (compiled, {}),
    "activation checkpointing": (lambda: Net(reentrant=False), {}),
    "activation checkpointing, reentrant": (lambda: Net(reentrant=True), {}),
}
"""How the model is built, and the arguments of the Trainer."""

DDP: dict[str, tuple[Build, dict[str, Any], dict[str, Any]]] = {
    "DDP": (Net, {}, {}),
    "DDP, static graph": (Net, {}, {"static_graph": True}),
    "DDP, find_unused_parameters": (
        lambda: Net(unused=True),
        {},
        {"find_unused_parameters": True},
    ),
    "DDP, gradient accumulation": (Net, {"accumulate_grad_batches": 2}, {}),
    "DDP, two stacks": (lambda: Net("left", "right"), {}, {}),
    "DDP, activation checkpointing": (lambda: Net(reentrant=False), {}, {}),
}
"""The same, and the arguments of the strategy."""


class Module(pl.LightningModule):
    """Each rank has its own data, the first one the most."""

    trained: ClassVar[list[bool]] = []
    """Whether each step was one with gradients; of the class, since a profile leaves no trace."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = build()
        self.trained.clear()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.trained.append(torch.is_grad_enabled())
        loss: Tensor = (self.model(batch[0]) - 1).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            TensorDataset(inputs(self.global_rank)), batch_size=size(self.global_rank)
        )


def rows(processes: int) -> list[str]:
    """Name what is run: with more than two processes, only what DDP itself does differently."""
    return list(DDP) if processes == 2 else list(DDP)[:3]


def size(rank: int) -> int:
    """Sentences of a batch."""
    return 32 - 8 * rank


def inputs(rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(STEPS * size(rank), 12, 16, generator=generator)


class Watch(pl.Callback):
    """Keeps the omegas that the first step trains on."""

    def __init__(self, admin: AdminInit) -> None:
        self.admin = admin
        self.omegas: list[Tensor] = []

    def on_before_backward(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor
    ) -> None:
        if not self.omegas:
            sites = resolve_sites(pl_module, self.admin.sites)
            self.omegas = [site.omega.detach().clone() for site in sites if site.omega is not None]


def fit(admin: AdminInit, build: Build, **settings: Any) -> tuple[Module, Watch]:
    module, watch = Module(build), Watch(admin)
    # A strategy serves one trainer.
    strategy = settings.pop("strategy", lambda: "auto")()
    settings |= {"use_distributed_sampler": False, "strategy": strategy}
    trainer(callbacks=[admin, watch], **settings).fit(module)
    return module, watch


def run(
    form: str, build: Build, precision: str, rule: Rule = "reference", **settings: Any
) -> dict[str, Any]:
    """Train; in float32, once more with the profile as if it came from a file."""
    settings["precision"] = precision
    admin = AdminInit(sites=FORMS[form], rule=rule)
    module, watch = fit(admin, build, **settings)
    assert admin.profile is not None
    result: dict[str, Any] = {
        "profile": admin.profile.to_dict(),
        "omegas": watch.omegas,
        "trained": list(module.trained),
    }
    if precision == "32-true":
        twin, _ = fit(AdminInit(sites=FORMS[form], profile=admin.profile), build, **settings)
        ours, theirs = module.state_dict(), twin.state_dict()
        result["as from a file"] = all(torch.equal(ours[key], theirs[key]) for key in ours)
    return result


def refusal(precision: str, build: Build, **settings: Any) -> str:
    """Return why AdminInit does not train in ``precision``."""
    # Lightning by itself would replace fp16 autocast on a CPU.
    mixed = {"plugins": [MixedPrecision("16-mixed", "cpu")]}
    how = mixed if precision == "16-mixed" else {"precision": precision}
    try:
        fit(AdminInit(), build, **how, **settings)
    except AdminInitError as error:
        return str(error)
    return "not refused"


def train_all(processes: int, folder: str) -> None:
    """Run everything in ``DDP`` as one of several processes, and write what came out."""
    rank = os.environ["LOCAL_RANK"]
    results: dict[str, Any] = {}
    for name in rows(processes):
        build, settings, options = DDP[name]
        strategy = partial(DDPStrategy, process_group_backend="gloo", **options)
        arguments = {"devices": processes, "strategy": strategy, **settings}
        for precision in TRIED:
            for form in FORMS:
                key = f"{name}/{precision}/{form}"
                results[key] = run(form, build, precision, **arguments)
        for precision in REFUSED:
            results[f"{name}/{precision}"] = refusal(precision, build, **arguments)
        if name == "DDP":
            for form in FORMS:
                results[f"share/{form}"] = run(form, build, "32-true", "share", **arguments)
    torch.save(results, f"{folder}/rank{rank}.pt")
