"""The files around the package: they can be read, and agree with each other and with the code."""

from __future__ import annotations

import importlib
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import admin_init
from admin_init import measures, nn
from admin_init.nn import residual

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
PAGES = [
    *sorted(path for path in ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "recipes").rglob("*.md")),
    *sorted((ROOT / "benchmarks").glob("*.md")),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def read(path: Path) -> Any:
    # YAML 1.1 takes the key `on` of a workflow for true.
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w -]*):(?!=)", (ROOT / "Makefile").read_text(), re.M)) | {
        name
        for names in re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)
        for name in names.split()
    }


def names_a_make_target(text: str) -> list[str]:
    return re.findall(r"(?:^ {4,}|`|run: )make ([a-z][\w-]*)", text, re.M)


@pytest.mark.parametrize("path", sorted(GITHUB.glob("workflows/*.yml")), ids=lambda path: path.stem)
def test_a_workflow_has_what_it_needs(path: Path) -> None:
    workflow = read(path)
    assert {"name", "on", "permissions", "jobs"} <= workflow.keys()
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step)
    assert set(names_a_make_target(path.read_text())) <= make_targets()


def test_the_first_check_is_what_the_readme_and_contributing_name() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert {"lint", "docs", "test"} <= set(re.findall(r"^make ([\w-]+)$", script, re.M))
    assert "    make test " in (ROOT / "README.md").read_text()
    shown = names_a_make_target((ROOT / "CONTRIBUTING.md").read_text())
    assert {"lint", "docs", "test"} <= set(shown)


def test_ci_runs_the_oldest_versions_that_are_claimed() -> None:
    cells = read(GITHUB / "workflows" / "ci.yml")["jobs"]["unit"]["strategy"]["matrix"]["include"]
    assert cells[0] == {"python": PROJECT["requires-python"][2:], "resolution": "lowest-direct"}
    assert {cell["resolution"] for cell in cells[1:]} == {"highest"}


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_template_has_what_it_needs(name: str) -> None:
    form = read(GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml")
    assert {"name", "description", "body"} <= form.keys()
    assert all({"type", "attributes"} <= part.keys() for part in form["body"])
    assert all(part["attributes"]["label"] for part in form["body"])


def test_the_other_settings_can_be_read() -> None:
    updates = read(GITHUB / "dependabot.yml")["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"pip", "github-actions"}
    repositories = read(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"] for repository in repositories for hook in repository["hooks"]}
    assert hooks >= {"ruff", "ruff-format", "codespell"}
    container = yaml.safe_load((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make install"


def test_one_version_everywhere() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "preferred-citation"} <= citation.keys()
    assert citation["version"] == PROJECT["version"]
    changes = (ROOT / "CHANGELOG.md").read_text()
    version, date = re.findall(r"^## \[?([\d.]+)\]? - (\d{4}-\d\d-\d\d)$", changes, re.M)[0]
    assert (version, date) == (PROJECT["version"], citation["date-released"])


@each_page
def test_a_make_target_that_a_page_names_is_there(page: Path) -> None:
    assert set(names_a_make_target(page.read_text())) <= make_targets()


@each_page
def test_what_a_page_links_to_is_in_the_repository(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", prose):
        assert (page.parent / target).exists(), target


@each_page
def test_a_file_or_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    paths = r"`((?:admin_init|benchmarks|docs|recipes|tests)/[\w/.-]+)`"
    for path in re.findall(paths, text) + re.findall(r"\b(tests/[\w/]+\.py)\b", text):
        assert (ROOT / path).exists(), path
    imports = re.findall(r"^from (admin_init[\w.]*) import (\w+)", text, re.M)
    for module, name in imports:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


def test_no_walk_passes_a_module_twice() -> None:
    for walk in (ROOT / "docs" / "walks.md").read_text().split("\n## ")[1:]:
        passed = re.findall(r"^\d+\. `(admin_init/[\w/]+\.py)`", walk, re.M)
        assert len(passed) == len(set(passed)), walk


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 140


def test_every_public_name_is_in_the_reference() -> None:
    shown = {
        match
        for page in (ROOT / "docs" / "reference").glob("*.md")
        for match in re.findall(r"^(?:::: | +- )([\w.]+)$", page.read_text(), re.M)
    }
    assert shown >= {f"admin_init.{name}" for name in admin_init.__all__}
    # The pages of these show all of `__all__`.
    assert shown >= {measures.__name__, residual.__name__}
    assert shown | set(residual.__all__) >= set(nn.__all__)
    callbacks = re.findall(r"^class (\w+)\(Callback\)", _sources("callbacks"), re.M)
    assert {name.rpartition(".")[2] for name in shown} >= set(callbacks)


def _sources(folder: str) -> str:
    return "\n".join(path.read_text() for path in (ROOT / "admin_init" / folder).glob("*.py"))


def test_external_links_are_encrypted() -> None:
    spec = importlib.util.spec_from_file_location("links", ROOT / "docs" / "links.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    found = module.links(PAGES)
    assert found["https://arxiv.org/abs/2004.08249"] == "README.md"
    assert all(link.startswith("https://") for link in found)


def test_every_style_is_in_the_table_of_the_lab() -> None:
    section = (ROOT / "docs" / "lab.md").read_text().partition("## The eighteen styles")[2]
    table = re.findall(r"^\| `([\w-]+)` \|", section, re.M)
    assert sorted(table) == sorted(residual.RESIDUAL_STYLES)
    assert len(table) == 18
