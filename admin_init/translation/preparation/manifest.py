"""Manifest of a prepared corpus, ``prepare.json``: settings, statistics and checksums."""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from admin_init._utils.atomic_files import parse_checked, write_checked
from admin_init._utils.typed_json import from_json
from admin_init.errors import AdminInitError, CorpusError
from admin_init.translation.preparation.config import PrepareConfig

NAME = "prepare.json"
_LINES_NAMED = 10


@dataclass
class Dropped:
    """Sentence pairs that were dropped for the same reason."""

    count: int = 0
    """Number of pairs."""
    lines: list[int] = field(default_factory=list)
    """Line numbers of the first few pairs, counted from 1."""

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.lines) else ""
        return f"{self.count:,} (lines {', '.join(map(str, self.lines))}{more})"


@dataclass(kw_only=True)
class Split:
    """Statistics of one split."""

    files: list[str]
    """The files that were read; empty if the pairs came from memory."""
    sha256: str
    """SHA-256 of the sentence pairs that were read."""
    read: int
    """Number of pairs read."""
    kept: int = 0
    """Number of pairs written."""
    dropped: dict[str, Dropped] = field(default_factory=dict)
    """Dropped pairs, by reason."""
    drawn: int = 0
    """Number of pairs moved to ``valid``."""
    source_tokens: int = 0
    """Number of source tokens written, ``</s>`` included."""
    target_tokens: int = 0
    """Number of target tokens written, ``</s>`` included."""

    def drop(self, line: int, reason: str) -> None:
        """Count a dropped pair."""
        dropped = self.dropped.setdefault(reason, Dropped())
        dropped.count += 1
        if len(dropped.lines) < _LINES_NAMED:
            dropped.lines.append(line)


@dataclass(kw_only=True)
class Manifest:
    """Record of a preparation. ``str()`` of it is a readable summary."""

    settings: dict[str, Any]
    """``source_lang``, ``target_lang``, and the fields of :class:`PrepareConfig`."""
    splits: dict[str, Split]
    """Statistics of every split."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the packages that processed the text."""
    learned_from: dict[str, int] = field(default_factory=dict)
    """Number of ``sentences`` or distinct ``words`` that the subwords were learned from, and their
    total number as ``of``."""
    dictionary_size: int = 0
    """Number of ids, including special and padding tokens."""
    outputs: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every other file in the folder."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the manifest of a folder.

        Raises:
            CorpusError: The manifest is missing or damaged.
        """
        try:
            manifest = from_json(cls, parse_checked((folder / NAME).read_bytes()))
            # A setting that an older version lacked was then as its default is now.
            manifest.settings = asdict(PrepareConfig()) | manifest.settings
            PrepareConfig.from_settings(manifest.settings)
            return manifest
        except (OSError, AdminInitError) as error:
            raise CorpusError(
                f"{folder} exists, but is not a prepared corpus: its {NAME} cannot be read "
                f"({str(error).rstrip('.')}). "
                "Choose another folder, or remove this one."
            ) from error

    def seal(self, folder: Path) -> None:
        """Store the checksums of a folder's files, and write the manifest into the folder."""
        self.outputs = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        write_checked(folder / NAME, asdict(self))

    def damages(self, folder: Path) -> list[str]:
        """List the files of a folder that are missing or have changed."""
        return [
            f"{name} is missing or damaged"
            for name, digest in self.outputs.items()
            if not (folder / name).is_file() or _sha256(folder / name) != digest
        ]

    def differences(self, other: Self) -> list[str]:
        """List the settings and splits that differ from those of another manifest."""
        mine, theirs = self.settings, other.settings
        found = [
            f"{name} is {mine.get(name)!r}, but was {theirs.get(name)!r}"
            for name in {**mine, **theirs}
            if mine.get(name) != theirs.get(name)
        ]
        texts = {name: split.sha256 for name, split in self.splits.items()}
        their_texts = {name: split.sha256 for name, split in other.splits.items()}
        return found + [
            f"the sentences of {name} have changed"
            for name in {**texts, **their_texts}
            if texts.get(name) != their_texts.get(name)
        ]

    def __str__(self) -> str:
        rows = [f"dictionary: {self.dictionary_size:,} ids"]
        if self.learned_from:
            of = self.learned_from.get("of", 0)
            rows[0] += "".join(
                f", subwords learned from {number:,} of {of:,} {kind}"
                for kind, number in self.learned_from.items()
                if kind != "of"
            )
        for name, split in self.splits.items():
            origin = f" from {' and '.join(split.files)}" if split.files else ""
            rows.append(
                f"{name}: {split.read:,} pairs read{origin}, {split.kept:,} kept "
                f"({split.source_tokens:,} source and {split.target_tokens:,} target tokens)"
            )
            if split.drawn:
                rows.append(f"  drawn for valid: {split.drawn:,}")
            rows += [f"  dropped as {why}: {dropped}" for why, dropped in split.dropped.items()]
        return "\n".join(rows)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
