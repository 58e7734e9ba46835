"""Pages of the site that live elsewhere in the repository, where each is read on its own too.

A hook of MkDocs, see ``mkdocs.yml``. Links are written as paths in the repository, so that they
work beside the file too; here they become those of the site.
"""

from __future__ import annotations

import base64
import json
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
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for uri, content in _notebook(path).items():
            files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point the links of a page to the places that files have on the site."""
    if page.file.src_uri in HOME.values():
        page.meta["hide"] = ["navigation"]  # of one page
    start = posixpath.dirname(page.file.src_uri) or "."
    source = page.file.abs_src_path
    here = start if source is None else Path(source).relative_to(ROOT).parent.as_posix()

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, match[2])).removeprefix("docs/")
        target = HOME.get(target, re.sub(r"\.ipynb$", ".md", target))
        return match[1] + posixpath.relpath(target, start)

    return LINK.sub(moved, markdown)


def _notebook(path: Path) -> dict[str, str | bytes]:
    """Return a notebook as a page of Markdown, and its pictures, by their paths on the site."""
    parts: list[str] = []
    pictures: dict[str, str | bytes] = {}
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[f"notebooks/{name}"] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell above draws]({name})")
            else:
                shown = "".join(data["text/plain"]).rstrip()
                parts.append(f"```text\n{shown}\n```")
    return {f"notebooks/{path.stem}.md": "\n\n".join(parts), **pictures}
