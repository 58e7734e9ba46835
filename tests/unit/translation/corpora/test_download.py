import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest

from admin_init.errors import CorpusError
from admin_init.translation.corpora.download import RECORDS, fetch

CONTENT = bytes(range(256)) * 4000
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
NOWHERE = "http://127.0.0.1:1/corpus.tgz"

Serve = Callable[..., str]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Dying(Quiet):
    """Sends a half of what it promises, and knows how to go on from anywhere."""

    asked: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start:] if asked else CONTENT[: len(CONTENT) // 2])


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(handler: Any, **settings: Any) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, **settings))
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    folder.mkdir()
    (folder / "corpus.tgz").write_bytes(CONTENT)
    return folder


def names(folder: Path) -> set[str]:
    """Name the files that people see: the lock stays for those who wait for it."""
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_download_is_recorded_and_not_repeated(mirror: Path, serve: Serve) -> None:
    url = f"{serve(Quiet, directory=str(mirror))}/corpus.tgz?download=1"
    path = fetch(url, "a/new/folder", checksum=SHA256)
    assert path.read_bytes() == CONTENT
    assert json.loads(path.with_name(RECORDS).read_text()) == {
        "corpus.tgz": {"sha256": SHA256[7:], "bytes": len(CONTENT), "from": url}
    }
    assert fetch(NOWHERE, "a/new/folder") == path


def test_a_broken_download_goes_on_where_it_was(serve: Serve) -> None:
    url = f"{serve(Dying)}/corpus.tgz"
    Dying.asked.clear()
    with pytest.raises(CorpusError, match=r"broke off after 512,000 of 1,024,000 bytes\)\. Try ag"):
        fetch(url, "folder")
    assert names(Path("folder")) == {"corpus.tgz.part"}
    assert fetch(url, "folder", checksum=SHA256).read_bytes() == CONTENT
    assert Dying.asked == [None, "bytes=512000-"]
    assert names(Path("folder")) == {"corpus.tgz", RECORDS}


class Slow(Quiet):
    """Counts who asks, and lets others come meanwhile."""

    asked: list[str] = []  # noqa: RUF012
    both = Barrier(2)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.both.wait()
        super().do_GET()


def test_of_several_downloads_of_one_folder_one_downloads(
    mirror: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{serve(Slow, directory=str(mirror))}/corpus.tgz"
    Slow.asked.clear()
    with ThreadPoolExecutor(3) as threads:
        fetching = [threads.submit(fetch, url, "folder") for _ in range(3)]
        said = ""
        while said.count("Waiting for another process, which is downloading into folder") < 2:
            said += capsys.readouterr().err
        Slow.both.wait()  # The other two have found the folder locked.
        paths = [future.result() for future in fetching]
    assert all(path.read_bytes() == CONTENT for path in paths)
    assert Slow.asked == ["/corpus.tgz"]
    assert names(Path("folder")) == {"corpus.tgz", RECORDS}


def test_a_planted_part_is_not_followed(mirror: Path, serve: Serve) -> None:
    Path("victim").write_bytes(b"keep")
    Path("folder").mkdir()
    Path("folder/corpus.tgz.part").symlink_to(Path("victim").absolute())
    url = f"{serve(Quiet, directory=str(mirror))}/corpus.tgz"
    assert fetch(url, "folder").read_bytes() == CONTENT
    assert Path("victim").read_bytes() == b"keep"


def test_a_server_that_cannot_go_on_begins_again(mirror: Path, serve: Serve) -> None:
    Path("corpus.tgz.part").write_bytes(b"half")
    path = fetch(f"{serve(Quiet, directory=str(mirror))}/corpus.tgz", ".", checksum=SHA256)
    assert path.read_bytes() == CONTENT


def test_a_part_that_is_too_long_is_thrown_away(serve: Serve) -> None:
    Path("corpus.tgz.part").write_bytes(CONTENT + b"more")
    with pytest.raises(CorpusError, match="broke off"):
        fetch(f"{serve(Dying)}/corpus.tgz", ".")
    assert Path("corpus.tgz.part").stat().st_size == len(CONTENT) // 2


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_another_file_than_the_published_is_refused(
    mirror: Path, serve: Serve, algorithm: str
) -> None:
    right = f"{algorithm}:{hashlib.new(algorithm, CONTENT).hexdigest()}"
    url = f"{serve(Quiet, directory=str(mirror))}/corpus.tgz"
    assert fetch(url, "right", checksum=right).exists()
    (mirror / "corpus.tgz").write_bytes(b"another")
    with pytest.raises(CorpusError, match=rf"has the wrong checksum: its {algorithm.upper()} is"):
        fetch(url, "wrong", checksum=right)
    assert not names(Path("wrong"))


def test_a_file_of_the_folder_is_checked_by_what_is_known(mirror: Path) -> None:
    with pytest.raises(CorpusError, match=r"mirror/corpus\.tgz has the wrong .* Delete the file"):
        fetch(NOWHERE, mirror, checksum="sha256:0")
    assert fetch(NOWHERE, mirror, checksum=SHA256) == fetch(NOWHERE, mirror)
    assert names(mirror) == {"corpus.tgz"}


@pytest.mark.parametrize("as_address", [False, True])
def test_a_mirror_stands_in_for_the_network(
    mirror: Path, as_address: bool, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = f"{serve(Quiet, directory=str(mirror))}/" if as_address else "../mirror"
    Path("here").mkdir()
    monkeypatch.chdir("here")
    path = fetch(NOWHERE, "folder", mirror=origin, checksum=SHA256)
    assert path.read_bytes() == CONTENT


def test_a_mirror_with_another_file_is_trusted_with_a_warning(mirror: Path) -> None:
    with pytest.warns(UserWarning, match="wrong checksum.* The mirror is trusted"):
        path = fetch(NOWHERE, "folder", mirror=str(mirror), checksum="md5:0")
    # And from then on that file is the right one.
    assert fetch(NOWHERE, "folder", checksum="md5:0") == path
    path.write_bytes(b"damaged")
    with pytest.raises(CorpusError, match=f"must be {SHA256[7:]}"):
        fetch(NOWHERE, "folder")


def test_an_address_that_does_not_answer_is_named() -> None:
    with pytest.raises(CorpusError, match=r"corpus\.tgz cannot be downloaded .* put the file into"):
        fetch(NOWHERE, "folder")
    with pytest.raises(CorpusError, match=r"file://.*/corpus\.tgz cannot be downloaded"):
        fetch(NOWHERE, "folder", mirror="no/such/folder")


def test_a_file_may_have_a_name_of_its_own(mirror: Path) -> None:
    (mirror / "corpus.tgz").rename(mirror / "OPUS-corpus.zip")
    path = fetch(NOWHERE, "folder", name="OPUS-corpus.zip", mirror=str(mirror))
    assert path == Path("folder/OPUS-corpus.zip")


@pytest.mark.parametrize("records", ["[]", "{", '{"corpus.tgz": {}}'])
def test_damaged_records_are_named(mirror: Path, records: str) -> None:
    (mirror / RECORDS).write_text(records)
    with pytest.raises(CorpusError, match=r"checksums\.json is damaged\. Delete it"):
        fetch(NOWHERE, mirror)
