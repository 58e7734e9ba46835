import base64
import json
import math
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from admin_init.lab.compare import Outcome
from admin_init.lab.comparison import Comparison
from admin_init.lab.report import figure, summary, table, write_report
from admin_init.lab.run import Result

NASTY = "<script>alert('&')</script> [bold]x[/bold] [/red]"


def result(residual: str = "admin", seed: int = 1, **changed: Any) -> Result:
    settings: dict[str, Any] = {
        "run": f"{residual}_18-18_lr0.001_seed{seed}",
        "residual": residual,
        "depth": "18-18",
        "learning_rate": 1e-3,
        "seed": seed,
        "trained": True,
        "reason": "its NLL of 2.50 is below the unigram entropy 4.00",
        "val_nll": 2.5,
        "source_gain": 0.75,
        "bleu": 12.34,
        "bleu_signature": "nrefs:1|case:mixed|version:9.9",
        "grad_norm": 0.123456,
        "seconds": 61.7,
        "history": {
            "train_loss": [5.0, 4.0, 3.0],
            "grad_norm": [3.0, 2.0, 1.0],
            "validation": [
                {"step": 2, "nll": 3.5, "source_gain": 0.1},
                {"step": 3, "nll": 2.5, "source_gain": 0.75},
            ],
            "seconds": 61.7,
        },
    }
    return Result(**settings | changed)


def diverged(seed: int = 1) -> Result:
    nan = math.nan
    return result(
        "post",
        seed,
        trained=False,
        reason="its validation NLL is nan",
        val_nll=nan,
        source_gain=nan,
        bleu=0.0,
        grad_norm=nan,
        history={
            "train_loss": [5.0, math.inf, nan],
            "grad_norm": [nan, nan, nan],
            "validation": [{"step": 3, "nll": nan, "source_gain": nan}],
            "seconds": 1.0,
        },
    )


def shown(comparison: Comparison, outcome: Outcome, width: int = 160) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(table(comparison, outcome))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_has_a_line_for_each_run() -> None:
    text = shown(Comparison(title=NASTY), Outcome([result(), diverged()], {}, 4.0))
    assert NASTY in " ".join(text.split())
    (admin,) = [line for line in text.splitlines() if "admin" in line]
    assert admin.split() == [
        "admin", "18-18", "0.001", "1", "trained", "2.500", "0.750", "12.3", "0.123", "62"
    ]  # fmt: skip
    (post,) = [line for line in text.splitlines() if "post" in line]
    assert "failed" in post
    assert "nan" in post


def test_on_a_narrow_terminal_no_figure_is_cut_off() -> None:
    text = shown(Comparison(), Outcome([result()], {}, 4.0), width=80)
    for figure_ in ("trained", "2.500", "0.750", "12.3", "0.123", "62"):
        assert figure_ in text


def test_the_summary_counts_seeds() -> None:
    runs = [
        result(seed=1, val_nll=2.5, bleu=12.34),
        result(seed=2, val_nll=2.25, bleu=13.0),
        diverged(1),
        result("post", 2, val_nll=3.0, bleu=None),
    ]
    assert summary(runs) == [
        "admin at 18-18 layers, learning rate 0.001: trained on 2 of 2 seeds; "
        "validation NLL 2.25 to 2.50, BLEU 12.3 to 13.0.",
        "post at 18-18 layers, learning rate 0.001: trained on 1 of 2 seeds; "
        "validation NLL 3.00 to nan, BLEU 0.0. Seed 1: its validation NLL is nan.",
    ]
    assert summary([]) == []


def test_the_figure_draws_every_run_and_names_every_kind_once() -> None:
    runs = [result(seed=1), result(seed=2), diverged(), result(learning_rate=5e-4)]
    loss, nll, norm = figure(Comparison(), Outcome(runs, {}, 4.0)).axes
    assert [len(axis.lines) for axis in (loss, nll, norm)] == [4, 5, 4]
    legend = loss.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "admin 18-18 lr 0.001",
        "post 18-18 lr 0.001",
        "admin 18-18 lr 0.0005",
    ]
    colours = [line.get_color() for line in loss.lines]
    assert colours[0] == colours[1]
    assert len(set(colours)) == 3
    assert np.asarray(loss.lines[0].get_xdata()).tolist() == [1, 2, 3]
    assert np.asarray(nll.lines[0].get_xdata()).tolist() == [2, 3]
    assert np.asarray(nll.lines[-1].get_ydata()).tolist() == [4.0, 4.0]
    assert norm.get_yscale() == "log"


class Page(HTMLParser):
    """Collects the tags, their attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.filterwarnings("error")
def test_the_page_needs_nothing_and_escapes_everything() -> None:
    comparison = Comparison(title=NASTY, output="out")
    reason = f"because {NASTY}"
    outcome = Outcome([result(reason=reason), diverged()], {"pre_1-1": f"Traceback {NASTY}"}, 4.0)
    write_report(comparison, outcome)
    html = Path("out/report.html").read_text()
    page = Page(html)
    assert not re.search(r"https?:|src=\"(?!data:)|url\(|@import|<link", html)
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert tags.count("tr") == 1 + 2 * 2
    assert page.text.count(NASTY) >= 4
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    kind, _, content = (image["src"] or "").partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == Path("out/report.png").read_bytes()
    assert image["alt"]
    assert "4.00 nats" in " ".join(page.text.split())
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "report.html",
        "report.png",
        "results.jsonl",
    ]


def test_rows_are_strict_json() -> None:
    comparison = Comparison(output="out")
    write_report(comparison, Outcome([result(), diverged()], {}, 4.0))

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    lines = Path("out/results.jsonl").read_text().splitlines()
    admin, post = (json.loads(line, parse_constant=refuse) for line in lines)
    assert admin == {key: value for key, value in vars(result()).items() if key != "history"}
    assert post["val_nll"] is None
    assert post["trained"] is False
    assert post["bleu"] == 0.0


@pytest.mark.filterwarnings("error")
def test_a_comparison_in_which_every_run_broke() -> None:
    comparison = Comparison(output="out")
    write_report(comparison, Outcome([], {"post_1-1": "Traceback: out of memory"}, 4.0))
    assert "out of memory" in Path("out/report.html").read_text()
    assert Path("out/results.jsonl").read_text() == ""
