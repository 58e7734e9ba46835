import pytest

from admin_init.fields import check_given
from admin_init.nn import TransformerConfig
from admin_init.translation.optimization import OptimizationConfig
from admin_init.translation.prepare_config import PrepareConfig
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
