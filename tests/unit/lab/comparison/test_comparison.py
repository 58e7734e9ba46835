import math
from typing import Any

import pytest

from admin_init import AdminInitError
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.grid import Grid


@pytest.mark.parametrize("depth", ["18", "18-18-18", "a-b", "-1-2", "18-", "18x18", ""])
def test_a_depth_that_is_none(depth: str) -> None:
    with pytest.raises(AdminInitError, match=f"of the form `18-18`, but is '{depth}'"):
        Comparison(grid=Grid(depth=[depth]))


@pytest.mark.parametrize("depth", ["6-0", "0-0"])
def test_without_a_decoder_nothing_translates(depth: str) -> None:
    with pytest.raises(AdminInitError, match=f"at least one decoder layer.*but is '{depth}'"):
        Comparison(grid=Grid(depth=[depth]))


def test_without_an_encoder_there_is_no_search() -> None:
    decoder_only = Grid(depth=["6-6", "0-32"])
    assert len(Comparison(grid=decoder_only).variants()) == 6
    with pytest.raises(AdminInitError, match=r"`bleu` needs an encoder .* `depth` is '0-32'"):
        Comparison(grid=decoder_only, bleu=True)


@pytest.mark.parametrize(
    "name", ["max_steps", "max_tokens", "validate_every", "average", "workers", "threads"]
)
def test_what_must_be_positive(name: str) -> None:
    settings: dict[str, Any] = {name: 0}
    with pytest.raises(AdminInitError, match=f"`{name}` must be at least 1, but is 0"):
        Comparison(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": None}, "`max_steps` or `max_minutes` must be given, but both are null"),
        ({"max_minutes": 0}, "`max_minutes` must be positive, but is 0"),
        ({"max_minutes": float("nan")}, "`max_minutes` must be finite, but is nan"),
        ({"monitor_every": -1}, "`monitor_every` must be at least 0, but is -1"),
        ({"precision": "8"}, "`precision` must be one of 32-true, .*, but is '8'"),
        ({"grid": Grid(precision=["32"])}, "`grid.precision` must be one of"),  # type: ignore[list-item]
        ({"grid": Grid(max_tokens=[0])}, "`grid.max_tokens` must be at least 1, but is 0"),
        ({"grid": Grid(branch_scale=[1.0, 0.0])}, "`grid.branch_scale` must be positive, but is 0"),
        ({"grid": Grid(input_scale=[math.inf])}, "`grid.input_scale` must be finite, but is inf"),
        ({"grid": Grid(initialization=["he"])}, "`grid.initialization` must be one of xavier, "),  # type: ignore[list-item]
        ({"grid": Grid(share_embeddings=["both"])}, "`grid.share_embeddings` must be one of all"),  # type: ignore[list-item]
    ],
)
def test_what_is_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(AdminInitError, match=message):
        Comparison(**settings)


def test_a_budget_is_updates_or_minutes_or_both() -> None:
    assert Comparison(max_steps=None, max_minutes=0.5).max_steps is None
    assert Comparison(max_minutes=0.5).max_steps == 500


def test_shares_are_a_partition_of_the_grid() -> None:
    grid = Grid(residual=["post", "pre"], seed=[1, 2, 3, 4])
    shares = [Comparison(grid=grid, share=f"{i}/3").variants() for i in (1, 2, 3)]
    every = grid.variants()
    assert shares[1] == [every[1], every[4], every[7]]
    assert sorted((v for share in shares for v in share), key=every.index) == every
    assert Comparison(grid=grid).variants() == every


@pytest.mark.parametrize("share", ["0/3", "4/3", "1", "1/0", "a/b", "1/2/3", ""])
def test_a_share_that_is_none(share: str) -> None:
    with pytest.raises(AdminInitError, match=f"`share` must be of the form `2/3`, .* '{share}'"):
        Comparison(share=share)


@pytest.mark.parametrize("name", ["residual", "depth", "learning_rate", "seed", "width", "beta2"])
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
    with pytest.raises(AdminInitError, match=r"max_steps.*workers.*several times"):
        Comparison(max_steps=0, workers=-1, grid=Grid(seed=[1, 1]))
