"""The notebooks run, and what they show is kept in them."""

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from _helpers import ROOT
from nbclient import NotebookClient

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SHOWS = re.compile(r"\bprint\(|\bplt\.show\(")
A_MACHINE = re.compile(r"/(?:home|root|tmp|work|Users|usr|opt|var|mnt)/|[A-Z]:\\")

# The constants of a notebook's first code cell, small enough for a test.
QUICK = {
    "01_one_line": {"SEEDS": "(1,)", "STEPS": "4"},
    "02_why_depth_fails": {"SEEDS": "(1,)", "DEPTHS": "(2, 4, 6)", "DIRECTIONS": "1"},
    "03_choose_a_stabiliser": {"SEEDS": "(1,)", "STEPS": "2"},
    "04_your_own_model": {"SEEDS": "(1,)", "STEPS": "2", "LAYERS": "(2, 2)"},
}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> str:
    """All that a cell shows as text."""
    parts = []
    for output in cell.outputs:
        parts.append(output.get("text", ""))
        parts += [value for kind, value in output.get("data", {}).items() if "text" in kind]
    return "".join(parts)


def check_outputs(notebook: Any) -> None:
    for cell in code_cells(notebook):
        kinds = [output.output_type for output in cell.outputs]
        assert "error" not in kinds
        assert not [output for output in cell.outputs if output.get("name") == "stderr"]
        assert bool(kinds) == bool(SHOWS.search(cell.source)), cell.source
        if "plt.show(" in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert not A_MACHINE.search(texts(cell)), texts(cell)


def execute(notebook: Any, folder: Path, timeout: int) -> None:
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources).execute()


def test_there_are_notebooks() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(QUICK)


@each
def test_what_a_notebook_shows_is_kept_in_it(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check_outputs(notebook)
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run it from a fresh kernel, top to bottom"
    assert set(notebook.metadata) == {"kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"


@each
def test_a_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    constants = code_cells(notebook)[0]
    for name, value in QUICK[path.stem].items():
        line = re.compile(rf"^{name} = .*$", re.MULTILINE)
        constants.source, found = line.subn(f"{name} = {value}", constants.source)
        assert found == 1
    execute(notebook, tmp_path, timeout=120)
    check_outputs(notebook)


@pytest.mark.slow
@pytest.mark.timeout(400)
@each
def test_a_notebook_runs_in_full(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    execute(notebook, tmp_path, timeout=300)
    check_outputs(notebook)
