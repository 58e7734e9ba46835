"""StabilityMonitor in a Trainer of either distribution."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from _helpers.monitored_module import batches, fit, hooks, module
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from admin_init import AdminInit
from admin_init.callbacks.stability_monitor import StabilityMonitor
from admin_init.measures import branch_terms

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*is smaller than the logging interval"),
]


def test_every_measure_is_logged(lightning: ModuleType, tmp_path: Path) -> None:
    logger = lightning.pytorch if hasattr(lightning, "pytorch") else lightning
    logs = logger.loggers.TensorBoardLogger(tmp_path, name="", version="")
    fit(lightning, module(lightning), StabilityMonitor(3, margin=2.0), logger=logs)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("stability/")}
    sublayers = [
        *(f"model.encoder.layers.0.{place}" for place in ("self_attn", "ffn")),
        *(f"model.decoder.layers.0.{place}" for place in ("self_attn", "cross_attn", "ffn")),
    ]
    attentions = [name for name in sublayers if not name.endswith("ffn")]
    matrices = [
        "model.encoder_embedding.tokens",
        *(f"{name}.{end}" for name in attentions[:2] for end in ("in_proj", "out_proj")),
        *(f"{attentions[2]}.{end}" for end in ("q_proj", "kv_proj", "out_proj")),
        *(f"{name}.{end}" for name in sublayers if "ffn" in name for end in ("fc1", "fc2")),
    ]
    expected = {f"branch_share/{name}" for name in sublayers}
    expected |= {f"grad_norm/{name}" for name in [*sublayers, "model.encoder_embedding.tokens"]}
    expected |= {f"attention_logit/{name}" for name in attentions}
    expected |= {f"update_ratio/{name}.weight" for name in matrices}
    expected |= {f"update_ratio_{m}/{s}" for m in ("max", "median") for s in ("encoder", "decoder")}
    assert tags == {f"stability/{name}" for name in expected | {"log_z"}}
    assert all([event.step for event in events.Scalars(tag)] == [0, 3] for tag in tags)


def test_the_values_are_those_of_the_step() -> None:
    model = module(residual="pre")
    model.model.eval()  # no dropout, so that the same pass can be made again
    (batch,) = batches(1)
    twin = module(residual="pre")
    twin.model.load_state_dict(model.model.state_dict())
    twin.model.eval()

    class Eval(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pl_module.model.eval()

    monitor = StabilityMonitor()
    fit(pl, model, Eval(), monitor, count=1)
    rows = monitor.latest

    logits = twin.model(batch.source, batch.target_input)
    assert rows["log_z"] == pytest.approx(logits.logsumexp(-1).mean().item())
    terms = branch_terms(twin, lambda: twin.model(batch.source, batch.target_input))["decoder"]
    share = (terms[1].branch_variance / sum(terms[1][1:])) ** 0.5
    assert rows["branch_share/model.decoder.layers.0.cross_attn"] == pytest.approx(share, rel=1e-5)
    twin.training_step(batch, 0).backward()
    ffn = twin.model.encoder.layers[0]
    gradients = [p.grad for m in (ffn.ffn, ffn.ffn_residual) for p in m.parameters()]
    norm = sum(g.square().sum().item() for g in gradients if g is not None) ** 0.5
    assert rows["grad_norm/model.encoder.layers.0.ffn"] == pytest.approx(norm, rel=1e-4)
    before, after = (m.model.encoder.layers[0].ffn.fc1.weight for m in (twin, model))
    ratio = ((after - before).norm() / before.norm()).item()
    assert rows["update_ratio/model.encoder.layers.0.ffn.fc1.weight"] == pytest.approx(ratio)
    of_stack = [v for k, v in rows.items() if k.startswith("update_ratio/model.encoder.layers")]
    assert rows["update_ratio_max/encoder"] == max(of_stack)
    assert rows["update_ratio_median/encoder"] == pytest.approx(
        torch.tensor(of_stack).quantile(0.5)
    )


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_is_not_changed_in_a_single_bit(lightning: ModuleType, accumulate: int) -> None:
    settings = {"max_epochs": 2, "gradient_clip_val": 0.1, "accumulate_grad_batches": accumulate}
    plain, watched = module(lightning), module(lightning)
    fit(lightning, plain, **settings)
    monitor = StabilityMonitor(1, margin=0.0)
    fit(lightning, watched, monitor, **settings)
    assert monitor.latest
    assert monitor.spikes
    assert len(set(plain.losses)) == 12
    assert watched.losses == plain.losses
    for name, value in plain.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


@pytest.mark.parametrize("model", ["ours", "torch"])
def test_mixed_precision_is_not_changed_in_a_single_bit(model: str) -> None:
    class Separate(nn.Module):
        """An attention whose projections autocast keeps copies of."""

        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30, 8)
            self.attention = nn.MultiheadAttention(8, 2, kdim=8, vdim=6, dropout=0.1)
            self.lm_head = nn.Linear(8, 30)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            x = self.embedding(source)
            attended, _ = self.attention(x, x, x[..., :6])
            scores: Tensor = self.lm_head(attended)
            return scores

    def run(*callbacks: Any) -> Any:
        torch.manual_seed(0)
        watched = module(model=Separate() if model == "torch" else None)
        fit(pl, watched, *callbacks, precision="bf16-mixed")
        return watched

    monitor = StabilityMonitor(1)
    plain, watched = run(), run(monitor)
    assert any(name.startswith("attention_logit") for name in monitor.latest)
    assert watched.losses == plain.losses
    for name, value in plain.state_dict().items():
        assert torch.equal(watched.state_dict()[name], value), name


def test_hooks_are_there_in_the_forward_pass_of_a_monitored_step_only() -> None:
    seen: list[bool] = []
    backward: list[bool] = []

    class Backward(pl.Callback):
        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            backward.append(bool(hooks(pl_module)))

    model = module(spy=lambda pl_module, _: seen.append(bool(hooks(pl_module))))
    fit(pl, model, StabilityMonitor(2), Backward())
    assert seen == [True, False] * 3
    assert backward == [False] * 6
    assert hooks(model) == []


def test_hooks_die_with_an_exception() -> None:
    def fail(pl_module: Any, batch_idx: int) -> None:
        assert hooks(pl_module)
        raise FloatingPointError

    model = module(spy=fail)
    with pytest.raises(FloatingPointError):
        fit(pl, model, StabilityMonitor())
    assert hooks(model) == []
    F.scaled_dot_product_attention(*[torch.randn(1, 1, 2, 4)] * 3)


def test_hooks_die_with_a_batch_that_is_skipped() -> None:
    model = module()
    # Returning -1 skips the rest of the epoch, when the callbacks have begun the batch.
    model.on_train_batch_start = lambda batch, batch_idx: -1 if batch_idx == 2 else None
    seen: list[int] = []

    class Count(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            seen.append(len(hooks(model)))

    fit(pl, model, StabilityMonitor(1), Count(), max_epochs=2)
    assert len(seen) == 6
    assert len(set(seen)) == 1
    assert hooks(model) == []


def test_an_unknown_output_leaves_no_hooks() -> None:
    model = module()
    with pytest.raises(AttributeError, match="wrong"):
        fit(pl, model, StabilityMonitor(output="wrong"))
    assert hooks(model) == []


@pytest.mark.parametrize("first", ["admin", "monitor"])
def test_it_goes_along_with_admin_init(lightning: ModuleType, first: str) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30, 8)
            self.encoder = encoder
            self.head = nn.Linear(8, 30)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            scores: Tensor = self.head(self.encoder(self.embedding(source)))
            return scores

    monitor, admin = StabilityMonitor(2, output="model.head"), AdminInit()
    callbacks = [admin, monitor] if first == "admin" else [monitor, admin]
    fit(lightning, module(lightning, model=Tagger()), *callbacks)
    assert monitor.latest["log_z"] > 0
    layers = [f"model.encoder.layers.{i}" for i in range(2)]
    shares = {k.partition("/")[2] for k in monitor.latest if k.startswith("branch_share")}
    assert shares == {f"{layer}.{place}" for layer in layers for place in ("self_attn", "ffn")}
    logits = {k.partition("/")[2] for k in monitor.latest if k.startswith("attention_logit")}
    assert logits == {f"{layer}.self_attn" for layer in layers}


def test_a_model_without_anything_known_has_only_its_weights_measured() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30, 30)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            vectors: Tensor = self.embedding(source)
            return vectors

    monitor = StabilityMonitor()
    fit(pl, module(model=Plain()), monitor)
    assert set(monitor.latest) == {
        "grad_norm/model.embedding",
        "update_ratio/model.embedding.weight",
    }


def test_accumulated_batches_are_one_step() -> None:
    monitor = StabilityMonitor(2)
    steps: list[tuple[int, int]] = []

    class Steps(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            if monitor.latest:
                steps.append((trainer.global_step, args[-1]))
                monitor.latest = {}

    fit(pl, module(), monitor, Steps(), accumulate_grad_batches=2, max_epochs=2)
    # Three updates an epoch; those of index 0, 2 and 4 are monitored when they have been made.
    assert steps == [(1, 1), (3, 5), (5, 3)]


def test_a_second_fit_starts_afresh() -> None:
    monitor = StabilityMonitor(100, margin=2.0)
    for _ in range(2):
        fit(pl, module(spike_at=6), monitor)
        assert monitor.latest
        assert [spike["step"] for spike in monitor.spikes] == [3]
        monitor.latest = {}


def test_manual_optimization_is_monitored_too() -> None:
    class Manual(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.one, self.two = nn.Linear(2, 2), nn.Linear(2, 2)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            for optimizer, layer in zip(self.optimizers(), (self.one, self.two), strict=True):  # type: ignore[arg-type]
                optimizer.zero_grad()
                loss = (layer(batch) - 1).square().mean()
                self.manual_backward(loss)
                optimizer.step()
            return loss.detach() + 50 * (batch_idx == 2)

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [torch.optim.SGD(m.parameters(), lr=0.1) for m in (self.one, self.two)]

    monitor = StabilityMonitor()
    pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=[monitor],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Manual(), DataLoader(torch.randn(4, 3, 2), batch_size=None))
    assert set(monitor.latest) == {
        *("grad_norm/one", "grad_norm/two"),
        *("update_ratio/one.weight", "update_ratio/two.weight"),
    }
    assert [spike["batch_idx"] for spike in monitor.spikes] == [2]


def test_a_compiled_model_is_not_compiled_with_the_hooks() -> None:
    nodes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        nodes.append(len(graph.graph.nodes))
        return graph

    monitor = StabilityMonitor(2)
    losses = []
    for callbacks in ([], [monitor]):
        torch._dynamo.reset()
        model = module()
        model.model.compile(backend=backend)
        fit(pl, model, *callbacks)
        losses.append(model.losses)
    assert losses[0] == losses[1]
    assert len(set(nodes)) == 1
    kinds = {name.partition("/")[0] for name in monitor.latest}
    assert kinds == {"grad_norm", "update_ratio", "update_ratio_max", "update_ratio_median"}
    assert hooks(model) == []


def test_several_loggers_get_the_same(tmp_path: Path) -> None:
    loggers = [
        TensorBoardLogger(tmp_path / "board", name="", version=""),
        CSVLogger(tmp_path / "csv", name="", version=""),
    ]
    monitor = StabilityMonitor()
    fit(pl, module(), monitor, logger=loggers)
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    header, row, *_ = (tmp_path / "csv" / "metrics.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), row.split(","), strict=True))
    for name, value in monitor.latest.items():
        assert events.Scalars(f"stability/{name}")[0].value == pytest.approx(value)
        assert float(cells[f"stability/{name}"]) == pytest.approx(value)


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`every_n_steps` must be at least 1, but is 0"):
        StabilityMonitor(0)
