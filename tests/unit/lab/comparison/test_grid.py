from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pytest
from _helpers.command_line import call

from admin_init._utils.atomic_files import write_checked, write_json
from admin_init.errors import AdminInitError
from admin_init.lab.comparison import grid
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import AXES, Axis, Grid, Variant
from admin_init.lab.comparison.history import Course, Validation
from admin_init.lab.comparison.result import Result, make_result
from admin_init.lab.comparison.run import build
from admin_init.lab.report.groups import groups


def test_a_run_for_each_combination_those_of_a_seed_together() -> None:
    grid = Grid(
        residual=["post", "admin"], depth=["6-6", "18-2"], learning_rate=[1e-3], seed=[1, 2]
    )
    assert grid.variants() == [
        Variant(residual, depth, 1e-3, seed)
        for seed in (1, 2)
        for depth in ("6-6", "18-2")
        for residual in ("post", "admin")
    ]


VALUES: dict[str, Any] = {
    "width": [32, 64],
    "warmup_steps": [0, 100],
    "max_tokens": [512, 8192],
    "precision": ["32-true", "bf16-mixed"],
    "beta2": [0.98, 0.999],
    "rule": ["reference", "share"],
    "input_share": [0.25, 0.75],
    "omega": [2.0, 3.5],
    "initialization": ["xavier", "gpt2"],
    "branch_scale": [1.0, 4.0],
    "input_scale": [1.0, 3.0],
    "share_embeddings": ["all", "none"],
}


# Not all at once, as there is a run for each combination.
@pytest.mark.parametrize("some", [slice(0, 6), slice(6, None)])
def test_every_axis_multiplies(some: slice) -> None:
    axes = {name: VALUES[name] for name in list(AXES)[some]}
    variants = Grid(residual=["post"], **axes).variants()
    assert len(set(variants)) == len({variant.name for variant in variants}) == 2 ** len(axes)
    for axis, values in axes.items():
        assert sorted({variant.others[axis] for variant in variants}) == sorted(values)


OTHERS = {
    "width": 64,
    "warmup_steps": 0,
    "max_tokens": 4096,
    "precision": "bf16-mixed",
    "beta2": 0.999,
    "rule": "share",
    "input_share": 0.75,
    "omega": 3.5,
    "initialization": "gpt2",
    "branch_scale": 0.25,
    "input_scale": 3.0,
    "share_embeddings": "none",
}


def test_names() -> None:
    plain = Variant("admin-closed", "18-2", 0.0005, 3)
    assert plain.layers == (18, 2)
    assert plain.name == "admin-closed_18-2_lr0.0005_seed3"
    full = Variant("post", "18-18", 1e-3, 1, OTHERS)
    others = (
        "d64_warmup0_tokens4096_bf16-mixed_beta0.999_share_share0.75_omega3.5_init-gpt2_branch0.25_"
        "input3_tied-none"
    )
    assert full.name == f"post_18-18_lr0.001_{others}_seed1"
    assert full.name == f"{full.group}_seed1"
    wider = replace(full, others=OTHERS | {"width": 128})
    assert full.group == replace(full, seed=2).group != wider.group


def built(variant: Variant, **common: Any) -> Any:
    return build(Comparison(**common), variant, None)


def test_an_axis_replaces_the_common_setting() -> None:
    common = {"transformer": {"dim": 32, "ffn_dim": 96, "heads": 2}, "optimization": {}}
    variant = Variant("post", "2-1", 1e-3, 1, {"width": 64, "warmup_steps": 0, "beta2": 0.999})
    module = built(variant, **common)
    assert (module.config.dim, module.config.ffn_dim) == (64, 3 * 64)
    assert (module.config.encoder_layers, module.config.decoder_layers) == (2, 1)
    assert module.optimization.warmup_steps == 0
    assert module.optimization.betas == (0.9, 0.999)
    other = {**common, "optimization": {"betas": (0.8, 0.9), "warmup_steps": 7}}
    assert built(variant, **other).optimization.betas == (0.8, 0.999)


def test_initialization_scales_and_tied_embeddings_replace_those_of_the_transformer() -> None:
    others = {
        "width": 64,
        "initialization": "gpt2",
        "branch_scale": 0.25,
        "input_scale": 3.0,
        "share_embeddings": "none",
    }
    common = {"dim": 32, "heads": 2, "branch_scale": 7.0, "share_embeddings": "target"}
    config = built(Variant("post", "1-1", 1e-3, 1, others), transformer=common).config
    given = (config.initialization, config.branch_scale, config.input_scale)
    assert given == ("gpt2", 0.25, 3.0)
    assert (config.dim, config.heads, config.share_embeddings) == (64, 2, "none")
    config = built(Variant("post", "1-1", 1e-3, 1), transformer=common).config
    assert (config.branch_scale, config.share_embeddings) == (7.0, "target")


def test_scaled_runs_are_written_read_and_reported() -> None:
    grid = Grid(
        residual=["admin"],
        depth=["1-1"],
        initialization=["xavier", "torch"],
        branch_scale=[1, 4],
        input_scale=[0.5, 1],
        share_embeddings=["all", "target"],
    )
    course = Course(train_loss=[], grad_norm=[], validation=[Validation(0, 1.0, 0.0)], seconds=0.0)
    comparison = Comparison(grid=grid, output="out")
    results = [make_result(comparison, one, course, 4.0, None) for one in comparison.variants()]
    for result in results:
        path = Path("out", result.variant.name, "result.json")
        write_checked(path, result.to_dict())
        assert Result.load(path).variant == result.variant
    assert len({group.setting for group in groups(results)}) == len(results) == 2**4
    assert groups(results)[-1].setting == (
        "1-1 layers, torch initialization, branches x 4, input x 1, tied embeddings: target"
    )


def test_an_axis_that_is_left_out_takes_the_common_setting() -> None:
    variant = Variant("post", "2-1", 1e-3, 1)
    module = built(
        variant,
        transformer={"dim": 32, "ffn_dim": 96, "heads": 2},
        optimization={"betas": (0.8, 0.9), "warmup_steps": 7},
    )
    assert (module.config.dim, module.config.ffn_dim) == (32, 96)
    assert module.optimization.betas == (0.8, 0.9)
    assert module.optimization.warmup_steps == 7


def test_the_settings_of_a_run_are_those_of_all_but_for_its_axes() -> None:
    common = Comparison(max_tokens=512, grid=Grid(width=[8, 16]))
    both = {"max_tokens": 99, "precision": "16-mixed"}
    plain = common.of(Variant("post", "1-1", 1e-3, 1))
    mixed = common.of(Variant("post", "1-1", 1e-3, 1, both))
    assert (plain.max_tokens, plain.precision) == (512, "32-true")
    assert (mixed.max_tokens, mixed.precision) == (99, "16-mixed")
    assert plain == replace(common, grid=plain.grid)
    assert [variant.others for variant in mixed.variants()] == [both]


def test_the_options_of_admin() -> None:
    common = Comparison(admin={"rule": "share", "share": 0.75, "trainable": False})
    assert common.of(Variant("admin", "1-1", 1e-3, 1)).admin == common.admin
    others = {"rule": "paper", "input_share": 0.25}
    changed = common.of(Variant("admin", "1-1", 1e-3, 1, others))
    assert changed.admin == {"rule": "paper", "share": 0.25, "trainable": False}
    assert common.of(Variant("admin", "1-1", 1e-3, 1, {"omega": 3.0})).omega == 3


@pytest.mark.parametrize(
    ("admin", "error"),
    [
        ({"rule": "shares"}, r"`rule` must be one of .*share, but is 'shares'"),
        ({"rule": "share", "share": 2}, r"`share` must be between 0 and 1"),
        ({"rules": "share"}, r"unexpected keyword argument 'rules'"),
    ],
)
def test_wrong_options_of_admin_are_refused_when_the_module_is_built(
    admin: dict[str, Any], error: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        built(Variant("admin", "1-1", 1e-3, 1), admin=admin)
    built(Variant("pre", "1-1", 1e-3, 1), admin=admin)  # has no profile


DROPOUT = Axis(
    "drop{:g}",
    "dropout {:g}",
    lambda common, rate: {"transformer": common["transformer"] | {"dropout": rate}},
)


@dataclass(frozen=True, kw_only=True)
class WiderGrid(Grid):
    """A grid with one more axis, added as CONTRIBUTING.md says."""

    dropout: list[float] | None = field(default=None, metadata={"axis": DROPOUT})
    """Values of `transformer.dropout`."""


def test_a_new_axis_is_one_field_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its runs are named, built, written, read and reported by it."""
    monkeypatch.setattr(grid, "Grid", WiderGrid)
    monkeypatch.setitem(AXES, "dropout", DROPOUT)
    wider = WiderGrid(residual=["post"], depth=["1-1"], dropout=[0.0, 0.25])
    comparison = Comparison(grid=wider, output="out")
    none, some = comparison.variants()
    assert (none.name, some.name) == (
        "post_1-1_lr0.001_drop0_seed1",
        "post_1-1_lr0.001_drop0.25_seed1",
    )
    assert build(comparison, some, None).config.dropout == 0.25
    course = Course(train_loss=[], grad_norm=[], validation=[Validation(0, 1.0, 0.0)], seconds=0.0)
    results = [make_result(comparison, variant, course, 4.0, None) for variant in (none, some)]
    assert results[1].row()["dropout"] == 0.25
    for result in results:
        path = Path("out", result.variant.name, "result.json")
        write_checked(path, result.to_dict())
        assert repr(Result.load(path)) == repr(result)  # NaN is not equal to itself
    write_json(path, results[1].to_dict() | {"dropout": "much"})
    with pytest.raises(AdminInitError, match=r"`dropout\[0\]` is 'much': expected `float`"):
        Result.load(path)
    assert [group.setting for group in groups(results)] == [
        "1-1 layers, dropout 0",
        "1-1 layers, dropout 0.25",
    ]


def test_help_shows_every_axis() -> None:
    said = call("compare", "--help").out
    for each in fields(Grid):
        assert f"--grid.{each.name} " in said


@pytest.mark.parametrize(("dim", "ffn_dim"), [(512, 2048), (64, 256)])
def test_the_width_of_a_shape_that_is_not_given(dim: int, ffn_dim: int) -> None:
    assert built(Variant("post", "1-1", 1e-3, 1, {"width": dim})).config.ffn_dim == ffn_dim
