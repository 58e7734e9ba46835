"""Print the speeds that training.py and decoding.py measured: a table a file, a row an engine.

python benchmarks/table.py training.jsonl decoding.jsonl
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from chart import speed_of


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="rows of one measurement each")
    for file in parser.parse_args().files:
        print(f"\n{file.name}\n")
        for line in table([json.loads(line) for line in file.read_text().splitlines()]):
            print(f"| {' | '.join(line)} |")


def table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return a row for every engine, below their names; empty is what was not measured."""
    speed = speed_of(rows[0])
    ours = [row for row in rows if row["engine"] in ("ours", "ours, bf16")]
    columns = {
        speed: lambda row: f"{row[speed]:,}",
        "in each round": lambda row: ", ".join(map(str, row["in each round"])),
        **{f"{one['engine']} / it": partial(ratio, one) for one in ours},
        "peak memory, MiB": lambda row: f"{row['peak memory, MiB']:,}",
    }
    if "equal to ours" in rows[0]:
        columns["best hypothesis the same"] = lambda row: (
            f"{row['equal to ours']:,} of {row['sentences']:,}"
        )
    head = ["engine", *columns]
    return [
        head,
        ["---"] * len(head),
        *([row["engine"], *(cell(row) for cell in columns.values())] for row in rows),
    ]


def ratio(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Return how much faster ``one`` is than ``other``, or nothing of an engine and itself."""
    name = f"over {other['engine']}"
    return f"{one[name]:.2f}" if name in one else ""


if __name__ == "__main__":
    main()
