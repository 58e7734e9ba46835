"""Lightning module for translation."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from typing_extensions import override

from admin_init._utils.checkpoints import has_omegas
from admin_init._utils.validation import Probability, check
from admin_init.nn import TransformerConfig
from admin_init.nn.loss import label_smoothed_cross_entropy
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.model import TranslationModel, as_config
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.scoring import Bleu, TokenisedBleu, score, score_tokenised
from admin_init.translation.search import SearchConfig
from admin_init.translation.test_log import record_test

_TRANSFORMER = TransformerConfig()
_OPTIMIZATION = OptimizationConfig()
_SEARCH = SearchConfig()


class TranslationModule(TranslationModel, pl.LightningModule):
    """Trains a Transformer with label-smoothed cross-entropy, and translates with it.

    The Transformer is our own, or fairseq's if ``fairseq`` is given.

    Training logs ``train_loss``, the label-smoothed loss per token. Validation logs ``val_nll``,
    the negative log-likelihood per target token, in nats and without label smoothing, and
    ``val_source_gain``, the increase of ``val_nll`` when each sentence gets the source of another
    sentence in its batch. If the gain is near 0, the model ignores its source and is only a
    language model. Batches of one sentence are left out of the gain; if all batches have one
    sentence, the gain is NaN.

    Testing logs ``test_bleu``, sacreBLEU on detokenized text, and ``test_bleu_tokenised``, the BLEU
    that ``fairseq-generate`` computes on tokens. Predicting returns translations.

    Args:
        transformer: Configuration of the model.
        optimization: Optimizer and learning-rate schedule.
        search: Settings of the beam search.
        label_smoothing: Probability mass spread over the vocabulary (Szegedy et al. 2016).
        fairseq: Build the model with fairseq, and translate with fairseq's beam search.

    Each configuration may also be a dictionary of its fields, as in checkpoints.

    Raises:
        AdminInitError: A value is out of its range.

    Examples:
        >>> from admin_init.nn import TransformerConfig
        >>> shape = TransformerConfig(dim=16, ffn_dim=32, heads=2, vocabulary_size=100)
        >>> module = TranslationModule(shape)
        >>> source, target_input = torch.full((2, 5), 7), torch.full((2, 3), 8)
        >>> module(source, target_input).shape
        torch.Size([2, 3, 100])
    """

    def __init__(
        self,
        # Not `| dict`: the command line would then accept any value unchecked.
        transformer: TransformerConfig = _TRANSFORMER,
        optimization: OptimizationConfig = _OPTIMIZATION,
        search: SearchConfig = _SEARCH,
        *,
        label_smoothing: Probability = 0.1,
        fairseq: FairseqConfig | None = None,
    ) -> None:
        check(TranslationModule.__init__, locals())
        config: TransformerConfig = as_config(TransformerConfig, transformer)
        super().__init__(config, search, fairseq=fairseq)
        self.optimization: OptimizationConfig = as_config(OptimizationConfig, optimization)
        self.label_smoothing = label_smoothing
        self.bleu: Bleu | None = None
        """sacreBLEU of the last test, with its signature."""
        self.tokenised_bleu: TokenisedBleu | None = None
        """BLEU of the last test on tokens, as fairseq-generate computes it."""
        self._remember(config)

    def _remember(self, config: TransformerConfig) -> None:
        # Primitives only: a checkpoint is read with weights_only=True.
        self.save_hyperparameters(
            {
                "transformer": asdict(config),
                "optimization": asdict(self.optimization),
                "search": asdict(self.search),
                "label_smoothing": self.label_smoothing,
                "fairseq": None if self.fairseq is None else asdict(self.fairseq),
            }
        )

    @override
    def setup(self, stage: str) -> None:
        """Build the model now if its vocabulary size comes from the data."""
        if self.config.vocabulary_size is None:
            config = replace(self.config, vocabulary_size=self._data.vocabulary_size)
            self._build(config)
            self._remember(config)

    def attach(self, data: TranslationDataModule) -> None:
        """Set the data and build the model, as a Trainer does before fitting."""
        self.data = data
        self.setup("fit")

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the residual style as Post-LN if the omegas have been folded away."""
        settings = checkpoint["hyper_parameters"]
        shape = settings["transformer"]
        if shape["residual"].startswith("admin") and not has_omegas(checkpoint["state_dict"]):
            plain = shape | {"residual": "post"}
            checkpoint["hyper_parameters"] = settings | {"transformer": plain}

    def loss(self, batch: TranslationBatch) -> Tensor:
        """Compute the training loss of a batch: a scalar, see :meth:`loss_of`."""
        return self.loss_of(self(batch.source, batch.target_input), batch)

    def loss_of(self, logits: Tensor, batch: TranslationBatch) -> Tensor:
        """Compute the label-smoothed cross-entropy per target token: a scalar.

        Args:
            logits: Logits of the batch. *Shape:* (N, T, V). On a CPU, logits that require a
                gradient are overwritten, see
                :func:`~admin_init.nn.loss.label_smoothed_cross_entropy`.
            batch: The batch.
        """
        return label_smoothed_cross_entropy(
            logits.flatten(0, 1),
            batch.target.flatten(),
            label_smoothing=self.label_smoothing,
            ignore_index=self.config.padding_idx,
        )

    @override
    def training_step(self, batch: TranslationBatch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch.target))
        return loss

    @override
    def validation_step(self, batch: TranslationBatch, batch_idx: int) -> None:
        tokens = int(batch.target.ne(self.config.padding_idx).sum())
        nll = self.nll(batch)
        shuffled = self.nll(batch._replace(source=batch.source.roll(1, dims=0)))
        self.log("val_nll", nll, prog_bar=True, batch_size=tokens, sync_dist=True)
        # A batch of one sentence has no other source, so its gain of 0 must not count.
        weight = tokens if len(batch.source) > 1 else 0
        self.log("val_source_gain", shuffled - nll, batch_size=weight, sync_dist=True)

    def nll(self, batch: TranslationBatch) -> Tensor:
        """Compute the negative log-likelihood in nats per target token: a scalar."""
        return F.cross_entropy(
            self(batch.source, batch.target_input).float().flatten(0, 1),
            batch.target.flatten(),
            ignore_index=self.config.padding_idx,
        )

    @override
    def on_test_epoch_start(self) -> None:
        self._tested: dict[int, tuple[list[str], list[str]]] = {}

    @override
    def test_step(self, batch: TranslationBatch, batch_idx: int) -> None:
        targets = map(self._data.target_dictionary.decode, batch.target.tolist())
        pairs = zip(self.subwords(batch.source), targets, strict=True)
        self._tested |= dict(zip(batch.index.tolist(), pairs, strict=True))

    @override
    def on_test_epoch_end(self) -> None:
        data, references = self._data, self._data.references("test")
        tested = sorted(gather_from_ranks(self._tested).items())
        self.bleu = score(
            [data.tokenizer.decode(hypothesis) for _, (hypothesis, _) in tested],
            [references[index] for index, _ in tested],
            data.target_lang,
        )
        self.tokenised_bleu = score_tokenised(*zip(*(pair for _, pair in tested), strict=True))
        self.log("test_bleu", self.bleu.score, rank_zero_only=True)
        self.log("test_bleu_tokenised", self.tokenised_bleu.score, rank_zero_only=True)
        if self.trainer.is_global_zero and self.trainer.ckpt_path:
            record_test(self.trainer.ckpt_path, data.folder, self.bleu, self.tokenised_bleu)

    @override
    def teardown(self, stage: str) -> None:
        """Log the scores of a test, now that the progress bar has left the line."""
        if stage == "test":
            for found in filter(None, (self.bleu, self.tokenised_bleu)):
                rank_zero_info(str(found))

    @override
    def predict_step(self, batch: TranslationBatch, batch_idx: int) -> list[tuple[int, str]]:
        """Return the index in the split, and the translation, of each sentence."""
        return list(zip(batch.index.tolist(), self.translate(batch.source), strict=True))

    @override
    def configure_optimizers(self) -> Any:
        clipped = False
        with suppress(RuntimeError):  # raised if no Trainer is attached
            clipped = bool(self.trainer.gradient_clip_val) or self.trainer.scaler is not None
        # With a fused optimizer under autocast, Lightning does not clip gradients, and callbacks
        # see gradients that are still scaled.
        optimizer, schedule = self.optimization.build(self.parameters(), fused=not clipped)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    @property
    @override
    def _data(self) -> TranslationDataModule:
        """The data module: `data` if it is set, else the trainer's."""
        data: Any = self.data
        if data is None:
            with suppress(RuntimeError):  # raised if no Trainer is attached
                data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TranslationDataModule):
            raise TypeError(
                "TranslationModule takes its subwords from a TranslationDataModule, but has "
                f"{type(data).__name__}. Set `data`, or pass such a data module to the trainer."
            )
        return data


def gather_from_ranks(own: dict[int, Any]) -> dict[int, Any]:
    """Merge the results of all ranks, which are stored by the index of the sentence."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return own
    ranks: list[dict[int, Any]] = [{}] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(ranks, own)
    return {index: value for rank in ranks for index, value in rank.items()}
