"""List the external links of the README and the docs; with ``--check``, ask whether they are there.

python docs/links.py --check
"""

from __future__ import annotations

import argparse
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("*.md", "docs/**/*.md", "recipes/**/*.md", "benchmarks/*.md", "notebooks/*.md")
LINK = re.compile(r"\bhttps?://[^\s)>`\"}]+")
REFUSES_ROBOTS = (401, 403, 405, 429)


def links(pages: Iterable[Path]) -> dict[str, str]:
    """Return every external link, and the page on which it first stands."""
    found: dict[str, str] = {}
    for page in sorted(pages):
        for link in LINK.findall(page.read_text("utf-8")):
            found.setdefault(link.rstrip(".,;:"), page.relative_to(ROOT).as_posix())
    return found


def problem(link: str) -> str | None:
    """Say what is wrong with a link, if anything is."""
    request = urllib.request.Request(link, headers={"User-Agent": "Mozilla/5.0"})
    try:
        with urllib.request.urlopen(request, timeout=30):
            return None
    except urllib.error.HTTPError as error:
        return None if error.code in REFUSES_ROBOTS else str(error)
    except OSError as error:
        return str(error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="open each of them")
    check = parser.parse_args().check
    found = links(path for pattern in PAGES for path in ROOT.glob(pattern))
    wrong = 0
    for link, page in found.items():
        why = problem(link) if check else None
        wrong += why is not None
        print(f"{link}  ({page}){'' if why is None else f': {why}'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
