"""The package's shape: imports point one way, heavy libraries load late, public names have docs."""

import graphlib
import inspect
import re
from collections import Counter
from pathlib import Path

import fresh
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
    "distributed",
    "callbacks",
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


def imported(*, typing: bool = True) -> dict[str, set[str]]:
    """Return what each module imports of this package, in functions or at its top."""
    graph = grimp.build_graph(
        "admin_init", cache_dir=None, exclude_type_checking_imports=not typing
    )
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
    list(graphlib.TopologicalSorter(imported(typing=False)).static_order())


def test_no_module_is_loaded_by_name() -> None:
    # It would pass the tests above whatever it imports.
    by_name = re.compile(r"""import_module\(f?["']admin_init""")
    assert not [module for module in PARTS if by_name.search(MODULES[module].read_text())]


def test_no_folder_is_crowded() -> None:
    folders = Counter(path.parent for path in MODULES.values())
    assert max(folders.values()) <= 16, folders.most_common(3)
    in_root = [path.name for path in ROOT.glob("*.py") if not path.name.startswith("__")]
    assert len(in_root) <= 10, in_root


def heavy_after(code: str) -> set[str]:
    """Return the heavy libraries that a process with torch alone has loaded after ``code``."""
    heavy = "pytorch_lightning lightning fairseq transformers matplotlib tensorboard sacrebleu"
    report = f"print(*[name for name in {heavy.split()} if name in sys.modules])"
    ended = fresh.run(f"{code}\n{report}")
    assert ended.returncode == 0, ended.stderr
    return set(ended.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import admin_init",
        "import admin_init; admin_init.profile, admin_init.apply_, admin_init.AdminProfile",
        "import admin_init, torch; admin_init.find_sites(torch.nn.Transformer(16, 4, 1, 1, 16))",
        "import admin_init.measures.figures",
    ],
)
def test_the_core_loads_no_heavy_library(code: str) -> None:
    assert heavy_after(code) == set()


def test_the_adapter_of_transformers_waits_for_nothing() -> None:
    # Layers of its models are known by name, so those that are built are the only ones imported.
    code = (
        "import admin_init, transformers; "
        "config = transformers.BertConfig(vocab_size=9, hidden_size=24, num_hidden_layers=1); "
        "assert len(admin_init.find_sites(transformers.BertModel(config))) == 2; "
        "assert not [name for name in sys.modules if name.endswith('modeling_bart')]"
    )
    assert "transformers" in heavy_after(code)


def test_the_callback_loads_lightning_when_it_is_asked_for() -> None:
    # So that the test above can fail.
    assert "pytorch_lightning" in heavy_after("import admin_init; admin_init.AdminInit")


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
        assert "Returns:" in doc
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            if callable(value) and not method.startswith("_"):
                assert value.__doc__, f"{name}.{method}"
