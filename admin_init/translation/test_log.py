"""Log of all checkpoints scored on the test set, ``test.json``."""

from __future__ import annotations

import hashlib
import os
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from admin_init._utils.atomic_files import read_json, set_aside, write_json
from admin_init.errors import AdminInitError
from admin_init.translation.scoring import Bleu, TokenisedBleu

NAME = "test.json"


@dataclass(frozen=True, kw_only=True)
class _Entry:
    data: str
    sha256: str
    checkpoint: str
    sacrebleu: float | None = None
    signature: str | None = None
    tokenised_bleu: str | None = None


def record_test(
    checkpoint: str | os.PathLike[str],
    data: str | os.PathLike[str],
    bleu: Bleu,
    tokenised: TokenisedBleu,
) -> None:
    """Record the test scores of a checkpoint beside it, and warn if it is a second checkpoint.

    Choosing a checkpoint by its test score makes that score too high. So the test set should be
    scored once, with the checkpoint that validation chose.

    Args:
        checkpoint: The scored checkpoint.
        data: The folder with the test set.
        bleu: sacreBLEU of the checkpoint.
        tokenised: Tokenized BLEU of the checkpoint.
    """
    checkpoint = Path(checkpoint)
    path = checkpoint.with_name(NAME)
    with checkpoint.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    entries = _entries(path) if path.exists() else []
    entries = [entry for entry in entries if (entry.data, entry.sha256) != (str(data), digest)]
    others = [entry.checkpoint for entry in entries if entry.data == str(data)]
    if others:
        warnings.warn(
            f"The test set of {data} has been scored before with {', '.join(others)} of the same "
            "run. Choosing a checkpoint by its test score makes the score too high: report the "
            "score of the checkpoint that validation chose.",
            stacklevel=2,
        )
    scores = _Entry(
        data=str(data),
        sha256=digest,
        checkpoint=checkpoint.name,
        sacrebleu=bleu.score,
        signature=bleu.signature,
        tokenised_bleu=tokenised.line,
    )
    write_json(path, [asdict(entry) for entry in (*entries, scores)])


def _entries(path: Path) -> list[_Entry]:
    try:
        entries: list[_Entry] = read_json(path, list[_Entry])
        return entries
    except AdminInitError as error:
        # A damaged log must not lose the scores that were just computed.
        aside = set_aside(path)
        warnings.warn(
            f"{error} It was renamed to {aside.name}, and earlier scores are unknown.",
            stacklevel=3,
        )
        return []
