import doctest
import importlib
from importlib.util import find_spec
from pathlib import Path

import pytest

import admin_init

PACKAGE = Path(admin_init.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name: str) -> None:
    if "fairseq" in name and not find_spec("fairseq"):
        pytest.skip("needs fairseq")
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.attempted
    assert not result.failed
