import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from admin_init.nn import RESIDUAL_STYLES, ResidualStyle, Transformer, TransformerConfig
from admin_init.nn.residual import (
    Branch,
    FinalNorm,
    Place,
    PostResidual,
    PostStyle,
    PreResidual,
    PreStyle,
    ResidualConnection,
    SkipConnection,
    StackEnd,
    StackShape,
    State,
    register_style,
    residual_style,
)
from admin_init.skip import ScaledSkip

Sketch = Callable[[type[ResidualStyle]], Transformer]
LayerByHand = Callable[[nn.Module, Tensor], Tensor]


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


def perturb_(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


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
        with pytest.raises(ValueError, match=r"one of admin, .*post, pre, but is 'sandwich'"):
            residual_style("sandwich", shape)

    def test_a_name_is_given_once(self) -> None:
        with pytest.raises(ValueError, match="'post' is registered already, by PostStyle"):
            register_style("post")(PreStyle)
        assert RESIDUAL_STYLES["post"] is PostStyle


# Sketches of other people's residual connections, to see that a style can say what they need.


class B2TResidual(PostResidual):
    def __init__(self, dim: int, place: Place) -> None:
        super().__init__(dim)
        self.place = place

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        if self.place == "self_attn":
            state["layer input"] = x
        total = self.skip(x, branch(x))
        return self.norm(total + state["layer input"] if self.place == "ffn" else total)


class B2TStyle(ResidualStyle):
    """arXiv 2206.00330."""

    def connection(self, layer: int, place: Place) -> ResidualConnection:
        return B2TResidual(self.shape.dim, place)


class SubLNStyle(PreStyle):
    """arXiv 2210.06423."""

    def inner_norm(self, layer: int, place: Place, width: int) -> nn.Module | None:
        return None if place == "cross_attn" else nn.LayerNorm(width)

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        gain = math.sqrt(math.log(2 * self.shape.encoder_layers))
        for layer in stack.layers:
            layer.self_attn.projections()["value"].mul_(gain)
            layer.ffn.fc1.weight.mul_(gain)


class ResiDualResidual(PostResidual):
    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        output = branch(x)
        state["dual"] = state.get("dual", x) + output
        return self.norm(self.skip(x, output))


class ResiDualEnd(StackEnd):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, state: State) -> Tensor:
        return x + self.norm(state["dual"])


class ResiDualStyle(ResidualStyle):
    """arXiv 2304.14802."""

    def connection(self, layer: int, place: Place) -> ResidualConnection:
        return ResiDualResidual(self.shape.dim)

    def end(self) -> StackEnd:
        return ResiDualEnd(self.shape.dim)


class ReZeroResidual(ResidualConnection):
    def __init__(self, alpha: nn.Parameter | float) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor, branch: Branch, state: State) -> Tensor:
        return x + self.alpha * branch(x)


class ReZeroStyle(ResidualStyle):
    """arXiv 2003.04887."""

    def connection(self, layer: int, place: Place) -> ResidualConnection:
        if place == "self_attn":
            self.alpha = nn.Parameter(torch.zeros(()))
        return ReZeroResidual(self.alpha)


class TFixupStyle(ResidualStyle):
    """Huang et al. 2020, in part."""

    def connection(self, layer: int, place: Place) -> ResidualConnection:
        return ReZeroResidual(1.0)

    def initialize_(self, stack: nn.Module, embedding: nn.Module | None) -> None:
        if embedding is not None:
            embedding.tokens.weight.mul_((9 * len(stack.layers)) ** -0.25)


@pytest.fixture
def sketch(monkeypatch: pytest.MonkeyPatch) -> Sketch:
    def register(style: type[ResidualStyle]) -> Transformer:
        monkeypatch.setitem(RESIDUAL_STYLES, "sketch", style)
        return build("sketch")

    return register


def _sentences() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randint(4, 20, (2, 6)), torch.randint(4, 20, (2, 5))


def every_parameter_has_a_gradient(model: Transformer) -> bool:
    model(*_sentences()).square().mean().backward()
    return all(p.grad is not None and p.grad.any() for p in model.parameters())


def encode_by_hand(model: Transformer, layer_by_hand: LayerByHand) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, 5, 16)
    expected = x
    for layer in model.encoder.layers:
        expected = layer_by_hand(layer, expected)
    return model.encoder(x), x, expected


class TestSketches:
    def test_b2t(self, sketch: Sketch) -> None:
        model = sketch(B2TStyle)
        perturb_(model)

        def layer_by_hand(layer: nn.Module, x: Tensor) -> Tensor:
            hidden = layer.self_attn_residual.norm(x + layer.self_attn(x))
            return layer.ffn_residual.norm(x + hidden + layer.ffn(hidden))

        output, _, expected = encode_by_hand(model, layer_by_hand)
        torch.testing.assert_close(output, expected)
        assert every_parameter_has_a_gradient(model)

    def test_sub_ln(self, sketch: Sketch) -> None:
        model = sketch(SubLNStyle)
        plain = build("pre")
        value = model.encoder.layers[0].self_attn.projections()["value"]
        bound = math.sqrt(6 / 32) / math.sqrt(2) * math.sqrt(math.log(6))
        assert 0.9 * bound < value.abs().max() <= bound * 1.0001
        perturb_(model)
        # By hand: a plain attention whose output projection is the norm and the projection.
        seen = plain.encoder.layers[0].self_attn

        def layer_by_hand(layer: nn.Module, x: Tensor) -> Tensor:
            attention, ffn = layer.self_attn, layer.ffn
            seen.in_proj, seen.out_proj = attention.in_proj, nn.Identity()
            heads = seen(layer.self_attn_residual.norm(x))
            x = x + attention.out_proj(attention.inner_norm(heads))
            inner = ffn.fc1(layer.ffn_residual.norm(x)).relu()
            assert ffn.inner_norm.normalized_shape == (24,)
            return x + ffn.fc2(ffn.inner_norm(inner))

        output, _, expected = encode_by_hand(model, layer_by_hand)
        torch.testing.assert_close(output, model.encoder.end.norm(expected))
        assert all(layer.cross_attn.inner_norm is None for layer in model.decoder.layers)
        assert every_parameter_has_a_gradient(model)

    def test_resi_dual(self, sketch: Sketch) -> None:
        model = sketch(ResiDualStyle)
        perturb_(model)
        branches = []

        def layer_by_hand(layer: nn.Module, x: Tensor) -> Tensor:
            branches.append(layer.self_attn(x))
            x = layer.self_attn_residual.norm(x + branches[-1])
            branches.append(layer.ffn(x))
            return layer.ffn_residual.norm(x + branches[-1])

        output, x, expected = encode_by_hand(model, layer_by_hand)
        torch.testing.assert_close(output, expected + model.encoder.end.norm(x + sum(branches)))
        assert torch.equal(model.encoder(x), output)  # nothing is left from the pass before
        assert every_parameter_has_a_gradient(model)

    def test_rezero_shares_a_scalar_within_a_layer(self, sketch: Sketch) -> None:
        model = sketch(ReZeroStyle)
        alphas = [p for name, p in model.named_parameters() if name.endswith("alpha")]
        assert len(alphas) == 3 + 2
        x = torch.randn(2, 5, 16)
        assert torch.equal(model.encoder(x), x)
        perturb_(model)
        assert every_parameter_has_a_gradient(model)

    @pytest.mark.parametrize(("sharing", "layers"), [("all", 3), ("target", 2), ("none", 2)])
    def test_t_fixup_scales_a_shared_embedding_once(
        self, sketch: Sketch, sharing: str, layers: int
    ) -> None:
        sketch(TFixupStyle)
        model = build("sketch", share_embeddings=sharing, vocabulary_size=400)
        source = model.encoder_embedding.tokens.weight.std().item()
        target = model.decoder_embedding.tokens.weight.std().item()
        assert source == pytest.approx(16**-0.5 * (9 * 3) ** -0.25, rel=0.05)
        assert target == pytest.approx(16**-0.5 * (9 * layers) ** -0.25, rel=0.05)
