"""How far apart two results are, to the one digit that docs/support.md has room for."""

from collections.abc import Sequence

from torch import Tensor

from admin_init import AdminProfile


def outputs_apart(found: Tensor, expected: Tensor) -> str:
    """Return the largest difference, in parts of the largest output."""
    return f"{(found - expected).abs().max() / expected.abs().max():.1g}"


def omegas_apart(profile: AdminProfile, expected: Sequence[float]) -> str:
    """Return the largest difference of an omega, in parts of it."""
    pairs = zip(profile.sites, expected, strict=True)
    return f"{max(abs(site.omega / omega - 1) for site, omega in pairs):.1g}"
