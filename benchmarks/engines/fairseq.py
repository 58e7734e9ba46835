"""fairseq: its Transformer in its Trainer, and its SequenceGenerator."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from admin_init.fairseq.model import FairseqTransformer
from admin_init.fairseq.weights import to_fairseq
from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.data.batching import TranslationBatch
from engines.loop import BETAS, LEARNING_RATE, SMOOTHING, timed
from engines.tokens import PAD

# isort: split
# After admin_init.fairseq, which makes it run.
import fairseq
from fairseq import options, tasks
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.trainer import Trainer

logging.getLogger("fairseq").setLevel(logging.ERROR)


class Training:
    """As ``fairseq-train`` does it."""

    def __init__(self, config: TransformerConfig, data: Path) -> None:
        arguments = (
            f"{data} --arch transformer --cpu --optimizer adam --adam-betas ({BETAS[0]},{BETAS[1]})"
            f" --lr {LEARNING_RATE} --lr-scheduler fixed --criterion label_smoothed_cross_entropy"
            f" --label-smoothing {SMOOTHING} --dropout {config.dropout} --max-tokens 4096"
            f" --share-all-embeddings --encoder-layers {config.encoder_layers}"
            f" --decoder-layers {config.decoder_layers}"
        )
        for side in ("encoder", "decoder"):
            arguments += (
                f" --{side}-embed-dim {config.dim} --{side}-ffn-embed-dim {config.ffn_dim}"
                f" --{side}-attention-heads {config.heads}"
            )
        theirs = _parsed(options.get_training_parser(), arguments)
        task = tasks.setup_task(theirs.task)
        model = task.build_model(theirs.model)
        self.trainer = Trainer(theirs, task, model, task.build_criterion(theirs.criterion))

    def train(self, batches: Sequence[TranslationBatch]) -> float:
        samples = [
            {
                **_sample(batch),
                "nsentences": len(batch.source),
                "ntokens": int(batch.target.ne(PAD).sum()),
                "target": batch.target,
            }
            for batch in batches
        ]
        return timed(lambda sample: self.trainer.train_step([sample]), samples)


class Search:
    """As ``fairseq-generate`` does it."""

    version = fairseq.__version__

    def __init__(self, model: Transformer, data: Path, beam_size: int, max_length: int) -> None:
        arguments = f"{data} --path unused --cpu --beam {beam_size} --max-len-b {max_length}"
        theirs = _parsed(options.get_generation_parser(), arguments)
        self.model = converted(model)
        self.model.prepare_for_inference_(theirs)
        self.task = tasks.setup_task(theirs.task)
        self.generator = self.task.build_generator([self.model], theirs.generation)

    def translate(self, batch: TranslationBatch) -> list[list[int]]:
        found = self.task.inference_step(self.generator, [self.model], _sample(batch))
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]


def converted(model: Transformer) -> Any:
    """Convert our model, in eval mode, to a ``TransformerModel`` of fairseq's."""
    theirs = FairseqTransformer(model.config).model.eval()
    theirs.load_state_dict(to_fairseq(model.state_dict()))
    return theirs


def _parsed(parser: Any, arguments: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of how fairseq calls hydra
        args = options.parse_args_and_arch(parser, arguments.split())
        return convert_namespace_to_omegaconf(args)


def _sample(batch: TranslationBatch) -> dict[str, Any]:
    return {
        "id": batch.index,
        "net_input": {
            "src_tokens": batch.source,
            "src_lengths": batch.source.ne(PAD).sum(1),
            "prev_output_tokens": batch.target_input,
        },
    }
