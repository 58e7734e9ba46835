"""The published recipes' data, made step by step with other people's tools, and made by us.

The steps are those of Transformer-Clinic's ``pre-process/*.sh``: sacremoses' command line for the
Perl scripts of Moses, subword-nmt's for its own, and ``fairseq-preprocess``.
"""

import logging
import random
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from fairseq import options
from fairseq.data.indexed_dataset import MMapIndexedDataset, best_fitting_int_dtype
from fairseq_cli import preprocess
from sacremoses.cli import cli as sacremoses

from admin_init.translation.corpora.parallel import ParallelCorpus
from admin_init.translation.corpora.synthetic.grammar import embedded_corpus
from admin_init.translation.data.databin import IndexedDataset, IndexedDatasetBuilder
from admin_init.translation.preparation.prepare import prepare

Lines = list[str]
Sides = tuple[Lines, Lines]

MERGES = 60
# What the tools treat in their own ways; no closing quotation mark, for which sacremoses' command
# line does not do what the Perl script does (see its perl_parity).
SETTINGS = [
    "{}",
    "„{}“",
    "{} (z.B. a well-known one)",
    "{} — 1,5 % & 3.000 Mr. Smith's",
    "a|b [{}] <b>",
    "l'hôtel d'abord {}",
    "  {}\t\u200bno\xadw ",
    "{} ... e.g. U.S. no. 5",
    "« {} »",
    "it isn\u2019t {}",
]
# Each side of what some recipes leave out.
JUNK = [("", "a"), ("a", " "), ("word " * 90, "Wort " * 90), ("a", "b " * 12), ("long " * 260, "x")]


def raw(pairs: int, seed: int, junk: list[tuple[str, str]]) -> Sides:
    rng = random.Random(seed)
    found = embedded_corpus("large", seed=seed, train=pairs, valid=0, test=0)["train"]
    dressed = [tuple(rng.choice(SETTINGS).format(side) for side in pair) for pair in found]
    for i, pair in enumerate(junk):
        dressed.insert(rng.randrange(len(dressed)), pair)
        if i % 2:
            dressed.insert(rng.randrange(len(dressed)), pair[::-1])
    return [source for source, _ in dressed], [target for _, target in dressed]


def run_sacremoses(lines: Lines, lang: str, *command: str) -> Lines:
    text = "".join(f"{line}\n" for line in lines)
    done = CliRunner().invoke(sacremoses, ["-l", lang, "-q", *command], input=text)
    assert done.exit_code == 0
    found = done.stdout.split("\n")[:-1]
    assert len(found) == len(lines)
    return found


def remove_non_printing(lines: Lines) -> Lines:
    """As ``s/\\p{C}/ /g``."""
    return [
        "".join(" " if unicodedata.category(c).startswith("C") else c for c in line)
        for line in lines
    ]


def clean(sides: Sides, longest: int, ratio: float = 9) -> Sides:
    """As ``clean-corpus-n.perl -ratio <ratio> ... 1 <longest>``."""
    kept: Sides = ([], [])
    for source, target in zip(*sides, strict=True):
        counts = len(source.split()), len(target.split())
        if 0 in counts or max(counts) > longest or max(counts) / min(counts) > ratio:
            continue
        kept[0].append(source)
        kept[1].append(target)
    return kept


def every(lines: Lines, number: int) -> tuple[Lines, Lines]:
    """As ``awk '{if (NR%number != 0) print $0}'``, and the others."""
    others = [line for i, line in enumerate(lines, start=1) if i % number == 0]
    return [line for i, line in enumerate(lines, start=1) if i % number], others


def run_subword_nmt(command: str, lines: Lines, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"subword_nmt.{command}", *arguments],
        input="".join(f"{line}\n" for line in lines).encode(),
        capture_output=True,
        check=True,
    )
    return done.stdout.decode()


def byte_pairs(splits: dict[str, Sides]) -> dict[str, Sides]:
    train = [line for side in splits["train"] for line in side]
    Path("codes").write_text(run_subword_nmt("learn_bpe", train, "-s", str(MERGES)))
    everything = [line for sides in splits.values() for side in sides for line in side]
    found = iter(run_subword_nmt("apply_bpe", everything, "-c", "codes").split("\n"))
    return {
        name: ([next(found) for _ in sides[0]], [next(found) for _ in sides[1]])
        for name, sides in splits.items()
    }


def tokenized(lines: Lines, lang: str, *, hyphens: bool, normalized: bool) -> Lines:
    if normalized:
        lines = remove_non_printing(run_sacremoses(lines, lang, "normalize"))
    return run_sacremoses(lines, lang, "tokenize", *(["-a"] if hyphens else []))


def plain_apostrophes(lines: Lines) -> Lines:
    return [line.replace("\u2019", "'") for line in lines]


def iwslt14_de_en(splits: dict[str, Sides], languages: tuple[str, str]) -> dict[str, Sides]:
    train, test = (
        tuple(
            tokenized(edit(side), lang, hyphens=False, normalized=False)
            for side, lang in zip(splits[name], languages, strict=True)
        )
        for name, edit in (("train", list), ("test", plain_apostrophes))
    )
    train = [[line.lower() for line in side] for side in clean(train, 175, 1.5)]
    halves = [every(side, 23) for side in train]
    return byte_pairs(
        {
            "train": (halves[0][0], halves[1][0]),
            "valid": (halves[0][1], halves[1][1]),
            "test": tuple([line.lower() for line in side] for side in test),
        }
    )


def wmt14_en_de(splits: dict[str, Sides], languages: tuple[str, str]) -> dict[str, Sides]:
    found = {}
    for name, sides in splits.items():
        edit = plain_apostrophes if name == "test" else list
        found[name] = tuple(
            tokenized(edit(side), lang, hyphens=True, normalized=name != "test")
            for side, lang in zip(sides, languages, strict=True)
        )
    found["train"] = clean(found["train"], 80)
    return byte_pairs(found)


def wmt14_en_fr(splits: dict[str, Sides], languages: tuple[str, str]) -> dict[str, Sides]:
    found = {}
    for name, sides in splits.items():
        edit = plain_apostrophes if name == "test" else list
        found[name] = tuple(
            tokenized(edit(side), lang, hyphens=True, normalized=name != "test")
            for side, lang in zip(sides, languages, strict=True)
        )
    halves = [every(side, 13) for side in found["train"]]
    found["train"] = halves[0][0], halves[1][0]
    found["valid"] = halves[0][1], halves[1][1]
    found = byte_pairs(found)
    return found | {name: clean(found[name], 250, 1.5) for name in ("train", "valid")}


Recipe = Callable[[dict[str, Sides], tuple[str, str]], dict[str, Sides]]
MOSES = {"subwords": "subword-nmt", "merges": MERGES}
WMT = {**MOSES, "normalize": True, "aggressive_hyphens": True}
RECIPES: dict[Recipe, tuple[tuple[str, str], dict[str, Any]]] = {
    iwslt14_de_en: (
        ("de", "en"),
        {
            **MOSES,
            "lowercase": True,
            "length_unit": "word",
            "max_length": 175,
            "max_ratio": 1.5,
            "valid_every": 23,
        },
    ),
    wmt14_en_de: (("en", "de"), {**WMT, "length_unit": "word", "max_length": 80, "max_ratio": 9}),
    wmt14_en_fr: (("en", "fr"), {**WMT, "max_length": 250, "max_ratio": 1.5, "valid_every": 13}),
}


def binarize(splits: dict[str, Sides], languages: tuple[str, str], folder: Path) -> None:
    for name, sides in splits.items():
        for side, lang in zip(sides, languages, strict=True):
            Path(f"{name}.{lang}").write_text("".join(f"{line}\n" for line in side))
    arguments = ["--source-lang", languages[0], "--target-lang", languages[1]]
    for name in splits:
        arguments += [f"--{name}pref", name]
    arguments += ["--destdir", str(folder), "--joined-dictionary", "--dataset-impl", "mmap"]
    try:
        preprocess.main(options.get_preprocessing_parser().parse_args(arguments))
    finally:
        for handler in preprocess.logger.handlers[:]:
            if isinstance(handler, logging.FileHandler):
                handler.close()
                preprocess.logger.removeHandler(handler)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.__name__)
def test_the_published_recipes_step_by_step(tmp_path: Path, recipe: Recipe) -> None:
    languages, settings = RECIPES[recipe]
    splits = {"train": raw(260, 1, JUNK), "test": raw(30, 2, [("", "x")])}
    if recipe is wmt14_en_de:
        splits["valid"] = raw(30, 3, JUNK)
    binarize(recipe(splits, languages), languages, tmp_path / "theirs")
    corpus = ParallelCorpus(
        source_lang=languages[0],
        target_lang=languages[1],
        splits={name: list(zip(*sides, strict=True)) for name, sides in splits.items()},
    )
    manifest = prepare(corpus, tmp_path / "ours", shard_size=50, **settings)
    assert (tmp_path / "ours" / "bpecodes").read_text() == Path("codes").read_text()
    names = {path.name for path in (tmp_path / "theirs").iterdir()} - {"preprocess.log"}
    assert len(names) == 14
    for name in names:
        ours, theirs = ((tmp_path / who / name).read_bytes() for who in ("ours", "theirs"))
        assert ours == theirs, name
    assert len(manifest.splits["train"].dropped) >= 2, "or the recipe's cleaning was not tried"


def test_fairseq_reads_ours_and_we_read_fairseq_s(tmp_path: Path) -> None:
    splits = {name: raw(40, seed, []) for seed, name in enumerate(("train", "valid", "test"))}
    binarize(splits, ("en", "de"), tmp_path / "theirs")
    corpus = ParallelCorpus(
        source_lang="en",
        target_lang="de",
        splits={name: list(zip(*sides, strict=True)) for name, sides in splits.items()},
    )
    prepare(corpus, tmp_path / "ours", vocabulary_size=150)
    for who in ("ours", "theirs"):
        for split in splits:
            for lang in ("en", "de"):
                prefix = tmp_path / who / f"{split}.en-de.{lang}"
                theirs, ours = MMapIndexedDataset(str(prefix)), IndexedDataset(prefix)
                assert len(theirs) == len(ours) == 40
                assert all(theirs[i].tolist() == ours[i].tolist() for i in range(40))
                assert theirs.sizes.tolist() == ours.sizes.tolist()


@pytest.mark.parametrize("size", [100, 65_499, 65_500, 70_000])
def test_ids_take_as_many_bytes_as_in_fairseq(tmp_path: Path, size: int) -> None:
    with IndexedDatasetBuilder(tmp_path / "x", size) as builder:
        builder.extend(np.array([size - 1, 2]), np.array([2]))
    dataset = MMapIndexedDataset(str(tmp_path / "x"))
    assert dataset[0].tolist() == [size - 1, 2]
    assert dataset._index.dtype == best_fitting_int_dtype(size)
