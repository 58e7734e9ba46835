import shutil
from pathlib import Path
from typing import Any

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.data.databin import IndexedDataset
from admin_init.translation.data.datamodule import TranslationDataModule
from admin_init.translation.data.dictionary import Dictionary
from admin_init.translation.preparation.prepare import prepare
from admin_init.translation.subwords.tokenizer import load_tokenizer

PAIRS = [
    ("The old man's dog \u2013 it's well-known.", "L'hôtel « est » plein, n'est-ce pas ?"),
    ("We don't see Mr. Smith's house (yet).", "Nous ne voyons pas encore l'église."),
    ("“Why?” she asked; nobody's there!", "Aujourd'hui, j'ai vu deux chiens & un chat."),
] * 5
MOSES = {"subwords": "subword-nmt", "merges": 40}


def prepared(folder: Path, **settings: Any) -> Path:
    splits = {"train": PAIRS, "test": PAIRS[:3]}
    corpus = ParallelCorpus(source_lang="en", target_lang="fr", splits=splits)
    prepare(corpus, folder, **settings)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"vocabulary_size": 90},
        {"vocabulary_size": 90, "lowercase": True, "normalize": True},
        MOSES,
        {**MOSES, "normalize": True, "aggressive_hyphens": True, "lowercase": True},
    ],
)
def test_encodes_source_text_as_the_training_data_were(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = prepared(tmp_path / "bin", **settings)
    tokenizer = load_tokenizer(folder)
    dictionary = Dictionary.load(folder / "dict.en.txt")
    dataset = IndexedDataset(folder / "train.en-fr.en")
    for i, (source, _) in enumerate(PAIRS[:3]):
        pieces = tokenizer.encode(f"{source}\n")
        assert len(pieces) > 5
        assert dictionary.encode(pieces) == dataset[i].tolist()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"vocabulary_size": 90}, [target for _, target in PAIRS[:3]]),
        (
            {**MOSES, "aggressive_hyphens": True},
            [
                "L'hôtel « est » plein, n'est-ce pas ?",
                "Nous ne voyons pas encore l'église.",
                "Aujourd'hui, j'ai vu deux chiens & un chat.",
            ],
        ),
        (
            {**MOSES, "lowercase": True},
            [
                "l'hôtel « est » plein, n'est-ce pas ?",
                "nous ne voyons pas encore l'église.",
                "aujourd'hui, j'ai vu deux chiens & un chat.",
            ],
        ),
    ],
)
def test_decodes_what_a_model_writes_into_plain_text(
    tmp_path: Path, settings: dict[str, Any], text: list[str]
) -> None:
    folder = prepared(tmp_path / "bin", **settings)
    data = TranslationDataModule(folder, "en", "fr")
    dataset = IndexedDataset(folder / "test.en-fr.fr")
    decoded = [data.tokenizer.decode(data.target_dictionary.decode(ids)) for ids in dataset]
    assert decoded == text


def test_a_data_bin_of_fairseq_with_a_sentencepiece_model(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "bin", vocabulary_size=90)
    pieces = load_tokenizer(folder).encode(PAIRS[0][0])
    (folder / "prepare.json").unlink()
    assert load_tokenizer(folder).encode(PAIRS[0][0]) == pieces


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"vocabulary_size": 90}, "sentencepiece.bpe.model"), (MOSES, "bpecodes")],
)
def test_a_missing_model_is_named(tmp_path: Path, settings: dict[str, Any], name: str) -> None:
    folder = prepared(tmp_path / "bin", **settings)
    (folder / name).unlink()
    with pytest.raises(CorpusError, match=f"{name} cannot be read"):
        load_tokenizer(folder)
    shutil.rmtree(folder)
    with pytest.raises(CorpusError, match=r"sentencepiece\.bpe\.model cannot be read"):
        load_tokenizer(folder)
