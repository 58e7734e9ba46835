"""Every recipe from raw files to a score, by the commands of its README, on a few hundred pairs.

The raw files have the formats of the real ones, and come from a folder in place of the network.
"""

import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import sacremoses  # noqa: F401, joblib in it sets an environment variable, which no test may
import torch
from _helpers import raw_corpora
from _helpers.command_line import Done, call
from _helpers.recipe_files import RECIPES, TASKS, commands

pytestmark = pytest.mark.filterwarnings("ignore:.*The mirror is trusted:UserWarning")

TINY = [
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1"),
    *("--trainer.precision", "32", "--trainer.accumulate_grad_batches", "1"),
    *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "10"),
    *("--trainer.log_every_n_steps", "1", "--trainer.enable_progress_bar", "false"),
    *("--data.max_tokens", "300", "--model.transformer.dim", "16"),
    *("--model.transformer.ffn_dim", "32", "--model.transformer.heads", "2"),
    *("--model.transformer.encoder_layers", "2", "--model.transformer.decoder_layers", "2"),
    *("--model.search.beam_size", "2", "--model.search.max_len_b", "5"),
]
# What makes the commands short; they do the same, to a smaller model and a smaller corpus.
SHRINK = {
    "prepare": ["--corpus.mirror", "mirror", "--merges", "200", "--vocabulary_size", "300"],
    "fit": TINY,
    "test": TINY,
    "translate": ["--beam_size", "1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One in which all recipes run, with a mirror."""
    folder = tmp_path_factory.mktemp("recipes")
    shutil.copytree(RECIPES, folder / "recipes")
    raw_corpora.multi30k(folder / "mirror")
    raw_corpora.iwslt14(folder / "mirror")
    raw_corpora.wmt(folder / "mirror", size=60)
    return folder


def run(arguments: list[str], *others: str) -> Done:
    name, *_ = arguments
    options = [*SHRINK.get(name, []), *others]
    if "recipes/wmt14_en_fr/prepare.yaml" in arguments:
        options += ["--valid_every", "20"]  # of 36 million pairs every 1,333rd is enough
    if name == "prepare":
        options += ["--workers", "1"]
    done = call(*arguments, *options, stdin=b"a dog sleeps\n")
    assert done.code == 0, done.err
    return done


@pytest.mark.parametrize("task", TASKS)
def test_from_raw_files_to_a_score(
    task: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    prepare, fit, test, translate, average, *_ = commands(task)
    prepared = run(prepare).out
    for split in ("train", "valid", "test"):
        assert re.search(rf"^{split}: \d+ pairs read from .*data/", prepared, re.M)
    run(fit)
    checkpoints = Path(dict(pairwise(average))["--folder"])
    last = weights_of(checkpoints / "last.ckpt")
    omegas = [value for name, value in last.items() if name.endswith(".omega")]
    assert sum(bool((omega != 1).all()) for omega in omegas) == len(omegas) - 2 == 8
    assert "test_bleu_tokenised" in run(test).out
    assert run(translate).out.count("\n") == 1
    run(average)
    by_hand, at_the_end = (
        weights_of(Path(path))
        for path in (dict(pairwise(average))["--output"], checkpoints / "average.ckpt")
    )
    assert all(torch.equal(by_hand[name], weight) for name, weight in at_the_end.items())


def test_another_style_on_fairseqs_transformer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pre-LN, as the README of IWSLT14 shows it, and on from there."""
    monkeypatch.chdir(folder)
    prepare, _, test, translate, _, fit, *_ = commands("iwslt14_de_en")
    assert fit.count("--config") == 3
    run(prepare)
    run(fit)
    ours, theirs = "runs/iwslt14_de_en/6-6/admin", "runs/fairseq/iwslt14_de_en/6-6/pre"
    test, translate = (
        [argument.replace(ours, theirs) for argument in arguments]
        for arguments in (test, translate)
    )
    assert "test_bleu_tokenised" in run(["test", *fit[1:], *test[3:]]).out
    assert run(translate).out.count("\n") == 1
    names = weights_of(Path(theirs) / "checkpoints/average.ckpt")
    assert any("encoder.layers.0.self_attn_layer_norm" in name for name in names)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 20
    return checkpoint["state_dict"]  # type: ignore[no-any-return]
