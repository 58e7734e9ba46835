from dataclasses import asdict
from pathlib import Path

import pytest
import pytorch_lightning as pl
import sacrebleu
import torch
from _helpers.small_translation import BATCH, PAD, config, data, module, trainer
from torch import Tensor
from torch.utils.data import DataLoader

from admin_init.translation.corpora.synthetic.grammar import SentencePair, embedded_corpus
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.module import TranslationModule
from admin_init.translation.search import SearchConfig, beam_search


def sentence_nlls(model: TranslationModule, batch: TranslationBatch) -> list[list[float]]:
    """-log p of every target token that is no padding, row by row, from the logits."""
    with torch.no_grad():
        log_probs = torch.log_softmax(model(batch.source, batch.target_input).double(), dim=-1)
    return [
        [-log_probs[n, t, token].item() for t, token in enumerate(row) if token != PAD]
        for n, row in enumerate(batch.target.tolist())
    ]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_loss_by_hand(smoothing: float) -> None:
    model = module(smoothing, vocabulary_size=12)
    log_probs = torch.log_softmax(model(BATCH.source, BATCH.target_input).detach().double(), -1)
    losses = []
    for n, row in enumerate(BATCH.target.tolist()):
        for t, token in enumerate(row):
            if token != PAD:
                target = [smoothing / 12] * 12
                target[token] += 1 - smoothing
                losses.append(
                    -sum(q * p.item() for q, p in zip(target, log_probs[n, t], strict=True))
                )
    loss = model.training_step(BATCH, 0)
    assert len(losses) == 8
    assert loss.item() == pytest.approx(sum(losses) / 8, rel=1e-5)


def test_nll_has_no_label_smoothing() -> None:
    model = module(0.5, vocabulary_size=12)
    expected = [nll for row in sentence_nlls(model, BATCH) for nll in row]
    assert model.nll(BATCH).item() == pytest.approx(sum(expected) / 8, rel=1e-5)


def test_validation_by_hand(data_bin: Path) -> None:
    """Over the tokens of the split, not over its batches, which have different sizes."""
    model = module(vocabulary_size=None, dropout=0.3)
    (logged,) = trainer().validate(model, data(data_bin, max_tokens=150), verbose=False)
    model.eval()
    own: list[float] = []
    gains: list[float] = []
    sizes = []
    for batch in data(data_bin, max_tokens=150).val_dataloader():
        rows = len(batch.source)
        other = batch.source[[(n - 1) % rows for n in range(rows)]]
        nlls = [nll for row in sentence_nlls(model, batch) for nll in row]
        shuffled = [x for row in sentence_nlls(model, batch._replace(source=other)) for x in row]
        own += nlls
        if rows > 1:
            gains += [x - nll for x, nll in zip(shuffled, nlls, strict=True)]
        sizes.append(int(batch.target.ne(PAD).sum()))
    assert len(set(sizes)) > 1
    assert logged["val_nll"] == pytest.approx(sum(own) / sum(sizes), rel=1e-5)
    assert logged["val_source_gain"] == pytest.approx(sum(gains) / len(gains), abs=2e-5)
    assert abs(logged["val_source_gain"]) > 1e-3


def test_a_sentence_alone_in_its_batch_does_not_count_as_one_without_gain() -> None:
    model = module(vocabulary_size=12)
    alone = TranslationBatch(*(tensor[:1] for tensor in BATCH))
    gains = []
    for batches in ([BATCH], [alone, BATCH, alone]):
        loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
        (logged,) = trainer().validate(model, loader, verbose=False)
        gains.append(logged["val_source_gain"])
    assert gains[0] != 0
    assert gains[1] == pytest.approx(gains[0])


class Clipped(TranslationModule):
    """Knows every third translation, and the first three words of the others."""

    pairs: list[SentencePair]

    def subwords(self, source: Tensor) -> list[list[str]]:
        known = {self._sentence(pair.source): i for i, pair in enumerate(self.pairs)}
        sentences = [known[self._sentence_of(row)] for row in source]
        return [self._data.tokenizer.encode(self.hypothesis(i)) for i in sentences]

    def hypothesis(self, index: int) -> str:
        words = self.pairs[index].target.split()
        return " ".join(words if index % 3 == 0 else words[:3])

    def _sentence_of(self, row: Tensor) -> str:
        pieces = self._data.source_dictionary.decode([i for i in row.tolist() if i != PAD])
        return self._data.tokenizer.decode(pieces)

    def _sentence(self, text: str) -> str:
        return self._data.tokenizer.decode(self._data.tokenizer.encode(text))


class Bar(pl.Callback):
    """Has a line of the terminal, until it is torn down."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.lines.append("the end of the bar")


def test_bleu_is_that_of_the_split_in_its_order(
    data_bin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("admin_init.translation.module.rank_zero_info", said.append)
    source = data(data_bin, max_tokens=100)
    model = Clipped(config(), search=SearchConfig(beam_size=1))
    model.pairs = embedded_corpus(train=200, valid=30, test=30)["test"]
    (logged,) = trainer(callbacks=[Bar(said)]).test(model, source, verbose=False)
    assert said == ["the end of the bar", str(model.bleu), str(model.tokenised_bleu)]
    references = [pair.target for pair in model.pairs]
    expected = sacrebleu.corpus_bleu([model.hypothesis(i) for i in range(30)], [references])
    assert logged["test_bleu"] == pytest.approx(expected.score, rel=1e-6)
    assert model.bleu is not None
    assert "tok:13a" in model.bleu.signature
    # The other score splits at spaces only; these sentences end in a full stop.
    words = sacrebleu.corpus_bleu(
        [model.hypothesis(i) for i in range(30)], [references], tokenize="none"
    )
    assert logged["test_bleu_tokenised"] == pytest.approx(words.score, rel=1e-6)
    assert logged["test_bleu_tokenised"] != logged["test_bleu"]
    assert 5 < expected.score < 95
    assert len(source.test_dataloader()) > 2


def test_prediction_says_where_each_sentence_stands(data_bin: Path) -> None:
    model, source = module(vocabulary_size=None), data(data_bin)
    predicted = trainer().predict(model, source)
    assert predicted is not None
    found = dict(pair for batch in predicted for pair in batch)
    assert sorted(found) == list(range(30))
    for batch in source.test_dataloader():
        for row, index in enumerate(batch.index.tolist()):
            only = batch.source[row : row + 1]
            ((hypothesis, *_),) = beam_search(model.transformer, only, **asdict(model.search))
            pieces = source.target_dictionary.decode(hypothesis.tokens.tolist())
            assert found[index] == source.tokenizer.decode(pieces)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_is_a_share(smoothing: float) -> None:
    with pytest.raises(ValueError, match=f"below 1, but is {smoothing}"):
        module(smoothing)


def test_settings_may_be_dictionaries() -> None:
    model = module(vocabulary_size=12)
    again = TranslationModule(**model.hparams)
    assert (again.config, again.search) == (model.config, model.search)
    with pytest.raises(TypeError, match="'width'"):
        TranslationModule({"width": 16})  # type: ignore[arg-type]
