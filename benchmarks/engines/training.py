"""Seven ways to train the same Transformer on the same batches."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from admin_init.nn import TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from engines.origin import Origin


class Engine(Protocol):
    """One library's model and training loop."""

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        """Update once a batch; return the seconds from the second update to the last.

        The first allocates the optimizer's state.
        """
        ...


ENGINES = {
    "ours": Origin("admin_init", "ours", "Training"),
    "ours, bf16": Origin("admin_init", "ours", "TrainingBf16"),
    "ours, compiled": Origin("admin_init", "ours", "TrainingCompiled"),
    "fairseq": Origin("fairseq", "fairseq", "Training"),
    "HF Marian": Origin("transformers", "marian", "Training"),
    "JoeyNMT": Origin("joeynmt", "joeynmt", "Training"),
    "torch.nn": Origin("torch", "torch_nn", "Training"),
}


def build(engine: str, config: TransformerConfig, data: Path) -> Engine:
    """Build the engine of one name for a model and a prepared folder."""
    built: Engine = ENGINES[engine].load()(config, data)
    return built


def add_options(parser: ArgumentParser) -> None:
    """Let the command line say what is trained."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6, help="of the encoder and of the decoder")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)


def model_of(options: Namespace, vocabulary_size: int) -> TransformerConfig:
    """Return the model that the command line asks for."""
    return TransformerConfig(
        vocabulary_size=vocabulary_size,
        dim=options.dim,
        ffn_dim=4 * options.dim,
        heads=options.heads,
        encoder_layers=options.layers,
        decoder_layers=options.layers,
        dropout=options.dropout,
    )
