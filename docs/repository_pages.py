"""Pages of the site that live elsewhere in the repository, where each is read on its own too.

A hook of MkDocs, see ``mkdocs.yml``. Links are written as paths in the repository, so that they
work beside the file too; here they become those of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
HOME = {"README.md": "index.md"}
ELSEWHERE = (
    "README.md",
    "CHANGELOG.md",
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/*.md",
    "benchmarks/*.png",
    "notebooks/*.md",
    "notebooks/*.ipynb",
    "recipes/*/*.md",
    "recipes/*/*.png",
)
LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that lie outside of ``docs``, under the paths they have in the repository."""
    for pattern in ELSEWHERE:
        for path in sorted(ROOT.glob(pattern)):
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, HOME.get(uri, uri), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to the places that files have on the site."""
    if page.file.src_uri in HOME.values():
        page.meta["hide"] = ["navigation"]  # of one page
    here = Path(str(page.file.abs_src_path)).relative_to(ROOT).parent.as_posix()
    start = posixpath.dirname(page.file.src_uri) or "."

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, match[2])).removeprefix("docs/")
        return match[1] + posixpath.relpath(HOME.get(target, target), start)

    return LINK.sub(moved, markdown)
