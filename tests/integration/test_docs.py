"""What the README and the pages of the docs show: code that runs, commands that can be parsed."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from _helpers.huggingface_runs import rows
from _helpers.recipe_files import parse_arguments
from _helpers.small_huggingface import bert
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from admin_init.cli.main import COMMANDS, command_parser

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.md")),
]
FENCED = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^ {4,}(?:.*\| )?admin-init (.*)$", re.MULTILINE)


def blocks(page: Path) -> list[str]:
    return [code for language, code in FENCED.findall(page.read_text()) if language == "python"]


def commands() -> list[list[str]]:
    """List the arguments of every ``admin-init`` that stands in an indented block."""
    text = "\n".join(page.read_text() for page in PAGES).replace("\\\n", " ")
    found = {line: shlex.split(line, comments=True) for line in COMMAND.findall(text)}
    return [arguments for arguments in found.values() if arguments != ["--help"]]


class Attention(nn.Module):
    """Stands for the attention of a user's own model; ends in ``out``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.out(x.mean(1, keepdim=True) + x)
        return mixed


class OwnLayer(nn.Module):
    """A layer that no adapter knows."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = Attention(16)
        self.ffn = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.attn_dropout, self.ffn_dropout = nn.Dropout(0.1), nn.Dropout(0.1)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attn_dropout(self.attn(x)))
        normed: Tensor = self.norm2(x + self.ffn_dropout(self.ffn(x)))
        return normed


class Model(pl.LightningModule):
    """What the pages call ``model``: of torch's layers, or of ones that no adapter knows."""

    def __init__(self, *, own: bool = False) -> None:
        super().__init__()
        if own:
            self.layers = nn.Sequential(*(OwnLayer() for _ in range(2)))
        else:
            layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
            self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return y

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return (self(batch[0]) - 1).square().mean()

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_nll", self.training_step(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def given(code: str) -> dict[str, Any]:
    """Make new ones of the things that a page takes as given."""
    own = "SitePattern" in code
    data = DataLoader(TensorDataset(torch.randn(8, 5, 16)), batch_size=4)
    return {
        "__name__": "example",
        "pl": pl,
        "Attention": Attention,
        "model": Model(own=own),
        "new_model": Model(own=own),
        "data": data,
        "validation_data": data,
        "batch": torch.randn(4, 5, 16),
        "bert": bert(),
        "sentences": rows(),
    }


@pytest.fixture
def _quiet_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "accelerator": "cpu",
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    monkeypatch.setattr(pl, "Trainer", functools.partial(pl.Trainer, **settings))


@pytest.mark.usefixtures("_quiet_trainer")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: page.stem
)
def test_the_code_of_a_page_runs(page: Path) -> None:
    names: dict[str, Any] = {}
    for code in blocks(page):
        torch.manual_seed(0)
        names |= given(code)
        exec(compile(code, str(page), "exec"), names)


def test_plain_torch_shows_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    ((_, code), (_, shown)) = FENCED.findall(page)[:2]
    exec(code, {"__name__": "example"})
    printed = capsys.readouterr().out
    line = re.compile(r"(\d+) sub-layers: Post-LN (\S+), Admin (\S+)")
    rows = [[float(cell) for cell in row] for row in line.findall(printed)]
    assert [row for row, *_ in rows] == [6, 24, 96]
    for row, expected in zip(rows, line.findall(shown), strict=True):
        assert row == pytest.approx([float(cell) for cell in expected], rel=0.1)
    (_, post, admin), *_, (_, deep_post, deep_admin) = rows
    assert deep_post / post > 5
    assert deep_admin / admin < 4


@pytest.mark.parametrize("arguments", commands(), ids=shlex.join)
def test_a_command_can_be_parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    name, *options = arguments
    assert name in COMMANDS
    options = [f"--{o[2:].replace('-', '_')}" if o.startswith("--") else o for o in options]
    if COMMANDS[name].run is not None:
        command_parser(name).parse_args(options)
    elif options != ["--help"]:
        if "--ckpt_path" in options:
            at = options.index("--ckpt_path")
            del options[at : at + 2]  # not an option of the model, which alone is parsed here
        parse_arguments(options)
