from typing import Any

import pytest

from admin_init import AdminInitError
from admin_init.lab.comparison import Comparison, Grid, Variant


def test_a_run_for_each_combination_those_of_a_seed_together() -> None:
    grid = Grid(
        residual=["post", "admin"], depth=["6-6", "18-2"], learning_rate=[1e-3], seed=[1, 2]
    )
    assert grid.variants() == [
        Variant(residual, encoder_layers, decoder_layers, 1e-3, seed)
        for seed in (1, 2)
        for encoder_layers, decoder_layers in ((6, 6), (18, 2))
        for residual in ("post", "admin")
    ]


def test_names() -> None:
    variant = Variant("admin-closed", 18, 2, 0.0005, 3)
    assert variant.depth == "18-2"
    assert variant.name == "admin-closed_18-2_lr0.0005_seed3"


@pytest.mark.parametrize("depth", ["18", "18-18-18", "a-b", "-1-2", "18-", "18x18", ""])
def test_a_depth_that_is_none(depth: str) -> None:
    with pytest.raises(AdminInitError, match=f"of the form `18-18`, but is '{depth}'"):
        Comparison(grid=Grid(depth=[depth]))


@pytest.mark.parametrize(
    "name", ["max_steps", "max_tokens", "validate_every", "workers", "threads"]
)
def test_what_must_be_positive(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(AdminInitError, match=f"`{name}` must be at least 1, but is 0"):
        Comparison(**settings)


@pytest.mark.parametrize("name", ["residual", "depth", "learning_rate", "seed"])
def test_a_grid_without_a_run(name: str) -> None:
    settings: dict[str, Any] = {name: []}
    with pytest.raises(AdminInitError, match="at least one run"):
        Comparison(grid=Grid(**settings))


@pytest.mark.parametrize(
    "settings", [{"residual": ["post", "post"]}, {"learning_rate": [1e-3, 1.0000001e-3]}]
)
def test_runs_of_one_name_would_share_a_folder(settings: dict[str, Any]) -> None:
    with pytest.raises(AdminInitError, match=r"gives post_18-18_lr0\.001_seed1 several times"):
        Comparison(grid=Grid(**{"residual": ["post"], **settings}))


def test_problems_are_listed_together() -> None:
    with pytest.raises(AdminInitError, match=r"max_steps.*workers"):
        Comparison(max_steps=0, workers=-1)
