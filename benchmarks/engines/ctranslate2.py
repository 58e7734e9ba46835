"""CTranslate2, whose weights are those that its converter takes from fairseq's model."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import ctranslate2
import torch
from ctranslate2.converters import fairseq as converter
from ctranslate2.specs import TransformerSpec

from admin_init.nn import Transformer
from admin_init.translation.data.batching import TranslationBatch
from engines import fairseq
from engines.tokens import EOS, PAD


class Search:
    """Its Translator, in float32, of as many threads as torch has."""

    version = ctranslate2.__version__

    def __init__(self, model: Transformer, data: Path, beam_size: int, max_length: int) -> None:
        theirs = fairseq.converted(model).requires_grad_(False)
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
        with TemporaryDirectory() as folder:
            spec.save(folder)
            self.translator = ctranslate2.Translator(
                folder,
                device="cpu",
                compute_type="float32",
                inter_threads=1,
                intra_threads=torch.get_num_threads(),
            )
        self.options = {
            "beam_size": beam_size,
            "max_decoding_length": max_length,
            "min_decoding_length": 1,
            "length_penalty": 1.0,
        }

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        source = [[self.words[i] for i in row if i != PAD] for row in batch.source.tolist()]
        found = self.translator.translate_batch(source, **self.options)
        return [[*map(self.ids.__getitem__, result.hypotheses[0]), EOS] for result in found]
