"""Fill the tables of a page of these docs with what the tests say that fill them.

A test that belongs to a table has the mark that the page is named for, and hands its cells to the
fixture ``cells``. All of them must pass, or nothing is written.

    python docs/tables.py support
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree

Table = dict[str, dict[str, str]]
"""Rows by their names, and in them cells by the names of their columns."""

DOCS = Path(__file__).parent


def run_tests(mark: str) -> dict[str, Table]:
    """Run the tests with ``mark``, and gather the tables that they fill from their report."""
    found: dict[str, Table] = {}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # In one process, so that new rows come in the order of the tests.
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", mark, f"--junitxml={report}"]
        # The newer family of reports has no place for what a test records.
        subprocess.run([*pytest, "-o", "junit_family=xunit1"], cwd=DOCS.parent, check=True)
        properties = ElementTree.parse(report).findall(".//property[@name='cells']")
    for cells in properties:
        table, row, columns = json.loads(cells.attrib["value"])
        found.setdefault(table, {}).setdefault(row, {}).update(columns)
    return found


def markdown(table: Table, old: str = "") -> str:
    """Lay a table out, rows and columns where the ``old`` one has them, and new ones at the end."""
    before = [line.strip("| ").split(" | ") for line in old.splitlines() if line.startswith("|")]
    columns = in_order((column for cells in table.values() for column in cells), *before[:1])
    rows = in_order(table, [name for name, *_ in before])
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(table[row].get(column, "") for column in columns)] for row in rows]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def in_order(names: Iterable[str], known: Sequence[str] = ()) -> list[str]:
    """List every name once, those that are ``known`` first, in the order in which they are."""
    places = {name: place for place, name in enumerate(known)}
    return sorted(dict.fromkeys(names), key=lambda name: places.get(name, len(places)))


def filled(page: str, found: dict[str, Table]) -> str:
    """Return ``page`` with each table in its place, which two comments enclose."""
    for name, table in found.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, found_start, rest = page.partition(start)
        old, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise SystemExit(f"The page needs a place for its table: {start}{end}")
        page = f"{before}{start}\n{markdown(table, old)}\n{end}{after}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", choices=["support", "faults"])
    mark = parser.parse_args().page
    path = DOCS / f"{mark}.md"
    path.write_text(filled(path.read_text("utf-8"), run_tests(mark)), "utf-8")


if __name__ == "__main__":
    main()
