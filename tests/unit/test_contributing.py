"""What CONTRIBUTING.md shows, run."""

import re
from collections.abc import Iterator

import pytest
import torch
from _helpers import ROOT

from admin_init.nn import RESIDUAL_STYLES, LanguageModel, Transformer, TransformerConfig


@pytest.fixture
def example() -> Iterator[None]:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    exec(code, {"__name__": "example"})
    yield
    del RESIDUAL_STYLES["halved"]


@pytest.mark.usefixtures("example")
def test_the_example_of_a_residual_style() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        vocabulary_size=20, dim=16, heads=4, residual="halved", dropout=0.0, encoder_layers=2
    )
    model = Transformer(config)
    x = torch.randn(2, 5, 16)
    expected = x
    for layer in model.encoder.layers:
        for place in ("self_attn", "ffn"):
            branch = getattr(layer, place)(expected)
            norm = getattr(layer, f"{place}_residual").norm
            expected = norm(expected + branch / 2)
    torch.testing.assert_close(model.encoder(x), expected)
    assert (
        LanguageModel(
            TransformerConfig(
                vocabulary_size=20, dim=16, heads=4, residual="halved", encoder_layers=0
            )
        )(torch.randint(4, 20, (2, 5)))
        .isfinite()
        .all()
    )


def test_an_unregistered_style_is_unknown() -> None:
    with pytest.raises(ValueError, match="but is 'halved'"):
        TransformerConfig(residual="halved")
