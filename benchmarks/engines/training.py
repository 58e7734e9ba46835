"""Seven ways to train the same Transformer on the same batches.

Each engine has a class with a ``train`` that makes one update a batch and returns the seconds
from the second update to the last: the first allocates the optimizer's state.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import time
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from admin_init.nn import TransformerConfig
from admin_init.translation.batching import TranslationBatch
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig

BOS, PAD, EOS = range(3)
LEARNING_RATE, BETAS, SMOOTHING = 1e-4, (0.9, 0.98), 0.1


@dataclass(frozen=True)
class Shape:
    """The model that all engines build."""

    vocabulary: int
    dim: int
    ffn_dim: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    dropout: float


def add_options(parser: ArgumentParser) -> None:
    """Let the command line say what is trained."""
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6, help="of the encoder and of the decoder")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)


def shape_of(options: Namespace, vocabulary: int) -> Shape:
    return Shape(
        vocabulary=vocabulary,
        dim=options.dim,
        ffn_dim=4 * options.dim,
        heads=options.heads,
        encoder_layers=options.layers,
        decoder_layers=options.layers,
        dropout=options.dropout,
    )


class Engine(Protocol):
    """One library's model and training loop."""

    def train(self, batches: Sequence[TranslationBatch]) -> float: ...


class Ours:
    """Our Transformer, in a Lightning Trainer."""

    precision: Any = "32-true"

    def __init__(self, shape: Shape, data: Path) -> None:
        config = TransformerConfig(
            vocabulary_size=shape.vocabulary,
            dim=shape.dim,
            ffn_dim=shape.ffn_dim,
            heads=shape.heads,
            encoder_layers=shape.encoder_layers,
            decoder_layers=shape.decoder_layers,
            dropout=shape.dropout,
        )
        optimization = OptimizationConfig(
            learning_rate=LEARNING_RATE, betas=BETAS, warmup_steps=0, schedule="constant"
        )
        self.module = TranslationModule(config, optimization, label_smoothing=SMOOTHING)

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        clock = _Clock()
        logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", ".*does not have many workers")
        trainer = pl.Trainer(
            accelerator="cpu",
            precision=self.precision,
            max_epochs=1,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(self.module, DataLoader(list(batches), batch_size=None))
        return clock.seconds


class OursBf16(Ours):
    """Our Transformer in bf16, its weights in float32."""

    precision = "bf16-mixed"


class OursCompiled(Ours):
    """Our Transformer compiled by ``torch.compile``, for batches of any shape."""

    def __init__(self, shape: Shape, data: Path) -> None:
        super().__init__(shape, data)
        self.module.transformer.compile(dynamic=True)


class _Clock(pl.Callback):
    begun = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 1:
            self.begun = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.begun


class Fairseq:
    """fairseq's Transformer, in fairseq's Trainer."""

    def __init__(self, shape: Shape, data: Path) -> None:
        importlib.import_module("admin_init.fairseq")  # which makes fairseq run
        from fairseq import options, tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf
        from fairseq.trainer import Trainer

        logging.getLogger("fairseq").setLevel(logging.ERROR)
        arguments = (
            f"{data} --arch transformer --cpu --optimizer adam --adam-betas ({BETAS[0]},{BETAS[1]})"
            f" --lr {LEARNING_RATE} --lr-scheduler fixed --criterion label_smoothed_cross_entropy"
            f" --label-smoothing {SMOOTHING} --dropout {shape.dropout} --max-tokens 4096"
            f" --share-all-embeddings --encoder-layers {shape.encoder_layers}"
            f" --decoder-layers {shape.decoder_layers}"
        )
        for side in ("encoder", "decoder"):
            arguments += (
                f" --{side}-embed-dim {shape.dim} --{side}-ffn-embed-dim {shape.ffn_dim}"
                f" --{side}-attention-heads {shape.heads}"
            )
        parser = options.get_training_parser()
        args = options.parse_args_and_arch(parser, arguments.split())
        config = convert_namespace_to_omegaconf(args)
        task = tasks.setup_task(config.task)
        model = task.build_model(config.model)
        criterion = task.build_criterion(config.criterion)
        self.trainer = Trainer(config, task, model, criterion)

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        samples = [self._sample(batch) for batch in batches]
        return _timed(lambda sample: self.trainer.train_step([sample]), samples)

    @staticmethod
    def _sample(batch: TranslationBatch) -> dict[str, Any]:
        return {
            "id": batch.index,
            "nsentences": len(batch.source),
            "ntokens": int(batch.target.ne(PAD).sum()),
            "net_input": {
                "src_tokens": batch.source,
                "src_lengths": batch.source.ne(PAD).sum(1),
                "prev_output_tokens": batch.target_input,
            },
            "target": batch.target,
        }


class _Loop:
    """A plain loop around a model that returns logits."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=0
        )

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        self.model.train()
        return _timed(self._step, batches)

    def _step(self, batch: TranslationBatch) -> None:
        self.optimizer.zero_grad()
        logits = self.logits(batch)
        F.cross_entropy(
            logits.flatten(0, 1),
            batch.target.flatten(),
            ignore_index=PAD,
            label_smoothing=SMOOTHING,
        ).backward()
        self.optimizer.step()

    def logits(self, batch: TranslationBatch) -> Tensor:
        raise NotImplementedError


class Marian(_Loop):
    """Hugging Face's Marian, in a plain loop."""

    def __init__(self, shape: Shape, data: Path) -> None:
        from transformers import MarianConfig, MarianMTModel

        sides: dict[str, Any] = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in {"attention_heads": shape.heads, "ffn_dim": shape.ffn_dim}.items()
        }
        config = MarianConfig(
            vocab_size=shape.vocabulary,
            d_model=shape.dim,
            encoder_layers=shape.encoder_layers,
            decoder_layers=shape.decoder_layers,
            dropout=shape.dropout,
            attention_dropout=0.0,
            activation_dropout=0.0,
            activation_function="relu",
            scale_embedding=True,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=EOS,
            forced_eos_token_id=None,
            max_position_embeddings=1024,
            **sides,
        )
        super().__init__(MarianMTModel(config))

    def logits(self, batch: TranslationBatch) -> Tensor:
        logits: Tensor = self.model(
            input_ids=batch.source,
            attention_mask=batch.source.ne(PAD).long(),
            decoder_input_ids=batch.target_input,
            use_cache=False,
        ).logits
        return logits


class JoeyNMT(_Loop):
    """JoeyNMT's Transformer and loss, in a plain loop."""

    def __init__(self, shape: Shape, data: Path) -> None:
        from joeynmt.model import build_model
        from joeynmt.transformer_layers import MultiHeadedAttention, PositionwiseFeedForward
        from joeynmt.vocabulary import Vocabulary

        logging.getLogger("joeynmt.model").setLevel(logging.ERROR)
        # JoeyNMT's own order, which it insists on. The model asks for the padding only: that is 1.
        specials = ("unk", "pad", "bos", "eos")
        vocabulary = Vocabulary(
            [f"{i}" for i in range(len(specials), shape.vocabulary)],
            SimpleNamespace(
                lang_tags=[],
                sep_token=None,
                **{f"{name}_token": f"<{name}>" for name in specials},
                **{f"{name}_id": i for i, name in enumerate(specials)},
            ),
        )
        sides: dict[str, Any] = {
            side: {
                "type": "transformer",
                "layer_norm": "post",
                "num_layers": layers,
                "num_heads": shape.heads,
                "hidden_size": shape.dim,
                "ff_size": shape.ffn_dim,
                "dropout": shape.dropout,
                "embeddings": {"embedding_dim": shape.dim, "scale": True},
            }
            for side, layers in (
                ("encoder", shape.encoder_layers),
                ("decoder", shape.decoder_layers),
            )
        }
        config = {**sides, "tied_embeddings": True, "tied_softmax": True}
        model = build_model(config, src_vocab=vocabulary, trg_vocab=vocabulary)
        model.loss_function = ("crossentropy", SMOOTHING)
        # Its one dropout is also that of attention and of the activation, where we have none.
        for module in model.modules():
            if isinstance(module, MultiHeadedAttention):
                module.dropout.p = 0.0
            elif isinstance(module, PositionwiseFeedForward):
                module.pwff_layer[2].p = 0.0
        super().__init__(model)

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        self.model.train()
        return _timed(self._step, [self._batch(batch) for batch in batches])

    def _step(self, batch: Any) -> None:
        self.optimizer.zero_grad()
        loss, *_ = self.model(return_type="loss", **vars(batch))
        batch.normalize(loss, "tokens").backward()
        self.optimizer.step()

    @staticmethod
    def _batch(batch: TranslationBatch) -> Any:
        from joeynmt.batch import Batch

        return Batch(
            src=batch.source,
            src_length=batch.source.ne(PAD).sum(1),
            src_prompt_mask=None,
            trg=F.pad(batch.target, (1, 0), value=BOS),
            trg_prompt_mask=None,
            indices=batch.index,
            device=torch.device("cpu"),
            pad_index=PAD,
            eos_index=EOS,
        )


class TorchNN(_Loop):
    """nn.Transformer, in a plain loop."""

    def __init__(self, shape: Shape, data: Path) -> None:
        super().__init__(_TorchTranslator(shape))

    def logits(self, batch: TranslationBatch) -> Tensor:
        logits: Tensor = self.model(batch.source, batch.target_input)
        return logits


class _TorchTranslator(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.tokens = nn.Embedding(shape.vocabulary, shape.dim, PAD)
        nn.init.normal_(self.tokens.weight, std=shape.dim**-0.5)
        self.positions = nn.Embedding(1024, shape.dim)
        self.dropout = nn.Dropout(shape.dropout)
        self.transformer = nn.Transformer(
            shape.dim,
            shape.heads,
            shape.encoder_layers,
            shape.decoder_layers,
            shape.ffn_dim,
            shape.dropout,
            batch_first=True,
        )
        # nn.Transformer ends each stack in a norm that no Post-LN paper has.
        self.transformer.encoder.norm = self.transformer.decoder.norm = None

    def embed(self, tokens: Tensor) -> Tensor:
        positions = self.positions(torch.arange(tokens.shape[1]))
        embedded: Tensor = self.tokens(tokens) * self.tokens.embedding_dim**0.5 + positions
        return self.dropout(embedded)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        padding = source.eq(PAD)
        states: Tensor = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=nn.Transformer.generate_square_subsequent_mask(target.shape[1]),
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return states @ self.tokens.weight.T


def _timed(step: Callable[[Any], object], batches: Iterable[Any]) -> float:
    first, *rest = batches
    step(first)
    begun = time.perf_counter()
    for batch in rest:
        step(batch)
    return time.perf_counter() - begun


ENGINES: dict[str, Callable[[Shape, Path], Engine]] = {
    "ours": Ours,
    "ours, bf16": OursBf16,
    "ours, compiled": OursCompiled,
    "fairseq": Fairseq,
    "HF Marian": Marian,
    "JoeyNMT": JoeyNMT,
    "torch.nn": TorchNN,
}

PACKAGES = {
    "ours": "admin_init",
    "ours, bf16": "admin_init",
    "ours, compiled": "admin_init",
    "fairseq": "fairseq",
    "HF Marian": "transformers",
    "JoeyNMT": "joeynmt",
    "torch.nn": "torch",
}
"""Where the engines come from."""

INSTALLED = [name for name in ENGINES if importlib.util.find_spec(PACKAGES[name])]
"""JoeyNMT is no part of a development environment: what it asks for would downgrade others."""
