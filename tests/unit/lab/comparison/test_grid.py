from typing import Any

import pytest

from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid, Variant
from admin_init.lab.comparison.run import build


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


def test_every_axis_multiplies() -> None:
    axes: dict[str, Any] = {
        "width": [32, 64],
        "warmup_steps": [0, 100],
        "max_tokens": [512, 8192],
        "precision": ["32-true", "bf16-mixed"],
        "beta2": [0.98, 0.999],
    }
    variants = Grid(residual=["post"], **axes).variants()
    assert len(set(variants)) == len({variant.name for variant in variants}) == 2**5
    for axis, values in axes.items():
        assert sorted({getattr(variant, axis) for variant in variants}) == sorted(values)


def test_names() -> None:
    plain = Variant("admin-closed", "18-2", 0.0005, 3)
    assert plain.layers == (18, 2)
    assert plain.name == "admin-closed_18-2_lr0.0005_seed3"
    full = Variant("post", "18-18", 1e-3, 1, 64, 0, 4096, "bf16-mixed", 0.999)
    assert full.name == "post_18-18_lr0.001_d64_warmup0_tokens4096_bf16-mixed_beta0.999_seed1"
    assert full.name == f"{full.kind}_seed1"
    assert full.kind == full._replace(seed=2).kind != full._replace(width=32).kind


def built(variant: Variant, **common: Any) -> Any:
    return build(Comparison(**common), variant, None)


def test_an_axis_replaces_the_common_setting() -> None:
    common = {"transformer": {"dim": 32, "ffn_dim": 96, "heads": 2}, "optimization": {}}
    variant = Variant("post", "2-1", 1e-3, 1, width=64, warmup_steps=0, beta2=0.999)
    module = built(variant, **common)
    assert (module.config.dim, module.config.ffn_dim) == (64, 3 * 64)
    assert (module.config.encoder_layers, module.config.decoder_layers) == (2, 1)
    assert module.optimization.warmup_steps == 0
    assert module.optimization.betas == (0.9, 0.999)
    other = {**common, "optimization": {"betas": (0.8, 0.9), "warmup_steps": 7}}
    assert built(variant, **other).optimization.betas == (0.8, 0.999)


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


@pytest.mark.parametrize(("dim", "ffn_dim"), [(512, 2048), (64, 256)])
def test_the_width_of_a_shape_that_is_not_given(dim: int, ffn_dim: int) -> None:
    assert built(Variant("post", "1-1", 1e-3, 1, width=dim)).config.ffn_dim == ffn_dim
