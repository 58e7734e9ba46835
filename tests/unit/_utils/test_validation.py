import math
from collections.abc import Sequence
from typing import Annotated, Any

import pytest

from admin_init._utils.validation import Bound, PositiveInt, at_least, check
from admin_init.errors import AdminInitError, CorpusError
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.criteria import Criteria
from admin_init.lab.comparison.grid import Grid
from admin_init.nn import TransformerConfig
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.search import SearchConfig


@pytest.mark.parametrize(
    ("config", "field", "wanted"),
    [
        (TransformerConfig, "decoder_layers", "at least 0"),
        (TransformerConfig, "padding_idx", "int"),
        (OptimizationConfig, "warmup_steps", "at least 0"),
        (OptimizationConfig, "optimizer", "one of adam, radam"),
        (SearchConfig, "max_len_b", "at least 0"),
        (PrepareConfig, "min_length", "at least 1"),
        (PrepareConfig, "normalize", "bool"),
        (Comparison, "transformer", "dict"),
    ],
)
def test_a_field_that_must_not_be_none_is_named(config: type, field: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=f"^`{field}` must be {wanted}.*, but is None"):
        config(**{field: None})


def test_a_field_that_may_be_none_may() -> None:
    TransformerConfig(vocabulary_size=None)
    Comparison(max_steps=None, max_minutes=0.5)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("config", "field"),
    [
        (TransformerConfig, "dropout"),
        (OptimizationConfig, "initial_learning_rate"),
        (SearchConfig, "length_penalty"),
        (PrepareConfig, "max_ratio"),
        (Comparison, "max_minutes"),
    ],
)
def test_a_number_that_is_not_finite_is_named(config: type, field: str, value: float) -> None:
    with pytest.raises(AdminInitError, match=rf"`{field}` must be finite, but is {value}"):
        config(**{field: value})


def test_numbers_in_lists_and_in_parts_are_looked_at_too() -> None:
    with pytest.raises(AdminInitError, match="`betas` must be finite"):
        OptimizationConfig(betas=(0.9, math.nan))
    with pytest.raises(AdminInitError, match=r"`grid\.learning_rate` must be finite"):
        Comparison(grid=Grid(learning_rate=[1e-3, math.inf]))
    with pytest.raises(AdminInitError, match=r"`criteria\.relapse` must be finite"):
        Comparison(criteria=Criteria(relapse=math.nan))
    with pytest.raises(AdminInitError, match=r"`grid\.seed` must be from 0 to 4294967295"):
        Comparison(grid=Grid(seed=[1, -5]))


@pytest.mark.parametrize("value", [0, -1, math.nan, None, 11, math.inf])
def test_numbers_out_of_bounds_are_refused(value: object) -> None:
    number = Annotated[float, Bound("from 1 to 10", lambda value: 1 <= value <= 10)]
    wanted = "finite" if isinstance(value, float) else "from 1 to 10"
    with pytest.raises(AdminInitError, match=f"^`x` must be {wanted}, but is {value}"):
        check({"x": number}, {"x": value})


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ([], "a list of at least one number, but is []"),
        ([2, 0], "at least 1, but is 0"),
        ((1, -5), "at least 1, but is -5"),
        ([None], "at least 1, but is None"),
        ([1, math.nan], "finite, but is nan"),
    ],
)
def test_numbers_in_sequences_are_refused(value: Any, fault: str) -> None:
    with pytest.raises(AdminInitError) as caught:
        draw(value)
    assert str(caught.value) == f"`seeds` must be {fault}."


def draw(seeds: Sequence[PositiveInt], names: Sequence[str] = ()) -> None:
    check(draw, locals())


def test_all_problems_are_named() -> None:
    types = {"x": PositiveInt, "y": PositiveInt, "z": Annotated[int, at_least(3)]}
    with pytest.raises(CorpusError) as caught:
        check(types, {"x": 0, "y": 1, "z": -1, "other": None}, CorpusError)
    assert str(caught.value).splitlines() == [
        "`x` must be at least 1, but is 0.",
        "`z` must be at least 3, but is -1.",
    ]


def test_numbers_within_bounds() -> None:
    draw([1, 2], names=[])
    check({"x": PositiveInt, "y": list[PositiveInt]}, {"x": 1, "y": [10, 2]})
    check({"x": Annotated[int | None, at_least(2)], "y": PositiveInt}, {"x": None})
