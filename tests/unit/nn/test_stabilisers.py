"""Every residual style against its paper's formula, written out by hand."""

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from _helpers.native_models import build
from _helpers.perturb import perturb_
from torch import Tensor, nn

from admin_init import NotPostLNError, find_sites
from admin_init.nn import (
    RESIDUAL_STYLES,
)
from admin_init.nn.attention import Attention
from admin_init.nn.residual import ResidualConnection, ResiDualResidual

DEPTHS = {"encoder": (2, 3), "decoder": (3, 2), "encoder-only": (2, 0), "decoder-only": (0, 2)}
"""Encoder and decoder layers; the stack under test always has two."""


class SubLayer(NamedTuple):
    place: str
    f: Callable[[Tensor], Tensor]
    connection: Any


Formula = Callable[[list[SubLayer], Tensor, Any], Tensor]


def norm(x: Tensor, module: Any, eps: float = 1e-5) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * module.weight
    return scaled if module.bias is None else scaled + module.bias


def post(sublayers: list[SubLayer], x: Tensor, alpha: float) -> Tensor:
    for _, f, connection in sublayers:
        x = norm(alpha * x + f(x), connection.norm)
    return x


def admin(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    for _, f, connection in sublayers:
        x = norm(connection.skip.omega * x + f(x), connection.norm)
    return x


def pre(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    for _, f, connection in sublayers:
        x = x + f(norm(x, connection.norm))
    return norm(x, end.norm)


def rezero(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    for _, f, connection in sublayers:
        x = x + connection.gate.alpha * f(x)
    return x


def t_fixup(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    for _, f, _ in sublayers:
        x = x + f(x)
    return x


def layerscale(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    for _, f, connection in sublayers:
        x = x + connection.scale * f(norm(x, connection.norm))
    return norm(x, end.norm)


def b2t(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    for place, f, connection in sublayers:
        if place == "self_attn":
            layer_input = x
        x = norm(x + f(x) + (layer_input if place == "ffn" else 0), connection.norm)
    return x


def resi_dual(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    dual = x
    for _, f, connection in sublayers:
        branch = f(x)
        dual = dual + branch
        x = norm(x + branch, connection.norm)
    return x + norm(dual, end.norm, eps=1e-7)


def peri_ln(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    for _, f, connection in sublayers:
        x = x + norm(f(norm(x, connection.norm)), connection.output_norm)
    return norm(x, end.norm)


def lns(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    layer = 0
    for place, f, connection in sublayers:
        layer += place == "self_attn"
        x = x + f(norm(x, connection.norm) / math.sqrt(layer))
    return norm(x, end.norm)


def keel(sublayers: list[SubLayer], x: Tensor, end: Any) -> Tensor:
    """Section 3.1 of arXiv 2601.19895; in the decoder with our extension to cross-attention."""
    x = x + sublayers[0].f(norm(x, sublayers[0].connection.inner))
    in_first_layer = len(sublayers) // 2
    for _, f, connection in sublayers[1:in_first_layer]:
        x = norm(x + f(norm(x, connection.inner)), connection.norm)
    for _, f, connection in sublayers[in_first_layer:]:
        x = norm(len(sublayers) * x + f(norm(x, connection.inner)), connection.norm)
    assert all(connection.inner.bias is None for _, _, connection in sublayers)
    return x


FORMULAS: dict[str, Formula] = {
    "post": lambda sublayers, x, end: post(sublayers, x, 1.0),
    "pre": pre,
    "pre-share": pre,
    "admin": admin,
    "admin-share": admin,
    "admin-closed": admin,
    "admin-closed-constant": admin,
    "rezero": rezero,
    "t-fixup": t_fixup,
    "layerscale": layerscale,
    "sub-ln": pre,  # its branches differ, see below
    "b2t": b2t,
    "b2t-scaled": b2t,
    "resi-dual": resi_dual,
    "peri-ln": peri_ln,
    "lns": lns,
    "keel": keel,
}

POST_LN = {"post", "admin", "admin-share", "admin-closed", "admin-closed-constant"}
"""The styles that Admin is, or can be installed in."""

DEEPNORM_ALPHA = {
    "encoder": 0.81 * (2**4 * 3) ** (1 / 16),
    "decoder": (3 * 2) ** (1 / 4),
    "encoder-only": (2 * 2) ** (1 / 4),
    "decoder-only": (2 * 2) ** (1 / 4),
}


def sublayers_of(stack: Any, memory: Tensor, *, causal: bool) -> Iterator[SubLayer]:
    for layer in stack.layers:
        yield SubLayer(
            "self_attn", partial(layer.self_attn, causal=causal), layer.self_attn_residual
        )
        if hasattr(layer, "cross_attn"):
            cross = partial(layer.cross_attn, memory=memory)
            yield SubLayer("cross_attn", cross, layer.cross_attn_residual)
        yield SubLayer("ffn", layer.ffn, layer.ffn_residual)


@pytest.mark.parametrize("kind", DEPTHS)
@pytest.mark.parametrize("residual", sorted(RESIDUAL_STYLES))
def test_two_layers_are_the_formula(residual: str, kind: str) -> None:
    model = build(residual, *DEPTHS[kind]).double()
    perturb_(model)
    stack = model.get_submodule(kind.removesuffix("-only"))
    x, memory = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    sublayers = list(sublayers_of(stack, memory, causal="decoder" in kind))
    assert len(sublayers) == (6 if kind == "decoder" else 4)
    if residual == "deepnorm":
        expected = post(sublayers, x, DEEPNORM_ALPHA[kind])
    else:
        expected = FORMULAS[residual](sublayers, x, stack.end)
    arguments = (x, memory) if kind == "decoder" else (x,)
    torch.testing.assert_close(stack(*arguments), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(stack(*arguments), expected, rtol=1e-9, atol=1e-9)  # no state left


def test_every_style_has_its_formula() -> None:
    assert set(FORMULAS) | {"deepnorm"} == set(RESIDUAL_STYLES)


def test_sub_ln_has_norms_inside_its_branches() -> None:
    """Before the output projection, and after the FFN's activation; not in cross-attention."""
    model = build("sub-ln", 2, 3).double()
    plain = build("pre", 2, 3).double()
    perturb_(model)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    layer = model.encoder.layers[0]
    seen = plain.encoder.layers[0].self_attn
    seen.in_proj, seen.out_proj = layer.self_attn.in_proj, nn.Identity()
    attention = layer.self_attn.out_proj(norm(seen(x), layer.self_attn.inner_norm))
    torch.testing.assert_close(layer.self_attn(x), attention)
    hidden = norm(layer.ffn.fc1(x).relu(), layer.ffn.inner_norm)
    torch.testing.assert_close(layer.ffn(x), layer.ffn.fc2(hidden))
    assert all(layer.cross_attn.inner_norm is None for layer in model.decoder.layers)


def xavier(name: str, gain: float, dim: int = 128, ffn_dim: int = 512) -> float:
    """Standard deviation of Xavier's initialization."""
    fans = dim + ffn_dim if name in ("fc1", "fc2") else 2 * dim
    return gain * math.sqrt(2 / fans)


def standard_deviations(layer: Any) -> dict[tuple[str, str], float]:
    found = {}
    for place in ("self_attn", "cross_attn"):
        attention = getattr(layer, place, None)
        if isinstance(attention, Attention):
            for name, weight in attention.projections().items():
                found[place, name] = weight.std().item()
    for name in ("fc1", "fc2"):
        found["ffn", name] = getattr(layer.ffn, name).weight.std().item()
    return found


def deepnorm_gain(kind: str, n: int, m: int) -> float:
    """Of arXiv 2203.00555: .87, where torchscale's code has 1.15."""
    if not (n and m):
        return (8 * (n + m)) ** (-1 / 4)
    return 0.87 * (n**4 * m) ** (-1 / 16) if kind == "encoder" else (12 * m) ** (-1 / 4)


def sub_ln_gain(kind: str, n: int, m: int) -> float:
    """Of arXiv 2210.06423."""
    if not (n and m):
        return math.sqrt(math.log(2 * (n + m)))
    encoder = math.sqrt(math.log(3 * m) * math.log(2 * n) / 3)
    return encoder if kind == "encoder" else math.sqrt(math.log(3 * m))


STACKS = [
    ("encoder", 2, 6),
    ("decoder", 6, 2),
    ("encoder", 2, 0),
    ("decoder", 0, 2),
]


@pytest.mark.parametrize(("kind", "n", "m"), STACKS)
class TestInitialization:
    def layer(self, residual: str, kind: str, n: int, m: int) -> Any:
        model = build(residual, n, m, dim=128, ffn_dim=512)
        return model.get_submodule(kind).layers[1]

    def test_deepnorm(self, kind: str, n: int, m: int) -> None:
        gain = deepnorm_gain(kind, n, m)
        for (_, name), std in standard_deviations(self.layer("deepnorm", kind, n, m)).items():
            expected = xavier(name, 1.0 if name in ("query", "key") else gain)
            assert std == pytest.approx(expected, rel=0.03), name

    def test_sub_ln(self, kind: str, n: int, m: int) -> None:
        gain = sub_ln_gain(kind, n, m)
        untouched = standard_deviations(self.layer("pre", kind, n, m))
        found = standard_deviations(self.layer("sub-ln", kind, n, m))
        for (place, name), std in found.items():
            expected = xavier(name, 1.0 if name in ("query", "key") else gain)
            if place == "cross_attn":
                expected = untouched[place, name]
            assert std == pytest.approx(expected, rel=0.03), (place, name)

    def test_t_fixup(self, kind: str, n: int, m: int) -> None:
        """Encoder .67 N^(-1/4), decoder (9 M)^(-1/4), a stack alone as an encoder."""
        layers = n if kind == "encoder" else m
        scale = (9 * layers) ** -0.25 if kind == "decoder" and n else 0.67 * layers**-0.25
        for (_, name), std in standard_deviations(self.layer("t-fixup", kind, n, m)).items():
            gain = 2**-0.5 if name in ("query", "key") else scale
            assert std == pytest.approx(xavier(name, gain), rel=0.03), name

    def test_b2t_scaled(self, kind: str, n: int, m: int) -> None:
        plain = standard_deviations(self.layer("b2t", kind, n, m))
        scaled = standard_deviations(self.layer("b2t-scaled", kind, n, m))
        for key, std in scaled.items():
            assert std == pytest.approx(plain[key] * 2**-0.5, rel=1e-5)


@pytest.mark.parametrize(("sharing", "target_layers"), [("all", 3), ("target", 2), ("none", 2)])
def test_t_fixup_scales_each_embedding_once(sharing: str, target_layers: int) -> None:
    options = {"share_embeddings": sharing, "vocabulary_size": 2000}
    model = build("t-fixup", 3, 2, **options)
    source = model.encoder_embedding.tokens.weight.std().item()
    target = model.decoder_embedding.tokens.weight.std().item()
    assert source == pytest.approx(16**-0.5 * (9 * 3) ** -0.25, rel=0.03)
    assert target == pytest.approx(16**-0.5 * (9 * target_layers) ** -0.25, rel=0.03)
    one = build("t-fixup", 0, 2, vocabulary_size=2000).embedding.tokens.weight.std().item()
    assert one == pytest.approx(16**-0.5 * (9 * 2) ** -0.25, rel=0.03)


@pytest.mark.parametrize(
    ("layers", "start"),
    [(1, 0.1), (18, 0.1), (19, 1e-5), (24, 1e-5), (25, 1e-6), (36, 1e-6), (48, 1e-6)],
)
def test_layerscale_starts_smaller_in_deeper_stacks(layers: int, start: float) -> None:
    """The paper gives 18, 24, 36 and 48."""
    model = build("layerscale", layers, 1, dim=4, ffn_dim=4, heads=1)
    for stack, expected in ((model.encoder, start), (model.decoder, 0.1)):
        for connection in connections(stack):
            torch.testing.assert_close(connection.scale, torch.full((4,), expected))


def test_keel_counts_the_sublayers_of_its_stack() -> None:
    model = build("keel", 4, 3)
    assert [c.alpha for c in connections(model.encoder)] == [1, 1] + [8] * 6
    assert [c.alpha for c in connections(model.decoder)] == [1, 1, 1] + [9] * 6
    assert [c.alpha for c in connections(build("keel", 0, 3).decoder)] == [1, 1] + [6] * 4


def test_rezero_has_one_gate_a_layer_and_starts_as_the_identity() -> None:
    model = build("rezero", 3, 2)
    gates = [name for name, _ in model.named_parameters() if name.endswith("alpha")]
    assert len(gates) == 3 + 2
    x = torch.randn(2, 5, 16)
    assert torch.equal(model.encoder(x), x)
    moved = copy.deepcopy(model).to_empty(device="cpu")
    assert len([name for name, _ in moved.named_parameters() if name.endswith("alpha")]) == 5


def test_resi_dual_keeps_half_precision_in_its_range() -> None:
    """Of both terms of d; the branch that the Post-LN stream adds is not scaled."""
    x = torch.ones(1, 1, 8, dtype=torch.float16)
    state: dict[str, Tensor] = {}
    connection = ResiDualResidual(8).half()
    connection(x, lambda x: 10 * x, state)
    torch.testing.assert_close(state["dual"], torch.full_like(x, 0.05 * (1 + 10)))
    connection(x, lambda x: 10 * x, state)
    torch.testing.assert_close(state["dual"], torch.full_like(x, 0.05 * (1 + 10 + 10)))


@pytest.mark.parametrize(
    "residual",
    sorted(set(RESIDUAL_STYLES) - POST_LN),
)
def test_admin_does_not_rescale_another_stabiliser(residual: str) -> None:
    model = build(residual, 2, 2)
    with pytest.raises(NotPostLNError, match=type(connections(model)[0]).__name__):
        find_sites(model)


def connections(module: nn.Module) -> list[Any]:
    return [m for m in module.modules() if isinstance(m, ResidualConnection)]


@pytest.mark.parametrize("residual", sorted(RESIDUAL_STYLES))
def test_resetting_brings_every_start_back(residual: str) -> None:
    """Drawn again from the same seed, two models are equal whatever became of them before."""
    states = []
    for _ in range(2):
        model = build(residual, 2, 2)
        perturb_(model)
        torch.manual_seed(5)
        model.reset_parameters()
        states.append(model.state_dict())
    fresh = build(residual, 2, 2).state_dict()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
        if value.dim() < 2:  # norms, biases, gates, omegas: not drawn
            assert torch.equal(value, fresh[name]), name
