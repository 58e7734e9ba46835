import base64
import json
import math
import re
from dataclasses import fields
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid, Variant
from admin_init.lab.comparison.history import Course, LayerNorms, Validation
from admin_init.lab.comparison.result import Result
from admin_init.lab.comparison.runner import Outcome
from admin_init.lab.report.curves import curves, gradient_norms, outcomes
from admin_init.lab.report.learning_rates import rates_figure, sensitivities
from admin_init.lab.report.page import table, write_report
from admin_init.lab.report.summary import summary

NASTY = "<script>alert('&')</script> [bold]x[/bold] [/red]"


def result(residual: str = "admin", seed: int = 1, **changed: Any) -> Result:
    axes = {"depth": "18-18", "learning_rate": 1e-3} | {
        axis.name: changed.pop(axis.name) for axis in fields(Grid) if axis.name in changed
    }
    settings: dict[str, Any] = {
        "variant": Variant.pop_from({"residual": residual, "seed": seed, **axes}),
        "trained": True,
        "reason": "its NLL of 2.50 is below the unigram entropy 4.00",
        "val_nll": 2.5,
        "source_gain": 0.75,
        "bleu": 12.34,
        "bleu_signature": "nrefs:1|case:mixed|version:9.9",
        "grad_norm": 0.123456,
        "history": Course(
            train_loss=[5.0, 4.0, 3.0],
            grad_norm=[3.0, 2.0, 1.0],
            validation=[Validation(2, 3.5, 0.1), Validation(3, 2.5, 0.75)],
            seconds=61.7,
            initial_nll=changed.pop("initial_nll", None),
        ),
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
        history=Course(
            train_loss=[5.0, math.inf, nan],
            grad_norm=[nan, nan, nan],
            validation=[Validation(3, nan, nan)],
            seconds=1.0,
        ),
    )


SEEDS = [(1, 90.0, 3.0), (2, 91.0, 3.5)]


def shown(comparison: Comparison, outcome: Outcome, width: int = 160) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(table(comparison, outcome))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_table_has_a_line_for_each_style_over_its_seeds() -> None:
    runs = [result(), result(seed=2, val_nll=2.25, bleu=13.0), diverged()]
    text = shown(Comparison(title=NASTY), Outcome(runs, {}, 4.0))
    assert NASTY in " ".join(text.split())
    (admin,) = [line for line in text.splitlines() if "Admin" in line]
    expected = "Admin 18-18 2 of 2 2.38 (2.25-2.50) 0.75 12.7 (12.3-13.0) 0.12 62"
    assert " ".join(admin.split()) == expected
    (post,) = [line for line in text.splitlines() if "Post-LN" in line]
    assert post.split()[:6] == ["Post-LN", "18-18", "0", "of", "1", "nan"]


def test_on_a_narrow_terminal_no_figure_is_cut_off() -> None:
    text = shown(Comparison(), Outcome([result()], {}, 4.0), width=80)
    for figure_ in ("1 of 1", "2.50", "0.75", "12.3", "0.12", "62"):
        assert figure_ in text


def test_on_a_narrow_terminal_ranges_come_below_their_means() -> None:
    runs = [result(bleu=bleu, seed=seed, source_gain=gain) for seed, bleu, gain in SEEDS]
    lines = [line.split() for line in shown(Comparison(), Outcome(runs, {}, 4.0), 80).splitlines()]
    means = ["Admin", "18-18", "2", "of", "2", "2.50", "3.25", "90.5", "0.12", "62"]
    assert lines[lines.index(means) + 1] == ["(3.00-3.50)", "(90.0-91.0)"]


def test_the_summary_counts_seeds_and_gives_reasons() -> None:
    runs = [
        result(seed=1, val_nll=2.5),
        result(seed=2, val_nll=2.25),
        result("keel", 1, val_nll=2.0),
        result("keel", 2, val_nll=2.3),
        diverged(1),
        result("post", 2, val_nll=3.0),
    ]
    assert summary(runs) == [
        "At 18-18 layers, trained in 2 of 2 seeds: Admin, KEEL; trained in 1 of 2 seeds: Post-LN.",
        "Lowest validation NLL at 18-18 layers, in nats per token: KEEL 2.15 (2.00-2.30), Admin "
        "2.38 (2.25-2.50); the seeds of the first two overlap, so neither is better.",
        "Post-LN at 18-18 layers failed in 1 of 2 seeds; seed 1: its validation NLL is nan.",
    ]
    assert summary([]) == []


def test_the_summary_names_the_axes_that_differ() -> None:
    runs = [result(), result("pre"), result(learning_rate=5e-4, max_tokens=4096)]
    first, _, second = summary(runs)
    assert first.startswith("At 18-18 layers, learning rate 0.001, trained in 1 of 1 seed: ")
    assert second.startswith("At 18-18 layers, learning rate 0.0005, 4096 tokens, trained in 1")


def test_learning_rate_sensitivity_is_over_the_rates_of_a_style() -> None:
    """By hand: min(L, L_0) is 2, 3 and 5, the best 2, so 4/3; with the other seed 2, 2, 2."""
    runs = [
        result(seed=seed, learning_rate=rate, val_nll=nll, initial_nll=5.0)
        for seed, nlls in ((1, (2.0, 3.0, math.nan)), (2, (2.0, 2.0, 2.0)))
        for rate, nll in zip((1e-3, 1e-2, 1e-1), nlls, strict=True)
    ]
    assert sensitivities(runs) == [
        "Admin at 18-18 layers: learning-rate sensitivity 0.667 (0.000-1.333) nats over 3 rates "
        "from 0.001 to 0.1."
    ]
    assert sensitivities(runs[:1]) == []
    assert sensitivities([result(), result(learning_rate=1e-2)]) == []


def test_the_figure_draws_every_run_and_names_every_style_once() -> None:
    spiky = result(seed=2)
    spiky.history.spikes = [2]
    runs = [result(seed=1), spiky, diverged(), result(depth="6-6")]
    loss, nll, norm, *shallow = curves(runs, 4.0).axes
    assert [len(axis.lines) for axis in (loss, nll, norm)] == [2 * 3, 3 + 1, 3]
    assert "18-18 layers" in loss.get_title()
    assert "6-6 layers" in shallow[0].get_title()
    legend = norm.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["Admin", "Post-LN"]
    colours = [line.get_color() for line in norm.lines]
    assert colours[0] == colours[1] != colours[2]
    (marked,) = [line for line in loss.lines if line.get_marker() == "x" and len(line.get_xydata())]
    assert np.asarray(marked.get_xydata()).tolist() == [[2, 4.0]]
    assert np.asarray(nll.lines[0].get_xdata()).tolist() == [2, 3]
    assert np.asarray(nll.lines[-1].get_ydata()).tolist() == [4.0, 4.0]
    assert norm.get_yscale() == "log"


def test_outcomes_are_ranked_and_a_failed_run_is_hollow() -> None:
    worse = result("keel", val_nll=3.0)
    (axis,) = outcomes([worse, result(), diverged(), result(seed=2)], 4.0).axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Post-LN", "KEEL", "Admin"]
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [line.get_markerfacecolor() for line in dots] == ["none", "black", "black", "black"]
    assert np.asarray(dots[-1].get_xydata()).tolist() == [[2.5, 2.0]]


def test_many_styles_are_smoothed_and_shown_six_in_a_row() -> None:
    runs = [result(style) for style in "abcdefgh"]
    for run in runs:
        run.history.train_loss = run.history.grad_norm = [*[1.0] * 10, 9.0, 1.0]
    loss, _, norm, _, _, others = curves(runs, 4.0).axes
    for axis in (loss, norm):
        assert np.asarray(axis.lines[0].get_xydata()).tolist() == [[11, 1.0], [12, 1.0]]
    named = [[text.get_text() for text in a.get_legend().get_texts()] for a in (norm, others)]
    assert named == [[*"abcdef"], [*"gh"]]


def test_over_many_settings_the_summary_counts_runs() -> None:
    rates = [1e-3 * n for n in range(1, 8)]
    runs = [result(seed=s, learning_rate=rate) for rate in rates for s in (1, 2)]
    runs += [diverged(1), diverged(2)]
    runs += [result("post", seed=s, learning_rate=rate) for rate in rates[1:] for s in (1, 2)]
    assert summary(runs) == [
        "Runs that trained, over 7 settings: Admin 14 of 14, Post-LN 12 of 14.",
        "Post-LN failed in at least one seed at 1 of 7 settings, in all seeds at 1; for "
        "example at 18-18 layers, learning rate 0.001, seed 1: its validation NLL is nan.",
    ]


def test_rates_are_drawn_where_there_are_three_of_them() -> None:
    rates = (1e-3, 2e-3, 4e-3)
    runs = [result(seed=s, learning_rate=rate, val_nll=s) for rate in rates for s in (1, 2)]
    assert rates_figure(runs[:4], 4.0) is None
    lost = result("post", learning_rate=2e-3, trained=False, val_nll=math.nan)
    figure = rates_figure([*runs, lost], 4.0)
    assert figure is not None
    (axis,) = figure.axes
    mean, *seeds = axis.lines
    assert np.asarray(mean.get_xydata()).tolist() == [[rate, 1.5] for rate in rates]
    assert len(seeds) == 6 + 2 + 1  # Post-LN's line and its run; the entropy.
    (failed,) = [line for line in axis.lines if line.get_fillstyle() == "none"]
    assert np.asarray(failed.get_xydata()).tolist() == [[2e-3, 6.0]]


def test_sensitivity_is_not_mixed_over_other_axes() -> None:
    runs = [
        result(learning_rate=rate, beta2=beta2, val_nll=nll, initial_nll=5.0)
        for beta2, nlls in ((0.9, (1.0, 2.0)), (0.99, (1.0, 4.0)))
        for rate, nll in zip((1e-3, 1e-2), nlls, strict=True)
    ]
    first, second = sensitivities(runs)
    assert "beta2 0.9: learning-rate sensitivity 0.500 " in first
    assert "beta2 0.99: learning-rate sensitivity 1.500 " in second


def test_gradient_norms_are_drawn_by_sublayer_where_recorded() -> None:
    assert gradient_norms([result()]) is None
    runs = [result(seed=seed) for seed in (1, 2)]
    for run, scale in zip(runs, (1.0, 3.0), strict=True):
        norms = {f"encoder.layers.{i}.{place}": scale for i in (0, 1) for place in ("a", "b")}
        run.history.layer_grad_norm = [LayerNorms(2, norms | {"output_proj": 9.0})]
    drawn = gradient_norms(runs)
    assert drawn is not None
    (axis,) = drawn.axes
    assert np.asarray(axis.lines[0].get_xydata()).tolist() == [[i, 2.0] for i in (1, 2, 3, 4)]


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
    # Styles, settings, rate and seeds; a head and a row for each style, or two for each run.
    assert tags.count("tr") == 4 + (1 + 2) + (1 + 2 * 2)
    assert page.text.count(NASTY) >= 4
    _, image = [attributes for tag, attributes in page.tags if tag == "img"]
    kind, _, content = (image["src"] or "").partition(",")
    assert kind == "data:image/png;base64"
    assert base64.b64decode(content) == Path("out/report.png").read_bytes()
    assert image["alt"]
    assert "4.00 nats" in " ".join(page.text.split())
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "outcomes.png",
        "report",
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
    assert admin.pop("updates") == 3
    left_out = ("history", "seconds")
    expected = result()
    assert admin == {key: v for key, v in expected.to_dict().items() if key not in left_out}
    assert (admin["run"], admin["width"]) == (expected.variant.name, None)
    assert post["val_nll"] is None
    assert post["trained"] is False
    assert post["bleu"] == 0.0


@pytest.mark.filterwarnings("error")
def test_a_comparison_in_which_every_run_broke() -> None:
    comparison = Comparison(output="out")
    write_report(comparison, Outcome([], {"post_1-1": "Traceback: out of memory"}, 4.0))
    assert "out of memory" in Path("out/report.html").read_text()
    assert Path("out/results.jsonl").read_text() == ""
