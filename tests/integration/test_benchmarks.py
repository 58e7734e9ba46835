"""The benchmarks that `make bench` runs, on models and batches of no size."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from _helpers import ROOT
from _helpers.forked import SERVER, together
from _helpers.small_lightning import trainer

from admin_init.callbacks.admin_init import AdminInit
from admin_init.nn import TransformerConfig
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.preparation.prepare import prepare

pytest.importorskip("admin_init.fairseq.compat", reason="fairseq is one of those compared")

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the processes of engines from a server, in which the imports are done."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: SERVER)
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def output_of(script: str, *arguments: object) -> list[str]:
    """Run a script in this process."""
    out = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [script, *map(str, arguments)]),
        contextlib.redirect_stdout(out),
    ):
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    return out.getvalue().splitlines()


def run(script: str, *arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output_of(script, *arguments)]


@pytest.fixture
def data() -> Path:
    folder = Path("data-bin")
    prepare(CorpusConfig(train=100, valid=10, test=20).open(), folder, vocabulary_size=300)
    return folder


@pytest.fixture
def checkpoint(data: Path) -> Path:
    shape = TransformerConfig(dim=16, ffn_dim=64, heads=4, encoder_layers=2, decoder_layers=2)
    torch.manual_seed(0)
    fitted = trainer(max_steps=5, max_epochs=None, callbacks=[AdminInit()], limit_val_batches=0)
    fitted.fit(TranslationModule(shape), TranslationDataModule(data, "en", "de", max_tokens=128))
    fitted.save_checkpoint("last.ckpt")
    return Path("last.ckpt")


@pytest.mark.slow
def test_training_and_decoding_are_measured_and_drawn(data: Path, checkpoint: Path) -> None:
    common = ["--data", data, "--rounds", 2, "--threads", 1]
    shape = ["--layers", 1, "--dim", 16, "--max-tokens", 64, "--updates", 1]
    engines = ["ours", "ours, bf16", "fairseq", "HF Marian", "torch.nn"]
    training = run("training.py", *common, *shape, "--engines", *engines)
    assert [row["engine"] for row in training] == engines
    for row in training:
        assert len(row["in each round"]) == 2
        assert min(row["in each round"]) > 0
        assert row["peak memory, MiB"] > 0
        assert row["version"]
    engines = ["ours", "fairseq", "HF Marian"]
    decoding = run("decoding.py", *common, "--checkpoint", checkpoint, "--engines", *engines)
    for row in decoding:
        assert row["sentences a second"] > 0
        if row["engine"] == "fairseq":
            # Admin's omegas are folded for it, and it must find what ours does.
            assert row["equal to ours"] == row["sentences"] == 20
    for name, rows in (("training", training), ("decoding", decoding)):
        Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, _, _, head, _, *printed = output_of("table.py", "training")
    assert "target tokens a second" in head
    for row, line in zip(training, printed, strict=True):
        assert line.startswith(f"| {row['engine']} | {row['target tokens a second']:,} |")
    assert sum("20 of 20" in line for line in output_of("table.py", "decoding")) >= 2
    assert run("chart.py", "training", "decoding", "--output", "speed.png") == []
    assert Path("speed.png").read_bytes().startswith(b"\x89PNG")


def test_the_share_of_the_peak_and_what_admin_costs_are_measured(data: Path) -> None:
    shape = ["--layers", 1, "--dim", 16, "--threads", 1]
    # Not smaller: a share below 0.0005 is printed as 0.
    larger = ["--layers", 1, "--dim", 64, "--threads", 1, "--max-tokens", 256]
    roofline = run("roofline.py", "--data", data, *larger, "--rounds", 1, "--updates", 1)
    assert all(0 < row["share"] < 1 for row in roofline)
    overhead = run("overhead.py", *shape, "--pairs", 2)
    assert {row["measure"] for row in overhead} >= {"search, folded / Post-LN", "profile / forward"}
    assert all(row["median"] > 0 for row in overhead)


def test_the_data_path_is_measured(data: Path) -> None:
    (row,) = run("pipeline.py", "--data", data, "--max-tokens", 512, "--pairs", 500, "--rounds", 1)
    assert 0 < row["padding, share of all tokens"] < 0.5
    assert row["seconds to the first batch"] > 0


def test_what_padding_changes_is_measured() -> None:
    small = ["--layers", 1, "--seeds", 1, "--lengths", 40, "--steps", 1, "--corpus", 400]
    by_length, mixed, *trained = run("padding.py", *small)
    assert abs(by_length["largest change, encoder"]) < abs(mixed["largest change, encoder"])
    assert mixed["padding, decoder"] > 0.5
    assert [row["padding"] for row in trained] == [
        "counted",
        "left out",
        "control: left out, another batch",
    ]


def test_how_the_share_rule_settles_is_measured() -> None:
    small = ["--layers", 2, "--widths", 16, "--shares", 0.5, "--seeds", 1]
    (row,) = run("share.py", *small)
    assert 3 <= row["passes"] <= 10
    errors = row["error after passes"]
    assert errors == sorted(errors, reverse=True)
    near, raw = (row[f"distance from Pre-LN, input {x}"] for x in ("normalized", "as it is"))
    assert 0 < near < raw < 1


def test_the_share_of_pre_ln_models_is_measured() -> None:
    shape = ["--seeds", 1, "--layers", 1, "--tokens", 8]
    torchs, ours = run("streams.py", *shape, "--families", "nn.TransformerEncoder", "ours")
    assert torchs["share after"] == {"1": 0.5}
    assert 0 < torchs["share before"]["1"] < 1
    assert torchs["fold"] < 1e-5
    assert "no parameter" in ours["fold"]


@pytest.mark.parametrize(
    ("best", "tried"),
    [
        # The first two, an octave apart, and then octaves until the best one is inside.
        (0.0, [0, 2, -2, -1, 1]),
        (5.0, [0, 2, 4, 6, 5]),
        (-3.0, [0, 2, -2, -4, -3]),
    ],
)
def test_the_best_rate_lies_inside_of_those_that_are_tried(best: float, tried: list[int]) -> None:
    next_rates = runpy.run_path(str(BENCHMARKS / "rules.py"))["next_rates"]
    found: dict[int, float] = {0: abs(best), 2: abs(2 - best)}
    while more := next_rates(found):
        found |= {step: abs(step - best) for step in more}
    assert set(tried) <= set(found)
    nearest = min(found, key=found.__getitem__)
    assert {nearest - 1, nearest + 1} <= set(found)


@pytest.mark.slow
def test_settings_are_trained_at_their_best_rates() -> None:
    small = ["--depth", "1-1", "--width", 8, "--steps", 2, "--seeds", 1, "--workers", 1]
    rows = run("rules.py", "--output", "out", *small, "--settings", "share 0.5", "constant 3")
    assert {row["setting"] for row in rows} == {"share 0.5", "constant 3"}
    assert len({row["rate"] for row in rows if row["setting"] == "share 0.5"}) >= 4
    Path("rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    head, _, *lines = output_of("rules.py", "--table", "rows.jsonl")
    assert head.startswith("| setting | depth | width | branches x | best rate |")
    assert len(lines) == 2


def test_random_words_are_trained_on() -> None:
    shape = ["--layers", 1, "--dim", 16, "--threads", 1, "--rounds", 1, "--updates", 1]
    (row,) = run("training.py", "--synthetic", 300, *shape, "--engines", "ours")
    assert row["target tokens a second"] > 0
    with pytest.raises(SystemExit, match="not enough batches for 5 rounds"):
        run("training.py", "--synthetic", 10, "--layers", 1, "--dim", 16, "--engines", "ours")


@pytest.mark.parametrize(
    ("script", "options"),
    [("monitor.py", ["--pairs", 2, "--steps", 2]), ("distributed.py", ["--repetitions", 2])],
)
def test_what_callbacks_cost_is_measured(script: str, options: list[object]) -> None:
    shape = ["--layers", 1, "--dim", 16, "--sentences", 4]
    # They change logging and fork: not for this process.
    (text,) = together(output_of_main, script, *shape, *options, ranks=1)
    assert [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def output_of_main(script: str, *arguments: object) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    sys.stdout.writelines(f"{line}\n" for line in output_of(script, *arguments))
