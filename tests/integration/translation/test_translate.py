import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from _helpers import fresh

from admin_init import AdminInit, AdminInitError
from admin_init.errors import CorpusError
from admin_init.nn import TransformerConfig
from admin_init.nn.inference import OneDNNLinear
from admin_init.translation.corpora.config import CorpusConfig
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus
from admin_init.translation.data.batching import TranslationBatch
from admin_init.translation.data.databin import IndexedDatasetBuilder
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.module import TranslationModule
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.search import SearchConfig, beam_search
from admin_init.translation.translate import Translator

LINES = [pair.source for pair in embedded_corpus(train=0, valid=0, test=20)["test"]]


@pytest.fixture(scope="module")
def checkpoint(data_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of a few steps, with omegas."""
    path = tmp_path_factory.mktemp("run") / "last.ckpt"
    torch.manual_seed(0)
    model = TranslationModule(
        TransformerConfig(
            dim=32, ffn_dim=64, heads=2, encoder_layers=1, decoder_layers=1, max_positions=40
        ),
        OptimizationConfig(learning_rate=1e-2, warmup_steps=2),
        SearchConfig(beam_size=3, max_len_a=1.0, max_len_b=5),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=100,
        limit_val_batches=0,
        callbacks=[AdminInit()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(model, TranslationDataModule(data_bin, "en", "de", max_tokens=300))
    trainer.save_checkpoint(path)
    return path


def by_hand(checkpoint: Path, data_bin: Path, lines: list[str], **search: Any) -> list[str]:
    """Translate sentence by sentence, each a batch of its own."""
    data = TranslationDataModule(data_bin, "en", "de")
    model = TranslationModule.load_from_checkpoint(checkpoint)
    options = asdict(model.search) | search
    found = []
    for line in lines:
        ids = data.source_dictionary.encode(data.tokenizer.encode(line))
        ((best, *_),) = beam_search(model.transformer, torch.tensor([ids]), **options)
        found.append(data.tokenizer.decode(data.target_dictionary.decode(best.tokens.tolist())))
    return found


def test_lines_are_translated_in_their_order(checkpoint: Path, data_bin: Path) -> None:
    expected = by_hand(checkpoint, data_bin, LINES)
    assert len(set(expected)) > 1
    translator = Translator(checkpoint)
    assert list(translator(LINES)) == expected
    assert list(translator(iter(LINES), batch_size=3)) == expected
    assert list(translator(f"  {line}\r\n" for line in LINES)) == expected


def test_only_what_translates_is_imported(checkpoint: Path) -> None:
    expected = list(Translator(checkpoint)(LINES[:1]))
    heavy = ["pytorch_lightning", "lightning_fabric", "torchmetrics", "matplotlib", "sacrebleu"]
    heavy += ["tensorboard", "torch._dynamo", "transformers", "fairseq", "admin_init.lab"]
    code = (
        "import io\n"
        "from admin_init.cli.main import main\n"
        f"sys.stdin = io.TextIOWrapper(io.BytesIO({LINES[0].encode()!r}))\n"
        "try:\n"
        f"    main(['translate', '--checkpoint', {str(checkpoint)!r}])\n"
        "finally:\n"
        f"    print([name for name in {heavy} if name in sys.modules])\n"
    )
    run = fresh.run(code)
    assert run.stdout.splitlines() == [*expected, "[]"]


def test_a_line_out_for_each_line_in(checkpoint: Path) -> None:
    translator = Translator(checkpoint)
    first, second = translator(LINES[:2])
    lines = ["", LINES[0], "\n", " \t\n", LINES[1] + "\n", "\u200b", ""]
    assert list(translator(lines, batch_size=2)) == ["", first, "", "", second, "", ""]
    assert list(translator([])) == []
    assert list(translator([""])) == [""]
    assert len(list(translator(["漢字 \u2028 🙂\n", "x\x0by\x85z\n"]))) == 2


def test_the_search_can_be_overruled(checkpoint: Path, data_bin: Path) -> None:
    translator = Translator(checkpoint, beam_size=1, length_penalty=0.3)
    assert translator.module.search == SearchConfig(
        beam_size=1, length_penalty=0.3, max_len_a=1.0, max_len_b=5
    )
    expected = by_hand(checkpoint, data_bin, LINES, beam_size=1, length_penalty=0.3)
    assert list(translator(LINES)) == expected
    # A value that counts as nothing is a value.
    assert Translator(checkpoint, length_penalty=0.0).module.search.length_penalty == 0.0


def test_data_that_have_moved(checkpoint: Path, data_bin: Path) -> None:
    shutil.copytree(data_bin, "moved")
    saved = torch.load(checkpoint, weights_only=True)
    saved["datamodule_hyper_parameters"]["data"] = "nowhere"
    torch.save(saved, "lost.ckpt")
    with pytest.raises(CorpusError, match=r"nowhere/dict\.en\.txt cannot be read"):
        list(Translator("lost.ckpt")(LINES))
    expected = list(Translator(checkpoint)(LINES))
    assert list(Translator("lost.ckpt", data="moved")(LINES)) == expected


def test_of_several_folders_of_data_the_first_is_opened(checkpoint: Path, data_bin: Path) -> None:
    expected = list(Translator(checkpoint)(["the man sees a dog"]))
    saved = torch.load(checkpoint)
    saved["datamodule_hyper_parameters"]["data"] = f"{data_bin}{os.pathsep}gone"
    torch.save(saved, "several.ckpt")
    assert list(Translator("several.ckpt")(["the man sees a dog"])) == expected


def test_a_checkpoint_that_does_not_know_its_data(checkpoint: Path) -> None:
    saved = torch.load(checkpoint, weights_only=True)
    del saved["datamodule_hyper_parameters"]
    torch.save(saved, "model.ckpt")
    with pytest.raises(AdminInitError, match=r"model\.ckpt does not name the data"):
        Translator("model.ckpt")


def test_data_of_another_vocabulary_are_refused(checkpoint: Path) -> None:
    prepare(CorpusConfig(train=200, valid=1, test=1).open(), "other", vocabulary_size=100)
    with pytest.raises(AdminInitError, match=r"with \d+ subwords, but other has \d+"):
        Translator(checkpoint, data="other")


LONG = "the man " * 40


def test_a_line_beyond_the_positions_is_named(checkpoint: Path) -> None:
    """After all before it have been translated, whatever the batches."""
    translator = Translator(checkpoint)
    expected = list(translator(LINES[:5]))
    for batch_size in (1, 3, 64):
        found = translator([*LINES[:5], LONG, LINES[5]], batch_size)
        assert [next(found) for _ in range(5)] == expected
        message = r"line 6 of the input has 81 subwords, but .* at most 40: 'the man"
        with pytest.raises(AdminInitError, match=message):
            next(found)


def test_lines_beyond_the_positions_can_be_skipped_or_cut(checkpoint: Path) -> None:
    lines = [LINES[0], LONG, LINES[1], LONG + "x"]
    first, second = Translator(checkpoint)([LINES[0], LINES[1]])
    reports: list[str] = []
    skipping = Translator(checkpoint, too_long="skip", report=reports.append)
    assert list(skipping(lines, batch_size=3)) == [first, "", second, ""]
    assert [report.partition(" of ")[0] for report in reports] == ["line 2", "line 4"]
    assert all(report.endswith("Its translation is empty.") for report in reports)
    cutting = Translator(checkpoint, too_long="cut")
    with pytest.warns(UserWarning, match=r"line 2 of the input .* The rest is not translated"):
        found = list(cutting(lines[:3]))
    # What fits is 39 subwords and </s>: the same as of a line that is no longer than that.
    (beginning,) = Translator(checkpoint)(["the man " * 19 + "the"])
    assert found == [first, beginning, second]


class Kept(TranslationModule):
    """Keeps the subwords of a test, and says what searched."""

    def on_test_start(self) -> None:
        self.kept: dict[int, list[str]] = {}

    def test_step(self, batch: TranslationBatch, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        self.kept |= {index: self._tested[index][0] for index in batch.index.tolist()}


@pytest.mark.parametrize("left_pad_source", [False, True])
def test_translate_predict_and_test_share_one_path(
    checkpoint: Path, data_bin: Path, left_pad_source: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the batches, byte for byte, with an empty line among them."""
    shutil.copytree(data_bin, "bin")
    Path("bin/prepare.json").unlink()  # which knows that it is changed
    dictionary = TranslationDataModule("bin", "en", "de").source_dictionary
    sources = list(TranslationDataModule("bin", "en", "de").pairs("test").source)
    sources[7] = torch.tensor([dictionary.eos])
    with IndexedDatasetBuilder("bin/test.en-de.en", len(dictionary)) as builder:
        builder.extend(torch.cat(sources).numpy(), np.array([*map(len, sources)]))
    translator = Translator(checkpoint, data="bin")
    lines = [translator.data.tokenizer.decode(dictionary.decode(ids.tolist())) for ids in sources]
    expected = [next(translator([line])) for line in lines]
    assert expected[7] == ""
    assert len(set(expected)) > 5
    assert list(translator(lines)) == expected

    products: list[int] = []
    multiply = OneDNNLinear.multiply
    monkeypatch.setattr(
        OneDNNLinear, "multiply", lambda layer, x: products.append(1) or multiply(layer, x)
    )
    for max_tokens in (100, 4000):
        data = TranslationDataModule(
            "bin", "en", "de", max_tokens=max_tokens, left_pad_source=left_pad_source
        )
        for method in (pl.Trainer.predict, pl.Trainer.test):
            model = Kept.load_from_checkpoint(checkpoint, weights_only=True)
            trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
            products.clear()
            batches: Any = method(trainer, model, data)
            if method is pl.Trainer.predict:
                found = dict(pair for batch in batches for pair in batch)
            else:
                found = {i: data.tokenizer.decode(pieces) for i, pieces in model.kept.items()}
            assert [found[index] for index in range(len(lines))] == expected
            # The same products as of `translate`, by a model that can be trained further.
            assert bool(products) == torch.backends.mkldnn.is_available()
            assert not any(isinstance(layer, OneDNNLinear) for layer in model.modules())


def test_batches_are_at_least_one_line(checkpoint: Path) -> None:
    with pytest.raises(AdminInitError, match="`batch_size` must be at least 1, but is 0"):
        Translator(checkpoint)(LINES, batch_size=0)
