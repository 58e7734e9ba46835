"""Four ways to translate the same batches with the same weights.

Each engine is built from our Transformer, and has a ``translate`` that returns the best hypothesis
of every sentence, ``</s>`` included.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch import Tensor

import admin_init
from admin_init.checkpoints import has_omegas, read_checkpoint
from admin_init.nn import Transformer
from admin_init.translation.batching import TranslationBatch
from admin_init.translation.checkpoint import load_module
from admin_init.translation.memory import keep_freed_memory
from admin_init.translation.search import beam_search

BOS, PAD, EOS, UNK = range(4)
MAX_LENGTH = 200
"""Tokens of the longest translation, ``</s>`` not counted: the default of ours and of fairseq."""


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


class TimedEngine:
    """The engine of one name, and a clock.

    Args:
        name: One of :data:`ENGINES`.
        checkpoint: Of a TranslationModule, Post-LN or Admin.
        data: The prepared folder.
        beam_size: Number of hypotheses per sentence.
        clock: One of :data:`CLOCKS`.
    """

    def __init__(self, name: str, checkpoint: Path, data: Path, beam_size: int, clock: str) -> None:
        self.engine = ENGINES[name](plain(checkpoint), data, beam_size)
        self.clock = CLOCKS[clock]

    def version(self) -> str:
        return self.engine.version

    def translate(self, batch: TranslationBatch) -> tuple[list[list[int]], float]:
        """Return what the engine finds, and the seconds that it takes."""
        begun = self.clock()
        found = self.engine.translate(batch)
        return found, self.clock() - begun


def plain(checkpoint: Path) -> Transformer:
    """Read our model, in eval mode, its omegas folded: other libraries have no place for them."""
    module = load_module(read_checkpoint(checkpoint))
    model = module.transformer
    assert isinstance(model, Transformer)
    if has_omegas(model.state_dict()):
        admin_init.fold_(model)
        model.config = replace(model.config, residual="post")
    return model.eval()


class Engine(Protocol):
    """One library's model and search."""

    version: str

    def translate(self, batch: TranslationBatch) -> list[list[int]]: ...


class Ours:
    """Our Transformer and beam search."""

    version = "this working tree"

    def __init__(self, model: Transformer, data: Path, beam_size: int) -> None:
        keep_freed_memory()  # as our Translator does
        self.model = model
        self.beam_size = beam_size

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        found = beam_search(
            self.model, batch.source, beam_size=self.beam_size, max_len_b=MAX_LENGTH
        )
        return [hypotheses[0].tokens.tolist() for hypotheses in found]


class Fairseq:
    """fairseq's Transformer and SequenceGenerator, as ``fairseq-generate`` uses them."""

    def __init__(self, model: Transformer, data: Path, beam_size: int) -> None:
        self.model = _fairseqs(model)
        import fairseq
        from fairseq import options, tasks
        from fairseq.dataclass.utils import convert_namespace_to_omegaconf

        logging.getLogger("fairseq").setLevel(logging.ERROR)
        arguments = f"{data} --path unused --cpu --beam {beam_size} --max-len-b {MAX_LENGTH}"
        parser = options.get_generation_parser()
        args = options.parse_args_and_arch(parser, arguments.split())
        cfg = convert_namespace_to_omegaconf(args)
        self.version = fairseq.__version__
        self.task = tasks.setup_task(cfg.task)
        self.model.prepare_for_inference_(cfg)
        self.generator = self.task.build_generator([self.model], cfg.generation)

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        sample = {
            "id": batch.index,
            "net_input": {
                "src_tokens": batch.source,
                "src_lengths": batch.source.ne(PAD).sum(1),
                "prev_output_tokens": batch.target_input,
            },
        }
        found = self.task.inference_step(self.generator, [self.model], sample)
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]


class Marian:
    """Hugging Face's Marian and its ``generate``.

    It stops where it has as many hypotheses as the beam is wide, like the others.
    """

    def __init__(self, model: Transformer, data: Path, beam_size: int) -> None:
        import transformers
        from transformers import MarianConfig, MarianMTModel

        theirs = _fairseqs(model)
        config = model.config
        sides: dict[str, Any] = {
            f"{side}_{name}": value
            for side in ("encoder", "decoder")
            for name, value in {
                "attention_heads": config.heads,
                "ffn_dim": config.ffn_dim,
                "layers": getattr(config, f"{side}_layers"),
            }.items()
        }
        self.version = transformers.__version__
        self.model = MarianMTModel(
            MarianConfig(
                vocab_size=config.vocabulary_size,
                d_model=config.dim,
                activation_function="relu",
                scale_embedding=True,
                pad_token_id=PAD,
                eos_token_id=EOS,
                decoder_start_token_id=EOS,
                forced_eos_token_id=EOS,
                max_position_embeddings=config.max_positions,
                **sides,
            )
        ).eval()
        self.model.model.load_state_dict(theirs.state_dict(), strict=False)
        self.model.tie_weights()
        table = model.encoder_embedding.positions.table  # type: ignore[union-attr]
        with torch.no_grad():
            for side in (self.model.model.encoder, self.model.model.decoder):
                # Ours number positions as fairseq does, from after the padding.
                side.embed_positions.weight.copy_(table[PAD + 1 :])
        self.search: dict[str, Any] = {
            "num_beams": beam_size,
            "max_new_tokens": MAX_LENGTH + 1,
            "min_new_tokens": 2,
            "early_stopping": True,
            "length_penalty": 1.0,
            "do_sample": False,
            "bad_words_ids": [[BOS], [PAD]],
        }

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        found: Tensor = self.model.generate(
            input_ids=batch.source, attention_mask=batch.source.ne(PAD).long(), **self.search
        )
        return [[*row[: row.index(EOS)], EOS] for row in found[:, 1:].tolist()]


class CTranslate2:
    """CTranslate2, whose weights are those that its converter takes from fairseq's model."""

    def __init__(self, model: Transformer, data: Path, beam_size: int) -> None:
        import ctranslate2
        from ctranslate2.converters import fairseq as converter
        from ctranslate2.specs import TransformerSpec

        theirs = _fairseqs(model).requires_grad_(False)
        config = model.config
        assert config.vocabulary_size is not None
        self.words = ["<s>", "<blank>", "</s>", "<unk>"]
        self.words += [f"{i}" for i in range(len(self.words), config.vocabulary_size)]
        self.ids = {word: i for i, word in enumerate(self.words)}
        spec = TransformerSpec.from_config(
            (config.encoder_layers, config.decoder_layers), config.heads, pre_norm=False
        )
        converter.set_transformer_encoder(spec.encoder, theirs.encoder)
        converter.set_transformer_decoder(spec.decoder, theirs.decoder)
        spec.register_source_vocabulary(self.words)
        spec.register_target_vocabulary(self.words)
        spec.config.decoder_start_token = spec.config.eos_token
        spec.validate()
        spec.optimize(quantization="float32")
        self.version = ctranslate2.__version__
        with TemporaryDirectory() as folder:
            spec.save(folder)
            self.translator = ctranslate2.Translator(
                folder,
                device="cpu",
                compute_type="float32",
                inter_threads=1,
                intra_threads=torch.get_num_threads(),
            )
        self.search = {
            "beam_size": beam_size,
            "max_decoding_length": MAX_LENGTH,
            "min_decoding_length": 1,
            "length_penalty": 1.0,
        }

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        source = [[self.words[i] for i in row if i != PAD] for row in batch.source.tolist()]
        found = self.translator.translate_batch(source, **self.search)
        return [[*map(self.ids.__getitem__, result.hypotheses[0]), EOS] for result in found]


def _fairseqs(model: Transformer) -> Any:
    """Convert our model, in eval mode, to a ``TransformerModel`` of fairseq's."""
    from admin_init.fairseq.model import FairseqTransformer
    from admin_init.fairseq.weights import to_fairseq

    theirs = FairseqTransformer(model.config).model.eval()
    theirs.load_state_dict(to_fairseq(model.state_dict()))
    return theirs


ENGINES: dict[str, Callable[[Transformer, Path, int], Engine]] = {
    "ours": Ours,
    "fairseq": Fairseq,
    "HF Marian": Marian,
    "CTranslate2": CTranslate2,
}
