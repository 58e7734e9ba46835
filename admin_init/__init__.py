"""Admin, the initialization that lets deep Post-LN Transformers train (arXiv 2004.08249)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from admin_init._utils.version import __version__ as __version__
    from admin_init.adapters.discovery import find_sites
    from admin_init.adapters.patterns import SitePattern, named_sites
    from admin_init.admin_profile import AdminProfile, SiteProfile
    from admin_init.callbacks.admin_init import AdminInit
    from admin_init.callbacks.stability_monitor import StabilityMonitor
    from admin_init.errors import (
        AdminInitError,
        FoldError,
        NotPostLNError,
        ProfileError,
        TrainedModelError,
        UnsupportedModelError,
    )
    from admin_init.initialize import initialize_, parameter_groups
    from admin_init.profiling import profile
    from admin_init.rescale import apply_, fold_, install_

_HOME = {
    "AdminInit": "callbacks.admin_init",
    "AdminInitError": "errors",
    "AdminProfile": "admin_profile",
    "FoldError": "errors",
    "NotPostLNError": "errors",
    "ProfileError": "errors",
    "SitePattern": "adapters.patterns",
    "SiteProfile": "admin_profile",
    "StabilityMonitor": "callbacks.stability_monitor",
    "TrainedModelError": "errors",
    "UnsupportedModelError": "errors",
    "__version__": "_utils.version",
    "apply_": "rescale",
    "find_sites": "adapters.discovery",
    "fold_": "rescale",
    "initialize_": "initialize",
    "install_": "rescale",
    "named_sites": "adapters.patterns",
    "parameter_groups": "initialize",
    "profile": "profiling",
}

__all__ = [
    "AdminInit",
    "AdminInitError",
    "AdminProfile",
    "FoldError",
    "NotPostLNError",
    "ProfileError",
    "SitePattern",
    "SiteProfile",
    "StabilityMonitor",
    "TrainedModelError",
    "UnsupportedModelError",
    "apply_",
    "find_sites",
    "fold_",
    "initialize_",
    "install_",
    "named_sites",
    "parameter_groups",
    "profile",
]


def __getattr__(name: str) -> Any:
    # AdminInit needs Lightning, which takes seconds to import and is not needed for the rest.
    if name not in _HOME:
        raise AttributeError(f"module 'admin_init' has no attribute {name!r}")
    return getattr(importlib.import_module(f"admin_init.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
