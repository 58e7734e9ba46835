"""AdminInit on a module that wraps a fairseq model."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from _helpers.small_fairseq import transformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from admin_init import AdminInit, find_sites


class Wrapped(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = transformer(dropout=0.1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        source, target = batch
        output = self.model(source, source.ne(1).sum(1), target)[0]
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def test_admin_init_on_a_module_that_wraps_a_fairseq_model(tmp_path: Path) -> None:
    torch.manual_seed(5)
    pairs = TensorDataset(*torch.randint(4, 16, (2, 8, 6)))
    loader = DataLoader(pairs, batch_size=4)

    def fit(steps: int, checkpoint: Path | None = None) -> tuple[AdminInit, Wrapped]:
        callback, module = AdminInit(), Wrapped()
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            callbacks=[callback],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, loader, ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "model.ckpt")
        return callback, module

    callback, module = fit(2)
    assert callback.profile is not None
    names = [site.name for site in find_sites(transformer())]
    assert [site.name for site in find_sites(module)] == [f"model.{name}" for name in names]
    for site, profiled in zip(find_sites(module), callback.profile.sites, strict=True):
        assert site.omega is not None
        first = site.name.endswith("layers.0.self_attn")
        assert profiled.omega == 1 if first else profiled.omega > 1.1
        moved = (site.omega - profiled.omega).abs().max()
        assert moved == 0 if first else 0 < moved < 0.01

    resumed, _ = fit(4, tmp_path / "model.ckpt")
    assert resumed.profile == callback.profile
