"""Dependence of a profile on seed, batch, batch size, dropout and padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch

from admin_init._utils.validation import PositiveInt, Seed, at_least, check
from admin_init.admin_profile import AdminProfile
from admin_init.lab.plotting import line_style, style_axis, subplots_grid
from admin_init.lab.studies.bench import Bench, profile_translator
from admin_init.lab.studies.findings import Findings, over_seeds
from admin_init.nn import Transformer
from admin_init.translation.data.batching import TranslationBatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BATCH, _MIXED = "batch", "four batches of a quarter"
_DRAW, _DROPOUT, _PADDING = "dropout's draw", "dropout on or off", "padding counted or not"


def omega_spread(
    output: str = "runs/lab/omega_spread",
    depth: PositiveInt = 18,
    seeds: Sequence[Seed] = (1, 2, 3),
    batch_sizes: Sequence[Annotated[int, at_least(4)]] = (64, 128, 256, 512, 1024, 2048, 4096),
    batches: PositiveInt = 8,
    dim: PositiveInt = 32,
) -> Findings:
    """Measure how omegas vary with the seed, the batch and its size, dropout and padding.

    The sentences of a batch have about the same length, so four batches with a quarter of its
    tokens are a better mixture; both are profiled. The spread at a site is the standard deviation
    of its omega divided by the mean; the spread of a model is the largest of its sites.

    Args:
        output: Output folder.
        depth: Number of layers of the encoder and of the decoder.
        seeds: Seeds of the weights.
        batch_sizes: Maximum numbers of tokens per side to profile on. Each number is used once as
            one batch, and once as four batches with a quarter of the tokens each.
        batches: Number of profiles for each model and batch size.
        dim: Number of channels; the FFN has four times as many inner channels.
    """
    check(omega_spread, locals())
    bench = Bench(folder=output, dim=dim, ffn_dim=4 * dim)
    rows: list[dict[str, Any]] = []
    firsts: list[AdminProfile] = []
    fixed = bench.max_tokens
    for seed in seeds:
        model = bench.translator(seed, depth)
        for size in batch_sizes:
            profiles = [
                profile_translator(model, [batch])
                for batch in islice(bench.batches(seed, size), batches)
            ]
            quarters = bench.batches(seed, size // 4)
            mixed = [profile_translator(model, list(islice(quarters, 4))) for _ in range(batches)]
            for varied, found in ((_BATCH, profiles), (_MIXED, mixed)):
                spread = _spread(found)
                rows.append({"varied": varied, "tokens": size, "seed": seed, "spread": spread})
        batch = next(bench.batches(seed))
        plain = _without_dropout(bench, model, depth)
        # On the same batch: two draws of dropout, no dropout, no padding.
        first = profile_translator(model, [batch])
        torch.manual_seed(-seed)
        second = profile_translator(model, [batch])
        firsts.append(first)
        off = profile_translator(plain, [batch])
        unpadded = profile_translator(plain, list(_one_by_one(batch)))
        for varied, pair in (
            (_DRAW, (first, second)),
            (_DROPOUT, (first, off)),
            (_PADDING, (off, unpadded)),
        ):
            rows.append(
                {"varied": varied, "tokens": fixed, "seed": seed, "spread": _difference(*pair)}
            )
    rows.append({"varied": "seed", "tokens": fixed, "seed": None, "spread": _spread(firsts)})
    summary = _summarised(rows)
    return Findings(
        name=Path(output).name,
        rows=rows,
        summary=summary,
        sentences=_sentences(rows, batch_sizes, batches, len(seeds)),
        figure=_figure(rows, batch_sizes, seeds),
    )


def _spread(profiles: Sequence[AdminProfile]) -> float:
    omegas = np.array([[site.omega for site in profile.sites] for profile in profiles])
    return float((omegas.std(0, ddof=1) / omegas.mean(0)).max())


def _difference(left: AdminProfile, right: AdminProfile) -> float:
    """Return the largest relative difference between the omegas of a site."""
    return max(abs(a.omega / b.omega - 1) for a, b in zip(left.sites, right.sites, strict=True))


def _without_dropout(bench: Bench, model: Transformer, depth: int) -> Transformer:
    plain = replace(bench, dropout=0.0).translator(0, depth)
    plain.load_state_dict(model.state_dict())
    return plain


def _one_by_one(batch: TranslationBatch) -> Iterable[TranslationBatch]:
    for i in range(len(batch.source)):
        source, target_input, target, index = (part[i : i + 1] for part in batch)
        words, written = source[0].ne(1), target[0].ne(1)
        yield TranslationBatch(
            source[:, words], target_input[:, written], target[:, written], index
        )


def _summarised(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    kinds = dict.fromkeys((row["varied"], row["tokens"]) for row in rows)
    return [
        {
            "varied": varied,
            "tokens": str(tokens),
            "largest relative spread": over_seeds(
                row["spread"] for row in rows if (row["varied"], row["tokens"]) == (varied, tokens)
            ),
        }
        for varied, tokens in kinds
    ]


def _sentences(
    rows: list[dict[str, Any]], batch_sizes: Sequence[int], batches: int, seeds: int
) -> list[str]:
    def worst(varied: str, tokens: int) -> float:
        own = [row for row in rows if (row["varied"], row["tokens"]) == (varied, tokens)]
        return max(float(row["spread"]) for row in own)

    sentences = []
    for varied, one in ((_BATCH, "one batch"), (_MIXED, "four batches of a quarter each")):
        found = []
        for limit in (0.05, 0.02, 0.01):
            # The spread must stay below the limit from this size on: one lucky size is no proof.
            above = [size for size in batch_sizes if worst(varied, size) > limit]
            enough = [size for size in batch_sizes if size > max(above, default=0)]
            size = f"{min(enough):,} tokens" if enough else "more than tried"
            found.append(f"{limit:.0%}: {size}")
        sentences.append(
            f"Tokens per side for a spread between profiles of at most {', '.join(found)} (at "
            f"every site; {one}; {batches} profiles, worst of {seeds} seeds)."
        )
    (fixed,) = {row["tokens"] for row in rows if row["varied"] == "seed"}
    sentences.append(
        f"At {fixed:,} tokens, omegas differ by {worst('seed', fixed):.1%} between seeds of the "
        f"weights and the batch, by {worst(_DRAW, fixed):.1%} between two draws of dropout, by "
        f"{worst(_DROPOUT, fixed):.1%} with and without dropout, and by "
        f"{worst(_PADDING, fixed):.1%} whether or not padding is counted."
    )
    return sentences


def _figure(rows: list[dict[str, Any]], batch_sizes: Sequence[int], seeds: Sequence[int]) -> Figure:
    figure, (axis,) = subplots_grid(1, width=6.0, height=4.0)
    for number, varied in enumerate((_BATCH, _MIXED)):
        of_seeds = [
            [100 * row["spread"] for row in rows if (row["varied"], row["seed"]) == (varied, seed)]
            for seed in seeds
        ]
        axis.plot(
            batch_sizes, np.mean(of_seeds, axis=0), label=f"{varied}, mean", **line_style(number)
        )
        for spread in of_seeds:
            axis.plot(
                batch_sizes, spread, "os"[number], color=line_style(number)["color"], markersize=4
            )
    axis.set(
        xscale="log",
        xlabel="tokens on each side of the profiled batches",
        ylabel="largest std / mean of an omega, %",
        title="spread between profiles of different batches (dots: seeds)",
        ylim=(0, None),
    )
    axis.set_xticks(list(batch_sizes), [f"{size:,}" for size in batch_sizes])
    axis.minorticks_off()
    axis.legend(frameon=False)
    style_axis(axis)
    return figure
