"""Tokenised BLEU is that of fairseq's own scorer, and what fairseq-generate prints."""

import contextlib
import io
import os
import random
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from fairseq import options, utils
from fairseq.data import Dictionary
from fairseq.scoring.bleu import BleuConfig, Scorer
from fairseq_cli import generate

from admin_init.fairseq.convert import convert_checkpoint
from admin_init.nn import TransformerConfig
from admin_init.translation.backend import FairseqConfig
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.scoring import score_tokenised
from admin_init.translation.search import SearchConfig

PIECES = {
    "subword_nmt": [
        "ein",
        "Hun@@",
        "d",
        "lä@@",
        "uft",
        "@-@",
        "&apos;s",
        ".",
        "▁@@",
        "a@@",
        "\xa0",
    ],
    "sentencepiece": ["▁ein", "▁Hun", "d", "▁lä", "uft", "▁", "'", ".", "▁@@", "▁a", "@@"],
}


def sentences(kind: str, count: int, longest: int) -> tuple[list[list[str]], list[list[str]]]:
    """Hypotheses and references that have much in common, with unknown pieces in both."""
    draw = random.Random(1)
    vocabulary = [*PIECES[kind], "<unk>"]
    references = [
        [PIECES[kind][0], *draw.choices(vocabulary, k=draw.randint(0, longest - 1))]
        for _ in range(count)
    ]
    hypotheses = [
        [draw.choice(vocabulary) if draw.random() < 0.1 else p for p in r if draw.random() > 0.05]
        for r in references
    ]
    for side, i in ((hypotheses, 1), (references, 2), (hypotheses, 3), (references, 3)):
        if i < count:
            side[i] = []
    return hypotheses, references


def fairseqs(kind: str, hypotheses: list[list[str]], references: list[list[str]]) -> Scorer:
    """Score as fairseq_cli.generate does, from ids on."""
    dictionary = Dictionary()
    for piece in PIECES[kind]:
        dictionary.add_symbol(piece)
    scorer = Scorer(BleuConfig())
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        target, found = (
            torch.tensor([*map(dictionary.index, pieces), dictionary.eos()], dtype=torch.int)
            for pieces in (reference, hypothesis)
        )
        eos = {dictionary.eos()}
        text = dictionary.string(target, kind, escape_unk=True, extra_symbols_to_ignore=eos)
        _, spelled, _ = utils.post_process_prediction(
            found, "", None, None, dictionary, remove_bpe=kind, extra_symbols_to_ignore=eos
        )
        scorer.add(
            dictionary.encode_line(text, add_if_not_exist=True),
            dictionary.encode_line(spelled, add_if_not_exist=True),
        )
    return scorer


@pytest.mark.parametrize("kind", PIECES)
@pytest.mark.parametrize(("count", "longest"), [(400, 30), (1, 4), (5, 3)])
def test_it_is_that_of_fairseqs_scorer(kind: str, count: int, longest: int) -> None:
    hypotheses, references = sentences(kind, count, longest)
    theirs = fairseqs(kind, hypotheses, references)
    ours = score_tokenised(hypotheses, references)
    assert ours.line == theirs.result_string()
    assert ours.score == pytest.approx(theirs.score(), abs=1e-9)
    if count == 400:
        assert 20 < ours.score < 90


def test_it_is_what_fairseq_generate_prints(tmp_path: Path) -> None:
    splits = embedded_corpus("small", seed=1, train=600, valid=20, test=60)
    # In no training pair, so there is no such character in the dictionary.
    test = [
        (pair.source, f"{pair.target} ☃" if i % 10 == 0 else pair.target)
        for i, pair in enumerate(splits["test"])
    ]
    corpus = ParallelCorpus(
        source_lang="en",
        target_lang="de",
        splits={"train": splits["train"], "valid": splits["valid"], "test": test},
    )
    prepare(corpus, tmp_path / "data-bin", vocabulary_size=300)
    data = TranslationDataModule(tmp_path / "data-bin", "en", "de", max_tokens=400)
    pl.seed_everything(1, verbose=False)
    shape = {"dim": 32, "ffn_dim": 64, "heads": 4, "encoder_layers": 1, "decoder_layers": 1}
    module = TranslationModule(
        TransformerConfig(**shape, dropout=0.0),
        OptimizationConfig(learning_rate=1e-2, warmup_steps=20),
        SearchConfig(beam_size=2, max_len_a=0, max_len_b=40),
        fairseq=FairseqConfig(),
    )
    trainer = pl.Trainer(
        max_steps=240,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer.test(module, data, verbose=False)
    convert_checkpoint(tmp_path / "last.ckpt", tmp_path / "last.pt")

    arguments = [str(tmp_path / "data-bin"), "--path", str(tmp_path / "last.pt"), "--cpu"]
    arguments += ["--beam", "2", "--max-len-b", "40", "--remove-bpe", "sentencepiece"]
    parser = options.get_generation_parser()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        generate.main(options.parse_args_and_arch(parser, arguments))
    os.environ.pop("PYTHONWARNINGS", None)  # which fairseq's iterators set
    last = printed.getvalue().splitlines()[-1]
    assert "<unk>" in printed.getvalue()
    assert module.tokenised_bleu is not None
    assert module.tokenised_bleu.score > 1
    assert last == f"Generate test with beam=2: {module.tokenised_bleu.line}"
