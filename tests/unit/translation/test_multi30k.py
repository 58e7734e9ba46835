import gzip
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, Literal

import pytest

from admin_init.translation import multi30k as module
from admin_init.translation.errors import CorpusError
from admin_init.translation.multi30k import multi30k

Serve = Callable[[Any], str]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Dying(Quiet):
    """Promises more than it sends."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"only this")


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the real one, with its own text and checksums."""
    folder = tmp_path / "origin"
    folder.mkdir()
    checksums = {}
    for stem in ("train", "val", "test_2016_flickr"):
        for lang in ("en", "de", "fr"):
            data = gzip.compress(f"{stem} in {lang}\n".encode())
            (folder / f"{stem}.{lang}.gz").write_bytes(data)
            checksums[f"{stem}.{lang}.gz"] = hashlib.sha256(data).hexdigest()
    monkeypatch.setattr(module, "CHECKSUMS", checksums)
    return folder


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers = []

    def start(handler: Any) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("lang", ["de", "fr"])
def test_downloads_what_is_missing(
    tmp_path: Path, origin: Path, serve: Serve, lang: Literal["de", "fr"]
) -> None:
    url = serve(partial(Quiet, directory=str(origin)))
    folder = tmp_path / "new" / "multi30k"
    corpus = multi30k(folder, target_lang=lang, url=url)
    assert {name: list(pairs) for name, pairs in corpus.splits.items()} == {
        "train": [("train in en", f"train in {lang}")],
        "valid": [("val in en", f"val in {lang}")],
        "test": [("test_2016_flickr in en", f"test_2016_flickr in {lang}")],
    }
    assert (corpus.source_lang, corpus.target_lang) == ("en", lang)
    assert len(list(folder.iterdir())) == 6


def test_a_folder_that_has_the_files_needs_no_network(origin: Path) -> None:
    corpus = multi30k(origin, url="http://127.0.0.1:1/")
    assert list(corpus.splits["valid"]) == [("val in en", "val in de")]


def test_a_url_of_files_works_too(tmp_path: Path, origin: Path) -> None:
    corpus = multi30k(tmp_path / "copy", url=f"{origin.as_uri()}/")
    assert len(list(corpus.splits["train"])) == 1


def test_a_file_with_the_wrong_checksum_is_refused(origin: Path) -> None:
    (origin / "val.de.gz").write_bytes(b"something else")
    with pytest.raises(CorpusError, match=r"val\.de\.gz has the wrong checksum.*Delete") as caught:
        multi30k(origin)
    assert caught.value.exit_code == 2


def test_a_download_with_the_wrong_checksum_is_not_kept(tmp_path: Path, origin: Path) -> None:
    (origin / "train.de.gz").write_bytes(b"something else")
    folder = tmp_path / "copy"
    with pytest.raises(CorpusError, match=r"file://.*train\.de\.gz has the wrong checksum"):
        multi30k(folder, url=f"{origin.as_uri()}/")
    assert {path.name for path in folder.iterdir()} == {"train.en.gz"}


def test_a_download_that_breaks_off_is_not_kept(tmp_path: Path, origin: Path, serve: Serve) -> None:
    folder = tmp_path / "copy"
    with pytest.raises(CorpusError, match=r"http://.*train\.en\.gz"):
        multi30k(folder, url=serve(Dying))
    assert not list(folder.iterdir())


def test_an_address_that_does_not_answer_is_named(tmp_path: Path, origin: Path) -> None:
    with pytest.raises(CorpusError, match=r"train\.en\.gz cannot be downloaded .* put the file"):
        multi30k(tmp_path / "copy", url="http://127.0.0.1:1/")


def test_a_test_set_that_there_is_not_is_refused(origin: Path) -> None:
    with pytest.raises(CorpusError, match=r"Multi30k has no test_2031\.en\.gz; it has train"):
        multi30k(origin, test="test_2031")
