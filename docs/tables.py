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
        # In one process, so that rows come in the order of the tests.
        pytest = [sys.executable, "-m", "pytest", "-q", "-m", mark, f"--junitxml={report}"]
        subprocess.run(pytest, cwd=DOCS.parent, check=True)
        properties = ElementTree.parse(report).findall(".//property[@name='cells']")
    for cells in properties:
        table, row, columns = json.loads(cells.attrib["value"])
        found.setdefault(table, {}).setdefault(row, {}).update(columns)
    return found


def markdown(table: Table) -> str:
    """Lay a table out, rows in the order in which the tests stand."""
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(cells.get(column, "") for column in columns)] for row, cells in table.items()]
    escaped = ([text.replace("|", "\\|") for text in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def filled(page: str, found: dict[str, Table]) -> str:
    """Return ``page`` with each table in its place, which two comments enclose."""
    for name, table in found.items():
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        before, found_start, rest = page.partition(start)
        _, found_end, after = rest.partition(end)
        if not (found_start and found_end):
            raise SystemExit(f"The page needs a place for its table: {start}{end}")
        page = f"{before}{start}\n{markdown(table)}\n{end}{after}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", choices=["support", "faults"])
    mark = parser.parse_args().page
    path = DOCS / f"{mark}.md"
    path.write_text(filled(path.read_text("utf-8"), run_tests(mark)), "utf-8")


if __name__ == "__main__":
    main()
