"""The small-scale studies, on settings as small as they get."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from admin_init import profile
from admin_init.lab.studies import STUDIES, dependency, omega_spread, omegas, output_change
from admin_init.lab.studies.bench import Bench
from admin_init.lab.studies.findings import over_seeds
from admin_init.scaled_skip import ScaledSkip


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(folder=tmp_path_factory.mktemp("bench"), dim=16, ffn_dim=32, max_tokens=128)


@pytest.fixture(autouse=True)
def _prepared(bench: Bench) -> None:
    """What a study finds prepared in its folder it does not prepare again."""
    shutil.copytree(bench.data_bin, "out/data-bin")


def test_a_seed_is_written_with_what_it_stands_among() -> None:
    assert over_seeds([1.0, 2.0, 6.0]) == "3 (1 to 6)"
    assert over_seeds([1.23456]) == "1.23"
    assert over_seeds([1.0, math.nan]) == "not applicable"


class TestBench:
    def test_seeds_decide_on_the_weights_and_the_batch(self, bench: Bench) -> None:
        first, again, other = (bench.stack("post", 2, seed, "encoder") for seed in (1, 1, 2))
        assert torch.equal(first.tokens, again.tokens)
        assert first.runner()().equal(again.runner()())
        assert first.tokens.shape != other.tokens.shape or not first.tokens.equal(other.tokens)

    @pytest.mark.parametrize("kind", ["encoder", "decoder"])
    def test_admin_is_profiled_on_the_batch(self, bench: Bench, kind: str) -> None:
        stack = bench.stack("admin", 3, 1, kind)  # type: ignore[arg-type]
        skips = [m for m in stack.model.modules() if isinstance(m, ScaledSkip)]
        omegas = [skip.omega[0].item() for skip in skips]
        assert len(omegas) == 6
        assert omegas[0] == 1
        assert all(left < right for left, right in pairwise(omegas))
        found = profile(stack.model, [stack.tokens])  # again, from omega = 1
        np.testing.assert_allclose([site.omega for site in found.sites], omegas, rtol=0.2)


def test_output_of_post_ln_changes_more_than_that_of_admin() -> None:
    found = output_change(
        "out", ["post", "admin", "rezero", "layerscale"], depths=(2, 8, 24), seeds=(1, 2), draws=4,
        dim=32, max_tokens=128,
    )  # fmt: skip
    assert len(found.rows) == 4 * 3 * 2
    change = {(r["style"], r["layers"], r["seed"]): r["change"] for r in found.rows}
    for seed in (1, 2):
        for depth in (8, 24):
            assert change["post", depth, seed] > change["admin", depth, seed] > 0
        assert change["rezero", 24, seed] == 0
    assert "no change at any depth" in found.sentences[2]
    assert "the change falls to" in found.sentences[3]
    assert [row["exponent"] for row in found.summary[2:]] == ["not applicable"] * 2
    post, admin, _, _ = found.summary
    exponents = [float(row["exponent"].split()[0]) for row in (post, admin)]
    assert exponents[0] > exponents[1] > 0
    assert len(found.figure.axes) >= 3


def test_dependency_of_post_ln_does_not_fall_with_depth() -> None:
    found = dependency("out", depths=(2, 8), seeds=(1, 2), dim=16, max_tokens=128)
    own = {(r["style"], r["layers"], r["seed"]): r["own branch"] for r in found.rows}
    for seed in (1, 2):
        for style in ("pre", "admin"):
            assert own[style, 8, seed] < own[style, 2, seed]
            assert own[style, 8, seed] < own["post", 8, seed]
    picture, text, measured = found.save("out")
    assert json.loads(measured.read_text()) == {
        "rows": found.rows,
        "summary": found.summary,
        "sentences": found.sentences,
    }
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert text.read_text().count("\n| ") == 1 + 2 * 3
    assert sorted(path.name for path in Path("out").glob("out.*")) == [
        "out.json", "out.md", "out.png"
    ]  # fmt: skip


def test_omegas_stand_beside_the_constants_of_the_papers() -> None:
    found = omegas("out", depths=(2, 4), seeds=(1, 2), dim=16, max_tokens=128)
    assert len(found.rows) == 2 * (2 + 4) * (2 + 3)
    encoder, decoder = found.summary[2:]
    assert encoder["stack"] == "encoder of 4-4"
    assert encoder["O(log n)"] == f"{(9 / np.log(9) - 1) ** 0.5:.3g}"
    assert decoder["DeepNorm alpha"] == f"{12**0.25:.3g}"
    assert decoder["O(1)"] == f"{12**0.5:.3g}"


@pytest.mark.slow
def test_the_spread_is_that_of_repeated_profiles() -> None:
    found = omega_spread("out", depth=2, seeds=(1, 2), batch_sizes=(64, 256), batches=2, dim=16)
    spread = {(r["varied"], r["tokens"], r["seed"]): r["spread"] for r in found.rows}
    assert len(spread) == 2 * (2 * 2 + 3) + 1
    assert all(0 < value < 1 for value in spread.values())
    one, four, others = found.sentences
    worst = max(spread["batch", 256, seed] for seed in (1, 2))
    assert ("at most 5%: 64 tokens" in one) == all(
        spread["batch", size, seed] <= 0.05 for size in (64, 256) for seed in (1, 2)
    )
    assert ("1%: more than tried" in one) == (worst > 0.01)
    assert "four batches of a quarter each; 2 profiles, worst of 2 seeds" in four
    assert "whether or not padding is counted" in others
    # By hand, for the smaller batches of the first seed.
    bench = Bench(folder="out", dim=16, ffn_dim=64)
    model = bench.translator(1, 2)
    batches = [batch for _, batch in zip(range(2), bench.batches(1, 64), strict=False)]
    profiles = [profile(model, [(b.source, b.target_input)]) for b in batches]
    table = np.array([[site.omega for site in p.sites] for p in profiles])
    by_hand = (table.std(0, ddof=1) / table.mean(0)).max()
    assert spread["batch", 64, 1] == pytest.approx(by_hand)


def test_every_study_is_a_command() -> None:
    assert list(STUDIES) == ["output-change", "dependency", "omegas", "omega-spread"]
