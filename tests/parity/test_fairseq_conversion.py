"""Weights converted between fairseq's Transformer and ours: the same logits, the same searches."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import admin_init
import admin_init.fairseq
from admin_init import AdminInit
from admin_init._utils.checkpoints import read_checkpoint
from admin_init.errors import AdminInitError
from admin_init.fairseq.convert import convert_checkpoint
from admin_init.fairseq.model import FairseqTransformer
from admin_init.fairseq.weights import from_fairseq, to_fairseq
from admin_init.nn import Transformer, TransformerConfig
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.checkpoint import load_module
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.search import beam_search

CONFIG = TransformerConfig(
    vocabulary_size=50, dim=32, ffn_dim=64, heads=4, encoder_layers=2, decoder_layers=3
)
TARGET = torch.tensor([[2, 5, 6, 7], [2, 8, 9, 1], [2, 10, 1, 1]])
SOURCES = {
    "left": torch.tensor([[4, 5, 6, 2], [1, 7, 8, 2], [1, 1, 9, 2]]),
    "right": torch.tensor([[4, 5, 6, 2], [7, 8, 2, 1], [9, 2, 1, 1]]),
}
STYLES = list(
    itertools.product(
        ("post", "pre", "admin"), ("all", "target", "none"), ("sinusoidal", "learned")
    )
)


def shaken(model: FairseqTransformer) -> FairseqTransformer:
    """Move every weight off its initial value, and every omega off 1."""
    if model.config.residual == "admin":
        admin_init.install_(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    # What fairseq copies for its fused kernel follows from the weights when they are loaded.
    model.load_state_dict(model.state_dict())
    return model.eval()


@pytest.mark.parametrize(("residual", "sharing", "positions"), STYLES)
def test_logits_there_and_back(residual: str, sharing: Any, positions: Any) -> None:
    config = replace(CONFIG, residual=residual, share_embeddings=sharing, positions=positions)
    theirs = shaken(FairseqTransformer(config))
    ours = Transformer(config).eval()
    ours.load_state_dict(from_fairseq(theirs.model.state_dict()))
    back = FairseqTransformer(config).eval()
    if residual == "admin":
        admin_init.install_(back)
    back.model.load_state_dict(to_fairseq(ours.state_dict()))
    tokens = TARGET.ne(1)
    for source in SOURCES.values():
        expected = theirs(source, TARGET)[tokens]
        torch.testing.assert_close(ours(source, TARGET)[tokens], expected, rtol=0, atol=1e-5)
        assert torch.equal(back(source, TARGET)[tokens], expected)
    for name, weight in back.model.state_dict().items():
        if "_float_tensor" not in name:  # whose value fairseq never reads
            assert torch.equal(weight, theirs.model.state_dict()[name]), name


def test_weights_without_a_place_are_named() -> None:
    theirs = FairseqTransformer(CONFIG, "transformer", {"layernorm_embedding": True})
    with pytest.raises(AdminInitError, match=r"no place for .* `encoder.layernorm_embedding"):
        from_fairseq(theirs.model.state_dict())
    ours = Transformer(CONFIG).state_dict() | {"encoder.layers.0.adapter.weight": torch.ones(1)}
    with pytest.raises(AdminInitError, match=r"no place for `encoder.layers.0.adapter.weight`"):
        to_fairseq(ours)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TranslationDataModule:
    folder = tmp_path_factory.mktemp("conversion") / "data-bin"
    splits = embedded_corpus("small", seed=1, train=800, valid=20, test=100)
    corpus = ParallelCorpus(
        source_lang="en", target_lang="de", splits={str(k): v for k, v in splits.items()}
    )
    prepare(corpus, folder, vocabulary_size=300)
    return TranslationDataModule(folder, "en", "de", max_tokens=400)


@pytest.fixture(scope="module")
def checkpoint(data: TranslationDataModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fairseq Transformer with Admin that has learned a little."""
    pl.seed_everything(1, verbose=False)
    module = TranslationModule(
        replace(CONFIG, vocabulary_size=None, residual="admin"),
        OptimizationConfig(learning_rate=5e-3, warmup_steps=20),
        fairseq=FairseqConfig(),
    )
    trainer = pl.Trainer(
        max_steps=120,
        callbacks=[AdminInit()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, data)
    path = tmp_path_factory.mktemp("conversion") / "last.ckpt"
    trainer.save_checkpoint(path)
    return path


def test_searches_on_a_hundred_sentences(data: TranslationDataModule, checkpoint: Path) -> None:
    theirs = load_module(read_checkpoint(checkpoint)).transformer
    ours = Transformer(theirs.config)
    ours.load_state_dict(from_fairseq(theirs.model.state_dict()))
    outputs = set()
    # fairseq may produce <s>.
    settings: dict[str, Any] = {"beam_size": 5, "length_penalty": 0.6}
    settings |= {"max_len_a": 0.8, "max_len_b": 3}
    for batch in data.test_dataloader():
        expected = theirs.beam_search(batch.source, **settings)
        found = beam_search(ours, batch.source, forbidden=(), **settings)
        for one, other in zip(found, expected, strict=True):
            assert [h.tokens.tolist() for h in one] == [h.tokens.tolist() for h in other]
            scores = [h.score for h in other]
            assert [h.score for h in one] == pytest.approx(scores, abs=1e-5)
            outputs.add(tuple(one[0].tokens.tolist()))
    assert len(outputs) > 30


def test_checkpoints_there_and_back(checkpoint: Path, tmp_path: Path) -> None:
    assert "transformer_admin" in convert_checkpoint(checkpoint, tmp_path / "theirs.pt")
    assert "ours" in convert_checkpoint(tmp_path / "theirs.pt", tmp_path / "ours.ckpt")
    before, after = (
        load_module(read_checkpoint(checkpoint)),
        load_module(read_checkpoint(tmp_path / "ours.ckpt")),
    )
    assert isinstance(after.transformer, Transformer)
    source, target = SOURCES["right"], TARGET
    expected = before(source, target)[target.ne(1)]
    torch.testing.assert_close(after(source, target)[target.ne(1)], expected, rtol=0, atol=1e-5)
    # The data are remembered, for `admin-init translate`.
    saved = read_checkpoint(tmp_path / "ours.ckpt")
    original = read_checkpoint(checkpoint)
    assert saved["datamodule_hyper_parameters"] == original["datamodule_hyper_parameters"]
    assert saved["global_step"] == original["global_step"] == 120


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_fn": "gelu"}, "`activation_fn` is 'gelu', ours has 'relu'"),
        ({"decoder_ffn_embed_dim": 128}, "`encoder_ffn_embed_dim` is 64 and `decoder_ffn"),
    ],
)
def test_options_that_ours_does_not_have(changes: Any, message: str, tmp_path: Path) -> None:
    model = FairseqTransformer(CONFIG, None, changes)
    saved = {"args": model.options, "model": model.model.state_dict()}
    torch.save(saved, tmp_path / "theirs.pt")
    with pytest.raises(AdminInitError, match=message):
        convert_checkpoint(tmp_path / "theirs.pt", tmp_path / "ours.ckpt")
    assert not (tmp_path / "ours.ckpt").exists()


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(AdminInitError, match="no checkpoint at"):
        convert_checkpoint(tmp_path / "missing.pt", tmp_path / "out.ckpt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(AdminInitError, match="cannot be read as a checkpoint"):
        convert_checkpoint(tmp_path / "text.pt", tmp_path / "out.ckpt")
