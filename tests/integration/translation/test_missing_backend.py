"""Where fairseq is not installed."""

import pytorch_lightning as pl
from _helpers.forked import together

from admin_init.nn import TransformerConfig
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.module import TranslationModule

WITHOUT = """
import sys
sys.modules["fairseq"] = None
from admin_init.translation.backend import FairseqConfig
from admin_init._utils.checkpoints import read_checkpoint
from admin_init.translation.checkpoint import load_module
from admin_init.nn import TransformerConfig
from admin_init.translation.module import TranslationModule
config = TransformerConfig(vocabulary_size=40, dim=16, heads=2)
assert "admin_init.fairseq" not in sys.modules
TranslationModule(config)
for build in (
    lambda: TranslationModule(config, fairseq=FairseqConfig()),
    lambda: load_module(read_checkpoint("model.ckpt")),
):
    try:
        build()
    except ValueError as error:
        print(error)
"""


def test_without_fairseq_only_its_own_engine_is_missing() -> None:
    config = TransformerConfig(vocabulary_size=40, dim=16, heads=2)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(TranslationModule(config, fairseq=FairseqConfig()))
    trainer.save_checkpoint("model.ckpt")
    (printed,) = together(exec, WITHOUT, {}, ranks=1)
    direct, loaded = printed.splitlines()
    assert direct.startswith("fairseq is not installed. To get it: pip install ")
    assert loaded == direct
