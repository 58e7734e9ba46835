"""Connections that are not found, not served, or begin a chain of their own."""

from typing import Any

import pytest
import torch
from _helpers.plain_post_ln import (
    D,
    FunctionalNorm,
    Stack,
    SubLayer,
)
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import admin_init
from admin_init import NotPostLNError, UnsupportedModelError
from admin_init.adapters.discovery import find_sites


def names(model: nn.Module, x: Any, **options: Any) -> list[str]:
    return [site.name for site in find_sites(model, x, **options)]


class PreLN(SubLayer):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(self.norm(x))
        return y


def test_pre_ln_with_a_sum_in_place_in_a_copy(x: Tensor) -> None:
    class Copied(PreLN):
        def forward(self, x: Tensor) -> Tensor:
            branch = self.branch(self.norm(x))
            return x.clone().add_(branch)

    with pytest.raises(NotPostLNError, match=r"The 2 residual connections"):
        find_sites(nn.Sequential(Copied(), Copied()), x)


@pytest.mark.parametrize("depth", [1, 3])
def test_pre_ln_is_told_apart_though_a_norm_reads_its_last_sum(depth: int, x: Tensor) -> None:
    model = nn.Sequential(Stack(PreLN, depth), nn.LayerNorm(D))
    with pytest.raises(NotPostLNError, match=rf"The {depth} residual connections .* Pre-LN"):
        find_sites(model, x)
    both = nn.Sequential(Stack(PreLN), nn.LayerNorm(D), Stack(SubLayer))
    assert names(both, x) == [f"2.layers.{i}.outer" for i in range(3)]


def test_a_model_without_residual_connections_is_refused(x: Tensor) -> None:
    with pytest.raises(UnsupportedModelError, match=r"computes no residual connection"):
        find_sites(nn.Sequential(nn.Linear(D, D), nn.LayerNorm(D)), x)


def test_layers_side_by_side_are_chains_of_their_own(x: Tensor) -> None:
    class Parallel(Stack):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layers[0](x)
            return self.layers[1](x) * self.layers[2](x)

    trunk, left, right = sites = find_sites(Parallel(), x)
    assert left.previous is right.previous is trunk
    assert len({site.stack for site in sites}) == 2
    profile = admin_init.profile(model := Parallel(), [x])
    omegas = [site.omega for site in profile.sites]
    assert omegas[0] == 1
    assert omegas[1] == omegas[2] > 1
    admin_init.apply_(model, profile)
    assert [site.omega.mean().item() for site in find_sites(model) if site.omega is not None] == (
        pytest.approx(omegas)
    )


def test_what_is_left_out_is_named_with_the_reason(x: Tensor) -> None:
    class Shifted(Stack):
        def forward(self, x: Tensor) -> Tensor:
            x = self.layers[0](x)
            return self.layers[2](self.layers[1](x + 1 / (1 + x.detach().square())))

    reason = r"leaves 1 Post-LN connections .* `layers.1.outer`: its shortcut is computed from the"
    with pytest.warns(UserWarning, match=reason):
        assert names(Shifted(), x) == ["layers.0.outer", "layers.2.outer"]
    assert names(Shifted(), x, exclude=["layers.1"]) == ["layers.0.outer", "layers.2.outer"]
    with pytest.warns(UserWarning, match=reason):
        profile = admin_init.profile(Shifted(), [x])
    assert profile.left_out == ("layers.1.outer",)


def test_a_sum_of_three_terms_is_left_out(x: Tensor) -> None:
    class Parallel(SubLayer):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(D, D)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x + self.branch(x) + self.other(x))
            return y

    reason = r"`0.norm`: its sum has another term than x and f\(x\)"
    with pytest.warns(UserWarning, match=reason):
        assert names(nn.Sequential(Parallel(), SubLayer()), x) == ["1.outer"]


def test_a_sum_that_is_clamped_is_left_out(x: Tensor) -> None:
    class Clamped(SubLayer):
        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm((x + self.branch(x)).clamp(-100, 100))
            return y

    with pytest.warns(UserWarning, match="`0.norm`: its sum is clamped before the norm"):
        assert names(nn.Sequential(Clamped(), SubLayer()), x) == ["1.outer"]


def test_sums_without_a_module_of_their_own_are_counted(x: Tensor) -> None:
    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(D, D) / 4)
            self.layer = SubLayer()

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                x = nn.functional.layer_norm(x + x @ self.weight, (D,))
            y: Tensor = self.layer(x)
            return y

    reason = r"leaves 2 Post-LN connections .* `the model`: .*; `the model:2`: "
    with pytest.warns(UserWarning, match=reason):
        assert names(Functions(), x) == ["layer.outer"]


def test_torchscript_is_refused_or_named(x: Tensor) -> None:
    scripted = torch.jit.trace(nn.Sequential(SubLayer(), SubLayer()).eval(), x)
    with pytest.raises(UnsupportedModelError, match=r"compiled by TorchScript, .* before it is"):
        find_sites(scripted, x)
    with pytest.raises(UnsupportedModelError, match="compiled by TorchScript"):
        admin_init.initialize_(scripted, x)
    both = nn.ModuleDict({"scripted": scripted, "plain": SubLayer()})
    with pytest.warns(UserWarning, match=r"leaves . Post-LN connections .* `scripted`: it is comp"):
        sites = find_sites(both, x, forward=lambda model, x: model["plain"](model["scripted"](x)))
    assert [site.name for site in sites] == ["plain.outer"]
    half = nn.Sequential(torch.jit.trace(nn.Linear(D, D), x), SubLayer())
    assert names(half, x) == ["1.outer"]


def test_a_gate_is_no_factor_of_a_shortcut(x: Tensor) -> None:
    class Gated(SubLayer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.inner(x)[..., :D].sigmoid()

    reason = r"`1.outer`: its shortcut is computed from the output of the norm of `0.outer`, but"
    with pytest.warns(UserWarning, match=reason):
        assert names(nn.Sequential(Gated(), SubLayer()), x) == ["0.outer"]


def test_a_module_at_several_depths_is_refused(x: Tensor) -> None:
    class Universal(Stack):
        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](self.layers[0](self.layers[0](x)))

    with pytest.warns(UserWarning, match=r"`layers.0.norm`, runs 2 times in one pass"):
        assert names(Universal(), x) == ["layers.1.outer"]
    with pytest.raises(UnsupportedModelError, match=r"none of the 1 Post-LN .* runs 3 times"):
        find_sites(nn.Sequential(layer := SubLayer(), layer, layer), x)


def test_all_connections_whose_branches_end_in_one_module_are_left_out(x: Tensor) -> None:
    class Universal(Stack):
        def forward(self, x: Tensor) -> Tensor:
            return self.layers[1](self.layers[0](self.layers[0](x)))

    reason = r"`layers.0.outer`: its branch ends in the same module, `layers.0.outer`, as another"
    with pytest.warns(UserWarning, match=reason):
        assert names(Universal(FunctionalNorm), x) == ["layers.1.outer"]


def test_weights_that_a_pass_reads_twice_are_not_folded(x: Tensor) -> None:
    class Twice(SubLayer):
        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.1)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(x + self.dropout(self.branch(x)))
            return self.outer(y.repeat(1, 1, 2))

    admin_init.initialize_(model := nn.Sequential(SubLayer(), Twice()).eval(), x)
    expected = model(x)
    with pytest.raises(admin_init.FoldError, match=r"`1.dropout` .* read by several operations"):
        admin_init.fold_(model)
    assert torch.equal(model(x), expected)


def test_a_branch_that_is_read_elsewhere_is_left_out(x: Tensor) -> None:
    class Tapped(SubLayer):
        def forward(self, x: Tensor) -> Tensor:
            branch = self.branch(x)
            y: Tensor = self.norm(x + branch) * branch.sigmoid()
            return y

    with pytest.raises(UnsupportedModelError, match=r"its branch is also read elsewhere"):
        find_sites(Tapped(), x)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["layers.0"], ["layers.1.outer", "layers.2.outer"]),
        (["layers.[01]"], ["layers.2.outer"]),
        (["*.1.*", "layers.2.out*"], ["layers.0.outer"]),
        (["ayers.0"], ["layers.0.outer", "layers.1.outer", "layers.2.outer"]),
    ],
)
def test_patterns_leave_out_connections(x: Tensor, exclude: list[str], left: list[str]) -> None:
    assert names(Stack(), x, exclude=exclude) == left


def test_what_is_left_out_starts_a_new_chain(x: Tensor) -> None:
    profile = admin_init.profile(Stack(), [x], exclude=["layers.1"])
    assert [(site.name, site.omega) for site in profile.sites] == [
        ("layers.0.outer", 1),
        ("layers.2.outer", 1),
    ]
    model = Stack()
    assert len(admin_init.initialize_(model, x, exclude=["*.1.*"]).sites) == 2
    assert [name for name in model.state_dict() if name.endswith("omega")] == [
        "layers.0.outer.omega",
        "layers.2.outer.omega",
    ]
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(D, 2, D, batch_first=True), 2)
    kept = find_sites(layers, exclude=["layers.0.ffn"])
    assert [site.previous for site in kept] == [None, None, kept[1]]
    assert len(admin_init.profile(layers, [x], exclude=["layers.0.ffn"]).sites) == 3


def test_layers_of_known_families_keep_their_sites(x: Tensor) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(D, 2, D, batch_first=True)
            self.head = SubLayer()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.encoder(x))
            return y

    assert names(Both(), x, exclude=["head"]) == ["encoder.self_attn", "encoder.ffn"]
    assert names(Both(), x) == ["encoder.self_attn", "encoder.ffn", "head.outer"]
    profile = admin_init.profile(Both(), [x])
    assert 1 == profile.sites[0].omega < profile.sites[1].omega < profile.sites[2].omega


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_and_flow_that_depends_on_data(x: Tensor, reentrant: bool) -> None:
    class Checkpointed(Stack):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                if x.abs().max() > 0:
                    x = checkpoint(layer, x, use_reentrant=reentrant)
            return x

    assert names(Checkpointed(), x) == [f"layers.{i}.outer" for i in range(3)]


def test_a_forward_of_the_users_own(x: Tensor) -> None:
    model = Stack()
    found = names(model, {"input": x}, forward=lambda model, batch: model(batch["input"]).sum())
    assert found == names(model, x)
    assert names(model, (x,)) == names(model, {"x": x}) == found


def test_a_known_layer_whose_sum_is_read_elsewhere_is_an_error(x: Tensor) -> None:
    class Tapped(nn.TransformerEncoderLayer):
        def _ff_block(self, x: Tensor) -> Tensor:
            y = super()._ff_block(x)
            self.tap = (x + y).tanh()  # not the sum of the layer
            return y

    layer = Tapped(D, 2, D, batch_first=True)
    assert names(layer, x) == ["self_attn", "ffn"]
    layer.norm2 = nn.Sequential(nn.Linear(D, D), nn.LayerNorm(D))  # type: ignore[assignment]
    layer.norm2.weight = nn.Parameter(torch.ones(D))  # type: ignore[assignment]
    with pytest.raises(UnsupportedModelError, match=r"classes, `ffn` are Post-LN .*`exclude=`"):
        admin_init.profile(layer, [x])


def test_omega_has_the_type_of_the_weights_nearby(x: Tensor) -> None:
    class Bare(FunctionalNorm):
        """Neither the norm nor the end of the branch is a module with weights."""

        def __init__(self) -> None:
            super().__init__()
            self.dropout = nn.Dropout(0.1)

        def branch(self, x: Tensor) -> Tensor:
            y: Tensor = self.dropout(x @ self.inner.weight.T @ self.outer.weight.T)
            return y

    model = Stack(Bare).double()
    admin_init.initialize_(model, x.double())
    omegas = [value for name, value in model.state_dict().items() if name.endswith("omega")]
    assert [omega.dtype for omega in omegas] == [torch.float64] * 3


@pytest.mark.parametrize("rule", ["reference", "paper"])
def test_a_chain_begins_after_a_constant_sum(rule: Any, x: Tensor) -> None:
    class Queries(nn.Module):
        """A decoder of queries that are all zero, as in DETR."""

        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Cross(i) for i in range(4))

        def forward(self, memory: Tensor) -> Tensor:
            y = torch.zeros_like(memory)
            for layer in self.layers:
                y = layer(y, memory)
            return y

    class Cross(nn.Module):
        def __init__(self, i: int) -> None:
            super().__init__()
            self.mix, self.norm = nn.Linear(D, D, bias=False), nn.LayerNorm(D)
            self.reads_memory = i == 1

        def forward(self, y: Tensor, memory: Tensor) -> Tensor:
            branch = self.mix(y + memory * self.reads_memory)
            out: Tensor = self.norm(y + branch)
            return out

    with pytest.warns(UserWarning, match=r"sum of `layers.0.mix` is constant .* omega is 1"):
        profile = admin_init.profile(Queries(), [x], rule=rule)
    first, second, third, fourth = profile.sites
    assert first.variance == first.shortcut_variance == 0
    assert first.omega == second.omega == 1
    assert third.omega == pytest.approx(second.variance**0.5, rel=1e-5)
    assert fourth.omega > third.omega
