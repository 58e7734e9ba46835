import math

import pytest

from admin_init._utils.validation import check_given, check_numbers
from admin_init.errors import AdminInitError
from admin_init.lab.comparison.config import Comparison
from admin_init.lab.comparison.criteria import Criteria
from admin_init.lab.comparison.grid import Grid
from admin_init.nn import TransformerConfig
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.preparation.config import PrepareConfig
from admin_init.translation.search import SearchConfig


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (TransformerConfig, "decoder_layers"),
        (OptimizationConfig, "warmup_steps"),
        (SearchConfig, "max_len_b"),
        (PrepareConfig, "min_length"),
    ],
)
def test_a_field_that_must_not_be_none_is_named(config: type, field: str) -> None:
    with pytest.raises(ValueError, match=rf"`{field}` must be .*int.*, but is None"):
        config(**{field: None})


def test_a_field_that_may_be_none_may() -> None:
    check_given(TransformerConfig(vocabulary_size=None))


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
    with pytest.raises(AdminInitError, match="`learning_rate` must be finite"):
        Comparison(grid=Grid(learning_rate=[1e-3, math.inf]))
    with pytest.raises(AdminInitError, match="`relapse` must be finite"):
        Comparison(criteria=Criteria(relapse=math.nan))
    with pytest.raises(AdminInitError, match=r"`grid\.seed` must be from 0 to 4294967295"):
        Comparison(grid=Grid(seed=[1, -5]))


@pytest.mark.parametrize("value", [0, -1, math.nan, None, [], [2, 0], (1, 11), 11, math.inf])
def test_numbers_out_of_bounds_are_refused(value: object) -> None:
    with pytest.raises(AdminInitError, match="`x` must be from 1 to 10, but is"):
        check_numbers(1, 10, x=value)


def test_numbers_within_bounds() -> None:
    check_numbers(1, 10, x=1, y=[10, 2.5])
    with pytest.raises(AdminInitError, match="`y` must be at least 1, but is 0"):
        check_numbers(1, x=1, y=0)
