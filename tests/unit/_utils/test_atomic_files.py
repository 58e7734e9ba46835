import errno
from pathlib import Path
from typing import IO

import pytest

from admin_init._utils.atomic_files import naming, write_text, write_whole


def fail_half_way(file: IO[bytes]) -> None:
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    write_text(path, "older")
    with pytest.raises(OSError, match=r"No space left on device: '.*/x\.txt'"):
        write_whole(path, fail_half_way)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("x.txt", "older")]


def test_an_error_that_names_a_file_keeps_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"), naming(tmp_path / "x.txt"):
        (tmp_path / "nowhere").read_text()


def test_an_error_names_the_file_and_nothing_else() -> None:
    with pytest.raises(OSError, match="full") as refused, naming("result.json"):
        raise OSError(28, "full")
    assert str(refused.value) == "[Errno 28] full: 'result.json'"
