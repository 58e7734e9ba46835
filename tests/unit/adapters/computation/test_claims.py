"""Given sites, compared with what the model computes."""

import pytest
import torch
from _helpers.plain_post_ln import D, Stack, SubLayer
from torch import Tensor, nn

import admin_init
from admin_init import SitePattern, UnsupportedModelError
from admin_init.adapters.patterns import named_sites

PATTERN = SitePattern(branch="layers.*.outer", linear="layers.*.outer", norm="layers.*.norm")


class WithOthers(SubLayer):
    def __init__(self) -> None:
        super().__init__()
        self.other, self.second = nn.Linear(D, D), nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(super().forward(x) * self.other(x).sigmoid())
        return y


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            {"norm": "layers.*.second"},
            r"norm of `layers.0.outer` is given as `layers.0.second`, "
            r"but computed as `layers.0.norm`",
        ),
        ({"linear": "layers.*.other"}, r"another module than the `linear` of `layers.0.outer`"),
        (
            {"linear": "layers.*.inner", "branch": "layers.*.inner"},
            r"inner` returns .* cannot be the branch",
        ),
    ],
)
def test_another_norm_or_linear_is_an_error(
    pattern: dict[str, str], message: str, x: Tensor
) -> None:
    model = Stack(WithOthers)
    wrong = SitePattern(**{**vars(PATTERN), **pattern})
    with pytest.raises(admin_init.AdminInitError, match=message):
        admin_init.profile(model, [x], sites=[wrong])
    assert not any("omega" in key for key in model.state_dict())


def test_another_chain_is_an_error_that_shows_both(x: Tensor) -> None:
    class Parallel(Stack):
        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](x) + self.layers[1](x) + self.layers[2](x)

    message = (
        r"`layers.1.outer` is given as following `layers.0.outer`, but is computed as following no "
        r"other; .* leave `sites=` out"
    )
    with pytest.raises(UnsupportedModelError, match=message):
        admin_init.profile(Parallel(), [x], sites=[PATTERN])
    assert [site.omega for site in admin_init.profile(Parallel(), [x]).sites] == [1, 1, 1]


def test_a_branch_that_ends_in_no_linear_can_be_named_but_not_folded(x: Tensor) -> None:
    class Fourier(SubLayer):
        def __init__(self) -> None:
            super().__init__()
            self.mix = Mix()

        def branch(self, x: Tensor) -> Tensor:
            y: Tensor = self.mix(x)
            return y

    class Mix(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft2(x).real

    named = SitePattern(branch="layers.*.mix", norm="layers.*.norm")
    model = Stack(Fourier)
    wrong = SitePattern(branch="layers.*.mix", norm="layers.*.norm", linear="layers.*.outer")
    with pytest.raises(UnsupportedModelError, match=r"`linear` of `layers.0.mix` is not at the"):
        admin_init.profile(model, [x], sites=[wrong])
    profile = admin_init.initialize_(model, x, sites=[named])
    assert profile.sites[1].omega > 1
    with pytest.raises(admin_init.FoldError, match=r"`layers.1.mix` does not name the `linear`"):
        admin_init.fold_(model, sites=named_sites(model, [named]))
