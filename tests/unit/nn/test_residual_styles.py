import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from _helpers.perturb import perturb_
from torch import Tensor, nn

from admin_init.nn import RESIDUAL_STYLES, Transformer, TransformerConfig
from admin_init.nn.residual import (
    FinalNorm,
    PostResidual,
    PostStyle,
    PreResidual,
    PreStyle,
    ResidualConnection,
    SkipConnection,
    StackShape,
    register_style,
    residual_style,
)
from admin_init.scaled_skip import ScaledSkip


def build(residual: str = "post", **options: Any) -> Transformer:
    torch.manual_seed(0)
    defaults = {
        "vocabulary_size": 20,
        "dim": 16,
        "ffn_dim": 24,
        "heads": 4,
        "encoder_layers": 3,
        "decoder_layers": 2,
        "dropout": 0.0,
        "residual": residual,
    }
    return Transformer(TransformerConfig(**defaults | options))


def connections(model: nn.Module) -> dict[str, ResidualConnection]:
    return {n: m for n, m in model.named_modules() if isinstance(m, ResidualConnection)}


class TestConnections:
    x = torch.linspace(-1, 3, 30).view(1, 3, 10)

    def branch(self, x: Tensor) -> Tensor:
        return x.sin()

    def test_post(self) -> None:
        expected = nn.functional.layer_norm(self.x + self.x.sin(), (10,))
        torch.testing.assert_close(PostResidual(10)(self.x, self.branch, {}), expected)

    def test_pre(self) -> None:
        expected = self.x + nn.functional.layer_norm(self.x, (10,)).sin()
        torch.testing.assert_close(PreResidual(10)(self.x, self.branch, {}), expected)

    def test_admin(self) -> None:
        skip = ScaledSkip(10)
        nn.init.constant_(skip.omega, 2.5)
        expected = nn.functional.layer_norm(2.5 * self.x + self.x.sin(), (10,))
        torch.testing.assert_close(PostResidual(10, skip)(self.x, self.branch, {}), expected)

    def test_the_plain_sum_has_no_state(self) -> None:
        assert not SkipConnection().state_dict()
        assert set(PostResidual(10).state_dict()) == {"norm.weight", "norm.bias"}


class TestStyles:
    def test_post_has_no_norm_at_its_end(self) -> None:
        model = build("post")
        assert model.encoder.end is None
        assert model.decoder.end is None
        assert {type(m) for m in connections(model).values()} == {PostResidual}
        assert {type(m.skip) for m in connections(model).values()} == {SkipConnection}

    def test_pre_ends_in_a_norm(self) -> None:
        model = build("pre")
        assert isinstance(model.encoder.end, FinalNorm)
        x = torch.randn(2, 5, 16)
        assert model.encoder(x).std(-1).sub(1).abs().max() < 0.1

    def test_admin_starts_as_post(self) -> None:
        assert torch.equal(*(build(style)(*_sentences()) for style in ("post", "admin")))

    def test_admin_trains_all_omegas_but_the_first_of_each_stack(self) -> None:
        model = build("admin")
        frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
        assert frozen == {
            "encoder.layers.0.self_attn_residual.skip.omega",
            "decoder.layers.0.self_attn_residual.skip.omega",
        }

    @pytest.mark.parametrize(
        ("style", "formula"),
        [
            ("admin-closed", lambda n: math.sqrt((n + 1) / math.log(n + 1) - 1)),
            ("admin-closed-constant", math.sqrt),
        ],
    )
    def test_closed_forms_count_the_sublayers_of_their_own_stack(
        self, style: str, formula: Callable[[int], float]
    ) -> None:
        """The formulas are admin-torch 0.1.0's."""
        model = build(style)
        for stack, sublayers in ((model.encoder, 2 * 3), (model.decoder, 3 * 2)):
            skips = [m.skip for m in connections(stack).values()]
            assert len(skips) == sublayers
            trained = [skip.omega.requires_grad for skip in skips]
            assert trained == [False] + [True] * (sublayers - 1)
            for skip in skips:
                torch.testing.assert_close(skip.omega, torch.full((16,), formula(sublayers)))

    def test_reset_brings_omega_back(self) -> None:
        for style in ("admin", "admin-closed"):
            model, reference = build(style), build(style)
            perturb_(model)
            model.reset_parameters()
            for name, connection in connections(model).items():
                expected = connections(reference)[name].skip.omega
                torch.testing.assert_close(connection.skip.omega, expected)


class TestRegistry:
    def test_an_unknown_name_is_answered_with_the_known_ones(self) -> None:
        shape = StackShape(kind="encoder", dim=8, encoder_layers=1, decoder_layers=1)
        with pytest.raises(ValueError, match=r"one of admin, .*post, pre, .*, but is 'sandwich'"):
            residual_style("sandwich", shape)

    def test_a_name_is_given_once(self) -> None:
        with pytest.raises(ValueError, match="'post' is registered already, by PostStyle"):
            register_style("post")(PreStyle)
        assert RESIDUAL_STYLES["post"] is PostStyle


def _sentences() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(4, 20, (2, 6)), torch.randint(4, 20, (2, 5))
