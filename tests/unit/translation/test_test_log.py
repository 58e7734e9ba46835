import hashlib
import json
import warnings
from pathlib import Path

import pytest

from admin_init.translation.scoring import score, score_tokenised
from admin_init.translation.test_log import record_test

BLEU = score(["ein Hund läuft ."], ["ein Hund läuft ."])
TOKENISED = score_tokenised([["ein", "Hund"]], [["ein", "Hund"]])


def record(checkpoint: str, data: str = "bin") -> None:
    record_test(checkpoint, data, BLEU, TOKENISED)


@pytest.fixture(autouse=True)
def _run() -> None:
    Path("run").mkdir()
    for name in ("best", "chosen", "last"):
        Path(f"run/{name}.ckpt").write_text(name)


def test_what_is_recorded() -> None:
    record("run/chosen.ckpt")
    assert json.loads(Path("run/test.json").read_text()) == [
        {
            "data": "bin",
            "sha256": hashlib.sha256(b"chosen").hexdigest(),
            "checkpoint": "chosen.ckpt",
            "sacrebleu": BLEU.score,
            "signature": BLEU.signature,
            "tokenised_bleu": TOKENISED.line,
        }
    ]


def test_another_checkpoint_is_warned_of() -> None:
    record("run/chosen.ckpt")
    with pytest.warns(UserWarning, match=r"of bin has been scored before with chosen\.ckpt of"):
        record("run/best.ckpt")
    # Under the same name, but trained on.
    Path("run/chosen.ckpt").write_text("other weights")
    with pytest.warns(UserWarning, match=r"with chosen\.ckpt, best\.ckpt of"):
        record("run/chosen.ckpt")
    assert len(json.loads(Path("run/test.json").read_text())) == 3


def test_what_is_no_choice() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record("run/chosen.ckpt")
        record("run/chosen.ckpt")
        record("run/best.ckpt", "other-bin")
        Path("other").mkdir()
        Path("other/best.ckpt").write_text("best")
        record("other/best.ckpt")
    assert len(json.loads(Path("run/test.json").read_text())) == 2


@pytest.mark.parametrize("content", ["", "{}", "[1]", '[{"data": "bin"}]'])
def test_damaged_scores_are_set_aside_and_the_new_ones_kept(content: str) -> None:
    Path("run/test.json").write_text(content)
    with pytest.warns(UserWarning, match=r"run/test\.json cannot be used.*test\.json\.damaged-1"):
        record("run/chosen.ckpt")
    assert Path("run/test.json.damaged-1").read_text() == content
    assert [entry["checkpoint"] for entry in json.loads(Path("run/test.json").read_text())] == [
        "chosen.ckpt"
    ]
