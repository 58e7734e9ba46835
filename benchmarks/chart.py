"""Draw the speeds that training.py and decoding.py print: a panel a file, a bar an engine.

python benchmarks/chart.py training.jsonl decoding.jsonl --output speed.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from admin_init.lab.plotting import COLOURS, png, style_axis, subplots_grid

SPEEDS = ("target tokens a second", "sentences a second")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, help="rows of one measurement each")
    parser.add_argument("--output", type=Path, default=Path("speed.png"))
    options = parser.parse_args()
    figure, axes = subplots_grid(len(options.files), columns=2, width=5, height=2.4)
    for axis, file in zip(axes, options.files, strict=True):
        draw(axis, [json.loads(line) for line in file.read_text().splitlines()])
    options.output.write_bytes(png(figure))


def speed_of(row: Mapping[str, Any]) -> str:
    """Return the name of the speed in a row of training.py or of decoding.py."""
    (speed,) = (name for name in SPEEDS if name in row)
    return speed


def draw(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Draw the median of every engine, and a point for each of its rounds."""
    speed = speed_of(rows[0])
    for place, row in enumerate(reversed(rows)):
        ours = row["engine"].startswith("ours")
        axis.barh(place, row[speed], color=COLOURS[1] if ours else "0.8")
        rounds = row["in each round"]
        axis.plot(rounds, [place] * len(rounds), "|", color="black", markersize=10)
    axis.set_yticks(range(len(rows)), [row["engine"] for row in reversed(rows)])
    axis.set_xlabel(speed)
    axis.set_title(title(rows[0]), fontsize=10)
    style_axis(axis)
    axis.grid(visible=False, axis="y")


def title(row: dict[str, Any]) -> str:
    if "beam" in row:
        return f"Translating, beam {row['beam']}"
    words = "Multi30k" if row["synthetic"] == "None" else "random words"
    return f"Training, {row['layers']}-{row['layers']} layers, d {row['dim']}, {words}"


if __name__ == "__main__":
    main()
