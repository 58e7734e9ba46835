import bz2
import gzip
import io
import lzma
import pickle
import random
import sys
import tarfile
import tracemalloc
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from _helpers.raw_corpora import tar
from backports import zstd

from admin_init.errors import CorpusError, MissingExtraError
from admin_init.translation.corpora import texts
from admin_init.translation.corpora.texts import Text, TextLimits

LINES = ["one", "", "two\u2028still two", "three\rstill three", " vier "]
CONTENT = "\n".join(LINES).encode()
COMPRESS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
}


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
        ("zipped.en.bz2", None),
        ("zipped.en.xz", None),
        ("zipped.en.zst", None),
        ("corpus.tar", "training/a.en"),
        ("corpus.tar", "training/a.en.gz"),
        ("corpus.tgz", "training/a.en"),
        ("corpus.tar.gz", "*a.en"),
        ("corpus.tar.bz2", "training/a.en"),
        ("corpus.tar.xz", "training/a.en.zst"),
        ("corpus.tar.zst", "training/a.en"),
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
        "training/a.en.zst": zstd.compress(CONTENT),
    }
    Path("plain.en").write_bytes(CONTENT)
    tar(Path("corpus.tar"), members)
    for ending, compress in COMPRESS.items():
        Path(f"zipped.en.{ending}").write_bytes(compress(CONTENT))
        Path(f"corpus.tar.{ending}").write_bytes(compress(Path("corpus.tar").read_bytes()))
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


def damage_encrypted(content: bytearray) -> None:
    content[6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1


def damage_method(content: bytearray) -> None:
    content[content.find(b"PK\x01\x02") + 10] = 99


def damage_body(content: bytearray) -> None:
    content[60:90] = bytes(byte ^ 0x5A for byte in content[60:90])


@pytest.mark.parametrize("damage", [damage_encrypted, damage_method, damage_body])
@pytest.mark.parametrize(
    "method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA, zipfile.ZIP_STORED]
)
def test_a_zip_that_python_cannot_read_is_named(
    damage: Callable[[bytearray], None], method: int
) -> None:
    with zipfile.ZipFile("corpus.zip", "w", method) as archive:
        archive.writestr("a.en", b"hello world, \n" * 1000)
    content = bytearray(Path("corpus.zip").read_bytes())
    damage(content)
    Path("corpus.zip").write_bytes(content)
    with pytest.raises(CorpusError, match=r"corpus\.zip:a\.en cannot be read.* or unpack it"):
        list(Text(Path("corpus.zip"), "a.en"))


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("form", ["a.en.{}", "a.tar.{}", "in.tar"])
def test_whatever_it_is_compressed_by_damage_is_named(ending: str, cut: bool, form: str) -> None:
    noise = random.Random(1)
    content = "".join(f"{noise.random()}\n" for _ in range(3000)).encode()
    if form == "a.tar.{}":
        tar(Path("a.tar"), {"a.en": content})
        content = Path("a.tar").read_bytes()
    whole = COMPRESS[ending](content)
    half = len(whole) // 2
    damaged = whole[:half] if cut else whole[:half] + bytes(60) + whole[half + 60 :]
    path = Path(form.format(ending))
    member = {"a.en.{}": None, "a.tar.{}": "a.en", "in.tar": f"a.en.{ending}"}[form]
    if form == "in.tar":
        tar(path, {f"a.en.{ending}": damaged})
    else:
        path.write_bytes(damaged)
    with pytest.raises(CorpusError, match=rf"{path}.* cannot be read: it is missing, truncated"):
        list(Text(path, member))


def test_a_line_that_never_ends_is_refused_before_it_is_read() -> None:
    for name, zipped in {
        "a.en": b"",
        "a.en.gz": gzip.compress(b"one\n" + b"a" * 30_000_000),
    }.items():
        Path(name).write_bytes(zipped or b"one\n" + b"a" * 30_000_000)
        lines = iter(Text(Path(name)))
        assert next(lines) == "one"
        tracemalloc.start()
        try:
            with pytest.raises(CorpusError, match=rf"{name}, line 2 has more than 1,048,576 bytes"):
                next(lines)
            assert tracemalloc.get_traced_memory()[1] < 10_000_000
        finally:
            tracemalloc.stop()


def test_a_longer_line_is_read_where_the_limit_says_so() -> None:
    Path("a.en").write_bytes(b"a" * 2_000_000 + b"\nb")
    found = list(Text(Path("a.en"), limits=TextLimits(max_line_bytes=2_000_001)))
    assert list(map(len, found)) == [2_000_000, 1]
    with pytest.raises(CorpusError, match="more than 2,000,000 bytes"):
        list(Text(Path("a.en"), limits=TextLimits(max_line_bytes=2_000_000)))


@pytest.mark.parametrize("ending", COMPRESS)
def test_a_file_that_unpacks_to_far_more_is_refused_while_it_is_read(
    ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_SMALL", 1_000_000)
    path = Path(f"bomb.en.{ending}")
    path.write_bytes(COMPRESS[ending]((b"a" * 999 + b"\n") * 3000))
    lines = iter(Text(path))
    assert len(list(islice(lines, 900))) == 900
    with pytest.raises(CorpusError, match=rf"bomb\.en\.{ending} unpacks to more than 1,000,000"):
        deque(lines, maxlen=0)
    assert len(list(Text(path, limits=TextLimits(max_expansion=10**5)))) == 3000


def test_a_bomb_beside_the_text_in_an_archive_is_refused_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(texts, "_SMALL", 1_000_000)
    tar(Path("corpus.tgz"), {"bomb": bytes(3_000_000), "a.en": CONTENT})
    with pytest.raises(CorpusError, match=r"corpus\.tgz:a\.en unpacks to more than"):
        list(Text(Path("corpus.tgz"), "a.en"))


def test_zstandard_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.en.zst").write_bytes(zstd.compress(CONTENT))
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    message = r"backports\.zstd is not installed\. Run `pip install 'admin-init\[wmt\]'`\."
    with pytest.raises(MissingExtraError, match=message):
        list(Text(Path("a.en.zst")))
