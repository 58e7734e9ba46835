"""The wheel and the sdist, installed where there is nothing but the base's own requirements."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import admin_init
from admin_init.errors import _PACKAGES

ROOT = Path(admin_init.__file__).parents[1]
BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def closure(requirements: list[str]) -> set[str]:
    """The names of all distributions that these need, and what those need."""
    found: dict[str, set[str]] = {}
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        wanted = waiting.pop()
        known = found.setdefault(wanted.name, set())
        if known and wanted.extras <= known:
            continue
        known |= {"", *wanted.extras}
        for text in distribution(wanted.name).requires or []:
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in known):
                waiting.append(needed)
    return set(found)


def run(*command: str | Path, cwd: Path) -> str:
    # Nothing but what the environment has.
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def empty_environment(folder: Path) -> Path:
    """Make an environment with what the base requires, by links, and nothing else."""
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for name in closure(PROJECT["dependencies"]):
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or []} - {"..", "__pycache__"}:
            link = packages / top
            if not link.exists():  # as `google` does, which several share
                link.symlink_to(Path(str(installed.locate_file(top))))
    return folder / "bin" / "python"


def install(python: Path, package: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    run(
        *pip,
        "install",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        package,
        cwd=python.parent,
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "admin_init", source / "admin_init", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-c", BUILD, cwd=source)
    return source / "dist"


@pytest.fixture(scope="module")
def base(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment into which the wheel has been installed."""
    python = empty_environment(tmp_path_factory.mktemp("environment") / "base")
    install(python, next(built.glob("*.whl")))
    return python


@pytest.fixture(scope="module")
def answers(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What `base_install.py` found out in that environment."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copy(Path(__file__).with_name("base_install.py"), folder)
    recipe = ROOT / "recipes" / "multi30k_en_de" / "fit.yaml"
    run(base, "base_install.py", recipe, cwd=folder)
    return json.loads((folder / "answers.json").read_text())


def test_the_base_is_small() -> None:
    assert len(PROJECT["dependencies"]) <= 8


def test_the_wheel_has_all_of_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    content = {name for name in zipfile.ZipFile(wheel).namelist() if "dist-info" not in name}
    package = ROOT / "admin_init"
    files = [path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert content == {str(path.relative_to(ROOT)) for path in files}
    assert {
        "admin_init/py.typed",
        "admin_init/__init__.pyi",
        "admin_init/lab/report/templates/report.html.jinja",
        "admin_init/fairseq/user_dir/admin_fairseq_plugin/__init__.py",
    } <= content


def test_the_sdist_installs_what_the_wheel_does(built: Path, base: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    python = empty_environment(base.parents[2] / "sdist")
    install(python, sdist)
    trees = [
        {path.relative_to(tree) for path in tree.rglob("*.*") if path.suffix != ".pyc"}
        for at in (python, base)
        for tree in at.parents[1].glob("lib/python*/site-packages/admin_init")
    ]
    assert trees[0] == trees[1]
    version = f"admin-init {PROJECT['version']}\n"
    assert run(python.with_name("admin-init"), "--version", cwd=built) == version


def test_nothing_else_is_there(base: Path, answers: Any) -> None:
    assert Path(answers["from"]).is_relative_to(base.parents[1])
    assert answers["found"] == []
    assert answers["public"] == admin_init.__all__


def test_every_callback_works(answers: Any) -> None:
    fit = answers["fit"]
    assert fit["logger"] == "TensorBoardLogger"
    first, *rest = fit["omegas"]
    assert first == 1
    assert len(rest) == 3
    assert 1 not in rest
    assert {"admin_profile.json", "folded.ckpt", "average.ckpt", "chosen.ckpt"} <= set(fit["files"])
    assert "grad_norm" in " ".join(fit["monitored"])


def test_every_help_is_shown(answers: Any) -> None:
    for name, (code, out, err) in answers["help"].items():
        assert (code, err) == (0, ""), name
        assert out.startswith(f"usage: admin-init {name} "), name
        assert len(out.splitlines()) > 10, name


def test_what_needs_no_command_is_answered(answers: Any) -> None:
    assert answers["version"] == [0, f"admin-init {PROJECT['version']}\n", ""]
    assert answers["overview"][0] == 0
    code, _, err = answers["typo"]
    assert code == 2
    assert err.endswith("Did you mean translate?\n")


def test_models_of_ones_own_are_profiled_folded_and_averaged(answers: Any) -> None:
    for command, said in (
        ("profile", "encoder.layers.1.ffn"),
        ("fold", "outputs differ by at most"),
        ("average", "their average"),
    ):
        code, out, err = answers[command]
        assert (code, err) == (0, ""), command
        assert said in out, command
    assert {"profile.json", "folded.ckpt", "mean.ckpt"} <= set(answers["left"])


@pytest.mark.parametrize(
    ("extra", "commands"),
    [
        ("translation", "prepare translate fit validate test predict profile"),
        ("lab", "compare merge study diagnose"),
    ],
)
def test_commands_name_the_extra_that_they_need(answers: Any, extra: str, commands: str) -> None:
    for command in commands.split():
        code, out, err = answers["commands"][command]
        assert (code, out) == (2, ""), command
        assert err == (
            f"admin-init {command}: sacrebleu is not installed. "
            f"Run `pip install 'admin-init[{extra}]'`.\n"
        )
    assert not {"data-bin", "runs"} & set(answers["left"])


def test_fairseq_is_asked_for(answers: Any) -> None:
    code, _, err = answers["commands"]["convert"]
    assert code == 2
    assert "pip install 'admin-init[fairseq]', then pip install --no-deps fairseq" in err


def test_classes_name_the_extra_that_they_need(answers: Any) -> None:
    assert answers["classes"] == [
        "MissingExtraError: sacrebleu is not installed. "
        "Run `pip install 'admin-init[translation]'`.",
    ] * 3 + [
        f"MissingExtraError: {package} is not installed. Run `pip install 'admin-init[{extra}]'`."
        for package, extra in (("matplotlib", "lab"), ("transformers", "huggingface"))
    ]


def test_what_is_required_of_an_extra_is_what_it_installs() -> None:
    for extra, packages in _PACKAGES.items():
        texts = [f"admin-init[{extra}]"]
        for text in texts:
            wanted = Requirement(text)
            for part in wanted.extras:
                texts += PROJECT["optional-dependencies"][part]
        names = {Requirement(text).name for text in texts} - {"admin-init"}
        assert names == set(packages)


def test_the_extras_that_errors_name_exist() -> None:
    for path in (ROOT / "admin_init").rglob("*.py"):
        for name in re.findall(r"""(?:require|import)_extra\("(\w+)\"""", path.read_text()):
            assert name in PROJECT["optional-dependencies"], path
