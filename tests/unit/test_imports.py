"""The package's shape: imports point one way, heavy libraries load late, public names have docs."""

import graphlib
import inspect
import re
from collections import Counter
from pathlib import Path

import grimp
import pytest

import admin_init

ROOT = Path(admin_init.__file__).parent

ORDER = [
    "errors",
    "omega",
    "scaled_skip",
    "_utils",
    "sites",
    "admin_profile",
    "nn",
    "adapters",
    "measures",
    "rescale",
    "profiling",
    "folding",
    "initialize",
    "callbacks",
    "huggingface",
    "translation",
    "fairseq",
    "lab",
    "cli",
    "__main__",
]
"""Modules and folders of the package: each imports only what stands before it, and itself."""

MODULES = {
    ".".join(("admin_init", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in ROOT.rglob("*.py")
}
PARTS = sorted(module for module in MODULES if module != "admin_init")
PUBLIC = {name: getattr(admin_init, name) for name in admin_init.__all__}


def imported() -> dict[str, set[str]]:
    """Return what each module imports of this package, in functions and for types, too."""
    graph = grimp.build_graph("admin_init", cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in PARTS}


def part(module: str) -> str:
    return module.split(".")[1]


def test_imports_point_one_way() -> None:
    assert {part(module) for module in PARTS} == set(ORDER), "give every part a place in ORDER"
    for module, others in imported().items():
        for other in others:
            assert other != "admin_init", f"{module} imports the package's public names"
            up = ORDER.index(part(other)) > ORDER.index(part(module))
            assert not up, f"{module} imports {other}"


def test_imports_make_no_cycle() -> None:
    list(graphlib.TopologicalSorter(imported()).static_order())


def test_no_module_is_loaded_by_name() -> None:
    # It would pass the tests above whatever it imports.
    by_name = re.compile(r"""import_module\(f?["']admin_init""")
    assert not [module for module in PARTS if by_name.search(MODULES[module].read_text())]


def test_no_folder_is_crowded() -> None:
    folders = Counter(path.parent for path in MODULES.values())
    assert max(folders.values()) <= 16, folders.most_common(3)
    in_root = [path.name for path in ROOT.glob("*.py") if not path.name.startswith("__")]
    assert len(in_root) <= 10, in_root


def test_public_names_are_listed() -> None:
    everything: dict[str, object] = {}
    exec("from admin_init import *", everything)
    assert sorted(everything.keys() - {"__builtins__"}) == dir(admin_init) == admin_init.__all__
    with pytest.raises(AttributeError, match="no attribute 'wrong'"):
        _ = admin_init.wrong


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_have_docs(name: str) -> None:
    thing = PUBLIC[name]
    doc = thing.__doc__ or ""
    assert len(doc.split()) >= 5
    # Not the signature that a dataclass writes for itself.
    assert not doc.startswith(f"{name}(")
    if inspect.isfunction(thing):
        sections = doc.partition("Args:")[2]
        for argument in inspect.signature(thing).parameters:
            assert f"{argument}:" in sections, f"`{argument}` of {name} is not explained"
        assert "Returns:" in doc or inspect.signature(thing).return_annotation == "None"
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            if callable(value) and not method.startswith("_"):
                assert value.__doc__, f"{name}.{method}"
