"""What a prepared corpus says about itself: ``prepare.json``."""

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
    """Sentence pairs that were left out for one reason."""

    count: int = 0
    """How many."""
    lines: list[int] = field(default_factory=list)
    """Where the first few stand, counted from 1."""

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.lines) else ""
        return f"{self.count:,} (lines {', '.join(map(str, self.lines))}{more})"


@dataclass(kw_only=True)
class Split:
    """What became of one split."""

    files: list[str]
    """The files that were read; none where the pairs came from memory."""
    sha256: str
    """Of the sentence pairs that were read."""
    read: int
    """Pairs read."""
    kept: int = 0
    """Pairs written."""
    dropped: dict[str, Dropped] = field(default_factory=dict)
    """Pairs left out, by the reason."""
    drawn: int = 0
    """Pairs that became those of ``valid``."""
    source_tokens: int = 0
    """Tokens written on the source side, ``</s>`` included."""
    target_tokens: int = 0
    """Tokens written on the target side, ``</s>`` included."""

    def drop(self, line: int, reason: str) -> None:
        """Note a pair that is left out."""
        dropped = self.dropped.setdefault(reason, Dropped())
        dropped.count += 1
        if len(dropped.lines) < _LINES_NAMED:
            dropped.lines.append(line)


@dataclass(kw_only=True)
class Manifest:
    """A prepared corpus: what was read, how, and what came out."""

    settings: dict[str, Any]
    """``source_lang``, ``target_lang``, and the fields of :class:`PrepareConfig`."""
    splits: dict[str, Split]
    """What became of every split."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the packages that the text went through."""
    learned_from: dict[str, int] = field(default_factory=dict)
    """How many sentences or distinct words the subwords were learned from, and of how many."""
    dictionary_size: int = 0
    """Ids, specials and padding included."""
    outputs: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of every file in the folder but this."""

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the manifest of a folder.

        Raises:
            CorpusError: The folder has none, or it is damaged.
        """
        try:
            manifest = from_json(cls, parse_checked((folder / NAME).read_bytes()))
            # An older version did not have every setting, and did what is the default now.
            manifest.settings = asdict(PrepareConfig()) | manifest.settings
            PrepareConfig.from_settings(manifest.settings)
            return manifest
        except (OSError, AdminInitError) as error:
            raise CorpusError(
                f"{folder} exists, but is no prepared corpus: its {NAME} cannot be read "
                f"({str(error).rstrip('.')}). "
                "Choose another folder, or remove this one."
            ) from error

    def seal(self, folder: Path) -> None:
        """Note the files of a folder and what is in them, and write the manifest there."""
        self.outputs = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
        write_checked(folder / NAME, asdict(self))

    def damages(self, folder: Path) -> list[str]:
        """Names the files of a folder that are not what they were."""
        return [
            f"{name} is missing or damaged"
            for name, digest in self.outputs.items()
            if not (folder / name).is_file() or _sha256(folder / name) != digest
        ]

    def differences(self, other: Self) -> list[str]:
        """Names what was asked for or read here and not there."""
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
