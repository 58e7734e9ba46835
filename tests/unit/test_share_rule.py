"""Properties of the rule ``share``, measured by hooks of these tests."""

from __future__ import annotations

import copy
import math
import random
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from _helpers.plain_post_ln import SubLayer
from torch import Tensor, nn

import admin_init
from admin_init import AdminProfile
from admin_init.errors import ProfileError
from admin_init.nn import Transformer, TransformerConfig
from admin_init.scaled_skip import ScaledSkip

TOKENS = 60


def native(layers: int = 3, dim: int = 32, dropout: float = 0.1) -> nn.Module:
    """An encoder and a decoder whose sums are modules: the skip form."""
    return Transformer(
        TransformerConfig(
            vocabulary_size=TOKENS,
            dim=dim,
            ffn_dim=4 * dim,
            heads=4,
            encoder_layers=layers,
            decoder_layers=layers,
            dropout=dropout,
            residual="admin-share",
        )
    )


def plain() -> nn.Module:
    """Layers that this package does not know: the branch form."""
    return nn.Sequential(*(SubLayer() for _ in range(8)))


def batch_of(model: nn.Module) -> tuple[Tensor, ...]:
    if isinstance(model, Transformer):
        return torch.randint(4, TOKENS, (6, 9)), torch.randint(4, TOKENS, (6, 11))
    return (3 * torch.randn(12, 5, 16, dtype=torch.float64),)


def norms(model: nn.Module) -> list[nn.LayerNorm]:
    return [module for module in model.modules() if isinstance(module, nn.LayerNorm)]


def scale_branches_(model: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.rpartition(".")[0].endswith(("out_proj", "fc2", "outer")):
                weight.mul_(factor)


def states(model: nn.Module, batch: tuple[Tensor, ...]) -> list[Tensor]:
    """The outputs of all norms in one pass in train mode."""
    found: list[Tensor] = []
    with ExitStack() as hooks, torch.no_grad():
        for norm in norms(model):
            handle = norm.register_forward_hook(lambda _, __, output: found.append(output))
            hooks.callback(handle.remove)
        torch.manual_seed(5)
        model.train()(*batch)
    return found


@pytest.mark.parametrize(
    ("factor", "eps", "eps_of_scaled", "close"),
    [
        (5.0, 0.0, 0.0, 1e-9),
        (0.25, 0.0, 0.0, 1e-9),
        (5.0, 1e-5, 1e-5, 1e-4),
        # Beside smaller branches the same eps is larger.
        (0.25, 1e-5, 1e-5, 1e-3),
        (0.25, 1e-5, 1e-5 * 0.25**2, 1e-9),
    ],
)
@pytest.mark.parametrize("share", [0.25, 0.75])
@pytest.mark.parametrize("build", [native, plain])
def test_the_size_of_the_branches_changes_no_state(
    build: Callable[[], nn.Module],
    share: float,
    factor: float,
    eps: float,
    eps_of_scaled: float,
    close: float,
) -> None:
    if build is plain:  # x + f / omega has one size whatever that of f
        eps_of_scaled, close = eps, 1e-9
    torch.manual_seed(1)
    model = build().double()
    batch = batch_of(model)
    scaled = copy.deepcopy(model)
    scale_branches_(scaled, factor)
    found = []
    for one, own_eps in ((model, eps), (scaled, eps_of_scaled)):
        for norm in norms(one):
            norm.eps = own_eps
        torch.manual_seed(5)
        found.append(admin_init.initialize_(one, batch, rule="share", share=share))
    for site, other in zip(found[0].sites, found[1].sites, strict=True):
        assert other.omega == pytest.approx(factor * site.omega, rel=close)
    for before, after in zip(states(model, batch), states(scaled, batch), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=close)


@pytest.mark.parametrize("rule", ["reference", "log"])
def test_the_other_rules_do_not_keep_the_states(rule: Any) -> None:
    torch.manual_seed(1)
    model = native().double()
    batch = batch_of(model)
    scaled = copy.deepcopy(model)
    scale_branches_(scaled, 5.0)
    for one in (model, scaled):
        torch.manual_seed(5)
        admin_init.initialize_(one, batch, rule=rule)
    last, others = states(model, batch)[-1], states(scaled, batch)[-1]
    assert (last - others).abs().max() > 0.1


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_input_has_its_share_of_the_variance_of_the_stream(
    share: float, dtype: torch.dtype
) -> None:
    torch.manual_seed(2)
    model = native().to(dtype)
    batch = batch_of(model)
    torch.manual_seed(5)
    profile = admin_init.initialize_(model, batch, rule="share", share=share)
    sums: dict[str, list[tuple[Tensor, Tensor]]] = {"encoder": [], "decoder": []}
    with ExitStack() as hooks, torch.no_grad():
        for name, skip in model.named_modules():
            if isinstance(skip, ScaledSkip):
                terms = sums[name.partition(".")[0]]
                handle = skip.register_forward_hook(
                    lambda module, args, _, terms=terms: terms.append(
                        (module.omega * args[0], args[1])
                    )
                )
                hooks.callback(handle.remove)
        torch.manual_seed(5)
        model.train()(*batch)
    for stack in ("encoder", "decoder"):
        given = sums[stack][0][0].var(correction=0).item()
        added = sum(branch.var(correction=0).item() for _, branch in sums[stack])
        assert given / (given + added) == pytest.approx(share, rel=1e-3)
        total = given
        omegas = [site.omega for site in profile.sites if site.stack == stack]
        for omega, (_, branch) in zip(omegas[1:], sums[stack], strict=False):
            total += branch.var(correction=0).item()
            assert omega == pytest.approx(math.sqrt(total), rel=1e-4)


def test_the_passes_are_counted_shown_and_saved(tmp_path: Any) -> None:
    torch.manual_seed(3)
    model = native(dropout=0.0)
    profile = admin_init.profile(model, [batch_of(model)], rule="share", share=0.25)
    assert 3 <= profile.passes <= 10
    assert f"rule:share|share:0.25|passes:{profile.passes}|batches:1" in profile.signature
    assert (
        admin_init.profile(model.double(), [batch_of(model)], rule="share").passes > profile.passes
    )
    profile.save(tmp_path / "profile.json")
    assert AdminProfile.load(tmp_path / "profile.json") == profile
    values = profile.to_dict()
    added = ("share", "passes", "initial_shares")
    earlier = {name: value for name, value in values.items() if name not in added}
    assert AdminProfile.from_dict({**earlier, "rule": "reference"}).passes == 1
    del values["passes"]
    with pytest.raises(ProfileError, match="`passes` is missing"):
        AdminProfile.from_dict(values)
    values = profile.to_dict()
    with pytest.raises(ProfileError, match=r"`share` belongs to"):
        AdminProfile.from_dict({**values, "rule": "paper"})


def test_nothing_of_the_model_is_changed_by_a_profile() -> None:
    torch.manual_seed(4)
    model = native()
    batch = batch_of(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    admin_init.profile(model, [batch], rule="share")
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_several_batches_are_averaged() -> None:
    torch.manual_seed(5)
    model = native(dropout=0.0)
    batches = [batch_of(model) for _ in range(3)]
    alone = [admin_init.profile(model, [batch], rule="share") for batch in batches]
    together = admin_init.profile(model, batches, rule="share")
    assert together.batches == 3
    assert together.passes == max(one.passes for one in alone)
    for index, site in enumerate(together.sites):
        mean = sum(one.sites[index].variance for one in alone) / 3
        assert site.variance == pytest.approx(mean, rel=1e-6)


def test_a_constant_input_is_named_and_left_out_of_the_chain() -> None:
    torch.manual_seed(6)
    model = plain().double()
    zeros = torch.zeros(4, 16, dtype=torch.float64)

    class Queries(nn.Module):
        """Queries that are all zero, as in DETR, and a term that differs between them."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.rest = SubLayer(), model
            self.positions = nn.Parameter(torch.randn(4, 16, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.rest(self.first.norm(x + self.first.branch(x + self.positions)))
            return y

    queries = Queries().double()
    with pytest.warns(UserWarning, match=r"The input of `first.outer` is constant on this batch"):
        profile = admin_init.profile(queries, [zeros], rule="share", share=0.5)
    assert profile.sites[0].omega == 1
    branches = sum(site.variance for site in profile.sites[1:])
    second = profile.sites[1]
    assert second.omega**2 * second.shortcut_variance == pytest.approx(branches)


def test_random_numbers_that_no_seed_repeats_are_named() -> None:
    generator = random.SystemRandom()

    class Noisy(SubLayer):
        def branch(self, x: Tensor) -> Any:
            return super().branch(x) * generator.uniform(0.5, 2)

    torch.manual_seed(7)
    model = nn.Sequential(*(Noisy() for _ in range(3)))
    with pytest.warns(UserWarning, match=r"have not settled after 20 passes: that of `\d.outer`"):
        admin_init.profile(model, [torch.randn(8, 16)], rule="share")


def test_a_forked_chain_has_at_least_its_share_in_every_branch() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(*(SubLayer() for _ in range(2)))
            self.left = nn.Sequential(*(SubLayer() for _ in range(3)))
            self.right = SubLayer()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.trunk(x)
            return self.left(x), self.right(x)

    torch.manual_seed(8)
    model = Forked().double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        profile = admin_init.profile(model, [3 * torch.randn(32, 16).double()], rule="share")
    sites = {site.name: site for site in profile.sites}
    first = sites["trunk.0.outer"]
    scaled = first.omega**2 * first.shortcut_variance
    trunk = first.variance + sites["trunk.1.outer"].variance
    left = sum(sites[f"left.{i}.outer"].variance for i in range(3))
    assert scaled == pytest.approx(trunk + left)
    assert sites["right.outer"].omega == pytest.approx(math.sqrt(scaled + trunk))
