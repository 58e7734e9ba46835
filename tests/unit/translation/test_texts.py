import gzip
import io
import pickle
import random
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from raw_corpora import tar

from admin_init.translation.errors import CorpusError
from admin_init.translation.texts import Text

LINES = ["one", "", "two\u2028still two", "three\rstill three", " vier "]
CONTENT = "\n".join(LINES).encode()


def upper(lines: Iterable[str]) -> Iterator[str]:
    return (line.upper() for line in lines)


def zip_of(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("path", "member"),
    [
        ("plain.en", None),
        ("zipped.en.gz", None),
        ("corpus.tar", "training/a.en"),
        ("corpus.tar", "training/a.en.gz"),
        ("corpus.tgz", "training/a.en"),
        ("corpus.tar.gz", "*a.en"),
        ("corpus.zip", "*.en"),
        ("corpus.zip", "training/a.en.gz"),
    ],
)
def test_lines_come_from_wherever_they_lie_again_and_again(path: str, member: str | None) -> None:
    members = {
        "README": b"not this",
        "training/a.de": b"nor this",
        "training/a.en": CONTENT,
        "training/a.en.gz": gzip.compress(CONTENT),
    }
    Path("plain.en").write_bytes(CONTENT)
    Path("zipped.en.gz").write_bytes(gzip.compress(CONTENT))
    for name in ("corpus.tar", "corpus.tgz", "corpus.tar.gz"):
        tar(Path(name), members)
    zip_of(Path("corpus.zip"), members)
    text = Text(Path(path), member)
    assert list(text) == list(text) == LINES
    assert list(pickle.loads(pickle.dumps(text))) == LINES
    assert list(Text(Path(path), member, upper)) == [line.upper() for line in LINES]
    assert list(islice(text, 2)) == LINES[:2]
    assert str(text) == (path if member is None else f"{path}:{member}")


def test_members_of_a_folder_that_begins_with_a_dot() -> None:
    tar(Path("corpus.tgz"), {"./dev/a.en": CONTENT})
    assert list(Text(Path("corpus.tgz"), "dev/a.en")) == LINES


def test_a_folder_is_no_text() -> None:
    with tarfile.open("corpus.tgz", "w:gz") as archive:
        folder = tarfile.TarInfo("x.en")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        member = tarfile.TarInfo("x.en/a.en")
        member.size = len(CONTENT)
        archive.addfile(member, io.BytesIO(CONTENT))
    assert list(Text(Path("corpus.tgz"), "*.en")) == LINES


@pytest.mark.parametrize("name", ["corpus.tgz", "corpus.zip"])
def test_a_missing_member_is_named(name: str) -> None:
    tar(Path("corpus.tgz"), {"a.en": b""})
    zip_of(Path("corpus.zip"), {"a.en": b""})
    with pytest.raises(CorpusError, match=rf"The archive {name} has no file a\.fr"):
        list(Text(Path(name), "a.fr"))


def test_a_line_that_is_not_utf8_is_named() -> None:
    tar(Path("corpus.tgz"), {"a.en": "one\nfünf".encode("latin-1")})
    with pytest.raises(CorpusError, match=r"corpus\.tgz:a\.en, line 2: byte 2 is not UTF-8"):
        list(Text(Path("corpus.tgz"), "a.en"))


@pytest.mark.parametrize("name", ["corpus.tgz", "corpus.tar", "corpus.zip"])
@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_a_damaged_archive_is_named(name: str, damage: str) -> None:
    noise = random.Random(1)
    content = "".join(f"{noise.random()}\n" for _ in range(100_000)).encode()
    (zip_of if name.endswith(".zip") else tar)(Path(name), {"a.en": content})
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"something else")
    if damage == "missing":
        Path(name).unlink()
    with pytest.raises(CorpusError, match=rf"{name}:a\.en cannot be read: it is missing, trunc"):
        list(Text(Path(name), "a.en"))


def test_memory_does_not_grow_with_the_text() -> None:
    noise = random.Random(1)
    content = "".join(f"{noise.random()}\n" for _ in range(10_000)).encode() * 20
    tar(Path("corpus.tgz"), {"a.de": content, "a.en": content})
    assert len(content) > 3_600_000
    del content
    tracemalloc.start()
    try:
        assert sum(1 for _ in islice(Text(Path("corpus.tgz"), "a.en"), 10_000)) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
