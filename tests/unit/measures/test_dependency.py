from pathlib import Path

import numpy as np
import pytest
import torch

from admin_init import AdminProfile, SiteProfile
from admin_init.measures.dependency import profile_dependency
from admin_init.measures.figures import dependency_figure


def a_profile(
    variances: list[float], omegas: list[float], shortcut: list[float] | None = None
) -> AdminProfile:
    shortcut = shortcut or [1.0] * len(variances)
    return AdminProfile(
        sites=tuple(
            SiteProfile(f"layers.{i}", "encoder", variance, omega, 10, x)
            for i, (variance, omega, x) in enumerate(zip(variances, omegas, shortcut, strict=True))
        )
    )


def test_shares_of_plain_post_ln_by_hand() -> None:
    # Var[f] = 1 throughout: every norm halves the variance of what came before.
    beta = profile_dependency(a_profile([1, 1, 1], [1, 1, 1]), "encoder")
    np.testing.assert_allclose(
        beta**2, [[1 / 2, 1 / 2, 0, 0], [1 / 4, 1 / 4, 1 / 2, 0], [1 / 8, 1 / 8, 1 / 4, 1 / 2]]
    )


def test_admin_gives_all_branches_the_same_share() -> None:
    # Var[f] = 1 and omega_i = sqrt(i): the newest branch weighs no more than the oldest.
    n = 20
    beta = profile_dependency(a_profile([1.0] * n, [(i + 1) ** 0.5 for i in range(n)]), "encoder")
    np.testing.assert_allclose(beta[-1] ** 2, np.full(n + 1, 1 / (n + 1)))


def test_shares_are_those_of_independent_branches() -> None:
    torch.manual_seed(0)
    variances, omegas, samples = [0.5, 2.0, 0.1], [1.0, 1.4, 3.0], 200_000
    embedding = 1.5 * torch.randn(samples, dtype=torch.float64)
    branches = [v**0.5 * torch.randn(samples, dtype=torch.float64) for v in variances]
    x = embedding
    for omega, branch in zip(omegas, branches, strict=True):
        b = omega * x + branch
        x = b / b.std(correction=0)
    terms = torch.stack([embedding, *branches])
    measured = torch.linalg.lstsq(terms.T, x[:, None]).solution[:, 0] * terms.std(1)
    profile = a_profile(variances, omegas, shortcut=[1.5**2, 1.0, 1.0])
    np.testing.assert_allclose(profile_dependency(profile, "encoder")[-1], measured, rtol=0.02)


def test_the_shares_of_every_output_add_up_to_one() -> None:
    beta = profile_dependency(a_profile([0.3, 2.0, 5.0], [1.0, 2.0, 0.7], [4.0, 1, 1]), "encoder")
    np.testing.assert_allclose((beta**2).sum(1), 1)


def test_an_unknown_stack_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"must be one of \['encoder'\], but is 'decoder'"):
        profile_dependency(a_profile([1.0], [1.0]), "decoder")


def test_the_figure_shows_every_stack(tmp_path: Path) -> None:
    one = a_profile([1.0] * 12, [1.0] * 12)
    other = [SiteProfile("x", "decoder", 1.0, 1.0, 10)]
    figure = dependency_figure(AdminProfile(sites=(*one.sites, *other)))
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert [title.split(":")[0] for title in titles] == ["encoder", "decoder"]
    shown = figure.axes[0].images[0].get_array()
    assert shown is not None
    np.testing.assert_allclose(np.ma.filled(shown, 0), profile_dependency(one, "encoder"))
    figure.savefig(tmp_path / "figure.png")
